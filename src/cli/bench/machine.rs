//! Where and with what it was measured: the first JSON line and the first lines people see.
//!
//! Read once, before anything is measured. What cannot be found out is `null`: no figure is held
//! back because a file in /sys is missing.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use ringwire::time::wall_ns;
use serde::Serialize;

use super::harness::allowed_cores;
use super::link::LOOPBACK_CONGESTION;
use super::plan::{Cores, Suite};
use super::processor;

/// The machine line.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    scenario: &'static str,
    kernel: Option<String>,
    cpu: Option<String>,
    cores: usize,
    pub(super) cores_allowed: usize,
    #[serde(flatten)]
    pinned: Pinned,
    governor: Option<String>,
    clock_source: Option<String>,
    /// What the connections have.
    congestion_control: String,
    congestion_control_system: Option<String>,
    mitigations: Option<String>,
    version: &'static str,
    /// Of the working tree this was built in, as it is when it runs; ends in `+` when its sources
    /// have been changed.
    commit: Option<String>,
    rustc: Option<&'static str>,
    profile: Option<&'static str>,
    command: String,
    date: String,
}

/// The cores of the two ends.
#[derive(Debug, Serialize)]
struct Pinned {
    core_server: usize,
    core_client: usize,
}

impl Machine {
    pub(super) fn look(suite: &Suite) -> Self {
        let plan = &suite.plans[0];
        let Cores { server, client, .. } = plan.cores;
        let cpu = "/sys/devices/system/cpu";
        let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let congestion = "/proc/sys/net/ipv4/tcp_congestion_control";
        let configured = plan.config.tcp_congestion().map(str::to_owned);
        Self {
            scenario: "machine",
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: processor::model().or_else(|| Some(std::env::consts::ARCH.to_owned())),
            cores: cores_online(),
            cores_allowed: allowed_cores().map_or(1, |cores| cores.len()),
            pinned: Pinned { core_server: server, core_client: client },
            governor: read(format!("{cpu}/cpu{client}/cpufreq/scaling_governor")),
            clock_source: read(clock),
            congestion_control: configured.unwrap_or_else(|| LOOPBACK_CONGESTION.into()),
            congestion_control_system: read(congestion),
            mitigations: mitigations(&format!("{cpu}/vulnerabilities")),
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(Path::new(env!("CARGO_MANIFEST_DIR"))),
            rustc: option_env!("RINGWIRE_RUSTC"),
            profile: option_env!("RINGWIRE_PROFILE"),
            command: command_line(),
            date: utc(wall_ns() / 1_000_000_000),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        let Pinned { core_server, core_client } = self.pinned;
        writeln!(
            f,
            "ringwire {} on {}, Linux {}",
            self.version,
            known(&self.cpu),
            known(&self.kernel)
        )?;
        writeln!(
            f,
            "{} cores (server on {core_server}, client on {core_client}), governor {}, clock {}, \
             {} (system: {})",
            self.cores,
            known(&self.governor),
            known(&self.clock_source),
            self.congestion_control,
            known(&self.congestion_control_system),
        )?;
        writeln!(
            f,
            "A round trip is two frames; CPU time and calls are those of both ends together."
        )?;
        writeln!(f, "enters: io_uring_enter(2). direct: send(2) and recv(2) past the ring.")
    }
}

/// A file of one line.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn cores_online() -> usize {
    let online = processor::cpuinfo("processor").len();
    if online > 0 { online } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// The mitigations in force, which make every system call dearer, as `name: what`.
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

/// The commit of the checkout this was built from, while it is still there.
fn commit(folder: &Path) -> Option<String> {
    let built_in = || option_env!("RINGWIRE_COMMIT").map(str::to_owned);
    // Sources unpacked inside somebody else's repository are not of that repository's commit.
    let top = git(folder, &["rev-parse", "--show-toplevel"]);
    if top.is_none_or(|top| Path::new(&top) != folder) {
        return built_in();
    }
    let Some(commit) = git(folder, &["rev-parse", "--short=12", "HEAD"]) else {
        return built_in();
    };
    // Results are no change of the sources, and neither is any other file that git does not know: a
    // module of its own has a line in one that git knows.
    let sources = ["src", "Cargo.toml", "Cargo.lock", "build.rs"];
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let status = git(folder, &[&status[..], &sources[..]].concat());
    let changed = status.is_some_and(|text| !text.is_empty());
    Some(if changed { commit + "+" } else { commit })
}

/// What git says of a checkout.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    output.status.success().then_some(text)
}

fn command_line() -> String {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    words.map(|word| without_folder(&word).into_owned()).collect::<Vec<_>>().join(" ")
}

/// Of an absolute path, by itself or the value of an option, the file's name: where it lies is this
/// machine's, and a record may travel.
fn without_folder(word: &str) -> Cow<'_, str> {
    match word.find('/') {
        Some(at) if at == 0 || (word.starts_with("--") && word[..at].ends_with('=')) => {
            let (_, name) = word.rsplit_once('/').expect("it has been found");
            Cow::Owned(word[..at].to_owned() + name)
        }
        _ => Cow::Borrowed(word),
    }
}

/// Seconds since 1970 as RFC 3339, UTC. The algorithm is Howard Hinnant's `civil_from_days`.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months counted from March, so that the leap day is the last of its year.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn records_do_not_say_where_things_lie() {
        let line = "/a/ringwire target/ringwire bench --json=/a/b/day.jsonl --variant=1/s 1/s";
        let shown: Vec<_> = line.split(' ').map(without_folder).collect();
        let expected = "ringwire target/ringwire bench --json=day.jsonl --variant=1/s 1/s";
        assert_eq!(shown.join(" "), expected);
    }

    /// A repository with one commit of two sources and a document.
    fn repository() -> PathBuf {
        // As git names it, which follows links.
        let folder = std::env::temp_dir().canonicalize().expect("there is one");
        let folder = folder.join(format!("ringwire-bench-{}-git", std::process::id()));
        // What a run that was killed has left.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("src")).expect("a folder");
        for file in ["src/lib.rs", "build.rs", "README.md"] {
            fs::write(folder.join(file), "old").expect("a file");
        }
        let own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "first"]] {
            git(&folder, &[&own[..], words].concat()).expect("git is there");
        }
        folder
    }

    #[test]
    fn only_changed_sources_mark_a_commit() {
        let folder = repository();
        let of = || commit(&folder).expect("a commit");
        let clean = of();
        assert_eq!(clean.len(), 12, "{clean}");
        let check = |file: &str, is_change| {
            fs::write(folder.join(file), "new").expect("a file");
            assert_eq!(of().ends_with('+'), is_change, "{file}");
        };
        check("today.jsonl", false);
        check("src/notes.txt", false);
        check("README.md", false);
        for source in ["src/lib.rs", "build.rs"] {
            check(source, true);
            git(&folder, &["checkout", "-q", "--", source]).expect("as it was");
            assert_eq!(of(), clean, "{source}");
        }
        fs::remove_dir_all(&folder).expect("made above");
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(utc(4_102_444_800), "2100-01-01T00:00:00Z");
    }
}
