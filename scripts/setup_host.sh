#!/usr/bin/env bash
# Applies what `ringwire doctor` recommends for this host.
#
#   scripts/setup_host.sh                    shows what would change, and changes nothing
#   sudo scripts/setup_host.sh --apply       changes it until the next boot, and the limits for
#                                            new logins
#   sudo scripts/setup_host.sh --apply --persist   keeps the sysctls over a boot as well
#   … --cores 2,3                            moves the interrupts of devices off these cores, on
#                                            which reactors are to run
#   sudo scripts/setup_host.sh --apply --save FILE   writes into a new file what each setting was,
#                                            for a while that ends with --restore; no limits then
#   sudo scripts/setup_host.sh --restore FILE        gives every setting in it what it had
#
# Running it again changes nothing more. To undo without a saved file: reboot, and remove the files
# it names; of the one with limits its lines for memlock and nofile. Modules stay until then.
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
# A reactor of the default configuration needs 100 KiB locked and 1032 descriptors. With mlockall or
# zero_copy_bytes_min it needs more memory: doctor says how much. Linux gives 8 MiB by itself (5.16).
readonly memlock_kib_per_core=256
readonly memlock_kib_min=8192
readonly nofile_per_core=2048
# Files are read in the order of their names, and the last one that sets a thing counts: systemd's
# 99-sysctl.conf is /etc/sysctl.conf.
readonly sysctl_file=/etc/sysctl.d/zz-ringwire.conf
readonly sysctl_file_before=/etc/sysctl.d/90-ringwire.conf
readonly limits_file=/etc/security/limits.d/ringwire.conf
# The order of names is that of their bytes.
export LC_ALL=C

apply=false
persist=false
# Where to write what settings were, and where to read it.
save=""
restore=""
root=""
reactor_cores=""
pending=0
failed=0
sysctls=()

usage() {
    sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//p}' "$0"
}

main() {
    parse "$@"
    if { "$apply" || [[ -n "$restore" ]]; } && [[ -z "$root" && "$(id -u)" -ne 0 ]]; then
        echo "setup_host.sh: --apply and --restore change the host: run it with sudo" >&2
        exit 2
    fi
    if [[ -n "$restore" ]]; then
        give_back
        summary
        return
    fi
    if [[ -n "$save" ]]; then
        (set -o noclobber && : >"$save") || exit 2
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
    # They are for new logins, and a file that stays.
    if [[ -z "$save" ]]; then
        limits
    fi
    if "$persist"; then
        persist_sysctls
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
            --save)
                save="${2:?--save needs a file}"
                shift
                ;;
            --restore)
                restore="${2:?--restore needs the file of --save}"
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
    local wrong=""
    if [[ -n "$restore" ]]; then
        if "$apply" || "$persist" || [[ -n "$save$reactor_cores" ]]; then
            wrong="--restore takes a file and no other option"
        elif [[ ! -r "$restore" ]]; then
            wrong="--restore: there is no file $restore"
        fi
    elif [[ -n "$save" ]] && ! "$apply"; then
        wrong="--save goes with --apply: nothing is changed without it"
    elif [[ -n "$save" ]] && "$persist"; then
        wrong="--save is for a while, --persist for longer: one of them"
    fi
    if [[ -n "$wrong" ]]; then
        echo "setup_host.sh: $wrong" >&2
        exit 2
    fi
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
    remember "$path" always
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

# Received packets that the kernel holds to join them: not by default, so it is somebody's decision,
# perhaps for busy polling.
packets() {
    local file
    for file in "$root"/sys/class/net/*/gro_flush_timeout; do
        if [[ -e "$file" && "$(<"$file")" -gt 0 ]]; then
            kept "${file#"$root"}" "$(<"$file") ns, which somebody has set"
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
    remember "$path" "$before"
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
    local cores memlock item line stale=() added=() lines=()
    cores="$(nproc)"
    memlock=$((memlock_kib_per_core * cores))
    ((memlock >= memlock_kib_min)) || memlock="$memlock_kib_min"
    # /proc counts locked memory in bytes, limits.conf in KiB.
    limit memlock "Max locked memory" "$memlock" 1024
    limit nofile "Max open files" $((nofile_per_core * cores)) 1
    # What others have written there stays, and so do lines for somebody in particular.
    while IFS= read -r line || [[ -n "$line" ]]; do
        for item in "${stale[@]}"; do
            is_for_all "$line" "$item" && continue 2
        done
        lines+=("$line")
    done < <(value_of "$limits_file")
    lines+=("${added[@]}")
    if ((${#lines[@]} > 0)); then
        write_file "$limits_file" "$(printf '%s\n' "${lines[@]}")"
    else
        remove_file "$limits_file"
    fi
}

# Finds out whether a limit is too low, and puts what is to be written about it into `added`; in
# `stale`, that our lines about it go. Of entries for everybody the last one counts, and ours may
# come after somebody's that says more: it must not lower a limit. Nor must a login that has the
# raised limit make us take our line away again.
limit() {
    local item="$1" name="$2" needed="$3" unit="$4"
    local file last="" soft="" hard="" our_soft our_hard own_soft own_hard
    for file in "$root"/etc/security/limits.conf "$root"/etc/security/limits.d/*.conf; do
        [[ -e "$file" && "${file#"$root"}" != "$limits_file" ]] || continue
        if [[ -n "$(entry "$file" "$item" soft)$(entry "$file" "$item" hard)" ]]; then
            last="${file#"$root"}"
        fi
        soft="$(entry "$file" "$item" soft "$soft")"
        hard="$(entry "$file" "$item" hard "$hard")"
    done
    our_soft="$(entry "$root$limits_file" "$item" soft)"
    our_hard="$(entry "$root$limits_file" "$item" hard)"
    if is_enough "$our_soft" "$needed" && is_enough "$our_soft" "${soft:-0}" &&
        is_enough "${our_hard:-unlimited}" "${hard:-0}"; then
        kept "limit of $item" "$our_soft, by $limits_file"
        return
    fi
    own_soft="$(sed -n "s/^$name *//p" "$root/proc/self/limits" 2>/dev/null || true)"
    [[ -n "$own_soft" ]] || return 0
    read -r own_soft own_hard _ <<<"$own_soft"
    stale+=("$item")
    # Whoever raises the soft limit knows of the hard one.
    if is_enough "$soft" "$needed"; then
        hard="${hard:-unlimited}"
    fi
    soft="${soft:-$(in_units "$own_soft" "$unit")}"
    hard="${hard:-$(in_units "$own_hard" "$unit")}"
    if is_enough "$soft" "$needed" && is_enough "$hard" "$needed"; then
        kept "limit of $item" "$soft${last:+, by $last}"
        return
    fi
    if is_enough "$hard" "$needed"; then
        added+=("* soft $item $needed")
    elif is_enough "$soft" "$needed"; then
        added+=("* hard $item $needed")
    else
        added+=("* - $item $needed")
    fi
    if [[ "$last" > "$limits_file" ]]; then
        warn "$last is read after $limits_file: change $item there"
    fi
}

# is_for_all LINE ITEM: whether a line of limits.conf(5) sets a limit for everybody.
is_for_all() {
    local domain item
    read -r domain _ item _ <<<"$1" || true
    [[ "$domain" == "*" && "${item,,}" == "$2" ]]
}

# entry FILE ITEM soft|hard [OTHERWISE]: what the file gives everybody, which is its last entry.
entry() {
    local domain type item value found="${4:-}"
    while read -r domain type item value _ || [[ -n "$domain" ]]; do
        value="${value%%#*}"
        if [[ "$domain" == "*" && "${item,,}" == "$2" && ("${type,,}" == "$3" || "$type" == -) ]] &&
            is_enough "$value" 0; then
            found="${value,,}"
        fi
        domain=""
    done < <(cat "$1" 2>/dev/null)
    printf '%s' "$found"
}

# is_enough VALUE NEEDED: both as limits.conf(5) has them.
is_enough() {
    case "${1,,}" in
        unlimited | infinity | -1) return 0 ;;
        "" | *[!0-9]*) return 1 ;;
    esac
    case "${2,,}" in
        unlimited | infinity | -1) return 1 ;;
    esac
    # In base 10, also with a 0 in front.
    ((10#$1 >= 10#$2))
}

# in_units VALUE UNIT: a limit of /proc as limits.conf(5) has it.
in_units() {
    if [[ "$1" == unlimited ]]; then echo unlimited; else echo $(($1 / $2)); fi
}

# Names every file that is read later and says otherwise. /etc/sysctl.conf is the last one that
# sysctl(8) --system reads; systemd-sysctl(8) has it as 99-sysctl.conf.
persist_sysctls() {
    local file key value wanted
    write_file "$sysctl_file" "$(printf '%s\n' "${sysctls[@]}")"
    remove_file "$sysctl_file_before"
    for file in "$root"/{etc,run,usr/local/lib,usr/lib}/sysctl.d/*.conf "$root/etc/sysctl.conf"; do
        [[ -e "$file" ]] || continue
        if [[ "${file#"$root"}" != /etc/sysctl.conf && ! "${file##*/}" > "${sysctl_file##*/}" ]]; then
            continue
        fi
        while IFS== read -r key value || [[ -n "$key" ]]; do
            # A key may have slashes for dots, and a dash before it.
            key="${key//[[:space:]]/}"
            key="${key#-}"
            key="${key//\//.}"
            read -r value <<<"$value" || true
            for wanted in "${sysctls[@]}"; do
                if [[ "${wanted%% = *}" == "$key" && "${wanted#* = }" != "$value" ]]; then
                    warn "${file#"$root"} is read after $sysctl_file: change $key = $value there"
                fi
            done
            key=""
        done <"$file"
    done
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
    remember "$path" "$before"
    # The kernel may refuse the write; what counts is what it says afterwards.
    printf '%s\n' "$wanted" 2>/dev/null >"$root$path" || true
    after="$(value_of "$path")"
    report "$label" "$before" "$wanted" "$after"
}

# remember PATH VALUE: what a setting is before it is changed.
remember() {
    if [[ -n "$save" ]]; then
        printf '%s\t%s\n' "$1" "$2" >>"$save"
    fi
}

# Every setting of the saved file as it was, the last one changed first.
give_back() {
    local path value
    while IFS=$'\t' read -r path value; do
        [[ -n "$path" ]] || continue
        give_back_one "$path" "$value"
    done < <(tac "$restore")
}

# give_back_one PATH VALUE
give_back_one() {
    local path="$1" value="$2" before after
    before="$(value_of "$path")"
    if is_chosen "$before" "$value"; then
        kept "$path" "$before"
        return
    fi
    pending=$((pending + 1))
    printf '%s\n' "$value" 2>/dev/null >"$root$path" || true
    after="$(value_of "$path")"
    if is_chosen "$after" "$value"; then
        after="$value"
    fi
    report "$path" "$before" "$value" "$after"
}

# is_chosen TEXT VALUE: whether a setting has a value; of several the one in brackets.
is_chosen() {
    [[ "$1" == "$2" || "$1" == *"[$2]"* ]]
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

# remove_file PATH
remove_file() {
    [[ -e "$root$1" ]] || return 0
    pending=$((pending + 1))
    if ! "$apply"; then
        echo "would remove  $1"
        return
    fi
    rm -f "$root$1"
    echo "removed       $1"
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

warn() {
    echo "WARNING       $1"
}

# The text of a file of the host, or nothing.
value_of() {
    cat "$root$1" 2>/dev/null || true
}

summary() {
    if ((pending == 0)); then
        echo "nothing to change"
    elif ! "$apply" && [[ -z "$restore" ]]; then
        echo "$pending to change; nothing was changed: run again with --apply"
    else
        echo "$((pending - failed)) changed, $failed failed"
    fi
    ((failed == 0)) || exit 1
}

main "$@"
