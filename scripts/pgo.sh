#!/usr/bin/env bash
# Makes a profile for a profile-guided build of ringwire: where its time goes in the bench.
#
#   scripts/pgo.sh          builds with counters, runs rtt (spinning, parked, 64 connections) and
#                           stream, and says how to build with what was counted
#
# What it brings: scripts/ab.sh pgo . .,RUSTFLAGS=-Cprofile-use=FILE -- rtt
#
# An embedder makes one of its own program in the same way (rustc book, profile-guided optimization).
#
# Variables:
#   LLVM_PROFDATA   the llvm-profdata to merge with; by default the toolchain's own (rustup component
#                   add llvm-tools), or the system's. Raw profiles have a version: one of LLVM 19
#                   reads those of Rust 1.95
#   SECONDS_EACH    how long each subject of each scenario runs (default 1)
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$#" -gt 0 ]; then
    sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi

# The toolchain's own goes first: it fits for certain.
find_profdata() {
    local libraries candidate
    libraries="$(rustc --print target-libdir)"
    for candidate in "$libraries/../bin/llvm-profdata" $(compgen -c llvm-profdata | sort -rVu); do
        if command -v "$candidate" >/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "there is no llvm-profdata: rustup component add llvm-tools, or install LLVM 19 or later" >&2
    return 1
}

profdata="${LLVM_PROFDATA:-$(find_profdata)}"
mkdir -p "${CARGO_TARGET_DIR:-target}/pgo"
folder="$(realpath "${CARGO_TARGET_DIR:-target}/pgo")"

# As it is built afterwards, so that functions have the same names: no --target.
RUSTFLAGS="-Cprofile-generate=$folder/raw" CARGO_TARGET_DIR="$folder/target" \
    cargo build --release --locked --bin ringwire
program="$folder/target/release/ringwire"
# What build scripts have counted.
rm -rf "$folder/raw"

bench() {
    "$program" bench "$@" --rounds 1 --duration "${SECONDS_EACH:-1}" >/dev/null
}
bench rtt
bench rtt --idle park
bench rtt --connections 64
bench stream

"$profdata" merge --output "$folder/ringwire.profdata" "$folder"/raw/*.profraw
# A name of its own, by which builds with different profiles are told apart.
profile="$folder/ringwire-$(cksum <"$folder/ringwire.profdata" | cut -d ' ' -f 1).profdata"
mv "$folder/ringwire.profdata" "$profile"
echo "RUSTFLAGS=-Cprofile-use=$profile"
