//! What Ringwire is held to beside others, and whether a run shows it.
//!
//! Every goal is a ratio to something measured in the same rounds, but for the one of requests
//! beside bulk: its other side, the case without bulk, was measured before it. Goals whose subjects
//! did not run are left out. Not judged are those whose figure takes more samples than there were,
//! and paced ones whose other side could not keep up with the rate. Where Ringwire alone could not,
//! the goal is missed.

use serde::Serialize;

use super::figure::{Figure, best_floor, best_peer, is_bulk_stream};
use super::paired::PairedRatio;
use super::record::Record;
use crate::job::{Case, Scenario};
use crate::subjects::clock;

/// What a goal's line keeps free for what it is about.
const WHAT_CHARS: usize = 46;

/// A case that has been measured.
pub struct Done {
    pub case: Case,
    pub records: Vec<Record>,
}

/// Whether a goal was met: a JSON line of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Always `verdict`: no case is called so.
    pub scenario: &'static str,
    /// Who is held to it.
    pub subject: String,
    /// The scenario of the case; the keys after it tell the case from the others.
    pub of: &'static str,
    pub payload_bytes: usize,
    pub connections: usize,
    pub rate_hz: Option<u32>,
    pub bulk: bool,
    /// What people call the case.
    pub case: String,
    pub figure: &'static str,
    /// Whose figure it is compared with.
    pub other: String,
    /// `null` when it is not judged. Not rounded: a goal is not met by a little more. Of what each
    /// round has the median of the rounds' own ratios, and its interval at 95 %.
    pub ratio: Option<f64>,
    pub ratio_low: Option<f64>,
    pub ratio_high: Option<f64>,
    pub relation: Relation,
    pub bound: f64,
    pub outcome: Outcome,
    /// Whether the bound lies within that interval; of a ratio without one, whether the rounds of
    /// either side differ too much in this figure.
    pub noisy: bool,
    /// What there is too little of, where it is not judged; and who could not keep up.
    pub lacks: Option<String>,
    /// Of the tail of a paced case beside a peer: that of two clocks that are read in turn with
    /// them, as a multiple of the same peer's: what the machine did to who spins in those minutes.
    /// No bound: its rounds are its own.
    pub clock: Option<f64>,
}

/// Which side of its bound a ratio is to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Relation {
    #[serde(rename = "<=")]
    AtMost,
    #[serde(rename = ">=")]
    AtLeast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    #[serde(rename = "met")]
    Met,
    #[serde(rename = "missed")]
    Missed,
    #[serde(rename = "not judged")]
    NotJudged,
}

/// A verdict for each goal whose subjects ran.
pub fn verdicts(done: &[Done]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for one in done {
        match one.case.scenario {
            Scenario::Rtt if one.case.payload_bytes == 64 => rtt(one, &mut verdicts),
            Scenario::Stream => stream(one, &mut verdicts),
            Scenario::Paced => paced(one, done, &mut verdicts),
            Scenario::Rtt | Scenario::FanIn => {}
        }
    }
    verdicts
}

fn rtt(one: &Done, verdicts: &mut Vec<Verdict>) {
    let spin = one.named("ringwire-spin");
    let park = one.named("ringwire-park");
    let (raw_spin, blocking) = (one.named("raw-spin"), one.named("raw-blocking"));
    let best = best_peer(Figure::P50, &one.records);
    let mut push = |figure, subject, other, bound| {
        verdicts.extend(judge(one, figure, subject, other, bound));
    };
    push(Figure::P50, spin, raw_spin, 1.10);
    push(Figure::P99, spin, raw_spin, 1.25);
    push(Figure::P50, park, blocking, 1.10);
    push(Figure::P99, park, blocking, 1.15);
    push(Figure::P50, spin, best, 0.5);
    push(Figure::P50, park, best, 1.0);
}

fn stream(one: &Done, verdicts: &mut Vec<Verdict>) {
    let spin = one.named("ringwire-spin");
    let mut push = |other, bound| {
        verdicts.extend(judge(one, Figure::Rate, spin, other, bound));
    };
    if one.case.payload_bytes == 64 {
        push(one.named("tokio"), 1.5);
        for name in ["omq-tokio", "omq-tokio-exclusive", "libzmq"] {
            push(one.named(name), 3.0);
        }
    }
    if is_bulk_stream(&one.case) {
        push(best_floor(&one.records), 0.9);
    }
}

fn paced(one: &Done, done: &[Done], verdicts: &mut Vec<Verdict>) {
    let spin = one.named("ringwire-spin");
    for figure in [Figure::P999, Figure::Max] {
        let Some(best) = best_peer(figure, &one.records) else { continue };
        let verdict = judge(one, figure, spin, Some(best), 1.0);
        let clock = clock_beside(one, figure, best);
        verdicts.extend(verdict.map(|verdict| Verdict {
            clock: clock.filter(|_| verdict.ratio.is_some()),
            ..verdict
        }));
    }
    let unloaded = |other: &&Done| other.case == Case { bulk: false, ..one.case };
    if one.case.bulk
        && let Some(unloaded) = done.iter().find(unloaded)
    {
        let verdict = judge(one, Figure::P99, spin, unloaded.named("ringwire-spin"), 2.0);
        verdicts.extend(verdict.map(|verdict| Verdict { other: "without bulk".into(), ..verdict }));
    }
}

/// A figure of who only reads the clock, as a multiple of another's.
fn clock_beside(one: &Done, figure: Figure, other: &Record) -> Option<f64> {
    let clock = one.named(clock::NAME).filter(|clock| figure.lacks(clock).is_none())?;
    Some(figure.value(clock)? / figure.value(other)?).filter(|ratio| ratio.is_finite())
}

impl Done {
    fn named(&self, name: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.subject == name && record.skipped.is_none())
    }
}

/// Judges a subject's figure as a multiple of another's; `None` where one of them has none. A rate
/// is to be at least the bound, a time at most.
fn judge(
    one: &Done,
    figure: Figure,
    subject: Option<&Record>,
    other: Option<&Record>,
    bound: f64,
) -> Option<Verdict> {
    let (subject, other) = (subject?, other?);
    let ratio = figure.multiple(subject, other)?;
    let few = [subject, other].into_iter().find_map(|record| {
        let (had, needed) = (grouped(record.samples), grouped(figure.lacks(record)?));
        Some(format!("{had} samples, {} needs {needed}", figure.name()))
    });
    let (behind, other_behind) = (is_behind(&one.case, subject), is_behind(&one.case, other));
    // Who alone can not keep up is the slower one, however few samples say so.
    let misses = behind.is_some() && other_behind.is_none();
    let lacking = if misses { behind } else { few.or(other_behind) };
    let relation = if figure == Figure::Rate { Relation::AtLeast } else { Relation::AtMost };
    let is_within = |ratio: f64| match relation {
        Relation::AtMost => ratio <= bound,
        Relation::AtLeast => ratio >= bound,
    };
    let is_met = is_within(ratio);
    let paired = figure.paired(subject, other);
    let noisy = match paired {
        Some(ratio) => ratio.is_doubtful(is_within),
        None => figure.is_noisy(subject) || figure.is_noisy(other),
    };
    let outcome = match &lacking {
        Some(_) if !misses => Outcome::NotJudged,
        None if is_met => Outcome::Met,
        _ => Outcome::Missed,
    };
    let bound_of =
        |of: fn(PairedRatio) -> f64| paired.filter(|_| outcome != Outcome::NotJudged).map(of);
    let case = one.case;
    Some(Verdict {
        scenario: "verdict",
        subject: subject.subject.clone(),
        of: case.scenario.name(),
        payload_bytes: case.payload_bytes,
        connections: case.connections,
        rate_hz: (case.scenario == Scenario::Paced).then_some(case.rate_hz),
        bulk: case.bulk,
        case: case.to_string(),
        figure: figure.name(),
        other: other.subject.clone(),
        ratio: (outcome != Outcome::NotJudged).then_some(ratio),
        ratio_low: bound_of(|ratio| ratio.low),
        ratio_high: bound_of(|ratio| ratio.high),
        relation,
        bound,
        outcome,
        noisy,
        lacks: lacking,
        clock: None,
    })
}

/// Who can not keep up with the rate of a paced case, if so: with one request in flight, half of
/// the round trips take longer than it leaves them. What is measured then is how far behind it was.
fn is_behind(case: &Case, record: &Record) -> Option<String> {
    let period_ns = case.period_ns()?;
    let p50_ns = record.p50_ns.filter(|&p50_ns| p50_ns > period_ns)?;
    let us = |ns: u64| ns as f64 / 1e3;
    let (name, p50, period) = (&record.subject, us(p50_ns), us(period_ns));
    Some(format!("{name} could not keep up: p50 of {p50:.0} us, a request every {period:.0} us"))
}

/// What people read: the goals under their cases.
pub fn render(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for of_case in verdicts.chunk_by(|one, next| one.case == next.case) {
        text += &format!(" {}\n", of_case[0].case);
        for verdict in of_case {
            text += &format!("   {verdict}\n");
        }
    }
    // Who could not keep up would not by more samples.
    let is_open = |verdict: &&Verdict| {
        let lacks = verdict.lacks.as_ref().filter(|lacks| lacks.contains(" samples, "));
        verdict.outcome == Outcome::NotJudged && lacks.is_some()
    };
    if verdicts.iter().filter(is_open).any(|verdict| verdict.of == Scenario::Paced.name()) {
        text += " Enough samples of every paced case takes: scripts/bench.sh long paced\n";
    }
    if verdicts.iter().filter(is_open).any(|verdict| verdict.of != Scenario::Paced.name()) {
        text += " More samples take: a longer --duration, or more --rounds\n";
    }
    if text.is_empty() { text } else { format!("goals\n{text}") }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = format!("{} of {} / {}", self.figure, self.subject, self.other);
        write!(f, "{what:<WHAT_CHARS$}  ")?;
        let relation = match self.relation {
            Relation::AtMost => "<=",
            Relation::AtLeast => ">=",
        };
        let outcome = match self.outcome {
            Outcome::Met => "met",
            Outcome::Missed => "MISSED",
            Outcome::NotJudged => {
                let lacks = self.lacks.as_deref().unwrap_or("too few samples");
                return write!(f, "not judged: {lacks}");
            }
        };
        let ratio = shown(self.ratio.unwrap_or(f64::NAN), self.bound);
        write!(f, "{ratio:>7}, goal {relation} {:.2}x: {outcome}", self.bound)?;
        match (self.noisy, self.ratio_low.zip(self.ratio_high)) {
            (true, Some((low, high))) => {
                let (low, high) = (shown(low, self.bound), shown(high, self.bound));
                write!(f, " (noisy {}-{high})", low.trim_end_matches('x'))?;
            }
            (true, None) => write!(f, " (noisy)")?,
            (false, _) => {}
        }
        self.clock.iter().try_for_each(|clock| write!(f, "; clock {clock:.2}x"))?;
        self.lacks.iter().try_for_each(|lacks| write!(f, "; {lacks}"))
    }
}

/// A ratio beside its bound: two decimals, and where it is near as many as show on which side.
fn shown(ratio: f64, bound: f64) -> String {
    let distance = (ratio - bound).abs();
    if distance == 0.0 || distance >= 0.005 || distance.is_nan() {
        return format!("{ratio:.2}x");
    }
    let mut texts = (3..=6).map(|decimals| format!("{ratio:.decimals$}"));
    let tells = |text: &String| text.parse() != Ok(bound);
    texts.find(tells).unwrap_or_else(|| format!("{ratio:.6}")) + "x"
}

/// `1234567` as `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::figure::tests::{CASE, record};
    use super::super::record::OfRound;
    use super::*;
    use crate::subjects::Role;

    fn case(scenario: Scenario) -> Case {
        Case { scenario, rate_hz: 1000, ..CASE }
    }

    fn done(case: Case, figures: &[(&str, Role, u64, f64)]) -> Done {
        let one = |&(name, role, ns, rate)| record(name, "spin", role, ns, rate);
        Done { case, records: figures.iter().map(one).collect() }
    }

    fn lines(done: &[Done]) -> Vec<String> {
        verdicts(done).iter().map(ToString::to_string).collect()
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
        let lines = lines(&[one]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("1.11x, goal <= 1.10x: MISSED"), "{lines:?}");
        assert!(lines[1].ends_with("1.11x, goal <= 1.25x: met"), "{lines:?}");
        assert!(lines[2].starts_with("p50 of ringwire-spin / tokio  "), "{lines:?}");
        assert!(lines[2].ends_with("0.56x, goal <= 0.50x: MISSED"), "{lines:?}");
    }

    #[test]
    fn rates_are_to_be_larger() {
        let figures = [
            ("ringwire-spin", Role::Ringwire, 1, 3.2),
            ("tokio", Role::Peer, 1, 2.0),
            ("libzmq", Role::Peer, 1, 1.1),
        ];
        let lines = lines(&[done(case(Scenario::Stream), &figures)]);
        assert!(lines[0].ends_with("1.60x, goal >= 1.50x: met"), "{lines:?}");
        assert!(lines[1].ends_with("2.91x, goal >= 3.00x: MISSED"), "{lines:?}");
    }

    /// Whoever that is: bytes without messages, or messages that are written as one.
    #[test]
    fn long_streams_are_held_against_the_fastest_floor() {
        let mut figures = [
            ("ringwire-spin", Role::Ringwire, 1, 8.0),
            ("raw-blocking", Role::Floor, 1, 7.0),
            ("raw-bulk", Role::Floor, 1, 10.0),
            ("raw-bulk-spin", Role::Floor, 1, 9.0),
            ("tokio", Role::Peer, 1, 99.0),
        ];
        let judged = |figures: &[_], bytes| {
            let long = Case { payload_bytes: bytes, ..case(Scenario::Stream) };
            let found = verdicts(&[done(long, figures)]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].outcome, found[0].bound), (Outcome::Missed, 0.9));
            (found[0].other.clone(), found[0].ratio)
        };
        for bytes in [64 << 10, 1 << 20] {
            assert_eq!(judged(&figures, bytes), ("raw-bulk".into(), Some(0.8)));
        }
        figures[1].3 = 16.0;
        assert_eq!(judged(&figures, 1 << 20), ("raw-blocking".into(), Some(0.5)));
        let short = done(case(Scenario::Stream), &figures[..4]);
        assert!(lines(&[short]).is_empty());
    }

    #[test]
    fn load_is_judged_beside_none() {
        let alone = done(case(Scenario::Paced), &[("ringwire-spin", Role::Ringwire, 1000, 1.0)]);
        let loaded = Case { bulk: true, ..case(Scenario::Paced) };
        let loaded = done(loaded, &[("ringwire-spin", Role::Ringwire, 2500, 1.0)]);
        let lines = lines(&[alone, loaded]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("p99 of ringwire-spin / without bulk"), "{lines:?}");
        assert!(lines[0].ends_with("2.50x, goal <= 2.00x: MISSED"), "{lines:?}");
    }

    /// What the machine does to who spins stands beside the verdict, and does not change it.
    #[test]
    fn tail_of_a_clock_stands_beside_that_of_a_peer() {
        let figures = [
            ("clock", Role::Floor, 4000, 1.0),
            ("ringwire-spin", Role::Ringwire, 4100, 1.0),
            ("tokio", Role::Peer, 2000, 1.0),
        ];
        let mut one = done(case(Scenario::Paced), &figures);
        let told = lines(std::slice::from_ref(&one));
        assert_eq!(told.len(), 2, "{told:?}");
        for line in told {
            assert!(line.ends_with("2.05x, goal <= 1.00x: MISSED; clock 2.00x"), "{line}");
        }
        // Of too few samples its maximum says nothing, and beside nothing there is nothing to say.
        one.records[0].samples = 9_999;
        let clocks = |one: &Done| {
            let found = verdicts(std::slice::from_ref(one));
            found.iter().map(|verdict| verdict.clock).collect::<Vec<_>>()
        };
        assert_eq!(clocks(&one), [None, None]);
        one.records[0].samples = 10_500;
        assert_eq!(clocks(&one), [Some(2.0), Some(2.0)]);
        one.records[2].samples = 1_050;
        assert_eq!(clocks(&one), [None, None]);
    }

    #[test]
    fn too_few_samples_are_not_judged() {
        let figures =
            [("ringwire-spin", Role::Ringwire, 1000, 1.0), ("tokio", Role::Peer, 2000, 1.0)];
        let mut one = done(case(Scenario::Paced), &figures);
        let judged = verdicts(std::slice::from_ref(&one));
        assert!(judged.iter().all(|verdict| verdict.outcome == Outcome::Met), "{judged:?}");
        assert!(!render(&judged).contains("scripts/bench.sh"));
        one.records[1].samples = 1_050;
        let found = verdicts(&[one]);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|verdict| verdict.ratio.is_none()), "{found:?}");
        let text = render(&found);
        for said in [
            "p99.9 of ringwire-spin / tokio",
            "not judged: 1,050 samples, p99.9 needs 10,000\n",
            "not judged: 1,050 samples, max needs 10,000\n",
            "scripts/bench.sh long paced\n",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    /// Not as it is shown: a thousandth too much is too much, and stands there.
    #[test]
    fn ratios_are_not_rounded_before_they_are_judged() {
        let rtt = |ns: u64| {
            let figures = [
                ("raw-spin", Role::Floor, 10_000, 1.0),
                ("ringwire-spin", Role::Ringwire, ns, 1.0),
            ];
            lines(&[done(case(Scenario::Rtt), &figures)]).swap_remove(0)
        };
        for (ns, said) in [
            (11_000, "  1.10x, goal <= 1.10x: met"),
            (11_009, " 1.101x, goal <= 1.10x: MISSED"),
            (11_001, "1.1001x, goal <= 1.10x: MISSED"),
            (10_960, " 1.096x, goal <= 1.10x: met"),
            (11_050, " 1.105x, goal <= 1.10x: MISSED"),
            (11_060, "  1.11x, goal <= 1.10x: MISSED"),
        ] {
            assert!(rtt(ns).ends_with(said), "{said}: {}", rtt(ns));
        }
        let stream = |rate| {
            let figures =
                [("ringwire-spin", Role::Ringwire, 1, rate), ("tokio", Role::Peer, 1, 1000.0)];
            let found = verdicts(&[done(case(Scenario::Stream), &figures)]);
            (found[0].outcome, found[0].ratio)
        };
        assert_eq!(stream(1499.0), (Outcome::Missed, Some(1.499)));
        assert_eq!(stream(1500.0), (Outcome::Met, Some(1.5)));
        assert_eq!(shown(1.100_000_01, 1.1), "1.100000x");
    }

    /// With one request in flight, whose latency counts from when it was due.
    #[test]
    fn beside_who_can_not_keep_up_nothing_is_judged() {
        let paced = |ns| {
            let case = Case { rate_hz: 10_000, ..case(Scenario::Paced) };
            let peer = ("tokio", Role::Peer, ns, 1.0);
            done(case, &[("ringwire-spin", Role::Ringwire, 10_000, 1.0), peer])
        };
        let outcomes =
            |one: Done| verdicts(&[one]).iter().map(|verdict| verdict.outcome).collect::<Vec<_>>();
        assert_eq!(outcomes(paced(100_000)), [Outcome::Met; 2]);
        let late = verdicts(&[paced(250_000)]);
        assert_eq!(late.len(), 2);
        assert!(late.iter().all(|verdict| verdict.ratio.is_none()), "{late:?}");
        let text = render(&late);
        let said = "not judged: tokio could not keep up: p50 of 250 us, a request every 100 us\n";
        assert_eq!(text.matches(said).count(), 2, "{text}");
        assert!(!text.contains("samples"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 140), "{text}");
    }

    /// Its own slowness does not leave a goal open, with many samples or few; a slow peer's does.
    #[test]
    fn goal_of_who_alone_can_not_keep_up_is_missed() {
        let of = |own_ns, other_ns, samples| {
            let case = Case { rate_hz: 10_000, ..case(Scenario::Paced) };
            let peer = ("tokio", Role::Peer, other_ns, 1.0);
            let mut one = done(case, &[("ringwire-spin", Role::Ringwire, own_ns, 1.0), peer]);
            one.records[0].samples = samples;
            verdicts(&[one])
        };
        for samples in [10_500, 700] {
            let late = of(250_000, 50_000, samples);
            assert_eq!(late.len(), 2);
            let said = "   5.00x, goal <= 1.00x: MISSED; ringwire-spin could not keep up: \
                p50 of 250 us, a request every 100 us";
            for verdict in &late {
                assert_eq!((verdict.outcome, verdict.ratio), (Outcome::Missed, Some(5.0)));
                assert!(verdict.to_string().ends_with(said), "{verdict}");
            }
        }
        let both = of(250_000, 200_000, 10_500);
        assert!(both.iter().all(|verdict| verdict.outcome == Outcome::NotJudged), "{both:?}");
        assert!(both[0].to_string().contains("tokio could not keep up"), "{}", both[0]);
    }

    /// Of either side, and in the figure that is judged, where that is no figure of rounds.
    #[test]
    fn disturbed_rounds_are_said() {
        let figures =
            [("ringwire-spin", Role::Ringwire, 1_000, 1.0), ("tokio", Role::Peer, 2_000, 1.0)];
        let mut one = done(case(Scenario::Paced), &figures);
        let peer = &mut one.records[1];
        (peer.p99_9_ns_low, peer.p99_9_ns_high) = (Some(1), Some(2));
        (peer.p50_ns_low, peer.p50_ns_high) = (Some(1), Some(9));
        assert!(lines(std::slice::from_ref(&one))[0].ends_with(": met"));
        one.records[1].p99_9_ns_high = Some(3);
        assert!(lines(&[one])[0].ends_with(": met (noisy)"));
    }

    /// Medians can not tell what the rounds do not. Slow rounds of both sides do no harm.
    #[test]
    fn verdicts_that_may_be_the_other_one_are_noisy() {
        let verdict = |rates: [f64; 7], bulk| {
            let figures =
                [("ringwire-spin", Role::Ringwire, 1, 3.2), ("tokio", Role::Peer, 1, 2.0)];
            let mut one = done(case(Scenario::Stream), &figures);
            let of_round = |rate: f64| OfRound { p50_ns: None, p99_ns: None, frames_per_s: rate };
            one.records[0].by_round = rates.map(of_round).to_vec();
            let peer = [2.0, 1.2, 2.0, 2.0, 2.0, 2.0, 2.0];
            one.records[1].by_round = peer.map(of_round).to_vec();
            one.records[1].bulk = bulk;
            let verdict = verdicts(&[one]).swap_remove(0);
            assert_eq!(verdict.noisy, verdict.to_string().contains("(noisy"), "{verdict}");
            verdict
        };
        let noisy = |rates, bulk| verdict(rates, bulk).noisy;
        assert!(!noisy([3.2, 1.9, 3.2, 3.2, 3.2, 3.2, 3.2], false));
        let one_against = [3.2, 1.9, 2.9, 3.2, 3.2, 3.2, 3.2];
        assert!(noisy(one_against, false));
        assert!(!noisy(one_against, true), "they did not take turns");
        let shown = verdict(one_against, false).to_string();
        assert!(shown.ends_with("1.60x, goal >= 1.50x: met (noisy 1.45-1.60x)"), "{shown}");
    }

    /// Rounds of a machine that changes its speed, as long as it does so for both sides.
    #[test]
    fn slow_rounds_of_both_sides_are_no_noise() {
        let of_round = |rate: f64| OfRound { p50_ns: None, p99_ns: None, frames_per_s: rate };
        let speeds = [1.0, 3.0, 1.0, 2.0, 1.0, 3.0, 1.0];
        let figures = [("ringwire-spin", Role::Ringwire, 1, 2.0), ("tokio", Role::Peer, 1, 1.0)];
        let mut one = done(case(Scenario::Stream), &figures);
        for (record, rate) in one.records.iter_mut().zip([2.0, 1.0]) {
            record.by_round = speeds.map(|speed| of_round(rate * speed)).into();
            record.frames_per_s_low = Some(rate);
            record.frames_per_s_high = Some(3.0 * rate);
        }
        let verdict = verdicts(&[one]).swap_remove(0);
        assert_eq!((verdict.ratio, verdict.noisy), (Some(2.0), false));
        assert_eq!((verdict.ratio_low, verdict.ratio_high), (Some(2.0), Some(2.0)));
    }

    #[test]
    fn verdicts_are_lines_that_stand_for_themselves() {
        let paced = Case { bulk: true, ..case(Scenario::Paced) };
        let figures = [
            ("ringwire-spin", Role::Ringwire, 1000, 1.0),
            ("omq-tokio-exclusive", Role::Peer, 2000, 1.0),
        ];
        let found = verdicts(&[done(paced, &figures)]);
        let line = serde_json::to_string(&found[0]).expect("serialises");
        for said in [
            "{\"scenario\":\"verdict\",\"subject\":\"ringwire-spin\",\"of\":\"paced\"",
            "\"figure\":\"p99.9\",\"other\":\"omq-tokio-exclusive\",\"ratio\":0.5",
            "\"relation\":\"<=\",\"bound\":1.0,\"outcome\":\"met\",\"noisy\":false,\"lacks\":null",
        ] {
            assert!(line.contains(said), "{said}: {line}");
        }
        let text = render(&found);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!(text.matches("1 MiB beside it").count(), 1, "{text}");
    }
}
