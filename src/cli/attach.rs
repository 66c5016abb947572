//! Finding registries: which files there are, whose they are, and what changed since last time.
//!
//! A file that goes while it is looked at is no error: its process has ended.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ringwire::Snapshot;
use ringwire::stats::{RegistryError, Statistics, WriterState, directories, files};

/// Which registries are meant.
#[derive(Debug, Clone, Args)]
pub(super) struct Selection {
    /// Whose: a process id, a part of the node's or program's name, or a registry file.
    #[arg(value_name = "WHO")]
    pub(super) who: Option<String>,

    /// Look for registries here [default: the runtime directories; see --help].
    ///
    /// Without it: $XDG_RUNTIME_DIR/ringwire, /run/user/UID/ringwire, /dev/shm/ringwire-UID and
    /// /tmp/ringwire-UID, where nodes put them unless `registry_directory` says otherwise.
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
    /// Reads all that is meant.
    pub(super) fn read(&self) -> Found {
        let mut found = Found::default();
        for path in self.paths() {
            match Snapshot::from_file(&path) {
                Ok(snapshot) if self.means(&snapshot) => found.snapshots.push(snapshot),
                Ok(_) => {}
                // It has ended between the look into the directory and the one into the file.
                Err(RegistryError::File { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && !self.is_file() => {}
                Err(error) => found.failures.push(error),
            }
        }
        found.snapshots.sort_by_key(|snapshot| {
            (snapshot.writer != WriterState::Running, title(snapshot), snapshot.pid)
        });
        found
    }

    /// The files to look at.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
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

    fn means(&self, snapshot: &Snapshot) -> bool {
        let Some(who) = &self.who else { return true };
        self.is_file()
            || who.parse() == Ok(snapshot.pid)
            || snapshot.node_name.contains(who)
            || snapshot.command.contains(who)
    }
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
    fn file_is_told_from_a_name() {
        let is_file =
            |who: &str| Selection { who: Some(who.into()), directories: vec![] }.is_file();
        assert!(is_file("/run/x.rwstats") && is_file("./x") && is_file("x.rwstats"));
        assert!(!is_file("drive-7") && !is_file("1234"));
    }
}
