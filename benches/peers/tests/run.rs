//! The whole suite with every subject of this build, for an instant each: both ends start, every
//! answer is right, every record is written. Says nothing about figures.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn peers(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_peers")).args(arguments).output();
    output.expect("the binary of this package")
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
    let mut scenarios = BTreeSet::new();
    for line in &lines[1..] {
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
        assert!(line["cpu_server_ns_per_frame"].as_f64() > Some(0.0), "{name}");
        let timed = line["scenario"] != "stream";
        assert_eq!(line["p50_ns"].is_u64(), timed, "{name}");
        assert_eq!(line["histogram_v2"].is_string(), timed, "{name}");
    }
    assert_eq!(scenarios.len(), 4, "{scenarios:?}");
}

#[test]
fn subject_that_fails_does_not_stop_the_others() {
    let path = file("fails.jsonl");
    let json = path.to_str().expect("UTF-8");
    let output = Command::new(env!("CARGO_BIN_EXE_peers"))
        .args(["run", "rtt", "--payload", "64", "--rounds", "1", "--duration", "0.01"])
        .args(["--subjects", "raw-blocking,python-asyncio", "--json", json])
        .env("PYTHON", "/nonexistent/python3")
        .output()
        .expect("the binary of this package");
    assert!(output.status.success(), "a peer that fails is no failure of the run");
    let lines = lines_of(&path);
    let of = |name: &str| lines.iter().find(|line| line["subject"] == name).expect("a line");
    let reason = of("python-asyncio")["skipped"].as_str().expect("it can not run");
    assert!(reason.contains("cannot start the serve end"), "{reason}");
    assert!(of("raw-blocking")["samples"].as_u64() > Some(0));
}

#[test]
fn end_of_a_subject_ends_with_its_input() {
    // Standard input is empty: there is no job.
    let output = peers(&["subject", "raw-blocking", "serve"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("error: "), "{said}");
}
