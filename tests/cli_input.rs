//! What the `ringwire` command makes of its command line, of signals, and of readers that go.
//!
//! Runs the built binary. Every wait has a deadline: a process that hangs is killed, and its test
//! fails. Not here: what is sent and recorded (`cli_talk`, `cli_record`).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use ringwire::record::{Direction, RecordOrigin, RecordWriter, RecordedFrame, RecordedSession};
use ringwire::wire::{Checksum, FrameHead};
use ringwire::{Client, Codec, Config, Envelope, Incoming, Kind, Nanos, Priority, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use guard::Guard;
use lines::Lines;

#[path = "support/bound.rs"]
mod bound;
#[path = "support/guard.rs"]
mod guard;
#[path = "support/lines.rs"]
mod lines;
#[path = "support/output.rs"]
mod output;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Registries are made here: a process that is killed leaves nothing in the machine's memory.
const RUNTIME: &str = env!("CARGO_TARGET_TMPDIR");

fn ringwire(arguments: &[&str]) -> Command {
    let mut command = bound::command(env!("CARGO_BIN_EXE_ringwire"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env("XDG_RUNTIME_DIR", RUNTIME)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command that ends by itself.
fn done(arguments: &[&str]) -> Output {
    output::output(&mut ringwire(arguments))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn signal(process: &Guard, signal: Signal) {
    kill_process(Pid::from_child(&process.0), signal).expect("it runs, and is ours");
}

/// Waits until a process has ended, for its exit code.
fn exit_code(mut process: Guard) -> Option<i32> {
    let deadline = Nanos::now() + PATIENCE;
    loop {
        if let Some(status) = process.0.try_wait().expect("it is our child") {
            return status.code();
        }
        assert!(Nanos::now() < deadline, "it has not ended in time");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A server process, where it listens, and what it says from then on.
fn serve(options: &[&str]) -> (Guard, String, Lines) {
    let mut server = Guard::spawn(&mut ringwire(&[&["serve", "127.0.0.1:0"], options].concat()));
    let mut lines = Lines::of(server.0.stdout.take().expect("piped"));
    let first = lines.next().expect("it says where it listens");
    let address = first.strip_prefix("listening on ").expect("the first line").to_owned();
    (server, address, lines)
}

/// A server in this process, which registers nothing.
fn quiet() -> Config {
    Config::builder().registry(false).build().expect("valid")
}

/// Sends SIGINT, and returns what the process still said and its exit code.
fn interrupt(mut process: Guard) -> (String, String, Option<i32>) {
    let stdout = Lines::of(process.0.stdout.take().expect("piped"));
    let stderr = Lines::of(process.0.stderr.take().expect("piped"));
    signal(&process, Signal::INT);
    let said = (stdout.text(), stderr.text());
    (said.0, said.1, exit_code(process))
}

/// Ends a server in order.
fn terminate(server: Guard, lines: Lines) -> String {
    signal(&server, Signal::TERM);
    let said = lines.text();
    assert_eq!(exit_code(server), Some(0), "{said}");
    said
}

/// The path of a file for one test.
fn temporary(name: &str) -> String {
    let path = Path::new(RUNTIME).join(name);
    let _ = std::fs::remove_file(&path);
    path.to_str().expect("UTF-8").to_owned()
}

/// Writes a recording of data that was received, 1,000 s apart.
fn recording(name: &str, payloads: &[&[u8]]) -> String {
    let origin = RecordOrigin { monotonic: Nanos(1_000_000_000), ..RecordOrigin::default() };
    let mut writer = RecordWriter::begin(Vec::new(), &origin).expect("memory");
    for (number, payload) in (0_u32..).zip(payloads) {
        let head = FrameHead {
            kind: Kind::Data,
            priority: Priority::High,
            codec: Codec::Opaque,
            type_id: 0,
            sequence: number + 1,
            sent_at_ns: 0,
            flags: Default::default(),
            extension: None,
            checksum: Checksum::Never,
        };
        let mut bytes = vec![0; 64 + payload.len()];
        let length = head.encode(payload, &mut bytes);
        let recorded = RecordedFrame {
            direction: Direction::Received,
            session: RecordedSession { reactor: 0, number: 1 << 32 | 1 },
            at: origin.monotonic + Duration::from_secs(1_000) * number,
            bytes: &bytes[..length],
        };
        writer.frame(&recorded).expect("memory");
    }
    writer.finish().expect("memory");
    let file = temporary(name);
    std::fs::write(&file, std::mem::take(writer.sink())).expect("a writable directory");
    file
}

#[test]
fn senseless_command_lines_say_why() {
    let check = |arguments: &[&str], said: &str| {
        let output = done(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    };
    // Nothing listens there, which would be another error: exit code 1.
    let address = "127.0.0.1:1";
    let alone = "`-` stands alone: it is standard input";
    check(&["send", address, "hello", "-"], alone);
    check(&["send", address, "-", "-"], alone);
    for bad in ["", "0.1", "0.1.0.0", "0.1.x", "0.01.0", "+0.1.0", "0.1.4294967296", "drive-7"] {
        check(&["replay", "file", address, "--session", bad], "as --list shows it");
    }
    for bad in ["0", "257", "-1"] {
        check(&["doctor", "--no-self-test", "--reactors", bad], "1..=256");
    }
    let most = u64::MAX.to_string();
    check(&["doctor", "--no-self-test", "--reactors", &most], "too large");
}

#[test]
fn lane_and_priority_are_one_option() {
    let (server, address, mut lines) = serve(&[]);
    let message = ["send", &address, "--kind", "data", "--lane", "high", "one"];
    assert_eq!(done(&message).status.code(), Some(0));
    assert!(lines.any(|line| line.contains(" data    high ")));
    terminate(server, lines);
    let file = recording("lane.rwrec", &[b"one"]);
    for (lane, frames) in [("high", "1 frame"), ("low", "0 frames")] {
        let listed = done(&["replay", &file, "--list", "--priority", lane]);
        let listed = text(&listed.stdout);
        assert!(listed.lines().any(|line| line.starts_with(frames)), "{lane}: {listed}");
    }
}

#[test]
fn replay_of_nothing_is_a_failure() {
    let server = Server::builder().config(quiet()).listen("127.0.0.1:0").start().expect("starts");
    let address = server.addresses()[0].to_string();
    let file = recording("nothing.rwrec", &[b"one", b"two"]);
    let has = "nothing was selected: the recording has 2 received and 0 sent frames";
    for options in [["--frames", "sent"], ["--session", "0.7.0"], ["--lane", "low"]] {
        let output = done(&[&["replay", &file, &address][..], &options].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{options:?}: {stderr}");
        assert!(stderr.contains(has), "{options:?}: {stderr}");
    }
    let output = done(&["replay", &file, &address, "--session", "0.1.0", "--speed", "max"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let _ = server.shutdown(PATIENCE);
}

#[test]
fn interrupted_send_sums_up_and_says_goodbye() {
    let (server, address, mut lines) = serve(&["--print"]);
    // Between two requests, which are ten seconds apart.
    let arguments = ["send", &address, "--count", "1000000", "--rate", "0.1", "ping"];
    let sender = Guard::spawn(&mut ringwire(&arguments));
    assert!(lines.any(|line| line.contains(" command ")), "it has begun");
    let (_, stderr, code) = interrupt(sender);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("1 request sent: "), "{stderr}");
    assert!(lines.any(|line| line.contains(" - disconnected: the peer said goodbye")));

    // While it waits for the next line.
    let mut command = ringwire(&["send", &address, "--kind", "data"]);
    let mut sender = Guard::spawn(command.stdin(Stdio::piped()));
    let mut input = sender.0.stdin.take().expect("piped");
    input.write_all(b"one\nnot whole").expect("it reads");
    assert!(lines.any(|line| line.contains(" data ") && line.ends_with(" one")));
    let (_, stderr, code) = interrupt(sender);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("1 message sent"), "{stderr}");
    assert!(lines.any(|line| line.contains(" - disconnected: the peer said goodbye")));
    let rest = terminate(server, lines);
    assert!(!rest.contains("not whole"), "{rest}");
}

#[test]
fn interrupted_send_waits_for_no_answer() {
    let (sender, asked) = channel();
    let server = Server::builder()
        .config(quiet())
        .listen("127.0.0.1:0")
        .on(Kind::Command, move |_, _| sender.send(()).expect("the test waits"))
        .start()
        .expect("it starts");
    let address = server.addresses()[0].to_string();
    let arguments = ["send", &address, "--timeout", "600000", "ping"];
    let process = Guard::spawn(&mut ringwire(&arguments));
    asked.recv_timeout(PATIENCE).expect("it asks");
    let (_, stderr, code) = interrupt(process);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("1 request sent: 0 answered"), "{stderr}");
    let _ = server.shutdown(PATIENCE);
}

#[test]
fn interrupted_replay_sums_up_and_says_goodbye() {
    let file = recording("interrupted.rwrec", &[b"one", b"two"]);
    let (server, address, mut lines) = serve(&[]);
    let replay = Guard::spawn(&mut ringwire(&["replay", &file, &address]));
    assert!(lines.any(|line| line.contains(" data ") && line.ends_with(" one")));
    let (stdout, stderr, code) = interrupt(replay);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stdout.starts_with("replayed 1 frame "), "{stdout}");
    assert!(lines.any(|line| line.contains(" - disconnected: the peer said goodbye")));
    terminate(server, lines);
}

#[test]
fn server_goes_on_when_its_reader_goes() {
    let (server, address, lines) = serve(&["--print"]);
    // The thread that reads ends with the next line, which nobody takes, and closes the pipe.
    drop(lines);
    for _ in 0..5 {
        let output = done(&["send", &address, "ping"]);
        assert_eq!(text(&output.stdout), "ping\n", "{}", text(&output.stderr));
    }
    signal(&server, Signal::TERM);
    assert_eq!(exit_code(server), Some(0));
}

#[test]
fn bench_ends_quietly_when_its_reader_goes() {
    let short = ["bench", "rtt", "--idle", "park", "--duration", "0.01", "--rounds", "1"];
    let arguments = [&short[..], &["--json", "-"]].concat();
    let mut bench = Guard::spawn(&mut ringwire(&arguments));
    drop(bench.0.stdout.take());
    let stderr = Lines::of(bench.0.stderr.take().expect("piped")).text();
    assert_eq!(exit_code(bench), Some(0), "{stderr}");
    assert!(!stderr.contains("error"), "{stderr}");
}

#[test]
fn lanes_have_names_everywhere_in_json() {
    let directory = temporary("lanes");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir(&directory).expect("a writable directory");
    let server = Server::builder().config(quiet()).listen("127.0.0.1:0").start().expect("starts");
    let config = Config::builder().registry_directory(&directory).build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("it listens");
    // The second takes the place of the first: neither leaves before the next turn.
    let envelope = Envelope::data().priority(Priority::Critical).latest(1);
    client.send(envelope, b"first").expect("room");
    client.send(envelope, b"second").expect("room");
    while !matches!(server.wait(PATIENCE).expect("it comes"), Incoming::Message(_)) {
        client.poll();
    }
    assert_eq!(client.statistics().drops.len(), 1, "{:?}", client.statistics());

    let output = done(&["stat", "--json", "--dir", &directory]);
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(line["statistics"]["drops"][0]["lane"], "critical", "{line}");
    assert_eq!(line["sessions"][0]["drops"][0]["lane"], "critical", "{line}");
    let _ = client.disconnect(PATIENCE);
    let _ = server.shutdown(PATIENCE);
    drop(client);
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn help_says_in_which_unit_and_what_for() {
    let help = |arguments: &[&str]| text(&done(arguments).stdout);
    for command in ["send", "replay"] {
        let help = help(&[command, "--help"]);
        assert!(help.contains("Milliseconds to wait"), "{help}");
        assert!(help.contains("handshake has 2000"), "{help}");
    }
    let first = help(&["serve", "--help"]);
    assert!(first.starts_with("Listen; echo commands and requests; print everything else"));
    let doctor = help(&["doctor", "--help"]);
    assert!(doctor.contains("With --config FILE, that configuration is judged."), "{doctor}");
}
