#!/usr/bin/env bash
# The bench suite: the same questions put to ringwire and to other transports, side by side.
#
#   scripts/bench.sh                     everything in its quick form, some five minutes
#   scripts/bench.sh quick rtt mixed     only these scenarios: rtt, stream, paced and fan-in, which have
#                                        peers; mixed, cores, idle and failover, which do not; own, the
#                                        default suite of ringwire bench beside bare sockets; crowd and
#                                        busy, 10,000 idle sessions and 64 busy ones among as many; and
#                                        stats, what the statistics of a message take
#   scripts/bench.sh long                every size, rate and number of connections, and all of these;
#                                        most of a day
#   scripts/bench.sh quick rtt -- --subjects 'raw-*,ringwire-*,tokio' --payload 256
#                                        the rest goes to `peers run`, see its --help; scenarios without
#                                        peers take no options: see ringwire bench
#   scripts/bench.sh long paced -- --plan
#                                        what of the part with peers would be measured and how long it
#                                        takes, no more (it builds first, too)
#   SETUP_HOST=1 CORES=2,3 scripts/bench.sh long
#                                        on bare metal, which has the say over its own cores: what a
#                                        shared guest can not show
#
# Builds ringwire and benches/peers first, the first time for a quarter of an hour, and says how long
# the run with peers takes before it starts. A subject that does not build here is left out and named
# in the report with the reason. Results go to benches/record/MACHINE/DATE-peers.jsonl and .txt, those
# without peers to DATE-mixed.jsonl and so on, each with a page beside it (.html). What fails, by a
# wrong answer or without figures of ringwire, leaves what it has measured and does not stop the rest;
# the script then fails at its end.
#
# Variables:
#   MACHINE    name of the machine's folder; made of the processor's name and the number of cores
#   OUT        the files of the results, without -peers.jsonl and so on; "-" keeps none
#   APPEND=1   add to these files when they are there, to run the suite in pieces
#   FEATURES   peers to try, with commas between; all of them when unset, none when empty
#   RUN_WITH   a command before the measuring command, e.g. one that waits until the machine is quiet
#   CONGESTION TCP's congestion control for all subjects, e.g. reno, which Ringwire and the floors have
#              over loopback anyway: the system's is set to it for the run and then back. Needs root; the
#              record's machine line says what peers had
#   SETUP_HOST=1 what scripts/setup_host.sh recommends, for the time of the run: then every setting gets
#              back what it had, but modules stay loaded. What was set stands in DATE-host.txt; peers
#              have cubic where the system had BBR. Needs root, or a sudo that does not ask again in
#              the end. irqbalance moves interrupts on its own: stop it before
#   CORES      the only cores that measured processes run on, e.g. 2,3: an end each. With SETUP_HOST=1
#              interrupts of devices go to the others. cores takes all there are
#   PYTHON     the interpreter of the asyncio peer, otherwise python3
set -euo pipefail
cd "$(dirname "$0")/.."

readonly manifest=benches/peers/Cargo.toml
readonly every_feature=tokio-uring,monoio,compio,ringline,omq,zeromq,zmq,nng,tonic,tarpc,zenoh

usage() {
    sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"
}

# Words as they can be typed again.
typed() {
    local word text=""
    for word in "$@"; do
        [[ "$word" =~ ^[A-Za-z0-9_.,:/=+%@-]+$ ]] || word="${word@Q}"
        text+="${text:+ }$word"
    done
    echo "$text"
}

# The line that was meant, from the word on that stands where it may not: the form first, scenarios
# behind it, and options of `peers run` behind --.
meant() {
    local form="$form" scenarios=("${beside[@]}" "${alone[@]}") options=()
    while [ "$#" -gt 0 ]; do
        case "$1" in
        --)
            options+=("${@:2}")
            break
            ;;
        # Said by the word behind it.
        --form) ;;
        --form=*) form="${1#*=}" ;;
        quick | long) form="$1" ;;
        rtt | stream | paced | fan-in | mixed | cores | idle | failover | own) scenarios+=("$1") ;;
        -*) options+=("$1") ;;
        # Values of options, once there is one.
        *) if [ "${#options[@]}" = 0 ]; then scenarios+=("$1"); else options+=("$1"); fi ;;
        esac
        shift
    done
    [ "${#options[@]}" = 0 ] || options=(-- "${options[@]}")
    typed scripts/bench.sh "$form" "${scenarios[@]}" "${options[@]}"
}

form=quick
if [ "${1:-}" = quick ] || [ "${1:-}" = long ]; then
    form="$1"
    shift
fi
arguments=(--form "$form")
# Scenarios with peers, and without.
beside=()
alone=()
rest=()
while [ "$#" -gt 0 ]; do
    case "$1" in
    rtt | stream | paced | fan-in) beside+=("$1") ;;
    mixed | cores | idle | failover | own | crowd | busy | stats) alone+=("$1") ;;
    --)
        shift
        rest=("$@")
        break
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    quick | long)
        echo "$1 stands before the scenarios: $(meant "$@")" >&2
        exit 2
        ;;
    -*)
        if [ "${#alone[@]}" -gt 0 ]; then
            echo "$1 is not for ${alone[*]}: see ringwire bench --help" >&2
        else
            echo "$1: options of peers run stand behind --: $(meant "$@")" >&2
        fi
        exit 2
        ;;
    *)
        usage >&2
        echo >&2
        echo "no scenario $1" >&2
        exit 2
        ;;
    esac
    shift
done

# What /proc/cpuinfo says of the first processor, or nothing.
processor() {
    sed -n "/^$1[[:space:]]*: /{s/^[^:]*: //p;q;}" /proc/cpuinfo
}

# The processor's name without what every name has, and how many there are. A name without a number,
# as hypervisors give it to several generations, has the family and model behind it.
machine_name() {
    local model unit=core family number
    model="$(processor "model name")"
    model="$(sed -E 's/\((R|TM|r|tm)\)//g; s/ @.*//; s/\<(AMD|Intel|Processor|CPU)\>//g' <<<"$model" |
        tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9' '-' | sed 's/^-*//; s/-*$//')"
    if [ -n "$model" ] && [[ "$model" != *[0-9]* ]]; then
        family="$(processor "cpu family")"
        number="$(processor model)"
        model+="${family:+-family$family}${number:+-model$number}"
    fi
    if grep -qw hypervisor /proc/cpuinfo; then
        unit=vcpu
    fi
    echo "${model:-$(uname -m)}-$(nproc)$unit"
}

# All, unless some are named; what is said to `peers run` is about those with peers.
has_peers=1
if [ "${#alone[@]}" -gt 0 ] && [ "${#rest[@]}" -gt 0 ]; then
    echo "what stands behind -- is not for ${alone[*]}: see ringwire bench --help" >&2
    exit 2
fi
if [ "${#beside[@]}" = 0 ] && [ "${#alone[@]}" -gt 0 ]; then
    has_peers=""
elif [ "$((${#beside[@]} + ${#rest[@]}))" = 0 ]; then
    alone=(mixed cores idle failover)
    # The quick form has no time for these.
    if [ "$form" = long ]; then
        alone=(own "${alone[@]}" crowd busy stats)
    fi
fi

# Only features that peers have: cargo says so after all else was built.
check_features() {
    local feature features="${FEATURES-all}"
    for feature in ${features//,/ }; do
        if [[ ",all,$every_feature," != *",$feature,"* ]]; then
            echo "FEATURES=$FEATURES: no peer needs a feature $feature; there are $every_feature" >&2
            exit 2
        fi
    done
}

# Names of subjects, by what the sources of peers have in quotes: that is more than names, but what
# is not among it is none. `peers run` has the last word.
check_subjects() {
    local name names quoted
    IFS=, read -ra names <<<"$1"
    for name in "${names[@]}"; do
        read -r name <<<"$name"
        quoted="\"${name%\*}"
        [ "$name" != "${name%\*}" ] || quoted+="\""
        if ! grep -qrF --include='*.rs' -- "$quoted" benches/peers/src/subjects; then
            echo "--subjects $1: none is called '$name'; benches/peers/README.md says which there are" >&2
            exit 2
        fi
    done
}

if [ "$has_peers" ]; then
    check_features
    for ((index = 0; index < ${#rest[@]}; index++)); do
        case "${rest[index]}" in
        --subjects) check_subjects "${rest[index + 1]:-}" ;;
        --subjects=*) check_subjects "${rest[index]#*=}" ;;
        esac
    done
fi
arguments+=("${beside[@]}" "${rest[@]}")
if [[ " ${rest[*]} " == *" --plan "* ]]; then
    OUT=-
fi

# Before minutes are spent on building.
out="${OUT:-benches/record/${MACHINE:-$(machine_name)}/$(date -u +%F)}"
if [ "$out" != - ]; then
    for part in ${has_peers:+peers} "${alone[@]}"; do
        for file in "$out-$part.jsonl" "$out-$part.txt"; do
            if [ -e "$file" ] && [ "${APPEND:-0}" != 1 ]; then
                echo "$file is there: APPEND=1 adds to it, OUT=... chooses another" >&2
                exit 2
            fi
        done
    done
    mkdir -p "$(dirname "$out")"
    arguments+=(--json "$out-peers.jsonl" --text "$out-peers.txt")
fi

# Of all parts; 1 when one of them has failed.
status=0

scratch="$(mktemp -d)"
readonly congestion=net.ipv4.tcp_congestion_control
# What the system had, where another is set for the run.
congestion_before=""
# What the host had, where it is set up for the run.
host_before=""
as_root=(sudo)
if [ "$(id -u)" = 0 ]; then
    as_root=()
fi
clean_up() {
    local code="$?"
    # Half of it would be worse than to wait.
    trap '' INT TERM HUP
    if [ -n "$congestion_before" ] && ! sysctl -qw "$congestion=$congestion_before"; then
        echo "$congestion is not back: it was $congestion_before" >&2
        code=1
    fi
    # After it, as it was before it.
    if [ -s "$host_before" ] &&
        ! "${as_root[@]}" scripts/setup_host.sh --restore "$host_before" >&2; then
        echo "the host is not as it was: sudo scripts/setup_host.sh --restore '$host_before'" >&2
        exit 1
    fi
    rm -rf "$scratch"
    exit "$code"
}
trap clean_up EXIT

set_congestion() {
    local before
    if ! before="$(sysctl -n "$congestion")"; then
        echo "CONGESTION=$CONGESTION: sysctl can not read $congestion" >&2
        exit 2
    fi
    # Before it is set: a signal may come in between.
    congestion_before="$before"
    if ! sysctl -qw "$congestion=$CONGESTION"; then
        congestion_before=""
        echo "CONGESTION=$CONGESTION: can not be set; it takes root, and a name of" \
            "net.ipv4.tcp_available_congestion_control" >&2
        exit 2
    fi
}

set_up_host() {
    local before="$scratch/host" cores=()
    if [ -n "${CORES:-}" ]; then
        cores=(--cores "$CORES")
    fi
    # Before anything is set: a signal may come in between.
    host_before="$before"
    # Some may have changed where others could not be: the run goes on, and says so.
    "${as_root[@]}" scripts/setup_host.sh --apply --save "$before" "${cores[@]}" |
        tee "$scratch/setup" >&2 ||
        echo "not everything of the host could be set up" >&2
    if [ ! -e "$before" ]; then
        echo "SETUP_HOST=1: scripts/setup_host.sh has set nothing up; it takes root, or sudo" >&2
        exit 2
    fi
    if [ "$out" != - ]; then
        cat "$scratch/setup" >>"$out-host.txt"
    fi
}

# Two or more numbers of cores that are online.
check_cores() {
    local core cores
    IFS=, read -ra cores <<<"$CORES"
    if [[ "$CORES" =~ ^[0-9]+(,[0-9]+)+$ ]]; then
        for core in "${cores[@]}"; do
            if ! taskset --cpu-list "$core" true 2>/dev/null; then
                echo "CORES=$CORES: there is no core $core here, or no taskset" >&2
                exit 2
            fi
        done
        return
    fi
    echo "CORES=$CORES: two numbers of cores or more, with commas between, e.g. 2,3" >&2
    exit 2
}

measured_with=()
if [ -n "${CORES:-}" ]; then
    check_cores
    measured_with=(taskset --cpu-list "$CORES")
fi
if [[ " ${rest[*]} " != *" --plan "* ]]; then
    # Of the host first: it has a say about congestion control, too.
    if [ "${SETUP_HOST:-0}" = 1 ]; then
        set_up_host
    fi
    if [ -n "${CONGESTION:-}" ]; then
        set_congestion
    fi
fi
log="$scratch/build"

# What building took, which is not the suite's time.
build_seconds=0

build() {
    local begin="$SECONDS" code=0
    cargo build --release --locked --manifest-path "$manifest" --features "$1" 2>&1 |
        tee "$log" >&2 || code="$?"
    build_seconds="$((build_seconds + SECONDS - begin))"
    return "$code"
}

# The first line of a failed build that says what is wrong.
reason_of_failure() {
    local line
    line="$(grep -m 1 -E "not installed|not found|^error" "$log" | tr -d '\n' | cut -c 1-160)" || true
    echo "${line:-cargo ended without saying why}"
}

# Builds what there is of peers, everything at once where it builds; else each by itself, so that one
# does not take the others. Then runs them.
run_beside() {
    local features="${FEATURES-all}" good="" feature
    if ! build "$features"; then
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
    ${RUN_WITH:-} "${measured_with[@]}" "${CARGO_TARGET_DIR:-benches/peers/target}/release/peers" \
        run "${arguments[@]}" ||
        failed peers "$?"
    write_page peers
}

# Notes that a part has failed: what has been measured is kept, and the others go on.
failed() {
    echo "$1 failed with status $2" >&2
    status=1
}

# A page of the results of a part, of which there may be none when it has failed.
write_page() {
    if [ "$out" != - ] && [ -s "$out-$1.jsonl" ]; then
        "$ringwire" report "$out-$1.jsonl" --output "$out-$1.html" || failed "the page of $1" "$?"
    fi
}

# As many `sessions` as a process may have, 10,000 at most: two descriptors each, and some besides. The
# hard limit is raised where root may do that.
crowd_sessions() {
    local wanted=10000 needed limit
    needed="$((2 * wanted + 200))"
    ulimit -Sn "$needed" 2>/dev/null || ulimit -n "$needed" 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"
    limit="$(ulimit -Sn)"
    if [ "$limit" -lt "$needed" ]; then
        wanted="$(((limit - 200) / 2))"
        echo "$wanted sessions instead of 10000: a process may have $limit descriptors (ulimit -Hn)" >&2
    fi
    sessions="$wanted"
}

# Runs a scenario of ringwire's own.
run_alone() {
    local scenario="$1" json text sessions
    local lengths=() named=("$1") with=("${measured_with[@]}")
    case "$scenario" in
    own) named=() ;;
    crowd)
        crowd_sessions
        named=(idle --connections "$sessions")
        ;;
    busy)
        crowd_sessions
        named=(rtt --connections "$sessions" --busy 64)
        ;;
    # Isolated ones, too.
    cores) [ -z "${CORES:-}" ] || with=(taskset --cpu-list "$(cat /sys/devices/system/cpu/online)") ;;
    esac
    case "$form $scenario" in
    "quick cores") lengths=(--rounds 21 --duration 0.07) ;;
    "quick idle") lengths=(--rounds 5) ;;
    # Of 1,000 requests a second fewer say nothing on a shared guest.
    "long mixed") lengths=(--rounds 61) ;;
    esac
    json="$scratch/$scenario.jsonl"
    text="$scratch/$scenario.txt"
    # Word splitting is wanted: a command and its arguments.
    # shellcheck disable=SC2086
    ${RUN_WITH:-} "${with[@]}" "$ringwire" bench "${named[@]}" "${lengths[@]}" --json "$json" |
        tee "$text" ||
        failed "$scenario" "$?"
    if [ "$out" != - ] && [ -s "$json" ]; then
        cat "$json" >>"$out-$scenario.jsonl"
        cat "$text" >>"$out-$scenario.txt"
    fi
    write_page "$scenario"
}

# What a text without rows is of.
tell_source() {
    local commit model family number
    commit="$(git describe --always --dirty=+ --abbrev=12 2>/dev/null)" || commit="unknown commit"
    model="$(processor "model name")"
    family="$(processor "cpu family")"
    number="$(processor model)"
    model="${model:-$(uname -m)}${family:+ (family $family, model $number)}"
    echo "# scripts/bench.sh $form $1, $(date -u +%FT%TZ), $commit"
    echo "# $model, $(nproc) cores, Linux $(uname -r), $(rustc --version)"
}

# What a message's statistics take, a micro-benchmark: it has a text alone.
run_stats() {
    local text="$scratch/stats.txt" before="$scratch/stats-source"
    tell_source stats >"$before"
    # Not beside whatever the last run of it was on. Word splitting is wanted: a command and its
    # arguments.
    # shellcheck disable=SC2086
    CRITERION_HOME="$scratch/criterion" \
        ${RUN_WITH:-} "${measured_with[@]}" cargo bench --locked --bench stats | tee "$text" ||
        failed stats "$?"
    if [ "$out" != - ] && [ -s "$text" ]; then
        cat "$before" "$text" >>"$out-stats.txt"
    fi
}

cargo build --release --locked
build_seconds="$SECONDS"
ringwire="$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/ringwire"

if [ "$has_peers" ]; then
    run_beside
fi
for scenario in "${alone[@]}"; do
    case "$scenario" in
    stats) run_stats ;;
    *) run_alone "$scenario" ;;
    esac
done
echo "$((SECONDS - build_seconds)) s in all, without what was built" >&2
exit "$status"
