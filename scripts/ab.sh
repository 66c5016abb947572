#!/usr/bin/env bash
# Compares two builds of ringwire side by side: what a change does to the figures of the bench.
#
#   scripts/ab.sh NAME A B [-- ringwire bench's arguments]
#
#   scripts/ab.sh checksum 3f2a91c main -- rtt --payload 64KiB
#   scripts/ab.sh poll-first main+try.patch main+try.patch,RINGWIRE_TRY=poll_first=0 -- rtt --idle park
#   scripts/ab.sh lto .,CARGO_PROFILE_RELEASE_LTO=off . -- stream
#
# A and B are each COMMIT[+PATCH][,VARIABLE=VALUE]..., where COMMIT is anything git knows, or `.`
# for the working tree, and PATCH a file for `git apply`. Variables stand in the environment of its
# build (CARGO_*, RUSTFLAGS) or of its runs (all others). What is alike is built once.
#
# The two take turns, A B, B A, ..., one round of the bench each. Of every figure it prints B as a
# multiple of A: the median over the turns, and its interval at 95 % (the sign test's; of fewer than
# six turns the lowest and the highest). Sockets are the same in both: what they differ by is noise.
# Many short turns tell more than a few long ones of the same time, and more of one row at a time:
# those of rtt and stream take 0.1 s for each subject, mixed 0.4 s, unless --duration says otherwise.
# The text goes to RECORD/NAME.txt, too, and every round with its machine to NAME-A.jsonl and
# NAME-B.jsonl.
#
# Settings need no build: see `ringwire bench --variant`.
#
# Variables:
#   TURNS      how often each runs, up to 1000 (default 41 in rtt and stream, otherwise 9)
#   RECORD     where the text goes; "-" keeps none (default: none)
#   RUN_WITH   a command before every run, e.g. one that waits until the machine is quiet
set -euo pipefail
# What fails inside `$(build ...)` must end the run: nothing else than what was asked for is measured.
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
}

[ "$#" -ge 3 ] || usage
name="$1"
subjects=("$2" "$3")
shift 3
if [ "$#" -gt 0 ]; then
    [ "$1" = -- ] || usage
    shift
fi
[ "$#" -gt 0 ] || set -- rtt
arguments=("$@")
# Builds may differ in how long a round is by default: both have to run as long.
default_turns=9
seconds=
case "$1" in
rtt | stream | -*) default_turns=41 seconds=0.1 ;;
mixed) seconds=0.4 ;;
esac
if [ -n "$seconds" ] && [[ " $* " != *" --duration"[\ =]* ]]; then
    arguments+=(--duration "$seconds")
fi
turns="${TURNS:-$default_turns}"
if ! [[ "$turns" =~ ^[1-9][0-9]{0,3}$ ]] || [ "$turns" -gt 1000 ]; then
    echo "TURNS=$turns: a number from 1 to 1000 is wanted" >&2
    exit 2
fi

# Whether there is what one of the two is built from, before either is.
check() {
    local letter="$1" source="${2%%,*}" commit patch=""
    commit="${source%%+*}"
    [ "$commit" = "$source" ] || patch="${source#*+}"
    if [ "$commit" = . ] && [ -n "$patch" ]; then
        echo "$letter=$2: a patch needs a commit to stand on, as HEAD+$patch: . is the working tree as it is" >&2
        exit 2
    fi
    if [ "$commit" != . ] && ! git rev-parse --verify --quiet "$commit^{commit}" >/dev/null 2>&1; then
        echo "$letter=$2: git knows no commit '$commit'; a commit is wanted, or . for the working tree" >&2
        exit 2
    fi
    if [ -n "$patch" ] && [ ! -r "$patch" ]; then
        echo "$letter=$2: $patch can not be read; a file for git apply is wanted, from $PWD" >&2
        exit 2
    fi
}

check A "${subjects[0]}"
check B "${subjects[1]}"
record="${RECORD:--}"

root="$PWD"
work="${CARGO_TARGET_DIR:-$root/target}/ab"
mkdir -p "$work"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"; git worktree prune' EXIT

# The path of the command built from COMMIT[+PATCH] with these variables of the build.
build() {
    local source="$1" commit patch key tree
    shift
    commit="${source%%+*}"
    patch="${source#"$commit"}"
    patch="${patch#+}"
    # What else decides what is built: these variables, those of the caller, and the compiler.
    key="$({ [ -z "$patch" ] || cat "$patch"; env "$@" bash -c 'env | grep -E "^(CARGO_|RUSTFLAGS=)" | sort'; rustc -V; } | cksum | cut -d ' ' -f 1)"
    if [ "$commit" = . ]; then
        tree="$root"
        key="tree-$key"
    else
        commit="$(git rev-parse --short=12 "$commit^{commit}")"
        key="$commit-$key"
        tree="$work/$key.tree"
    fi
    if [ "$commit" != . ] && [ ! -x "$work/$key" ]; then
        # A build that failed leaves its tree, to be looked into.
        [ ! -d "$tree" ] || git worktree remove --force "$tree"
        git worktree add --force --detach --quiet "$tree" "$commit"
        if [ -n "$patch" ] && ! git -C "$tree" apply "$(realpath "$patch")"; then
            echo "$patch does not apply to $commit" >&2
            exit 1
        fi
    fi
    if [ "$commit" = . ] || [ ! -x "$work/$key" ]; then
        # One target directory for all: dependencies are built once.
        (cd "$tree" && env "$@" CARGO_TARGET_DIR="$work/target" \
            cargo build --release --locked --bin ringwire) >&2
        cp "$work/target/release/ringwire" "$work/$key"
    fi
    if [ "$commit" != . ] && [ -d "$tree" ]; then
        git worktree remove --force "$tree"
    fi
    echo "$work/$key"
}

binaries=()
environments=()
for subject in "${subjects[@]}"; do
    IFS=, read -ra parts <<<"$subject"
    for_build=(RUSTFLAGS="${RUSTFLAGS:-}")
    for_run=()
    for part in "${parts[@]:1}"; do
        case "$part" in
        CARGO_* | RUSTFLAGS=*) for_build+=("$part") ;;
        *=*) for_run+=("$part") ;;
        # The rest of a value that has commas in it.
        *) for_run[-1]+=",$part" ;;
        esac
    done
    binary="$(build "${parts[0]}" "${for_build[@]}")"
    binaries+=("$binary")
    environments+=("${for_run[*]}")
done

run() {
    local letter="$1" index=0
    [ "$letter" = A ] || index=1
    # Word splitting is wanted: commands and variables with their arguments.
    # shellcheck disable=SC2086
    ${RUN_WITH:-} env ${environments[$index]} "${binaries[$index]}" \
        bench "${arguments[@]}" --rounds 1 --json "$scratch/$letter.jsonl" >/dev/null
    cat "$scratch/$letter.jsonl" >>"$scratch/all-$letter.jsonl"
    # One line per figure of every row: turn, letter, row, figure, value.
    awk -v turn="$turn" -v letter="$letter" '
        function of(key,    at) {
            if (!match($0, "\"" key "\":[^,}]*")) return ""
            at = substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
            gsub(/"/, "", at)
            return at == "null" ? "" : at
        }
        /"scenario":"machine"/ { next }
        {
            row = of("scenario") " " of("payload_bytes") " B " of("idle")
            if (of("connections") > 1) row = row " " of("connections") " connections"
            if (of("busy_connections") != "") row = row " " of("busy_connections") " busy"
            if (of("reactors") != "") row = row " " of("reactors") " reactors"
            if (of("requests_per_s") != "") row = row " " of("requests_per_s") "/s"
            row = row " " of("subject")
            n = split("p50_ns p99_ns frames_per_s cpu_ns_per_frame enters_per_frame", keys, " ")
            for (k = 1; k <= n; k++)
                if (of(keys[k]) != "") print turn "\t" letter "\t" row "\t" keys[k] "\t" of(keys[k])
        }' "$scratch/$letter.jsonl" >>"$scratch/figures"
}

for turn in $(seq "$turns"); do
    if [ $((turn % 2)) -eq 1 ]; then order=(A B); else order=(B A); fi
    for letter in "${order[@]}"; do
        run "$letter"
    done
    [ ! -t 2 ] || printf '\rturn %d of %d' "$turn" "$turns" >&2
done
[ ! -t 2 ] || printf '\r\033[K' >&2

summary() {
    local machine
    machine="$(head -n 1 "$scratch/all-A.jsonl")"
    local unit=turns
    [ "$turns" -gt 1 ] || unit=turn
    echo "$name: $turns $unit of ringwire bench ${arguments[*]}"
    # Without where the tree lies on this machine.
    echo "A ${subjects[0]//"$root/"/} ($(commit_of 0))"
    echo "B ${subjects[1]//"$root/"/} ($(commit_of 1))"
    sed -E 's/.*"kernel":"([^"]*)".*"cpu":"([^"]*)".*"cores":([0-9]*).*"congestion_control":"([^"]*)".*"date":"([^"]*)".*/\2, \3 cores, Linux \1, \4, \5/' <<<"$machine"
    echo
    printf '%-46s %-17s %10s %10s %6s  %s\n' row figure A B B/A "at 95 %"
    # Sorted, so that the middle of a list is its median.
    awk -F '\t' '
        { value[$1, $2, $3 "\t" $4] = $5; if (!(($3 "\t" $4) in seen)) { seen[$3 "\t" $4] = ++rows; name[rows] = $3 "\t" $4 } if ($1 > turns) turns = $1 }
        function median(list, n,    i, j, t) {
            for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j - 1] > list[j]; j--) { t = list[j]; list[j] = list[j - 1]; list[j - 1] = t }
            return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
        }
        # How many of n ratios lie beyond the interval, on either side.
        function beyond(n,    chance, sum, count) {
            chance = sum = 0.5 ^ n
            for (count = 0; sum <= 0.025; count++) { chance *= (n - count) / (count + 1); sum += chance }
            return count ? count - 1 : 0
        }
        END {
            for (r = 1; r <= rows; r++) {
                n = 0
                for (t = 1; t <= turns; t++) {
                    a = value[t, "A", name[r]]; b = value[t, "B", name[r]]
                    if (a == "" || b == "" || a == 0) continue
                    n++; as[n] = a + 0; bs[n] = b + 0; ratios[n] = b / a
                }
                if (!n) continue
                split(name[r], part, "\t")
                m = median(ratios, n)
                printf "%-46s %-17s %10.4g %10.4g %6.3f  %.3f to %.3f\n", part[1], part[2], median(as, n), median(bs, n), m, ratios[1 + beyond(n)], ratios[n - beyond(n)]
            }
        }' "$scratch/figures"
}

# The commit a subject was built from.
commit_of() {
    local commit="${subjects[$1]%%[+,]*}"
    if [ "$commit" = . ]; then
        git describe --always --dirty=+ --abbrev=12
    else
        git rev-parse --short=12 "$commit^{commit}"
    fi
}

summary | tee "$scratch/summary"
if [ "$record" != - ]; then
    mkdir -p "$record"
    cp "$scratch/summary" "$record/$name.txt"
    for letter in A B; do
        cp "$scratch/all-$letter.jsonl" "$record/$name-$letter.jsonl"
    done
fi
