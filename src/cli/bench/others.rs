//! Who else ran on this machine while something was measured: a busy neighbour makes figures worth
//! less, and does not say so. `benches/peers` has this file, too.
//!
//! By the CPU times of all processes, before and after: proc_pid_stat(5). Those of a process that
//! has ended meanwhile are its parent's, once that has waited for it; of one whose end nobody waits
//! for nothing is seen, nor of processes that /proc does not show. Threads of the kernel are left
//! out: much of their work is done for who is measured. It is a mean over the whole run.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use ringwire::time::Nanos;

/// Clock ticks in a second: USER_HZ, which is 100 wherever io_uring is used.
const TICKS_PER_S: f64 = 100.0;
/// Told from so many processors on.
const PROCESSORS_MIN: f64 = 0.05;
/// PF_KTHREAD of include/linux/sched.h, in the ninth field of proc_pid_stat(5).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// All other processes at an instant.
#[derive(Debug)]
pub(crate) struct Others {
    at: Nanos,
    processes: BTreeMap<u32, Process>,
}

/// What others had since, shown as a note below tables: lines of 80 columns at most.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Busy {
    /// Of all others together.
    processors: f64,
    /// Who had most of it.
    name: String,
    pid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    name: String,
    parent: u32,
    /// When it started: a number may be given again.
    started: u64,
    /// CPU time of itself and of the children it has waited for.
    ticks: u64,
}

impl Others {
    /// Looks at all processes but this one. Takes some milliseconds.
    pub(crate) fn now() -> Self {
        let own = std::process::id();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of = |pid| Some((pid, Process::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)?));
        let processes = pids.filter(|&pid| pid != own).filter_map(of).collect();
        Self { at: Nanos::now(), processes }
    }

    /// What others had between `before` and this, where it is worth telling.
    pub(crate) fn since(&self, before: &Self) -> Option<Busy> {
        let known = |pid: u32, process: &Process| {
            let found = before.processes.get(&pid);
            found.filter(|found| found.started == process.started)
        };
        // With a child that has ended its parent was given what that had had before, too.
        let is_gone = |(pid, process): &(&u32, &Process)| {
            self.processes.get(pid).is_none_or(|now| now.started != process.started)
        };
        let mut inherited = BTreeMap::<u32, u64>::new();
        for (_, gone) in before.processes.iter().filter(is_gone) {
            *inherited.entry(gone.parent).or_default() += gone.ticks;
        }
        let ticks_of = |(&pid, process): (&u32, &Process)| {
            let had = known(pid, process).map_or(0, |known| known.ticks);
            let inherited = inherited.get(&pid).copied().unwrap_or(0);
            (pid, process.ticks.saturating_sub(had + inherited))
        };
        let had: Vec<(u32, u64)> = self.processes.iter().map(ticks_of).collect();
        let all: u64 = had.iter().map(|(_, ticks)| ticks).sum();
        let &(pid, _) = had.iter().max_by_key(|(_, ticks)| ticks)?;
        let elapsed_s = self.at.since(before.at).as_secs_f64();
        let processors = all as f64 / TICKS_PER_S / elapsed_s;
        let name = self.processes[&pid].name.clone();
        (processors >= PROCESSORS_MIN).then_some(Busy { processors, name, pid })
    }
}

impl Process {
    /// One line of proc_pid_stat(5). `None` of the kernel's own threads.
    fn parse(stat: &[u8]) -> Option<Self> {
        let stat = String::from_utf8_lossy(stat);
        // A name may have spaces and parentheses of its own.
        let (head, tail) = stat.rsplit_once(") ")?;
        let (_, name) = head.split_once(" (")?;
        // From the third on: the first two were the number and the name.
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        if field(9)? & KERNEL_THREAD != 0 {
            return None;
        }
        // utime, stime, cutime and cstime.
        let ticks = (14..=17).map(field).sum::<Option<u64>>()?;
        let parent = u32::try_from(field(4)?).ok()?;
        Some(Self { name: name.to_owned(), parent, started: field(22)?, ticks })
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processors, name, pid } = self;
        write!(
            f,
            " This machine was busy: other processes had {processors:.2} processors meanwhile,\n \
             {name} ({pid}) most of it."
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stat(flags: u64, ticks: [u64; 4], started: u64) -> String {
        let [user, system, children, of_children] = ticks;
        format!(
            "7 (a (b) c) S 1 7 7 0 -1 {flags} 1 2 3 4 {user} {system} {children} {of_children} \
             20 0 1 0 {started} 0\n"
        )
    }

    fn others(at_s: u64, processes: &[(u32, u64, u64)]) -> Others {
        let process = |&(pid, started, ticks)| {
            let stat = stat(0, [ticks, 0, 0, 0], started);
            (pid, Process::parse(stat.as_bytes()).expect("well-formed"))
        };
        let at = Nanos(0) + Duration::from_secs(at_s);
        Others { at, processes: processes.iter().map(process).collect() }
    }

    #[test]
    fn line_of_a_process_is_read() {
        let process = Process { name: "a (b) c".into(), parent: 1, started: 99, ticks: 10 };
        assert_eq!(Process::parse(stat(64, [1, 2, 3, 4], 99).as_bytes()), Some(process));
        assert_eq!(Process::parse(stat(64 | KERNEL_THREAD, [1; 4], 9).as_bytes()), None);
        assert_eq!(Process::parse(b"7 (a) S 1"), None);
    }

    #[test]
    fn who_had_most_is_named() {
        let before = others(0, &[(1, 5, 1000), (2, 5, 1000), (3, 5, 900), (9, 5, 100)]);
        // A number that was given again, and one that has gone.
        let after = others(10, &[(1, 5, 1000), (2, 5, 1040), (3, 6, 700)]);
        let busy = after.since(&before).expect("0.74 processors");
        assert_eq!(
            busy.to_string(),
            " This machine was busy: other processes had 0.74 processors meanwhile,\n \
             a (b) c (3) most of it."
        );
        assert_eq!(others(100, &[(2, 5, 1400)]).since(&before), None, "0.04 processors");
        assert_eq!(others(9, &[]).since(&before), None);
        // 3 and 9 were children of 1, which has waited for them: 0.2 processors are new.
        let after = others(10, &[(1, 5, 2200), (2, 5, 1000)]);
        let busy = after.since(&before).expect("0.2 processors");
        assert!(
            busy.to_string().contains("had 0.20 processors meanwhile,\n a (b) c (1)"),
            "{busy}"
        );
    }

    /// A loop of the shell's, which takes what it can get, and ends by itself if need be.
    #[test]
    fn busy_process_is_found() {
        let before = Others::now();
        let mut sh = std::process::Command::new("sh");
        let count = "i=0; while [ $i -lt 100000000 ]; do i=$((i + 1)); done";
        let mut child = sh.args(["-c", count]).spawn().expect("sh");
        let deadline = Nanos::now() + Duration::from_secs(60);
        let found = loop {
            let now = Others::now();
            let it = now.processes.get(&child.id()).filter(|it| it.ticks > 0);
            if it.is_some_and(|it| it.name == "sh" && now.since(&before).is_some()) {
                break true;
            }
            if Nanos::now() > deadline {
                break false;
            }
        };
        child.kill().expect("our own");
        child.wait().expect("our own");
        assert!(found, "{:?}", Others::now().since(&before));
    }
}
