#!/usr/bin/env bash
# Applies what `ringwire doctor` recommends for this host.
#
#   scripts/setup_host.sh                    shows what would change, and changes nothing
#   sudo scripts/setup_host.sh --apply       changes it until the next boot, and the limits for
#                                            new logins
#   sudo scripts/setup_host.sh --apply --persist   keeps the sysctls over a boot as well
#   … --cores 2,3                            moves the interrupts of devices off these cores, on
#                                            which reactors are to run
#
# Running it again changes nothing more. To undo: reboot, and remove the files it names.
# Governor, idle states, clock source, huge pages, interrupts and network cards are not kept over a
# boot: tuned(8) or the kernel's command line does that. Limits are those of limits.conf(5), which
# do not bind root. Isolated cores need the kernel's command line, coalescing ethtool(8).
#
# Exit code: 0 done or nothing to do, 1 a change did not take, 2 wrong usage.
set -euo pipefail

# As src/cli/doctor judges; its tests compare.
readonly idle_latency_us_max=20
readonly somaxconn_min=1024
readonly swappiness_max=1
readonly gro_flush_timeout_ns_max=10000
# A reactor of the default configuration needs 1.1 MiB locked and 1032 descriptors.
readonly memlock_kib_per_core=2048
readonly nofile_per_core=2048

apply=false
persist=false
root=""
reactor_cores=""
pending=0
failed=0
sysctls=()

usage() {
    sed -n '2,18s/^# \{0,1\}//p' "$0"
}

main() {
    parse "$@"
    if "$apply" && [[ -z "$root" && "$(id -u)" -ne 0 ]]; then
        echo "setup_host.sh: --apply changes the host: run it with sudo" >&2
        exit 2
    fi
    io_uring
    congestion_control
    set_sysctl net.ipv4.tcp_slow_start_after_idle 0
    accept_queue
    governors
    idle_states
    clock_source
    huge_pages
    swap
    packets
    interrupts
    limits
    if "$persist"; then
        write_file /etc/sysctl.d/90-ringwire.conf "$(printf '%s\n' "${sysctls[@]}")"
    fi
    summary
}

parse() {
    while (($# > 0)); do
        case "$1" in
            --apply) apply=true ;;
            --persist) persist=true ;;
            --cores)
                reactor_cores="${2:?--cores needs a list such as 2,3}"
                if [[ ! "$reactor_cores" =~ ^[0-9]+(,[0-9]+)*$ ]]; then
                    echo "setup_host.sh: --cores takes numbers with commas between: 2,3" >&2
                    exit 2
                fi
                shift
                ;;
            # For tests: a directory that plays the host.
            --root)
                root="${2:?--root needs a directory}"
                shift
                ;;
            -h | --help)
                usage
                exit 0
                ;;
            *)
                echo "setup_host.sh: unknown option $1" >&2
                usage >&2
                exit 2
                ;;
        esac
        shift
    done
}

# 1 with a group is somebody's decision: left alone.
io_uring() {
    local disabled group
    disabled="$(value_of /proc/sys/kernel/io_uring_disabled)"
    group="$(value_of /proc/sys/kernel/io_uring_group)"
    if [[ "$disabled" == 1 && "${group:--1}" -ge 0 ]]; then
        kept kernel.io_uring_disabled "$disabled, for group $group"
        return
    fi
    set_sysctl kernel.io_uring_disabled 0
}

# BBR paces; anything else is somebody's decision.
congestion_control() {
    local name=net.ipv4.tcp_congestion_control current
    current="$(value_of /proc/sys/net/ipv4/tcp_congestion_control)"
    case "$current" in
        bbr* | cubic) ;;
        *)
            kept "$name" "$current"
            return
            ;;
    esac
    if [[ " $(value_of /proc/sys/net/ipv4/tcp_available_congestion_control) " != *" cubic "* ]]; then
        load_module tcp_cubic
    fi
    set_sysctl "$name" cubic
}

accept_queue() {
    local wanted
    wanted="$(value_of /proc/sys/net/core/somaxconn)"
    if [[ "${wanted:-0}" -lt "$somaxconn_min" ]]; then
        wanted="$somaxconn_min"
    fi
    set_sysctl net.core.somaxconn "$wanted"
}

governors() {
    local file
    for file in "$root"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
        [[ -e "$file" ]] && set_value "${file#"$root"}" performance
    done
    return 0
}

# A KVM guest without a driver polls before it halts; deep states of the metal are switched off.
idle_states() {
    local driver file
    driver="$(value_of /sys/devices/system/cpu/cpuidle/current_driver)"
    if [[ "${driver:-none}" == none ]]; then
        if grep -qsw hypervisor "$root/proc/cpuinfo"; then
            load_module cpuidle_haltpoll force=1
        fi
        return
    fi
    for file in "$root"/sys/devices/system/cpu/cpu[0-9]*/cpuidle/state[0-9]*/latency; do
        if [[ -e "$file" && "$(<"$file")" -gt "$idle_latency_us_max" ]]; then
            file="${file%/latency}/disable"
            set_value "${file#"$root"}" 1
        fi
    done
}

clock_source() {
    local directory=/sys/devices/system/clocksource/clocksource0 current available name
    local fast="tsc kvm-clock arch_sys_counter hyperv_clocksource_tsc_page riscv_clocksource"
    current="$(value_of "$directory/current_clocksource")"
    available=" $(value_of "$directory/available_clocksource") "
    if [[ -z "$current" || " $fast " == *" $current "* ]]; then
        kept "clock source" "${current:-not known}"
        return
    fi
    for name in $fast; do
        if [[ "$available" == *" $name "* ]]; then
            set_value "$directory/current_clocksource" "$name"
            return
        fi
    done
    kept "clock source" "$current, the only one"
}

# `never` is somebody's decision.
huge_pages() {
    local path=/sys/kernel/mm/transparent_hugepage/enabled current
    current="$(value_of "$path")"
    if [[ "$current" != *"[always]"* ]]; then
        kept "huge pages" "${current:-not on this kernel}"
        return
    fi
    pending=$((pending + 1))
    if ! "$apply"; then
        echo "would change  $path: always -> madvise"
        return
    fi
    printf 'madvise\n' 2>/dev/null >"$root$path" || true
    # The kernel shows what is chosen in brackets.
    if [[ "$(value_of "$path")" == *"[always]"* ]]; then
        report "$path" always madvise always
    else
        report "$path" always madvise madvise
    fi
}

# Swap stays, for an emergency. Locking memory (mlockall = true) is the other way.
swap() {
    local spaces current
    spaces="$(value_of /proc/swaps | tail -n +2)"
    current="$(value_of /proc/sys/vm/swappiness)"
    if [[ -z "$spaces" ]]; then
        kept swap none
    elif [[ -n "$current" && "$current" -le "$swappiness_max" ]]; then
        kept vm.swappiness "$current"
        sysctls+=("vm.swappiness = $current")
    else
        set_sysctl vm.swappiness "$swappiness_max"
    fi
}

# Received packets that the kernel holds to join them.
packets() {
    local file
    for file in "$root"/sys/class/net/*/gro_flush_timeout; do
        if [[ -e "$file" && "$(<"$file")" -gt "$gro_flush_timeout_ns_max" ]]; then
            set_value "${file#"$root"}" 0
        fi
    done
}

# Interrupts of devices go to the cores that are not the reactors'.
interrupts() {
    local core others=() file number now
    [[ -n "$reactor_cores" ]] || return 0
    for file in "$root"/sys/devices/system/cpu/cpu[0-9]*; do
        core="${file##*/cpu}"
        [[ ",$reactor_cores," == *",$core,"* ]] || others+=("$core")
    done
    if ((${#others[@]} == 0)); then
        kept interrupts "where they are: no core is left without a reactor"
        return
    fi
    local list
    list="$(printf '%s\n' "${others[@]}" | sort -n | paste -sd,)"
    for file in "$root"/proc/irq/[0-9]*/smp_affinity_list; do
        [[ -e "$file" ]] || continue
        number="${file%/smp_affinity_list}"
        number="${number##*/}"
        # Only what devices use: the rest is reserved.
        grep -qs "^ *$number:" "$root/proc/interrupts" || continue
        now="$(expand "$(<"$file")")"
        if touches "$now"; then
            move_interrupt "${file#"$root"}" "$list"
        fi
    done
}

# Some interrupts can not be moved: a driver that manages them refuses, which is no failure.
move_interrupt() {
    local path="$1" wanted="$2" before
    before="$(value_of "$path")"
    pending=$((pending + 1))
    if ! "$apply"; then
        echo "would change  $path: $before -> $wanted"
        return
    fi
    printf '%s\n' "$wanted" 2>/dev/null >"$root$path" || true
    if touches "$(expand "$(value_of "$path")")"; then
        pending=$((pending - 1))
        kept "$path" "$before: its driver does not let go"
    else
        echo "changed       $path: $before -> $(value_of "$path")"
    fi
}

# expand 0-2,5: the numbers, one a line.
expand() {
    local part
    for part in ${1//,/ }; do
        seq "${part%-*}" "${part#*-}" 2>/dev/null || true
    done
}

# Whether one of these numbers is a reactor's core.
touches() {
    local core
    for core in $1; do
        [[ ",$reactor_cores," == *",$core,"* ]] && return 0
    done
    return 1
}

limits() {
    local cores lines=()
    cores="$(nproc)"
    # /proc counts locked memory in bytes, limits.conf in KiB.
    limit_line memlock "Max locked memory" $((memlock_kib_per_core * cores)) 1024
    limit_line nofile "Max open files" $((nofile_per_core * cores)) 1
    if ((${#lines[@]} > 0)); then
        write_file /etc/security/limits.d/ringwire.conf "$(printf '%s\n' "${lines[@]}")"
    fi
}

# Adds a line to `lines` when the limit is too low, or when our file has one that suffices: a later
# login shows the raised limit, which must not make us take the line away again.
limit_line() {
    local item="$1" name="$2" needed="$3" unit="$4" soft hard line type=-
    line="$(sed -n "/ $item /p" "$root/etc/security/limits.d/ringwire.conf" 2>/dev/null || true)"
    if [[ -n "$line" && "${line##* }" -ge "$needed" ]]; then
        lines+=("$line")
        return
    fi
    read -r soft hard _ < <(sed -n "s/^$name *//p" "$root/proc/self/limits" 2>/dev/null) || true
    if [[ -z "${soft:-}" ]]; then
        return
    fi
    if [[ "$soft" == unlimited || "$soft" -ge $((needed * unit)) ]]; then
        kept "limit of $item" "$soft"
        return
    fi
    # `-` sets the hard limit too, which must not be lowered.
    if [[ "$hard" == unlimited || "$hard" -ge $((needed * unit)) ]]; then
        type=soft
    fi
    lines+=("* $type $item $needed")
}

# set_sysctl NAME VALUE
set_sysctl() {
    local path="/proc/sys/${1//.//}"
    if [[ ! -e "$root$path" ]]; then
        kept "$1" "not on this kernel"
        return
    fi
    sysctls+=("$1 = $2")
    set_value "$path" "$2" "$1"
}

# set_value PATH VALUE [LABEL]
set_value() {
    local path="$1" wanted="$2" label="${3:-$1}" before after
    before="$(value_of "$path")"
    if [[ "$before" == "$wanted" ]]; then
        kept "$label" "$before"
        return
    fi
    pending=$((pending + 1))
    if ! "$apply"; then
        echo "would change  $label: $before -> $wanted"
        return
    fi
    # The kernel may refuse the write; what counts is what it says afterwards.
    printf '%s\n' "$wanted" 2>/dev/null >"$root$path" || true
    after="$(value_of "$path")"
    report "$label" "$before" "$wanted" "$after"
}

# write_file PATH TEXT
write_file() {
    local path="$1" text="$2" before=missing
    [[ -e "$root$path" ]] && before=present
    if [[ "$(cat "$root$path" 2>/dev/null || true)" == "$text" ]]; then
        kept "$path" "as it should be"
        return
    fi
    pending=$((pending + 1))
    if ! "$apply"; then
        echo "would write   $path ($before):"
        printf '%s\n' "$text" | sed 's/^/              /'
        return
    fi
    mkdir -p "$(dirname "$root$path")"
    printf '%s\n' "$text" >"$root$path"
    echo "written       $path (was $before):"
    printf '%s\n' "$text" | sed 's/^/              /'
}

# load_module NAME [PARAMETER...]
load_module() {
    if [[ -d "$root/sys/module/$1" ]]; then
        kept "module $1" loaded
        return
    fi
    pending=$((pending + 1))
    if ! "$apply"; then
        echo "would load    $*"
    elif [[ -z "$root" ]] && modprobe "$@"; then
        echo "loaded        $*"
    else
        echo "FAILED        modprobe $*"
        failed=$((failed + 1))
    fi
}

report() {
    local label="$1" before="$2" wanted="$3" after="$4"
    if [[ "$after" == "$wanted" ]]; then
        echo "changed       $label: $before -> $after"
        return
    fi
    echo "FAILED        $label: $before -> $wanted, and it still is $after"
    failed=$((failed + 1))
}

kept() {
    echo "kept          $1: $2"
}

# The text of a file of the host, or nothing.
value_of() {
    cat "$root$1" 2>/dev/null || true
}

summary() {
    if ((pending == 0)); then
        echo "nothing to change"
    elif ! "$apply"; then
        echo "$pending to change; nothing was changed: run again with --apply"
    else
        echo "$((pending - failed)) changed, $failed failed"
    fi
    ((failed == 0)) || exit 1
}

main "$@"
