//! Nodes that are looked at while they are killed and started again, and `ringwire stat`: real
//! processes, each test with a directory of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Action, Winsize, tcflow, tcgetattr, tcsetwinsize};

use ringwire::stats::{RegistryError, WriterState, files, is_abandoned};
use ringwire::{Client, Config, Envelope, Nanos, Snapshot};

#[path = "support/bound.rs"]
mod bound;
#[path = "support/guard.rs"]
mod guard;
#[path = "support/lines.rs"]
mod lines;
#[path = "support/output.rs"]
mod output;

use guard::Guard;
use lines::Lines;

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // ORDERING: Relaxed: only to be different each time.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // What a run of the same number that was killed has left is another's.
        let name = format!("ringwire-attach-{}-{number}-{}", std::process::id(), Nanos::now().0);
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory for temporary files");
        Self(path)
    }

    fn stats(&self) -> PathBuf {
        self.0.join("stats")
    }

    fn files(&self) -> Vec<PathBuf> {
        files(&[self.stats()])
    }

    /// A node of another process.
    fn serve(&self, name: &str) -> Node {
        self.serve_with(name, |_| {})
    }

    fn serve_with(&self, name: &str, adjust: impl FnOnce(&mut Command)) -> Node {
        self.serve_as(name, "", adjust)
    }

    /// With more in its configuration.
    fn serve_as(&self, name: &str, more: &str, adjust: impl FnOnce(&mut Command)) -> Node {
        let config = self.0.join(format!("{name}.toml"));
        let text = format!("registry_directory = {:?}\nnode_name = {name:?}\n{more}", self.stats());
        std::fs::write(&config, text).expect("room");
        let mut command = bound::command(env!("CARGO_BIN_EXE_ringwire"));
        command.arg("--config").arg(config).args(["serve", "127.0.0.1:0", "--quiet"]);
        command.env_remove("RUST_LOG").stdout(Stdio::piped()).stdin(Stdio::null());
        adjust(&mut command);
        let mut child = command.spawn().expect("the command runs");
        let stdout = child.stdout.take().expect("piped");
        let mut node = Node { child, address: String::new() };
        let line = Lines::of(stdout).next().expect("it says where it listens");
        node.address = line.strip_prefix("listening on ").expect("it listens").to_owned();
        node
    }

    fn stat(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
        command.arg("stat").arg("--dir").arg(self.stats()).args(arguments);
        output::output(&mut command)
    }

    fn stat_text(&self, arguments: &[&str]) -> String {
        let output = self.stat(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that does not outlive its test.
struct Node {
    child: Child,
    address: String,
}

impl Node {
    /// SIGKILL: nothing of its own runs any more.
    fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has a node answer so many requests.
fn exercise(address: &str, requests: u32) {
    let config = Config::builder().registry(false).reconnect(false).build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(address).expect("the node listens");
    for _ in 0..requests {
        client.request(Envelope::command(), b"status?", PATIENCE).expect("an answer");
    }
    let _ = client.disconnect(PATIENCE);
}

fn received(path: &Path) -> u64 {
    Snapshot::from_file(path).expect("readable").statistics().messages_received
}

#[test]
fn dead_nodes_last_numbers_stay_until_they_are_cleaned_up() {
    let scratch = Scratch::new();
    let mut node = scratch.serve("cell");
    exercise(&node.address, 50);
    let path = scratch.files().pop().expect("its registry");
    assert_eq!((received(&path), is_abandoned(&path).expect("readable")), (50, false));
    node.kill();
    let seen = Snapshot::from_file(&path).expect("readable post mortem");
    assert_eq!(seen.writer, WriterState::Died);
    assert_eq!((seen.statistics().messages_received, &*seen.node_name), (50, "cell"));
    assert!(seen.histogram("turn").is_some_and(|turns| turns.count() >= 50));

    let mut successor = scratch.serve("cell");
    assert_eq!(scratch.files().len(), 2);
    let table = scratch.stat_text(&[]);
    assert!(
        table.lines().any(|line| line.starts_with("cell") && line.contains(" died ")),
        "{table}"
    );
    assert!(table.lines().any(|line| line.contains(" running ")), "{table}");
    let removed = scratch.stat_text(&["--clean"]);
    assert_eq!(removed, format!("removed {}\n", path.display()));
    let left = scratch.files();
    assert_eq!(left.len(), 1);
    let alive = Snapshot::from_file(&left[0]).expect("readable");
    assert_eq!((alive.pid, alive.writer), (successor.child.id(), WriterState::Running));
    successor.kill();
}

/// Attached the whole time: every reading is whole, or says clearly why it is none.
#[test]
fn readers_live_through_kills_and_restarts() {
    let scratch = Scratch::new();
    let stop = AtomicBool::new(false);
    let (reads, deaths) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // ORDERING: Relaxed: mere counts and a flag; the scope joins the thread.
            while !stop.load(Ordering::Relaxed) {
                for path in scratch.files() {
                    match Snapshot::from_file(&path) {
                        Ok(snapshot) => {
                            assert_eq!(snapshot.node_name, "cell");
                            let died = u64::from(snapshot.writer == WriterState::Died);
                            deaths.fetch_add(died, Ordering::Relaxed);
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(RegistryError::BeingCreated { .. }) => {}
                        // Cleaned up between the two looks.
                        Err(RegistryError::File { source, .. })
                            if source.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        for _ in 0..5 {
            let mut node = scratch.serve("cell");
            exercise(&node.address, 20);
            let before = deaths.load(Ordering::Relaxed);
            node.kill();
            let deadline = Nanos::now() + PATIENCE;
            while deaths.load(Ordering::Relaxed) == before {
                assert!(Nanos::now() < deadline, "the reader does not notice");
                std::thread::yield_now();
            }
            assert!(scratch.stat_text(&["--clean"]).starts_with("removed "));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 5);
}

#[test]
fn node_that_ends_in_order_leaves_nothing() {
    let scratch = Scratch::new();
    let mut node = scratch.serve("cell");
    let pid = Pid::from_child(&node.child);
    kill_process(pid, Signal::TERM).expect("our own child");
    assert!(output::status_of(&mut node.child).success());
    assert_eq!(scratch.files(), Vec::<PathBuf>::new());
    let output = scratch.stat(&[]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("no node runs"), "{complaint}");
    assert!(complaint.contains("stats"), "{complaint}");
}

/// `ulimit -f`: the kernel ends a process that makes a longer file.
#[test]
fn file_size_limit_costs_the_registry_and_not_the_node() {
    let scratch = Scratch::new();
    let mut node = scratch.serve_with("cell", |command| {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -f 40; exec \"$0\" \"$@\""]);
        limited.arg(command.get_program()).args(command.get_args());
        limited.env("RUST_LOG", "warn").stdin(Stdio::null());
        limited.stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = limited;
    });
    exercise(&node.address, 3);
    let left = std::fs::read_dir(scratch.stats()).expect("it was made").count();
    assert_eq!(left, 0, "an empty file stays");
    let stderr = node.child.stderr.take().expect("piped");
    node.kill();
    let log = Lines::of(stderr).text();
    assert!(log.contains("no registry file"), "{log}");
}

#[test]
fn stat_tells_everything_in_each_form() {
    let scratch = Scratch::new();
    let node = scratch.serve("cell");
    let _other = scratch.serve("press");
    exercise(&node.address, 100);
    let deadline = Nanos::now() + PATIENCE;
    while !scratch.stat_text(&["cell"]).contains("ended: goodbye") {
        assert!(Nanos::now() < deadline, "the session does not end");
    }
    let list = scratch.stat_text(&[]);
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");

    let table = scratch.stat_text(&["cell"]);
    assert!(table.starts_with(&format!("cell: pid {} (ringwire), running", node.child.id())));
    for expected in [
        &*format!("listens on {}", node.address),
        "received 100 messages",
        "0 sessions now, 1 so far",
        "ended: goodbye",
        "LATENCY",
        "one way",
        "critical",
        "connections ended: 1 goodbye",
    ] {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
    let wide: Vec<_> = table.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:?} in\n{table}");
    let by_number = scratch.stat_text(&[&node.child.id().to_string()]);
    assert!(by_number.starts_with("cell: pid "), "{by_number}");

    let lines = scratch.stat_text(&["--json"]);
    let nodes: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(nodes.len(), 2);
    let cell = nodes.iter().find(|node| node["node_name"] == "cell").expect("it is there");
    assert_eq!(cell["state"], "running");
    assert_eq!(cell["statistics"]["messages_received"], 100);
    assert_eq!(cell["statistics"]["is_server"], true);
    assert_eq!(cell["statistics"]["state"], "connected");
    assert_eq!(cell["reactors"][0]["unsettled_messages"], 0);
    assert!(cell["histograms"]["turn"]["p99_ns"].as_u64().is_some_and(|nanos| nanos > 0));
    let session = &cell["sessions"][0];
    assert_eq!((&session["state"], &session["reason"]), (&"ended".into(), &"goodbye".into()));
    assert_eq!(session["lanes"]["normal"]["bytes"], 0);

    let table = scratch.stat_text(&["cell"]);
    assert!(table.contains("handler (1 in 64) "), "{table}");
    let distribution = scratch.stat_text(&["cell", "--hgrm", "turn"]);
    assert!(distribution.contains("Value     Percentile TotalCount"), "{distribution}");
    let log = scratch.stat_text(&["cell", "--hlog"]);
    assert!(log.starts_with("#[Histogram log format version 1.3]"), "{log}");
    assert!(log.contains("Tag=turn,0.000,"), "{log}");
}

/// What is answered reliably is confirmed, or waits for that, or is lost with its session.
#[test]
fn stat_tells_what_became_of_reliable_messages() {
    let scratch = Scratch::new();
    let node = scratch.serve("cell");
    let config = Config::builder().registry(false).reconnect(false).build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&node.address).expect("the node listens");
    for _ in 0..10 {
        let envelope = Envelope::command().reliable();
        client.request(envelope, b"status?", PATIENCE).expect("an answer");
    }
    let _ = client.disconnect(PATIENCE);
    let deadline = Nanos::now() + PATIENCE;
    let expected = "reliable 10 admitted: 10 confirmed, 0 unconfirmed, 0 lost";
    loop {
        let table = scratch.stat_text(&["cell"]);
        if table.lines().any(|line| line == expected) {
            break;
        }
        assert!(Nanos::now() < deadline, "{table}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&scratch.stat_text(&["--json"])).expect("JSON");
    assert_eq!(json["statistics"]["reliable_confirmed"], 10);
}

#[test]
fn stat_refuses_what_makes_no_sense() {
    let scratch = Scratch::new();
    let _one = scratch.serve("cell");
    let _two = scratch.serve("press");
    let check = |arguments: &[&str], code: i32, expected: &str| {
        let output = scratch.stat(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        assert!(complaint.contains(expected), "{arguments:?}: {complaint}");
    };
    check(&["--hgrm", "turn"], 1, "2 nodes are meant");
    check(&["--hgrm", "nothing"], 2, "possible values");
    check(&["nobody"], 1, "no node is called nobody");
    check(&["--watch=0"], 2, "seconds from");
    check(&["--watch", "0"], 2, "seconds from");
    check(&["cell", "--watch", "press"], 2, "--watch takes seconds, not press");
    check(&["--clean", "--json"], 2, "cannot be used with");
    check(&["/nonexistent/x.rwstats"], 1, "/nonexistent/x.rwstats");
    let foreign = scratch.stats().join("foreign.rwstats");
    std::fs::write(&foreign, "something else").expect("room");
    check(&[foreign.to_str().expect("plain")], 1, "not a ringwire registry");
    // The others are shown all the same.
    let output = scratch.stat(&[]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: "));
    check(&["--clean"], 1, "not a ringwire registry");
}

/// Each number as large as it gets: sums must not overflow.
#[test]
fn stat_shows_what_a_damaged_file_says() {
    let scratch = Scratch::new();
    let mut node = scratch.serve("cell");
    let path = scratch.files().pop().expect("its registry");
    node.kill();
    // Nobody can open it for writing as it is.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let file = File::options().read(true).write(true).open(&path).expect("ours");
    let word = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).expect("within the header");
        u64::from_le_bytes(bytes)
    };
    // The byte table in the documentation of `ringwire::stats`.
    let [counters, rows] = [56, 96].map(|at| word(32) + word(at));
    let bytes = usize::try_from(rows - counters).expect("some kilobytes");
    file.write_all_at(&vec![0xff; bytes], counters).expect("ours");
    for row in [rows, rows + 640] {
        file.write_all_at(&[0xff; 640], row).expect("ours");
        // The sequence at rest, the state connected.
        file.write_all_at(&2_u64.to_le_bytes(), row).expect("ours");
        file.write_all_at(&2_u64.to_le_bytes(), row + 16).expect("ours");
    }
    for form in [&[][..], &["--json"], &["--hgrm", "turn"], &["--hlog"], &["--all"]] {
        let text = scratch.stat_text(form);
        assert!(!text.is_empty(), "{form:?}");
    }
    assert!(scratch.stat_text(&[]).contains("connected"));
}

/// What a process leaves that died before it had written a word; and what one has that has just
/// begun, which is nothing to warn of.
#[test]
fn unfinished_files_are_no_trouble_and_can_be_cleaned_up() {
    let scratch = Scratch::new();
    let _node = scratch.serve("cell");
    let make = |name: &str, bytes: u64| {
        let path = scratch.stats().join(name).with_extension("rwstats");
        let file = File::create(path).expect("writable");
        file.set_len(bytes).expect("room");
        file
    };
    let begun = [make("a-7-0", 0), make("b-7-1", 1 << 20)];
    for command in [&[][..], &["--clean"]] {
        let output = scratch.stat(command);
        assert!(output.status.success(), "{command:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command:?}");
    }
    assert_eq!(scratch.files().len(), 3);
    for file in begun {
        let made = file.metadata().and_then(|found| found.modified()).expect("our own");
        file.set_modified(made - Duration::from_secs(120)).expect("our own");
    }
    assert_eq!(scratch.stat_text(&["--clean"]).lines().count(), 2);
    assert_eq!(scratch.files().len(), 1);
}

/// Files of other builds: those of the dead can be cleaned up, and hundreds of them are one line.
#[test]
fn dead_files_of_another_layout_are_one_line_and_can_be_cleaned_up() {
    let scratch = Scratch::new();
    let mut dead = scratch.serve("drive");
    let path = scratch.files().pop().expect("its registry");
    dead.kill();
    let mut bytes = std::fs::read(&path).expect("it is left");
    std::fs::remove_file(&path).expect("ours");
    // The byte table in the documentation of `ringwire::stats`: the version.
    bytes[8..16].copy_from_slice(&1_u64.to_le_bytes());
    let make = |pid: u32, number: u32| {
        let path = scratch.stats().join(format!("old-{pid}-{number}.rwstats"));
        std::fs::write(&path, &bytes).expect("room");
        path
    };
    // The number of a process that has ended and was waited for.
    for number in 0..40 {
        make(dead.child.id(), number);
    }
    let living = make(std::process::id(), 0);
    let cell = scratch.serve("cell");
    let held = make(dead.child.id(), 99);
    let holder = File::options().write(true).open(&held).expect("ours");
    rustix::fs::fcntl_lock(&holder, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .expect("nobody holds it");

    let output = scratch.stat(&[]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "the others are shown: {complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.contains("files of layout 1"), "{complaint}");
    assert!(complaint.contains("--clean"), "{complaint}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&cell.child.id().to_string()));

    let removed = scratch.stat_text(&["--clean"]);
    assert_eq!(removed.lines().count(), 40, "{removed}");
    let mut left = scratch.files();
    left.retain(|path| path.to_string_lossy().contains("old-"));
    let mut expected = [held, living];
    expected.sort();
    assert_eq!(left, expected, "one is locked, and a process has the number of the other");
}

/// A whole name hides what only contains it, a running node its dead namesakes; and only what is
/// meant is removed.
#[test]
fn stat_means_the_node_that_is_named() {
    let scratch = Scratch::new();
    let mut dead = scratch.serve("drive-1");
    dead.kill();
    let mut longer_dead = scratch.serve("drive-10");
    longer_dead.kill();
    let mut other_dead = scratch.serve("press");
    other_dead.kill();
    assert_eq!(scratch.files().len(), 3);
    let one = scratch.serve("drive-1");
    let ten = scratch.serve("drive-10");
    let check = |who: &str, pid: u32| {
        let text = scratch.stat_text(&[who]);
        assert!(text.contains(&format!(": pid {pid} (ringwire)")), "{who}: {text}");
    };
    check("drive-1", one.child.id());
    check("drive-10", ten.child.id());
    check(&dead.child.id().to_string(), dead.child.id());
    let both = scratch.stat_text(&["drive"]);
    assert_eq!(both.lines().count(), 3, "{both}");
    assert!(!both.contains("died"), "{both}");

    // A file that can not be read belongs to whom its name says.
    let foreign = scratch.stats().join("foreign-1-0.rwstats");
    std::fs::write(&foreign, "something else").expect("room");
    let output = scratch.stat(&["nosuch"]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint.contains("no node is called nosuch"), "{complaint}");
    assert!(!complaint.contains("warning"), "{complaint}");
    let output = scratch.stat(&["foreign"]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("not a ringwire registry"), "{complaint}");
    assert!(complaint.contains("nothing can be read"), "{complaint}");

    let nobody = scratch.stat(&["nosuch", "--clean"]);
    assert_eq!((nobody.status.code(), scratch.files().len()), (Some(1), 6));
    let removed = scratch.stat_text(&["drive-1", "--clean"]);
    assert_eq!(removed.lines().count(), 1, "{removed}");
    assert!(removed.contains(&format!("drive-1-{}-", dead.child.id())), "{removed}");
    let removed = scratch.stat_text(&["press", "--clean"]);
    assert!(removed.contains("press-"), "{removed}");
    let named = |name: &str| {
        let is_it = |path: &&PathBuf| path.to_string_lossy().contains(name);
        scratch.files().iter().filter(is_it).count()
    };
    assert_eq!((named("drive-10-"), named("drive-1-"), named("press-")), (2, 1, 0));
}

#[test]
fn stat_looks_where_the_configuration_says() {
    let scratch = Scratch::new();
    let _node = scratch.serve("cell");
    let file = scratch.stats().with_extension("toml");
    let text = format!("registry_directory = {:?}\n", scratch.stats());
    std::fs::write(&file, text).expect("room");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    let output = output::output(command.arg("--config").arg(&file).args(["stat", "--json"]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("\"cell\""), "{output:?}");
}

#[test]
fn watch_prints_rates_again_and_again() {
    let scratch = Scratch::new();
    let _node = scratch.serve("cell");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(["stat", "--json", "--watch=0.05", "--dir"]).arg(scratch.stats());
    let mut child = Guard::spawn(command.stdout(Stdio::piped()));
    let mut lines = Lines::of(child.0.stdout.take().expect("piped"));
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("another line");
        serde_json::from_str(&line).expect("JSON")
    };
    assert!(next()["rates"].is_null());
    let second = next();
    assert!(second["rates"]["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{second}");
}

/// The seconds behind a space, and nobody there yet.
#[test]
fn watch_waits_for_who_is_named() {
    for arguments in [&["cell", "--watch", "0.05"][..], &["--watch", "cell"]] {
        let scratch = Scratch::new();
        let _other = scratch.serve("press");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
        command.arg("stat").args(arguments).arg("--dir").arg(scratch.stats());
        let mut child = Guard::spawn(command.stdout(Stdio::piped()));
        let mut lines = Lines::of(child.0.stdout.take().expect("piped"));
        let mut next = || lines.next().expect("another line");
        assert_eq!(next(), "waiting for cell", "{arguments:?}");
        let node = scratch.serve("cell");
        let heading = format!("cell: pid {} (ringwire), running", node.child.id());
        let deadline = Nanos::now() + PATIENCE;
        loop {
            let line = next();
            if line.starts_with(&heading) {
                break;
            }
            assert_eq!(line, "waiting for cell", "{arguments:?}");
            assert!(Nanos::now() < deadline, "it does not see the node");
        }
    }
}

/// Who came and went is logged; so is what was dropped, once a second.
#[test]
fn log_tells_of_state_changes() {
    let scratch = Scratch::new();
    let mut node = scratch.serve_with("cell", |command| {
        command.env("RUST_LOG", "info").stderr(Stdio::piped());
    });
    let stderr = node.child.stderr.take().expect("piped");
    exercise(&node.address, 3);
    let pid = Pid::from_child(&node.child);
    kill_process(pid, Signal::TERM).expect("our own child");
    let log = Lines::of(stderr).text();
    for expected in
        ["connection event", "kind=connected", "kind=disconnected: the peer said goodbye"]
    {
        assert!(log.contains(expected), "{expected} is not in\n{log}");
    }
    // As people read it, and not as it stands in the code.
    assert!(!log.contains('{') && !log.contains("Goodbye"), "{log}");
    assert_eq!(log.matches("connection event").count(), 2, "not for every message:\n{log}");
}

/// Runs a command that ends by itself, in time; what it says on both outputs.
fn finished(command: &mut Command) -> (bool, String, String) {
    let Output { status, stdout, stderr } = output::output(command.stdin(Stdio::null()));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.success(), text(stdout), text(stderr))
}

/// A log that goes on has an end where the node has one.
#[test]
fn histogram_log_ends_with_its_node() {
    let scratch = Scratch::new();
    let mut node = scratch.serve("cell");
    exercise(&node.address, 20);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(["stat", "cell", "--hlog", "--watch=0.02", "--dir"]).arg(scratch.stats());
    let mut watching = Guard::spawn(command.stdout(Stdio::piped()));
    let mut lines = Lines::of(watching.0.stdout.take().expect("piped"));
    until_an_interval(&mut lines);
    node.kill();
    rest_of(watching, lines);

    // And of one that is dead already: all that it did, in the time it had, whoever asks when.
    let (is_done, text, errors) = finished(&mut command);
    assert!(is_done, "{errors}");
    assert_eq!(text.matches("Tag=turn,0.000,").count(), 1, "{text}");
    let later = Nanos::now() + Duration::from_millis(20);
    while Nanos::now() < later {
        std::thread::yield_now();
    }
    assert_eq!(finished(&mut command), (true, text, String::new()));
}

/// `stat --hlog --watch` of the one node there is, which it has looked at twice.
fn histogram_log(scratch: &Scratch) -> (Guard, Lines) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(["stat", "--hlog", "--watch=0.02", "--dir"]).arg(scratch.stats());
    let mut log = Guard::spawn(command.stdout(Stdio::piped()));
    let mut lines = Lines::of(log.0.stdout.take().expect("piped"));
    until_an_interval(&mut lines);
    (log, lines)
}

/// Reads a log until it tells of turns.
fn until_an_interval(lines: &mut Lines) {
    let deadline = Nanos::now() + PATIENCE;
    while !lines.next().expect("it goes on").contains("Tag=turn") {
        assert!(Nanos::now() < deadline, "no interval");
    }
}

/// The rest of a log that ends by itself, in order and in time.
fn rest_of(mut log: Guard, lines: Lines) -> Vec<String> {
    let deadline = Nanos::now() + PATIENCE;
    let goes_on = |_: &String| assert!(Nanos::now() < deadline, "it goes on for ever");
    let rest = lines.inspect(goes_on).collect();
    assert!(output::status_of(&mut log.0).success());
    rest
}

/// A log is of the node that was meant when it began.
#[test]
fn histogram_log_has_the_last_of_its_node_whoever_else_begins() {
    let scratch = Scratch::new();
    let mut node = scratch.serve("cell");
    let (log, lines) = histogram_log(&scratch);
    // It looks away meanwhile.
    let pid = Pid::from_child(&log.0);
    kill_process(pid, Signal::STOP).expect("our own child");
    let stopped = rustix::process::WaitOptions::UNTRACED;
    rustix::process::waitpid(Some(pid), stopped).expect("our own child").expect("it stops");
    exercise(&node.address, 20);
    node.kill();
    let _successor = scratch.serve("cell");
    let _other = scratch.serve("press");
    kill_process(pid, Signal::CONT).expect("our own child");
    let rest = rest_of(log, lines);
    // Answers waited to be sent in no other interval. The longest wait is the fourth of a line.
    let is_of_answers = |line: &&String| {
        line.starts_with("Tag=queueing,") && line.split(',').nth(3) != Some("0.000")
    };
    assert_eq!(rest.iter().filter(is_of_answers).count(), 1, "{rest:?}");
}

/// Its registry goes with it.
#[test]
fn histogram_log_ends_with_a_node_that_ends_in_order() {
    let scratch = Scratch::new();
    let node = scratch.serve("cell");
    let (log, lines) = histogram_log(&scratch);
    kill_process(Pid::from_child(&node.child), Signal::TERM).expect("our own child");
    rest_of(log, lines);
}

/// Standard output is for whoever reads JSON.
#[test]
fn watch_for_json_says_what_it_waits_for() {
    let scratch = Scratch::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(["stat", "cell", "--json", "--watch=0.02", "--dir"]).arg(scratch.stats());
    let mut child = Guard::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut errors = Lines::of(child.0.stderr.take().expect("piped"));
    assert_eq!(errors.next().expect("a line"), "waiting for cell");
    let node = scratch.serve("cell");
    let mut lines = Lines::of(child.0.stdout.take().expect("piped"));
    let line = lines.next().expect("a line");
    let seen: serde_json::Value = serde_json::from_str(&line).expect("JSON alone");
    assert_eq!(seen["pid"], node.child.id());
    drop(child);
    assert_eq!(errors.count(), 0, "it says so once");
}

/// A client that does not read, of a server whose full lanes drop the oldest: hundreds of drops are
/// a line a second.
#[test]
fn log_tells_of_drops_once_a_second() {
    let scratch = Scratch::new();
    let began = Nanos::now();
    let mut node = scratch.serve_as(
        "cell",
        "overflow_normal = \"drop_oldest\"\nlane_bytes_max = 65536\n",
        |command| {
            command.env("RUST_LOG", "warn").stderr(Stdio::piped());
        },
    );
    let stderr = node.child.stderr.take().expect("piped");
    let config = Config::builder().registry(false).inbox_frames_max(16).build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&node.address).expect("the node listens");
    let path = scratch.files().pop().expect("its registry");
    let deadline = began + PATIENCE;
    let dropped = loop {
        // Answers fill the inbox, and then whatever lies between.
        let _ = client.send(Envelope::command(), &[7; 16 << 10]);
        let _ = client.poll();
        let statistics = Snapshot::from_file(&path).expect("readable").statistics();
        let dropped: u64 = statistics.drops.iter().map(|drop| drop.count).sum();
        if dropped > 100 {
            break dropped;
        }
        assert!(Nanos::now() < deadline, "nothing is dropped: {statistics}");
    };
    node.kill();
    let seconds = Nanos::now().since(began).as_secs() + 1;
    let log = Lines::of(stderr).text();
    let lines = log.lines().filter(|line| line.contains("messages dropped")).count() as u64;
    assert!((1..=seconds + 1).contains(&lines), "{lines} lines of {dropped} drops:\n{log}");
    assert!(log.contains("reason=\"overflow\"") && log.contains("WARN"), "{log}");
}

/// A process without descriptors can not accept: said once, not for each attempt.
#[test]
fn log_tells_of_trouble_with_the_kernel() {
    let scratch = Scratch::new();
    let mut node = scratch.serve_with("cell", |command| {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""]);
        limited.arg(command.get_program()).args(command.get_args());
        limited.env("RUST_LOG", "warn").stdin(Stdio::null());
        limited.stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = limited;
    });
    let stderr = node.child.stderr.take().expect("piped");
    let path = scratch.files().pop().expect("its registry");
    let crowd: Vec<_> = (0..40)
        .map(|_| std::net::TcpStream::connect(&node.address).expect("the backlog has room"))
        .collect();
    let deadline = Nanos::now() + PATIENCE;
    let errors = || Snapshot::from_file(&path).expect("readable").statistics().accept_errors;
    while errors() < 2 {
        assert!(Nanos::now() < deadline, "everyone was accepted");
        std::thread::yield_now();
    }
    node.kill();
    drop(crowd);
    let log = Lines::of(stderr).text();
    assert_eq!(log.matches("cannot accept").count(), 1, "{log}");
    assert!(log.contains("RLIMIT_NOFILE"), "what to do: {log}");
}

#[test]
fn top_needs_a_terminal() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    let output = output::output(command.arg("top").stdin(Stdio::null()));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stat --watch"));
}

/// What a terminal of 80 by 24 shows: as much of one as `top` makes use of.
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// What came and is not whole yet.
    rest: Vec<u8>,
    /// Everything that came.
    all: String,
}

impl Screen {
    fn new() -> Self {
        let cells = vec![vec![' '; 80]; 24];
        Self { cells, row: 0, column: 0, rest: Vec::new(), all: String::new() }
    }

    fn text(&self) -> String {
        self.cells.iter().map(|row| row.iter().collect::<String>() + "\n").collect()
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend(bytes);
        let rest = std::mem::take(&mut self.rest);
        let whole = match std::str::from_utf8(&rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = std::str::from_utf8(&rest[..whole]).expect("valid up to there");
        let mut left = text;
        while let Some(c) = left.chars().next() {
            left = if c == '\u{1b}' {
                let Some(after) = self.escape(left) else { break };
                after
            } else {
                self.put(c);
                &left[c.len_utf8()..]
            };
        }
        self.all += &text[..text.len() - left.len()];
        self.rest = rest[text.len() - left.len()..].to_vec();
    }

    fn put(&mut self, c: char) {
        match c {
            '\r' => self.column = 0,
            '\n' => self.row += 1,
            _ => {
                let cell = self.cells.get_mut(self.row).and_then(|row| row.get_mut(self.column));
                *cell.expect("top stays on the screen") = c;
                self.column += 1;
            }
        }
    }

    /// Does what a sequence says; `None` until it is whole. Colours and modes change no letter.
    fn escape<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let Some(body) = text[1..].strip_prefix('[') else { return text.get(2..) };
        let end = body.find(|c: char| ('@'..='~').contains(&c))?;
        let mut numbers = body[..end].split(';').map(|number| number.parse().unwrap_or(1));
        let mut next = || numbers.next().unwrap_or(1) - 1_usize;
        match &body[end..=end] {
            "H" => (self.row, self.column) = (next(), next()),
            "J" => self.cells.iter_mut().for_each(|row| row.fill(' ')),
            _ => {}
        }
        Some(&body[end + 1..])
    }
}

/// A pseudoterminal of 80 by 24.
struct Terminal {
    /// The end that keys are put in at, and pictures come out of.
    outside: File,
    name: String,
}

impl Terminal {
    fn new() -> Self {
        let outside = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
        grantpt(&outside).expect("ours");
        unlockpt(&outside).expect("ours");
        let name = ptsname(&outside, Vec::new()).expect("it has a name");
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&outside, size).expect("ours");
        Self { outside: File::from(outside), name: name.into_string().expect("a plain path") }
    }

    fn open(&self, more: OFlags) -> OwnedFd {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | more;
        rustix::fs::open(&*self.name, flags, rustix::fs::Mode::empty()).expect("unlocked")
    }

    /// How it treats what is typed and shown.
    fn modes(&self) -> String {
        let found = tcgetattr(&self.outside).expect("a terminal");
        format!("{found:?}")
    }

    fn top(&self, scratch: &Scratch) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
        command.args(["top", "--every", "0.05", "--dir"]).arg(scratch.stats());
        command.env_remove("RUST_LOG").env("TERM", "xterm-256color");
        command.stdin(self.open(OFlags::empty()));
        command
    }
}

/// `top` on a terminal, as people have it.
struct OnTerminal {
    top: Node,
    terminal: Terminal,
    modes_before: String,
    told: std::sync::mpsc::Receiver<Vec<u8>>,
    screen: Screen,
    deadline: Nanos,
}

impl OnTerminal {
    fn begin(scratch: &Scratch) -> Self {
        let terminal = Terminal::new();
        let modes_before = terminal.modes();
        let mut command = terminal.top(scratch);
        let [stdout, stderr] = [(); 2].map(|()| terminal.open(OFlags::empty()));
        command.stdout(stdout).stderr(stderr);
        let top = Node { child: command.spawn().expect("it runs"), address: String::new() };
        // Its ends of the screen are the last: this closes ours.
        drop(command);
        let (tell, told) = std::sync::mpsc::channel();
        let mut shown = terminal.outside.try_clone().expect("room");
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The last process to close the screen makes this fail (EIO, pty(7)).
            while let Ok(count @ 1..) = shown.read(&mut bytes) {
                if tell.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let deadline = Nanos::now() + PATIENCE;
        Self { top, terminal, modes_before, told, screen: Screen::new(), deadline }
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&str) -> bool) {
        while !is_so(&self.screen.text()) {
            let left = self.deadline.since(Nanos::now());
            let more = self.told.recv_timeout(left);
            let text = || self.screen.text();
            let more = more.unwrap_or_else(|error| panic!("{what}: {error}\n{}", text()));
            self.screen.take(&more);
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.terminal.outside.write_all(keys).expect("it reads");
    }

    /// It ends in order, and leaves the terminal as it was.
    fn ends(&mut self, why: &str) {
        let ended = loop {
            match self.told.recv_timeout(self.deadline.since(Nanos::now())) {
                Ok(more) => self.screen.take(&more),
                Err(error) => break error,
            }
        };
        let disconnected = std::sync::mpsc::RecvTimeoutError::Disconnected;
        assert_eq!(ended, disconnected, "it goes on after {why}");
        let status = output::status_of(&mut self.top.child);
        assert!(status.success(), "{why}: {status}");
        let all = &self.screen.all;
        let after = all.rfind("\u{1b}[?1049l").expect("the screen before comes back");
        assert!(all[after..].contains("\u{1b}[?25h"), "{why}: and its cursor: {all:?}");
        assert_eq!(self.terminal.modes(), self.modes_before, "after {why}");
    }
}

/// The picture, its keys, and its end.
#[test]
fn top_shows_its_picture_on_a_terminal_and_leaves_it() {
    let scratch = Scratch::new();
    let node = scratch.serve("drive");
    exercise(&node.address, 5);
    let mut top = OnTerminal::begin(&scratch);
    let pid = format!("pid {}", node.child.id());
    top.until("the picture", |text| {
        text.starts_with("drive") && text.contains(&pid) && text.contains("q quit  ? help")
    });
    for heading in ["FLOW", "LANES", "LATENCY", "SESSION"] {
        assert!(top.screen.text().contains(heading), "{heading}:\n{}", top.screen.text());
    }
    let all = &top.screen.all;
    assert!(all.contains("\u{1b}[?1049h"), "a screen of its own: {all:?}");
    assert_ne!(top.terminal.modes(), top.modes_before, "keys come one by one");
    let help = "look at once";
    assert!(!top.screen.text().contains(help), "nobody has asked");
    top.press(b"?");
    top.until("the help", |text| text.contains(help) && text.contains("q, Ctrl-C"));
    top.press(b" ");
    top.until("the picture again", |text| {
        !text.contains(help) && text.contains(&pid) && text.contains("LATENCY")
    });
    top.press(b"p");
    top.until("the pause", |text| text.contains("PAUSED"));
    top.press(b"q");
    top.ends("q");
}

/// As a supervisor or another terminal sends them.
#[test]
fn top_leaves_its_terminal_on_signals() {
    let scratch = Scratch::new();
    let _node = scratch.serve("drive");
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut top = OnTerminal::begin(&scratch);
        top.until("the picture", |text| text.contains("q quit  ? help"));
        assert_ne!(top.terminal.modes(), top.modes_before, "keys come one by one");
        kill_process(Pid::from_child(&top.top.child), signal).expect("our own child");
        top.ends(&format!("{signal:?}"));
    }
}

/// A terminal that takes no output any more: the first signal is not enough.
#[test]
fn top_is_ended_by_a_second_signal() {
    let scratch = Scratch::new();
    let _node = scratch.serve("drive");
    let mut top = OnTerminal::begin(&scratch);
    top.until("the picture", |text| text.contains("q quit  ? help"));
    tcflow(top.terminal.open(OFlags::empty()), Action::OOff).expect("a terminal");
    let status = loop {
        kill_process(Pid::from_child(&top.top.child), Signal::INT).expect("our own child");
        if let Some(status) = top.top.child.try_wait().expect("our own child") {
            break status;
        }
        assert!(Nanos::now() < top.deadline, "it goes on");
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(128 + Signal::INT.as_raw()));
}

/// A terminal that takes no output: half of it is set up by then.
#[test]
fn top_that_can_not_begin_leaves_its_terminal() {
    let scratch = Scratch::new();
    let terminal = Terminal::new();
    let modes_before = terminal.modes();
    let mut command = terminal.top(&scratch);
    let stopped = terminal.open(OFlags::NONBLOCK);
    tcflow(&stopped, Action::OOff).expect("a terminal");
    command.stdout(stopped).stderr(Stdio::piped());
    let output = output::end_of(Guard::spawn(&mut command));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("the terminal"), "{complaint}");
    assert_eq!(terminal.modes(), modes_before, "{complaint}");
}

/// A node in a PID namespace of its own, as in a container: its process id is that of another
/// process here, which lives, whether the node does or not. The lock tells.
#[test]
fn node_of_another_pid_namespace_lives_by_its_lock() {
    let namespace = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let tried = Command::new("unshare").args(namespace).arg("true").output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no PID namespace can be made here: {tried:?}");
        return;
    }
    let scratch = Scratch::new();
    let mut node = scratch.serve_with("cell", |command| {
        let mut inside = Command::new("unshare");
        inside.args(namespace).arg(command.get_program()).args(command.get_args());
        inside.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped());
        *command = inside;
    });
    exercise(&node.address, 3);
    let path = scratch.files().pop().expect("its registry");
    let look = || Snapshot::from_file(&path).expect("readable");
    assert_eq!(look().pid, 1, "the first process of its namespace");
    assert_eq!(look().writer, WriterState::Running);
    assert!(!is_abandoned(&path).expect("readable"));
    assert!(scratch.stat_text(&["cell"]).contains("running for"));
    assert_eq!(scratch.stat_text(&["--clean"]), "", "it lives");
    node.kill();
    let deadline = Nanos::now() + PATIENCE;
    // The kernel ends it with its parent; the first process of this namespace goes on.
    while !is_abandoned(&path).expect("readable") {
        assert!(Nanos::now() < deadline, "a dead node still counts as running");
        std::thread::yield_now();
    }
    assert_eq!(look().writer, WriterState::Died);
    assert!(received(&path) >= 3, "its last numbers");
    assert!(scratch.stat_text(&["--clean"]).starts_with("removed "));
    assert!(scratch.files().is_empty());
}

/// A process that is stopped while hundreds of peers write finds more completions than its queue
/// has places: the kernel keeps them, and the log says so, not for each of them.
#[test]
fn log_tells_of_completions_that_overflowed() {
    let scratch = Scratch::new();
    let more = "ring_entries = 8\nconnections_max = 600\nidle = \"park\"\n\
                handshake_timeout_ms = 60000\n";
    let began = Nanos::now();
    let mut node = scratch.serve_as("cell", more, |command| {
        command.env("RUST_LOG", "warn").stderr(Stdio::piped());
    });
    let stderr = node.child.stderr.take().expect("piped");
    let path = scratch.files().pop().expect("its registry");
    let look = || Snapshot::from_file(&path).expect("readable").statistics();
    let mut crowd: Vec<_> = (0..300)
        .map(|_| std::net::TcpStream::connect(&node.address).expect("the backlog has room"))
        .collect();
    let pid = Pid::from_child(&node.child);
    let deadline = began + PATIENCE;
    // The beginning of a header, byte by byte: nothing is wrong with it so far.
    for byte in [0x52, 0x57, 1, 0x80].into_iter().chain([0; 20]) {
        let turns = look().turns;
        kill_process(pid, Signal::STOP).expect("our own child");
        let stopped = rustix::process::WaitOptions::UNTRACED;
        rustix::process::waitpid(Some(pid), stopped).expect("our own child").expect("it stops");
        for peer in &mut crowd {
            peer.write_all(&[byte]).expect("room for a byte");
        }
        kill_process(pid, Signal::CONT).expect("our own child");
        while look().turns <= turns {
            assert!(Nanos::now() < deadline, "it does not go on");
            std::thread::yield_now();
        }
        if look().cq_overflows > 0 {
            break;
        }
    }
    let overflows = look().cq_overflows;
    assert!(overflows > 0, "64 places are enough for 300 peers: {}", look());
    node.kill();
    let seconds = Nanos::now().since(began).as_secs() + 2;
    let log = Lines::of(stderr).text();
    let lines = log.lines().filter(|line| line.contains("completion queue overflowed")).count();
    assert!((1..=seconds).contains(&(lines as u64)), "{lines} lines of {overflows}:\n{log}");
    assert!(log.contains("ring_entries"), "what to do: {log}");
}
