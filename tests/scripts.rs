//! `scripts/ab.sh`, `bench.sh`, `ci.sh`, `hot_path.sh`, `instructions.sh`, `pgo.sh` and `stops.sh`
//! in a repository of their own, with a cargo that makes its programs out of a file: what they
//! build, in which order they run it, what they say. Needs `bash`, `awk` and `git`, as the scripts
//! do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "support/guard.rs"]
mod guard;
#[path = "support/output.rs"]
mod output;

/// "Builds" a ringwire that is as fast as the file `speed` of the tree says. Each run takes a turn
/// longer than the one before, both kinds alike, and is noted in `runs`.
const CARGO_FOR_AB: &str = r#"#!/bin/bash
set -e
echo "$PWD" >>"$NOTES/builds"
mkdir -p "$CARGO_TARGET_DIR/release"
cat >"$CARGO_TARGET_DIR/release/ringwire" <<END
#!/bin/bash
speed=$(cat speed)
END
cat >>"$CARGO_TARGET_DIR/release/ringwire" <<'END'
echo "$speed ${EXTRA:-}" >>"$NOTES/runs"
turn=$(($(grep -c "^$speed" "$NOTES/runs")))
scenario="$2"
while [ "$1" != --json ]; do shift; done
machine='"kernel":"K","cpu":"P","cores":2,"congestion_control":"C","date":"D"'
row='"subject":"ringwire","idle":"spin","payload_bytes":64,"connections":1'
echo "{\"scenario\":\"machine\",$machine}" >"$2"
ns=$((speed * turn))
# What a stall of one turn does.
[ "$turn" != "${STALL:-}" ] || ns=$((ns * 9))
echo "{\"scenario\":\"rtt\",$row,\"p50_ns\":$ns,\"p99_ns\":null}" >>"$2"
[ "$scenario" = cores ] || exit 0
for count in 1 2; do
    row='"subject":"ringwire","idle":"adaptive","payload_bytes":64,"connections":64'
    echo "{\"scenario\":\"cores\",$row,\"p50_ns\":$count,\"reactors\":$count}" >>"$2"
done
END
chmod +x "$CARGO_TARGET_DIR/release/ringwire"
"#;

/// "Builds" a suite whose run ends with a wrong answer, and a ringwire whose `mixed` fails; both
/// have figures all the same.
const CARGO_FOR_BENCH: &str = r#"#!/bin/bash
[ "$1" = metadata ] && { echo "{\"target_directory\":\"$CARGO_TARGET_DIR\"}"; exit; }
if [ "$1" = bench ]; then
    echo "$4"
    { [ -n "$CRITERION_HOME" ] && [ ! -e "$CRITERION_HOME" ]; } || echo "beside another run"
    exit
fi
mkdir -p "$CARGO_TARGET_DIR/release"
cat >"$CARGO_TARGET_DIR/release/peers" <<'END'
#!/bin/bash
[[ "$*" != *--plan* ]] || exit 0
while [ "$1" != --json ]; do shift; done
echo row >>"$2"
exit 1
END
cat >"$CARGO_TARGET_DIR/release/ringwire" <<'END'
#!/bin/bash
echo "$1 ${2##*/}" >>"$NOTES/runs"
echo "$*" >>"$NOTES/arguments"
[ "$1" = report ] && { cp "$2" "$4"; exit; }
scenario="$2"
while [ "$1" != --json ]; do shift; done
echo "$scenario"
[ "$scenario" = idle ] || echo row >>"$2"
[ "$scenario" = cores ] || [ "$scenario" = failover ]
END
chmod +x "$CARGO_TARGET_DIR/release/"*
"#;

/// "Builds" a suite of any peers but nng, which tells of which it is and how it is run.
const CARGO_WITHOUT_NNG: &str = r#"#!/bin/bash
[ "$1" = metadata ] && { echo "{\"target_directory\":\"$CARGO_TARGET_DIR\"}"; exit; }
[ "$1" = build ] || exit 1
mkdir -p "$CARGO_TARGET_DIR/release"
while [ "$#" -gt 0 ] && [ "$1" != --features ]; do shift; done
[ "$#" -gt 0 ] || { : >"$CARGO_TARGET_DIR/release/ringwire"; exit; }
echo "$2" >>"$NOTES/builds"
case ",$2," in
*,nng,* | *,all,*)
    echo "   Compiling nng" >&2
    echo "cmake: not found" >&2
    echo "error: failed to run custom build command" >&2
    exit 101
    ;;
esac
cat >"$CARGO_TARGET_DIR/release/peers" <<END
#!/bin/bash
[[ "\$*" == *--plan* ]] || echo "$2: \$*" >>"$NOTES/runs"
END
chmod +x "$CARGO_TARGET_DIR/release/peers"
"#;

/// Keeps a setting in a file, and takes it from nobody who may not: whose `refused` is there.
const SYSCTL: &str = r#"#!/bin/bash
key=net.ipv4.tcp_congestion_control
case "$*" in
"-n $key") cat "$NOTES/congestion" ;;
"-qw $key="*)
    [ ! -e "$NOTES/refused" ] || { echo "permission denied" >&2; exit 1; }
    echo "${2#*=}" >"$NOTES/congestion"
    echo "set ${2#*=}" >>"$NOTES/runs"
    ;;
*) exit 1 ;;
esac
"#;

/// Notes what it is asked for, and writes the file of a host that was set up.
const SETUP_HOST: &str = r#"#!/bin/bash
echo "setup ${*/\/*\//}" >>"$NOTES/runs"
[ "$1 $2" != "--apply --save" ] || echo saved >"$3"
[ "$1" != --restore ] || cat "$2" >>"$NOTES/runs"
[ ! -e "$NOTES/refused" ] || exit 1
"#;

/// Notes itself, and does what it is told; takes a core that is none for an error.
const PASSES_ON: &str = r#"#!/bin/bash
case "${0##*/}" in
sudo) echo sudo >>"$NOTES/runs" ;;
taskset)
    [ "$1" = --cpu-list ] && [ "$2" != 9 ] || exit 1
    [ "$3" = true ] || echo "cores $2" >>"$NOTES/runs"
    shift 2
    ;;
esac
exec "$@"
"#;

/// Traces until it is told to end, a minute at the most, and prints its maps.
const BPFTRACE: &str = r#"#!/bin/bash
[ ! -e "$NOTES/refused" ] || { echo "no tracepoints" >&2; exit 1; }
[ -s "$1" ] || exit 1
maps='@left[7]: 1
@longest[a b, c]: 5
@longest[any, softirq]: 2000
@over100[any, softirq]: 2
@over1000[any, softirq]: 1
@total[a b, c]: 6
@total[any, softirq]: 2200
@times[a b, c]: 3
@times[any, softirq]: 4'
trap 'echo "$maps"; exit' TERM
echo "Attaching 10 probes..."
echo ready
for _ in {1..60}; do read -rt 1 <> <(:) || true; done
"#;

/// Names a program that has the cases `a` and `b/64`.
const CARGO_FOR_INSTRUCTIONS: &str = r#"#!/bin/bash
cat >"$NOTES/program" <<'END'
#!/bin/bash
printf 'a 1\nb/64 10\n'
END
chmod +x "$NOTES/program"
echo "$CARGO_INCREMENTAL $*" >"$NOTES/build"
echo '{"reason":"compiler-artifact","target":{"name":"ringwire"},"executable":null}'
echo "{\"reason\":\"compiler-artifact\",\"executable\":\"$NOTES/program\",\"fresh\":true}"
echo '{"reason":"build-finished","success":true}'
"#;

/// "Builds" a stepper that notes how it is run, and tells and traces what is in notes/.
const CARGO_FOR_HOT_PATH: &str = r#"#!/bin/bash
case "$*" in
    *fuzz/Cargo.toml*) program="$NOTES/stepper" ;;
    *"--release --bin ringwire"*) program="$NOTES/ringwire" ;;
    *) exit 1 ;;
esac
cat >"$program" <<'END'
#!/bin/bash
echo "$*" >>"$NOTES/steps"
while [ "$1" != --trace ]; do shift; done
cp "$NOTES/trace" "$2"
cat "$NOTES/said"
END
chmod +x "$program"
echo "{\"reason\":\"compiler-artifact\",\"executable\":\"$program\",\"fresh\":true}"
"#;

/// Two functions of a work tree elsewhere, one of which has another's inlined into it.
const ADDR2LINE: &str = r#"#!/bin/bash
while read -r address; do
    case "$address" in
        0x0) printf '0x%016x\n??\n??:0\n' 0 ;;
        0x10*) printf '0x%016x\n%s\n%s\n' "$address" "<a::B<c::D> as e::F>::inner" \
            "/elsewhere/src/reactor/a.rs:7 (discriminator 2)" ;;
        *) printf '0x%016x\ncore::x\n/rustc/library/src/x.rs:1\na::outer::<B>\n%s\n' "$address" \
            /elsewhere/src/a/b.rs:8 ;;
    esac
done
"#;

/// "Builds" a ringwire that notes how it is run, and what was built with.
const CARGO_FOR_PGO: &str = r#"#!/bin/bash
echo "$RUSTFLAGS $*" >"$NOTES/build"
mkdir -p "$CARGO_TARGET_DIR/release" "${RUSTFLAGS#-Cprofile-generate=}"
echo script >"${RUSTFLAGS#-Cprofile-generate=}/1.profraw"
program="$CARGO_TARGET_DIR/release/ringwire"
cat >"$program" <<END
#!/bin/bash
mkdir -p ${RUSTFLAGS#-Cprofile-generate=}
echo counts >${RUSTFLAGS#-Cprofile-generate=}/\$\$.profraw
echo "\$*" >>$NOTES/runs
END
chmod +x "$program"
"#;

/// Merges.
const PROFDATA: &str = r#"#!/bin/bash
[ "$1 $2" = "merge --output" ] || exit 1
cat "${@:4}" >"$3"
"#;

/// Counts 1,000 instructions to begin with, and for a call of a case what its file says. Fails
/// where there is no file.
const VALGRIND: &str = r#"#!/bin/bash
while [ "$1" != --case ]; do shift; done
each=$(cat "$NOTES/case-${2%/*}") || exit
echo "==1== Collected : $((1000 + $3 * each))" >&2
"#;

/// A repository with the scripts, and a folder that comes first in PATH; removed when dropped.
struct Repository {
    root: PathBuf,
}

impl Repository {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ringwire-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let repository = Self { root };
        let scripts = [
            "ab.sh",
            "bench.sh",
            "ci.sh",
            "hot_path.sh",
            "instructions.sh",
            "pgo.sh",
            "setup_host.sh",
            "stops.sh",
        ];
        for script in scripts {
            let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
            let text = fs::read_to_string(text).expect("a script of this repository");
            repository.program(&format!("tree/scripts/{script}"), &text);
        }
        fs::create_dir_all(repository.root.join("notes")).expect("a writable directory");
        repository.write("tree/speed", "100\n");
        repository.git(&["init", "--quiet"]);
        repository.git(&["add", "."]);
        repository.git(&["commit", "--quiet", "--message", "first"]);
        repository
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a writable directory");
        fs::write(path, text).expect("a writable file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    fn program(&self, path: &str, text: &str) {
        self.write(path, text);
        let path = self.root.join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .current_dir(self.root.join("tree"))
            .env("PATH", format!("{}:{path}", self.root.join("bin").display()))
            .env("NOTES", self.root.join("notes"))
            .env("CARGO_TARGET_DIR", self.root.join("target"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env_remove("GIT_DIR")
            .env_remove("TURNS")
            .env_remove("STEP_SECONDS")
            .env_remove("APPEND")
            .env_remove("CONGESTION")
            .env_remove("CORES")
            .env_remove("SETUP_HOST")
            .env_remove("FEATURES")
            .env_remove("FUNCTIONS")
            .env_remove("MACHINE")
            .env_remove("PAYLOAD")
            .env_remove("PROGRAM")
            .env_remove("RECORD")
            .env_remove("RUN_WITH")
            .env_remove("RUSTFLAGS")
            .env_remove("DRIFT")
            .env_remove("REQUIRE_INSTRUCTIONS")
            .env_remove("LLVM_PROFDATA")
            .env_remove("SECONDS_EACH");
        command
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = self.command("git");
        command.args(["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]);
        text(&output::output(command.args(arguments)))
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(self.root.join("tree/scripts").join(name));
        output::output(command.args(arguments).env("TURNS", "3"))
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// What a command that succeeded printed.
fn text(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The words of the line that begins so.
fn words<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.starts_with(begin));
    line.unwrap_or_else(|| panic!("no line begins {begin:?} in {text}"))
        .split_whitespace()
        .collect()
}

#[test]
fn two_builds_take_turns_and_are_compared_turn_by_turn() {
    let repository = Repository::new("ab");
    repository.program("bin/cargo", CARGO_FOR_AB);
    let patch = "--- a/speed\n+++ b/speed\n@@ -1 +1 @@\n-100\n+50\n";
    repository.write("tree/faster.patch", patch);
    let printed = text(&repository.script(
        "ab.sh",
        &["half", "HEAD", "HEAD+faster.patch,EXTRA=x", "--", "rtt", "--duration", "0.1"],
    ));
    let first = repository.git(&["rev-parse", "--short=12", "HEAD"]);
    assert_eq!(words(&printed, "half:")[1..3], ["3", "turns"]);
    assert_eq!(words(&printed, "A "), ["A", "HEAD", &format!("({})", first.trim())]);
    // Three turns of 100, 200 and 300 beside 50, 100 and 150.
    let row = ["rtt", "64", "B", "spin", "ringwire", "p50_ns", "200", "100", "0.500"];
    assert_eq!(
        words(&printed, "rtt 64 B spin ringwire"),
        [&row[..], &["0.500", "to", "0.500"]].concat()
    );
    assert!(!printed.contains("p99_ns"), "a figure without a value is left out: {printed}");
    assert_eq!(repository.read("notes/runs"), "100 \n50 x\n50 x\n100 \n100 \n50 x\n");
    assert_eq!(repository.read("notes/builds").lines().count(), 2);
    assert_eq!(repository.git(&["worktree", "list"]).lines().count(), 1, "trees are taken away");

    // What has been built is not built again, and a record holds every round.
    let mut again = repository.command(repository.root.join("tree/scripts/ab.sh"));
    again.args(["again", "HEAD", "HEAD+faster.patch"]).env("TURNS", "3").env("RECORD", "record");
    let printed = text(&output::output(&mut again));
    assert_eq!(repository.read("tree/record/again.txt"), printed);
    for letter in ["A", "B"] {
        let rounds = repository.read(&format!("tree/record/again-{letter}.jsonl"));
        assert_eq!(rounds.matches("\"scenario\":\"machine\"").count(), 3, "{rounds}");
    }
    assert_eq!(repository.read("notes/builds").lines().count(), 2);
}

/// The sign test's: of nine turns one may lie beyond it, of eight none.
#[test]
fn interval_leaves_out_as_many_turns_as_chance_would() {
    let repository = Repository::new("ab-interval");
    repository.program("bin/cargo", CARGO_FOR_AB);
    repository.write("tree/faster.patch", "--- a/speed\n+++ b/speed\n@@ -1 +1 @@\n-100\n+50\n");
    let check = |turns: &str, expected: [&str; 4]| {
        repository.write("notes/runs", "");
        let mut command = repository.command(repository.root.join("tree/scripts/ab.sh"));
        command.args(["stall", "HEAD", "HEAD+faster.patch,STALL=2"]).env("TURNS", turns);
        let printed = text(&output::output(&mut command));
        assert_eq!(words(&printed, "rtt 64 B spin ringwire")[8..], expected, "{printed}");
    };
    check("8", ["0.500", "0.500", "to", "4.500"]);
    check("9", ["0.500", "0.500", "to", "0.500"]);
    check("3", ["0.500", "0.500", "to", "4.500"]);
}

/// Builds differ in how long a round is by default, and both have to run as long.
#[test]
fn turns_of_both_builds_are_as_long() {
    let repository = Repository::new("ab-length");
    repository.program("bin/cargo", CARGO_FOR_AB);
    let run = |arguments: &[&str], turns: &str| {
        let mut command = repository.command(repository.root.join("tree/scripts/ab.sh"));
        command.args([&["same", "HEAD", "HEAD", "--"], arguments].concat()).env("TURNS", turns);
        output::output(&mut command)
    };
    let check = |arguments: &[&str], expected: &str| {
        let printed = text(&run(arguments, "1"));
        let said = format!("same: 1 turn of ringwire bench {expected}\n");
        assert!(printed.starts_with(&said), "{printed}");
    };
    check(&["rtt"], "rtt --duration 0.1");
    check(&["--payload", "64KiB"], "--payload 64KiB --duration 0.1");
    check(&["mixed"], "mixed --duration 0.4");
    check(&["cores"], "cores");
    check(&["rtt", "--duration", "0.5"], "rtt --duration 0.5");
    check(&["stream", "--duration=0.5"], "stream --duration=0.5");
    for turns in ["1001", "0", "-1", "abc", "1.5", "99999999999999999999"] {
        let refused = run(&["rtt"], turns);
        assert_eq!(refused.status.code(), Some(2), "{turns}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(said, format!("TURNS={turns}: a number from 1 to 1000 is wanted\n"));
    }
}

#[test]
fn rows_are_told_apart_by_what_varies() {
    let repository = Repository::new("ab-cores");
    repository.program("bin/cargo", CARGO_FOR_AB);
    let printed = text(&repository.script("ab.sh", &["same", "HEAD", "HEAD", "--", "cores"]));
    for count in ["1", "2"] {
        let begin = format!("cores 64 B adaptive 64 connections {count} reactors ringwire");
        assert_eq!(words(&printed, &begin)[9..12], ["p50_ns", count, count], "{printed}");
    }
}

#[test]
fn comparison_that_can_not_be_made_says_why() {
    let repository = Repository::new("ab-wrong");
    repository.program("bin/cargo", CARGO_FOR_AB);
    let usage = repository.script("ab.sh", &["name", "HEAD"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&usage.stderr).contains("scripts/ab.sh NAME A B"));
    let absent = "B=HEAD+other.patch: other.patch can not be read";
    for (subjects, wanted) in [
        (
            ["HEAD", ".+other.patch"],
            "B=.+other.patch: a patch needs a commit to stand on, as HEAD+",
        ),
        (["HEAD", "HEAD+other.patch"], absent),
        (["nonsense,A=1", "HEAD"], "A=nonsense,A=1: git knows no commit 'nonsense'; a commit is"),
        (
            ["HEAD", "nonsense"],
            "B=nonsense: git knows no commit 'nonsense'; a commit is wanted, or",
        ),
    ] {
        let outcome = repository.script("ab.sh", &[&["name"], &subjects[..]].concat());
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(2), "{said}");
        assert!(said.starts_with(wanted) && said.lines().count() == 1, "{said}");
        assert_eq!(repository.read("notes/builds"), "", "before either is built");
    }
    repository.write("tree/other.patch", "--- a/speed\n+++ b/speed\n@@ -1 +1 @@\n-7\n+50\n");
    let outcome = repository.script("ab.sh", &["name", "HEAD", "HEAD+other.patch"]);
    assert!(!outcome.status.success());
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert!(said.contains("other.patch does not apply to"), "{said}");
    assert_eq!(repository.read("notes/runs"), "", "nothing else is measured instead");
}

#[test]
fn instructions_that_have_grown_are_an_error_until_they_are_accepted() {
    let repository = Repository::new("instructions");
    repository.program("bin/cargo", CARGO_FOR_INSTRUCTIONS);
    repository.program("bin/valgrind", VALGRIND);
    let count = |a: u32, b: u32| {
        repository.write("notes/case-a", &a.to_string());
        repository.write("notes/case-b", &b.to_string());
    };
    fs::create_dir_all(repository.root.join("tree/benches")).expect("a writable directory");
    count(500, 2000);
    let accepted = text(&repository.script("instructions.sh", &["accept"]));
    // Ten elements a call of the second. In this order, whichever was counted first.
    let cases: Vec<_> = accepted.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(cases, ["a 500.0", "b/64 200.0"]);
    let build = repository.read("notes/build");
    assert!(build.starts_with("0 build "), "not in pieces: {build}");
    assert!(build.contains(" --profile instructions "), "{build}");

    count(510, 2000);
    let drifted = text(&repository.script("instructions.sh", &[]));
    assert_eq!(words(&drifted, "a "), ["a", "500.0", "510.0", "+2.0", "%"]);
    count(510, 2200);
    let grown = repository.script("instructions.sh", &[]);
    assert_eq!(grown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&grown.stdout);
    assert_eq!(words(&said, "b/64 ")[4..], ["%", "more", "than", "3", "%", "more"]);
    text(&repository.script("instructions.sh", &["accept"]));
    text(&repository.script("instructions.sh", &[]));

    // A case that can not be counted is no case of none.
    let baseline = repository.read("tree/benches/instructions.baseline");
    fs::remove_file(repository.root.join("notes/case-b")).expect("it is there");
    for arguments in [&[][..], &["accept"]] {
        assert!(!repository.script("instructions.sh", arguments).status.success());
    }
    repository.program("bin/valgrind", "#!/bin/bash\n");
    let silent = repository.script("instructions.sh", &[]);
    assert!(!silent.status.success());
    let said = String::from_utf8_lossy(&silent.stderr);
    assert!(said.contains("valgrind counted nothing of "), "{said}");
    assert_eq!(repository.read("tree/benches/instructions.baseline"), baseline);
}

#[test]
fn instructions_that_can_not_be_judged_are_an_error_where_that_is_wanted() {
    let repository = Repository::new("instructions-unjudged");
    repository.program("bin/cargo", CARGO_FOR_INSTRUCTIONS);
    repository.program("bin/valgrind", VALGRIND);
    repository.write("notes/case-a", "500");
    repository.write("notes/case-b", "2000");
    fs::create_dir_all(repository.root.join("tree/benches")).expect("a writable directory");
    text(&repository.script("instructions.sh", &["accept"]));
    let required = || {
        let mut command = repository.command(repository.root.join("tree/scripts/instructions.sh"));
        let outcome = output::output(command.env("REQUIRE_INSTRUCTIONS", "1"));
        outcome.status.code()
    };
    assert_eq!(required(), Some(0));
    let baseline = repository.read("tree/benches/instructions.baseline");
    let (head, rest) = baseline.split_once("\n# ").expect("two lines of comment");
    repository.write(
        "tree/benches/instructions.baseline",
        &format!("{head}\n# another compiler and {rest}"),
    );
    let shown = text(&repository.script("instructions.sh", &[]));
    assert!(shown.contains("shown, not judged"), "{shown}");
    assert_eq!(required(), Some(1));

    // CI goes on, and says it where it is read.
    let green = text(&repository.script("ci.sh", &["instructions"]));
    let last = green.lines().rev().take(2).collect::<Vec<_>>();
    assert!(last[0].starts_with("==> all green in "), "{green}");
    assert!(last[1].starts_with("==> instruction counts were NOT judged: the baseline"), "{green}");
    repository.write("tree/benches/instructions.baseline", &baseline);
    let green = text(&repository.script("ci.sh", &["instructions"]));
    assert!(!green.contains("NOT judged"), "{green}");
}

#[test]
fn hot_path_is_of_both_ends_and_its_functions_are_named() {
    let repository = Repository::new("hot-path");
    repository.program("bin/cargo", CARGO_FOR_HOT_PATH);
    repository.program("bin/addr2line", ADDR2LINE);
    let said = "before 6 lines 4 pages 2  after 2 lines 1  all-lines 5 calls 2\n";
    repository.write("notes/said", said);
    let trace = ["0x1000", "0x103f", "0x1040", "-", "0x2000", "0x2000 sendto", "0x1000", "0x2000"];
    repository.write("notes/trace", &trace.join("\n"));
    let run = |functions: &str, arguments: &[&str]| {
        let script = repository.root.join("tree/scripts/hot_path.sh");
        let mut command = repository.command(script);
        command.env("FUNCTIONS", functions).args(arguments);
        output::output(&mut command)
    };
    let printed = text(&run("2", &["spin"]));
    let server = ["spin", "server", "6", "4", "2", "2", "1", "5", "2"];
    assert_eq!(words(&printed, "spin      server"), server);
    assert_eq!(words(&printed, "spin      client")[2..], server[2..]);
    let functions: Vec<_> = printed.lines().skip(2).take(2).map(str::trim).collect();
    // Up to the answer alone: three in two lines, two in one.
    assert_eq!(functions, ["3      2  reactor/a.rs inner", "2      1  a/b.rs outer"], "{printed}");
    let steps = repository.read("notes/steps");
    let threads: Vec<_> = steps.lines().map(|run| run.split(" --trace").next()).collect();
    let client = "--thread client --beside ringwire-0";
    assert_eq!(threads, [Some("--thread ringwire-0"), Some(client)], "{steps}");
    assert!(steps.contains("/ringwire bench rtt --payload 64 --idle spin "), "{steps}");

    let both = text(&run("0", &[]));
    assert_eq!(both.lines().count(), 5, "spin and park, either end: {both}");
    let record = |said: &str| {
        repository.write("notes/said", said);
        let mut command = repository.command(repository.root.join("tree/scripts/hot_path.sh"));
        command.env("RECORD", repository.root.join("record")).env("NAME", "here");
        text(&output::output(command.arg("park")))
    };
    let printed = record(said);
    assert!(printed.starts_with("# scripts/hot_path.sh park, 64 B, "), "{printed}");
    assert_eq!(repository.read("record/here.txt"), printed);
    assert!(record("skipped: ptrace(2) is forbidden\n").contains("skipped: ptrace(2)"));
    assert_eq!(repository.read("record/here.txt"), printed, "the record is still there");
    repository.write("notes/said", "before 6 lines 4\n");
    assert!(!run("0", &["park"]).status.success(), "no row of zeros");
    let unknown = run("0", &["sleep"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("scripts/hot_path.sh IDLE..."));
    repository.program("bin/cargo", "#!/bin/bash\n");
    let nothing = run("0", &[]);
    assert_eq!(nothing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nothing.stderr);
    assert!(said.contains("there is no program"), "{said}");
    repository.program("bin/cargo", "#!/bin/bash\necho broken >&2\nexit 101\n");
    let broken = run("0", &[]);
    assert_eq!(broken.status.code(), Some(101), "a build that fails says so itself");
    assert_eq!(run("all", &[]).status.code(), Some(2));
}

#[test]
fn step_that_hangs_is_ended_and_has_failed() {
    const CARGO: &str = "#!/bin/bash\necho $$ >\"$NOTES/cargo\"\nexec sleep 600\n";
    let repository = Repository::new("ci");
    repository.program("bin/cargo", CARGO);
    let mut command = repository.command(repository.root.join("tree/scripts/ci.sh"));
    let run = output::output(command.arg("fmt").env("STEP_SECONDS", "1"));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success(), "{said}");
    assert!(said.contains("longer than 1 s: ended"), "{said}");
    assert!(said.contains("FAILED in step fmt"), "{said}");
    let hung = repository.read("notes/cargo");
    assert!(!Path::new("/proc").join(hung.trim()).join("exe").exists(), "it is still there");
}

/// Plain tests would pass for them.
#[test]
fn tests_that_would_not_be_optimised_do_not_run() {
    const CARGO: &str = r#"#!/bin/bash
[ "$1" != tree ] || { cat "$NOTES/tree"; exit; }
while [ "$1" != --config ]; do shift; done
cat "$2" >"$NOTES/settings"
"#;
    let repository = Repository::new("optimised");
    repository.program("bin/cargo", CARGO);
    let run = |step: &str| {
        let mut command = repository.command(repository.root.join("tree/scripts/ci.sh"));
        let run = output::output(command.arg(step));
        (run.status.success(), repository.read("notes/settings"))
    };
    let failed = (false, String::new());
    for step in ["bench", "test_optimised"] {
        assert_eq!(run(step), failed, "cargo tree fails");
    }
    repository.write("notes/tree", "bytes v1.0.0\n");
    assert_eq!(run("bench"), failed, "without the library");
    repository.write("notes/tree", "ringwire v0.1.0 (/a b)\nbytes v1.0.0\nbytes v1.0.0 (*)\n");
    let (passed, settings) = run("bench");
    let of = |package| {
        format!(
            "[profile.dev.package.{package}]\nopt-level = 3\ndebug = \"none\"\n\
             debug-assertions = false\noverflow-checks = false\n"
        )
    };
    assert!(passed);
    assert_eq!(settings, of("ringwire") + &of("bytes"));
}

#[test]
fn part_of_the_suite_that_fails_leaves_its_figures_and_the_others() {
    let repository = Repository::new("bench");
    repository.program("bin/cargo", CARGO_FOR_BENCH);
    let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
    command.env("OUT", repository.root.join("out/day"));
    let run = output::output(&mut command);
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    for part in ["peers", "mixed", "cores", "failover"] {
        for ending in ["jsonl", "html"] {
            assert_eq!(repository.read(&format!("out/day-{part}.{ending}")), "row\n", "{part}");
        }
    }
    // Nothing is left of what has no figures.
    for ending in ["jsonl", "txt", "html"] {
        assert!(!repository.root.join(format!("out/day-idle.{ending}")).exists(), "{ending}");
    }
    let failed = |part: &str| said.lines().any(|l| l == format!("{part} failed with status 1"));
    let all = ["peers", "mixed", "cores", "idle", "failover"];
    assert_eq!(all.map(failed), [true, true, false, true, false], "{said}");
    let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
    command.args(["quick", "cores"]).env("OUT", "-");
    let run = output::output(&mut command);
    text(&run);
    let said = String::from_utf8_lossy(&run.stderr);
    let last = said.lines().last().unwrap_or_default();
    let seconds = last.strip_suffix(" s in all, without what was built");
    assert!(seconds.is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{said}");
}

/// One peer that does not build takes no other with it; the report says why it is not there.
#[test]
fn peer_that_does_not_build_is_skipped_with_its_reason() {
    let repository = Repository::new("skipped");
    repository.program("bin/cargo", CARGO_WITHOUT_NNG);
    let run = |features: &str| {
        let _ = fs::remove_file(repository.root.join("notes/runs"));
        let _ = fs::remove_file(repository.root.join("notes/builds"));
        let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
        command.args(["quick", "rtt"]).env("OUT", "-").env("FEATURES", features);
        text(&output::output(&mut command));
        (repository.read("notes/builds"), repository.read("notes/runs"))
    };
    let (builds, runs) = run("tarpc,nng,zmq");
    let (before, skipped) = runs.split_once("--skipped ").expect("it is told");
    assert!(before.starts_with("tarpc,zmq: run "), "the others are there: {runs}");
    assert_eq!(skipped.lines().next(), Some("nng=does not build: cmake: not found"));
    let each = ["tarpc,nng,zmq", "tarpc", "tarpc,nng", "tarpc,zmq", "tarpc,zmq"];
    assert_eq!(builds.lines().collect::<Vec<_>>(), each);

    // Of all there are.
    let (_, runs) = run("all");
    let (built, _) = runs.split_once(": run ").expect("it ran");
    assert_eq!(built.split(',').count(), 10, "{built}");
    assert_eq!(runs.matches("--skipped").count(), 1, "{runs}");

    // What builds at once is built once, and nothing is skipped.
    let (builds, runs) = run("tarpc,zmq");
    assert_eq!(builds, "tarpc,zmq\n");
    assert!(!runs.contains("--skipped"), "{runs}");
}

/// Before anything is built, and with the line that was meant.
#[test]
fn words_that_bench_does_not_take_are_told_with_those_it_takes() {
    let repository = Repository::new("words");
    repository.program("bin/cargo", "#!/bin/bash\necho built >&2\nexit 1\n");
    let run = |words: &[&str], features: &str| {
        let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
        let run = output::output(command.args(words).env("OUT", "-").env("FEATURES", features));
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    let refused = |words: &str, wanted: &str| {
        let (code, said) = run(&words.split(' ').collect::<Vec<_>>(), "");
        assert_eq!((code, &*said), (Some(2), &*format!("{wanted}\n")), "{words}");
    };
    let options = |words, first: &str, meant: &str| {
        let told =
            format!("{first}: options of peers run stand behind --: scripts/bench.sh {meant}");
        refused(words, &told);
    };
    options("quick rtt --payload 256", "--payload", "quick rtt -- --payload 256");
    options("--payload 256 rtt", "--payload", "quick rtt -- --payload 256");
    options("rtt --rounds=3 stream --plan", "--rounds=3", "quick rtt stream -- --rounds=3 --plan");
    options(
        "long rtt --subjects raw-* -- --plan",
        "--subjects",
        "long rtt -- --subjects 'raw-*' --plan",
    );
    options("rtt --form long", "--form", "long rtt");
    refused("mixed --rounds 3", "--rounds is not for mixed: see ringwire bench --help");
    let behind = |words, form: &str, meant: &str| {
        refused(words, &format!("{form} stands before the scenarios: scripts/bench.sh {meant}"));
    };
    behind("rtt long", "long", "long rtt");
    behind("rtt quick mixed stream", "quick", "quick rtt mixed stream");
    behind("rtt long stream -- --rate 100", "long", "long rtt stream -- --rate 100");
    behind("quick rtt long --payload 256", "long", "long rtt -- --payload 256");

    let (code, said) = run(&["rtt"], "omq,zmg");
    let wanted = "FEATURES=omq,zmg: no peer needs a feature zmg; there are tokio-uring,monoio,";
    assert!(code == Some(2) && said.starts_with(wanted) && !said.contains("built"), "{said}");
    for features in ["all", "omq, zmq", ""] {
        let (_, said) = run(&["rtt"], features);
        assert!(said.contains("built"), "{features}: {said}");
    }
    // Peers are no part of it.
    assert!(run(&["mixed"], "zmg").1.contains("built"));
}

/// Also when a part of the run fails; where it can not be set nothing runs.
#[test]
fn congestion_control_is_set_for_the_run_and_then_back() {
    let repository = Repository::new("congestion");
    repository.program("bin/cargo", CARGO_FOR_BENCH);
    repository.program("bin/sysctl", SYSCTL);
    repository.write("notes/congestion", "bbr\n");
    let run = |arguments: &[&str], congestion: &str| {
        let _ = fs::remove_file(repository.root.join("notes/runs"));
        let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
        command.args(arguments).env("OUT", "-").env("CONGESTION", congestion);
        let run = output::output(&mut command);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        (run.status.code(), said, repository.read("notes/runs"))
    };
    let (code, said, runs) = run(&["quick", "mixed"], "reno");
    assert_eq!((code, &*runs), (Some(1), "set reno\nbench mixed\nset bbr\n"), "{said}");
    assert_eq!(repository.read("notes/congestion"), "bbr\n");
    let (code, said, runs) = run(&["quick", "cores"], "");
    assert_eq!((code, &*runs), (Some(0), "bench cores\n"), "{said}");
    repository.write("notes/refused", "");
    let (code, said, runs) = run(&["quick", "cores"], "reno");
    assert_eq!((code, &*runs), (Some(2), ""), "{said}");
    assert!(said.contains("CONGESTION=reno: can not be set; it takes root"), "{said}");
    assert_eq!(repository.read("notes/congestion"), "bbr\n");
}

#[test]
fn host_is_set_up_for_the_run_and_then_back() {
    let repository = Repository::new("host");
    repository.program("bin/cargo", CARGO_FOR_BENCH);
    repository.program("tree/scripts/setup_host.sh", SETUP_HOST);
    repository.program("bin/sudo", PASSES_ON);
    repository.program("bin/taskset", PASSES_ON);
    repository.program("bin/id", "#!/bin/bash\ncat \"$NOTES/user\"\n");
    repository.write("notes/user", "0\n");
    let run = |arguments: &[&str], cores: &str| {
        let _ = fs::remove_file(repository.root.join("notes/runs"));
        let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
        command.args(arguments).env("OUT", "-").env("SETUP_HOST", "1").env("CORES", cores);
        let run = output::output(&mut command);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        (run.status.code(), said, repository.read("notes/runs"))
    };
    let (code, said, runs) = run(&["quick", "failover"], "2,3");
    let wanted = "setup --apply --save host --cores 2,3\ncores 2,3\nbench failover\n\
                  setup --restore host\nsaved\n";
    assert_eq!((code, &*runs), (Some(0), wanted), "{said}");
    // More reactors than the two ends have cores, and a suite that takes no scenario.
    repository.write("notes/user", "1000\n");
    let (code, said, runs) = run(&["quick", "cores", "own"], "");
    let wanted = "sudo\nsetup --apply --save host\nbench cores\nbench --json\n\
                  sudo\nsetup --restore host\nsaved\n";
    assert_eq!((code, &*runs), (Some(1), wanted), "{said}");
    let (code, said, runs) = run(&["quick", "cores"], "2,3");
    let online = fs::read_to_string("/sys/devices/system/cpu/online").expect("Linux has /sys");
    let all = runs.contains(&format!("\ncores {}\n", online.trim()));
    assert_eq!((code, all), (Some(0), true), "{said}{runs}");
    // Not everything could be changed, nor given back: both are said, and where the file is.
    repository.write("notes/refused", "");
    let (code, said, runs) = run(&["quick", "failover"], "");
    assert!(code == Some(1) && runs.contains("bench failover"), "{said}");
    assert!(said.contains("not everything of the host could be set up"), "{said}");
    let told = said.lines().find(|line| line.starts_with("the host is not as it was: "));
    let file = told.and_then(|line| line.split('\'').nth(1)).expect("the file");
    assert_eq!(fs::read_to_string(file).expect("it is kept"), "saved\n");
    fs::remove_dir_all(Path::new(file).parent().expect("a folder")).expect("our own");
    // A plan sets nothing up, and a core is a number.
    let (code, said, runs) = run(&["quick", "rtt", "--", "--plan"], "");
    assert!(!runs.contains("setup"), "{code:?} {said}");
    for (cores, why) in [
        ("first", "two numbers of cores or more"),
        ("2-3", "two numbers of cores or more"),
        ("2", "two numbers of cores or more"),
        ("2,9", "there is no core 9 here"),
    ] {
        let (code, said, runs) = run(&["quick", "failover"], cores);
        assert_eq!((code, &*runs), (Some(2), ""), "{said}");
        assert!(said.contains(&format!("CORES={cores}: {why}")), "{said}");
    }
}

/// Also when it is interrupted while it is being set up: what had been changed is in the file.
#[test]
fn interrupted_set_up_of_a_host_is_given_back() {
    let repository = Repository::new("interrupted");
    repository.program("bin/cargo", CARGO_FOR_BENCH);
    repository.program("bin/id", "#!/bin/bash\necho 0\n");
    let killing = SETUP_HOST.replace("echo saved >\"$3\"", "{ echo saved >\"$3\"; kill $PPID; }");
    assert_ne!(killing, SETUP_HOST);
    repository.program("tree/scripts/setup_host.sh", &killing);
    let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
    command.args(["quick", "failover"]).env("OUT", "-").env("SETUP_HOST", "1");
    let run = output::output(&mut command);
    let (said, runs) = (String::from_utf8_lossy(&run.stderr), repository.read("notes/runs"));
    assert!(!run.status.success(), "{said}");
    assert_eq!(runs, "setup --apply --save host\nsetup --restore host\nsaved\n", "{said}");
}

#[test]
fn long_form_has_every_goal() {
    let repository = Repository::new("long");
    repository.program("bin/cargo", CARGO_FOR_BENCH);
    // Beside bare sockets, among many sessions, and what only a micro-benchmark tells.
    let goals = ["own.jsonl", "busy.jsonl", "stats.txt"];
    for (form, has_them) in [("long", true), ("quick", false)] {
        let _ = fs::remove_file(repository.root.join("notes/runs"));
        let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
        let out = repository.root.join(form);
        output::output(command.arg(form).env("OUT", out.join("day")));
        let exists = goals.map(|goal| out.join(format!("day-{goal}")).exists());
        assert_eq!(exists, [has_them; 3], "the quick form has no time for them");
        let runs = repository.read("notes/runs");
        // With a crowd, too.
        let idle = runs.lines().filter(|run| *run == "bench idle").count();
        assert_eq!(idle, 1 + usize::from(has_them), "{runs}");
        // Seven rounds of it tell nothing.
        let arguments = repository.read("notes/arguments");
        assert_eq!(arguments.contains("bench mixed --rounds 61 "), has_them, "{arguments}");
        let _ = fs::remove_file(repository.root.join("notes/arguments"));
    }
    let stats = fs::read_to_string(repository.root.join("long/day-stats.txt")).expect("a text");
    let commit = repository.git(&["describe", "--always", "--dirty=+", "--abbrev=12"]);
    let [what, machine, figures] = stats.lines().collect::<Vec<_>>()[..] else { panic!("{stats}") };
    assert!(what.starts_with("# scripts/bench.sh long stats, 20"), "{stats}");
    assert!(what.ends_with(&format!("Z, {}", commit.trim())), "{stats}");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux has /proc");
    assert!(machine.contains(&format!(", Linux {}, rustc ", kernel.trim())), "{stats}");
    assert_eq!(figures, "stats");
    let processors = fs::read_to_string("/proc/cpuinfo").expect("Linux has /proc");
    if let Some((_, family)) = processors
        .lines()
        .find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == "cpu family"))
    {
        assert!(machine.contains(&format!(" (family {}, model ", family.trim())), "{stats}");
    }
}

#[test]
fn statistics_of_a_tree_without_its_history_are_kept() {
    let repository = Repository::new("tarball");
    repository.program("bin/cargo", CARGO_FOR_BENCH);
    fs::remove_dir_all(repository.root.join("tree/.git")).expect("there");
    let mut command = repository.command(repository.root.join("tree/scripts/bench.sh"));
    let out = repository.root.join("out");
    // Nor that of a tree it may lie in.
    let above = ("GIT_CEILING_DIRECTORIES", &repository.root);
    command.args(["long", "stats"]).env("OUT", &out).envs([above]);
    let run = output::output(&mut command);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let stats = fs::read_to_string(repository.root.join("out-stats.txt")).expect("a text");
    let first = stats.lines().next().expect("a header");
    assert!(first.ends_with("Z, unknown commit"), "{stats}");
}

#[test]
fn who_was_stopped_stands_behind_what_the_command_prints() {
    let repository = Repository::new("stops");
    repository.program("bin/bpftrace", BPFTRACE);
    repository.program("bin/id", "#!/bin/bash\ncat \"$NOTES/user\"\n");
    repository.program("bin/mount", "#!/bin/bash\n");
    repository.write("notes/user", "0\n");
    let run = |command: &str| {
        let mut script = repository.command(repository.root.join("tree/scripts/stops.sh"));
        script.args(["name", "sh", "-c", command]).env("RECORD", repository.root.join("record"));
        let run = output::output(&mut script);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        (run.status.code(), String::from_utf8_lossy(&run.stdout).into_owned(), said)
    };
    let (code, printed, said) = run("echo work; exit 3");
    assert_eq!(code, Some(3), "as the command ends: {said}");
    let lines: Vec<_> = printed.lines().skip(1).map(str::trim_end).collect();
    let wanted = [
        "",
        "work",
        "stopped, by whom; us                  times     in all   longest   >= 100  >= 1000",
        "any, softirq                              4       2200      2000        2        1",
        "a b, c                                    3          6         5        0        0",
    ];
    assert_eq!(lines, wanted);
    assert_eq!(repository.read("record/name.txt"), printed);
    repository.write("notes/refused", "");
    let (code, _, said) = run("echo work >&2");
    assert_eq!(code, Some(1));
    assert!(said.contains("no tracepoints") && !said.contains("work"), "{said}");
    repository.write("notes/user", "1000\n");
    let (code, _, said) = run("true");
    assert!(code == Some(1) && said.contains("takes root"), "{said}");
}

#[test]
fn profile_is_of_what_the_bench_runs() {
    let repository = Repository::new("pgo");
    repository.program("bin/cargo", CARGO_FOR_PGO);
    repository.program("bin/profdata", PROFDATA);
    let mut command = repository.command(repository.root.join("tree/scripts/pgo.sh"));
    command.env("LLVM_PROFDATA", "profdata");
    let printed = text(&output::output(&mut command));
    let flag = printed.trim().strip_prefix("RUSTFLAGS=-Cprofile-use=").expect("a flag");
    let merged = fs::read_to_string(flag).expect("the file that is named");
    assert_eq!(merged, "counts\n".repeat(4), "what each run has counted");
    let runs = repository.read("notes/runs");
    let runs: Vec<_> = runs.lines().collect();
    assert_eq!(runs.len(), 4, "{runs:?}");
    assert!(runs.iter().all(|run| run.starts_with("bench ")), "{runs:?}");
    let build = repository.read("notes/build");
    assert!(build.starts_with("-Cprofile-generate="), "{build}");
    assert!(!build.contains("--target"), "names of functions would be others: {build}");

    // A tool that fails is an error, not an empty profile.
    command.env("LLVM_PROFDATA", "false");
    assert!(!output::output(&mut command).status.success());
    assert_eq!(repository.script("pgo.sh", &["rtt"]).status.code(), Some(2));
}
