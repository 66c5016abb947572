#!/usr/bin/env bash
# What the time of a command is made of, thread by thread: its own code, and what the kernel does
# for it, taken apart. Needs perf, and the right to profile the kernel.
#
#   scripts/profile.sh NAME COMMAND...
#
#   scripts/profile.sh many target/release/ringwire bench rtt --connections 1000 --rounds 1 --duration 5
#
# Prints a table for each of the busiest threads and its hottest functions. A sample belongs to the
# innermost of these, but for `ack`, which has all within it:
#
#   deliver   the peer's side of a send over loopback: TCP receives, acknowledges, wakes
#   softirq   the rest of that interrupt
#   poll      a poll is armed for an operation that can not be done yet
#   receive   bytes are copied out of a socket; or it is empty
#   send      bytes are copied into a socket and cut into segments
#   ack       an acknowledgement goes by itself, with all that it brings about at the peer
#   deferred  work that the ring left for the thread
#   submit    entries are taken from the submission queue
#   enter     the rest of io_uring_enter(2)
#   epoll     epoll_wait(2)
#   kernel    anything else there
#   own       not the kernel
#
# Variables:
#   RECORD    where the text goes, as NAME.txt (default: nowhere)
#   THREADS   how many of the busiest (default 4)
#   RATE      samples a second (default 1999)
set -euo pipefail

[ "$#" -ge 2 ] || { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
name="$1"
shift
command -v perf >/dev/null || { echo "there is no perf here" >&2; exit 1; }

[ -z "${RECORD:-}" ] || mkdir -p "$RECORD"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
perf record -q -o "$folder/data" -F "${RATE:-1999}" -g -- "$@" >"$folder/output" 2>&1 || {
    cat "$folder/output" >&2
    exit 1
}

report() {
    echo "$* ($(git -C "$(dirname "$0")" rev-parse --short=12 HEAD), $(date -u +%F)); samples in per cent"
    # One line a sample: thread, kind, innermost function.
    perf script -i "$folder/data" -F comm,tid,ip,sym 2>/dev/null | awk '
        function kind_of(symbol) {
            if (symbol ~ /^(tcp_v[46]_rcv|ip_rcv|ipv6_rcv|__netif_receive_skb)/) return "deliver"
            if (symbol ~ /^(net_rx_action|handle_softirqs|__do_softirq)/) return "softirq"
            if (symbol ~ /^io_arm_(apoll|poll_handler)/) return "poll"
            if (symbol ~ /^(io_recv|__sys_recvfrom|tcp_recvmsg|unix_stream_recvmsg)/) return "receive"
            if (symbol ~ /^(io_send|__sys_sendto|__sys_sendmsg|tcp_sendmsg|unix_stream_sendmsg)/) return "send"
            if (symbol ~ /^(io_run_task_work|__io_run_local_work|io_handle_tw_list|tctx_task_work)/) return "deferred"
            if (symbol ~ /^io_submit_sqes/) return "submit"
            if (symbol ~ /^__(do|x64)_sys_io_uring_enter/) return "enter"
            if (symbol ~ /^(do_epoll_wait|__x64_sys_epoll_)/) return "epoll"
            return ""
        }
        function flush_sample() {
            if (thread != "" && depth > 0) {
                if (kind == "") kind = is_kernel ? "kernel" : "own"
                print thread "\t" kind "\t" leaf
            }
            thread = ""
        }
        /^[ \t]*$/ { flush_sample(); next }
        thread == "" { tid = $NF; $NF = ""; sub(/ +$/, ""); thread = $0 " " tid; depth = 0; kind = ""; is_kernel = 0; next }
        {
            address = $1; $1 = ""; sub(/^ /, "")
            if (depth++ == 0) { leaf = $0; is_kernel = address ~ /^ffff/ }
            if (kind == "") kind = kind_of($0)
            if ($0 ~ /^(__)?tcp_send_ack/) kind = "ack"
        }
        END { flush_sample() }
    ' >"$folder/samples"
    cut -f1 "$folder/samples" | sort | uniq -c | sort -rn | head -"${THREADS:-4}" |
        while read -r count thread; do
            echo
            echo "$thread: $count samples"
            awk -F '\t' -v thread="$thread" -v all="$count" '
                $1 == thread { kinds[$2]++; leaves[$2 "\t" $3]++ }
                END {
                    for (kind in kinds) {
                        line = ""
                        for (round = 0; round < 5; round++) {
                            best = ""
                            for (leaf in leaves) {
                                split(leaf, part, "\t")
                                if (part[1] == kind && (best == "" || leaves[leaf] > leaves[best])) best = leaf
                            }
                            if (best == "" || leaves[best] < all * 0.006) break
                            split(best, part, "\t")
                            line = line sprintf("  %s %.1f", substr(part[2], 1, 40), 100 * leaves[best] / all)
                            delete leaves[best]
                        }
                        printf "%6.1f  %-9s%s\n", 100 * kinds[kind] / all, kind, line
                    }
                }' "$folder/samples" | sort -rn
        done
}

if [ -n "${RECORD:-}" ]; then
    report "$@" | tee "$RECORD/$name.txt"
else
    report "$@"
fi
