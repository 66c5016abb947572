//! `scripts/setup_host.sh` on a host made of files: what it shows, what it changes, that a second
//! run changes nothing. Needs `bash`, as the script does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/guard.rs"]
mod guard;
#[path = "support/output.rs"]
mod output;

const CONGESTION: &str = "proc/sys/net/ipv4/tcp_congestion_control";
const SLOW_START: &str = "proc/sys/net/ipv4/tcp_slow_start_after_idle";
const GOVERNOR: &str = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
const IDLE_STATE: &str = "sys/devices/system/cpu/cpu0/cpuidle/state1/disable";
const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
const HUGE_PAGES: &str = "sys/kernel/mm/transparent_hugepage/enabled";
const SWAPPINESS: &str = "proc/sys/vm/swappiness";
const FLUSH: &str = "sys/class/net/eth0/gro_flush_timeout";
const LIMITS: &str = "etc/security/limits.d/ringwire.conf";
const LIMITS_BEFORE: &str = "etc/security/limits.conf";
const SYSCTLS: &str = "etc/sysctl.d/zz-ringwire.conf";

/// A host with everything to mend, removed when dropped.
struct SlowHost {
    root: PathBuf,
}

impl SlowHost {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ringwire-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let host = Self { root };
        let limits = "Max locked memory         65536                65536                bytes\n\
                      Max open files            1024                 524288               files\n";
        host.write("proc/self/limits", limits);
        host.write("proc/sys/kernel/io_uring_disabled", "2\n");
        host.write(CONGESTION, "bbr\n");
        host.write("proc/sys/net/ipv4/tcp_available_congestion_control", "reno bbr cubic\n");
        host.write(SLOW_START, "1\n");
        host.write("proc/sys/net/core/somaxconn", "128\n");
        host.write(GOVERNOR, "powersave\n");
        host.write("sys/devices/system/cpu/cpuidle/current_driver", "intel_idle\n");
        host.write("sys/devices/system/cpu/cpu0/cpuidle/state0/latency", "2\n");
        host.write("sys/devices/system/cpu/cpu0/cpuidle/state0/disable", "0\n");
        host.write("sys/devices/system/cpu/cpu0/cpuidle/state1/latency", "133\n");
        host.write(IDLE_STATE, "0\n");
        host.write(CLOCK, "hpet\n");
        let available = "sys/devices/system/clocksource/clocksource0/available_clocksource";
        host.write(available, "tsc hpet acpi_pm\n");
        host.write(HUGE_PAGES, "[always] madvise never\n");
        host.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 9 0 -2\n");
        host.write(SWAPPINESS, "60\n");
        host.write(FLUSH, "20000\n");
        for core in 1..4 {
            host.write(&format!("sys/devices/system/cpu/cpu{core}/online"), "1\n");
        }
        host.write("proc/interrupts", "  CPU0 CPU1\n 9: 0 5 chip eth0\n 10: 0 0 chip eth1\n");
        host.write(&affinity(9), "0-3\n");
        host.write(&affinity(10), "0\n");
        // Reserved, and no device's.
        host.write(&affinity(11), "0-3\n");
        host
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default().trim().to_owned()
    }

    /// Runs the script and returns what it said.
    fn run(&self, options: &[&str]) -> String {
        let (code, said) = self.ask(options);
        assert_eq!(code, Some(0), "{said}");
        said
    }

    /// Runs the script and returns its exit code and what it said.
    fn ask(&self, options: &[&str]) -> (Option<i32>, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup_host.sh");
        let mut command = Command::new("bash");
        let output =
            output::output(command.arg(script).arg("--root").arg(&self.root).args(options));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said + &String::from_utf8_lossy(&output.stderr))
    }

    /// The text of every file.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let (mut files, mut folders) = (BTreeMap::new(), vec![self.root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a directory of ours") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = fs::read_to_string(&path).expect("text");
                    files.insert(path, text);
                }
            }
        }
        files
    }
}

fn affinity(interrupt: u32) -> String {
    format!("proc/irq/{interrupt}/smp_affinity_list")
}

impl Drop for SlowHost {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn dry_run_shows_and_changes_nothing() {
    let host = SlowHost::new("dry");
    let said = host.run(&["--persist"]);
    assert!(said.contains("net.ipv4.tcp_slow_start_after_idle: 1 -> 0"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(host.read(CONGESTION), "bbr");
    assert_eq!(host.read(SLOW_START), "1");
    assert_eq!(host.read(GOVERNOR), "powersave");
    assert_eq!(host.read(HUGE_PAGES), "[always] madvise never");
    assert_eq!(host.read(SWAPPINESS), "60");
    assert!(!host.root.join("etc").exists());
}

#[test]
fn applying_changes_what_doctor_complains_about() {
    let host = SlowHost::new("apply");
    let said = host.run(&["--apply"]);
    assert!(said.contains("changed       net.ipv4.tcp_congestion_control: bbr -> cubic"), "{said}");
    assert_eq!(host.read("proc/sys/kernel/io_uring_disabled"), "0");
    assert_eq!(host.read(CONGESTION), "cubic");
    assert_eq!(host.read(SLOW_START), "0");
    assert_eq!(host.read("proc/sys/net/core/somaxconn"), "1024");
    assert_eq!(host.read(GOVERNOR), "performance");
    assert_eq!(host.read(IDLE_STATE), "1");
    assert_eq!(host.read("sys/devices/system/cpu/cpu0/cpuidle/state0/disable"), "0");
    assert_eq!(host.read(CLOCK), "tsc");
    assert_eq!(host.read(HUGE_PAGES), "madvise");
    assert_eq!(host.read(SWAPPINESS), "1");
    assert_eq!(host.read(&affinity(9)), "0-3", "only --cores moves interrupts");
    let limits = host.read(LIMITS);
    assert!(limits.contains("* - memlock "), "{limits}");
    // Its hard limit is higher already, and must not be lowered.
    assert!(limits.contains("* soft nofile "), "{limits}");
    assert!(!host.root.join(SYSCTLS).exists(), "only --persist writes it");
}

/// For the time of a measurement: nothing of it stays.
#[test]
fn what_was_saved_is_given_back() {
    let host = SlowHost::new("save");
    // As the kernel has it, which a file does not: what is chosen stands in brackets.
    host.write(HUGE_PAGES, "[always]\n");
    let before = host.files();
    let saved = std::env::temp_dir().join(format!("ringwire-saved-{}", std::process::id()));
    let _ = fs::remove_file(&saved);
    let file = saved.to_str().expect("UTF-8");
    let said = host.run(&["--apply", "--save", file, "--cores", "1"]);
    assert!(said.contains("changed       net.ipv4.tcp_congestion_control: bbr -> cubic"), "{said}");
    assert_eq!(host.read(GOVERNOR), "performance");
    assert_eq!(host.read(&affinity(9)), "0,2,3");
    assert!(!host.root.join(LIMITS).exists(), "limits are a file that would stay");
    // What somebody has changed meanwhile is ours to give back as well; another run is not.
    host.write(GOVERNOR, "schedutil\n");
    let (code, said) = host.ask(&["--apply", "--save", file]);
    assert_eq!(code, Some(2), "the file is there: {said}");

    let said = host.run(&["--restore", file]);
    assert!(said.contains(&format!("changed       /{GOVERNOR}: schedutil -> powersave")), "{said}");
    assert!(said.ends_with("0 failed\n"), "{said}");
    let mut after = host.files();
    // A file shows what was written into it, the kernel its choice.
    let huge_pages = host.root.join(HUGE_PAGES);
    assert_eq!(after.insert(huge_pages, "[always]\n".into()).as_deref(), Some("always\n"));
    assert_eq!(after, before);
    assert!(host.run(&["--restore", file]).contains("nothing to change"));
    let _ = fs::remove_file(&saved);

    for (options, wrong) in [
        (&["--save", file][..], "--save goes with --apply"),
        (&["--apply", "--save", file, "--persist"], "--save is for a while"),
        (&["--restore", file], "there is no file"),
        (&["--restore", file, "--apply"], "no other option"),
    ] {
        let (code, said) = host.ask(options);
        assert!(code == Some(2) && said.contains(wrong), "{options:?}: {said}");
    }
    assert_eq!(host.files().len(), before.len(), "nothing was written");
}

#[test]
fn second_run_changes_nothing() {
    let host = SlowHost::new("twice");
    host.run(&["--apply", "--persist"]);
    let (limits, sysctls) = (host.read(LIMITS), host.read(SYSCTLS));
    assert!(sysctls.contains("net.ipv4.tcp_congestion_control = cubic"), "{sysctls}");
    assert!(sysctls.contains("vm.swappiness = 1"), "{sysctls}");
    let said = host.run(&["--apply", "--persist"]);
    assert!(said.contains("nothing to change"), "{said}");
    // After the next login the limits are the raised ones.
    let raised = "Max locked memory         unlimited            unlimited            bytes\n\
                  Max open files            524288               524288               files\n";
    host.write("proc/self/limits", raised);
    let said = host.run(&["--apply", "--persist"]);
    assert!(said.contains("nothing to change"), "{said}");
    assert_eq!(host.read(LIMITS), limits);
    assert_eq!(host.read(SYSCTLS), sysctls);
}

#[test]
fn interrupts_leave_the_cores_of_reactors() {
    let host = SlowHost::new("interrupts");
    let said = host.run(&["--cores", "2,3"]);
    assert!(said.contains("/proc/irq/9/smp_affinity_list: 0-3 -> 0,1"), "{said}");
    assert_eq!(host.read(&affinity(9)), "0-3");
    host.run(&["--apply", "--cores", "2,3"]);
    assert_eq!(host.read(&affinity(9)), "0,1");
    assert_eq!(host.read(&affinity(10)), "0", "it is elsewhere");
    assert_eq!(host.read(&affinity(11)), "0-3", "it is no device's");
    let said = host.run(&["--apply", "--cores", "2,3"]);
    assert!(said.contains("nothing to change"), "{said}");
    let said = host.run(&["--apply", "--cores", "0,1,2,3"]);
    assert!(said.contains("no core is left"), "{said}");
    assert_eq!(host.read(&affinity(9)), "0,1");
}

#[test]
fn swap_and_huge_pages_that_are_fine_are_left_alone() {
    let host = SlowHost::new("fine");
    host.write(HUGE_PAGES, "always madvise [never]\n");
    host.write("proc/swaps", "Filename Type Size Used Priority\n");
    host.run(&["--apply"]);
    assert_eq!(host.read(HUGE_PAGES), "always madvise [never]");
    assert_eq!(host.read(SWAPPINESS), "60");
}

#[test]
fn decisions_of_others_are_left_alone() {
    let host = SlowHost::new("decided");
    host.write(CONGESTION, "dctcp\n");
    host.write("proc/sys/kernel/io_uring_disabled", "1\n");
    host.write("proc/sys/kernel/io_uring_group", "990\n");
    let said = host.run(&["--apply"]);
    // It is 0 unless somebody sets it.
    assert_eq!(host.read(FLUSH), "20000");
    assert!(said.contains("kept          /sys/class/net/eth0/gro_flush_timeout: 20000"), "{said}");
    assert_eq!(host.read(CONGESTION), "dctcp");
    assert_eq!(host.read("proc/sys/kernel/io_uring_disabled"), "1");
}

/// doctor has people append to the file that the script writes.
#[test]
fn lines_of_others_stay_in_the_file_of_limits() {
    let host = SlowHost::new("lines");
    let others = "# ours\n* - rtprio 10\n@robots - memlock 4\n";
    host.write(LIMITS, &format!("{others}* - memlock 64\n"));
    host.run(&["--apply"]);
    let limits = host.read(LIMITS);
    assert!(limits.starts_with(others), "{limits}");
    assert!(limits.contains("* - memlock 8192\n"), "{limits}");
    assert!(!limits.contains("memlock 64"), "{limits}");
    assert!(host.run(&["--apply"]).contains("nothing to change"));
    // Behind ours they stay where they are.
    let appended = format!("{limits}\n* - rtprio 20\n");
    host.write(LIMITS, &appended);
    assert!(host.run(&["--apply"]).contains("nothing to change"));
    assert_eq!(host.read(LIMITS), appended.trim());
}

#[test]
fn unlimited_is_enough() {
    for word in ["unlimited", "infinity", "-1"] {
        let host = SlowHost::new(&format!("unlimited-{}", word.trim_start_matches('-')));
        let ours = format!("* - memlock {word}\n* - nofile 08388608\n");
        host.write(LIMITS, &ours);
        host.run(&["--apply"]);
        assert_eq!(host.read(LIMITS), ours.trim());
        assert!(host.run(&["--apply"]).contains("nothing to change"), "{word}");
    }
}

#[test]
fn limits_of_everybody_are_never_lowered() {
    let host = SlowHost::new("lowered");
    let more = "# none\n*\tsoft\tmemlock\tunlimited\n* - NOFILE 16777216# more\nroot - nofile 9\n";
    host.write(LIMITS_BEFORE, more);
    let said = host.run(&["--apply"]);
    assert!(
        said.contains("kept          limit of memlock: unlimited, by /etc/security/"),
        "{said}"
    );
    assert!(!host.root.join(LIMITS).exists(), "root has less, which is not theirs");
    // As this script once wrote them.
    host.write(LIMITS, "* - memlock 16384\n* soft nofile 16384\n");
    let said = host.run(&["--apply"]);
    assert!(said.contains("removed       /etc/security/limits.d/ringwire.conf"), "{said}");
    assert!(!host.root.join(LIMITS).exists());
    assert!(host.run(&["--apply"]).contains("nothing to change"));
    assert_eq!(host.read(LIMITS_BEFORE), more.trim());
    // A soft limit is no help above the hard one.
    host.write(LIMITS_BEFORE, "* soft memlock unlimited\n* hard memlock 64\n");
    host.run(&["--apply"]);
    assert!(host.read(LIMITS).contains("* hard memlock 8192\n"), "{}", host.read(LIMITS));
}

#[test]
fn limits_that_are_read_later_are_named() {
    let host = SlowHost::new("later");
    host.write("etc/security/limits.d/20-low.conf", "* - memlock 64\n");
    host.write("etc/security/limits.d/tight.conf", "* - nofile 512\n");
    let said = host.run(&["--apply"]);
    let warning = "WARNING       /etc/security/limits.d/tight.conf is read after \
                   /etc/security/limits.d/ringwire.conf: change nofile there";
    assert!(said.contains(warning), "{said}");
    assert!(!said.contains("20-low.conf is read after"), "{said}");
    assert!(host.read(LIMITS).contains("* - memlock 8192\n"));
}

#[test]
fn kept_sysctls_come_last_or_who_comes_later_is_named() {
    let host = SlowHost::new("sysctls");
    let before = "etc/sysctl.d/90-ringwire.conf";
    host.write(before, "net.ipv4.tcp_slow_start_after_idle = 0\n");
    host.write("etc/sysctl.d/99-sysctl.conf", "net.core.somaxconn = 128\n");
    host.write("etc/sysctl.conf", "# net.core.somaxconn = 1\n-net/core/somaxconn=128\n");
    host.write("usr/lib/sysctl.d/zzz.conf", "vm.swappiness = 60\nkernel.io_uring_disabled=0\n");
    let said = host.run(&["--persist"]);
    assert!(said.contains("would remove  /etc/sysctl.d/90-ringwire.conf"), "{said}");
    assert!(host.root.join(before).exists());
    let said = host.run(&["--apply", "--persist"]);
    assert!(!host.root.join(before).exists(), "{said}");
    let warnings: Vec<&str> =
        said.lines().filter_map(|line| line.strip_prefix("WARNING       ")).collect();
    let expected = [
        "/usr/lib/sysctl.d/zzz.conf is read after /etc/sysctl.d/zz-ringwire.conf: change \
         vm.swappiness = 60 there",
        "/etc/sysctl.conf is read after /etc/sysctl.d/zz-ringwire.conf: change \
         net.core.somaxconn = 128 there",
    ];
    assert_eq!(warnings, expected);
    assert!(host.run(&["--apply", "--persist"]).contains("nothing to change"));
}
