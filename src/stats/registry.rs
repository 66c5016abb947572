//! The writer's end of a registry: the file, its mapping, and the blocks cut from it.
//!
//! Invariant: a file that says it is ready is complete; everything in it is placed before that word
//! is written. A registry that can not be made costs no node: its numbers are then in anonymous
//! memory, seen by this process alone, and a warning says so once.
//!
//! The file is locked for as long as its writer lives, which is how others tell (`stats`). Whoever
//! makes a new one clears away what dead ones left in the same directory, but for the
//! [`DEAD_FILES_MAX`] that died last.
//!
//! A registry that is dropped marks its file as ended in order and removes it. Blocks outlive it:
//! whoever still holds one reads on.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::error::DropReason;
use crate::stats::counters::{COUNTER_WORDS, CounterBlock, Counters, LANES, labels};
use crate::stats::histogram::Histogram;
use crate::stats::layout::{
    BlockHead, HEADER_BYTES, HISTOGRAM_COUNT, Header, Histograms, MAGIC, Plan, READY, Row, VERSION,
    build, layout, store_text,
};
use crate::stats::place;
use crate::stats::reader::{self, RegistryError};
use crate::stats::reading::Snapshot;
use crate::stats::source::Source;
use crate::sys::lock;
use crate::sys::map::{Carver, Map, Placed};
use crate::time::{Nanos, wall_ns};

/// How many files of one process may be in the way of a new one's name.
const NAMES_TRIED: u32 = 1000;
/// Files of dead processes that are left in a directory when another node begins there: those that
/// died last. Others are removed.
pub const DEAD_FILES_MAX: usize = 16;

/// What one reactor writes.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) head: Placed<BlockHead>,
    pub(crate) counters: CounterBlock,
    pub(crate) histograms: Placed<Histograms>,
    pub(crate) rows: Placed<[Row]>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Registry {
    header: Placed<Header>,
    blocks: Vec<Block>,
    map: Arc<Map>,
    file: Option<Backing>,
}

/// The file behind a registry.
#[derive(Debug)]
struct Backing {
    path: PathBuf,
    /// Holds the lock, as long as it is open.
    _held: File,
}

/// A registry that is only read, from any thread and after its end.
#[derive(Debug, Clone)]
pub(crate) struct RegistryHandle {
    header: Placed<Header>,
    map: Arc<Map>,
    file: Option<PathBuf>,
}

impl Registry {
    /// Makes a registry for `blocks` reactors with at most `sessions_max` sessions each, as
    /// `config` says.
    ///
    /// # Errors
    ///
    /// Only when there is no memory at all.
    pub(crate) fn new(config: &Config, blocks: usize, sessions_max: usize) -> io::Result<Self> {
        let rows = sessions_max.min(config.registry_sessions_max() as usize);
        let plan = Plan { blocks, rows };
        if config.registry() {
            match Self::in_file(config, plan) {
                Ok(registry) => return Ok(registry),
                Err(error) => warn_once(&error),
            }
        }
        let map = Map::anonymous(plan.file_bytes())?;
        Ok(Self::carve(map, plan, config, None))
    }

    fn in_file(config: &Config, plan: Plan) -> io::Result<Self> {
        let directories = match config.registry_directory() {
            Some(directory) => vec![directory.to_owned()],
            None => place::directories(),
        };
        let (map, backing) =
            map_in_first(&directories, config, |file| Map::of_file(file, plan.file_bytes()))?;
        if let Some(directory) = backing.path.parent() {
            remove_oldest_dead(directory);
        }
        Ok(Self::carve(map, plan, config, Some(backing)))
    }

    fn carve(map: Map, plan: Plan, config: &Config, file: Option<Backing>) -> Self {
        let Plan { rows, .. } = plan;
        map.populate(0..HEADER_BYTES);
        for block in 0..plan.blocks {
            let at = HEADER_BYTES + block * plan.block_bytes();
            map.populate(at..at + Plan::ROWS_AT);
        }
        let mut carver = Carver::new(map);
        let header = carver.place::<Header>(1).one(0);
        let blocks = (0..plan.blocks)
            .map(|_| Block {
                head: carver.place::<BlockHead>(1).one(0),
                counters: CounterBlock(carver.place::<Counters>(1).one(0)),
                histograms: carver.place::<Histograms>(1).one(0),
                rows: carver.place::<Row>(rows),
            })
            .collect();
        assert_eq!(carver.at(), plan.file_bytes(), "the plan is what was carved");
        fill(&header, plan, config);
        Self { header, blocks, map: carver.map(), file }
    }

    /// What each reactor writes, in their order.
    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub(crate) fn handle(&self) -> RegistryHandle {
        RegistryHandle {
            header: self.header.clone(),
            map: Arc::clone(&self.map),
            file: self.file.as_ref().map(|backing| backing.path.clone()),
        }
    }

    /// Says that this side listens, and where.
    pub(crate) fn set_listening(&self, endpoint: &str) {
        // ORDERING: Relaxed: each word is right by itself, and nothing is read through them.
        self.header.is_server.store(1, Ordering::Relaxed);
        if self.header.endpoint[0].load(Ordering::Relaxed) == 0 {
            store_text(&self.header.endpoint, endpoint);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // ORDERING: Relaxed: a reader that sees it a little late takes the file for alive until
        // then.
        self.header.exited_wall_ns.store(wall_ns(), Ordering::Relaxed);
        if let Some(backing) = &self.file {
            // Somebody may have cleaned up before.
            let _ = std::fs::remove_file(&backing.path);
        }
    }
}

impl RegistryHandle {
    /// Messages that handles refused; any thread counts here.
    pub(crate) fn too_large(&self) -> &AtomicU64 {
        &self.header.handles_too_large
    }

    /// Messages that expired in the inbox; any thread counts here.
    pub(crate) fn overdue(&self) -> &AtomicU64 {
        &self.header.handles_overdue
    }

    /// All there is, as of now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let path = self.file.clone().unwrap_or_default();
        let read = reader::read(&Source::Memory(Arc::clone(&self.map)), path);
        read.unwrap_or_else(|error: RegistryError| unreachable!("our own registry: {error}"))
    }
}

/// Writes the header, the word that says so last.
fn fill(header: &Header, plan: Plan, config: &Config) {
    let mut names = String::new();
    for label in labels() {
        names += &label;
        names.push('\n');
    }
    assert!(names.len() <= 8 * header.labels.len(), "the labels fit");
    let words = [
        (&header.magic, MAGIC),
        (&header.version, VERSION),
        (&header.file_bytes, plan.file_bytes() as u64),
        (&header.header_bytes, HEADER_BYTES as u64),
        (&header.block_bytes, plan.block_bytes() as u64),
        (&header.blocks, plan.blocks as u64),
        (&header.counters_at, Plan::COUNTERS_AT as u64),
        (&header.counter_words, COUNTER_WORDS as u64),
        (&header.histograms_at, Plan::HISTOGRAMS_AT as u64),
        (&header.histograms, HISTOGRAM_COUNT as u64),
        (&header.histogram_bytes, size_of::<Histogram>() as u64),
        (&header.rows_at, Plan::ROWS_AT as u64),
        (&header.rows, plan.rows as u64),
        (&header.row_bytes, size_of::<Row>() as u64),
        (&header.lanes, LANES as u64),
        (&header.drop_reasons, DropReason::COUNT as u64),
        (&header.labels_bytes, names.len() as u64),
        (&header.pid, std::process::id().into()),
        (&header.layout, layout()),
        (&header.created_ns, Nanos::now().0),
        (&header.created_wall_ns, wall_ns()),
        (&header.turn_threshold_ns, u64::from(config.turn_threshold_us()) * 1000),
    ];
    for (place, value) in words {
        place.store(value, Ordering::Relaxed);
    }
    store_text(&header.build, build());
    store_text(&header.node_name, config.node_name());
    store_text(&header.command, &place::command());
    store_text(&header.labels, &names);
    // ORDERING: Release: whoever sees it sees all of the above. Pairs with the reads of
    // `source`, which are system calls or come from this process.
    header.ready.store(READY, Ordering::Release);
}

/// Maps a new file of this process in the first of `directories` that will do: where it can be
/// created, and `map` can make it as long as it is to be.
fn map_in_first(
    directories: &[PathBuf],
    config: &Config,
    map: impl Fn(&File) -> io::Result<Map>,
) -> io::Result<(Map, Backing)> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for directory in directories {
        let ensured = place::ensure(directory).map_err(|error| named(directory, &error));
        let (file, path) = match ensured.and_then(|()| create_in(directory, config)) {
            Ok(created) => created,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        match map(&file) {
            Ok(map) => return Ok((map, Backing { path, _held: file })),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                failure = named(&path, &error);
            }
        }
    }
    Err(failure)
}

/// Creates an empty file for this process.
fn create_in(directory: &Path, config: &Config) -> io::Result<(File, PathBuf)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = match config.node_name() {
        "" => place::as_file_name(&place::command()),
        name => place::as_file_name(name),
    };
    let mut failure = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAMES_TRIED {
        // ORDERING: Relaxed: only to be different each time.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{number}.{}", std::process::id(), place::EXTENSION);
        let path = directory.join(name);
        let mut options = File::options();
        // Nobody opens it for writing again, and who can not open it can not cut it off, which
        // would end this process: see `sys::map`.
        options.read(true).write(true).create_new(true).mode(0o400);
        match options.open(&path) {
            Ok(file) => match lock::try_hold(&file) {
                Ok(true) => return Ok((file, path)),
                outcome => {
                    let _ = std::fs::remove_file(&path);
                    let held = || io::ErrorKind::ResourceBusy.into();
                    failure = named(&path, &outcome.err().unwrap_or_else(held));
                    break;
                }
            },
            // Left behind by a process that had our number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                failure = named(&path, &error);
                break;
            }
        }
    }
    Err(failure)
}

/// Removes the files of dead processes in `directory`, but for those that died last. What can not
/// be read or removed stays, and so does what another version of this library left.
fn remove_oldest_dead(directory: &Path) {
    let mut dead: Vec<_> = reader::files(&[directory.to_owned()])
        .into_iter()
        .filter(|path| reader::is_abandoned_here(path).unwrap_or(false))
        .collect();
    let Some(excess @ 1..) = dead.len().checked_sub(DEAD_FILES_MAX) else { return };
    let (now, wall_ns) = (Nanos::now(), wall_ns());
    // One that has just been removed is none that stays.
    let silence = |path: &PathBuf| reader::silence_of(path, now, wall_ns).unwrap_or(Duration::MAX);
    dead.sort_by_cached_key(|path| Reverse(silence(path)));
    for path in dead.into_iter().take(excess) {
        if let Err(error) = reader::remove_abandoned(&path) {
            tracing::debug!(%error, "an old registry stays");
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn warn_once(error: &io::Error) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            %error,
            "the statistics can not be read from outside: no registry file \
             (registry_directory, or registry = false)"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_without_room_is_passed_over() {
        let name = format!("ringwire-room-{}-{}", std::process::id(), Nanos::now().0);
        let base = std::env::temp_dir().join(name);
        std::fs::create_dir(&base).expect("a directory for temporary files");
        let directories = [base.join("full"), base.join("empty")];
        let config = Config::builder().node_name("cell").build().expect("valid");
        let attempts = std::cell::Cell::new(0);
        let mapped = map_in_first(&directories, &config, |file| {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                1 => Err(io::ErrorKind::StorageFull.into()),
                _ => Map::of_file(file, 4096),
            }
        });
        let (_, backing) = mapped.expect("the second has room");
        let path = backing.path;
        let left = |directory: &Path| std::fs::read_dir(directory).expect("made").count();
        let found =
            (path.parent() == Some(&directories[1]), directories.each_ref().map(|d| left(d)));
        std::fs::remove_dir_all(&base).expect("our own");
        assert_eq!(found, (true, [0, 1]));

        let refused = map_in_first(&[], &config, |_| unreachable!("nowhere to be"));
        assert_eq!(refused.map(|_| ()).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
    }
}
