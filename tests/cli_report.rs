//! `ringwire report` and `ringwire bench --report` as programs see them: files, exit codes, errors.
//!
//! Runs the built binary. Not here: what stands on a page (`src/cli/report/tests.rs`).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "support/guard.rs"]
mod guard;
#[path = "support/output.rs"]
mod output;

use guard::Guard;

/// Registries are made here: a process that is killed leaves nothing in the machine's memory.
const RUNTIME: &str = env!("CARGO_TARGET_TMPDIR");

/// A folder of one test alone, empty at its start.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a folder for temporary files");
    path
}

fn ringwire(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    output::output(command.env_remove("RUST_LOG").env("XDG_RUNTIME_DIR", RUNTIME))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command writes UTF-8")
}

/// Runs the command, which must succeed, and returns its standard output.
#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = ringwire(folder, arguments);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    stdout
}

/// Runs the command, which must fail with `code`, and returns its standard error.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = ringwire(folder, arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    stderr
}

/// The names in a folder, sorted; hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("readable").file_name();
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A recorded run, as it stands in the repository.
fn recorded(name: &str) -> String {
    format!("{}/benches/record/epyc-2vcpu/{name}", env!("CARGO_MANIFEST_DIR"))
}

const ROW: &str = "{\"scenario\":\"rtt\",\"subject\":\"ringwire\",\"p50_ns\":8000}\n";

#[test]
fn page_is_made_where_it_is_asked_for() {
    let folder = folder("output");
    let file = recorded("2026-11-22.jsonl");
    let said = succeeds(&folder, &["report", &file]);
    assert_eq!(said, "report.html: 1 run, 5 cases, 5 of 8 goals met\n");
    let page = fs::read_to_string(folder.join("report.html")).expect("the page");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(page.contains("AMD EPYC") && page.contains("rtt 64 B park"));
    succeeds(&folder, &["report", &file, "--output", "other.html"]);
    assert_eq!(succeeds(&folder, &["report", &file, "--output", "-"]), page);
    assert_eq!(names(&folder), ["other.html", "report.html"], "and nothing else");
}

#[test]
fn two_runs_are_compared() {
    let folder = folder("compare");
    let files = [recorded("2026-11-22-before.jsonl"), recorded("2026-11-22.jsonl")];
    let said = succeeds(&folder, &["report", &files[0], &files[1]]);
    assert_eq!(said, "report.html: 2 runs, 5 cases, goals met: A 7 of 8, B 5 of 8\n");
    let page = fs::read_to_string(folder.join("report.html")).expect("the page");
    // A machine that drifts by 30 % within its own spread is called that.
    assert!(page.contains("B against A") && page.contains(">noise<"));
    // The same in one file: a machine line opens a run.
    let both: String =
        files.iter().map(|file| fs::read_to_string(file).expect("recorded")).collect();
    fs::write(folder.join("both.jsonl"), both).expect("a new file");
    assert!(succeeds(&folder, &["report", "both.jsonl"]).contains(": 2 runs, 5 cases, "));
}

#[test]
fn folder_has_everything() {
    let folder = folder("dir");
    let file = recorded("2026-11-22.jsonl");
    let said = succeeds(&folder, &["report", &file, "--dir", "a/b"]);
    assert!(said.starts_with("a/b/index.html: "), "{said}");
    let found = names(&folder.join("a/b"));
    for name in ["index.html", "2026-11-22.jsonl", "rtt-64-b-spin-latency.svg"] {
        assert!(found.iter().any(|found| found == name), "{name}: {found:?}");
    }
    let copy = fs::read(folder.join("a/b/2026-11-22.jsonl")).expect("the lines");
    assert_eq!(copy, fs::read(file).expect("recorded"), "as they were");
}

#[test]
fn bench_makes_its_own_report() {
    let folder = folder("bench");
    let short = ["--duration", "0.01", "--rounds", "3", "--report", "out"];
    let said = succeeds(&folder, &[&["bench", "rtt"][..], &short].concat());
    assert!(said.contains("frames/s") && said.ends_with("Report: out/index.html\n"), "{said}");
    let found = names(&folder.join("out"));
    assert!(found.contains(&"bench.jsonl".into()), "{found:?}");
    let drawn = |name: &str| name.starts_with("rtt-64-b-") && name.ends_with("-latency.svg");
    assert!(found.iter().any(|name| drawn(name)), "{found:?}");
    // What is there can be rebuilt.
    let page = fs::read_to_string(folder.join("out/index.html")).expect("the page");
    let again = succeeds(&folder, &["report", "out/bench.jsonl", "--output", "-"]);
    assert_eq!(again, page);
    // Standard output stays the JSON lines' own.
    let lines = succeeds(&folder, &[&["bench", "rtt", "--json", "-"][..], &short].concat());
    assert!(lines.lines().all(|line| line.starts_with('{')), "{lines}");
    assert_eq!(fs::read_to_string(folder.join("out/bench.jsonl")).expect("the lines"), lines);
}

#[test]
fn broken_lines_are_named() {
    let folder = folder("broken");
    let check = |lines: &[u8], said: &str| {
        fs::write(folder.join("in.jsonl"), lines).expect("a new file");
        let stderr = fails(&folder, &["report", "in.jsonl"], 1);
        assert!(stderr.contains(said), "{stderr}");
        assert_eq!(names(&folder), ["in.jsonl"], "no page of half a file");
    };
    check(b"", "error: report: in.jsonl: no results");
    check(format!("{ROW}{{\"scen").as_bytes(), "in.jsonl:2: cut short or not JSON: EOF");
    check(b"\x00\xff\xfe", "error: report: in.jsonl: holds no JSON lines: a record's .jsonl is");
    check(b"# Title\n\nText.\n", "in.jsonl: holds no JSON lines");
    check(&[ROW.as_bytes(), b"\x00\xff\xfe"].concat(), "in.jsonl:2: not UTF-8");
    check(format!("{ROW}\n<html>").as_bytes(), "in.jsonl:3: not JSON: expected value (column 1)");
    let negative = ROW.replace("8000", "-8000");
    check(format!("{ROW}{negative}").as_bytes(), "in.jsonl:2: p50_ns: -8e3 is not from 0");
    let stderr = fails(&folder, &["report", "absent.jsonl"], 1);
    assert!(stderr.contains("cannot read absent.jsonl: No such file"), "{stderr}");
    let stderr = fails(&folder, &["report", "."], 1);
    assert!(stderr.contains("cannot read .: Is a directory"), "{stderr}");
    fails(&folder, &["report"], 2);
    fails(&folder, &["report", "in.jsonl", "--dir", "a", "--output", "b"], 2);
}

#[test]
fn endless_files_end() {
    let folder = folder("endless");
    let stderr = fails(&folder, &["report", "/dev/zero"], 1);
    assert!(stderr.contains("/dev/zero: longer than 67108864 bytes"), "{stderr}");
}

#[test]
fn unwritable_places_are_named() {
    let folder = folder("unwritable");
    let file = recorded("2026-11-22.jsonl");
    fs::write(folder.join("file"), "").expect("a new file");
    let check = |arguments: &[&str], said: &str| {
        let stderr = fails(&folder, arguments, 1);
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    };
    check(&["report", &file, "--output", "absent/page.html"], "cannot write absent/page.html");
    check(&["report", &file, "--output", "/proc/page.html"], "cannot write /proc/page.html");
    check(&["report", &file, "--output", "/dev/full"], "cannot write /dev/full: No space left");
    check(&["report", &file, "--dir", "file"], "cannot write file: ");
    check(&["report", &file, "--dir", "/proc/self/report"], "cannot write /proc/self/report");
    // Before anything is measured.
    check(&["bench", "--report", "file"], "cannot write file: ");
    assert_eq!(names(&folder), ["file"], "nothing was left behind");
}

/// A disk that is full after the first kilobytes: the old page stays, and no half of the new one.
#[test]
fn full_disk_leaves_the_old_page() {
    let folder = folder("full");
    fs::write(folder.join("page.html"), "the old page").expect("a new file");
    // A limit for files stands in for the disk's (`ulimit -f`, in blocks of at most 1 KiB).
    let limited = |arguments: &str| {
        let script = format!("trap '' XFSZ; ulimit -f 8; exec \"$0\" {arguments}");
        output::output(
            Command::new("sh")
                .args(["-c", &script, env!("CARGO_BIN_EXE_ringwire")])
                .arg(recorded("2026-11-22.jsonl"))
                .current_dir(&folder)
                .env("XDG_RUNTIME_DIR", RUNTIME)
                .stdin(Stdio::null()),
        )
    };
    for arguments in ["report \"$1\" --output page.html", "report \"$1\" --dir ."] {
        let output = limited(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {stderr}");
        assert!(stderr.contains("cannot write ") && stderr.contains("File too large"), "{stderr}");
        let found = names(&folder);
        assert!(!found.contains(&"index.html".into()), "{found:?}");
        assert!(found.iter().all(|name| !name.starts_with('.')), "{found:?}");
    }
    assert_eq!(fs::read(folder.join("page.html")).expect("it is there"), b"the old page");
}

/// A pipe is a file that can be read once.
#[test]
fn lines_may_come_from_a_pipe() {
    let folder = folder("pipe");
    let mut child = Guard::spawn(
        Command::new(env!("CARGO_BIN_EXE_ringwire"))
            .args(["report", "/dev/stdin", "--dir", "out"])
            .current_dir(&folder)
            .env("XDG_RUNTIME_DIR", RUNTIME)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    );
    let mut pipe = child.0.stdin.take().expect("it was asked for");
    pipe.write_all(ROW.as_bytes()).expect("it reads");
    drop(pipe);
    // It ends when the pipe does.
    let output = output::end_of(child);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read_to_string(folder.join("out/stdin.jsonl")).expect("the lines"), ROW);
}
