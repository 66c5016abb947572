//! A registry as one line of JSON. Times are in nanoseconds and end in `_ns`, but for the interval
//! of rates, in `seconds`.

use ringwire::stats::{LaneReading, Reading, SessionReading, Statistics};
use ringwire::{DropReason, Snapshot};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::attach::Change;
use crate::cli::options::LANE_NAMES;
use crate::cli::show::json_line;

#[derive(Serialize)]
struct Node<'a> {
    path: std::borrow::Cow<'a, str>,
    pid: u32,
    node_name: &'a str,
    command: &'a str,
    endpoint: &'a str,
    state: &'static str,
    created_wall_ns: u64,
    taken_ns: u64,
    torn: bool,
    statistics: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
    reactors: Vec<Reactor>,
    histograms: Map<String, Value>,
    sessions: Vec<Session<'a>>,
}

#[derive(Serialize)]
struct Rates {
    seconds: f64,
    messages_received: f64,
    messages_sent: f64,
    bytes_received: f64,
    bytes_sent: f64,
}

#[derive(Serialize)]
struct Reactor {
    turn_began_ns: u64,
    in_turn: bool,
    torn: bool,
    unsettled_messages: u64,
    unsettled_bytes: u64,
}

#[derive(Serialize)]
struct Histogram {
    count: u64,
    sum_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p99_9_ns: u64,
    p99_99_ns: u64,
    max_ns: u64,
}

#[derive(Serialize)]
struct Session<'a> {
    id: String,
    state: &'static str,
    peer: &'a str,
    peer_number: u64,
    address: &'a str,
    since_ns: u64,
    updated_ns: u64,
    last_activity_ns: u64,
    messages_sent: u64,
    messages_received: u64,
    bytes_sent: u64,
    bytes_received: u64,
    bytes_kept: u64,
    messages_missed: u64,
    messages_expired: u64,
    expired_at_peer: u64,
    links: u64,
    reason: Option<&'static str>,
    round_trip_ns: Option<u128>,
    clock_offset_ns: Option<i64>,
    clock_error_ns: Option<u64>,
    lanes: Map<String, Value>,
    drops: Vec<Drop>,
}

#[derive(Serialize)]
struct Drop {
    lane: &'static str,
    reason: &'static str,
    count: u64,
}

/// One line, with its line break.
pub(super) fn line(snapshot: &Snapshot, change: Option<&Change>) -> String {
    let value = |histogram: Reading| serde_json::to_value(Histogram::of(&histogram));
    let histograms = Snapshot::histogram_names().map(|(name, _)| {
        let reading = snapshot.histogram(name).expect("its own name");
        (name.to_owned(), value(reading).expect("numbers"))
    });
    let reactors = snapshot.reactors.iter().map(|reactor| Reactor {
        turn_began_ns: reactor.turn_began.0,
        in_turn: reactor.is_in_turn,
        torn: reactor.is_torn,
        unsettled_messages: reactor.unsettled_messages,
        unsettled_bytes: reactor.unsettled_bytes,
    });
    let node = Node {
        path: snapshot.path.to_string_lossy(),
        pid: snapshot.pid,
        node_name: &snapshot.node_name,
        command: &snapshot.command,
        endpoint: &snapshot.endpoint,
        state: snapshot.writer.name(),
        created_wall_ns: snapshot.created_wall_ns,
        taken_ns: snapshot.taken.0,
        torn: snapshot.is_torn(),
        statistics: statistics(&snapshot.statistics()),
        rates: change.map(Rates::of),
        reactors: reactors.collect(),
        histograms: histograms.collect(),
        sessions: snapshot.sessions().map(Session::of).collect(),
    };
    json_line(&node) + "\n"
}

/// The sums, with lanes by name as everywhere else here: the library numbers them.
fn statistics(statistics: &Statistics) -> Value {
    let mut value = serde_json::to_value(statistics).expect("names and numbers");
    for (drop, shown) in statistics.drops.iter().zip(value["drops"].as_array_mut().expect("a list"))
    {
        shown["lane"] = LANE_NAMES[drop.lane].into();
    }
    value
}

impl Rates {
    fn of(change: &Change) -> Self {
        Self {
            seconds: change.seconds,
            messages_received: change.rate(|statistics| statistics.messages_received),
            messages_sent: change.rate(|statistics| statistics.messages_sent),
            bytes_received: change.rate(|statistics| statistics.bytes_received),
            bytes_sent: change.rate(|statistics| statistics.bytes_sent),
        }
    }
}

impl Histogram {
    fn of(reading: &Reading) -> Self {
        Self {
            count: reading.count(),
            sum_ns: reading.sum_ns(),
            p50_ns: reading.quantile_ns(0.5),
            p90_ns: reading.quantile_ns(0.9),
            p99_ns: reading.quantile_ns(0.99),
            p99_9_ns: reading.quantile_ns(0.999),
            p99_99_ns: reading.quantile_ns(0.9999),
            max_ns: reading.max_ns(),
        }
    }
}

impl<'a> Session<'a> {
    fn of(session: &'a SessionReading) -> Self {
        let value = |lane: &LaneReading| serde_json::to_value(lane).expect("numbers");
        let lanes = LANE_NAMES.iter().zip(&session.lanes);
        let drops = LANE_NAMES.iter().zip(&session.drops).flat_map(|(lane, drops)| {
            let each = DropReason::ALL.iter().zip(drops).filter(|&(_, &count)| count > 0);
            each.map(|(reason, &count)| Drop { lane, reason: reason.name(), count })
        });
        Self {
            id: session.id(),
            state: session.state.name(),
            peer: &session.peer_name,
            peer_number: session.peer_number,
            address: &session.address,
            since_ns: session.since.0,
            updated_ns: session.updated.0,
            last_activity_ns: session.last_activity.0,
            messages_sent: session.messages_sent,
            messages_received: session.messages_received,
            bytes_sent: session.bytes_sent,
            bytes_received: session.bytes_received,
            bytes_kept: session.bytes_kept,
            messages_missed: session.messages_missed,
            messages_expired: session.messages_expired,
            expired_at_peer: session.expired_at_peer,
            links: session.links,
            reason: session.reason,
            round_trip_ns: session.round_trip.map(|time| time.as_nanos()),
            clock_offset_ns: session.clock.map(|(offset, _)| offset),
            clock_error_ns: session.clock.map(|(_, error)| error),
            lanes: lanes.map(|(name, lane)| ((*name).to_owned(), value(lane))).collect(),
            drops: drops.collect(),
        }
    }
}
