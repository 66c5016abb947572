#!/usr/bin/env bash
# The bench suite: the same questions put to ringwire and to other transports, side by side.
#
#   scripts/bench.sh                     everything in its quick form, under five minutes
#   scripts/bench.sh quick rtt stream    only these scenarios: rtt, stream, paced, fan-in
#   scripts/bench.sh long                every size, rate and number of connections; most of a day
#   scripts/bench.sh quick rtt -- --subjects 'raw-*,ringwire-*,tokio' --payload 256
#                                        the rest goes to `peers run`; see its --help
#   scripts/bench.sh long paced -- --plan
#                                        what would be measured and how long it takes, no more
#
# Builds benches/peers first, and says how long the run takes before it starts. A subject that does
# not build here is left out and named in the report with the reason. Results go to
# benches/record/MACHINE/DATE-peers.jsonl and .txt.
#
# Variables:
#   MACHINE    name of the machine's folder; made of the processor's name and the number of cores
#   OUT        the files of the results, without .jsonl and .txt; "-" keeps none
#   APPEND=1   add to these files when they are there, to run the suite in pieces
#   FEATURES   peers to try, with commas between; all of them when unset, none when empty
#   RUN_WITH   a command before the measuring command, e.g. one that waits until the machine is quiet
#   PYTHON     the interpreter of the asyncio peer, otherwise python3
set -euo pipefail
cd "$(dirname "$0")/.."

readonly manifest=benches/peers/Cargo.toml
readonly every_feature=tokio-uring,monoio,compio,ringline,omq,zeromq,zmq,nng,tonic,tarpc,zenoh

form=quick
if [ "${1:-}" = quick ] || [ "${1:-}" = long ]; then
    form="$1"
    shift
fi
arguments=(--form "$form")
while [ "$#" -gt 0 ]; do
    case "$1" in
    rtt | stream | paced | fan-in) arguments+=("$1") ;;
    --)
        shift
        arguments+=("$@")
        break
        ;;
    *)
        sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2
        exit 2
        ;;
    esac
    shift
done

# The processor's name without what every name has, and how many there are.
machine_name() {
    local model unit=core
    model="$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
    model="$(sed -E 's/\((R|TM|r|tm)\)//g; s/ @.*//; s/\<(AMD|Intel|Processor|CPU)\>//g' <<<"$model" |
        tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9' '-' | sed 's/^-*//; s/-*$//')"
    if grep -qw hypervisor /proc/cpuinfo; then
        unit=vcpu
    fi
    echo "${model:-$(uname -m)}-$(nproc)$unit"
}

# Before minutes are spent on building.
out="${OUT:-benches/record/${MACHINE:-$(machine_name)}/$(date -u +%F)-peers}"
if [ "$out" != - ] && ! [[ " ${arguments[*]} " == *" --plan "* ]]; then
    for file in "$out.jsonl" "$out.txt"; do
        if [ -e "$file" ] && [ "${APPEND:-0}" != 1 ]; then
            echo "$file is there: APPEND=1 adds to it, OUT=... chooses another" >&2
            exit 2
        fi
    done
    mkdir -p "$(dirname "$out")"
    arguments+=(--json "$out.jsonl" --text "$out.txt")
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT

build() {
    cargo build --release --locked --manifest-path "$manifest" --features "$1" 2>&1 | tee "$log" >&2
}

# The first line of a failed build that says what is wrong.
reason_of_failure() {
    grep -m 1 -E "not installed|not found|^error" "$log" | tr -d '\n' | cut -c 1-160
}

# Everything at once where it builds; else each by itself, so that one does not take the others.
features="${FEATURES-all}"
if ! build "$features"; then
    good=""
    features="${features/#all/$every_feature}"
    for feature in ${features//,/ }; do
        if build "${good:+$good,}$feature"; then
            good="${good:+$good,}$feature"
        else
            arguments+=(--skipped "$feature=does not build: $(reason_of_failure)")
        fi
    done
    build "$good"
fi

# Word splitting is wanted: a command and its arguments.
# shellcheck disable=SC2086
${RUN_WITH:-} benches/peers/target/release/peers run "${arguments[@]}"
