//! A control loop: 1,000 times a second, send a setpoint and have the answer before the cycle ends.
//!
//! ```text
//! cargo run --release --example control_loop                      2 s, against a server in here
//! cargo run --release --example control_loop -- 60                a minute
//! cargo run --release --example control_loop -- 60 drive-7:7411   against `ringwire serve` there
//! ```
//!
//! Every cycle has an *intended* instant, a whole number of periods after the start, and all times
//! count from there. A cycle that starts late because the one before it hung is late, as it would
//! be for the machine that is controlled. A loop that measured from when it got round to sending
//! would hide just that.
//!
//! The two figures that matter for a controller are p99.9 and the maximum. To improve them, see
//! what `ringwire doctor` says about this host, and give the loop a core of its own.

use std::error::Error;
use std::time::Duration;

use hdrhistogram::Histogram;
use ringwire::{
    Client, Config, ConnectionState, Envelope, Idle, Kind, Nanos, RequestError, Server,
};

const PERIOD: Duration = Duration::from_millis(1);
/// An answer that takes longer is of no use to this cycle.
const ANSWER_TIMEOUT: Duration = Duration::from_micros(900);
/// The end of every wait is spun: a thread that sleeps may wake up this much too late.
const WAKE_SLACK: Duration = Duration::from_micros(200);

/// What became of the cycles.
struct Outcome {
    /// From the intended instant until the loop was running.
    wake_up: Histogram<u64>,
    /// From the intended instant until the answer was in hand.
    answer: Histogram<u64>,
    cycles: u64,
    /// Answers that did not come in time, or not at all while the link was away.
    unanswered: u64,
    /// Instants that passed while an earlier cycle was still busy.
    skipped: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let time = Duration::try_from_secs_f64(seconds)?;
    // Kept until the end of main: dropping a server ends it.
    let (_server, address) = match arguments.next() {
        Some(address) => (None, address),
        None => {
            let server = start_server()?;
            let address = server.addresses()[0].to_string();
            (Some(server), address)
        }
    };

    // Spinning is worth it while an answer is due within microseconds; `poll` never sleeps anyway.
    let idle = if cores() > 1 { Idle::Spin } else { Idle::Adaptive };
    let config = Config::builder().node_name("control loop").idle(idle).build()?;
    let mut client = Client::new(config)?;
    client.connect(&address)?;
    println!("{} cycles a second for {time:?} against {address}", 1.0 / PERIOD.as_secs_f64());
    let outcome = run(&mut client, time)?;
    print(&outcome);
    let _ = client.disconnect(Duration::from_secs(1));
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The other side, where none is given: a reactor on a thread of its own that answers commands.
fn start_server() -> Result<Server, Box<dyn Error>> {
    // With a core to spare, spin through the pauses between cycles rather than fall asleep.
    let spin_us = if cores() > 1 { 2_000 } else { 0 };
    let config = Config::builder().node_name("drive").idle_spin_us(spin_us).build()?;
    let server = Server::builder()
        .config(config)
        .listen("127.0.0.1:0")
        .on(Kind::Command, |context, frame| {
            let _ = context.reply(Envelope::status(), frame.payload());
        })
        .start()?;
    Ok(server)
}

fn run(client: &mut Client, time: Duration) -> Result<Outcome, Box<dyn Error>> {
    let mut outcome = Outcome {
        wake_up: histogram()?,
        answer: histogram()?,
        cycles: 0,
        unanswered: 0,
        skipped: 0,
    };
    let mut due = Nanos::now() + PERIOD;
    let end = due + time;
    while due < end {
        wait_until(client, due);
        outcome.wake_up.saturating_record(nanos_since(due));

        // The work of a cycle: the setpoint of this instant goes out, the measured value comes in.
        let setpoint = setpoint_at(outcome.cycles);
        let measured = client.request_with(
            Envelope::command().critical(),
            &setpoint.to_le_bytes(),
            ANSWER_TIMEOUT,
            // Called with the frame where the kernel put it: nothing is copied or allocated.
            |frame| frame.payload().try_into().map(f64::from_le_bytes),
        );
        match measured {
            Ok(measured) => {
                assert_eq!(measured?, setpoint, "the other side echoes");
                outcome.answer.saturating_record(nanos_since(due));
            }
            // The link lives on, and so does the loop. A late answer is counted and dropped.
            Err(RequestError::Timeout { .. }) => outcome.unanswered += 1,
            // The link is lost, and the client makes it again while the loop goes on. The session
            // ends, and with it this loop, when that takes longer than `session_linger_ms`.
            Err(_) if client.connection_state() == ConnectionState::Reconnecting => {
                outcome.unanswered += 1;
            }
            Err(error) => return Err(error.into()),
        }

        outcome.cycles += 1;
        due = due + PERIOD;
        // After a stall, go on with the next instant to come; do not make up for the lost ones in
        // a burst that no drive could follow.
        while due < Nanos::now() {
            due = due + PERIOD;
            outcome.skipped += 1;
        }
    }
    Ok(outcome)
}

/// Serves the connection until `due`: sleeps for most of the time, then spins.
fn wait_until(client: &mut Client, due: Nanos) {
    loop {
        let left = due.since(Nanos::now());
        if left.is_zero() {
            return;
        }
        if left <= WAKE_SLACK {
            client.poll();
        } else if client.run_for(left - WAKE_SLACK).is_err() {
            // The session is over: the cycle's request says so.
            return;
        }
    }
}

/// A slow sine: what the axis is to follow, in millimetres.
fn setpoint_at(cycle: u64) -> f64 {
    let seconds = cycle as f64 * PERIOD.as_secs_f64();
    10.0 * (std::f64::consts::TAU * 0.5 * seconds).sin()
}

/// From 1 ns to a minute, three digits; recording allocates nothing.
fn histogram() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
}

fn nanos_since(due: Nanos) -> u64 {
    Nanos::now().0.saturating_sub(due.0)
}

fn print(outcome: &Outcome) {
    println!("{:>14} {:>9} {:>9} {:>9} {:>9} {:>9}  (µs)", "", "p50", "p90", "p99", "p99.9", "max");
    for (name, histogram, of) in [
        ("running after", &outcome.wake_up, "of all that ran"),
        ("answer after", &outcome.answer, "of those answered"),
    ] {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        let max = histogram.max() as f64 / 1_000.0;
        println!(
            "{name:>14} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {max:>9.1}  {of}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
        );
    }
    println!(
        "{} cycles: {} missed ({} without an answer in {ANSWER_TIMEOUT:?}, {} skipped)",
        outcome.cycles + outcome.skipped,
        outcome.unanswered + outcome.skipped,
        outcome.unanswered,
        outcome.skipped,
    );
}
