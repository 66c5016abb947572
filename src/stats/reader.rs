//! The reader's end of a registry: a file of any process, or the mapping of this one.
//!
//! What is read is copied by [`source`](super::source): each reactor's block as it was at one
//! moment between two turns. For that it is copied again and again, for up to [`PATIENCE`]; when
//! the writer leaves no such moment (it never rests, or is in the middle of a turn all that time: a
//! handler that blocks, or a process that died there), the copy is kept and marked as *torn*: each
//! number is right, but they may belong to different moments.
//!
//! Files are read with `pread`, not mapped: one that is cut short meanwhile is an error, not a
//! SIGBUS.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::error::{CloseReason, DropReason};
use crate::stats::counters::{Counters, LANES, labels};
use crate::stats::histogram::{Histogram, Reading};
use crate::stats::layout::{
    BlockHead, HEADER_BYTES, HISTOGRAM_COUNT, Header, LABELS_AT, LaneRow, MAGIC, Plan, READY, Row,
    RowState, VERSION, layout as layout_of_this_build, layout_name, read_text,
};
use crate::stats::place::EXTENSION;
use crate::stats::reading::{LaneReading, ReactorReading, SessionReading, Snapshot, WriterState};
use crate::stats::source::Source;
use crate::sys::lock;
use crate::time::{Nanos, wall_ns};

/// How long a writer may take from making its file to the first word in it, generously.
const CREATION_MAX: Duration = Duration::from_secs(60);
/// How long a block that changes under the reader is read again.
const PATIENCE: Duration = Duration::from_millis(2);
/// Reactors of a node.
const BLOCKS_MAX: u64 = 256;
/// Files above this are not ours: [`BLOCKS_MAX`] reactors with 65,536 sessions each.
const FILE_BYTES_MAX: u64 = 1 << 34;

/// Why a registry can not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The system refuses.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is another kind of file.
    #[error("{path}: not a ringwire registry", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Its writer has not completed it yet, or died before it had.
    #[error("{path}: being created, or its process died while it was", path = .path.display())]
    BeingCreated {
        /// The file.
        path: PathBuf,
    },
    /// Another build made it, which puts other things in it, or in other places.
    #[error(
        "{path}: another version: this is layout {got}, built by {built_by}; this build reads \
         layout {reads}: use the command of that build",
        path = .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its layout.
        got: String,
        /// What the build that made it calls itself.
        built_by: String,
        /// The layout read here.
        reads: String,
    },
    /// It is shorter than it says.
    #[error("{path}: cut short: {bytes} bytes of {needed}", path = .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The length it should have.
        needed: u64,
    },
    /// Its parts do not fit together.
    #[error("{path}: damaged: {what}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}
/// Reads the registry in a file.
pub(crate) fn read_file(path: &Path) -> Result<Snapshot, RegistryError> {
    read(&Source::File(open(path)?), path.into())
}

/// Reads a registry, wherever it is.
pub(crate) fn read(source: &Source, path: PathBuf) -> Result<Snapshot, RegistryError> {
    Read { source, path }.all()
}

/// The registry files of `directories`, in the order of their names. Directories that are not there
/// have none.
#[must_use]
pub fn files(directories: &[PathBuf]) -> Vec<PathBuf> {
    let entries = directories.iter().filter_map(|path| std::fs::read_dir(path).ok()).flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_ours = |path: &PathBuf| path.extension().is_some_and(|found| found == EXTENSION);
    let mut paths: Vec<_> = paths.filter(is_ours).collect();
    paths.sort();
    paths
}

/// Whether the process that writes a file has ended, also when it had not completed it.
///
/// A file that says nothing yet of who writes it is abandoned when nobody holds its lock and
/// nothing has been written to it for a minute. A copy has no writer: it is abandoned. One of
/// another version is when nobody holds its lock and no process has the number in its name: the
/// first version was not locked.
///
/// # Errors
///
/// [`RegistryError`] for what is no registry, or tells nothing yet of who writes it; also for one
/// of another version whose name has no process id.
pub fn is_abandoned(path: &Path) -> Result<bool, RegistryError> {
    is_abandoned_by(open(path)?, path)
}

fn is_abandoned_by(file: File, path: &Path) -> Result<bool, RegistryError> {
    let read = Read { source: &Source::File(file), path: path.into() };
    match read.is_abandoned() {
        Err(failure @ RegistryError::Version { .. }) => {
            let Some(pid) = pid_of_name(path) else { return Err(failure) };
            // A process of another user exists, too.
            let is_there = rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
            Ok(!read.is_held() && !is_there)
        }
        known => known,
    }
}

/// The same of files of this version alone: what a node removes without being asked is never
/// another build's.
pub(crate) fn is_abandoned_here(path: &Path) -> Result<bool, RegistryError> {
    Read { source: &Source::File(open(path)?), path: path.into() }.is_abandoned()
}

/// The process id in a registry's name, NAME-PID-NUMBER: the same in all versions.
fn pid_of_name(path: &Path) -> Option<rustix::process::Pid> {
    let stem = path.file_stem()?.to_str()?;
    let number = stem.rsplit('-').nth(1)?.parse().ok()?;
    rustix::process::Pid::from_raw(number)
}

/// Removes a file if the process that wrote it has ended, see [`is_abandoned`]. Returns whether it
/// did. Of several that try at once one does; the file of a process that lives is never removed,
/// also when it has just taken the place of another's.
///
/// # Errors
///
/// As [`is_abandoned`], and when the system refuses.
pub fn remove_abandoned(path: &Path) -> Result<bool, RegistryError> {
    let refused = |source: io::Error| RegistryError::File { path: path.into(), source };
    // For reading: its writer has left it so that not even its owner may write.
    let file = open(path)?;
    // While this is held nobody else removes it, so that no other file can have its name. No writer
    // takes it for itself any more: it is at the end of its life, or was never begun.
    if !lock::try_claim(&file).map_err(refused)? {
        return Ok(false);
    }
    let found = file.metadata().map_err(refused)?;
    let is_it =
        |named: &std::fs::Metadata| (named.dev(), named.ino()) == (found.dev(), found.ino());
    let is_named = std::fs::symlink_metadata(path).is_ok_and(|named| is_it(&named));
    // A second descriptor of the same open file: the lock stays.
    let same = file.try_clone().map_err(refused)?;
    if !is_named || !is_abandoned_by(same, path)? {
        return Ok(false);
    }
    std::fs::remove_file(path).map_err(refused)?;
    Ok(true)
}

/// For how long the writer of a file has given no sign, at that time of both clocks: by the turn
/// that began last, or the making of a file without one. A row is written in turns, no later sign
/// than these. `None` when the file can not be asked.
///
/// What the file system says is no measure: to tmpfs a mapped file is as old as when it was made,
/// however long it was written to. It serves where the file tells nothing: of a start of the
/// machine before this one, whose clock was another, or with times that are yet to come.
pub(crate) fn silence_of(path: &Path, now: Nanos, wall_ns: u64) -> Option<Duration> {
    let file = open(path).ok()?;
    let found = file.metadata().ok()?;
    let seconds = u64::try_from(found.mtime()).unwrap_or(0);
    let nanos = u64::try_from(found.mtime_nsec()).unwrap_or(0);
    let written = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    // tmpfs does not outlive the machine's run; and its times may be from before the clock was set.
    let is_of_this_run = is_in_memory(&file) || written >= wall_ns.saturating_sub(now.0);
    let source = Source::File(file);
    let read = Read { source: &source, path: path.into() };
    let sign = if is_of_this_run { read.last_sign(now) } else { None };
    let by_file_system = || Duration::from_nanos(wall_ns.saturating_sub(written));
    Some(sign.map_or_else(by_file_system, |sign| now.since(sign)))
}

/// Whether a file is gone when the machine starts again.
fn is_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == libc::TMPFS_MAGIC)
}

/// Opens a plain file for reading. Never blocks: a FIFO would wait for its writer (open(2),
/// `O_NONBLOCK`).
fn open(path: &Path) -> Result<File, RegistryError> {
    let refused = |source| RegistryError::File { path: path.into(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|error| refused(error.into()))?);
    match file.metadata().map_err(refused)?.is_file() {
        true => Ok(file),
        false => Err(RegistryError::Foreign { path: path.into() }),
    }
}

/// The word of a header at byte `offset`.
fn at(header: &[u64], offset: usize) -> u64 {
    header[offset / 8]
}

fn text_at(words: &[u64], offset: usize, bytes: usize) -> String {
    read_text(&words[offset / 8..(offset + bytes) / 8])
}

/// One reading of a registry.
struct Read<'a> {
    source: &'a Source,
    path: PathBuf,
}

impl Read<'_> {
    /// See [`is_abandoned`]; of another version it is not known.
    fn is_abandoned(&self) -> Result<bool, RegistryError> {
        let failure = match self.header() {
            Ok(header) if at(&header, std::mem::offset_of!(Header, pid)) != 0 => {
                return Ok(self.writer_of(&header) != WriterState::Running);
            }
            Ok(_) => RegistryError::BeingCreated { path: self.path.clone() },
            Err(failure) => failure,
        };
        match failure {
            RegistryError::BeingCreated { .. } if self.is_given_up() => Ok(true),
            failure => Err(failure),
        }
    }

    /// When a turn of a reactor began last, by `now`, or the file was made. Looks at the header and
    /// a word of each block, whatever a damaged file says of them.
    fn last_sign(&self, now: Nanos) -> Option<Nanos> {
        use std::mem::offset_of;
        let header = self.header().ok()?;
        let made = at(&header, offset_of!(Header, created_ns));
        if made > now.0 {
            return None;
        }
        let first = at(&header, offset_of!(Header, header_bytes));
        let block_bytes = at(&header, offset_of!(Header, block_bytes));
        let turn_began = |block: u64| {
            let start = block.checked_mul(block_bytes)?.checked_add(first)?;
            let place = start.checked_add(offset_of!(BlockHead, turn_began_ns) as u64)?;
            self.source.word(usize::try_from(place).ok()?).ok()
        };
        let blocks = at(&header, offset_of!(Header, blocks)).min(BLOCKS_MAX);
        let turns = (0..blocks).filter_map(turn_began).filter(|&began| began <= now.0);
        Some(Nanos(turns.fold(made, u64::max)))
    }

    fn all(&self) -> Result<Snapshot, RegistryError> {
        use std::mem::offset_of;
        let header = self.header()?;
        let word = |offset: usize| at(&header, offset);
        if word(offset_of!(Header, ready)) != READY {
            return Err(RegistryError::BeingCreated { path: self.path.clone() });
        }
        let layout = word(offset_of!(Header, layout));
        if layout != layout_of_this_build() {
            return Err(self.other_version(VERSION, layout));
        }
        let plan = self.check_plan(&header)?;
        let labels_bytes = word(offset_of!(Header, labels_bytes));
        let room = HEADER_BYTES - LABELS_AT;
        let labels_bytes = usize::try_from(labels_bytes).unwrap_or(usize::MAX).min(room);
        let names = text_at(&header, LABELS_AT, labels_bytes.next_multiple_of(8).min(room));
        let places = places_of(&names);
        let taken = Nanos::now();
        let writer = self.writer_of(&header);
        let is_running = writer == WriterState::Running;
        let reactors = (0..plan.blocks)
            .map(|index| self.reactor(index, plan, &places, is_running.then_some(taken)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|source| self.unreadable(source))?;
        Ok(Snapshot {
            path: self.path.clone(),
            pid: u32::try_from(word(offset_of!(Header, pid))).unwrap_or(0),
            node_name: text_at(&header, offset_of!(Header, node_name), 64),
            command: text_at(&header, offset_of!(Header, command), 64),
            endpoint: text_at(&header, offset_of!(Header, endpoint), 112),
            is_server: word(offset_of!(Header, is_server)) != 0,
            writer,
            created: Nanos(word(offset_of!(Header, created_ns))),
            created_wall_ns: word(offset_of!(Header, created_wall_ns)),
            taken,
            turn_threshold: Duration::from_nanos(word(offset_of!(Header, turn_threshold_ns))),
            handles_too_large: word(offset_of!(Header, handles_too_large)),
            handles_overdue: word(offset_of!(Header, handles_overdue)),
            reactors,
        })
    }

    /// The header of a file that is ours and of our version.
    fn header(&self) -> Result<Vec<u64>, RegistryError> {
        let path = || self.path.clone();
        let mut head = [0; 3];
        self.source.words(0, &mut head).map_err(|source| match source.kind() {
            // A writer gives its file all of its length at once: it may have just done so.
            io::ErrorKind::UnexpectedEof
                if self.bytes().is_some_and(|bytes| (1..HEADER_BYTES as u64).contains(&bytes)) =>
            {
                RegistryError::Foreign { path: path() }
            }
            io::ErrorKind::UnexpectedEof => RegistryError::BeingCreated { path: path() },
            _ => RegistryError::File { path: path(), source },
        })?;
        match head {
            // The kernel has allocated it and nothing is written yet, or not all of this: a read is
            // no snapshot.
            [0, 0 | VERSION, _] | [MAGIC, 0, _] => {
                return Err(RegistryError::BeingCreated { path: path() });
            }
            [MAGIC, VERSION, _] => {}
            [MAGIC, version, _] => return Err(self.other_version(version, 0)),
            _ => return Err(RegistryError::Foreign { path: path() }),
        }
        let mut header = vec![0; HEADER_BYTES / 8];
        self.source.words(0, &mut header).map_err(|source| self.unreadable(source))?;
        Ok(header)
    }

    /// Says whose file this is: `build` has the same place in all versions that have it.
    fn other_version(&self, version: u64, layout: u64) -> RegistryError {
        let mut words = [0; 3];
        let named = self.source.words(std::mem::offset_of!(Header, build), &mut words);
        let built_by = named.map(|()| read_text(&words)).unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
        RegistryError::Version {
            path: self.path.clone(),
            got: layout_name(version, layout),
            built_by: match &*built_by {
                "" => "an unknown build".into(),
                name if name.chars().all(is_plain) => name.into(),
                _ => "an unknown build".into(),
            },
            reads: layout_name(VERSION, layout_of_this_build()),
        }
    }

    /// What became of the writer: its lock tells, which this process's own mapping does not need.
    fn writer_of(&self, header: &[u64]) -> WriterState {
        if at(header, std::mem::offset_of!(Header, exited_wall_ns)) != 0 {
            return WriterState::Exited;
        }
        if self.is_held() { WriterState::Running } else { WriterState::Died }
    }

    /// Whether a writer holds the lock; this process's own mapping does not need it.
    fn is_held(&self) -> bool {
        let Source::File(file) = self.source else { return true };
        lock::is_held(file).unwrap_or(false)
    }

    /// Whether nobody completes a file any more.
    fn is_given_up(&self) -> bool {
        let Source::File(file) = self.source else { return false };
        if lock::is_held(file).unwrap_or(false) {
            return false;
        }
        let Ok(written) = file.metadata().map(|found| found.mtime()) else { return false };
        let now = Duration::from_nanos(wall_ns());
        now.saturating_sub(Duration::from_secs(u64::try_from(written).unwrap_or(0))) > CREATION_MAX
    }

    /// Whether the parts are where this build expects them, and all there.
    fn check_plan(&self, header: &[u64]) -> Result<Plan, RegistryError> {
        use std::mem::offset_of;
        let path = || self.path.clone();
        let word = |offset: usize| at(header, offset);
        let damaged = |what| RegistryError::Damaged { path: path(), what };
        let needed = word(offset_of!(Header, file_bytes));
        if let Some(bytes) = self.bytes()
            && bytes < needed
        {
            return Err(RegistryError::Truncated { path: path(), bytes, needed });
        }
        let sizes = [
            (offset_of!(Header, header_bytes), HEADER_BYTES, "the header's length"),
            (offset_of!(Header, histogram_bytes), size_of::<Histogram>(), "histograms' length"),
            (offset_of!(Header, histograms), HISTOGRAM_COUNT, "the number of histograms"),
            (offset_of!(Header, row_bytes), size_of::<Row>(), "the rows' length"),
            (offset_of!(Header, lanes), LANES, "the number of lanes"),
            (offset_of!(Header, drop_reasons), DropReason::COUNT, "the number of drop reasons"),
            (offset_of!(Header, counters_at), Plan::COUNTERS_AT, "the counters' place"),
            (offset_of!(Header, histograms_at), Plan::HISTOGRAMS_AT, "the histograms' place"),
            (offset_of!(Header, rows_at), Plan::ROWS_AT, "the rows' place"),
        ];
        for (offset, expected, what) in sizes {
            if word(offset) != expected as u64 {
                return Err(damaged(what));
            }
        }
        let count = |offset: usize| usize::try_from(word(offset)).unwrap_or(usize::MAX);
        let (blocks, rows) = (count(offset_of!(Header, blocks)), count(offset_of!(Header, rows)));
        let is_plausible =
            blocks as u64 <= BLOCKS_MAX && rows <= 1 << 17 && needed <= FILE_BYTES_MAX;
        let plan = Plan { blocks, rows };
        if !is_plausible || plan.file_bytes() as u64 != needed {
            return Err(damaged("the file's length"));
        }
        Ok(plan)
    }

    fn bytes(&self) -> Option<u64> {
        let Source::File(file) = self.source else { return None };
        file.metadata().ok().map(|found| found.len())
    }

    /// The file has become shorter than it was, as a rule.
    fn unreadable(&self, source: io::Error) -> RegistryError {
        let path = self.path.clone();
        match (source.kind(), self.bytes()) {
            (io::ErrorKind::UnexpectedEof, Some(bytes)) => {
                RegistryError::Truncated { path, bytes, needed: HEADER_BYTES as u64 }
            }
            _ => RegistryError::File { path, source },
        }
    }

    fn reactor(
        &self,
        index: usize,
        plan: Plan,
        places: &[Option<usize>],
        running_at: Option<Nanos>,
    ) -> io::Result<ReactorReading> {
        use std::mem::offset_of;
        let block = HEADER_BYTES + index * plan.block_bytes();
        // One that is dead leaves no better moment.
        let patience = if running_at.is_some() { PATIENCE } else { Duration::ZERO };
        let image = self.source.block(block, plan, patience)?;
        let (fixed, rows) = image.words.split_at(Plan::ROWS_AT / 8);
        let (counted, measured) = fixed.split_at(Plan::HISTOGRAMS_AT / 8);
        let (head, counted) = counted.split_at(size_of::<BlockHead>() / 8);
        let counters = Counters::default();
        for (word, place) in counters.words().zip(places) {
            let value = place.and_then(|place| counted.get(place)).copied().unwrap_or(0);
            word.store(value, Ordering::Relaxed);
        }
        let histograms =
            measured.chunks(size_of::<Histogram>() / 8).map(Reading::from_words).collect();
        let turn_began = at(head, offset_of!(BlockHead, turn_began_ns));
        // What was queued when its turn began has not moved since.
        let is_in_turn = !at(head, offset_of!(BlockHead, sequence)).is_multiple_of(2);
        let stuck = running_at.filter(|_| is_in_turn).map(|taken| (Nanos(turn_began), taken));
        let rows = rows.chunks(size_of::<Row>() / 8);
        Ok(ReactorReading {
            counters,
            turn_began: Nanos(turn_began),
            is_in_turn,
            unsettled_messages: at(head, offset_of!(BlockHead, unsettled_messages)),
            unsettled_bytes: at(head, offset_of!(BlockHead, unsettled_bytes)),
            is_torn: !image.is_whole,
            sessions: rows.filter_map(|words| session_of(index, words, stuck)).collect(),
            histograms,
        })
    }
}

/// Where each of our counters is in a file with these labels.
fn places_of(names: &str) -> Vec<Option<usize>> {
    let theirs: Vec<&str> = names.lines().collect();
    let is_same = |ours: &str, at: usize| theirs.get(at).is_some_and(|&label| label == ours);
    labels()
        .enumerate()
        .map(|(at, ours)| match is_same(&ours, at) {
            true => Some(at),
            false => theirs.iter().position(|&label| label == ours),
        })
        .collect()
}

/// What a row says, unless it was never used. `stuck`: from when to when its reactor has been in
/// the turn that is under way.
fn session_of(
    reactor: usize,
    words: &[u64],
    stuck: Option<(Nanos, Nanos)>,
) -> Option<SessionReading> {
    use std::mem::offset_of;
    let word = |offset: usize| at(words, offset);
    let state = word(offset_of!(Row, state));
    let state = RowState::ALL.into_iter().find(|known| known.code() == state)?;
    let key = word(offset_of!(Row, key));
    let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("masked");
    let reason = usize::try_from(word(offset_of!(Row, reason))).unwrap_or(0);
    let error = word(offset_of!(Row, clock_error_ns));
    let clock = (word(offset_of!(Row, clock_offset_ns)).cast_signed(), error);
    let updated = word(offset_of!(Row, updated_ns));
    let since = stuck.map_or(0, |(began, taken)| taken.0.saturating_sub(began.0.max(updated)));
    let lanes = std::array::from_fn(|lane| {
        let place = offset_of!(Row, lanes) + lane * size_of::<LaneRow>();
        let oldest = word(place + offset_of!(LaneRow, oldest_ns));
        LaneReading {
            bytes: word(place + offset_of!(LaneRow, bytes)),
            frames: word(place + offset_of!(LaneRow, frames)),
            oldest_ns: match oldest {
                0 => 0,
                oldest => updated.saturating_sub(oldest).saturating_add(since),
            },
        }
    });
    let drops = std::array::from_fn(|lane| {
        std::array::from_fn(|reason| {
            word(offset_of!(Row, drops) + 8 * (lane * DropReason::COUNT + reason))
        })
    });
    Some(SessionReading {
        reactor,
        slot: low(key),
        // slotmap counts uses and frees.
        generation: low(key >> 33),
        state,
        updated: Nanos(updated),
        since: Nanos(word(offset_of!(Row, since_ns))),
        last_activity: Nanos(word(offset_of!(Row, last_activity_ns))),
        messages_sent: word(offset_of!(Row, messages_sent)),
        messages_received: word(offset_of!(Row, messages_received)),
        bytes_sent: word(offset_of!(Row, bytes_sent)),
        bytes_received: word(offset_of!(Row, bytes_received)),
        bytes_kept: word(offset_of!(Row, bytes_kept)),
        messages_missed: word(offset_of!(Row, messages_missed)),
        messages_expired: word(offset_of!(Row, messages_expired)),
        expired_at_peer: word(offset_of!(Row, expired_at_peer)),
        round_trip: Some(word(offset_of!(Row, round_trip_ns)))
            .filter(|&nanos| nanos > 0)
            .map(Duration::from_nanos),
        clock: (error != u64::MAX).then_some(clock),
        links: word(offset_of!(Row, links)),
        reason: reason.checked_sub(1).and_then(|index| CloseReason::NAMES.get(index)).copied(),
        peer_number: word(offset_of!(Row, peer_number)),
        peer_name: text_at(words, offset_of!(Row, peer_name), 64),
        address: text_at(words, offset_of!(Row, address), 112),
        lanes,
        drops,
    })
}
