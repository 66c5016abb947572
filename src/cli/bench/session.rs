//! Critical requests of ringwire at a fixed rate or one behind the other, with a stream of long
//! messages in the low lane of the same session when the case asks for it.
//!
//! One thread does all of it, as a control loop would: whenever the lane has room it adds the next
//! long message, and whenever a request is due it sends that. Requests are commands, and what comes
//! back is a command in the critical lane, too.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use ringwire::error::SendError;
use ringwire::time::Nanos;
use ringwire::{Envelope, Kind, Priority, Server, Wait};

use super::harness::SubjectError;
use super::paced::{Load, Runner, measure};
use super::plan::{BULK_BYTES, Bulk, Plan};
use super::ring::{End, GOODBYE_TIME, Many, calls, config, silent, turn};
use super::round::{Calls, Round};
use super::socket::payload;

/// Where the number of a request stands in its payload, when it is long enough.
const STAMP_BYTES: usize = 8;

/// A session and what flows over it.
struct Session {
    end: Many,
    server: Server,
    load: Rc<RefCell<Load>>,
    payload: Vec<u8>,
    bulk: Option<Bytes>,
    /// Payload bytes of the stream that the server has seen.
    arrived: Arc<AtomicU64>,
}

pub(super) fn round(plan: &Plan) -> Result<Round, SubjectError> {
    let arrived = Arc::new(AtomicU64::new(0));
    let server = serve(plan, &arrived)?;
    let mut end = Many::open(plan, &server)?;
    let load = Rc::new(RefCell::new(Load::new(plan)));
    let payload = payload(plan.case.payload_bytes);
    let (handled, expected) = (Rc::clone(&load), payload.clone());
    end.reactor.on(Kind::Command, move |_, frame| {
        // Looked at before the clock is read, as by an application that acts on it.
        let mut load = handled.borrow_mut();
        let is_right = is_answer(frame.payload(), &expected, load.next().0)
            && frame.priority() == Priority::Critical;
        load.answer(Nanos::now(), is_right);
    });
    let bulk = (plan.case.bulk != Bulk::Nothing).then(|| Bytes::from(vec![0x5a; BULK_BYTES]));
    let mut session = Session { end, server, load, payload, bulk, arrived };
    let round = measure(plan, &mut session)?;
    session.end.close();
    let _ = session.server.shutdown(GOODBYE_TIME);
    Ok(round)
}

/// Answers each request in the lane it came in, and counts the stream.
fn serve(plan: &Plan, arrived: &Arc<AtomicU64>) -> Result<Server, SubjectError> {
    let arrived = Arc::clone(arrived);
    let builder = Server::builder()
        .config(config(plan, &[plan.cores.server])?)
        .listen("127.0.0.1:0")
        .reactors(1)
        .on(Kind::Command, |context, frame| {
            let envelope = Envelope::command().priority(frame.priority());
            let _ = context.reply(envelope, frame.payload());
        })
        .on(Kind::Data, move |_, frame| {
            // ORDERING: Relaxed: one writer, and a reader that wants a count alone.
            let bytes = arrived.load(Relaxed) + frame.payload().len() as u64;
            arrived.store(bytes, Relaxed);
        });
    Ok(builder.start()?)
}

/// Whether `answer` is the echo of request number `index`.
fn is_answer(answer: &[u8], payload: &[u8], index: u64) -> bool {
    match (answer.split_first_chunk::<STAMP_BYTES>(), payload.split_first_chunk::<STAMP_BYTES>()) {
        (Some((stamp, rest)), Some((_, expected))) => {
            *stamp == index.to_le_bytes() && rest == expected
        }
        _ => answer == payload,
    }
}

impl Session {
    /// Adds a long message to the low lane. Returns whether there was room.
    fn feed(&mut self) -> Result<bool, SubjectError> {
        let Some(bulk) = &self.bulk else { return Ok(false) };
        let envelope = Envelope::data().priority(Priority::Low);
        match self.end.reactor.send(self.end.connections[0], envelope, bulk) {
            Ok(()) => Ok(true),
            Err(SendError::Full | SendError::MemoryFull) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the requests that are due.
    fn send_due(&mut self, now: Nanos) -> Result<(), SubjectError> {
        let mut load = self.load.borrow_mut();
        while load.due() <= now {
            if let Some(stamp) = self.payload.first_chunk_mut::<STAMP_BYTES>() {
                *stamp = load.next().1.to_le_bytes();
            }
            load.send(now);
            let envelope = Envelope::command().critical();
            self.end.reactor.send(self.end.connections[0], envelope, &self.payload[..])?;
        }
        Ok(())
    }
}

impl Runner for Session {
    fn run(&mut self) -> Result<(), SubjectError> {
        loop {
            let now = Nanos::now();
            self.send_due(now)?;
            {
                let load = self.load.borrow();
                if load.is_done() {
                    return Ok(());
                }
                if load.is_silent(now) {
                    return Err(silent("answer"));
                }
            }
            let wait = if self.feed()? {
                Wait::Poll
            } else {
                let wait_max = now + super::harness::WAIT_MAX;
                Wait::Until(self.load.borrow().due().min(wait_max))
            };
            turn(&mut self.end.reactor, wait)?;
        }
    }

    fn with_load<R>(&mut self, take: impl FnOnce(&mut Load) -> R) -> R {
        take(&mut self.load.borrow_mut())
    }

    fn calls(&self) -> Option<Calls> {
        Some(calls(&self.end.statistics(), &self.server))
    }

    fn bulk_bytes(&self) -> u64 {
        // ORDERING: Relaxed: a count alone.
        self.arrived.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_answers_are_seen() {
        let payload = payload(16);
        let mut answer = payload.clone();
        answer[..STAMP_BYTES].copy_from_slice(&7_u64.to_le_bytes());
        assert!(is_answer(&answer, &payload, 7));
        assert!(!is_answer(&answer, &payload, 8), "the answer to another request");
        answer[12] ^= 1;
        assert!(!is_answer(&answer, &payload, 7), "changed on the way");
        assert!(!is_answer(&answer[..15], &payload, 7));
        assert!(is_answer(&[1, 2], &[1, 2], 3), "too short for a number");
    }
}
