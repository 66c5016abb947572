#!/usr/bin/env bash
# Who stopped the threads of a command: this kernel, or what is below it. Needs root and bpftrace.
#
#   scripts/stops.sh NAME COMMAND...
#
#   scripts/stops.sh clock benches/peers/target/release/peers run paced --rate 1000 --bulk without \
#       --subjects clock,raw-spin,ringwire-spin --rounds 3 --duration 10
#
# Mounts tracefs where it is not. Prints what the command prints, and then, in microseconds, the
# twenty longest of these: of every kind of thread how often and how long it was ready to run and
# did not, because another one ran, and which (sched_switch); and of interrupts how long each took.
# What those do for the network (NET_TX and NET_RX) is left out: that is the command's own work.
# What comes late by more than the longest of these has met several in a row, or was not stopped by
# this kernel: a guest's host has taken the processor away, or firmware has (SMI). Tracing costs a
# thread switch some microseconds.
#
# Variables:
#   RECORD    where the text goes, as NAME.txt (default: nowhere)
set -euo pipefail

[ "$#" -ge 2 ] || { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
name="$1"
shift
command -v bpftrace >/dev/null || { echo "there is no bpftrace here" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "tracing the kernel takes root" >&2; exit 1; }
# Where tracepoints are listed.
if [ ! -e /sys/kernel/tracing/available_events ]; then
    mount -t tracefs tracefs /sys/kernel/tracing
fi

[ -z "${RECORD:-}" ] || mkdir -p "$RECORD"

folder="$(mktemp -d)"
tracer=""
end() {
    if [ -n "$tracer" ]; then
        kill -TERM "$tracer" 2>/dev/null || true
        wait "$tracer" || true
        tracer=""
    fi
}
trap 'end; rm -rf "$folder"' EXIT

# note WHO BY: counts $us of who was stopped by whom.
note() {
    cat <<END
    @times[$1, $2] = count();
    @total[$1, $2] = sum(\$us);
    @longest[$1, $2] = max(\$us);
    if (\$us >= 100) { @over100[$1, $2] = count(); }
    if (\$us >= 1000) { @over1000[$1, $2] = count(); }
END
}

# interrupts NAME ENTRY EXIT [CONDITION]: the time between two tracepoints of one processor.
interrupts() {
    cat <<END
tracepoint:$2 ${4:+/$4/ }{ @entered["$1", cpu] = nsecs; }
tracepoint:$3 /@entered["$1", cpu]${4:+ && $4}/ {
    \$us = (nsecs - @entered["$1", cpu]) / 1000;
    delete(@entered["$1", cpu]);
$(note '"any"' "\"$1\"")
}
END
}

# State 0 is TASK_RUNNING: it was not asked. Thread 0 is the idle one.
cat >"$folder/program" <<END
BEGIN { printf("ready\n"); }
tracepoint:sched:sched_switch /args->prev_state == 0 && args->prev_pid != 0/ {
    @left[args->prev_pid] = nsecs;
    @by[args->prev_pid] = args->next_comm;
}
tracepoint:sched:sched_switch /@left[args->next_pid]/ {
    \$us = (nsecs - @left[args->next_pid]) / 1000;
    \$by = @by[args->next_pid];
    delete(@left[args->next_pid]);
$(note 'args->next_comm' '$by')
}
$(interrupts "timer interrupt" irq_vectors:local_timer_entry irq_vectors:local_timer_exit)
$(interrupts interrupt irq:irq_handler_entry irq:irq_handler_exit)
$(interrupts softirq irq:softirq_entry irq:softirq_exit "args->vec != 2 && args->vec != 3")
END { clear(@left); clear(@by); clear(@entered); }
END

touch "$folder/traced"
bpftrace "$folder/program" >"$folder/traced" 2>"$folder/complaints" &
tracer="$!"
deadline=$((SECONDS + 60))
until grep -q '^ready' "$folder/traced"; do
    if ! kill -0 "$tracer" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
        echo "bpftrace does not trace:" >&2
        cat "$folder/complaints" >&2
        exit 1
    fi
    read -rt 0.1 <> <(:) || true
done
status=0
"$@" >"$folder/printed" || status="$?"
end

report() {
    echo "$* ($(git -C "$(dirname "$0")" rev-parse --short=12 HEAD), $(date -u +%F))"
    echo
    cat "$folder/printed"
    awk '
        match($0, /^@[a-z0-9]+\[/) {
            map = substr($0, 2, RLENGTH - 2)
            rest = substr($0, RLENGTH + 1)
            end = match(rest, /\]: [0-9]+$/)
            who = substr(rest, 1, end - 1)
            value[map, who] = substr(rest, end + 3)
            if (map == "longest") known[who] = value[map, who]
        }
        END {
            printf "%-34s %8s %10s %9s %8s %8s\n", "stopped, by whom; us", "times", "in all",
                "longest", ">= 100", ">= 1000"
            fflush()
            sort = "sort -k2,2nr -t \"\t\" | cut -f 1 | head -n 20"
            for (who in known)
                printf "%-34s %8d %10d %9d %8d %8d\t%d\n", who, value["times", who],
                    value["total", who], known[who], value["over100", who],
                    value["over1000", who], known[who] | sort
            close(sort)
        }' "$folder/traced"
}
if [ -n "${RECORD:-}" ]; then
    report "$@" | tee "$RECORD/$name.txt"
else
    report "$@"
fi
exit "$status"
