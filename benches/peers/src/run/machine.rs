//! Where and with what it was measured: the first JSON line of a run, with the keys of
//! `ringwire bench --json` and the versions of all subjects.
//!
//! What can not be found out is `null`: no figure is held back because a file in /sys is missing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use super::cores::{Cores, siblings_of};
use super::processor;
use super::record::Who;
use crate::subjects::LOOPBACK_CONGESTION;

/// The machine line.
#[derive(Debug, Serialize)]
pub struct Machine {
    scenario: &'static str,
    kernel: Option<String>,
    cpu: Option<String>,
    cores: usize,
    cores_allowed: usize,
    core_server: usize,
    core_client: usize,
    governor: Option<String>,
    clock_source: Option<String>,
    /// What Ringwire and the floors have over loopback.
    congestion_control: &'static str,
    /// What peers have.
    congestion_control_system: Option<String>,
    mitigations: Option<String>,
    version: Option<&'static str>,
    /// Of the working tree this was built in, as it is when it runs; ends in `+` when its sources
    /// have been changed.
    commit: Option<String>,
    rustc: Option<&'static str>,
    profile: Option<&'static str>,
    command: String,
    date: Option<String>,
    /// All cores of the server and the client, where they have several.
    cores_server: Vec<usize>,
    cores_client: Vec<usize>,
    /// The hyper-threads of the first of each; empty where that is not known.
    siblings_server: Vec<usize>,
    siblings_client: Vec<usize>,
    /// By subject.
    versions: BTreeMap<String, String>,
}

impl Machine {
    pub fn look(cores: &Cores, subjects: &[Who]) -> Self {
        let cpu = "/sys/devices/system/cpu";
        let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let client = cores.client[0];
        let versions = subjects
            .iter()
            .filter_map(|who| Some((who.name.clone(), who.version.clone()?)))
            .collect();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        Self {
            scenario: "machine",
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: processor::model(),
            cores: processor::cpuinfo("processor").len(),
            cores_allowed: cores.allowed,
            core_server: cores.server[0],
            core_client: client,
            governor: read(format!("{cpu}/cpu{client}/cpufreq/scaling_governor")),
            clock_source: read(clock),
            congestion_control: LOOPBACK_CONGESTION,
            congestion_control_system: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            mitigations: mitigations(&format!("{cpu}/vulnerabilities")),
            version: crate::subjects::version_of("ringwire"),
            commit: commit(&root),
            rustc: option_env!("PEERS_RUSTC"),
            profile: option_env!("PEERS_PROFILE"),
            command: command_line(std::env::args()),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            cores_server: cores.server.clone(),
            cores_client: cores.client.clone(),
            siblings_server: siblings_of(cores.server[0]),
            siblings_client: siblings_of(client),
            versions,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        format!(
            "ringwire {} ({}) and peers on {}, Linux {}\n\
             {} cores (server on {:?}, client on {:?}), governor {}, clock {}; {}\n\
             TCP has {} where it is Ringwire's or a floor's, {} (the system's) where a peer's\n\
             {}\n",
            self.version.unwrap_or("?"),
            known(&self.commit),
            known(&self.cpu),
            known(&self.kernel),
            self.cores,
            self.cores_server,
            self.cores_client,
            known(&self.governor),
            known(&self.clock_source),
            known(&self.date),
            self.congestion_control,
            known(&self.congestion_control_system),
            self.command,
        )
    }
}

/// How this was called, without the folders of absolute paths: where things lie is this machine's,
/// and a record may travel.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let shown = |word: String| match word.find('/') {
        // A path by itself, or the value of an option.
        Some(at) if at == 0 || (word.starts_with("--") && word[..at].ends_with('=')) => {
            let (_, name) = word.rsplit_once('/').expect("it has been found");
            word[..at].to_owned() + name
        }
        _ => word,
    };
    words.map(shown).collect::<Vec<_>>().join(" ")
}

/// A file of one line.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The mitigations in force, which make every system call dearer.
fn mitigations(folder: &str) -> Option<String> {
    let mut names: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|e| e.file_name()).collect();
    names.sort();
    let one = |name: &std::ffi::OsString| {
        let text = read(Path::new(folder).join(name))?;
        let what = text.strip_prefix("Mitigation: ")?.to_owned();
        Some(format!("{}: {what}", name.to_string_lossy()))
    };
    let found: Vec<String> = names.iter().filter_map(one).collect();
    Some(if found.is_empty() { "none".into() } else { found.join("; ") })
}

fn commit(folder: &Path) -> Option<String> {
    let folder = folder.to_str()?;
    let commit = output("git", &["-C", folder, "rev-parse", "--short=12", "HEAD"])?;
    // Results are no change of the sources, wherever they are kept, and neither is any other file
    // that git does not know: a module of its own has a line in one that git knows.
    let sources = ["src", "Cargo.toml", "Cargo.lock", "benches/peers", ":!benches/peers/README.md"];
    let status = ["-C", folder, "status", "--porcelain", "--untracked-files=no", "--"];
    let status = [&status[..], &sources[..]].concat();
    let changed = output("git", &status).is_some_and(|text| !text.is_empty());
    Some(if changed { commit + "+" } else { commit })
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    output.status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_do_not_say_where_things_lie() {
        let line = "/a/peers run benches/x --text=/a/b/day.txt --json /a/day.jsonl --rate=1/2";
        let shown = command_line(line.split(' ').map(str::to_owned));
        let expected = "peers run benches/x --text=day.txt --json day.jsonl --rate=1/2";
        assert_eq!(shown, expected);
    }

    /// Peers have another than Ringwire and the floors.
    #[test]
    fn congestion_control_of_either_side_is_told() {
        let cores = Cores { server: vec![0], client: vec![0], allowed: 1 };
        let system = Some("bbr".to_owned());
        let machine = Machine { congestion_control_system: system, ..Machine::look(&cores, &[]) };
        let line = serde_json::to_string(&machine).expect("serialises");
        let keys = "\"congestion_control\":\"reno\",\"congestion_control_system\":\"bbr\"";
        assert!(line.contains(keys), "{line}");
        let text = machine.text();
        let said = "TCP has reno where it is Ringwire's or a floor's, bbr (the system's) where";
        assert!(text.contains(said), "{text}");
    }

    /// A repository with one commit of `src/lib.rs`.
    fn repository() -> std::path::PathBuf {
        let folder =
            std::env::temp_dir().join(format!("ringwire-peers-{}-git", std::process::id()));
        // What a run that was killed has left.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("src")).expect("a folder");
        fs::create_dir_all(folder.join("benches/peers")).expect("a folder");
        fs::write(folder.join("src/lib.rs"), "old").expect("a file");
        fs::write(folder.join("benches/peers/README.md"), "old").expect("a file");
        let path = folder.to_str().expect("UTF-8");
        let own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "first"]] {
            let words = [&["-C", path], &own[..], words].concat();
            output("git", &words).expect("git is there");
        }
        folder
    }

    #[test]
    fn only_changed_sources_mark_a_commit() {
        let folder = repository();
        let of = || commit(&folder).expect("a commit");
        let clean = of();
        assert_eq!(clean.len(), 12, "{clean}");
        for (file, is_change) in [
            ("benches/peers/today-peers.jsonl", false),
            ("src/notes.txt", false),
            ("benches/peers/README.md", false),
            ("src/lib.rs", true),
        ] {
            fs::write(folder.join(file), "new").expect("a file");
            assert_eq!(of().ends_with('+'), is_change, "{file}");
        }
        fs::remove_dir_all(&folder).expect("made above");
    }
}
