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

# Without the command: linking that took longer than all the rest, and nothing here runs it. What
# is counted is the library with the feature `fuzzing`, whose switches for mutations cost lanes and
# sessions a few per cent (src/fuzzing/bench.rs): for comparing, not for quoting.
# Cargo says where it put the program: "Executable benches/instructions.rs (PATH)".
CARGO_TERM_COLOR=never cargo bench --locked --config scripts/ci-profile.toml \
    --no-default-features --no-run --bench instructions 2>"$folder/build" || {
    cat "$folder/build" >&2
    exit 1
}
program="$(sed -n 's/.*benches\/instructions\.rs (\(.*\))$/\1/p' "$folder/build")"
[ -x "$program" ] || { echo "cargo named no program:" >&2; cat "$folder/build" >&2; exit 1; }

# Instructions of a case with so many calls.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" --case "$1" "$2" \
        2>"$folder/valgrind" || { cat "$folder/valgrind" >&2; return 1; }
    sed -n 's/.*Collected *: *\([0-9]*\).*/\1/p' "$folder/valgrind"
}

# Of this machine and compiler, as far as it decides on instructions.
identity="$(rustc --version | cut -d' ' -f1-2), $(uname -m)"

{
    echo "# Instructions per message: scripts/instructions.sh accept."
    echo "# $identity"
    "$program" --list | while read -r name elements; do
        first="$(count "$name" "$few")"
        second="$(count "$name" "$many")"
        awk -v name="$name" -v instructions="$((second - first))" \
            -v calls="$((many - few))" -v elements="$elements" \
            'BEGIN { printf "%s %.1f\n", name, instructions / calls / elements }'
    done
} >"$folder/now"
expected="$("$program" --list | wc -l)"
[ "$(grep -vc '^#' "$folder/now")" = "$expected" ] || { echo "a case was not counted" >&2; exit 1; }

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
