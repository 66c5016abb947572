//! Who else had the machine while something was measured on it: what the cores did in all
//! (`/proc/stat`), what of it was this process, and how often its spinning thread had to make room.
//!
//! Figures that were taken in company say nothing of the host. What the hypervisor gave to others
//! counts as taken, too.

use std::fs;

use ringwire::Nanos;
use serde::Serialize;

use super::report::Check;

/// More of the cores' time than this, in hundredths, spoils the figures.
const OTHERS_PERCENT_MAX: u64 = 10;
/// Preemptions of the spinning thread in 0.4 s.
const PREEMPTED_MAX: u64 = 20;
/// What `/proc` counts time in (USER_HZ, proc(5)).
const TICKS_PER_SECOND: u64 = 100;

/// Who else had the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Company {
    /// Of the time of all cores, what was not this process's and not idle; `None` when `/proc` does
    /// not say.
    pub(super) others_percent: Option<u64>,
    /// Tasks that ran or wanted to, on average of the minute before, in hundredths.
    pub(super) load_hundredths: Option<u64>,
    /// How often the spinning thread was taken off its core for another.
    pub(super) preempted: Option<u64>,
}

/// What has been used up to some moment, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    at: Nanos,
    cores: u64,
    /// Of all cores together.
    all: u64,
    /// By this process.
    own: u64,
}

impl Used {
    pub(super) fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(Nanos::now(), &stat, &own)
    }

    fn parse(at: Nanos, stat: &str, own: &str) -> Option<Self> {
        let mut lines = stat.lines();
        let total = lines.next()?.strip_prefix("cpu ")?;
        let mut fields = [0; 8];
        for (field, text) in fields.iter_mut().zip(total.split_whitespace()) {
            *field = text.parse().ok()?;
        }
        // user nice system idle iowait irq softirq steal; proc_stat(5).
        let [user, nice, system, _idle, _iowait, irq, softirq, steal] = fields;
        // The command in parentheses may hold anything; fields 14 and 15 of proc_pid_stat(5).
        let mut fields = own[own.rfind(')')? + 1..].split_whitespace().skip(11);
        let mut next = || fields.next()?.parse::<u64>().ok();
        Some(Self {
            at,
            cores: lines.filter(|line| line.starts_with("cpu")).count() as u64,
            all: user + nice + system + irq + softirq + steal,
            own: next()? + next()?,
        })
    }

    /// What others have used since, in hundredths of the cores' time.
    fn others_percent(self, now: Self) -> Option<u64> {
        let nanos = u64::try_from(now.at.since(self.at).as_nanos()).ok()?;
        let there_was = nanos.saturating_mul(TICKS_PER_SECOND * now.cores) / 1_000_000_000;
        let all = now.all.saturating_sub(self.all);
        let others = all.saturating_sub(now.own.saturating_sub(self.own));
        (100 * others).checked_div(there_was).map(|percent| percent.min(100))
    }
}

/// How often the calling thread was preempted so far.
pub(super) fn preempted() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

impl Company {
    /// Between `before` and now, with what the spinning thread found.
    pub(super) fn since(before: Option<Used>, preempted: Option<u64>) -> Self {
        Self {
            others_percent: before.zip(Used::now()).and_then(|(old, new)| old.others_percent(new)),
            load_hundredths: fs::read_to_string("/proc/loadavg").ok().and_then(|text| {
                let (whole, hundredths) = text.split_whitespace().next()?.split_once('.')?;
                Some(100 * whole.parse::<u64>().ok()? + hundredths.parse::<u64>().ok()?)
            }),
            preempted,
        }
    }

    /// Whether the figures can be trusted.
    pub(super) fn check(&self) -> Check {
        const CHECK: &str = "company";
        let mut found = match self.others_percent {
            Some(percent) => format!("others had {percent}% of the cores' time"),
            None => "what others used is not known".into(),
        };
        if let Some(load) = self.load_hundredths {
            found += &format!(", load {}.{:02}", load / 100, load % 100);
        }
        if let Some(preempted) = self.preempted {
            found += &format!("; spinning was preempted {preempted} times");
        }
        let is_busy = self.others_percent.is_some_and(|percent| percent > OTHERS_PERCENT_MAX)
            || self.preempted.is_some_and(|times| times > PREEMPTED_MAX);
        if is_busy {
            return Check::better(CHECK, found).advice(
                "the machine was busy: do not trust these figures, measure again when it is not",
            );
        }
        Check::good(CHECK, found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn used(millis: u64, busy: u64, own: u64) -> Used {
        let stat = format!("cpu  {busy} 0 0 900 80 0 0 0 0 0\ncpu0 1 2\ncpu1 3 4\nintr 5\n");
        let process = format!("7 (a) b) R 1 2 3 4 5 6 7 8 9 10 {own} 0 0 0");
        Used::parse(Nanos(millis * 1_000_000), &stat, &process).expect("as proc_stat(5) says")
    }

    #[test]
    fn others_are_all_but_this_process_and_idle() {
        // Two cores for two seconds are 400 ticks.
        assert_eq!(used(0, 100, 10).others_percent(used(2_000, 400, 190)), Some(30));
        assert_eq!(used(0, 100, 10).others_percent(used(2_000, 300, 210)), Some(0));
        assert_eq!(used(0, 100, 10).others_percent(used(0, 300, 210)), None);
        assert!(Used::now().is_some() && preempted().is_some(), "Linux has them");
    }

    #[test]
    fn busy_machine_is_told() {
        let check = |others, preempted| {
            let company = Company {
                others_percent: Some(others),
                load_hundredths: Some(307),
                preempted: Some(preempted),
            };
            company.check()
        };
        let quiet = check(OTHERS_PERCENT_MAX, PREEMPTED_MAX);
        assert_eq!(quiet.verdict, Verdict::Good);
        let expected =
            "others had 10% of the cores' time, load 3.07; spinning was preempted 20 times";
        assert_eq!(quiet.found, expected);
        for busy in [check(OTHERS_PERCENT_MAX + 1, 0), check(0, PREEMPTED_MAX + 1)] {
            assert_eq!(busy.verdict, Verdict::CouldBeBetter);
            assert!(busy.advice.is_some_and(|advice| advice.contains("do not trust")));
        }
        let unknown = Company::default().check();
        assert_eq!(unknown.found, "what others used is not known");
    }
}
