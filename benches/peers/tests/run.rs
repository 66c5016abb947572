//! The whole suite with every subject of this build, for an instant each: both ends start, every
//! answer is right, every record is written. Says nothing about figures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ringwire::time::Nanos;
use serde_json::Value;

#[path = "../../../tests/support/guard.rs"]
mod guard;
#[path = "../../../tests/support/output.rs"]
mod output;

use guard::Guard;

fn peers(arguments: &[&str]) -> Output {
    output::output(Command::new(env!("CARGO_BIN_EXE_peers")).args(arguments))
}

fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // What an earlier run left; the suite appends.
    let _ = fs::remove_file(&path);
    path
}

fn lines_of(path: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the run has written it");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn every_subject_does_every_case_it_can() {
    let path = file("all.jsonl");
    let json = path.to_str().expect("UTF-8");
    let output = peers(&["run", "--rounds", "1", "--duration", "0.02", "--json", json]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = lines_of(&path);
    assert_eq!(lines[0]["scenario"], "machine");
    let (mut scenarios, mut of_servers) = (BTreeSet::new(), BTreeMap::new());
    // Goals are judged after all cases, each on a line of its own.
    let first = lines.iter().position(|line| line["scenario"] == "verdict").expect("verdicts");
    let (rows, verdicts) = lines.split_at(first);
    for verdict in verdicts {
        assert_eq!(verdict["scenario"], "verdict", "{verdict}");
        assert_eq!(verdict["ratio"].is_null(), verdict["outcome"] == "not judged", "{verdict}");
    }
    let is_of = |verdict: &&Value, other: &str, of: &str| {
        verdict["other"] == other && verdict["of"] == of && verdict["subject"] == "ringwire-spin"
    };
    let of = |other, of| verdicts.iter().filter(|verdict| is_of(verdict, other, of)).count();
    assert_eq!(of("raw-spin", "rtt"), 2, "p50 and p99 of 64 B");
    // Beside the fastest floor, whichever that is.
    let is_bulk = |verdict: &&Value| verdict["of"] == "stream" && verdict["bound"] == 0.9;
    assert_eq!(verdicts.iter().filter(is_bulk).count(), 2, "64 KiB and 1 MiB");
    assert_eq!(of("without bulk", "paced"), 1, "10 kHz");
    for line in &rows[1..] {
        let name = format!("{} {}", line["scenario"], line["subject"]);
        if let Some(reason) = line["skipped"].as_str() {
            let missing = reason.starts_with("not built: ")
                // No interpreter, no asyncio peer.
                || reason.contains("cannot start the serve end");
            assert!(missing || reason.starts_with("n/a: "), "{name}: {reason}");
            continue;
        }
        scenarios.insert(line["scenario"].to_string());
        assert_eq!(line["errors"], 0, "{name}");
        assert!(line["samples"].as_u64() > Some(0), "{name}");
        assert!(line["cpu_client_ns_per_frame"].as_f64() > Some(0.0), "{name}");
        // The kernel adds what runs to another process's clock only when its tick comes, which may
        // be late for one round: but not all of a subject's cases can be without.
        let server_ns = line["cpu_server_ns_per_frame"].as_f64().expect("a number");
        *of_servers.entry(line["subject"].to_string()).or_insert(0.0) += server_ns;
        let timed = line["scenario"] != "stream";
        assert_eq!(line["p50_ns"].is_u64(), timed, "{name}");
        assert_eq!(line["histogram_v2"].is_string(), timed, "{name}");
        assert!(line["to_floor"].as_f64() > Some(0.0), "{name}");
        assert!(line["to_best_peer"].as_f64() > Some(0.0), "{name}");
    }
    assert_eq!(scenarios.len(), 4, "{scenarios:?}");
    assert!(of_servers.values().all(|&ns: &f64| ns > 0.0), "{of_servers:?}");
}

#[test]
fn lines_go_to_standard_output_and_tables_beside_them() {
    let wanted = ["--subjects", "raw-blocking", "--json", "-"];
    let case = ["run", "rtt", "--payload", "64", "--rounds", "1", "--duration", "0.01"];
    let output = peers(&[&case[..], &wanted].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[1]["subject"], "raw-blocking");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("rtt 64 B, 1 round of 0.01 s"), "{said}");
}

#[test]
fn subject_that_fails_does_not_stop_the_others() {
    let path = file("fails.jsonl");
    let json = path.to_str().expect("UTF-8");
    let output = output::output(
        Command::new(env!("CARGO_BIN_EXE_peers"))
            .args(["run", "rtt", "--payload", "64", "--rounds", "1", "--duration", "0.01"])
            .args(["--subjects", "raw-blocking,python-asyncio", "--json", json])
            .env("PYTHON", "/nonexistent/python3"),
    );
    assert!(output.status.success(), "a peer that fails is no failure of the run");
    let lines = lines_of(&path);
    let of = |name: &str| lines.iter().find(|line| line["subject"] == name).expect("a line");
    let reason = of("python-asyncio")["skipped"].as_str().expect("it can not run");
    assert!(reason.contains("cannot start the serve end"), "{reason}");
    assert!(of("raw-blocking")["samples"].as_u64() > Some(0));
}

#[test]
fn run_without_ringwire_fails() {
    let path = file("killed.jsonl");
    let json = path.to_str().expect("UTF-8");
    let run = Guard::spawn(
        Command::new(env!("CARGO_BIN_EXE_peers"))
            .args(["run", "rtt", "--payload", "64", "--rounds", "1", "--duration", "20"])
            .args(["--subjects", "ringwire-park", "--json", json])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    kill_server_of(run.0.id());
    // It ends with its subject.
    let output = output::end_of(run);
    assert!(!output.status.success(), "there are no figures of ringwire");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("rtt 64 B: ringwire-park failed: round 1: "), "{said}");
    let lines = lines_of(&path);
    let reason = lines[1]["skipped"].as_str().expect("it was killed");
    assert!(reason.starts_with("failed: "), "{reason}");
}

/// Kills the server that a run has started, as soon as there is one.
fn kill_server_of(run: u32) {
    let children = format!("/proc/{run}/task/{run}/children");
    let deadline = Nanos(Nanos::now().0 + 30_000_000_000);
    loop {
        let pids = fs::read_to_string(&children).expect("the run goes on");
        for pid in pids.split_whitespace() {
            // Empty while it is started.
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if words.ends_with("\0serve\0") {
                let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number"));
                let pid = pid.expect("no process is 0");
                rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                    .expect("it is ours");
                return;
            }
        }
        assert!(Nanos::now() < deadline, "no server was started");
        std::thread::yield_now();
    }
}

#[test]
fn nonsense_is_refused_before_anything_is_written() {
    let path = file("nonsense.jsonl");
    let json = path.to_str().expect("UTF-8");
    for (words, said) in [
        (&["--subjects", "raw-spin,nonsense"][..], "none is called \"nonsense\""),
        (&["--server-cores", "1234"], "--server-cores 1234: this process may use "),
        (&["rtt", "--payload", "3"], "from 16 bytes to 16 MiB are expected"),
        (&["fan-in", "--payload", "1024"], "fan-in has no such case"),
        (
            &["rtt", "--subjects", "clock", "--plan"],
            "clock has no rtt: a clock carries no messages",
        ),
        (&["--duration", "0"], "from 0.001 to 86400 seconds"),
        (&["--text", "/nonexistent/a.txt"], "there is no folder /nonexistent"),
    ] {
        let output = peers(&[&["run", "--json", json], words].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(said), "{words:?}: {told}");
        assert!(output.stdout.is_empty() && !path.exists(), "{words:?}");
    }
}

#[test]
fn plan_measures_nothing() {
    let output = peers(&["run", "--plan", "--form", "long", "paced"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().count(), 5, "{said}");
    assert!(said.contains("\nexpected to take ") && said.contains(" h"), "{said}");
}

/// The others are measured, and what is left out is told with its remedy.
#[test]
fn case_beyond_the_limit_of_descriptors_is_told() {
    let run = |words: &str| {
        let script = format!("ulimit -n 100 && exec \"$0\" run {words}");
        let program = env!("CARGO_BIN_EXE_peers");
        let output = output::output(Command::new("sh").args(["-c", &script, program]));
        let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), of(&output.stdout), of(&output.stderr))
    };
    let why = "fan-in 64 B, 128 connections: not measured: a process needs 192 descriptors and \
               the hard limit is 100: raise it (ulimit -n 192, as root), or take --connections 36 \
               at most";
    let path = file("descriptors.jsonl");
    let short = format!(
        "--payload 64 --rounds 1 --duration 0.01 --subjects raw-epoll --json {}",
        path.display()
    );
    let (status, said, error) = run(&format!("rtt fan-in {short}"));
    assert_eq!(status, Some(1), "it was asked for: {error}");
    assert!(error.contains(&format!("error: {why}")), "{error}");
    let end = said.lines().last().expect("a line");
    assert!(end.starts_with("Not measured: fan-in 64 B, 128 connections: a process"), "{said}");
    let of = |name: &str| lines_of(&path).into_iter().find(|line| line["scenario"] == name);
    assert!(of("rtt").expect("a line")["samples"].as_u64() > Some(0));
    let line = of("fan-in").expect("a line");
    let reason = line["skipped"].as_str().expect("it was not measured");
    assert!(reason.starts_with("n/a: a process needs 192 descriptors"), "{reason}");
    // Of everything it is one case, which somebody else may measure.
    let (status, said, error) = run(&short);
    assert_eq!(status, Some(0), "{error}");
    assert!(said.contains("\nNot measured: fan-in 64 B, 128 connections: a process"), "{said}");
    let (status, said, error) = run("fan-in --plan");
    assert_eq!(status, Some(1), "{error}");
    assert!(said.contains(why) && error.contains(why), "{said}{error}");
}

/// And not after minutes of building.
#[test]
fn results_that_are_there_stop_the_script_before_it_builds() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-cargo");
    fs::create_dir_all(&folder).expect("a folder");
    let cargo = folder.join("cargo");
    fs::write(&cargo, "#!/bin/sh\necho built >&2\nexit 1\n").expect("a file");
    fs::set_permissions(&cargo, Permissions::from_mode(0o755)).expect("it is ours");
    let path = std::env::var("PATH").expect("there is one");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/bench.sh");
    let run = |out: &str, arguments: &[&str]| {
        let output = output::output(
            Command::new("bash")
                .arg(script)
                .args(arguments)
                .env("PATH", format!("{}:{path}", folder.display()))
                .env("OUT", file(out)),
        );
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for part in ["peers", "mixed"] {
        fs::write(file(&format!("there-{part}-{part}.jsonl")), "").expect("a file");
        let (status, said) = run(&format!("there-{part}"), &[]);
        assert_eq!(status, Some(2), "{said}");
        let is_said = said.contains(&format!("there-{part}-{part}.jsonl is there: APPEND=1"));
        assert!(is_said && !said.contains("built"), "{said}");
    }
    // Nor a name that no subject has; whose it is, the program says.
    for names in ["nonsense", "raw-spin, nonsense", "raw-spin,nonsense-*", "nonsense*"] {
        for arguments in [&["--subjects", names][..], &[&format!("--subjects={names}")]] {
            let (status, said) = run("not-there", &[&["rtt", "--"], arguments].concat());
            assert_eq!(status, Some(2), "{said}");
            let is_said =
                said.starts_with(&format!("--subjects {names}: none is called 'nonsense"));
            assert!(is_said && !said.contains("built"), "{said}");
        }
    }
    let list = peers(&["list"]).stdout;
    let list = String::from_utf8(list).expect("UTF-8");
    let mut names: Vec<&str> = list.lines().filter_map(|l| l.split(' ').next()).collect();
    assert!(names.len() > 20, "{list}");
    names.extend(["raw-*", "*", "r*"]);
    let (_, said) = run("not-there", &["rtt", "--", "--subjects", &names.join(" , ")]);
    assert!(said.contains("built"), "{said}");
    // What is not asked for does not stand in the way.
    let (_, said) = run("there-peers", &["quick", "idle"]);
    assert!(said.contains("built"), "{said}");
    // Nor are options of one scenario left out for another.
    for scenarios in [&["idle"][..], &["rtt", "idle"]] {
        let arguments = [&["quick"], scenarios, &["--", "--rounds", "3"]].concat();
        let (status, said) = run("not-there", &arguments);
        assert_eq!(status, Some(2), "{said}");
        let is_said = said.contains("what stands behind -- is not for idle");
        assert!(is_said && !said.contains("built"), "{said}");
    }
}

/// What arrived wrong while it was warming up counts, as in src/drive.rs.
#[test]
fn asyncio_peer_counts_what_was_wrong_in_its_warm_up() {
    const SCRIPT: &str = "
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from asyncio_peer import drive_one
class Client:
    seen = [(4, 4, 0), (9, 3, 1), (14, 5, 0)]
    async def pump(self, first, until):
        return self.seen.pop(0)
case = {'scenario': 'stream'}
job = {'case': case, 'warm_up_ns': 0, 'duration_ns': 0, 'server_pid': os.getpid()}
print(asyncio.run(drive_one(job, Client()))['errors'])
";
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/python");
    let Ok(output) = Command::new("python3").args(["-B", "-c", SCRIPT, folder]).output() else {
        return eprintln!("skipped: there is no python3");
    };
    // Of five one was wrong and one did not come.
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "2", "{said}");
}

#[test]
fn end_of_a_subject_ends_with_its_input() {
    // Standard input is empty: there is no job.
    let output = peers(&["subject", "raw-blocking", "serve"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("error: "), "{said}");
}
