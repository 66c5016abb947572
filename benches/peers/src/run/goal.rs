//! What Ringwire is held to beside others (DESIGN, "What it must cost"), and whether a run shows
//! it.
//!
//! Every goal is a ratio to something measured in the same rounds. Goals whose subjects did not run
//! are left out.

use super::record::Record;
use super::table::{Figure, best_peer};
use crate::job::{BULK_BYTES, Case, Scenario};

/// A case that has been measured.
pub struct Done {
    pub case: Case,
    pub records: Vec<Record>,
}

/// One line for each goal that can be judged: the ratio, the bound, met or missed.
pub fn verdicts(done: &[Done]) -> Vec<String> {
    let mut lines = Vec::new();
    for one in done {
        match one.case.scenario {
            Scenario::Rtt if one.case.payload_bytes == 64 => rtt(one, &mut lines),
            Scenario::Stream => stream(one, &mut lines),
            Scenario::Paced => paced(one, done, &mut lines),
            Scenario::Rtt | Scenario::FanIn => {}
        }
    }
    lines
}

fn rtt(one: &Done, lines: &mut Vec<String>) {
    let p50 = |r: &Record| r.p50_ns.map(|ns| ns as f64);
    let p99 = |r: &Record| r.p99_ns.map(|ns| ns as f64);
    let spin = one.named("ringwire-spin");
    let park = one.named("ringwire-park");
    let mut push = |line| lines.extend(line);
    push(at_most(one, "p50", spin, one.named("raw-spin"), p50, 1.10));
    push(at_most(one, "p99", spin, one.named("raw-spin"), p99, 1.25));
    push(at_most(one, "p50", park, one.named("raw-blocking"), p50, 1.10));
    push(at_most(one, "p99", park, one.named("raw-blocking"), p99, 1.15));
    let best = best_peer(Figure::P50, &one.records).map(|(record, _)| record);
    push(at_most(one, "p50", spin, best, p50, 0.5));
    push(at_most(one, "p50", park, best, p50, 1.0));
}

fn stream(one: &Done, lines: &mut Vec<String>) {
    let spin = one.named("ringwire-spin");
    let mut push = |line| lines.extend(line);
    if one.case.payload_bytes == 64 {
        push(at_least(one, spin, one.named("tokio"), 1.5));
        for name in ["omq-tokio", "omq-tokio-exclusive", "libzmq"] {
            push(at_least(one, spin, one.named(name), 3.0));
        }
    }
    if [64 << 10, BULK_BYTES].contains(&one.case.payload_bytes) {
        push(at_least(one, spin, one.named("raw-blocking"), 0.9));
    }
}

fn paced(one: &Done, done: &[Done], lines: &mut Vec<String>) {
    let spin = one.named("ringwire-spin");
    let p999 = |r: &Record| r.all_p99_9_ns.map(|ns| ns as f64);
    let max = |r: &Record| r.all_max_ns.map(|ns| ns as f64);
    for (name, figure) in
        [("p99.9", p999 as fn(&Record) -> Option<f64>), ("max", max as fn(&Record) -> Option<f64>)]
    {
        let peers = one.records.iter().filter(|r| r.role == "peer" && figure(r).is_some());
        let best =
            peers.min_by(|a, b| figure(a).unwrap_or(0.0).total_cmp(&figure(b).unwrap_or(0.0)));
        lines.extend(at_most(one, name, spin, best, figure, 1.0));
    }
    let unloaded = |other: &&Done| other.case == Case { bulk: false, ..one.case };
    if one.case.bulk
        && let Some(unloaded) = done.iter().find(unloaded)
        && let (Some(loaded), Some(alone)) = (spin, unloaded.named("ringwire-spin"))
        && let (Some(loaded), Some(alone)) = (loaded.p99_ns, alone.p99_ns)
    {
        let ratio = loaded as f64 / alone as f64;
        lines.push(verdict(one, "p99 of ringwire-spin", "without bulk", ratio, 2.0, ratio <= 2.0));
    }
}

impl Done {
    fn named(&self, name: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.subject == name && record.skipped.is_none())
    }
}

fn at_most(
    one: &Done,
    name: &str,
    subject: Option<&Record>,
    other: Option<&Record>,
    figure: impl Fn(&Record) -> Option<f64>,
    bound: f64,
) -> Option<String> {
    let (subject, other) = (subject?, other?);
    let ratio = figure(subject)? / figure(other)?;
    let what = format!("{name} of {}", subject.subject);
    Some(verdict(one, &what, &other.subject, ratio, bound, shown(ratio) <= bound))
}

fn at_least(
    one: &Done,
    subject: Option<&Record>,
    other: Option<&Record>,
    bound: f64,
) -> Option<String> {
    let (subject, other) = (subject?, other?);
    let ratio = subject.frames_per_s? / other.frames_per_s?;
    let what = format!("frames/s of {}", subject.subject);
    let line = verdict(one, &what, &other.subject, ratio, bound, shown(ratio) >= bound);
    Some(line.replace("<=", ">="))
}

/// As it is shown, with two decimals.
fn shown(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

fn verdict(one: &Done, what: &str, other: &str, ratio: f64, bound: f64, is_met: bool) -> String {
    let met = if is_met { "met" } else { "MISSED" };
    format!("{}: {what} / {other}: {ratio:.2}x, goal <= {bound:.2}x: {met}", one.case)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::record::Who;
    use crate::subjects::Role;

    fn case(scenario: Scenario) -> Case {
        Case { scenario, payload_bytes: 64, connections: 1, rate_hz: 1000, bulk: false }
    }

    fn record(case: &Case, name: &str, role: Role, ns: u64, rate: f64) -> Record {
        let who = Who { name: name.into(), idle: "spin", transport: "tcp", role, version: None };
        Record {
            skipped: None,
            p50_ns: Some(ns),
            p99_ns: Some(ns),
            all_p99_9_ns: Some(ns),
            all_max_ns: Some(ns),
            frames_per_s: Some(rate),
            ..Record::skipped(&who, case, String::new())
        }
    }

    fn done(case: Case, figures: &[(&str, Role, u64, f64)]) -> Done {
        let records = figures.iter().map(|&(n, role, ns, rate)| record(&case, n, role, ns, rate));
        Done { case, records: records.collect() }
    }

    #[test]
    fn goals_are_judged_by_what_ran() {
        let one = done(
            case(Scenario::Rtt),
            &[
                ("raw-spin", Role::Floor, 1000, 1.0),
                ("ringwire-spin", Role::Ringwire, 1110, 1.0),
                ("tokio", Role::Peer, 2000, 1.0),
            ],
        );
        let lines = verdicts(&[one]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("raw-spin: 1.11x, goal <= 1.10x: MISSED"), "{lines:?}");
        assert!(lines[1].ends_with("1.11x, goal <= 1.25x: met"), "{lines:?}");
        assert!(lines[2].ends_with("tokio: 0.56x, goal <= 0.50x: MISSED"), "{lines:?}");
    }

    #[test]
    fn rates_are_to_be_larger() {
        let figures = [
            ("ringwire-spin", Role::Ringwire, 1, 3.2),
            ("tokio", Role::Peer, 1, 2.0),
            ("libzmq", Role::Peer, 1, 1.1),
        ];
        let lines = verdicts(&[done(case(Scenario::Stream), &figures)]);
        assert!(lines[0].ends_with("tokio: 1.60x, goal >= 1.50x: met"), "{lines:?}");
        assert!(lines[1].ends_with("libzmq: 2.91x, goal >= 3.00x: MISSED"), "{lines:?}");
    }

    #[test]
    fn load_is_judged_beside_none() {
        let alone = done(case(Scenario::Paced), &[("ringwire-spin", Role::Ringwire, 1000, 1.0)]);
        let loaded = Case { bulk: true, ..case(Scenario::Paced) };
        let loaded = done(loaded, &[("ringwire-spin", Role::Ringwire, 2500, 1.0)]);
        let lines = verdicts(&[alone, loaded]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with("without bulk: 2.50x, goal <= 2.00x: MISSED"), "{lines:?}");
    }
}
