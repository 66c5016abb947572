//! `ringwire record` and `ringwire replay` as processes: what is recorded on one server arrives at
//! another as it was, at the speed that was asked for; files that are cut off, killed or full.
//!
//! Runs the built binary. Every wait has a deadline: a process that hangs is killed, and its test
//! fails.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ringwire::record::{Direction, RecordOrigin, RecordWriter, RecordedFrame, RecordedSession};
use ringwire::wire::{Checksum, FrameHead};
use ringwire::{Codec, Kind, Nanos, Priority};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[path = "support/bound.rs"]
mod bound;
#[path = "support/guard.rs"]
mod guard;
#[path = "support/output.rs"]
mod output;

use guard::Guard;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Registries are made here: a process that is killed leaves nothing in the machine's memory.
const RUNTIME: &str = env!("CARGO_TARGET_TMPDIR");

/// A directory that goes when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringwire-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a writable directory for temporary files");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server process, which has said where it listens.
struct Process {
    child: Guard,
    lines: Receiver<String>,
    address: String,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = Guard::spawn(
            command
                .env_remove("RUST_LOG")
                .env("XDG_RUNTIME_DIR", RUNTIME)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let output = BufReader::new(child.0.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut process = Self { child, lines, address: String::new() };
        let first = process.lines.recv_timeout(PATIENCE).expect("it says where it listens");
        process.address = first.strip_prefix("listening on ").expect("the first line").to_owned();
        process
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).expect("it runs, and is ours");
    }

    /// Ends it in order: its lines, what it said on standard error, its exit code.
    fn end(self) -> (Vec<String>, String, Option<i32>) {
        self.signal(Signal::TERM);
        let deadline = Nanos::now() + PATIENCE;
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.since(Nanos::now())) {
            lines.push(line);
        }
        assert!(Nanos::now() < deadline, "no end in time; it wrote {lines:?}");
        let output = output::end_of(self.child);
        (lines, text(&output.stderr), output.status.code())
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = bound::command(env!("CARGO_BIN_EXE_ringwire"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env("XDG_RUNTIME_DIR", RUNTIME)
        .stdin(Stdio::null());
    command
}

fn ringwire(arguments: &[&str]) -> Output {
    output::output(&mut command(arguments))
}

/// Runs what a shell makes of a script.
fn command_line(script: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env_remove("RUST_LOG").env("XDG_RUNTIME_DIR", RUNTIME);
    output::output(shell.stdin(Stdio::null()))
}

/// Of this process, with no registry outside the build's folder.
fn quiet_server() -> ringwire::ServerBuilder {
    let config = ringwire::Config::builder().registry(false).build().expect("valid");
    ringwire::Server::builder().config(config)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command writes UTF-8")
}

/// Runs it, expects success, and returns its standard output.
#[track_caller]
fn done(arguments: &[&str]) -> String {
    let output = ringwire(arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    text(&output.stdout)
}

fn record(file: &str, options: &[&str]) -> Process {
    let arguments = [&["record", "--listen", "127.0.0.1:0", file, "--reactors", "1"], options];
    Process::start(&mut command(&arguments.concat()))
}

/// The frames of a recording, as `--list --json` shows them.
fn frames(file: &str) -> Vec<Value> {
    listed(&done(&["replay", file, "--list", "--json"]))
}

fn listed(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"))
        .filter(|value| value["record"] == "frame")
        .collect()
}

/// What of a frame has to be the same after a replay.
fn essence(frames: &[Value]) -> Vec<String> {
    // That a request has been waited for is no time to live: `expires` tells them apart.
    let keys =
        ["kind", "priority", "codec", "type_id", "is_request", "is_reliable", "ttl_us", "expires"];
    let of = |frame: &Value| {
        let marks = keys.map(|key| frame[key].to_string());
        format!("{} {} {}", marks.join(" "), frame["payload"], frame["payload_hex"])
    };
    frames.iter().map(of).collect()
}

/// Writes a recording of `payloads`, `gap` apart.
fn written(file: &str, payloads: &[&[u8]], gap: Duration, finish: bool) -> Vec<u8> {
    let origin = RecordOrigin { monotonic: Nanos(1_000_000_000), ..RecordOrigin::default() };
    let mut writer = RecordWriter::begin(Vec::new(), &origin).expect("memory");
    for (number, payload) in (0_u32..).zip(payloads) {
        let head = FrameHead {
            kind: Kind::Data,
            priority: Priority::ALL[number as usize % 2],
            codec: Codec::Opaque,
            type_id: number,
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
            at: origin.monotonic + gap * number,
            bytes: &bytes[..length],
        };
        writer.frame(&recorded).expect("memory");
    }
    let ended = if finish { writer.finish() } else { writer.flush() };
    ended.expect("memory");
    let bytes = std::mem::take(writer.sink());
    fs::write(file, &bytes).expect("a writable directory");
    bytes
}

#[test]
fn what_one_server_recorded_arrives_at_another() {
    let directory = Directory::new("replay");
    let (first, second) = (directory.path("first.rwrec"), directory.path("second.rwrec"));
    let recorder = record(&first, &[]);
    let address = recorder.address.clone();
    let answer = done(&["send", &address, "status?"]);
    assert_eq!(answer, "status?\n", "it answers as serve does");
    done(&[
        "send",
        &address,
        "--kind",
        "data",
        "--type",
        "0x101",
        "--priority",
        "high",
        "one",
        "two",
    ]);
    done(&["send", &address, "--kind", "configuration", "--json", "{\"gain\": 3}"]);
    done(&["send", &address, "--one-way", "go"]);
    let (lines, errors, code) = recorder.end();
    assert_eq!(code, Some(0), "{errors}");
    let last = lines.last().expect("a summary");
    assert!(last.starts_with("recorded 5 frames"), "{lines:?}");

    let recorder = record(&second, &["--quiet"]);
    let said = done(&["replay", &first, &recorder.address.clone()]);
    assert!(said.starts_with("replayed 5 frames"), "{said}");
    assert!(said.contains("lateness: p50"), "{said}");
    assert!(said.contains("1 request: 1 answered, 0 not"), "{said}");
    let (lines, ..) = recorder.end();
    assert!(!lines.iter().any(|line| line.contains("connected")), "--quiet: {lines:?}");
    let (before, after) = (essence(&frames(&first)), essence(&frames(&second)));
    assert_eq!(before.len(), 5);
    // Every session has a connection of its own: which of them is served first is not promised.
    let (mut before, mut after) = (before, after);
    before.sort();
    after.sort();
    assert_eq!(before, after);

    // A table for people: who, what, and how it ends.
    let table = done(&["replay", &first, "--list", "--lane", "high"]);
    assert!(table.contains("0x101"), "{table}");
    assert!(table.contains("is 127.0.0.1:"), "{table}");
    assert!(!table.contains("gain"), "another lane: {table}");
    assert!(table.ends_with("B, \n") || table.contains("2 frames"), "{table}");
}

/// The end comes before the command looks at who came, which it does every 20 ms.
#[test]
fn who_came_is_recorded_however_soon_the_end() {
    let directory = Directory::new("soon");
    for round in 0..12 {
        let file = directory.path(&format!("{round}.rwrec"));
        let recorder = record(&file, &[]);
        done(&["send", &recorder.address, "--one-way", "go"]);
        recorder.end();
        let table = done(&["replay", &file, "--list"]);
        assert!(table.contains(" is 127.0.0.1:"), "round {round}: {table}");
    }
}

/// The longest lateness that a replay told, and the hundredth by which it may have been rounded.
fn max_lateness(said: &str) -> Duration {
    let (_, max) = said.split_once(", max ").expect("the line of latenesses");
    let mut words = max.split_whitespace();
    let value: f64 = words.next().and_then(|word| word.parse().ok()).expect("a number");
    let unit = match words.next().expect("its unit") {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        other => panic!("{other}"),
    };
    Duration::from_secs_f64(1.01 * value * unit)
}

#[test]
fn replay_keeps_the_distances_and_the_speed() {
    let directory = Directory::new("timing");
    let file = directory.path("paced.rwrec");
    let payloads: Vec<Vec<u8>> = (0..11_u8).map(|number| vec![b'a' + number; 20]).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let span = 10 * Duration::from_millis(40);
    written(&file, &payloads, span / 10, true);
    for (speed, span) in [("1", span), ("4", span / 4)] {
        let again = directory.path(&format!("again-{speed}.rwrec"));
        let recorder = record(&again, &[]);
        let said = done(&["replay", &file, &recorder.address.clone(), "--speed", speed]);
        recorder.end();
        let found = frames(&again);
        let order = |frames: &[Value], lane: &str| {
            let of_lane = frames.iter().filter(|frame| frame["priority"] == lane);
            of_lane.map(|frame| frame["payload"].to_string()).collect::<Vec<_>>()
        };
        for lane in ["low", "normal"] {
            assert_eq!(order(&found, lane), order(&frames(&file), lane), "speed {speed}");
        }
        let at = |frame: &Value| frame["sent_at_ns"].as_u64().expect("a time");
        let took = Duration::from_nanos(at(&found[10]) - at(&found[0]));
        // No frame is sent before its instant. The first may have been as late as it says, and was
        // stamped some time after that was measured: at most half a distance is left for it.
        let slack = max_lateness(&said) + span / 20;
        assert!(took + slack >= span, "speed {speed}: {took:?}: {said}");
    }
    // A minute in all, and no pause.
    written(&file, &payloads, Duration::from_secs(6), true);
    let recorder = record(&directory.path("again-max.rwrec"), &[]);
    let begun = Nanos::now();
    let said = done(&["replay", &file, &recorder.address.clone(), "--speed", "max"]);
    assert!(Nanos::now().since(begun) < PATIENCE, "{said}");
    assert!(said.starts_with("replayed 11 frames") && !said.contains("lateness"), "{said}");
    recorder.end();
    written(&file, &payloads, span / 10, true);
    // From and to are in the recording's time.
    let list = done(&["replay", &file, "--list", "--json", "--from", "0.1", "--to", "0.21"]);
    assert_eq!(list.lines().skip(1).count(), 3, "120, 160 and 200 ms: {list}");
    let nothing = ringwire(&["replay", &file, "--list", "--from", "3", "--to", "2"]);
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing.stderr));
}

#[test]
fn cut_file_is_replayed_up_to_its_last_whole_frame() {
    let directory = Directory::new("cut");
    let file = directory.path("cut.rwrec");
    let whole = written(&file, &[b"one", b"two", b"three"], Duration::from_millis(1), true);
    let unfinished = written(&file, &[b"one", b"two", b"three"], Duration::from_millis(1), false);
    assert!(unfinished.len() < whole.len());
    fs::write(&file, &unfinished[..unfinished.len() - 1]).expect("a writable directory");
    // Scripts are told, and what was read is kept.
    let list = ringwire(&["replay", &file, "--list"]);
    assert_eq!(list.status.code(), Some(1));
    assert!(text(&list.stdout).contains("2 frames"), "{}", text(&list.stdout));
    assert!(text(&list.stderr).contains("cut off"), "{}", text(&list.stderr));

    let again = directory.path("again.rwrec");
    let recorder = record(&again, &[]);
    let said = done(&["replay", &file, &recorder.address.clone()]);
    assert!(said.contains("replayed 2 frames") && said.contains("cut off"), "{said}");
    recorder.end();
    assert_eq!(frames(&again).len(), 2);

    fs::write(&file, [&whole[..], b"something else"].concat()).expect("a writable directory");
    let list = ringwire(&["replay", &file, "--list"]);
    assert_eq!(list.status.code(), Some(1));
    assert!(text(&list.stdout).contains("3 frames"), "{}", text(&list.stdout));
    assert!(text(&list.stderr).contains("damaged"), "{}", text(&list.stderr));
    fs::write(&file, &unfinished).expect("a writable directory");
    let list = ringwire(&["replay", &file, "--list"]);
    assert_eq!(list.status.code(), Some(0), "not finished, and whole");
    for bytes in [0, 10] {
        fs::write(&file, &whole[..bytes]).expect("a writable directory");
        let list = ringwire(&["replay", &file, "--list"]);
        let said = text(&list.stderr);
        assert_eq!(list.status.code(), Some(1), "{said}");
        let expected = format!("cut off within its header, after {bytes} bytes: nothing was kept");
        assert!(said.contains(&expected), "{said}");
    }
    let other = ringwire(&["replay", "/proc/self/status", "--list"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("not a recording"), "{}", text(&other.stderr));
}

#[test]
fn recording_survives_its_recorder_being_killed() {
    let directory = Directory::new("killed");
    let file = directory.path("killed.rwrec");
    let recorder = record(&file, &[]);
    done(&["send", &recorder.address, "--kind", "data", "--count", "500", "x"]);
    let deadline = Nanos::now() + PATIENCE;
    // What is being written meanwhile may be cut off, which is an exit code.
    let written = || listed(&text(&ringwire(&["replay", &file, "--list", "--json"]).stdout)).len();
    while written() < 500 {
        assert!(Nanos::now() < deadline, "it is never handed to the system");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    recorder.signal(Signal::KILL);
    drop(recorder);
    assert_eq!(frames(&file).len(), 500);
    // It is somebody's data now: not written over without being told to.
    let refused = ringwire(&["record", "--listen", "127.0.0.1:0", &file, "--for", "1"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    assert_eq!(frames(&file).len(), 500);
    let forced = record(&file, &["--force"]);
    forced.end();
    assert_eq!(frames(&file).len(), 0);
}

/// A file that may not grow is a disk that is full.
#[test]
fn full_disk_is_told_and_stops_nothing() {
    let directory = Directory::new("full");
    let file = directory.path("full.rwrec");
    let script = format!(
        "ulimit -f 64; exec {} record --listen 127.0.0.1:0 {file} --reactors 1",
        env!("CARGO_BIN_EXE_ringwire"),
    );
    // In units of 512 or 1,024 bytes, as the shell has it.
    let recorder = Process::start(Command::new("sh").args(["-c", &script]));
    let address = recorder.address.clone();
    let payload = "x".repeat(1_000);
    done(&["send", &address, "--kind", "data", "--count", "300", &payload]);
    // Still there, and still answers.
    assert_eq!(done(&["send", &address, "status?"]), "status?\n");
    let (lines, errors, code) = recorder.end();
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(errors.contains("cannot write"), "{errors}");
    assert!(lines.iter().any(|line| line.contains("missing in it")), "{lines:?}");
    assert!(Path::new(&file).metadata().expect("it is there").len() <= 64 << 10);
    let list = ringwire(&["replay", &file, "--list"]);
    assert_eq!(list.status.code(), Some(0), "{}", text(&list.stderr));

    let refused = ringwire(&["record", "--listen", "127.0.0.1:0", "/dev/full", "--force"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("/dev/full"), "{}", text(&refused.stderr));
}

/// Whoever reads what is said may go; what comes is recorded all the same.
#[test]
fn recording_goes_on_when_its_reader_goes() {
    let directory = Directory::new("reader");
    let file = directory.path("reader.rwrec");
    let mut recorder = Guard::spawn(
        command(&["record", "--listen", "127.0.0.1:0", &file, "--reactors", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    let mut said = BufReader::new(recorder.0.stdout.take().expect("piped"));
    let (sender, line) = channel();
    std::thread::spawn(move || {
        let mut first = String::new();
        let _ = said.read_line(&mut first);
        drop(said);
        let _ = sender.send(first);
    });
    let first = line.recv_timeout(PATIENCE).expect("it says where it listens");
    let address = first.trim().strip_prefix("listening on ").expect("where it listens");
    for body in ["one", "two"] {
        done(&["send", address, "--kind", "data", body]);
    }
    kill_process(Pid::from_child(&recorder.0), Signal::TERM).expect("it runs");
    let output = output::end_of(recorder);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(frames(&file).len(), 2);
}
/// Nor does a full disk under standard output end a recording.
#[test]
fn recording_goes_on_when_nothing_can_be_said() {
    let directory = Directory::new("mute");
    let file = directory.path("mute.rwrec");
    let server = quiet_server().listen("127.0.0.1:0").start().expect("it starts");
    let address = server.addresses()[0].to_string();
    let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut record = command(&["record", "--connect", &address, &file]);
    let child = Guard::spawn(record.stdout(full).stderr(Stdio::piped()));
    let connected = server.wait(PATIENCE).expect("it connects");
    assert!(matches!(connected, ringwire::Incoming::Event(_)), "{connected:?}");
    for number in 0..20_u8 {
        let report = server.broadcast(ringwire::Envelope::data(), &[number]).expect("room");
        assert_eq!(report.queued(), 1);
    }
    let _ = server.shutdown(PATIENCE);
    let output = output::end_of(child);
    let errors = text(&output.stderr);
    assert!(errors.contains("warning: cannot write standard output"), "{errors}");
    // The last words were not heard, which is a failure.
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let list = done(&["replay", &file, "--list", "--json"]);
    assert!(list.contains("\"is_finished\":true"), "{list}");
    assert_eq!(listed(&list).len(), 20);

    let script = format!(
        "{} record --listen 127.0.0.1:0 {file} --force --for 0.1 > /dev/full",
        env!("CARGO_BIN_EXE_ringwire"),
    );
    let output = command_line(&script);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let list = done(&["replay", &file, "--list", "--json"]);
    assert!(list.contains("\"is_finished\":true"), "{list}");
}

/// What reads the recording itself is no reader that has what it wanted.
#[test]
fn recording_into_a_pipe_that_breaks_is_a_failure() {
    let directory = Directory::new("pipe");
    let pipe = directory.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("coreutils");
    assert!(made.success());
    // Both ends, so that neither waits for the other.
    let reader = fs::File::options().read(true).write(true).open(&pipe).expect("there");
    let recorder = record(&pipe, &["--force"]);
    drop(reader);
    done(&["send", &recorder.address, "--kind", "data", "into the void"]);
    let (lines, errors, code) = recorder.end();
    assert_eq!(code, Some(1), "{lines:?} {errors}");
    assert!(errors.contains("cannot write"), "{errors}");
}

/// A file that was created for nothing is not in the way of the next attempt.
#[test]
fn recording_that_can_not_begin_leaves_no_file() {
    let directory = Directory::new("begin");
    let file = directory.path("begin.rwrec");
    let script = format!(
        "ulimit -f 0; exec {} record --listen 127.0.0.1:0 {file} --reactors 1",
        env!("CARGO_BIN_EXE_ringwire"),
    );
    let output = command_line(&script);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("begin.rwrec"), "{}", text(&output.stderr));
    assert!(!Path::new(&file).exists());
}

#[test]
fn messages_too_long_for_the_memory_are_named() {
    let directory = Directory::new("long");
    let file = directory.path("long.rwrec");
    let recorder = record(&file, &["--memory", "1"]);
    let long = directory.path("long");
    fs::write(&long, vec![7; 2 << 20]).expect("a writable directory");
    done(&["send", &recorder.address, "--kind", "data", "--file", &long]);
    let (lines, errors, code) = recorder.end();
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(errors.contains("--memory 1 holds no message as long as"), "{errors}");
    let missing = lines.iter().find(|line| line.contains("missing in it")).expect("one is");
    assert!(missing.contains("1 frame") && missing.contains("longer than --memory"), "{missing}");
}

#[test]
fn client_records_what_a_server_sends_until_it_ends() {
    let directory = Directory::new("connect");
    let file = directory.path("client.rwrec");
    let server = quiet_server().listen("127.0.0.1:0").start().expect("it starts");
    let address = server.addresses()[0].to_string();
    let arguments = ["record", "--connect", &address, &file, "--kind", "status"];
    let mut record = command(&arguments);
    let child = Guard::spawn(record.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let connected = server.wait(PATIENCE).expect("it connects");
    assert!(matches!(connected, ringwire::Incoming::Event(_)), "{connected:?}");
    for number in 0..50_u8 {
        let envelope =
            if number % 2 == 0 { ringwire::Envelope::status() } else { ringwire::Envelope::data() };
        let report = server.broadcast(envelope, &[number]).expect("room");
        assert_eq!(report.queued(), 1);
    }
    let _ = server.shutdown(PATIENCE);
    let output = output::end_of(child);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("recorded 25 frames"), "{said}");
    assert!(frames(&file).iter().all(|frame| frame["kind"] == "status"));
}

#[test]
fn senseless_command_lines_are_refused() {
    let refuse = |arguments: &[&str], part: &str| {
        let output = ringwire(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
    };
    refuse(&["record", "file"], "--listen");
    refuse(&["record", "file", "--listen", "x", "--connect", "y"], "cannot be used with");
    refuse(&["record", "file", "--connect", "y", "--echo"], "cannot be used with");
    refuse(&["replay", "file"], "<ADDR>");
    refuse(&["replay", "file", "addr", "--list"], "cannot be used with");
    refuse(&["replay", "file", "addr", "--speed", "0"], "a factor");
    refuse(&["replay", "file", "addr", "--from", "-1"], "seconds from 0");
}
