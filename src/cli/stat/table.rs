//! Registries as tables that fit 80 columns.

use std::fmt::Write;
use std::time::Duration;

use ringwire::Snapshot;
use ringwire::stats::{RowState, SessionReading, Statistics};

use crate::cli::attach::{Change, printable, title};
use crate::cli::options::LANE_NAMES;
use crate::cli::show::{Metric, Short, counted};
use crate::cli::stat::is_over;

/// As wide as a terminal is at least.
const COLUMNS: usize = 80;
/// Sessions that are over are shown as long as there are few others.
const SESSIONS_MAX: usize = 64;

/// A line for each node.
pub(super) fn nodes(views: &[(&Snapshot, Option<Change>)]) -> String {
    let mut out = String::new();
    let head = ["NODE", "PID", "STATE", "SESSIONS", "IN", "OUT", "DROPPED", "SLOW", "TURN p99"];
    row(&mut out, head.map(str::to_owned));
    for (snapshot, change) in views {
        let statistics = snapshot.statistics();
        let turn = snapshot.histogram("turn").unwrap_or_default();
        let p99 = match turn.count() {
            0 => "-".into(),
            _ => time(turn.quantile_ns(0.99)),
        };
        let flow = |total: u64, rate: fn(&Statistics) -> u64| match change {
            Some(change) => format!("{}/s", Metric(change.rate(rate))).replace(' ', ""),
            None => amount(total),
        };
        let cells = [
            cut(&title(snapshot), 14),
            snapshot.pid.to_string(),
            snapshot.writer.name().into(),
            exact(statistics.connections_active),
            flow(statistics.messages_received, |statistics| statistics.messages_received),
            flow(statistics.messages_sent, |statistics| statistics.messages_sent),
            amount(dropped(&statistics)),
            match is_timed(snapshot, &statistics) {
                true => amount(statistics.turns_slow),
                false => "-".into(),
            },
            p99,
        ];
        row(&mut out, cells);
    }
    out
}

/// Whether any turn was timed: those in which nothing is handled are not, and of an application's
/// own loop there may be no others. Of such, nothing is known, which is not the same as 0.
pub(in crate::cli) fn is_timed(snapshot: &Snapshot, statistics: &Statistics) -> bool {
    let turns = snapshot.histogram("turn").map_or(0, |turns| turns.count());
    turns > 0 || statistics.turns_slow > 0 || statistics.turn_longest_ns > 0
}

fn row(out: &mut String, cells: [String; 9]) {
    let [node, pid, state, sessions, received, sent, dropped, slow, turn] = cells;
    let _ = writeln!(
        out,
        "{node:14} {pid:>8} {state:8} {sessions:>8} {received:>7} {sent:>7} {dropped:>7} {slow:>5} \
         {turn:>8}"
    );
}

/// Everything about a node.
pub(super) fn node(snapshot: &Snapshot, change: Option<&Change>) -> String {
    let statistics = snapshot.statistics();
    let mut out = String::new();
    head(&mut out, snapshot, &statistics, change);
    sessions(&mut out, snapshot);
    latencies(&mut out, snapshot);
    lanes(&mut out, snapshot, &statistics);
    work(&mut out, snapshot, &statistics, change);
    out
}

fn head(out: &mut String, snapshot: &Snapshot, statistics: &Statistics, change: Option<&Change>) {
    let name = title(snapshot);
    let (pid, command) = (snapshot.pid, printable(&snapshot.command));
    let age = Short(snapshot.taken.since(snapshot.created));
    let _ = write!(out, "{name}: pid {pid} ({command}), {}", snapshot.writer.name());
    if is_over(snapshot) {
        let _ = write!(out, ": these are its last numbers");
    } else {
        let _ = write!(out, " for {age}");
    }
    let _ = writeln!(out, ", {}", counted(snapshot.reactors.len() as u64, "reactor"));
    if !snapshot.endpoint.is_empty() {
        let _ = writeln!(out, "listens on {}", printable(&snapshot.endpoint));
    }
    if snapshot.is_torn() {
        let _ = writeln!(out, "note: it was busy: these numbers may be a turn apart");
    }
    let _ = write!(
        out,
        "received {} messages, {}B; sent {} messages, {}B",
        exact(statistics.messages_received),
        Metric(statistics.bytes_received as f64),
        exact(statistics.messages_sent),
        Metric(statistics.bytes_sent as f64),
    );
    if let Some(change) = change {
        let _ = write!(
            out,
            "\nnow in {}msg/s {}B/s, out {}msg/s {}B/s",
            Metric(change.rate(|statistics| statistics.messages_received)),
            Metric(change.rate(|statistics| statistics.bytes_received)),
            Metric(change.rate(|statistics| statistics.messages_sent)),
            Metric(change.rate(|statistics| statistics.bytes_sent)),
        );
    }
    out.push('\n');
}

fn sessions(out: &mut String, snapshot: &Snapshot) {
    let statistics = snapshot.statistics();
    let mut sessions: Vec<&SessionReading> = snapshot.sessions().collect();
    sessions
        .sort_by_key(|session| (session.state == RowState::Ended, session.reactor, session.slot));
    let _ = writeln!(
        out,
        "\n{} session{} now, {} so far, {} resumed",
        exact(statistics.connections_active),
        if statistics.connections_active == 1 { "" } else { "s" },
        exact(statistics.connections_established),
        exact(statistics.sessions_resumed),
    );
    if sessions.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "  {:9} {:20} {:10} {:>6} {:>6} {:>7} {:>7} {:>6}",
        "ID", "PEER", "STATE", "IN", "OUT", "QUEUED", "OLDEST", "DROPS"
    );
    let count = sessions.len();
    for session in sessions.into_iter().take(SESSIONS_MAX) {
        let queued = session.lanes.iter().map(|lane| lane.bytes).fold(0, u64::saturating_add);
        let oldest = session.lanes.iter().map(|lane| lane.oldest_ns).max().unwrap_or(0);
        let _ = writeln!(
            out,
            "  {:9} {:20} {:10} {:>6} {:>6} {:>7} {:>7} {:>6}",
            session.id(),
            cut(&peer(session), 20),
            session.state.name(),
            amount(session.messages_received),
            amount(session.messages_sent),
            if queued == 0 { "-".into() } else { amount(queued) + "B" },
            if oldest == 0 { "-".into() } else { time(oldest) },
            amount(session.dropped()),
        );
        let mut notes = Vec::new();
        if let Some(time) = session.round_trip {
            notes.push(format!("heartbeat {}", Short(time)));
        }
        if let Some((offset, error)) = session.clock {
            let offset = Short(Duration::from_nanos(offset.unsigned_abs()));
            notes.push(format!("clock {offset} ± {}", Short(Duration::from_nanos(error))));
        }
        if let Some(reason) = session.reason {
            notes.push(format!("ended: {reason}"));
        }
        if session.links > 1 {
            notes.push(format!("{} links", session.links));
        }
        if session.bytes_kept > 0 {
            notes.push(format!("{}B unconfirmed", Metric(session.bytes_kept as f64)));
        }
        list(out, "            ", "            ", &notes);
    }
    if count > SESSIONS_MAX {
        let _ = writeln!(out, "  … and {} more", count - SESSIONS_MAX);
    }
    if statistics.sessions_unlisted > 0 {
        let more = counted(statistics.sessions_unlisted, "session");
        let _ = writeln!(out, "  {more} had no row (registry_sessions_max)");
    }
}

/// What a session's peer is called: its name and address, as far as it has them.
pub(in crate::cli) fn peer(session: &SessionReading) -> String {
    match (&*session.peer_name, &*session.address) {
        ("", "") => "-".into(),
        ("", address) => printable(address),
        (name, _) => printable(name),
    }
}

fn latencies(out: &mut String, snapshot: &Snapshot) {
    let _ = writeln!(
        out,
        "\n{:21} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "LATENCY", "COUNT", "p50", "p90", "p99", "p99.9", "max"
    );
    for (name, _) in Snapshot::histogram_names() {
        let reading = snapshot.histogram(name).unwrap_or_default();
        if reading.count() == 0 {
            continue;
        }
        let _ = writeln!(
            out,
            "{:21} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
            match name {
                // What COUNT says of them.
                "handler" => "handler (1 in 64)".into(),
                "queueing" => "queueing (1 a block)".into(),
                "one_way" => "one way (1 a read)".into(),
                name => name.replace('_', " "),
            },
            amount(reading.count()),
            time(reading.quantile_ns(0.5)),
            time(reading.quantile_ns(0.9)),
            time(reading.quantile_ns(0.99)),
            time(reading.quantile_ns(0.999)),
            time(reading.max_ns()),
        );
    }
}

fn lanes(out: &mut String, snapshot: &Snapshot, statistics: &Statistics) {
    let _ =
        writeln!(out, "\n{:10} {:>8} {:>8} {:>8}  DROPPED", "LANE", "QUEUED", "FRAMES", "OLDEST");
    for (lane, name) in LANE_NAMES.iter().enumerate().rev() {
        let all = || snapshot.sessions().map(|session| session.lanes[lane]);
        let bytes = all().map(|lane| lane.bytes).fold(0, u64::saturating_add);
        let frames = all().map(|lane| lane.frames).fold(0, u64::saturating_add);
        let oldest = all().map(|lane| lane.oldest_ns).max().unwrap_or(0);
        let drops: Vec<_> = statistics
            .drops
            .iter()
            .filter(|drop| drop.lane == lane)
            .map(|drop| format!("{} {}", amount(drop.count), drop.reason.name()))
            .collect();
        let line = format!(
            "{name:10} {:>8} {:>8} {:>8}  ",
            amount(bytes) + "B",
            amount(frames),
            if oldest == 0 { "-".into() } else { time(oldest) },
        );
        let none = vec!["-".into()];
        list(out, &line, &" ".repeat(line.len()), if drops.is_empty() { &none } else { &drops });
    }
    if statistics.reliable_admitted > 0 {
        let _ = writeln!(
            out,
            "reliable {} admitted: {} confirmed, {} unconfirmed, {} lost",
            amount(statistics.reliable_admitted),
            amount(statistics.reliable_confirmed),
            amount(statistics.reliable_unconfirmed),
            amount(statistics.reliable_lost),
        );
    }
}

fn work(out: &mut String, snapshot: &Snapshot, statistics: &Statistics, change: Option<&Change>) {
    let per_turn = |count: u64| count as f64 / statistics.turns.max(1) as f64;
    let hits = 100.0 * statistics.spin_hits as f64 / statistics.spins.max(1) as f64;
    let _ = match is_timed(snapshot, statistics) {
        true => writeln!(
            out,
            "\nturns {}, {} slow (over {}), longest {}",
            amount(statistics.turns),
            amount(statistics.turns_slow),
            Short(snapshot.turn_threshold),
            time(statistics.turn_longest_ns),
        ),
        false => writeln!(
            out,
            "\nturns {}, slow - (over {}), longest -: none was timed",
            amount(statistics.turns),
            Short(snapshot.turn_threshold),
        ),
    };
    for (index, reactor) in snapshot.reactors.iter().enumerate() {
        let time = snapshot.taken.since(reactor.turn_began);
        if reactor.is_in_turn && time > snapshot.turn_threshold && !is_over(snapshot) {
            let _ = writeln!(out, "STALL: reactor {index} is in a turn for {}", Short(time));
        }
    }
    let _ = writeln!(
        out,
        "per turn {:.2} completions, {:.2} enters, {:.2} direct calls",
        per_turn(statistics.completions),
        per_turn(statistics.enters),
        per_turn(statistics.direct_sends.saturating_add(statistics.direct_receives)),
    );
    let _ = writeln!(
        out,
        "parks {}, wake-ups {}, reads paused {}, spin hits {hits:.0} %",
        amount(statistics.parks),
        amount(statistics.wakeups),
        amount(statistics.receive_pauses)
    );
    if let Some(change) = change {
        let _ = writeln!(
            out,
            "now {}turns/s, {}enters/s",
            Metric(change.rate(|statistics| statistics.turns)),
            Metric(change.rate(|statistics| statistics.enters)),
        );
    }
    let troubles = [
        (statistics.sends_refused, "sends refused"),
        (statistics.sends_too_large, "sends too large"),
        (statistics.sends_expired, "sends expired"),
        (statistics.messages_expired, "received too late"),
        (statistics.messages_missed, "missed from peers"),
        (statistics.posts_dropped, "posts dropped"),
        (statistics.responses_late, "late responses"),
        (statistics.handler_panics, "handler panics"),
        (statistics.deadlines_missed, "watches missed"),
        (statistics.reconnect_attempts, "reconnect attempts"),
        (statistics.sessions_lost, "sessions lost"),
        (statistics.short_sends, "short sends"),
        (statistics.zero_copy_copies, "zero-copy sends copied"),
        (statistics.cq_overflows, "CQ overflows"),
        (statistics.enobufs, "ENOBUFS"),
        (statistics.accept_errors, "not accepted"),
        (statistics.events_dropped, "events dropped"),
        (statistics.undelivered_omitted, "undelivered omitted"),
        (statistics.tap_frames_lost, "frames lost to taps"),
    ];
    let troubles: Vec<_> = troubles
        .into_iter()
        .filter(|&(count, _)| count > 0)
        .map(|(count, what)| format!("{what} {}", amount(count)))
        .collect();
    list(out, "", "", &troubles);
    let ends: Vec<_> =
        statistics.closes.iter().map(|close| format!("{} {}", close.count, close.reason)).collect();
    list(out, "connections ended: ", "  ", &ends);
}

/// Writes `items` with commas between them, on as many lines as they need: the first behind
/// `first`, the others behind `rest`.
fn list(out: &mut String, first: &str, rest: &str, items: &[String]) {
    let mut line = String::from(first);
    for (index, item) in items.iter().enumerate() {
        let comma = if index + 1 < items.len() { ", " } else { "" };
        let columns = line.chars().count() + item.chars().count() + comma.trim_end().len();
        if columns > COLUMNS && line.trim_end() != first.trim_end() {
            let _ = writeln!(out, "{}", line.trim_end());
            line = String::from(rest);
        }
        line += item;
        line += comma;
    }
    if !items.is_empty() {
        let _ = writeln!(out, "{line}");
    }
}

fn dropped(statistics: &Statistics) -> u64 {
    statistics.drops.iter().map(|drop| drop.count).fold(0, u64::saturating_add)
}

/// A count with three digits, without spaces: `79.0k`.
pub(in crate::cli) fn amount(count: u64) -> String {
    Metric(count as f64).to_string().replace(' ', "")
}

/// A count digit by digit, as long as it is one that a node can have: a damaged file says anything.
fn exact(count: u64) -> String {
    if count < 1_000_000_000_000 { count.to_string() } else { amount(count) }
}

/// A time with three digits.
pub(in crate::cli) fn time(nanos: u64) -> String {
    Short(Duration::from_nanos(nanos)).to_string()
}

/// Text of at most `columns` characters.
pub(in crate::cli) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}
