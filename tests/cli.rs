//! The `ringwire` command as programs see it: exit codes, and what stands on which stream.
//!
//! Runs the built binary. Not here: whether the figures are good (`ringwire bench` itself).

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::thread::sched_getaffinity;
use serde_json::Value;

use guard::Guard;

#[path = "support/guard.rs"]
mod guard;
#[path = "support/output.rs"]
mod output;

/// Registries are made here: a process that is killed leaves nothing in the machine's memory.
const RUNTIME: &str = env!("CARGO_TARGET_TMPDIR");

const KEYS: [&str; 26] = [
    "scenario",
    "subject",
    "idle",
    "payload_bytes",
    "connections",
    "rounds",
    "samples",
    "p50_ns",
    "p90_ns",
    "p99_ns",
    "p99_9_ns",
    "p99_99_ns",
    "max_ns",
    "p50_ns_low",
    "p50_ns_high",
    "p99_ns_low",
    "p99_ns_high",
    "frames_per_s",
    "frames_per_s_low",
    "frames_per_s_high",
    "bytes_per_s",
    "cpu_ns_per_frame",
    "enters_per_frame",
    "direct_per_frame",
    "errors",
    "by_round",
];

fn ringwire(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(arguments).stdin(Stdio::null());
    output::output(command.env_remove("RUST_LOG").env("XDG_RUNTIME_DIR", RUNTIME))
}

/// Runs a bench when no other runs: each wants two cores, and has deadlines.
fn alone(arguments: &[&str]) -> Output {
    let path = Path::new(RUNTIME).join("bench.lock");
    let lock = File::create(path).expect("a folder of this build");
    // Until it is closed, flock(2).
    lock.lock().expect("a file of this machine");
    ringwire(arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command writes UTF-8")
}

/// Every record has all keys of `KEYS`, and of the others only those that mean something there.
fn check_keys(record: &Value) {
    let (scenario, mut expected) = (&record["scenario"], KEYS.to_vec());
    let mut add = |is_there: bool, key| expected.extend(is_there.then_some(key));
    let is_paced = scenario == "paced" || (scenario == "mixed" && record["series"].is_object());
    let has_bulk = record["bulk_bytes_per_s"].is_number();
    add(!record["p50_ns"].is_null(), "histogram_v2");
    add(is_paced, "requests_per_s");
    add(is_paced, "series");
    add(has_bulk, "bulk_bytes_per_s");
    add(record["busy_connections"].is_number(), "busy_connections");
    add(scenario == "idle", "cpu_share");
    add(scenario == "cores", "reactors");
    let is_alone = record["subject"] == "ringwire-alone";
    let has_memory =
        (scenario == "fan-in" && !is_alone) || (scenario == "idle" && record["connections"] != 0);
    add(has_memory, "resident_bytes_per_connection");
    let mut keys: Vec<&str> =
        record.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected, "{record}");
}

/// Runs a short bench and returns its JSON lines after the machine line, all checked for shape.
fn bench(arguments: &[&str]) -> Vec<Value> {
    bench_for("0.02", arguments)
}

/// With rounds of so many seconds.
fn bench_for(seconds: &str, arguments: &[&str]) -> Vec<Value> {
    let short = ["--duration", seconds, "--rounds", "1", "--json", "-"];
    let output = alone(&[&["bench"], arguments, &short].concat());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    let mut lines = stdout.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    let machine = lines.next().expect("the machine line");
    assert_eq!(machine["scenario"], "machine");
    assert!(machine["kernel"].is_string(), "{machine}");
    let records: Vec<Value> = lines.collect();
    for record in &records {
        check_keys(record);
        assert_eq!(record["errors"], 0, "{record}");
        assert!(record["samples"].as_u64().expect("a count") > 0, "{record}");
        for key in ["frames_per_s", "frames_per_s_low", "frames_per_s_high", "cpu_ns_per_frame"] {
            // Who reads the clock alone moves no frames.
            let is_right = match record["subject"].as_str() {
                Some("clock") => record[key].is_null(),
                _ => record[key].as_f64().expect("a figure") > 0.0,
            };
            assert!(is_right, "{key}: {record}");
        }
        let has_ring = record["subject"].as_str().expect("a name").starts_with("ringwire");
        for key in ["enters_per_frame", "direct_per_frame"] {
            assert_eq!(record[key].is_number(), has_ring, "{record}");
        }
    }
    assert!(stderr.contains("frames/s"), "the table goes to standard error: {stderr}");
    records
}

fn subjects(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["subject"].as_str().expect("a name")).collect()
}

/// The whole default suite: its last case compares ringwire with itself, where descriptors allow.
#[test]
fn default_suite_shows_its_goals() {
    let short = ["bench", "--duration", "0.01", "--rounds", "1", "--json", "-"];
    let output = alone(&short);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let records: Vec<Value> =
        stdout.lines().skip(1).map(|line| serde_json::from_str(line).expect("an object")).collect();
    let count = |record: &Value| record["connections"].as_u64().expect("a count");
    let counts: Vec<u64> = records.iter().map(count).collect();
    assert_eq!(counts[..13], [1; 13]);
    let has_many = !stderr.contains("descriptors, the limit is");
    assert_eq!(counts[13..], if has_many { vec![64, 1_000] } else { vec![] });
    // Above the first table stand warnings and the machine's name, as long as they are.
    let tables = stderr.lines().skip_while(|line| !line.contains("1 round of"));
    let widths: Vec<usize> = tables.map(|line| line.chars().count()).collect();
    assert!(widths.len() > records.len(), "no tables: {stderr}");
    assert!(widths.iter().all(|&width| width <= 80), "{stderr}");
    // Such short rounds may have too few round trips for a p99.
    let verdicts = ["x met", "x missed", "x open: "];
    let judged = stderr.lines().filter(|line| verdicts.iter().any(|it| line.contains(it)));
    let ours = records.iter().filter(|record| record["subject"] == "ringwire");
    assert_eq!(judged.count(), ours.map(goals_of).sum::<usize>(), "{stderr}");
}

/// How many goals ringwire is held to in a case of the default suite.
fn goals_of(record: &Value) -> usize {
    let figure = |key: &str| record[key].as_u64().expect("a count");
    let waits = record["idle"].as_str().expect("a strategy");
    let scenario = record["scenario"].as_str().expect("a name");
    match (scenario, figure("payload_bytes"), figure("connections")) {
        // The median and p99; but where a core is shared, and nobody spins.
        ("rtt", 64, 1) if waits == "adaptive" => 0,
        ("rtt", 64, 1) => 2,
        ("rtt", 64, 1_000) => usize::from(waits == "spin"),
        // Beside the faster floor.
        ("stream", _, 1) => 1,
        _ => 0,
    }
}

#[test]
fn rtt_writes_json_lines_and_nothing_else() {
    for idle in ["spin", "adaptive", "park"] {
        let records = bench(&["rtt", "--idle", idle]);
        assert_eq!(subjects(&records), ["socket", "ringwire"]);
        for record in &records {
            assert_eq!(record["scenario"], "rtt");
            // With one core, spinning ends would only stand in each other's way.
            let expected = if idle == "spin" && cores() == 1 { "adaptive" } else { idle };
            assert_eq!(record["idle"], expected);
            let figure = |key: &str| record[key].as_u64().expect("round trips have latencies");
            let order = ["p50_ns_low", "p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "max_ns"];
            assert!(order.map(figure).is_sorted(), "{record}");
            assert_eq!(figure("p50_ns_low"), figure("p50_ns_high"));
        }
    }
}

/// The cores that a bench may choose from. A quota of CPU time takes none of them away.
fn cores() -> usize {
    sched_getaffinity(None).map_or(1, |set| set.count() as usize)
}

#[test]
fn stream_has_rates_and_no_latencies() {
    for payload in ["0", "64", "100000"] {
        let records = bench(&["stream", "--payload", payload]);
        assert_eq!(subjects(&records), ["socket", "raw", "ringwire"]);
        for record in &records {
            assert!(record["p50_ns"].is_null(), "{record}");
            assert_eq!(record["payload_bytes"].to_string(), payload);
        }
    }
}

/// Every frame arrives, reliable or not; both are ringwire's.
#[test]
fn reliable_stands_beside_best_effort() {
    for scenario in ["rtt", "stream"] {
        let records = bench(&[scenario, "--delivery", "reliable"]);
        assert_eq!(subjects(&records), ["ringwire", "ringwire-reliable"]);
    }
}

#[test]
fn silent_connections_stand_beside_busy_ones() {
    let records = bench(&["rtt", "--connections", "6", "--busy", "2"]);
    assert_eq!(subjects(&records), ["socket", "ringwire-alone", "ringwire"]);
    for record in &records {
        assert_eq!(record["busy_connections"], 2, "{record}");
    }
    // Both keep two messages in flight; only the silent ones are missing.
    let records = bench(&["fan-in", "--connections", "6", "--busy", "2"]);
    let has_memory = |record: &Value| record["resident_bytes_per_connection"].is_number();
    assert_eq!(records.iter().map(has_memory).collect::<Vec<_>>(), [true, false, true]);
    let records = bench(&["rtt", "--connections", "2", "--busy", "2"]);
    assert_eq!(subjects(&records), ["socket", "ringwire"]);
    assert!(records.iter().all(|record| record["busy_connections"].is_null()));
}

/// Each is a subject, named by what was given; it takes effect where that shows in the results.
#[test]
fn settings_stand_beside_each_other() {
    let arguments = [
        "--variant",
        "zero_copy_bytes_min = 0;in_place_bytes_min = 1024",
        "--variant",
        "idle = \"park\"",
    ];
    for scenario in ["rtt", "stream", "mixed", "fan-in"] {
        let more = match scenario {
            "mixed" => ["--rate", "1000"],
            _ => ["--connections", "2"],
        };
        let records = bench(&[&[scenario][..], &arguments, &more].concat());
        let first = "ringwire[zero_copy_bytes_min = 0; in_place_bytes_min = 1024]";
        assert_eq!(subjects(&records), [first, "ringwire[idle = \"park\"]", "ringwire"]);
        let idles: Vec<_> = records.iter().map(|record| &record["idle"]).collect();
        // With one core, spinning ends would only stand in each other's way.
        let spin = if cores() == 1 { "adaptive" } else { "spin" };
        assert_eq!(idles, [spin, "park", spin]);
    }
}

/// Requests that are due every millisecond: as many as the time holds, each with its time. Long
/// enough for bulk to arrive on a machine that does much else.
#[test]
fn paced_load_has_a_course() {
    for idle in ["spin", "park"] {
        for bulk in [&[][..], &["--bulk"]] {
            let arguments = [&["paced", "--rate", "1000", "--idle", idle][..], bulk].concat();
            let records = bench_for("0.2", &arguments);
            assert_eq!(subjects(&records), ["clock", "socket", "ringwire"]);
            for record in &records {
                assert_eq!(
                    (&record["samples"], &record["requests_per_s"]),
                    (&200.into(), &1000.0.into())
                );
                let points = record["series"]["points"].as_array().expect("a list");
                let times: Vec<f64> = points.iter().map(|at| at[0].as_f64().expect("s")).collect();
                assert_eq!(times.len(), 200);
                assert!((times[199] - 0.199).abs() < 1e-9, "{record}");
                let worst = record["series"]["outliers"].as_array().expect("a list");
                assert_eq!(worst.len(), 32, "the latest, of so many at most");
                let has_bulk = record["bulk_bytes_per_s"].as_f64().is_some_and(|rate| rate > 0.0);
                let moves_bytes = record["subject"] != "clock";
                assert_eq!(has_bulk, !bulk.is_empty() && moves_bytes, "{record}");
            }
        }
    }
}

#[test]
fn critical_requests_stand_beside_bulk() {
    let records = bench(&["mixed"]);
    let expected = ["ringwire-unloaded", "socket", "ringwire-one-link", "ringwire-express"];
    assert_eq!(subjects(&records), [expected, expected].concat());
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record["bulk_bytes_per_s"].is_number(), index % 4 > 0, "{record}");
        assert_eq!(record["requests_per_s"].is_number(), index >= 4, "{record}");
    }
}

#[test]
fn reactors_share_the_connections() {
    let records = bench(&["cores", "--connections", "8"]);
    let counts: Vec<u64> =
        records.iter().map(|record| record["reactors"].as_u64().expect("n")).collect();
    assert_eq!(counts[0], 1);
    assert!(counts.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{counts:?}");
    assert!(counts.len() > 1 || cores() == 1, "{counts:?}");
}

#[test]
fn connections_have_their_memory() {
    let records = bench(&["fan-in", "--connections", "20", "--idle", "park"]);
    assert_eq!(subjects(&records), ["socket", "ringwire"]);
}

/// Two seconds a subject, whatever is asked for, so that heartbeats come.
#[test]
fn silence_has_its_price() {
    let output = alone(&["bench", "idle", "--connections", "10", "--rounds", "1", "--json", "-"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let records: Vec<Value> =
        stdout.lines().skip(1).map(|line| serde_json::from_str(line).expect("an object")).collect();
    let counts: Vec<&Value> = records.iter().map(|record| &record["connections"]).collect();
    assert_eq!(counts, [0, 10]);
    for record in &records {
        check_keys(record);
        let share = record["cpu_share"].as_f64().expect("a share");
        assert!((0.0..1.0).contains(&share), "parked ends hardly run: {record}");
        assert!(record["frames_per_s"].is_null() && record["p50_ns"].is_null(), "{record}");
    }
    assert!(stderr.contains("10 conns"), "{stderr}");
}

/// Fewer cuts than by default, and every key that has a meaning.
#[test]
fn failover_has_times_and_no_rates() {
    let output =
        alone(&["bench", "failover", "--connections", "5", "--rounds", "1", "--json", "-"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let line = stdout.lines().nth(1).expect("a line after the machine's");
    assert_eq!(stdout.lines().count(), 2, "ringwire alone: {stdout}");
    let record: Value = serde_json::from_str(line).expect("an object");
    check_keys(&record);
    assert_eq!((&record["scenario"], &record["subject"]), (&"failover".into(), &"ringwire".into()));
    assert_eq!((&record["samples"], &record["errors"]), (&5.into(), &0.into()));
    let figure = |key: &str| record[key].as_u64().expect("a time");
    assert!(["p50_ns", "p90_ns", "p99_ns", "max_ns"].map(figure).is_sorted(), "{record}");
    for key in ["p99_9_ns", "p99_99_ns", "frames_per_s", "bytes_per_s", "cpu_ns_per_frame"] {
        assert!(record[key].is_null(), "{key}: {record}");
    }
    assert!(stderr.contains("1 round of 5 cuts"), "{stderr}");
    assert!(!stderr.contains("WARN"), "losses on purpose are no news: {stderr}");
    assert!(stderr.contains("5 cuts are too few to judge a p99."), "{stderr}");
}

#[test]
fn many_connections_share_the_work() {
    for scenario in ["rtt", "stream"] {
        for idle in ["spin", "park"] {
            let records = bench(&[scenario, "--connections", "40", "--idle", idle]);
            assert!(records.iter().all(|record| record["connections"] == 40));
        }
    }
}

/// A frame that fits no socket buffer is sent and received in many parts.
#[test]
fn long_frames_make_the_round_trip() {
    for connections in ["1", "3"] {
        bench(&["rtt", "--payload", "1MiB", "--idle", "park", "--connections", connections]);
    }
}

#[test]
fn json_file_leaves_the_table_on_standard_output() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.jsonl");
    let name = path.to_str().expect("a plain path");
    let short = ["--duration", "0.01", "--rounds", "3", "--json", name];
    let output = alone(&[&["bench", "rtt"][..], &short].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("frames/s"), "{stdout}");
    assert!(stdout.lines().all(|line| !line.starts_with('{')), "{stdout}");
    let lines = std::fs::read_to_string(&path).expect("the file was written");
    assert!(lines.starts_with("{\"scenario\":\"machine\""), "{lines}");
    assert!(lines.lines().count() >= 2, "{lines}");
}

#[test]
fn senseless_options_are_usage_errors() {
    let check = |arguments: &[&str], said: &str| {
        let output = ringwire(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    };
    check(&["bench", "fly"], "rtt");
    check(&["bench", "rtt", "--idle", "fast"], "adaptive");
    check(&["bench", "--rounds", "0"], "from 1 to 1001");
    check(&["bench", "--duration", "0"], "seconds");
    check(&["bench", "--connections", "0"], "connections");
    check(&["bench", "--payload", "-1"], "'-1' for '--payload");
    check(&["bench", "--connections", "-1"], "-1 is not in 1..=");
    check(&["bench", "--rounds", "-1"], "from 1 to 1001");
    check(&["bench", "--duration", "-1"], "seconds");
    check(&["bench", "paced", "--rate", "0"], "a rate");
    check(&["bench", "--bulk"], "--bulk");
    check(&["bench", "mixed", "--delivery", "reliable"], "--delivery");
    check(&["bench", "--payload", "5MiB"], "frame_bytes_max = 4194304");
    check(&["--config", "/nonexistent.toml", "bench"], "/nonexistent.toml");
    check(&[], "Usage");
}

/// Ctrl-C ends a bench at once, but leaves no half of its bar in front of the shell's prompt.
#[test]
fn interrupted_bench_clears_its_bar() {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
    grantpt(&terminal).expect("ours");
    unlockpt(&terminal).expect("ours");
    let name = ptsname(&terminal, Vec::new()).expect("it has a name");
    let name = name.into_string().expect("a plain path");
    let screen = File::options().read(true).write(true).open(name).expect("unlocked");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command
        .args(["bench", "rtt", "--duration", "5", "--rounds", "3"])
        .env_remove("RUST_LOG")
        .env("XDG_RUNTIME_DIR", RUNTIME)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(screen);
    let mut child = Guard::spawn(&mut command);
    // It holds the screen, which is to be closed when its process ends.
    drop(command);
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut terminal = File::from(terminal);
        let mut bytes = [0; 4096];
        // The last process to close the screen makes this fail (EIO, pty(7)).
        while let Ok(count @ 1..) = terminal.read(&mut bytes) {
            let shown = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if tell.send(shown).is_err() {
                break;
            }
        }
    });
    let patience = Duration::from_secs(20);
    let mut shown = String::new();
    while !shown.contains(" %  ") {
        shown += &told.recv_timeout(patience).expect("a bar in time");
    }
    kill_process(Pid::from_child(&child.0), Signal::INT).expect("it runs, and is ours");
    loop {
        match told.recv_timeout(patience) {
            Ok(more) => shown += &more,
            Err(error) => break assert_eq!(error, RecvTimeoutError::Disconnected, "it goes on"),
        }
    }
    let status = child.0.wait().expect("it is our child");
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{status}");
    let bar = shown.rfind(" %  ").expect("it was there");
    assert!(shown[bar..].contains("\u{1b}[2K"), "{shown:?}");
}

#[test]
fn unwritable_file_is_a_failure() {
    let output = ringwire(&["bench", "--json", "/nonexistent/bench.jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/bench.jsonl"));
}
