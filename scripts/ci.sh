#!/usr/bin/env bash
# Defines green. Needs the Rust toolchain, git, bash and awk, and a kernel that lets us have io_uring:
# no C compiler, no root, no network once the dependencies are fetched.
#
#   scripts/ci.sh          every step, in order; stops at the first that fails
#   scripts/ci.sh STEP...  only these, e.g. `scripts/ci.sh fmt clippy`
#
# FUZZ_SECONDS (default 3) is the time per fuzz target. RUST_TEST_THREADS is how many tests run at
# once, and RINGWIRE_SOAK_SECONDS (default 60) how long links break at random in test_optimised.
# STEP_SECONDS (default 1800) is how long a step may take: one that hangs is ended, and has failed.
# CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=full CARGO_PROFILE_DEV_LTO=false goes on from what a plain
# `cargo test` has built, for who runs single steps while changing the code; a first run takes a fifth
# longer.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-always}"
export RUST_BACKTRACE="${RUST_BACKTRACE:-1}"
# The same in every step, so that each finds what those before it have built. Lines are all that a
# backtrace needs; both save a fifth of compiling. What `optimised` optimises would have LTO across
# its own units otherwise, which takes long and changes no answer.
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"
export CARGO_PROFILE_DEV_DEBUG="${CARGO_PROFILE_DEV_DEBUG:-line-tables-only}"
export CARGO_PROFILE_DEV_LTO="${CARGO_PROFILE_DEV_LTO:-off}"
# One place for the packages beside this one too: what they depend on is largely the same.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
fuzz_seconds="${FUZZ_SECONDS:-3}"
step_seconds_max="${STEP_SECONDS:-1800}"
# Far longer than any example takes.
example_seconds_max=30

# Tests open many connections, two descriptors each. As far as the hard limit lets us.
raise_descriptor_limit() {
    local hard
    hard="$(ulimit -Hn)"
    if [ "$hard" = unlimited ] || [ "$hard" -gt 65536 ]; then
        hard=65536
    fi
    ulimit -Sn "$hard"
    echo "descriptors: $(ulimit -Sn)"
}

# Most tests wait for something, in a process of their own: two for each core keep it busy.
more_tests_at_once() {
    export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((2 * $(nproc)))}"
}

# rustfmt and clippy, from rustup, only where they are missing.
ensure_component() {
    local command="$1" component="$2"
    if "$command" --version >/dev/null 2>&1; then
        return
    fi
    if ! command -v rustup >/dev/null; then
        echo "$command is missing and there is no rustup to install it: install $component" >&2
        return 1
    fi
    rustup component add "$component"
}

# Whether the kernel makes a ring for us. Containers often forbid it (Docker's default seccomp does),
# and then hundreds of tests would say so one by one.
has_io_uring() {
    local folder told=0
    folder="$(mktemp -d)"
    # io_uring_setup(2) of one entry; its number is the same on every architecture.
    cat >"$folder/probe.rs" <<'END'
unsafe extern "C" {
    fn syscall(number: std::ffi::c_long, ...) -> std::ffi::c_long;
}
fn main() {
    let mut parameters = [0_u64; 15];
    if unsafe { syscall(425, 1_u32, parameters.as_mut_ptr()) } < 0 {
        eprintln!("io_uring_setup: {}", std::io::Error::last_os_error());
        std::process::exit(1);
    }
}
END
    rustc --edition 2024 -o "$folder/probe" "$folder/probe.rs" && "$folder/probe" || told="$?"
    rm -r "$folder"
    return "$told"
}

step_tools() {
    cargo --version
    rustc --version
    local tool
    for tool in git awk; do
        command -v "$tool" >/dev/null || { echo "$tool is missing: install it" >&2; return 1; }
    done
    if ! has_io_uring; then
        echo "io_uring can not be had here, without which nothing can be tested: see" \
            "/proc/sys/kernel/io_uring_disabled; in a container, --security-opt seccomp=unconfined" >&2
        return 1
    fi
    ensure_component cargo-fmt rustfmt
    ensure_component cargo-clippy clippy
    raise_descriptor_limit
}

step_fmt() {
    cargo fmt --check
    cargo fmt --check --manifest-path fuzz/Cargo.toml
    cargo fmt --check --manifest-path loom/Cargo.toml
}

step_clippy() {
    cargo clippy --locked --all-targets --all-features -- -D warnings
}

# What an embedder compiles: the library without the command and its dependencies. Clippy is the
# compiler's own check and more.
step_library() {
    cargo clippy --locked --lib --no-default-features -- -D warnings
}

step_doc() {
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
}

# The README's test command, word for word: tests/tidy.rs keeps it in README.md.
step_test() {
    raise_descriptor_limit
    more_tests_at_once
    cargo test
}

# Names a file of settings that optimise the library, and what it is made of, as it ships, but not as
# one unit and without LTO: linking each of the test programs with that takes two cores ten minutes.
# They change the profile of `test`, so that all else (what the command draws with, what tests compare
# with, macros) is there already.
optimised() {
    local settings="$CARGO_TARGET_DIR/optimised.toml"
    mkdir -p "$CARGO_TARGET_DIR"
    cargo tree --locked --no-default-features --features metrics --edges normal,no-proc-macro \
        --prefix none --format '{p}' |
        awk '!told[$1]++ {
            print "[profile.dev.package." $1 "]\nopt-level = 3\ndebug = \"none\""
            print "debug-assertions = false\noverflow-checks = false"
        }' >"$settings" || return
    # Without it plain tests would pass for optimised ones.
    grep -qF '[profile.dev.package.ringwire]' "$settings" || return
    echo "$settings"
}

# The library with the metrics endpoint, optimised, below the command. What tests the command
# from inside, the scripts or the text of the repository says nothing else when it is optimised.
#
# Real links break at random for a minute, beside all other tests, which take as long. Those two are
# not among them: from the same seed they would do the same again.
step_test_optimised() {
    raise_descriptor_limit
    more_tests_at_once
    local settings
    settings="$(optimised)"
    local cargo_test=(cargo test --locked --features metrics --config "$settings")
    local targets=(--lib) file
    for file in tests/*.rs; do
        case "$file" in
        tests/scripts.rs | tests/setup_host.rs | tests/tidy.rs) ;;
        *) targets+=(--test "$(basename "$file" .rs)") ;;
        esac
    done
    targets+=(--test it)
    "${cargo_test[@]}" "${targets[@]}" --no-run
    local said soak tests=0
    said="$(mktemp)"
    RINGWIRE_SOAK_SECONDS="${RINGWIRE_SOAK_SECONDS:-60}" \
        "${cargo_test[@]}" --test it random_faults >"$said" 2>&1 &
    soak="$!"
    "${cargo_test[@]}" "${targets[@]}" -- --skip random_faults || tests="$?"
    # Neither ends without the other: what is left running would be in the way of the next step.
    local soaked=0
    wait "$soak" || soaked="$?"
    cat "$said"
    # A filter that finds nothing passes.
    if [ "$soaked" -eq 0 ] && ! grep -q ' 2 passed' "$said"; then
        echo "the soak ran other than two tests" >&2
        soaked=1
    fi
    rm "$said"
    [ "$tests" -eq 0 ] && [ "$soaked" -eq 0 ]
}

# Every example talks to itself when it is given no address, checks what comes back, and ends by
# itself within seconds.
step_examples() {
    cargo build --locked --examples
    local file
    for file in examples/*.rs; do
        timeout "$example_seconds_max" cargo run --locked --quiet --example "$(basename "$file" .rs)"
    done
}

# Every bench once, as a test: they compile, and their answers are right.
step_bench() {
    raise_descriptor_limit
    local settings said
    settings="$(optimised)"
    said="$(mktemp)"
    cargo bench --locked --profile dev --features metrics --config "$settings" -- --test |
        tee "$said"
    sed -n -E '/^skipped: /{s/^/the hot path was NOT stepped: /p;q}' "$said" >>"$notes"
    rm "$said"
}

# Instructions per message against a baseline. Nothing is judged where there is no valgrind, or where
# the baseline is of another compiler or processor: that is no failure, and the last line says so.
step_instructions() {
    local said
    said="$(mktemp)"
    scripts/instructions.sh | tee "$said"
    sed -n -E '/^skipped: |: shown, not judged$/{s/^/instruction counts were NOT judged: /p;q}' \
        "$said" >>"$notes"
    rm "$said"
}

# Without optimising across its parts: half of the time went into that.
step_fuzz() {
    CARGO_PROFILE_RELEASE_LTO=off \
        cargo run --release --locked --manifest-path fuzz/Cargo.toml -- "$fuzz_seconds"
}

# The lock-free protocols of src/sync in every interleaving. Some seconds behind the build.
step_loom() {
    RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off timeout 300 \
        cargo test --release --locked --manifest-path loom/Cargo.toml
}

# Whether there is a nightly toolchain that can do this. CI downloads nothing.
has_nightly() {
    if command -v rustup >/dev/null && cargo +nightly "$@" --version 2>/dev/null; then
        return
    fi
    echo "skipped: cargo +nightly $* is not installed"
    return 1
}

# Undefined behaviour in what has no system call: codec, sessions, memory, what threads share. Far
# fewer seeds and cases than elsewhere (`cfg!(miri)`); a test that Miri can not run says why.
#
# By Stacked Borrows, the stricter rules. Those forbid what every reader of an archive does, to
# follow a pointer relative to itself out of the field it stands in (rkyv issue 436): tests that
# read archives go by Tree Borrows.
step_miri() {
    has_nightly miri || return 0
    local archives=(
        wire::tests::damaged_archive_never_panics
        wire::tests::deeply_nested_archive_is_invalid_and_does_not_overflow_the_stack
        wire::tests::fuzz_targets_take_their_corpora
        wire::tests::truncated_archive_is_invalid
        wire::tests::typed_payload_is_read_in_place
    )
    local name skips=()
    for name in "${archives[@]}"; do
        skips+=(--skip "$name")
    done
    run_miri "" crc:: mem:: sync:: wire:: session:: "${skips[@]}"
    run_miri -Zmiri-tree-borrows "${archives[@]}"
}

run_miri() {
    local flags="$1"
    shift
    # Backtraces of expected panics take seconds each.
    RUST_BACKTRACE=0 CARGO_TARGET_DIR=target/miri MIRIFLAGS="-Zmiri-disable-isolation $flags" \
        cargo +nightly miri test --locked --no-default-features --lib -- "$@"
}

# Everything that talks to the kernel, with every access checked. Not in the default list: minutes.
# `cfg(asan)` takes away what can not be measured there: resident memory and limits of addresses.
step_asan() {
    has_nightly || return 0
    raise_descriptor_limit
    CARGO_TARGET_DIR=target/asan RUSTFLAGS="-Zsanitizer=address --cfg asan" \
        ASAN_OPTIONS=allocator_may_return_null=1 \
        LSAN_OPTIONS="suppressions=$PWD/scripts/asan-leaks.txt" \
        cargo +nightly test --locked --target x86_64-unknown-linux-gnu --lib --test it
}

# Whether there is a C compiler, with the headers of the C library.
has_c_compiler() {
    echo '#include <stdlib.h>' | "${CC:-cc}" -x c -c -o /dev/null - 2>/dev/null
}

# The bench suite beside other transports: a package of its own. Its test runs every subject without
# a feature for an instant, and looks at no figure. The peers that are features are compiled only:
# two minutes on two cores, half of them for zenoh. libzmq and nng would be another 40 s, a C++
# compiler and cmake; scripts/bench.sh builds them. What others need decides on the compiler here,
# which may be newer than the oldest that we promise.
step_peers() {
    local oldest ours
    oldest="$(sed -n 's/^rust-version = "\(.*\)"/\1/p' benches/peers/Cargo.toml)"
    ours="$(rustc --version | cut -d' ' -f2)"
    if [ "$(printf '%s\n' "$oldest" "${ours%%-*}" | sort -V | head -n 1)" != "$oldest" ]; then
        echo "skipped: the suite of other transports needs Rust $oldest, this is $ours"
        echo "benches/peers was NOT tested: it needs Rust $oldest, this is $ours" >>"$notes"
        return
    fi
    raise_descriptor_limit
    local manifest=(--locked --manifest-path benches/peers/Cargo.toml)
    cargo fmt --check --manifest-path benches/peers/Cargo.toml
    cargo clippy --all-targets "${manifest[@]}" -- -D warnings
    cargo test "${manifest[@]}"
    local features=tokio-uring,monoio,compio,omq,zeromq,tonic,tarpc
    if has_c_compiler; then
        features+=,ringline,zenoh
    else
        echo "skipped: ringline and zenoh need a C compiler for what they depend on"
    fi
    cargo clippy --all-targets --features "$features" "${manifest[@]}" -- -D warnings
}

# The oldest compiler we promise. Checked only where it is installed: CI downloads nothing.
step_msrv() {
    local version
    version="$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)"
    if [ -z "$version" ]; then
        echo "Cargo.toml has no rust-version" >&2
        return 1
    fi
    if command -v rustup >/dev/null && rustup run "$version" rustc --version 2>/dev/null; then
        CARGO_TARGET_DIR=target/msrv rustup run "$version" cargo check --locked --all-features
    else
        echo "skipped: Rust $version is not installed (rustup toolchain install $version)"
    fi
}

steps=(tools fmt clippy library doc test test_optimised examples bench instructions peers fuzz loom msrv)

if [ "$#" -gt 0 ]; then
    for name in "$@"; do
        if ! declare -F "step_$name" >/dev/null; then
            echo "no step $name; there are: ${steps[*]}" >&2
            exit 2
        fi
    done
    steps=("$@")
fi

current=""
# What steps want said at the end.
notes="$(mktemp)"
finish() {
    local status="$?"
    rm -f "$notes"
    if [ "$status" -ne 0 ]; then
        printf '\n==> FAILED in step %s after %d s\n' "$current" "$SECONDS" >&2
    fi
}
trap finish EXIT

# Runs a step in a subshell, so that its limits and variables end with it; in a process group of its
# own, which is ended when it takes too long, or when we are.
run_step() {
    local status=0
    set -m
    # Not in a condition: that would switch `set -e` off inside.
    ("$1") </dev/null &
    step="$!"
    (
        sleep "$step_seconds_max"
        echo "longer than $step_seconds_max s: ended" >&2
        kill -TERM -- "-$step"
        sleep 10
        kill -KILL -- "-$step"
    ) </dev/null >/dev/null &
    dog="$!"
    set +m
    wait "$step" || status="$?"
    step=""
    end_group "$dog"
    wait "$dog" 2>/dev/null || true
    # What it had begun to start just then.
    end_group "$dog"
    dog=""
    return "$status"
}

end_group() {
    [ -z "$1" ] || kill -TERM -- "-$1" 2>/dev/null || true
}

step=""
dog=""
interrupted() {
    end_group "$dog"
    end_group "$step"
    exit 130
}
trap interrupted INT TERM

for current in "${steps[@]}"; do
    begin="$SECONDS"
    printf '\n==> %s\n' "$current"
    run_step "step_$current"
    printf '<== %s: %d s\n' "$current" "$((SECONDS - begin))"
done
echo
if [ -s "$notes" ]; then
    sed 's/^/==> /' "$notes"
fi
printf '==> all green in %d s\n' "$SECONDS"
