#!/usr/bin/env bash
# What stands between a receive and its answer, at either end of a round trip: instructions, the
# cache lines and pages of code they stand in, system calls. Each instruction is a step under
# ptrace(2) (benches/hot_path.rs), so a busy machine counts the same, and two builds can be compared
# where a difference of one per cent in time can not be seen. x86-64 only. Half a minute for each way
# to wait, and the build.
#
#   scripts/hot_path.sh           spin and park
#   scripts/hot_path.sh IDLE...   only these ways to wait: spin, park, adaptive
#
# `before` is from the receive to the answer, which a round trip waits for; `after` from there to the
# next receive, while the other end is at work. Of many messages the one that took the fewest: what
# a round trip does seldom, a confirmation or a heartbeat, is in neither.
#
# Variables (paths are relative to the repository):
#   FUNCTIONS  how many functions to show for each end, by instructions before the answer, and how
#              many lines each touches; inlined ones by themselves (default 0; needs addr2line)
#   PAYLOAD    bytes of a message, 4096 at most: each byte of a long copy would be a step (default 64)
#   PROGRAM    a `ringwire` that is built already, of another commit, say (default: built as it ships)
#   RECORD     the folder where the text goes, as NAME.txt (default: nowhere)
#   NAME       (default hot-path)
set -euo pipefail
# A build that fails in `$(built ...)` ends this.
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

idles=("$@")
[ "$#" -gt 0 ] || idles=(spin park)
for idle in "${idles[@]}"; do
    case "$idle" in
        spin | park | adaptive) ;;
        *)
            sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2
            exit 2
            ;;
    esac
done
functions="${FUNCTIONS:-0}"
payload="${PAYLOAD:-64}"
for number in "$functions" "$payload"; do
    case "$number" in
        *[!0-9]*) echo "FUNCTIONS and PAYLOAD are numbers, not $number" >&2; exit 2 ;;
    esac
done
if [ "$payload" -gt 4096 ]; then
    echo "PAYLOAD is 4096 at most: each byte of a longer copy would be a step" >&2
    exit 2
fi
if [ "$functions" != 0 ] && ! command -v addr2line >/dev/null; then
    echo "there is no addr2line to name functions with (apt install binutils)" >&2
    exit 1
fi

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# The program that cargo says it has built. Not incremental: that optimises pieces by themselves.
built() {
    CARGO_INCREMENTAL=0 cargo build --locked --message-format json-render-diagnostics "$@" >"$folder/build"
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$folder/build"
}

# What steps need not be fast. Out of the package that compiles little beside the library.
stepper="$(built --manifest-path fuzz/Cargo.toml --bin hot_path)"
program="${PROGRAM:-$(built --release --bin ringwire)}"
for file in "$stepper" "$program"; do
    [ -x "$file" ] || { echo "there is no program ${file:-where cargo should name one}" >&2; exit 1; }
done

# Our own innermost function of each instruction; what is inlined there of others counts as its. Of
# what is outside of the program no lines are known.
show_functions() {
    awk '{ print ($1 == "-" ? "0x0" : $1) } $2 ~ /^send/ { exit }' "$1" >"$folder/before"
    sort -u "$folder/before" | addr2line -e "$program" -a -f -i -C >"$folder/names"
    # Where its sources were, which may be another work tree's.
    local own
    own="$(sed -n '/\/src\/reactor\/[a-z_]*\.rs:/{s/\(\/src\/\)reactor\/.*/\1/p;q;}' "$folder/names")"
    [ -n "$own" ] || { echo "$program names no place in its sources" >&2; return 1; }
    awk -v own="$own" '
        FNR == 1 { file++ }
        file == 1 && /^0x/ { address = $1; sub(/^0x0*/, "", address); frame = 0; next }
        file == 1 && ++frame % 2 { name = $0; next }
        file == 1 && !(address in of) && index($0, own) == 1 {
            place = substr($0, length(own) + 1); sub(/:.*/, "", place)
            # Generic arguments, and where an implementation is of.
            while (sub(/<[^<>]*>/, "", name)) { }
            sub(/::$/, "", name)
            sub(/.*::/, "", name)
            of[address] = place " " name
            next
        }
        file == 2 {
            address = $1; sub(/^0x0*/, "", address)
            function_ = address in of ? of[address] : "(of others)"
            count[function_]++
            line = function_ SUBSEP substr(address, 1, length(address) - 2) \
                int(index("0123456789abcdef", substr(address, length(address) - 1, 1)) / 4 - 0.25)
            if (address != "" && !(line in seen)) { seen[line]; lines[function_]++ }
        }
        END {
            for (name in count) printf "%8d %6d  %s\n", count[name], lines[name], name
        }
    ' "$folder/names" "$folder/before" | sort -k1,1nr -k3 | sed -n "1,${functions}p"
}

step_all() {
    local idle end threads said
    printf '%-9s %-7s %7s %6s %6s %7s %6s %9s %6s\n' "" "" before lines pages after lines \
        "all lines" calls
    for idle in "${idles[@]}"; do
        for end in server client; do
            # The bare socket's client has the same name, and the first turn.
            threads=(--thread "$end" --beside ringwire-0)
            [ "$end" = client ] || threads=(--thread ringwire-0)
            said="$("$stepper" "${threads[@]}" --trace "$folder/trace" -- "$program" bench rtt \
                --payload "$payload" --idle "$idle" --rounds 1 --duration 12)"
            case "$said" in skipped:*) echo "$said"; return ;; esac
            awk -v idle="$idle" -v end="$end" '
                # before N lines N pages N  after N lines N  all-lines N calls N
                NF != 14 || $1 != "before" || $13 != "calls" { print "what is: " $0; exit 1 }
                {
                    printf "%-9s %-7s %7d %6d %6d %7d %6d %9d %6d\n", \
                        idle, end, $2, $4, $6, $8, $10, $12, $14
                }
            ' <<<"$said"
            [ "$functions" = 0 ] || show_functions "$folder/trace"
        done
    done
}

# What it is of. A program that was given is of whatever commit it is.
tell_source() {
    local commit model
    commit="$(git describe --always --dirty)"
    model="$(sed -n '/^model name/{s/.*: //p;q;}' /proc/cpuinfo)"
    [ -z "${PROGRAM:-}" ] || commit="$PROGRAM"
    echo "# scripts/hot_path.sh ${idles[*]}, $payload B, $(date -u +%F), $commit"
    echo "# $model, Linux $(uname -r), $(rustc --version)"
}

if [ -n "${RECORD:-}" ]; then
    mkdir -p "$RECORD"
    { tell_source && step_all; } >"$folder/text"
    cat "$folder/text"
    # What could not be counted takes the place of no record.
    grep -q '^skipped:' "$folder/text" || cp "$folder/text" "$RECORD/${NAME:-hot-path}.txt"
else
    step_all
fi
