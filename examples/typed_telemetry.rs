//! Typed messages: a command with a typed answer, and a stream of telemetry, read in place.
//!
//! ```text
//! cargo run --release --example typed_telemetry
//! ```
//!
//! A drive (the server) and a supervisor (the client) in one process, on a thread each. Both would
//! share the types below in a crate of their own. The values are encoded straight into the send
//! buffer, and read where the kernel received them: what a handler gets is validated, and borrowed.
//! Numbers in it are little-endian on every machine: `to_native` reads them.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use ringwire::{
    Client, Config, ConnectionState, Envelope, Incoming, Nanos, Priority, ReceiveError, SendError,
    Server,
};
use rkyv::{Archive, Serialize};

/// Command: move an axis.
#[derive(Archive, Serialize)]
struct MoveTo {
    axis: u32,
    position_mm: f64,
    speed_mm_s: f64,
}

/// The answer to it.
#[derive(Archive, Serialize)]
enum MoveAnswer {
    Accepted { takes_s: f64 },
    OutOfRange { limit_mm: f64 },
}

/// What one axis does.
#[derive(Archive, Serialize)]
struct AxisState {
    position_mm: f64,
    current_a: f32,
}

/// Telemetry: the whole drive, once per cycle. Nested types and lists are fine.
#[derive(Archive, Serialize)]
struct Telemetry {
    cycle: u64,
    axes: Vec<AxisState>,
    fault: Option<String>,
}

// Each type has a number on the wire, which both ends must agree on.
ringwire::payload! {
    MoveTo = 0x0101,
    MoveAnswer = 0x0102,
    Telemetry = 0x0201,
}

/// The key of this drive's telemetry: of one key only the latest value counts.
const DRIVE: u32 = 1;
const AXES: usize = 3;
const LIMIT_MM: f64 = 250.0;
const PERIOD: Duration = Duration::from_millis(5);
const CYCLES: u64 = 200;
/// How long an answer, or the supervisor, may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let drive = start_drive()?;
    let address = drive.addresses()[0].to_string();
    let supervisor = std::thread::spawn(move || supervise(&address).map_err(|e| e.to_string()));

    // Whoever comes later misses what was sent before.
    while !matches!(drive.wait(PATIENCE)?, Incoming::Event(_)) {}
    let refused = stream_telemetry(&drive)?;
    let skipped = drive.statistics().messages_dropped;
    let report = drive.shutdown(Duration::from_secs(1));
    println!("drive: {CYCLES} cycles, {skipped} skipped, {refused} refused; {report:?}");
    supervisor.join().expect("the supervisor does not panic")?;
    Ok(())
}

fn start_drive() -> Result<Server, Box<dyn Error>> {
    let server = Server::builder()
        .config(Config::builder().node_name("drive").build()?)
        .listen("127.0.0.1:0")
        // Called for messages with the number of `MoveTo`. Bytes that claim to be one and are not
        // never come here: they close their connection, and are counted.
        .on_type::<MoveTo>(|context, _frame, command| {
            let position_mm = command.position_mm.to_native();
            let answer = if position_mm.abs() <= LIMIT_MM {
                MoveAnswer::Accepted { takes_s: position_mm.abs() / command.speed_mm_s.to_native() }
            } else {
                MoveAnswer::OutOfRange { limit_mm: LIMIT_MM }
            };
            // Printing is for the example's sake: a handler should not wait for a terminal.
            println!("drive: axis {} to {position_mm} mm", command.axis);
            if let Err(error) = context.reply(Envelope::status(), &answer) {
                eprintln!("drive: no answer to {}: {error}", context.connection());
            }
        })
        .start()?;
    Ok(server)
}

/// Sends every client what the axes do, for a second. Returns how many messages were refused.
fn stream_telemetry(drive: &Server) -> Result<u64, SendError> {
    let mut refused = 0;
    let started = Nanos::now();
    for cycle in 0..CYCLES {
        let telemetry = measure(cycle);
        // Behind commands of high priority, before bulk of low priority. A newer one takes the
        // place of one that still waits, so a slow client skips values instead of falling behind.
        let envelope = Envelope::data().priority(Priority::Normal).latest(DRIVE);
        let report = drive.broadcast(envelope, &telemetry)?;
        // Refused for want of memory, or a client has just left; the others are not delayed.
        refused += report.refused().count() as u64;
        // Until the next cycle, there may be messages that no handler takes.
        let due = started + PERIOD * u32::try_from(cycle + 1).expect("few cycles");
        while Nanos::now() < due {
            if let Ok(message) = drive.receive(due.since(Nanos::now())) {
                println!("drive: {:?} from {}", message.kind(), message.connection());
            }
        }
    }
    Ok(refused)
}

/// What a drive would read from its hardware.
fn measure(cycle: u64) -> Telemetry {
    let axis = |index: usize| {
        let angle = cycle as f64 * 0.05 + index as f64;
        AxisState { position_mm: 100.0 * angle.sin(), current_a: 2.0 }
    };
    let fault = (cycle == CYCLES / 2).then(|| "axis 1: following error".into());
    Telemetry { cycle, axes: (0..AXES).map(axis).collect(), fault }
}

/// The client's side. Its handlers run inside its calls, on this thread, so they share plain cells.
fn supervise(address: &str) -> Result<(), Box<dyn Error>> {
    let config = Config::builder().node_name("supervisor").build()?;
    let mut client = Client::new(config)?;
    let received = Rc::new(Cell::new(0_u64));
    let farthest_mm = Rc::new(Cell::new(0.0_f64));
    let oldest = Rc::new(Cell::new(Duration::ZERO));

    let cells = (Rc::clone(&received), Rc::clone(&farthest_mm), Rc::clone(&oldest));
    client.on_type::<Telemetry>(move |context, frame, telemetry| {
        let (received, farthest_mm, oldest) = &cells;
        received.set(received.get() + 1);
        for axis in telemetry.axes.iter() {
            farthest_mm.set(farthest_mm.get().max(axis.position_mm.to_native()));
        }
        // Both ends are on one machine here, and so on one clock.
        let age = context.now().since(Nanos(frame.sent_at_ns()));
        oldest.set(oldest.get().max(age));
        if let Some(fault) = telemetry.fault.as_ref() {
            println!("supervisor: cycle {}: {fault}", telemetry.cycle);
        }
    });
    client.connect(address)?;

    for (axis, position_mm) in [(1, 120.0), (2, 900.0)] {
        let command = MoveTo { axis, position_mm, speed_mm_s: 60.0 };
        // The answer is read in place too; `access` says when it is not a valid `MoveAnswer`.
        let said = client.request_with(Envelope::command(), &command, PATIENCE, |frame| {
            frame.access::<MoveAnswer>().map(|answer| match answer {
                ArchivedMoveAnswer::Accepted { takes_s } => {
                    format!("on its way, {:.1} s", takes_s.to_native())
                }
                ArchivedMoveAnswer::OutOfRange { limit_mm } => {
                    format!("refused, the limit is {} mm", limit_mm.to_native())
                }
            })
        })??;
        println!("supervisor: axis {axis} to {position_mm} mm: {said}");
    }

    // A supervisor with nothing else to do waits here, until the drive says goodbye.
    while client.connection_state() == ConnectionState::Connected {
        match client.receive(Duration::from_secs(1)) {
            Ok(message) => println!("supervisor: unexpected {:?}", message.kind()),
            Err(ReceiveError::NotConnected) => break,
            Err(_) => {}
        }
    }
    println!(
        "supervisor: {} telemetry messages, {:.1} mm at most, the oldest {:?} old",
        received.get(),
        farthest_mm.get(),
        oldest.get(),
    );
    Ok(())
}
