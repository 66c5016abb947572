//! Links that are cut: how long until an answer comes over the next one.
//!
//! A round has as many sessions as cuts, all on one reactor, each cut once: a session whose link
//! has held for a second dials again at once, while one that is cut again earlier waits as the
//! backoff's series says, which is not what is asked here.
//!
//! Not measured: how long a silent loss takes to be noticed. A cut at this end is noticed at once;
//! the heartbeats' interval says the rest.

use std::time::Duration;

use ringwire::time::Nanos;
use ringwire::{ConnectionId, Envelope, EventKind, Reactor, Wait};

use super::harness::{SubjectError, WAIT_MAX};
use super::plan::Plan;
use super::ring::{End, GOODBYE_TIME, Many, serve, turn};
use super::round::{Extra, Round, Stopwatch, latency_histogram};
use super::socket::payload;

/// How long a link holds before it is cut: the second that ends a series of attempts, and some.
const HOLD: Duration = Duration::from_millis(1_050);

/// One round: every session answers, every link holds, then each is cut in turn.
pub(super) fn round(plan: &Plan) -> Result<Round, SubjectError> {
    let server = serve(plan)?;
    let mut end = Many::open(plan, &server)?;
    let payload = payload(plan.case.payload_bytes);
    for &connection in &end.connections {
        if !ask(&mut end.reactor, connection, &payload)? {
            let what = "first answers that are right";
            return Err(SubjectError::WrongAnswer { what, expected: 1, got: 0 });
        }
    }
    let until = Nanos::now() + HOLD;
    while Nanos::now() < until {
        turn(&mut end.reactor, Wait::Until(until))?;
    }
    while end.reactor.poll_event().is_some() {}

    let mut latency = latency_histogram();
    let mut errors = 0;
    let stopwatch = Stopwatch::start();
    for &connection in &end.connections {
        // Once more, so that both ends are awake and nothing is owed.
        errors += u64::from(!ask(&mut end.reactor, connection, &payload)?);
        let start = Nanos::now();
        end.reactor.cut_link(connection);
        errors += u64::from(!ask(&mut end.reactor, connection, &payload)?);
        let elapsed = Nanos::now().since(start);
        latency.saturating_record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        check_cut(&mut end.reactor, connection)?;
    }
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    end.close();
    let _ = server.shutdown(GOODBYE_TIME);
    let frames = 2.0 * latency.len() as f64;
    let extra = Extra::default();
    Ok(Round { latency: Some(latency), frames, elapsed_ns, cpu_ns, calls: None, errors, extra })
}

/// A reliable request. Returns whether the answer was right.
fn ask(
    reactor: &mut Reactor,
    connection: ConnectionId,
    payload: &[u8],
) -> Result<bool, SubjectError> {
    let envelope = Envelope::command().reliable();
    Ok(reactor.request_with(connection, envelope, payload, WAIT_MAX, |f| f.payload() == payload)?)
}

/// Makes sure that a cut was one: the session lost its link, dialled at once, as the first attempt
/// of a series, and went on.
fn check_cut(reactor: &mut Reactor, connection: ConnectionId) -> Result<(), SubjectError> {
    let mut steps = 0;
    while let Some(event) = reactor.poll_event() {
        let is_step = match event.kind {
            EventKind::LinkLost { .. } => steps == 0,
            EventKind::Reconnecting { attempt: 1, .. } => steps == 1,
            // An attempt that failed costs time, which is measured.
            EventKind::Reconnecting { .. } => continue,
            EventKind::Resumed { .. } => steps == 2,
            _ => false,
        };
        steps += u64::from(is_step && event.connection == connection);
    }
    if steps != 3 {
        let what = "steps of a link that was cut: lost, dialled at once, resumed";
        return Err(SubjectError::WrongAnswer { what, expected: 3, got: steps });
    }
    Ok(())
}
