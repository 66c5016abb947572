//! Finding registries: which files there are, whose they are, and what changed since last time.
//!
//! A file that goes while it is looked at is no error: its process has ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ringwire::Snapshot;
use ringwire::stats::{RegistryError, Statistics, WriterState, directories, files};

/// Which registries are meant.
#[derive(Debug, Clone, Args)]
pub(super) struct Selection {
    /// Whose: a process id, the node's or program's name or a part of it, or a registry file.
    ///
    /// A process id or a whole name wins over parts of names, and running nodes over dead ones of
    /// the same name.
    #[arg(value_name = "WHO")]
    pub(super) who: Option<String>,

    /// Look for registries here [default: the runtime directories; see --help].
    ///
    /// Without it: $XDG_RUNTIME_DIR/ringwire, /run/user/UID/ringwire, /dev/shm/ringwire-UID and
    /// /tmp/ringwire-UID, where nodes put them unless `registry_directory` says otherwise: that of
    /// the file given with --config is looked into instead.
    #[arg(long = "dir", value_name = "DIR")]
    pub(super) directories: Vec<PathBuf>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Readable, the running ones first, each group by name.
    pub(super) snapshots: Vec<Snapshot>,
    /// Files that could not be read, and why.
    pub(super) failures: Vec<RegistryError>,
}

impl Selection {
    /// Where the configuration has nodes put their registries, unless a place was named.
    pub(super) fn or_in(mut self, directory: Option<&Path>) -> Self {
        if self.directories.is_empty() {
            self.directories.extend(directory.map(Path::to_path_buf));
        }
        self
    }

    /// Reads all that is meant.
    pub(super) fn read(&self) -> Found {
        let mut found = Found::default();
        for (_, outcome) in self.looks() {
            match outcome {
                Ok(snapshot) => found.snapshots.push(snapshot),
                // There soon, or never: nothing that an operator has to know of.
                Err(RegistryError::BeingCreated { .. }) if !self.is_file() => {}
                Err(error) => found.failures.push(error),
            }
        }
        if self.who.is_some() && !self.is_file() {
            let running = found.snapshots.iter().filter(|snapshot| runs(snapshot));
            let names: Vec<String> = running.map(title).collect();
            found.snapshots.retain(|snapshot| runs(snapshot) || !names.contains(&title(snapshot)));
        }
        found.snapshots.sort_by_key(|snapshot| (!runs(snapshot), title(snapshot), snapshot.pid));
        found
    }

    /// The files that are meant, of running and of dead processes, readable or not. Of one that is
    /// not readable only the file's name tells whose it is.
    pub(super) fn looks(&self) -> Vec<(PathBuf, Result<Snapshot, RegistryError>)> {
        let mut looks = Vec::new();
        for path in self.paths() {
            let outcome = Snapshot::from_file(&path);
            let fit = match &outcome {
                Ok(snapshot) => {
                    self.fit([&snapshot.node_name, &snapshot.command], Some(snapshot.pid))
                }
                // It has ended between the look into the directory and the one into the file.
                Err(RegistryError::File { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && !self.is_file() =>
                {
                    continue;
                }
                Err(_) => self.fit_of_file(&path),
            };
            looks.extend(fit.map(|fit| (fit, path, outcome)));
        }
        let best = looks.iter().map(|&(fit, ..)| fit).max();
        let meant = looks.into_iter().filter(|&(fit, ..)| Some(fit) == best);
        meant.map(|(_, path, outcome)| (path, outcome)).collect()
    }

    /// The files to look at.
    fn paths(&self) -> Vec<PathBuf> {
        if self.is_file() {
            return self.who.iter().map(PathBuf::from).collect();
        }
        let standard;
        let places = match &*self.directories {
            [] => {
                standard = directories();
                &standard
            }
            named => named,
        };
        files(places)
    }

    /// A single file is named.
    fn is_file(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.contains('/') || who.ends_with(".rwstats"))
    }

    /// How well a process is meant, if it is.
    fn fit(&self, names: [&str; 2], pid: Option<u32>) -> Option<Fit> {
        let Some(who) = self.who.as_deref().filter(|_| !self.is_file()) else {
            return Some(Fit::Whole);
        };
        if pid.is_some_and(|pid| who.parse() == Ok(pid)) || names.contains(&who) {
            return Some(Fit::Whole);
        }
        names.iter().any(|name| name.contains(who)).then_some(Fit::Part)
    }

    /// The same by the name of its file alone: NAME-PID-NUMBER.
    fn fit_of_file(&self, path: &Path) -> Option<Fit> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut parts = stem.rsplitn(3, '-').skip(1);
        match (parts.next().map(str::parse::<u32>), parts.next()) {
            (Some(Ok(pid)), Some(name)) => self.fit([name, name], Some(pid)),
            _ => self.fit([&stem, &stem], None),
        }
    }
}

/// How well a process is meant: the better ones hide the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// By a part of a name.
    Part,
    /// By its number, by a whole name, or because nobody is named.
    Whole,
}

/// What is to be said of files that can not be read: one line for each of them, or for all of a
/// kind, of which there may be hundreds.
pub(super) fn warnings(failures: &[RegistryError]) -> Vec<String> {
    let mut kinds: Vec<(String, &RegistryError, usize)> = Vec::new();
    for failure in failures {
        let kind = kind_of(failure);
        match kinds.iter_mut().find(|(known, ..)| *known == kind) {
            Some((.., count)) => *count += 1,
            None => kinds.push((kind, failure, 1)),
        }
    }
    let line = |(kind, first, count): (String, &RegistryError, usize)| match count {
        1 => first.to_string(),
        _ => format!("{count} files {kind}; the first: {first}"),
    };
    kinds.into_iter().map(line).collect()
}

/// What files have in common that can not be read for the same reason.
fn kind_of(failure: &RegistryError) -> String {
    match failure {
        RegistryError::Version { got, built_by, .. } => format!(
            "of layout {got} (another version, built by {built_by}): `ringwire stat --clean` \
             removes those of dead processes"
        ),
        RegistryError::Foreign { .. } => "are no registries".into(),
        RegistryError::Truncated { .. } => "are cut short".into(),
        RegistryError::Damaged { .. } => "are damaged".into(),
        RegistryError::BeingCreated { .. } => "are being created, or never were to the end".into(),
        RegistryError::File { source, .. } => format!("can not be opened ({source})"),
        other => format!("can not be read ({other})"),
    }
}

fn runs(snapshot: &Snapshot) -> bool {
    snapshot.writer == WriterState::Running
}

/// What a node is called: its own name, or its program's.
pub(super) fn title(snapshot: &Snapshot) -> String {
    let name = match &*snapshot.node_name {
        "" => &snapshot.command,
        name => name,
    };
    printable(name)
}

/// Text that came from another process or a peer, without anything a terminal would act on.
pub(super) fn printable(text: &str) -> String {
    let safe =
        |c: char| if super::show::is_printable(c) && !c.is_control() { c } else { '\u{fffd}' };
    text.chars().map(safe).collect()
}

/// What happened between two snapshots of one registry.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) seconds: f64,
    pub(super) before: Statistics,
    pub(super) after: Statistics,
}

impl Change {
    /// `None` when they are not of the same registry, or of the same moment.
    pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Option<Self> {
        let is_same = before.pid == after.pid && before.created == after.created;
        let time = after.taken.since(before.taken);
        (is_same && time > Duration::ZERO).then(|| Self {
            seconds: time.as_secs_f64(),
            before: before.statistics(),
            after: after.statistics(),
        })
    }

    /// How often a second.
    pub(super) fn rate(&self, count: impl Fn(&Statistics) -> u64) -> f64 {
        count(&self.after).saturating_sub(count(&self.before)) as f64 / self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_control_character() {
        assert_eq!(printable("drive-7"), "drive-7");
        assert_eq!(printable("a\x1b[2J\n\u{202e}b"), "a\u{fffd}[2J\u{fffd}\u{fffd}b");
    }

    #[test]
    fn whole_names_fit_better_than_parts() {
        let fit = |who: &str, name: &str, pid| {
            Selection { who: Some(who.into()), directories: vec![] }.fit([name, "serve"], Some(pid))
        };
        assert_eq!(fit("drive-1", "drive-1", 7), Some(Fit::Whole));
        assert_eq!(fit("drive-1", "drive-10", 7), Some(Fit::Part));
        assert_eq!(fit("10", "drive-10", 7), Some(Fit::Part));
        assert_eq!(fit("10", "drive-1", 10), Some(Fit::Whole));
        assert_eq!(fit("serve", "drive-1", 7), Some(Fit::Whole));
        assert_eq!(fit("press", "drive-1", 7), None);
        assert!(Fit::Whole > Fit::Part);
    }

    #[test]
    fn unreadable_file_is_known_by_its_name() {
        let fit = |who: &str| {
            let selection = Selection { who: Some(who.into()), directories: vec![] };
            selection.fit_of_file(Path::new("/run/x/drive-1-4711-0.rwstats"))
        };
        assert_eq!((fit("drive-1"), fit("4711")), (Some(Fit::Whole), Some(Fit::Whole)));
        assert_eq!((fit("drive"), fit("rwstats"), fit("0")), (Some(Fit::Part), None, None));
    }

    #[test]
    fn files_of_a_kind_are_one_line() {
        let foreign = |n: u32| RegistryError::Foreign { path: format!("/run/{n}").into() };
        let other = |n: u32, got: &str| RegistryError::Version {
            path: format!("/run/x-{n}-0").into(),
            got: got.into(),
            built_by: "ringwire 0.0.9".into(),
            reads: "2".into(),
        };
        let mut failures: Vec<RegistryError> = (0..312).map(|n| other(n, "1")).collect();
        failures.push(foreign(1));
        failures.push(other(7, "3"));
        let lines = warnings(&failures);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("312 files of layout 1 (another version"), "{lines:?}");
        assert!(lines[0].contains("--clean") && lines[0].contains("/run/x-0-0"), "{lines:?}");
        assert_eq!(lines[1], foreign(1).to_string());
        assert_eq!(lines[2], other(7, "3").to_string());
        assert!(warnings(&[]).is_empty());
    }

    #[test]
    fn file_is_told_from_a_name() {
        let is_file =
            |who: &str| Selection { who: Some(who.into()), directories: vec![] }.is_file();
        assert!(is_file("/run/x.rwstats") && is_file("./x") && is_file("x.rwstats"));
        assert!(!is_file("drive-7") && !is_file("1234"));
    }
}
