//! What sessions cost that have nothing to say.
//!
//! Both ends are in this process, so that CPU time and memory are those of both together: the
//! heartbeats, and what each session keeps.

use ringwire::Wait;
use ringwire::time::Nanos;

use super::harness::SubjectError;
use super::plan::Plan;
use super::ring::{End, GOODBYE_TIME, Many, serve, turn};
use super::round::{Extra, Resident, Round, Stopwatch};

pub(super) fn round(plan: &Plan) -> Result<Round, SubjectError> {
    let resident = Resident::start(plan);
    let server = serve(plan)?;
    let mut end = Many::open(plan, &server)?;
    rest(&mut end, Nanos::now() + plan.warm_up())?;
    let resident_bytes = resident.stop();

    let stopwatch = Stopwatch::start();
    rest(&mut end, Nanos::now() + plan.duration)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let expected = plan.case.connections as u64;
    let errors = expected.abs_diff(end.statistics().connections_active)
        + expected.abs_diff(server.statistics().connections_active);
    end.close();
    let _ = server.shutdown(GOODBYE_TIME);
    Ok(Round {
        latency: None,
        frames: 0.0,
        elapsed_ns,
        cpu_ns,
        calls: None,
        errors,
        extra: Extra { resident_bytes, ..Extra::default() },
    })
}

fn rest(end: &mut Many, until: Nanos) -> Result<(), SubjectError> {
    while Nanos::now() < until {
        turn(&mut end.reactor, Wait::Until(until))?;
    }
    Ok(())
}
