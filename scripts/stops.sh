#!/usr/bin/env bash
# Who stopped the threads of a command: this kernel, or what is below it. Needs root and bpftrace.
#
#   scripts/stops.sh NAME COMMAND...
#
#   scripts/stops.sh clock benches/peers/target/release/peers run paced --rate 1000 --bulk without \
#       --subjects clock,raw-spin,ringwire-spin --rounds 3 --duration 10
#
# Prints what the command prints, and then, in microseconds, of every kind of thread how often and
# how long it was ready to run and did not, because another one ran (sched_switch), and of
# interrupts how long each took; what they do for the network (NET_TX and NET_RX) is left out: that
# is the command's own work. What comes late by more than the longest of these was not stopped by
# this kernel: a guest's host has taken the processor away, or firmware has (SMI).
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

# State 0 is TASK_RUNNING: it was not asked. Thread 0 is the idle one.
cat >"$folder/program" <<'END'
BEGIN { printf("ready\n"); }
tracepoint:sched:sched_switch /args->prev_state == 0 && args->prev_pid != 0/ {
    @left[args->prev_pid] = nsecs;
}
tracepoint:sched:sched_switch /@left[args->next_pid]/ {
    $us = (nsecs - @left[args->next_pid]) / 1000;
    delete(@left[args->next_pid]);
    @waits[args->next_comm] = count();
    @total[args->next_comm] = sum($us);
    @longest[args->next_comm] = max($us);
    if ($us >= 100) { @over100[args->next_comm] = count(); }
    if ($us >= 1000) { @over1000[args->next_comm] = count(); }
}
tracepoint:irq_vectors:local_timer_entry { @timer[cpu] = nsecs; }
tracepoint:irq_vectors:local_timer_exit /@timer[cpu]/ {
    $us = (nsecs - @timer[cpu]) / 1000;
    delete(@timer[cpu]);
    @waits["(timer interrupt)"] = count();
    @total["(timer interrupt)"] = sum($us);
    @longest["(timer interrupt)"] = max($us);
    if ($us >= 100) { @over100["(timer interrupt)"] = count(); }
    if ($us >= 1000) { @over1000["(timer interrupt)"] = count(); }
}
tracepoint:irq:irq_handler_entry { @device[cpu] = nsecs; }
tracepoint:irq:irq_handler_exit /@device[cpu]/ {
    $us = (nsecs - @device[cpu]) / 1000;
    delete(@device[cpu]);
    @waits["(interrupt)"] = count();
    @total["(interrupt)"] = sum($us);
    @longest["(interrupt)"] = max($us);
    if ($us >= 100) { @over100["(interrupt)"] = count(); }
    if ($us >= 1000) { @over1000["(interrupt)"] = count(); }
}
tracepoint:irq:softirq_entry /args->vec != 2 && args->vec != 3/ { @soft[cpu] = nsecs; }
tracepoint:irq:softirq_exit /@soft[cpu] && args->vec != 2 && args->vec != 3/ {
    $us = (nsecs - @soft[cpu]) / 1000;
    delete(@soft[cpu]);
    @waits["(softirq)"] = count();
    @total["(softirq)"] = sum($us);
    @longest["(softirq)"] = max($us);
    if ($us >= 100) { @over100["(softirq)"] = count(); }
    if ($us >= 1000) { @over1000["(softirq)"] = count(); }
}
END { clear(@left); clear(@timer); clear(@device); clear(@soft); }
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
            printf "%-18s %9s %11s %11s %9s %7s\n", "stopped, us", "times", "in all", "longest",
                ">= 100", ">= 1000"
            fflush()
            sort = "sort -k4,4nr -t \"\t\" | cut -f 1"
            for (who in known)
                printf "%-18s %9d %11d %11d %9d %7d\t\t\t%d\n", who, value["waits", who],
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
