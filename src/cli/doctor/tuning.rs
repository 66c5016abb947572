//! What else runs where reactors are to run: isolated cores, interrupts, huge pages, swap, timers,
//! network cards.
//!
//! Each fact is a pure function of the text of one file; [`Tuning::gather`] reads the files. A text
//! that makes no sense gives what can be made of it, or nothing: judging is done elsewhere.

use serde::Serialize;

use super::host::{Files, cores_of};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Tuning {
    /// Cores that the scheduler leaves alone (isolcpus=, or a cpuset partition).
    pub(super) isolated: Vec<usize>,
    /// Cores without the scheduler's tick while one task runs (nohz_full=).
    pub(super) tickless: Vec<usize>,
    /// Whether this process's own cpuset is an isolated partition.
    pub(super) own_partition: bool,
    /// Interrupts of devices.
    pub(super) interrupts: Vec<Interrupt>,
    /// When the kernel uses huge pages without being asked: `always`, `madvise`, `never`.
    pub(super) huge_pages: Option<String>,
    /// Swap space in KiB; `None` when the file can not be read.
    pub(super) swap_kib: Option<u64>,
    pub(super) swappiness: Option<u32>,
    /// How late the kernel may wake this process from a timer.
    pub(super) timer_slack_ns: Option<u64>,
    /// Ethernet interfaces that are up.
    pub(super) cards: Vec<Card>,
}

/// The interrupt of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interrupt {
    pub(super) number: u32,
    /// Device and queue, as its driver calls it.
    pub(super) name: String,
    /// How often each core has served it.
    pub(super) served: Vec<(usize, u64)>,
    /// Cores that serve it from now on.
    pub(super) cores: Vec<usize>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) name: String,
    /// How long the kernel holds received packets to join them, in nanoseconds.
    pub(super) gro_flush_timeout_ns: u64,
    /// What it is asked through netlink: apart from the files.
    pub(super) coalescing: Result<Coalescing, String>,
}

/// How long a card waits before it interrupts, ethtool(8) -c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Coalescing {
    pub(super) rx_usecs: Option<u32>,
    pub(super) rx_frames: Option<u32>,
    pub(super) is_adaptive: bool,
}

impl Tuning {
    pub(super) fn gather(files: &Files<'_>) -> Self {
        let list = |path| files.text(path).map_or_else(Vec::new, |text| cores_of(&text));
        let interrupts = files.text("proc/interrupts").unwrap_or_default();
        let mut interrupts = interrupts_of(&interrupts);
        for interrupt in &mut interrupts {
            let number = interrupt.number;
            let path = |file| format!("proc/irq/{number}/{file}");
            // The effective one is a choice among those that are allowed.
            let cores = files
                .text(&path("effective_affinity_list"))
                .or_else(|| files.text(&path("smp_affinity_list")));
            interrupt.cores = cores.map_or_else(Vec::new, |text| cores_of(&text));
        }
        let partition = files.own_group("cpuset", "cpuset.cpus.partition");
        Self {
            isolated: list("sys/devices/system/cpu/isolated"),
            tickless: list("sys/devices/system/cpu/nohz_full"),
            own_partition: partition.is_some_and(|text| text == "isolated"),
            interrupts,
            huge_pages: files
                .text("sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| chosen_of(&text)),
            swap_kib: files.text("proc/swaps").map(|text| swap_kib_of(&text)),
            swappiness: files.number("proc/sys/vm/swappiness"),
            timer_slack_ns: files.number("proc/self/timerslack_ns"),
            cards: cards(files),
        }
    }

    /// Whether nothing else is scheduled on this core.
    pub(super) fn is_isolated(&self, core: usize) -> bool {
        self.own_partition || self.isolated.contains(&core)
    }

    /// How many interrupts of devices this core has served.
    pub(super) fn served_by(&self, core: usize) -> u64 {
        let served = self.interrupts.iter().flat_map(|interrupt| &interrupt.served);
        served.filter(|(by, _)| *by == core).map(|(_, count)| count).sum()
    }
}

/// Ethernet interfaces that are up, without what their cards say.
fn cards(files: &Files<'_>) -> Vec<Card> {
    /// ARPHRD_ETHER, `linux/if_arp.h`.
    const ETHERNET: u32 = 1;
    let mut cards = Vec::new();
    for name in files.names("sys/class/net") {
        let path = |file: &str| format!("sys/class/net/{name}/{file}");
        let is_up = files.text(&path("operstate")).is_some_and(|state| state == "up");
        if is_up && files.number(&path("type")) == Some(ETHERNET) {
            cards.push(Card {
                gro_flush_timeout_ns: files.number(&path("gro_flush_timeout")).unwrap_or(0),
                coalescing: Err("not asked".into()),
                name,
            });
        }
    }
    cards
}

/// The word in brackets: `always [madvise] never`.
fn chosen_of(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    (!word.is_empty()).then(|| word.to_owned())
}

/// The sizes of all swap spaces together: proc_swaps(5). The first line names the columns.
fn swap_kib_of(text: &str) -> u64 {
    // Filename, type, size, used, priority; a blank in a name is written as an escape.
    let size = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    text.lines().skip(1).filter_map(size).fold(0, u64::saturating_add)
}

/// Interrupts with a number, proc_interrupts(5). The others are the processor's own.
fn interrupts_of(text: &str) -> Vec<Interrupt> {
    let mut lines = text.lines();
    // The cores that are online, in columns: CPU0 CPU2 …
    let header = lines.next().unwrap_or_default().split_whitespace();
    let cores: Vec<usize> =
        header.filter_map(|word| word.strip_prefix("CPU")?.parse().ok()).collect();
    let interrupt = |line: &str| {
        let (number, rest) = line.trim_start().split_once(':')?;
        let number = number.parse().ok()?;
        let mut words = rest.split_whitespace();
        let counts: Vec<u64> =
            words.by_ref().take(cores.len()).map_while(|word| word.parse().ok()).collect();
        if counts.len() < cores.len() {
            return None;
        }
        // The chip, its own number, and then the device.
        let words: Vec<&str> = words.collect();
        let name = words.last().copied().unwrap_or("unnamed").to_owned();
        let served = cores.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect();
        Some(Interrupt { number, name, served, cores: Vec::new() })
    };
    lines.filter_map(interrupt).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::host::tests::FakeHost;
    use super::*;

    fn gather(fake: &FakeHost) -> Tuning {
        Tuning::gather(&Files::below(&fake.root))
    }

    #[test]
    fn word_in_brackets_is_chosen() {
        let chosen = |text: &str| chosen_of(text);
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("[always] madvise never").as_deref(), Some("always"));
        for bad in ["", "always madvise never", "always [", "[] always", "]["] {
            assert_eq!(chosen(bad), None, "{bad}");
        }
    }

    #[test]
    fn swap_spaces_are_added_up() {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert_eq!(swap_kib_of(head), 0);
        let two = "/dev/sda2 partition 2097148 0 -2\n/swap\\040file file 1024 512 -3\n";
        assert_eq!(swap_kib_of(&format!("{head}{two}")), 2_098_172);
        // Lines that make no sense are none.
        assert_eq!(swap_kib_of(&format!("{head}/dev/x partition\n/dev/y partition many 0\n")), 0);
        let huge = format!("/dev/z file {} 0 0\n", u64::MAX);
        assert_eq!(swap_kib_of(&format!("{head}{huge}{huge}")), u64::MAX);
        assert_eq!(swap_kib_of(""), 0);
    }

    #[test]
    fn interrupts_of_devices_are_read() {
        let text = "           CPU0       CPU2       \n\
             \x20 5:          0          0   IO-APIC   5-edge      ACPI:Ged\n\
             \x2038:          7      10008 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0\n\
             NMI:          0          0   Non-maskable interrupts\n\
             \x2039:          1\n\
             \x2040:          x          1   IO-APIC   odd\n\
             ERR:          0\n";
        let interrupts = interrupts_of(text);
        assert_eq!(interrupts.len(), 2, "{interrupts:?}");
        assert_eq!((interrupts[0].number, &*interrupts[0].name), (5, "ACPI:Ged"));
        assert!(interrupts[0].served.is_empty());
        assert_eq!(interrupts[1].served, [(0, 7), (2, 10_008)]);
        for bad in ["", "CPU0\n", "no header\n 1: 2 3\n", ":::\n:::"] {
            assert!(
                interrupts_of(bad).iter().all(|interrupt| interrupt.served.is_empty()),
                "{bad}"
            );
        }
    }

    #[test]
    fn files_of_a_tuned_host_are_read() {
        let fake = FakeHost::new("tuning");
        fake.write("sys/devices/system/cpu/isolated", "2-3\n")
            .write("sys/devices/system/cpu/nohz_full", "3\n")
            .write("proc/interrupts", "  CPU0 CPU1\n 9: 0 500 chip edge eth0-rx\n")
            .write("proc/irq/9/smp_affinity_list", "0-1\n")
            .write("proc/irq/9/effective_affinity_list", "1\n")
            .write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
            .write("proc/swaps", "Filename Type Size Used Priority\n/dev/x file 4096 0 0\n")
            .write("proc/sys/vm/swappiness", "60\n")
            .write("proc/self/timerslack_ns", "50000\n")
            .write("proc/self/cgroup", "0::/rt\n")
            .write("sys/fs/cgroup/rt/cpuset.cpus.partition", "isolated\n")
            .write("sys/class/net/eth0/operstate", "up\n")
            .write("sys/class/net/eth0/type", "1\n")
            .write("sys/class/net/eth0/gro_flush_timeout", "20000\n")
            .write("sys/class/net/eth1/operstate", "down\n")
            .write("sys/class/net/eth1/type", "1\n")
            .write("sys/class/net/lo/operstate", "unknown\n")
            .write("sys/class/net/lo/type", "772\n");
        let tuning = gather(&fake);
        assert_eq!(
            (tuning.isolated.as_slice(), tuning.tickless.as_slice()),
            (&[2, 3][..], &[3][..])
        );
        assert!(tuning.own_partition);
        assert_eq!(tuning.interrupts[0].cores, [1]);
        assert_eq!((tuning.served_by(0), tuning.served_by(1)), (0, 500));
        assert_eq!(tuning.huge_pages.as_deref(), Some("always"));
        assert_eq!((tuning.swap_kib, tuning.swappiness), (Some(4096), Some(60)));
        assert_eq!(tuning.timer_slack_ns, Some(50_000));
        let names: Vec<_> = tuning.cards.iter().map(|card| &*card.name).collect();
        assert_eq!(names, ["eth0"]);
        assert_eq!(tuning.cards[0].gro_flush_timeout_ns, 20_000);
    }

    #[test]
    fn nonsense_gives_no_facts() {
        let fake = FakeHost::new("nonsense");
        for file in [
            "sys/devices/system/cpu/isolated",
            "sys/devices/system/cpu/nohz_full",
            "proc/interrupts",
            "sys/kernel/mm/transparent_hugepage/enabled",
            "proc/sys/vm/swappiness",
            "proc/self/timerslack_ns",
            "sys/class/net/eth0/operstate",
        ] {
            fake.write(file, "(null) \u{1}garbage -1 99999999999999999999\n");
        }
        let tuning = gather(&fake);
        assert!(tuning.isolated.is_empty(), "nohz_full says (null) when there are none");
        assert!(tuning.tickless.is_empty());
        assert!(tuning.interrupts.is_empty());
        assert_eq!(
            (tuning.huge_pages, tuning.swappiness, tuning.timer_slack_ns),
            (None, None, None)
        );
        assert!(tuning.cards.is_empty());
        let nothing = Tuning::gather(&Files::below(Path::new("/nowhere")));
        assert_eq!(nothing.swap_kib, None);
        assert!(!nothing.is_isolated(0));
    }
}
