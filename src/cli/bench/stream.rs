//! What the streams over plain sockets have in common: one end writes as fast as it can until its
//! time is up, the other takes everything and then says how much it was.
//!
//! The rate counts from the first write to that answer, so nothing is counted that has not
//! arrived and been looked at. Over several connections the writer goes round them, one buffer at
//! a time, and the reader waits with epoll.

use std::io::{self, ErrorKind};

use ringwire::time::Nanos;
use rustix::event::epoll::EventFlags;

use super::harness::SubjectError;
use super::link::{Link, Poller, with_server};
use super::plan::Plan;
use super::round::{Extra, Round, Stopwatch};

/// Length of an [`Answer`] on the wire.
const ANSWER_BYTES: usize = 16;

/// Of so many frames one is compared byte by byte, the first among them. To look at each would cost
/// short ones more than the transports do that are compared. A prime, so that it is not always the
/// same connection's where batches of several take turns.
const COMPARED_EVERY: u64 = 61;

/// Whether the content of a frame is looked at, beside its length and its place in the stream.
#[inline]
pub(super) fn is_compared(frames_before: u64) -> bool {
    frames_before.is_multiple_of(COMPARED_EVERY)
}

/// Makes what one connection sends.
pub(super) trait Source {
    /// The next buffer to write. `last` marks its end as the end of a part, which the reader
    /// answers.
    fn fill(&mut self, last: Last) -> &[u8];
}

/// Takes what one connection receives.
pub(super) trait Sink {
    /// Where the next bytes go. Never empty.
    fn room(&mut self) -> &mut [u8];

    /// Takes `bytes` that were put at the start of [`room`](Self::room). Returns the answer when
    /// they complete a part.
    fn take(&mut self, bytes: usize) -> io::Result<Option<Answer>>;
}

/// Whether a buffer ends a part of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    More,
    Last,
}

/// What the reader saw of a part of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Answer {
    pub(super) bytes: u64,
    /// Frames that were not the ones expected.
    pub(super) errors: u64,
}

/// One round, with a source and a sink for each connection.
pub(super) fn round<S: Source, K: Sink>(
    plan: &Plan,
    source: impl Fn() -> S,
    sink: impl Fn() -> K + Sync,
) -> Result<Round, SubjectError> {
    let drive = |links: Vec<Link>| {
        let mut ends: Vec<(Link, S)> = links.into_iter().map(|link| (link, source())).collect();
        let io = SubjectError::io("stream");
        check(&mut ends)?;
        pump(&mut ends, Nanos::now() + plan.warm_up()).map_err(&io)?;

        let stopwatch = Stopwatch::start();
        let (sent, answer) = pump(&mut ends, Nanos::now() + plan.duration).map_err(&io)?;
        let (elapsed_ns, cpu_ns) = stopwatch.stop();
        let frame_bytes = plan.case.frame_bytes() as u64;
        let missing = sent.abs_diff(answer.bytes).div_ceil(frame_bytes);
        Ok(Round {
            latency: None,
            frames: answer.bytes as f64 / frame_bytes as f64,
            elapsed_ns,
            cpu_ns,
            calls: None,
            errors: answer.errors + missing,
            extra: Extra::default(),
        })
    };
    let serve = |links: Vec<Link>| {
        let ends = links.into_iter().map(|link| (link, sink())).collect();
        drain(ends, plan)
    };
    with_server(plan, serve, drive)
}

/// A short stream whose answer must be right: timing a wrong one would be pointless.
fn check<S: Source>(ends: &mut [(Link, S)]) -> Result<(), SubjectError> {
    let (sent, answer) = pump(ends, Nanos(0)).map_err(SubjectError::io("first stream"))?;
    let right = Answer { bytes: sent, errors: 0 };
    if answer.errors > 0 {
        let what = "wrong frames in the first stream";
        return Err(SubjectError::WrongAnswer { what, expected: 0, got: answer.errors });
    }
    if answer != right {
        let what = "bytes of the first stream";
        return Err(SubjectError::WrongAnswer { what, expected: sent, got: answer.bytes });
    }
    Ok(())
}

/// Writes until `until` and then waits for the answers. Returns the bytes written and the sum of
/// what the reader says.
fn pump<S: Source>(ends: &mut [(Link, S)], until: Nanos) -> io::Result<(u64, Answer)> {
    let mut sent = 0;
    let mut last = Last::More;
    while last == Last::More {
        if Nanos::now() >= until {
            last = Last::Last;
        }
        for (link, source) in &mut *ends {
            let bytes = source.fill(last);
            link.write_all(bytes)?;
            sent += bytes.len() as u64;
        }
    }
    let mut sum = Answer::default();
    for (link, _) in ends {
        let mut bytes = [0; ANSWER_BYTES];
        if !link.read_exact(&mut bytes)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let answer = Answer::from_bytes(bytes);
        sum.bytes += answer.bytes;
        sum.errors += answer.errors;
    }
    Ok((sent, sum))
}

/// Reads every connection to its end, answering each part.
fn drain<K: Sink>(mut ends: Vec<(Link, K)>, plan: &Plan) -> io::Result<()> {
    if let [(link, sink)] = &mut ends[..] {
        while receive(link, sink)? > 0 {}
        return Ok(());
    }
    let mut poller = Poller::new(plan)?;
    let mut ends: Vec<Option<(Link, K)>> = ends.into_iter().map(Some).collect();
    for (index, end) in ends.iter().enumerate() {
        if let Some((link, _)) = end {
            poller.add(link, index, EventFlags::IN)?;
        }
    }
    let mut open = ends.len();
    while open > 0 {
        for index in poller.wait()? {
            let Some((link, sink)) = &mut ends[index] else {
                continue;
            };
            if receive(link, sink)? == 0 {
                // Dropping the link closes it, and closing takes it out of the epoll set.
                ends[index] = None;
                open -= 1;
            }
        }
    }
    Ok(())
}

/// Reads once. Returns how many bytes came: 0 at the end of the stream.
#[inline]
fn receive<K: Sink>(link: &mut Link, sink: &mut K) -> io::Result<usize> {
    let bytes = link.read_some(sink.room())?;
    if bytes > 0
        && let Some(answer) = sink.take(bytes)?
    {
        link.write_all(&answer.to_bytes())?;
    }
    Ok(bytes)
}

impl Answer {
    pub(super) fn to_bytes(self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        bytes[..8].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.errors.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; ANSWER_BYTES]) -> Self {
        let number = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut out"))
        };
        Self { bytes: number(0), errors: number(8) }
    }
}
