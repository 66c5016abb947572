//! `ringwire serve` and `ringwire send` as two processes that talk; and what they say when they
//! can not. `ringwire doctor --json` as a program reads it.
//!
//! Runs the built binary. Every wait has a deadline: a process that hangs is killed, and its test
//! fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringwire::Nanos;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

#[path = "support/bound.rs"]
mod bound;
#[path = "support/guard.rs"]
mod guard;
#[path = "support/output.rs"]
mod output;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Registries are made here: a process that is killed leaves nothing in the machine's memory.
const RUNTIME: &str = env!("CARGO_TARGET_TMPDIR");

/// A process whose standard output is read line by line.
struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

fn ringwire(arguments: &[&str]) -> Command {
    let mut command = bound::command(env!("CARGO_BIN_EXE_ringwire"));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env("XDG_RUNTIME_DIR", RUNTIME)
        .stdin(Stdio::null());
    command
}

/// Starts a process whose standard output nobody reads yet.
fn spawn(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the binary was built with this test");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    (child, output)
}

impl Process {
    fn start(command: Command) -> Self {
        let (child, output) = spawn(command);
        Self::read(child, output)
    }

    /// Begins to read what a process says.
    fn read(mut child: Child, output: BufReader<ChildStdout>) -> Self {
        let mut errors = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        Self { child, lines, errors: Some(errors) }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// The next line that contains `text`; those before it are dropped.
    fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs, and is ours");
    }

    /// Waits for its end: the lines not read yet, what it said on standard error, the exit code.
    fn finish(mut self) -> (Vec<String>, String, Option<i32>) {
        let deadline = Nanos::now() + PATIENCE;
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.since(Nanos::now())) {
                Ok(line) => rest.push(line),
                // Its end closes its standard output.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("no end in time; it wrote {rest:?}"),
            }
        }
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(Nanos::now() < deadline, "no end in time; it wrote {rest:?}");
            std::thread::yield_now();
        };
        let errors = self.errors.take().map(|reader| reader.join().expect("it only reads"));
        (rest, errors.unwrap_or_default(), status.code())
    }
}

impl Drop for Process {
    /// Also when a test fails: nothing stays behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server on a free port, and returns the address its first line names.
fn serve(options: &[&str]) -> (Process, String) {
    serve_at("127.0.0.1:0", options)
}

fn serve_at(address: &str, options: &[&str]) -> (Process, String) {
    let server = Process::start(ringwire(&[&["serve", address], options].concat()));
    let first = server.line();
    let address = first.strip_prefix("listening on ").expect("the first line says where");
    (server, address.to_owned())
}

fn send(arguments: &[&str]) -> (Vec<String>, String, Option<i32>) {
    Process::start(ringwire(&[&["send"], arguments].concat())).finish()
}

/// Sends, and expects success.
fn sent(arguments: &[&str]) -> Vec<String> {
    let (lines, errors, code) = send(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    lines
}

fn terminate(server: Process) -> Vec<String> {
    server.signal(Signal::TERM);
    let (lines, errors, code) = server.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert!(lines.iter().any(|line| line.starts_with("ended: ")), "{lines:?}");
    lines
}

fn temporary(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn command_gets_its_payload_back_with_a_round_trip() {
    let (server, address) = serve(&[]);
    let (lines, errors, code) = send(&[&address, "ping"]);
    assert_eq!((lines, code), (vec!["ping".into()], Some(0)), "{errors}");
    assert!(errors.contains("status, 4 B, round trip "), "{errors}");
    assert_eq!(sent(&[&address, "--kind", "data", "--request", "a", "b"]), ["a", "b"]);
    let lines = terminate(server);
    let messages =
        lines.iter().filter(|line| line.contains(" command ") || line.contains(" data "));
    assert_eq!(messages.count(), 0, "what is answered is not printed: {lines:?}");
}

#[test]
fn other_messages_are_printed_between_coming_and_leaving() {
    let (server, address) = serve(&[]);
    let message = ["--kind", "status", "--priority", "high", "--type", "0x101", "axis 3 ready"];
    assert!(sent(&[&[&*address][..], &message].concat()).is_empty());
    let id = |line: &str| line.split(' ').nth(1).expect("time, client").to_owned();
    let connected = server.line();
    assert!(connected.contains(" + connected from 127.0.0.1:"), "{connected}");
    let line = server.line();
    assert!(line.contains(" status  high     0x101 axis 3 ready"), "{line}");
    assert_eq!(id(&line), id(&connected));
    let left = server.line();
    assert!(left.contains(" - disconnected: the peer said goodbye"), "{left}");
    assert_eq!(id(&left), id(&connected));

    sent(&[&address, "--kind", "data", "\u{1b}[2Jgone"]);
    assert!(server.line_with(" data ").ends_with("hex 1b 5b 32 4a 67 6f 6e 65"));
    terminate(server);
}

#[test]
fn who_comes_and_leaves_is_printed_in_that_order() {
    let (server, address) = serve(&[]);
    let config = ringwire::Config::builder().registry(false).build().expect("valid");
    let mut client = ringwire::Client::new(config).expect("a ring");
    // Far faster than the server looks.
    for _ in 0..20 {
        client.connect(&address).expect("the server listens");
        let _ = client.disconnect(PATIENCE);
    }
    for round in 0..20 {
        for sign in [" + connected", " - disconnected"] {
            let line = server.line();
            assert!(line.contains(sign), "round {round}, {sign}: {line}");
        }
    }
    terminate(server);
}

/// While its reader is slow the server accepts and answers; who came then is said at the end.
#[test]
fn who_came_unseen_is_printed_before_the_end() {
    let (child, mut output) = spawn(ringwire(&["serve", "127.0.0.1:0"]));
    let mut first = String::new();
    output.read_line(&mut first).expect("the first line");
    let address = first.trim_end().strip_prefix("listening on ").expect("says where");
    let path = temporary("many.txt");
    std::fs::write(&path, format!("{}\n", "x".repeat(1000)).repeat(500)).expect("writable");
    let mut command = ringwire(&["send", address, "--kind", "data"]);
    command.stdin(std::fs::File::open(&path).expect("just written"));
    assert_eq!(Process::start(command).finish().2, Some(0));

    // Its printing thread is the main one. /proc names the call of a blocked thread only
    // (proc_pid_syscall(5)), and nobody reads: from here on it prints nothing.
    let doing = format!("/proc/{}/syscall", child.id());
    let write = format!("{} ", libc::SYS_write);
    let deadline = Nanos::now() + PATIENCE;
    while !std::fs::read_to_string(&doing).expect("it is our child").starts_with(&write) {
        assert!(Nanos::now() < deadline, "500 kB fit the pipe");
        std::thread::yield_now();
    }
    // One that is admitted, and one that never says hello.
    assert_eq!(sent(&[address, "ping"]), ["ping"]);
    let silent = std::net::TcpStream::connect(address).expect("it listens");
    let silent_address = silent.local_addr().expect("connected").to_string();
    silent.shutdown(std::net::Shutdown::Write).expect("connected");
    silent.set_read_timeout(Some(PATIENCE)).expect("above 0");
    let closed = Read::read(&mut &silent, &mut [0]).expect("it closes");
    assert_eq!(closed, 0);

    let server = Process::read(child, output);
    let lines = terminate(server);
    let at = |text: &str| {
        let is_it = |line: &String| line.contains(text);
        lines.iter().position(is_it).unwrap_or_else(|| panic!("no {text:?} in {lines:?}"))
    };
    let came: Vec<_> = lines.iter().filter(|line| line.contains(" + connected from ")).collect();
    assert_eq!(came.len(), 2, "{came:?}");
    let id = came[1].split(' ').nth(1).expect("time, client");
    let left = at(&format!(" {id}  - disconnected: "));
    assert!(at(&format!(" {id}  + connected from ")) < left);
    assert!(left < at("ended: "), "{lines:?}");
    at(&format!(" - not admitted from {silent_address}: the peer closed"));
    assert_eq!(lines.iter().filter(|line| line.contains(" data ")).count(), 500);
}

#[test]
fn every_line_of_standard_input_is_a_message() {
    let (server, address) = serve(&[]);
    let path = temporary("lines.txt");
    let count = 5_000;
    let text: String = (0..count).map(|number| format!("line {number}\n")).collect();
    std::fs::write(&path, text).expect("a writable folder");

    let mut command = ringwire(&["send", &address, "--kind", "data"]);
    command.stdin(std::fs::File::open(&path).expect("just written"));
    let (_, errors, code) = Process::start(command).finish();
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("5000 messages in "), "{errors}");
    for number in 0..count {
        let line = server.line_with(" data ");
        assert!(line.ends_with(&format!(" line {number}")), "{line}");
    }

    let mut command = ringwire(&["send", &address, "-"]);
    command.stdin(std::fs::File::open(&path).expect("just written"));
    let (lines, errors, code) = Process::start(command).finish();
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(lines.len(), count);
    assert_eq!(lines[count - 1], format!("line {}", count - 1));
    terminate(server);
}

/// A session does not end because the next line is longer in coming than a peer may be silent.
#[test]
fn line_may_be_long_in_coming() {
    let path = temporary("brisk.toml");
    let brisk = "heartbeat_interval_ms = 100\nheartbeat_misses = 10\n";
    std::fs::write(&path, brisk).expect("a folder");
    let (server, address) = serve(&["--config", path.to_str().expect("UTF-8")]);
    let mut command = ringwire(&["send", &address, "--kind", "data"]);
    command.stdin(Stdio::piped());
    let mut sender = Process::start(command);
    let mut input = sender.child.stdin.take().expect("piped");
    for number in 0..2 {
        // In pieces: half a line is no line.
        write!(input, "li").expect("it reads");
        input.flush().expect("it reads");
        #[expect(clippy::disallowed_methods, reason = "the pause is what is tested")]
        std::thread::sleep(Duration::from_millis(1_500));
        writeln!(input, "ne {number}").expect("it reads");
        let line = server.line_with(" data ");
        assert!(line.ends_with(&format!(" line {number}")), "{line}");
    }
    drop(input);
    let (_, errors, code) = sender.finish();
    assert_eq!(code, Some(0), "{errors}");
    let lines = terminate(server);
    assert!(!lines.iter().any(|line| line.contains("link lost")), "{lines:?}");
}

/// A line leaves at once, not with the next one.
#[test]
fn line_does_not_wait_for_the_next() {
    let (server, address) = serve(&[]);
    let mut command = ringwire(&["send", &address, "--kind", "data"]);
    command.stdin(Stdio::piped());
    let mut sender = Process::start(command);
    let mut input = sender.child.stdin.take().expect("piped");
    for number in 0..3 {
        writeln!(input, "line {number}").expect("it reads");
        let line = server.line_with(" data ");
        assert!(line.ends_with(&format!(" line {number}")), "{line}");
    }
    drop(input);
    assert_eq!(sender.finish().2, Some(0));
    terminate(server);
}

/// What a link took along when it broke is not "sent".
#[test]
fn lines_behind_which_the_server_dies_are_no_success() {
    let (mut server, address) = serve(&[]);
    let mut command = ringwire(&["send", &address, "--kind", "data"]);
    command.stdin(Stdio::piped());
    let mut sender = Process::start(command);
    let mut input = sender.child.stdin.take().expect("piped");
    writeln!(input, "one").expect("it reads");
    server.line_with(" data ");
    server.child.kill().expect("it runs");
    server.child.wait().expect("it is our child");
    drop(input);
    let (_, errors, code) = sender.finish();
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("the connection broke"), "{errors}");
}

#[test]
fn repeated_requests_are_summed_up() {
    let (server, address) = serve(&["--echo", "--reactors", "2", "--idle", "park"]);
    let options = ["--count", "200", "--rate", "4000", "--kind", "data", "--request", "x"];
    let (answers, errors, code) = send(&[&[&*address][..], &options].concat());
    assert_eq!((answers.len(), code), (0, Some(0)), "{errors}");
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines[0].starts_with("200 requests in "), "{lines:?}");
    assert!(lines[0].ends_with("200 answered, 0 timed out"), "{lines:?}");
    assert!(lines[1].starts_with("round trip: p50 "), "{lines:?}");
    assert!(lines[1].ends_with("from the intended instant"), "{lines:?}");
    terminate(server);
}

#[test]
fn file_and_json_travel_as_they_are() {
    let (server, address) = serve(&["--print"]);
    let path = temporary("payload.json");
    std::fs::write(&path, "{\"axis\": 3}").expect("a writable folder");
    let name = path.to_str().expect("a plain path");
    assert_eq!(sent(&[&address, "--json", "--file", name]), ["{\"axis\": 3}"]);
    assert!(server.line_with(" command ").ends_with("{\"axis\": 3}"));
    let (_, errors, code) = send(&[&address, "--json", "{\"axis\""]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("is not JSON"), "{errors}");
    terminate(server);
}

/// Where standard output is no terminal: the very bytes, and no line break behind them.
#[test]
fn file_that_is_sent_back_is_the_same_file() {
    let (server, address) = serve(&[]);
    let path = temporary("payload.bin");
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    std::fs::write(&path, &bytes).expect("a writable folder");
    let name = path.to_str().expect("a plain path");
    let output = output::output(&mut ringwire(&["send", &address, "--file", name]));
    let Output { status, stdout, stderr } = output;
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    assert!(stdout == bytes, "{} bytes came back", stdout.len());
    terminate(server);
}

#[test]
fn unix_socket_serves_and_is_removed() {
    let path = std::env::temp_dir().join(format!("ringwire-talk-{}.sock", std::process::id()));
    let endpoint = format!("unix:{}", path.display());
    let (server, address) = serve_at(&endpoint, &[]);
    assert_eq!(address, endpoint);
    assert_eq!(sent(&[&endpoint, "ping"]), ["ping"]);
    terminate(server);
    assert!(!path.exists());
}

#[test]
fn signal_ends_the_server_and_its_clients_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let (server, address) = serve(&[]);
        let mut command = ringwire(&["send", &address, "--count", "1000000000", "--rate", "100"]);
        let mut client = Process::start({
            command.arg("ping");
            command
        });
        server.line_with(" + connected");
        server.signal(signal);
        let (lines, errors, code) = server.finish();
        assert_eq!(code, Some(0), "{errors}");
        let said = lines.join("\n");
        assert!(said.contains(" - disconnected: "), "{said}");
        assert!(said.contains("1 of 1 open connection flushed and ended in order"), "{said}");
        assert!(errors.is_empty(), "{errors}");
        let errors = client.errors.take().expect("not taken yet").join().expect("it only reads");
        assert!(errors.contains("connection lost: the peer said goodbye"), "{errors}");
        assert_eq!(client.finish().2, Some(1));
    }
}

#[test]
fn server_prints_statistics() {
    let (server, address) = serve(&["--statistics", "0.2"]);
    sent(&[&address, "ping"]);
    assert!(server.line_with(" = ").contains("msg/s"));
    let lines = terminate(server);
    assert!(lines.last().expect("a summary").starts_with("ended: 1 message received, 1 sent"));
}

#[test]
fn server_ends_by_itself() {
    let (server, _) = serve(&["--for", "0.2"]);
    let (lines, errors, code) = server.finish();
    assert_eq!(code, Some(0), "{errors}");
    assert!(lines.last().expect("a summary").starts_with("ended: 0 messages received, 0 sent"));
}

#[test]
fn unreachable_server_is_a_failure_that_names_it() {
    // Bound and not listening: nobody else can take the port, and connecting is refused.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("bound").as_socket().expect("TCP").to_string();
    let (lines, errors, code) = send(&[&address, "ping"]);
    assert_eq!((lines.len(), code), (0, Some(1)), "{errors}");
    assert!(
        errors.contains(&format!("cannot connect to {address}: Connection refused")),
        "{errors}"
    );
}

#[test]
fn silent_server_is_a_failure_in_time() {
    // Accepts, as the kernel does for it, and never says welcome.
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound").to_string();
    // Without what stands on the command line it would take ten minutes.
    let path = temporary("patient.toml");
    std::fs::write(&path, "handshake_timeout_ms = 600000\n").expect("a writable folder");
    let config = path.to_str().expect("a plain path");
    let (_, errors, code) = send(&["--config", config, &address, "--timeout", "50", "ping"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("handshake_timeout_ms"), "{errors}");
}

#[test]
fn taken_port_is_a_failure_with_a_remedy() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound").to_string();
    let (lines, errors, code) = Process::start(ringwire(&["serve", &address])).finish();
    assert_eq!((lines.len(), code), (0, Some(1)), "{errors}");
    assert!(errors.contains("another process listens there"), "{errors}");
}

#[test]
fn senseless_command_lines_say_what_is_wrong() {
    let check = |arguments: &[&str], said: &str| {
        let (lines, errors, code) = Process::start(ringwire(arguments)).finish();
        assert_eq!((lines.len(), code), (0, Some(2)), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    };
    check(&["send", "host:99999", "x"], "the port \"99999\"");
    check(&["serve", "[::1"], "[::1");
    check(&["serve", "unix:"], "unix:");
    check(&["serve", "unix:rel.sock"], "must be absolute");
    check(&["send", "127.0.0.1:0", "x"], "port 0 can not be connected to");
    check(&["send", "http://host:1", "x"], "a scheme such as \"http\" is not part");
    check(&["send", "127.1", "x"], "\"127.1\" is not four decimal numbers");
    check(&["send", "0x7f000001:80", "x"], "\"0x7f000001\" is not four decimal numbers");
    check(&["send", "[::1]x", "x"], "\"x\" after the bracket is not a port");
    check(&["send"], "ADDR");
    check(&["send", "localhost", "--kind", "heartbeat", "x"], "command");
    check(&["send", "localhost", "--type", "x", "x"], "0xffffffff");
    check(&["send", "localhost", "--rate", "0", "x"], "per second");
    check(&["send", "localhost", "--count", "3"], "standard input");
    check(&["send", "localhost", "--request", "--one-way", "x"], "--one-way");
    check(&["serve", "--reactors", "0"], "1..=256");
    check(&["serve", "--reactors", "-1"], "1..=256");
    check(&["serve", "--for", "-1"], "seconds from");
    check(&["send", "localhost", "--rate", "-1", "x"], "per second");
    check(&["send", "localhost", "--timeout", "-1", "x"], "1..=");
    check(&["serve", "--cores", "5000"], "core numbers from 0 to 1023");
    check(&["serve", "--cores", "0,0"], "cores = [0, 0] is invalid");

    let path = temporary("wrong.toml");
    std::fs::write(&path, "window_bytes = 16\n").expect("a writable folder");
    let name = path.to_str().expect("a plain path");
    let bound = "window_bytes = 16 is out of bounds: 4096 to 4194304";
    check(&["serve", "127.0.0.1:0", "--config", name], bound);
    check(&["send", "localhost", "x", "--config", name], &format!("wrong.toml: {bound}"));
    check(&["--config", name, "doctor"], bound);

    // What is wrong between two values is the file's, too, unless an option has brought it in.
    std::fs::write(&path, "cores = [0, 0]\n").expect("a writable folder");
    let twice = "wrong.toml: cores = [0, 0] is invalid";
    check(&["serve", "127.0.0.1:0", "--config", name], twice);
    check(&["send", "localhost", "x", "--config", name], twice);
    check(&["--config", name, "doctor"], twice);
    check(&["--config", name, "bench"], twice);
    std::fs::write(&path, "idle = \"park\"\n").expect("a writable folder");
    check(&["serve", "--cores", "0,0", "--config", name], "error: cores = [0, 0] is invalid");
}

#[test]
fn congestion_control_that_is_not_there_is_named() {
    let path = temporary("congestion.toml");
    std::fs::write(&path, "tcp_congestion = \"nonsense\"\n").expect("a writable folder");
    let name = path.to_str().expect("a plain path");
    let arguments = ["serve", "127.0.0.1:0", "--config", name];
    let (_, errors, code) = Process::start(ringwire(&arguments)).finish();
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("tcp_congestion = \"nonsense\" is not known"), "{errors}");
    assert!(errors.contains("net.ipv4.tcp_available_congestion_control"), "{errors}");
}

/// Starts a server with other limits of descriptors, and returns what it says on standard error.
fn complaints_with_limits(limits: &str) -> String {
    let path = temporary(&format!("limits{}.toml", limits.replace(' ', "")));
    std::fs::write(&path, "connections_max = 16\n").expect("a writable folder");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limits}; exec \"$0\" \"$@\"")]);
    command.env("XDG_RUNTIME_DIR", RUNTIME);
    command.arg(env!("CARGO_BIN_EXE_ringwire"));
    command.args(["serve", "127.0.0.1:0", "--for", "0.01", "--config"]).arg(path);
    let (_, errors, code) = Process::start(command).finish();
    assert_eq!(code, Some(0), "{errors}");
    errors
}

#[test]
fn too_few_descriptors_are_said_at_the_start() {
    let errors = complaints_with_limits("-n 64");
    let said = "warning: 64 descriptors are too few for 16 connections (connections_max)";
    assert!(errors.contains(said), "{errors}");
    assert!(errors.contains("ulimit -n"), "{errors}");
    // The soft limit is raised as far as it takes.
    assert_eq!(complaints_with_limits("-Sn 64"), "");
}

/// `reactors` of the file holds unless the option says otherwise. A reactor's thread has its name.
#[test]
fn number_of_reactors_comes_from_the_file() {
    let path = temporary("reactors.toml");
    std::fs::write(&path, "reactors = 3\nidle = \"park\"\n").expect("a writable folder");
    let name = path.to_str().expect("a plain path");
    let threads = |server: &Process| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id()));
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        let names: Vec<String> = tasks.expect("it runs").filter_map(name).collect();
        names.iter().filter(|name| name.starts_with("ringwire-")).count()
    };
    let (server, _) = serve(&["--config", name]);
    assert_eq!(threads(&server), 3);
    terminate(server);
    let (server, _) = serve(&["--config", name, "--reactors", "2"]);
    assert_eq!(threads(&server), 2);
    terminate(server);
}

#[test]
fn doctor_reports_json_and_its_verdict() {
    let Output { status, stdout, stderr } = output::output(&mut ringwire(&["doctor", "--json"]));
    let report: Value = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
    let verdict = report["verdict"].as_str().expect("a verdict");
    let expected = i32::from(verdict == "will_not_work");
    assert_eq!(status.code(), Some(expected), "{verdict}");
    let test = &report["self_test"];
    for part in ["wake_up", "timer", "round_trip_blocking"] {
        assert!(test[part]["p99_ns"].as_u64().is_some_and(|p99| p99 > 0), "{part}: {test}");
    }
    assert!(test["spin"]["longest_ns"].as_u64().is_some_and(|longest| longest > 0), "{test}");
    let toml = report["recommended"]["toml"].as_str().expect("a snippet");
    ringwire::Config::from_toml(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
}

#[test]
fn doctor_without_self_test_is_quick_and_recommends_all_the_same() {
    let mut doctor = ringwire(&["doctor", "--json", "--no-self-test", "--reactors", "1"]);
    let output = output::output(&mut doctor);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["self_test"].is_null(), "{report}");
    let sections = report["sections"].as_array().expect("a list");
    let names: Vec<_> = sections.iter().map(|section| section["section"].as_str()).collect();
    assert!(names.contains(&Some("Interference")) && !names.contains(&Some("Self-test")));
    let settings = report["recommended"]["settings"].as_array().expect("a list");
    assert!(settings.iter().any(|setting| setting["key"] == "idle"), "{settings:?}");
    assert!(settings.iter().all(|setting| setting["reason"].is_string()), "{settings:?}");
}

/// Who asks for metrics learns what it takes, before and after.
#[test]
fn metrics_say_what_they_need() {
    let help = output::output(&mut ringwire(&["serve", "--help"]));
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("cargo build --release --features metrics"), "{help}");
    let command = ringwire(&["serve", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--for", "0.01"]);
    let (_, errors, code) = Process::start(command).finish();
    if cfg!(feature = "metrics") {
        assert_eq!(code, Some(0), "{errors}");
    } else {
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains("build it with `--features metrics`"), "{errors}");
    }
}
