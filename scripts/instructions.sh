#!/usr/bin/env bash
# Instructions per message, layer by layer, against a baseline. Needs valgrind.
#
#   scripts/instructions.sh           compares; fails when a case takes more than DRIFT percent more
#   scripts/instructions.sh accept    makes what is measured now the baseline, on purpose
#
# DRIFT (default 3) is the percentage a case may grow by. What has shrunk by more is said: accept it,
# so that it does not creep back. The baseline is benches/instructions.baseline. Another compiler or
# another kind of processor makes other instructions: then the figures are shown and not judged.
# REQUIRE_INSTRUCTIONS=1 makes it an error when there is nothing to count with, or to judge by.
set -euo pipefail
cd "$(dirname "$0")/.."

baseline="benches/instructions.baseline"
drift="${DRIFT:-3}"
# The difference between the two is what is counted.
few=10
many=60

accept=""
case "${1:-}" in
    "") ;;
    accept) accept=1 ;;
    *)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
esac

if ! command -v valgrind >/dev/null; then
    echo "skipped: there is no valgrind to count instructions with (apt install valgrind)"
    [ "${REQUIRE_INSTRUCTIONS:-0}" != 1 ]
    exit
fi

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# Out of the package of the fuzz targets, which depends on the library and on next to nothing else:
# here `cargo bench` would first build all that the tests and the other benches need. Its profile
# `instructions` is the one that ships (tests/tidy.rs). What is counted is the library with the
# feature `fuzzing`, whose switches for mutations cost lanes and sessions a few per cent
# (src/fuzzing/bench.rs): for comparing, not for quoting.
#
# Incremental compiling cuts the library into pieces that are not optimised as one: decoding took
# 64 % more. Cargo says in JSON where it has put the program.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
CARGO_INCREMENTAL=0 cargo build --locked --manifest-path fuzz/Cargo.toml --profile instructions \
    --bin instructions --message-format json-render-diagnostics >"$folder/build"
program="$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$folder/build")"
[ -x "$program" ] || { echo "cargo named no program:" >&2; cat "$folder/build" >&2; exit 1; }
export folder program

# Instructions of a case with so many calls, into a file of its own. Names have slashes.
count() {
    local out="$folder/${1//\//_}.$2"
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" --case "$1" "$2" \
        >/dev/null 2>"$out.valgrind" || { cat "$out.valgrind" >&2; return 1; }
    sed -n 's/.*Collected *: *\([0-9]*\).*/\1/p' "$out.valgrind" >"$out"
    [ -s "$out" ] || { echo "valgrind counted nothing of $1" >&2; return 1; }
}
export -f count

# Of this machine and compiler, as far as it decides on instructions.
identity="$(rustc --version | cut -d' ' -f1-2), $(uname -m)"

# On all cores: what runs beside it changes no count. One that fails stops the rest.
"$program" --list >"$folder/list"
[ -s "$folder/list" ] || { echo "the program has no cases" >&2; exit 1; }
while read -r name _; do
    printf '%s %s\n' "$name" "$few" "$name" "$many"
done <"$folder/list" |
    xargs -P "$(nproc)" -n 2 bash -c 'count "$@" || exit 255' count
{
    echo "# Instructions per message: scripts/instructions.sh accept."
    echo "# $identity"
    while read -r name elements; do
        first="$(cat "$folder/${name//\//_}.$few")"
        second="$(cat "$folder/${name//\//_}.$many")"
        awk -v name="$name" -v instructions="$((second - first))" \
            -v calls="$((many - few))" -v elements="$elements" \
            'BEGIN { printf "%s %.1f\n", name, instructions / calls / elements }'
    done <"$folder/list"
} >"$folder/now"

if [ -n "$accept" ]; then
    cp "$folder/now" "$baseline"
    cat "$baseline"
    exit 0
fi

judged=1
if [ "$(sed -n 2p "$baseline")" != "# $identity" ]; then
    judged=0
    echo "the baseline is of another compiler or processor ($(sed -n '2s/# //p' "$baseline")):" \
        "shown, not judged"
fi
awk -v drift="$drift" -v judged="$judged" '
    /^#/ { next }
    NR == FNR { before[$1] = $2; next }
    !($1 in before) { printf "%-32s %10s %10.1f  new: accept it\n", $1, "-", $2; bad = 1; next }
    {
        change = before[$1] > 0 ? 100 * ($2 / before[$1] - 1) : 0
        verdict = ""
        if (change > drift) { verdict = "more than " drift " % more"; bad = 1 }
        if (change < -drift) verdict = "less: accept it"
        printf "%-32s %10.1f %10.1f %+7.1f %%  %s\n", $1, before[$1], $2, change, verdict
        delete before[$1]
    }
    END {
        for (name in before) { printf "%-32s is in the baseline only\n", name; bad = 1 }
        exit judged && bad
    }
' "$baseline" "$folder/now" || {
    echo "instructions have grown. If that is meant: scripts/instructions.sh accept" >&2
    exit 1
}
[ "$judged" = 1 ] || [ "${REQUIRE_INSTRUCTIONS:-0}" != 1 ]
