//! [`Recorder`]: a thread that writes what comes through a tap into a recording.
//!
//! The node feels nothing of it. A disk that is too slow costs frames, which are counted and whose
//! place in the recording is marked; a disk that is full, or fails in another way, is tried again
//! every second. Whatever happens, the file holds whole records.
//!
//! Not here: the format ([`record`](crate::record)), and the reactor's side ([`Tap`](crate::Tap)).

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::ReceiveError;
use crate::reactor::{ConnectionId, TapFrame, TapReceiver};
use crate::record::{RecordOrigin, RecordTally, RecordWriter, RecordedFrame};
use crate::time::Nanos;

/// What was recorded is handed to the system at least this often, so that it survives the process.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// After a failure the disk is left alone for this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Peers that wait to be noted.
const PEERS_WAITING_MAX: usize = 1024;

/// Writes a recording on a thread of its own, from [`start`](Self::start) until the nodes with its
/// tap are gone or [`finish`](Self::finish) is called. When it is dropped, the thread goes on until
/// then.
///
/// ```no_run
/// use std::fs::File;
/// use std::time::Duration;
/// use ringwire::record::RecordOrigin;
/// use ringwire::{Recorder, Server, Tap, TapFilter};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (tap, frames) = Tap::new(TapFilter::received());
/// let server = Server::builder().listen("0.0.0.0:7411").tap(tap).start()?;
/// let file = File::create_new("shift-3.rwrec")?;
/// let recorder = Recorder::start(frames, file, RecordOrigin::default())?;
/// // …
/// let _ = server.shutdown(Duration::from_secs(1));
/// let report = recorder.finish();
/// println!("{} frames, {} lost", report.frames, report.frames_lost);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Recorder {
    thread: JoinHandle<RecorderReport>,
    peers: Sender<Peer>,
    shared: Arc<Shared>,
}

/// How far a recorder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RecordProgress {
    /// Frames that the file has.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Frames that are missing: they came faster than they could be written.
    pub frames_lost: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// The system's error number while the file can not be written.
    pub errno: Option<i32>,
}

/// What a recorder achieved.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub struct RecorderReport {
    /// Frames that the file has.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Frames that are missing: they came faster than they could be written.
    pub frames_lost: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// The last failure to write it, if there was any. What was written before can be read.
    pub failure: Option<io::Error>,
}

/// Who a session is with.
#[derive(Debug)]
struct Peer {
    connection: ConnectionId,
    at: Nanos,
    node_name: String,
    address: String,
}

#[derive(Debug, Default)]
struct Shared {
    frames: AtomicU64,
    frame_bytes: AtomicU64,
    frames_lost: AtomicU64,
    file_bytes: AtomicU64,
    /// 0 while all is well.
    errno: AtomicI32,
    is_ending: AtomicBool,
}

impl Recorder {
    /// Begins a recording in an empty file. Of `origin`, a time of 0 stands for now.
    ///
    /// # Errors
    ///
    /// The system's, when not even the header can be written, or there is no thread to be had;
    /// [`io::ErrorKind::InvalidInput`] for a file that is not empty, which stays as it is.
    pub fn start(frames: TapReceiver, file: File, mut origin: RecordOrigin) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.len() != 0 {
            let reason = "a recording begins in an empty file: this one holds something already";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        if origin.monotonic == Nanos(0) {
            origin.monotonic = Nanos::now();
            origin.wall_ns = crate::time::wall_ns();
        }
        let writer = RecordWriter::begin(file, &origin)?;
        let shared = Arc::new(Shared::default());
        let (peers, coming) = bounded(PEERS_WAITING_MAX);
        let drain = Drain {
            frames,
            writer,
            coming,
            shared: Arc::clone(&shared),
            told_lost: 0,
            flush_at: Nanos::NEVER,
            retry_at: Nanos(0),
            failure: None,
            bytes_at_failure: 0,
        };
        let thread = std::thread::Builder::new()
            .name("ringwire-record".into())
            .spawn(move || drain.run())?;
        Ok(Self { thread, peers, shared })
    }

    /// Notes who a session is with, as an event told. Not waited for; left out when too many wait,
    /// or when the recording has ended by itself: keep a clone of the [`Tap`](crate::Tap) while
    /// events are still to be noted.
    pub fn note_peer(&self, connection: ConnectionId, node_name: &str, address: &str) {
        let (node_name, address) = (node_name.to_owned(), address.to_owned());
        let _ = self.peers.try_send(Peer { connection, at: Nanos::now(), node_name, address });
    }

    /// How far it is, as of the last time something was written.
    #[must_use]
    pub fn progress(&self) -> RecordProgress {
        // ORDERING: Relaxed throughout: counts that go with nothing else.
        let errno = self.shared.errno.load(Ordering::Relaxed);
        RecordProgress {
            frames: self.shared.frames.load(Ordering::Relaxed),
            frame_bytes: self.shared.frame_bytes.load(Ordering::Relaxed),
            frames_lost: self.shared.frames_lost.load(Ordering::Relaxed),
            file_bytes: self.shared.file_bytes.load(Ordering::Relaxed),
            errno: (errno != 0).then_some(errno),
        }
    }

    /// Whether it has ended by itself: the nodes with its tap are gone.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Writes what has come so far, the index and the end, and says what was achieved. Blocks for
    /// as long as the disk takes, not for what is tapped meanwhile, which may be left out.
    pub fn finish(self) -> RecorderReport {
        // ORDERING: Relaxed: it carries nothing else.
        self.shared.is_ending.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| {
            let failure = Some(io::Error::other("the recording thread panicked"));
            // ORDERING: Relaxed: the thread that wrote it has been joined.
            let frames = self.shared.frames.load(Ordering::Relaxed);
            RecorderReport { frames, frame_bytes: 0, frames_lost: 0, file_bytes: 0, failure }
        })
    }
}

/// The recorder's thread.
struct Drain {
    frames: TapReceiver,
    writer: RecordWriter<File>,
    coming: Receiver<Peer>,
    shared: Arc<Shared>,
    /// What of the tap's losses the writer knows.
    told_lost: u64,
    /// When what is gathered is to be written.
    flush_at: Nanos,
    /// When the file may be tried again.
    retry_at: Nanos,
    failure: Option<io::Error>,
    /// Length of the file when it could not be written last.
    bytes_at_failure: u64,
}

impl Drain {
    fn run(mut self) -> RecorderReport {
        let mut is_ending = false;
        loop {
            self.note_peers();
            // ORDERING: Relaxed: it carries nothing else.
            if !is_ending && self.shared.is_ending.load(Ordering::Relaxed) {
                is_ending = true;
                self.frames.end_here();
            }
            let now = Nanos::now();
            match self.frames.receive(FLUSH_EVERY / 5) {
                Ok(frame) => {
                    let is_down = now < self.retry_at;
                    let lost = take(&mut self.writer, &frame, is_down);
                    self.told_lost += frame.lost_before;
                    self.check(lost, now);
                    self.flush_at = self.flush_at.min(now + FLUSH_EVERY);
                }
                Err(ReceiveError::Timeout { .. }) => {}
                Err(_) => break,
            }
            if now >= self.flush_at {
                self.flush_at = Nanos::NEVER;
                if now < self.retry_at {
                    // Who sessions are with may wait for it.
                    self.flush_at = self.retry_at;
                } else {
                    let outcome = self.writer.flush();
                    self.check(outcome, now);
                }
                self.show();
            }
        }
        self.end()
    }

    fn note_peers(&mut self) {
        while let Ok(peer) = self.coming.try_recv() {
            let session = peer.connection.recorded();
            let outcome = self.writer.peer(session, peer.at, &peer.node_name, &peer.address);
            let now = Nanos::now();
            self.check(outcome, now);
            self.flush_at = self.flush_at.min(now + FLUSH_EVERY);
        }
    }

    /// Leaves the disk alone for a while when it refused.
    fn check(&mut self, outcome: io::Result<()>, now: Nanos) {
        let Err(error) = outcome else { return };
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        // ORDERING: Relaxed: it goes with nothing else.
        if self.shared.errno.swap(errno, Ordering::Relaxed) == 0 {
            tracing::warn!(%error, "the recording can not be written: frames are lost");
        }
        self.retry_at = now + RETRY_AFTER;
        self.failure = Some(error);
        self.bytes_at_failure = self.writer.file_bytes();
    }

    /// Tells other threads how far it is.
    fn show(&self) {
        let (written, shared) = (self.writer.written(), &self.shared);
        if self.writer.file_bytes() > self.bytes_at_failure {
            // ORDERING: Relaxed: it goes with nothing else.
            shared.errno.store(0, Ordering::Relaxed);
        }
        // ORDERING: Relaxed throughout: counts that go with nothing else.
        shared.frames.store(written.frames, Ordering::Relaxed);
        shared.frame_bytes.store(written.bytes, Ordering::Relaxed);
        shared.file_bytes.store(self.writer.file_bytes(), Ordering::Relaxed);
        let in_tap = self.frames.frames_lost() - self.told_lost;
        shared.frames_lost.store(self.writer.lost().frames + in_tap, Ordering::Relaxed);
    }

    fn end(mut self) -> RecorderReport {
        self.note_peers();
        let in_tap = self.frames.frames_lost() - self.told_lost;
        self.writer.lose(RecordTally { frames: in_tap, bytes: 0 });
        let finished = self.writer.finish().and_then(|()| synchronise(self.writer.sink()));
        if let Err(error) = finished {
            self.failure = Some(error);
        }
        self.told_lost += in_tap;
        self.show();
        let (written, lost) = (self.writer.written(), self.writer.lost());
        RecorderReport {
            frames: written.frames,
            frame_bytes: written.bytes,
            frames_lost: lost.frames,
            file_bytes: self.writer.file_bytes(),
            failure: self.failure,
        }
    }
}

/// Appends a frame, or counts it while the disk is left alone.
fn take(writer: &mut RecordWriter<File>, frame: &TapFrame<'_>, is_down: bool) -> io::Result<()> {
    if frame.lost_before > 0 {
        writer.lose(RecordTally { frames: frame.lost_before, bytes: 0 });
    }
    if is_down {
        writer.lose(RecordTally { frames: 1, bytes: frame.bytes.len() as u64 });
        return Ok(());
    }
    writer.frame(&RecordedFrame {
        direction: frame.direction,
        session: frame.connection.recorded(),
        at: frame.at,
        bytes: frame.bytes,
    })
}

/// A device or a pipe can not be synchronised, and needs not.
fn synchronise(file: &File) -> io::Result<()> {
    match file.sync_data() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        outcome => outcome,
    }
}
