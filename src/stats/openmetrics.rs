//! A snapshot as text for Prometheus: OpenMetrics 1.0, or the older text format 0.0.4.
//!
//! Names follow the conventions of OpenMetrics: `ringwire_` before, the unit behind (`_seconds`,
//! `_bytes`), `_total` for counters, `_info` for what is told by labels alone. Times are in
//! seconds. Histograms are given with the bounds 1, 2, 5 from 1 µs to 10 s: 22 buckets, each exact
//! to the 0.8 % that the histograms tell apart.
//!
//! Every series has the label `reactor`, but for those of the whole node: what it is (`node_info`,
//! `start_time_seconds`), what its handles count (`handle_…_total`), and `sessions_omitted`.
//! Sessions have series of their own (`session_…`) while they are not over, at most
//! [`SESSIONS_MAX`] of them, the connected ones first: what a hostile crowd could make of them is
//! bounded. So their sum is not that of all sessions, which is there by reactor (`lane_…`).
//!
//! Allocates; some hundred microseconds for a reactor. Not for a reactor's thread.

use std::fmt::Write;

use crate::error::{CloseReason, DropReason};
use crate::stats::counters::{FIELDS, Field, FieldKind, LANES};
use crate::stats::histogram::Reading;
use crate::stats::layout::{HISTOGRAMS, RowState};
use crate::stats::reading::{ReactorReading, SessionReading, Snapshot};
use crate::time::{Nanos, wall_ns};

/// Sessions that have series of their own.
pub(crate) const SESSIONS_MAX: usize = 128;

const LANE_NAMES: [&str; LANES] = ["low", "normal", "high", "critical"];

/// Upper bounds of the buckets, in nanoseconds, and as they are written.
const BOUNDS: [(u64, &str); 22] = [
    (1_000, "1e-06"),
    (2_000, "2e-06"),
    (5_000, "5e-06"),
    (10_000, "1e-05"),
    (20_000, "2e-05"),
    (50_000, "5e-05"),
    (100_000, "0.0001"),
    (200_000, "0.0002"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_000_000, "0.002"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (20_000_000, "0.02"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (200_000_000, "0.2"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1.0"),
    (2_000_000_000, "2.0"),
    (5_000_000_000, "5.0"),
    (10_000_000_000, "10.0"),
];

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Prometheus,
}

impl Exposition {
    /// The value of the Content-Type header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The whole snapshot as text.
#[must_use]
pub fn exposition(snapshot: &Snapshot, form: Exposition) -> String {
    let mut text = Text { out: String::with_capacity(64 << 10), form };
    nodes(&mut text, snapshot);
    for (index, field) in FIELDS.iter().enumerate() {
        counter(&mut text, snapshot, index, field);
    }
    drops_and_closes(&mut text, snapshot);
    for (index, (name, help)) in HISTOGRAMS.iter().enumerate() {
        histogram(&mut text, snapshot, index, name, help);
    }
    lanes(&mut text, snapshot);
    sessions(&mut text, snapshot);
    if form == Exposition::OpenMetrics {
        text.out.push_str("# EOF\n");
    }
    text.out
}

/// What kind of figure a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Counter,
    Gauge,
    Histogram,
    /// What does not change as long as its labels do not; always 1.
    Info,
}

/// The text so far.
struct Text {
    out: String,
    form: Exposition,
}

impl Text {
    /// Begins a family. Returns the name of its samples.
    fn family(&mut self, name: &str, kind: Type, help: &str) -> String {
        let sample = match kind {
            Type::Counter => format!("ringwire_{name}_total"),
            Type::Info => format!("ringwire_{name}_info"),
            Type::Gauge | Type::Histogram => format!("ringwire_{name}"),
        };
        // The older format knows a counter by the name of its samples, and no information.
        let family = match self.form {
            Exposition::OpenMetrics => format!("ringwire_{name}"),
            Exposition::Prometheus => sample.clone(),
        };
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
            Type::Info if self.form == Exposition::Prometheus => "gauge",
            Type::Info => "info",
        };
        let _ = writeln!(self.out, "# TYPE {family} {kind}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit));
        if let Some(unit) = unit.filter(|_| self.form == Exposition::OpenMetrics) {
            let _ = writeln!(self.out, "# UNIT {family} {unit}");
        }
        let help = escape(help.trim_start());
        let _ = writeln!(self.out, "# HELP {family} {help}");
        sample
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {value}");
    }
}

/// A label's value, or a help text.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn reactors(snapshot: &Snapshot) -> impl Iterator<Item = (String, &ReactorReading)> {
    let labelled = |(index, reactor)| (format!("reactor=\"{index}\""), reactor);
    snapshot.reactors.iter().enumerate().map(labelled)
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn nodes(text: &mut Text, snapshot: &Snapshot) {
    let name = text.family("node", Type::Info, "The node; always 1.");
    let (node, version) = (escape(&snapshot.node_name), env!("CARGO_PKG_VERSION"));
    text.sample(&name, &format!("node=\"{node}\",version=\"{version}\""), 1);
    let help = "When the node started, since 1970 UTC.";
    let name = text.family("start_time_seconds", Type::Gauge, help);
    let _ = writeln!(text.out, "{name} {}", seconds(snapshot.created_wall_ns));
    let help = "For how long the turn under way has lasted; 0 between turns.";
    let name = text.family("turn_under_way_seconds", Type::Gauge, help);
    for (labels, reactor) in reactors(snapshot) {
        let nanos = snapshot.taken.0.saturating_sub(reactor.turn_began.0);
        let nanos = if reactor.is_in_turn { nanos } else { 0 };
        text.sample(&name, &labels, seconds(nanos));
    }
    let help = "Messages that the node's handles refused because they exceed the frame limit.";
    let name = text.family("handle_sends_too_large", Type::Counter, help);
    let _ = writeln!(text.out, "{name} {}", snapshot.handles_too_large);
    let help = "Messages that were received in time and expired in the node's inbox; those that \
                came too late are in messages_expired.";
    let name = text.family("handle_messages_expired", Type::Counter, help);
    let _ = writeln!(text.out, "{name} {}", snapshot.handles_overdue);
}

/// A counter's name as OpenMetrics wants it: the unit last, and no unit but a base unit.
fn metric_name(field: &Field) -> String {
    match (field.name.strip_prefix("bytes_"), field.name.strip_suffix("_ns")) {
        (Some(rest), _) => format!("{rest}_bytes"),
        (_, Some(rest)) => format!("{rest}_seconds"),
        _ => field.name.to_owned(),
    }
}

fn counter(text: &mut Text, snapshot: &Snapshot, index: usize, field: &Field) {
    let kind = match field.kind {
        FieldKind::Counter => Type::Counter,
        FieldKind::Gauge => Type::Gauge,
    };
    let is_time = field.name.ends_with("_ns");
    let is_instant = field.name == "last_activity_ns";
    let help = match is_instant {
        true => "When a byte last came or went, since 1970 UTC; 0 before.",
        false => field.help,
    };
    let name = text.family(&metric_name(field), kind, help);
    for (labels, reactor) in reactors(snapshot) {
        let word = reactor.counters.words().nth(index).expect("each field has a word");
        let value = word.load(std::sync::atomic::Ordering::Relaxed);
        let value = if is_instant { wall_ns_of(value) } else { value };
        match is_time {
            true => text.sample(&name, &labels, seconds(value)),
            false => text.sample(&name, &labels, value),
        }
    }
}

/// A monotonic instant of this run of the machine in nanoseconds since 1970 UTC, as the clock is
/// set now; 0 for none.
fn wall_ns_of(instant_ns: u64) -> u64 {
    match instant_ns {
        0 => 0,
        instant_ns => wall_ns().saturating_sub(Nanos::now().0.saturating_sub(instant_ns)),
    }
}

fn drops_and_closes(text: &mut Text, snapshot: &Snapshot) {
    let name = text.family("drops", Type::Counter, "Messages dropped, by lane and reason.");
    for (labels, reactor) in reactors(snapshot) {
        for (lane, drops) in LANE_NAMES.iter().zip(&reactor.counters.drops) {
            for (reason, counter) in DropReason::ALL.iter().zip(drops) {
                let labels = format!("{labels},lane=\"{lane}\",reason=\"{}\"", reason.name());
                text.sample(&name, &labels, counter.get());
            }
        }
    }
    let name = text.family("closes", Type::Counter, "Connections that ended, by reason.");
    for (labels, reactor) in reactors(snapshot) {
        for (reason, counter) in CloseReason::NAMES.iter().zip(&reactor.counters.closes) {
            text.sample(&name, &format!("{labels},reason=\"{reason}\""), counter.get());
        }
    }
}

fn histogram(text: &mut Text, snapshot: &Snapshot, index: usize, name: &str, help: &str) {
    let name = text.family(&format!("{name}_seconds"), Type::Histogram, help);
    for (labels, reactor) in reactors(snapshot) {
        let reading: &Reading = &reactor.histograms[index];
        for (bound, written) in BOUNDS {
            let labels = format!("{labels},le=\"{written}\"");
            text.sample(&format!("{name}_bucket"), &labels, reading.count_to(bound));
        }
        let count = reading.count();
        text.sample(&format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), count);
        text.sample(&format!("{name}_sum"), &labels, seconds(reading.sum_ns()));
        text.sample(&format!("{name}_count"), &labels, count);
    }
}

/// The lanes of all sessions that have a row, also of those without series of their own.
fn lanes(text: &mut Text, snapshot: &Snapshot) {
    let help = "Queued and in flight, of all sessions; of none that sessions_unlisted counts.";
    let name = text.family("lane_queued_bytes", Type::Gauge, help);
    for (labels, reactor) in reactors(snapshot) {
        for (index, lane) in LANE_NAMES.iter().enumerate() {
            let queued = reactor.sessions.iter().map(|session| session.lanes[index].bytes);
            let labels = format!("{labels},lane=\"{lane}\"");
            text.sample(&name, &labels, queued.fold(0, u64::saturating_add));
        }
    }
    let help = "How long the oldest message of any session has been queued; 0 without one.";
    let name = text.family("lane_oldest_seconds", Type::Gauge, help);
    for (labels, reactor) in reactors(snapshot) {
        for (index, lane) in LANE_NAMES.iter().enumerate() {
            let ages = reactor.sessions.iter().map(|session| session.lanes[index].oldest_ns);
            let labels = format!("{labels},lane=\"{lane}\"");
            text.sample(&name, &labels, seconds(ages.max().unwrap_or(0)));
        }
    }
}

/// Who comes first where there are too many: strangers that have said nothing yet come last.
const fn rank(state: RowState) -> u8 {
    match state {
        RowState::Connected => 0,
        RowState::Away => 1,
        RowState::Closing => 2,
        RowState::Connecting | RowState::Ended => 3,
    }
}

fn sessions(text: &mut Text, snapshot: &Snapshot) {
    let mut live: Vec<_> =
        snapshot.sessions().filter(|session| session.state != RowState::Ended).collect();
    live.sort_by_key(|session| rank(session.state));
    let shown = &live[..live.len().min(SESSIONS_MAX)];
    let help = "Sessions that have no series of their own.";
    let name = text.family("sessions_omitted", Type::Gauge, help);
    let _ = writeln!(text.out, "{name} {}", live.len() - shown.len());
    let labelled: Vec<_> = shown.iter().map(|session| (labels_of(session), session)).collect();

    let name = text.family("session", Type::Info, "A session, by where it stands; always 1.");
    for (labels, session) in &labelled {
        let address = escape(&session.address);
        let state = session.state.name();
        text.sample(&name, &format!("{labels},address=\"{address}\",state=\"{state}\""), 1);
    }
    type Figure = fn(&SessionReading) -> u64;
    let sent = "Messages handed to the kernel; what is queued is not among them.";
    let sent_bytes = "Bytes of messages handed to the kernel.";
    let counters: [(&str, &str, Figure); 4] = [
        ("session_messages_sent", sent, |session| session.messages_sent),
        ("session_messages_received", "Messages received.", |session| session.messages_received),
        ("session_sent_bytes", sent_bytes, |session| session.bytes_sent),
        ("session_received_bytes", "Bytes received.", |session| session.bytes_received),
    ];
    for (family, help, figure) in counters {
        let name = text.family(family, Type::Counter, help);
        for (labels, session) in &labelled {
            text.sample(&name, labels, figure(session));
        }
    }
    let help = "Messages dropped, by lane and reason; what never occurred is left out.";
    let name = text.family("session_drops", Type::Counter, help);
    for (labels, session) in &labelled {
        for (lane, drops) in LANE_NAMES.iter().zip(&session.drops) {
            for (reason, &count) in
                DropReason::ALL.iter().zip(drops).filter(|(_, count)| **count > 0)
            {
                let labels = format!("{labels},lane=\"{lane}\",reason=\"{}\"", reason.name());
                text.sample(&name, &labels, count);
            }
        }
    }
    let name = text.family("session_kept_bytes", Type::Gauge, "Unconfirmed reliable messages.");
    for (labels, session) in &labelled {
        text.sample(&name, labels, session.bytes_kept);
    }
    let name = text.family("session_lane_queued_bytes", Type::Gauge, "Queued and in flight.");
    for (labels, session) in &labelled {
        for (lane, reading) in LANE_NAMES.iter().zip(&session.lanes) {
            text.sample(&name, &format!("{labels},lane=\"{lane}\""), reading.bytes);
        }
    }
    let help = "How long the oldest message of the lane has been queued.";
    let name = text.family("session_lane_oldest_seconds", Type::Gauge, help);
    for (labels, session) in &labelled {
        for (lane, reading) in LANE_NAMES.iter().zip(&session.lanes) {
            let labels = format!("{labels},lane=\"{lane}\"");
            text.sample(&name, &labels, seconds(reading.oldest_ns));
        }
    }
    let help = "The last round trip of a heartbeat.";
    let name = text.family("session_round_trip_seconds", Type::Gauge, help);
    for (labels, session) in &labelled {
        if let Some(time) = session.round_trip {
            text.sample(&name, labels, time.as_secs_f64());
        }
    }
    let help = "How far the estimate of the peer's clock may be off.";
    let name = text.family("session_clock_error_seconds", Type::Gauge, help);
    for (labels, session) in &labelled {
        if let Some((_, error)) = session.clock {
            text.sample(&name, labels, seconds(error));
        }
    }
}

fn labels_of(session: &SessionReading) -> String {
    let (reactor, id) = (session.reactor, session.id());
    format!("reactor=\"{reactor}\",session=\"{id}\",peer=\"{}\"", escape(&session.peer_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_last() {
        let name = |name| {
            let field = FIELDS.iter().find(|field| field.name == name).expect("there is one");
            metric_name(field)
        };
        assert_eq!(name("bytes_sent"), "sent_bytes");
        assert_eq!(name("turn_longest_ns"), "turn_longest_seconds");
        assert_eq!(name("turns_slow"), "turns_slow");
    }

    #[test]
    fn bounds_are_what_is_written() {
        for (nanos, written) in BOUNDS {
            let parsed: f64 = written.parse().expect("a number");
            assert!((parsed - nanos as f64 / 1e9).abs() < 1e-15, "{written}");
        }
        assert!(BOUNDS.is_sorted());
    }

    /// The values of a family's samples that have `label`.
    fn values(text: &str, name: &str, label: &str) -> Vec<f64> {
        let ours = text.lines().filter_map(|line| line.strip_prefix(name));
        let ours = ours.filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label));
        ours.map(|rest| rest.rsplit(' ').next().expect("a value").parse().expect("a number"))
            .collect()
    }

    /// Strangers that dial and say nothing, before and behind two sessions and more of them than
    /// have series of their own.
    #[test]
    fn crowd_hides_no_session_and_no_queue() {
        use std::sync::atomic::Ordering::Relaxed;
        let config = crate::config::Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 2, SESSIONS_MAX + 3).expect("memory");
        for (reactor, block) in registry.blocks().iter().enumerate() {
            for (slot, row) in (1..).zip(block.rows.iter()) {
                let state = match slot {
                    2 if reactor == 1 => RowState::Closing,
                    3 if reactor == 1 => RowState::Connected,
                    4 if reactor == 1 => RowState::Ended,
                    _ => RowState::Connecting,
                };
                row.key.store(slot | 1 << 32, Relaxed);
                row.state.store(state.code(), Relaxed);
                row.updated_ns.store(9_000_000_000, Relaxed);
                row.lanes[1].bytes.store(100, Relaxed);
                row.lanes[1].oldest_ns.store(9_000_000_000 - slot * 10_000_000, Relaxed);
            }
        }
        let text = exposition(&registry.handle().snapshot(), Exposition::OpenMetrics);
        let all = values(&text, "ringwire_lane_queued_bytes", "lane=\"normal\"");
        assert_eq!(all, [100.0 * (SESSIONS_MAX + 3) as f64; 2], "of each reactor");
        let oldest = values(&text, "ringwire_lane_oldest_seconds", "lane=\"normal\"");
        assert_eq!(oldest, [seconds(10_000_000 * (SESSIONS_MAX as u64 + 3)); 2], "the last row's");
        assert_eq!(values(&text, "ringwire_lane_oldest_seconds", "lane=\"high\""), [0.0; 2]);
        assert!(text.contains("# UNIT ringwire_lane_queued_bytes bytes\n"), "{text}");
        assert!(text.contains("# UNIT ringwire_lane_oldest_seconds seconds\n"), "{text}");
        let shown = values(&text, "ringwire_session_info", "");
        let omitted = values(&text, "ringwire_sessions_omitted", "");
        assert_eq!((shown.len(), &omitted[..]), (SESSIONS_MAX, &[(SESSIONS_MAX + 5) as f64][..]));
        for state in ["connected", "closing"] {
            let label = format!("state=\"{state}\"");
            assert_eq!(values(&text, "ringwire_session_info", &label), [1.0], "{state}");
        }
        assert!(values(&text, "ringwire_session_info", "state=\"ended\"").is_empty());
        let own = values(&text, "ringwire_session_lane_queued_bytes", "session=\"1.3.0\"");
        assert_eq!(own, [0.0, 100.0, 0.0, 0.0]);
    }

    #[test]
    fn figures_agree_with_the_statistics_and_instants_are_wall_time() {
        let config = crate::config::Config::builder().registry(false).build().expect("valid");
        let registry = crate::stats::Registry::new(&config, 2, 4).expect("memory");
        let handle = registry.handle();
        let [first, second] = registry.blocks() else { panic!("two reactors") };
        first.counters.messages_expired.add(2);
        second.counters.messages_expired.add(3);
        handle.overdue().store(4, std::sync::atomic::Ordering::Relaxed);
        first.counters.last_activity_ns.set(Nanos::now().0);
        let snapshot = handle.snapshot();
        let text = exposition(&snapshot, Exposition::OpenMetrics);
        let values = |name: &str| values(&text, name, "");
        let late = values("ringwire_messages_expired_total");
        let overdue = values("ringwire_handle_messages_expired_total");
        assert_eq!((&late[..], &overdue[..]), (&[2.0, 3.0][..], &[4.0][..]));
        assert_eq!(snapshot.statistics().messages_expired, 9);
        let active = values("ringwire_last_activity_seconds");
        let now = seconds(wall_ns());
        assert!((now - 60.0..=now).contains(&active[0]), "{active:?} at {now}");
        assert_eq!(active[1], 0.0, "it has never been");
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
