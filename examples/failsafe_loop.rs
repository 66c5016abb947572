//! A failsafe control loop: the controller hangs, is killed and leaves, the drive is killed; all
//! come back.
//!
//! ```text
//! cargo run --release --example failsafe_loop
//! ```
//!
//! Three processes, all of this program: a *drive* (the server), a *controller* (the client, 1,000
//! setpoints a second) and the demo, which starts the two, does them harm, and checks what they
//! say. It ends with an error when one of them did not do what it must.
//!
//! What makes the drive safe:
//!
//! - It *watches* the setpoints: none for 20 ms, and it goes safe, whoever is to blame; at once
//!   when the session with its controller ends, be it in good order.
//! - Setpoints have a *time to live*: one that comes late is dropped before the handler sees it.
//! - It follows one session, the last that enabled it. A controller that was restarted must say so
//!   again, and so must one that was away for so long that its session is over.
//!   Enabling is *reliable*; setpoints are *best effort*, the latest value is all that counts.
//!
//! The times are those of a machine that does other things too; see `ringwire doctor`.

use std::cell::Cell;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ringwire::{
    Client, Config, ConfigError, ConnectionId, ConnectionState, Envelope, EventKind, Incoming,
    Nanos, Payload, RequestError, SendError, Server, Wait, WatchKey,
};
use rkyv::{Archive, Serialize};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// Best effort, a thousand times a second: where the axis is to be.
#[derive(Archive, Serialize)]
struct Setpoint {
    position_mm: f64,
}

/// Reliable, once for each session: follow my setpoints from now on.
#[derive(Archive, Serialize)]
struct Enable {
    speed_mm_s_max: f64,
}

/// The answer to it.
#[derive(Archive, Serialize)]
struct Status {
    state: u8,
}

ringwire::payload! {
    Setpoint = 0x0301,
    Enable = 0x0302,
    Status = 0x0303,
}

const CYCLE: Duration = Duration::from_millis(1);
/// So long may setpoints stay away before the drive goes safe.
const SILENCE_MAX: Duration = Duration::from_millis(20);
/// A setpoint older than this is never run.
const SETPOINT_TTL: Duration = Duration::from_millis(10);
/// One axis, one key: a newer setpoint takes the place of one that still waits to be sent.
const AXIS_KEY: u32 = 1;
/// Enabling may take a lost link and a new one.
const ENABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the demo waits for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// How late a process may get the processor on a busy machine: allowed beyond `SILENCE_MAX`.
const SCHEDULING_MAX: Duration = Duration::from_secs(1);
/// How long everything runs before the next thing goes wrong.
const CALM: Duration = Duration::from_millis(200);
/// How long a process hangs: for several times `SILENCE_MAX`.
const HANG: Duration = Duration::from_millis(100);
/// How many cycles the controller runs that leaves in good order.
const LEAVES_AFTER: &str = "300";
/// How many it runs that does not leave by itself.
const STAYS: &str = "18446744073709551615";
/// For how many milliseconds both ends keep a session without a link.
const LINGER_MS: &str = "10000";
/// The same for a controller that is to see the end of its session.
const LINGER_SHORT_MS: &str = "200";
/// How long the controller waits before it tries once more to make a session.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["drive", endpoint] => drive(endpoint),
        ["controller", endpoint, cycles, linger_ms] => {
            controller(endpoint, cycles.parse()?, config("controller", linger_ms.parse()?)?)
        }
        _ => demo(),
    }
}

/// Says something to the demo: when (all processes of a machine share the clock), and what.
fn say(text: &str) {
    println!("{} {text}", Nanos::now().0);
}

fn config(name: &str, linger_ms: u32) -> Result<Config, ConfigError> {
    Config::builder()
        .node_name(name)
        .session_linger_ms(linger_ms)
        .heartbeat_interval_ms(100)
        .reconnect_delay_max_ms(20)
        .build()
}

// The drive.

const SAFE: u8 = 0;
const ENABLED: u8 = 1;
const OPERATIONAL: u8 = 2;
const STATES: [&str; 3] = ["safe", "enabled", "operational"];

/// What the handlers share.
struct Axis {
    state: Cell<u8>,
    /// Who is followed: the session that enabled the drive last. Its id stays the same when its
    /// link is lost and made again, and no later session has it.
    follows: Cell<Option<ConnectionId>>,
}

thread_local! {
    /// There is one reactor, and all handlers run on its thread: nothing is shared with another.
    static AXIS: Axis = const { Axis { state: Cell::new(SAFE), follows: Cell::new(None) } };
}

impl Axis {
    fn is(&self, state: u8) -> bool {
        self.state.get() == state
    }

    fn follows(&self, session: ConnectionId) -> bool {
        self.follows.get() == Some(session)
    }

    /// Printing is for the demo's sake: a handler should not wait for a terminal.
    fn enter(&self, state: u8, why: &str) {
        if self.state.replace(state) != state {
            say(&format!("{}: {why}", STATES[usize::from(state)]));
        }
    }
}

fn drive(endpoint: &str) -> Result<(), Box<dyn Error>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let server = Server::builder()
        .config(config("drive", LINGER_MS.parse()?)?)
        .reactors(1)
        .listen(endpoint)
        .watch(WatchKey::Type(Setpoint::TYPE_ID), SILENCE_MAX)
        .on_type::<Enable>(|context, _frame, _enable| {
            AXIS.with(|axis| axis.follows.set(Some(context.connection())));
            // Operational with the first setpoint: from then on silence is noticed.
            AXIS.with(|axis| axis.enter(ENABLED, "waits for setpoints"));
            // Reliable as the request is. Refused only when the link's lane is full.
            let _ = context.reply(Envelope::status(), &Status { state: ENABLED });
        })
        .on_type::<Setpoint>(|context, _frame, setpoint| {
            AXIS.with(|axis| {
                if !axis.follows(context.connection()) || axis.is(SAFE) {
                    return;
                }
                axis.enter(OPERATIONAL, "follows the controller");
                // Here a drive would write to its hardware.
                std::hint::black_box(setpoint.position_mm.to_native());
            });
        })
        // On the reactor's thread, in the turn that the deadline falls into: brakes on, now.
        .on_deadline_missed(|context, watched| {
            AXIS.with(|axis| {
                if axis.follows(context.connection()) {
                    let silent_ms = millis(watched.silent_for);
                    let why = match watched.ended {
                        Some(reason) => format!("no setpoint any more: {reason}"),
                        None => format!("no setpoint for {silent_ms:.1} ms"),
                    };
                    axis.enter(SAFE, &why);
                }
            });
        })
        // The session that was enabled goes on: its controller hung, or its link was away.
        .on_deadline_recovered(|context, watched| {
            AXIS.with(|axis| {
                if axis.follows(context.connection()) {
                    let silent_ms = millis(watched.silent_for);
                    axis.enter(OPERATIONAL, &format!("setpoints after {silent_ms:.1} ms"));
                }
            });
        })
        .start()?;
    say(&format!("listens on {}", server.addresses()[0]));

    let mut expired = 0;
    loop {
        if let Ok(Incoming::Event(event)) = server.wait(SILENCE_MAX) {
            match event.kind {
                EventKind::Connected => say(&format!("connected: {}", event.node_name)),
                EventKind::LinkLost { reason, .. } => say(&format!("link lost: {reason}")),
                _ => {}
            }
        }
        let expired_now = server.statistics().messages_expired;
        if expired_now > expired {
            say(&format!("stale: {} setpoints came too late, not run", expired_now - expired));
            expired = expired_now;
        }
    }
}

// The controller.

/// Leaves in good order after so many cycles.
fn controller(endpoint: &str, cycles: u64, config: Config) -> Result<(), Box<dyn Error>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut client = Client::new(config)?;
    client.connect(endpoint)?;
    let setpoint_envelope = Envelope::data().ttl(SETPOINT_TTL).latest(AXIS_KEY);
    let enable_envelope = Envelope::command().critical().reliable();
    let mut enabling = None;
    let mut cycle = 0_u64;
    let mut due = Nanos::now() + CYCLE;
    while cycle < cycles {
        // Serves the link until the next cycle. While it is away, dials, until the session is over:
        // a new one is for us to make.
        if client.run_for(due.since(Nanos::now())).is_err() {
            connect_again(&mut client, endpoint)?;
        }
        client.poll();
        while let Some(event) = client.poll_event() {
            // The first attempt is news, the others are not.
            if !matches!(event.kind, EventKind::Reconnecting { attempt: 2.., .. }) {
                say(&described(&event.kind));
            }
            // A session begins: this drive has never heard of us. A session that is resumed goes
            // on by itself, and an order to enable that was on its way arrives.
            if event.kind == EventKind::Connected {
                // The one before went with its session: without its id nobody takes its outcome.
                if let Some(request) = enabling.take() {
                    client.cancel_request(request);
                }
                let enable = Enable { speed_mm_s_max: 60.0 };
                enabling = match client.start_request(enable_envelope, &enable, ENABLE_TIMEOUT) {
                    Ok(request) => Some(request),
                    // Over again already. The next session begins with enabling.
                    Err(RequestError::Send(SendError::NotConnected)) => None,
                    Err(error) => return Err(error.into()),
                };
            }
        }
        if let Some(outcome) = enabling.and_then(|request| client.take_response(request)) {
            enabling = None;
            match outcome {
                Ok(answer) => {
                    // A byte of the peer's: nothing to index with unchecked.
                    let state = usize::from(answer.access::<Status>()?.state);
                    let name = STATES.get(state).ok_or("the drive answers with no known state")?;
                    say(&format!("the drive answers: {name}"));
                }
                // That session is over. The next one begins with enabling.
                Err(RequestError::ConnectionLost { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }

        let seconds = cycle as f64 * CYCLE.as_secs_f64();
        let setpoint = Setpoint { position_mm: 10.0 * seconds.sin() };
        match client.send(setpoint_envelope, &setpoint) {
            // Not kept for later: by then there is a newer one.
            Ok(()) | Err(SendError::NotConnected | SendError::Full) => {}
            Err(_) if client.connection_state() == ConnectionState::Reconnecting => {}
            Err(error) => return Err(error.into()),
        }
        client.flush();
        cycle += 1;
        due = due + CYCLE;
        // After a stall, go on with the next instant to come rather than in a burst.
        due = due.max(Nanos::now());
    }
    say("leaves");
    // What was sent arrives, and then the drive knows that nothing more will come.
    let _ = client.disconnect(CALM);
    Ok(())
}

/// The session is over, because the drive was away for longer than `session_linger_ms`, or had
/// ended it. Makes a new one, for as long as that takes.
fn connect_again(client: &mut Client, endpoint: &str) -> Result<(), Box<dyn Error>> {
    say("session over: connects for a new one");
    while client.connect(endpoint).is_err() {
        // At most so long: whatever happens in the reactor ends the wait.
        client.reactor().turn(Wait::Until(Nanos::now() + CONNECT_PAUSE))?;
    }
    Ok(())
}

fn described(kind: &EventKind) -> String {
    match kind {
        EventKind::Connected => "connected: a new session".into(),
        EventKind::LinkLost { reason, .. } => format!("link lost: {reason}"),
        EventKind::Connecting => "connecting".into(),
        EventKind::Reconnecting { .. } => "reconnecting".into(),
        EventKind::Resumed { messages_dropped, .. } => {
            format!("resumed: {messages_dropped} messages lost on the way")
        }
        EventKind::SessionLost { undelivered, .. } => {
            format!("session lost: {} reliable messages undelivered", undelivered.len())
        }
        EventKind::Disconnected { reason, .. } => format!("disconnected: {reason}"),
        _ => format!("{kind:?}"),
    }
}

// The demo.

fn demo() -> Result<(), Box<dyn Error>> {
    let mut demo = Demo::new();

    let started = demo.note("starts both");
    let drive = demo.start("drive", &["127.0.0.1:0"])?;
    let (_, said) = demo.until("drive", "listens on ", started)?;
    let endpoint = said.trim_start_matches("listens on ").to_owned();
    let controller = demo.start("controller", &[&endpoint, STAYS, LINGER_MS])?;
    demo.until("drive", "operational", started)?;
    demo.run_for(CALM);

    let hung = demo.note("the controller hangs");
    controller.signal(Signal::STOP)?;
    demo.expect_safe(hung)?;
    demo.run_for(HANG);
    let woken = demo.note("and goes on");
    controller.signal(Signal::CONT)?;
    demo.until("drive", "operational", woken)?;
    demo.run_for(CALM);

    let hung = demo.note("the drive's program hangs: setpoints pile up in its socket");
    drive.signal(Signal::STOP)?;
    demo.run_for(HANG);
    drive.signal(Signal::CONT)?;
    demo.until("drive", "stale", hung)?;
    demo.until("drive", "operational", hung)?;
    demo.run_for(CALM);

    let killed = demo.note("kills the controller");
    controller.kill()?;
    demo.expect_safe(killed)?;
    demo.run_for(HANG);
    let started = demo.note("starts the controller again");
    let _left = demo.start("controller", &[&endpoint, LEAVES_AFTER, LINGER_MS])?;
    demo.until("drive", "operational", started)?;
    let (left, _) = demo.until("controller", "leaves", started)?;
    demo.expect_safe(left)?;
    demo.run_for(HANG);
    let started = demo.note("starts the controller again");
    let controller = demo.start("controller", &[&endpoint, STAYS, LINGER_MS])?;
    demo.until("drive", "operational", started)?;
    demo.run_for(CALM);

    let killed = demo.note("kills the drive");
    drive.kill()?;
    demo.until("controller", "link lost", killed)?;
    demo.run_for(HANG);
    let started = demo.note("starts the drive again");
    let drive = demo.start("drive", &[&endpoint])?;
    demo.until("controller", "session lost", started)?;
    demo.until("controller", "connected", started)?;
    demo.until("drive", "operational", started)?;
    demo.run_for(CALM);

    controller.kill()?;
    let started = demo.note("starts a controller that keeps its session for 200 ms");
    let _controller = demo.start("controller", &[&endpoint, STAYS, LINGER_SHORT_MS])?;
    demo.until("drive", "operational", started)?;
    let killed = demo.note("kills the drive, for longer than that");
    drive.kill()?;
    demo.until("controller", "session over", killed)?;
    let started = demo.note("starts the drive again");
    let _drive = demo.start("drive", &[&endpoint])?;
    demo.until("controller", "connected", started)?;
    demo.until("drive", "operational", started)?;
    demo.run_for(CALM);

    demo.note("all as it should be");
    Ok(())
}

/// One of the other two processes. Ends with its value.
struct Actor(Child);

impl Actor {
    fn signal(&self, signal: Signal) -> Result<(), Box<dyn Error>> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    /// SIGKILL: no destructor runs, nobody says goodbye.
    fn kill(mut self) -> std::io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one of them said.
struct Line {
    who: &'static str,
    at: Nanos,
    text: String,
}

struct Demo {
    started: Nanos,
    said: (Sender<Line>, Receiver<Line>),
    /// What was printed, in the order it came: it may be asked for later.
    log: Vec<Line>,
}

impl Demo {
    fn new() -> Self {
        Self { started: Nanos::now(), said: channel(), log: Vec::new() }
    }

    fn start(&self, role: &'static str, arguments: &[&str]) -> Result<Actor, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().expect("it is piped");
        let sender = self.said.0.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Some((at, text)) = line.split_once(' ') else { continue };
                let Ok(at) = at.parse().map(Nanos) else { continue };
                let _ = sender.send(Line { who: role, at, text: text.to_owned() });
            }
        });
        Ok(Actor(child))
    }

    /// Prints what the demo does next. Returns when.
    fn note(&self, text: &str) -> Nanos {
        let now = Nanos::now();
        self.print("demo", now, text);
        now
    }

    fn print(&self, who: &str, at: Nanos, text: &str) {
        println!("{:>8.1} ms  {who:<10}  {text}", millis(at.since(self.started)));
    }

    /// Prints the next line that comes before `deadline`. Returns whether one did.
    fn next(&mut self, deadline: Nanos) -> bool {
        let Ok(line) = self.said.1.recv_timeout(deadline.since(Nanos::now())) else { return false };
        self.print(line.who, line.at, &line.text);
        self.log.push(line);
        true
    }

    fn run_for(&mut self, time: Duration) {
        let deadline = Nanos::now() + time;
        while self.next(deadline) {}
    }

    /// Waits until `who` has said something that begins with `text`, at `since` or later.
    fn until(
        &mut self,
        who: &str,
        text: &str,
        since: Nanos,
    ) -> Result<(Nanos, String), Box<dyn Error>> {
        let deadline = Nanos::now() + PATIENCE;
        loop {
            let wanted =
                |line: &&Line| line.who == who && line.at >= since && line.text.starts_with(text);
            if let Some(line) = self.log.iter().find(wanted) {
                return Ok((line.at, line.text.clone()));
            }
            if !self.next(deadline) {
                return Err(format!("the {who} did not say {text:?} within {PATIENCE:?}").into());
            }
        }
    }

    /// The drive goes safe in time after `fault`.
    fn expect_safe(&mut self, fault: Nanos) -> Result<(), Box<dyn Error>> {
        // On a busy machine the setpoints may have stopped just before.
        let (at, _) = self.until("drive", "safe", fault - SILENCE_MAX)?;
        let took = at.since(fault);
        if took > SILENCE_MAX + SCHEDULING_MAX {
            return Err(format!("the drive took {took:?} to go safe").into());
        }
        self.note(&format!("the drive was safe {:.1} ms after that", millis(took)));
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
