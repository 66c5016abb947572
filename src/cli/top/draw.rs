//! The picture: a pure function of [`Top`] and the size of the terminal.
//!
//! ```text
//! title: node, process, age; stalls
//! FLOW  rates with sparklines            LANES  queued, oldest, dropped
//! LATENCY  percentiles, p50 to p99 as a bar on a logarithmic scale
//! SESSIONS  sorted, filtered, scrolled
//! keys, or the filter that is typed
//! ```
//!
//! Colours only underline what the text says; everything reads without them.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};
use ringwire::stats::{Reading, Statistics, WriterState};
use ringwire::{DropReason, Snapshot};

use crate::cli::attach::{printable, title};
use crate::cli::options::LANE_NAMES;
use crate::cli::show::{Metric, Short};
use crate::cli::stat::{amount, cut, is_timed, peer, time};
use crate::cli::top::state::{Mode, Node, RECENT_TICKS, SessionLine, Sort, Top};

/// Columns of the left half of the upper part.
const FLOW_COLUMNS: u16 = 41;
/// The bars of latencies go from here on, three decades and more.
const BAR_FROM_NS: f64 = 100.0;
const BAR_TO_NS: f64 = 1e9;

const HEAD: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const PLAIN: Style = Style::new();

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, top: &Top) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    match top.node() {
        None => {
            frame.render_widget(Line::styled("ringwire top", HEAD), head);
            frame.render_widget(nothing(top), body);
        }
        Some((index, node)) => {
            frame.render_widget(headline(top, index, node), head);
            draw_node(frame, body, top, node);
        }
    }
    frame.render_widget(keys(top, foot.width), foot);
    if top.mode == Mode::Help {
        draw_help(frame);
    }
}

fn nothing(top: &Top) -> Paragraph<'_> {
    let mut lines = vec![Line::raw("no node runs that this user may look at; waiting for one")];
    lines.extend(top.failures.iter().map(|failure| Line::styled(printable(failure), ALARM)));
    Paragraph::new(lines)
}

fn headline<'a>(top: &Top, index: usize, node: &Node) -> Line<'a> {
    let snapshot = &node.snapshot;
    let mut spans = vec![Span::styled(cut(&title(snapshot), 24), HEAD)];
    if top.nodes.len() > 1 {
        spans.push(Span::raw(format!(" {}/{}", index + 1, top.nodes.len())));
    }
    spans.push(Span::raw(format!(" pid {} ", snapshot.pid)));
    let age = Short(snapshot.taken.since(snapshot.created));
    spans.push(match snapshot.writer {
        WriterState::Running => Span::raw(format!("up {age}")),
        state => Span::styled(format!("{}: its last numbers", state.name().to_uppercase()), ALARM),
    });
    if top.is_paused {
        spans.push(Span::styled(" PAUSED", ALARM));
    }
    if let Some((reactor, age)) = stall(snapshot) {
        let text = format!(" STALL: reactor {reactor} for {}", Short(age));
        spans.push(Span::styled(text, ALARM));
    }
    if !snapshot.endpoint.is_empty() {
        spans.push(Span::styled(format!(" {}", printable(&snapshot.endpoint)), DIM));
    }
    Line::from(spans)
}

/// The reactor that has been in one turn for longest, if that is too long.
fn stall(snapshot: &Snapshot) -> Option<(usize, Duration)> {
    let running = snapshot.writer == WriterState::Running;
    let turns = snapshot.reactors.iter().enumerate().filter(|(_, reactor)| reactor.is_in_turn);
    let ages = turns.map(|(index, reactor)| (index, snapshot.taken.since(reactor.turn_began)));
    ages.filter(|&(_, age)| running && age > snapshot.turn_threshold).max_by_key(|&(_, age)| age)
}

fn draw_node(frame: &mut Frame<'_>, area: Rect, top: &Top, node: &Node) {
    let latencies = latency_lines(top, node, area.width);
    let latency_rows = u16::try_from(latencies.len()).unwrap_or(u16::MAX);
    // Sessions get at least three lines, the latencies what is left.
    let latency_rows = latency_rows.min(area.height.saturating_sub(6 + 3));
    let [upper, middle, lower] = Layout::vertical([
        Constraint::Length(6),
        Constraint::Length(latency_rows),
        Constraint::Min(0),
    ])
    .areas(area);
    let statistics = node.snapshot.statistics();
    if area.width >= 64 {
        let [flow, lanes] =
            Layout::horizontal([Constraint::Length(FLOW_COLUMNS), Constraint::Min(0)]).areas(upper);
        let columns = usize::from(flow.width).saturating_sub(1);
        frame.render_widget(Paragraph::new(flow_lines(node, &statistics, columns)), flow);
        frame.render_widget(Paragraph::new(lane_lines(&node.snapshot, &statistics)), lanes);
    } else {
        let columns = usize::from(upper.width);
        frame.render_widget(Paragraph::new(flow_lines(node, &statistics, columns)), upper);
    }
    frame.render_widget(Paragraph::new(latencies), middle);
    draw_sessions(frame, lower, top, &statistics);
}

fn flow_lines<'a>(node: &Node, statistics: &Statistics, columns: usize) -> Vec<Line<'a>> {
    // All that a dead node did, and what a running one does in a second.
    let (of, per) = if node.is_dead() { (" since its start", "") } else { ("", "/s") };
    let rate = |count: fn(&Statistics) -> u64| match &node.change {
        _ if node.is_dead() => count(statistics) as f64,
        Some(change) => change.rate(count),
        None => 0.0,
    };
    let room = columns.saturating_sub(25);
    let series = |name: &str, value: String, series: &VecDeque<u64>| {
        Line::from(vec![
            Span::raw(format!("{name:5} {value:>18} ")),
            Span::styled(sparkline(series, room), Style::new().fg(Color::Green)),
        ])
    };
    let flow = |messages: f64, bytes: f64| {
        format!("{}{per} {}B{per}", amount_of(messages), amount_of(bytes))
    };
    let received = flow(rate(|s| s.messages_received), rate(|s| s.bytes_received));
    let sent = flow(rate(|s| s.messages_sent), rate(|s| s.bytes_sent));
    let p99 = match node.is_dead() {
        true => node.histogram("turn", true).quantile_ns(0.99),
        false => node.turns.back().copied().unwrap_or(0),
    };
    let hits = match rate(|s| s.spins) {
        spins if spins > 0.0 => format!("{:.0}%", 100.0 * rate(|s| s.spin_hits) / spins),
        _ => "-".into(),
    };
    let per_turn =
        rate(|s| s.completions.saturating_add(s.direct_receives)) / rate(|s| s.turns).max(1.0);
    let is_timed = is_timed(&node.snapshot, statistics);
    let of_timed = |text: String| if is_timed { text } else { "-".into() };
    let slow = Span::styled(
        format!("slow {}", of_timed(amount(statistics.turns_slow))),
        if rate(|s| s.turns_slow) > 0.0 { ALARM } else { PLAIN },
    );
    vec![
        Line::styled(format!("FLOW{of}"), HEAD),
        series("in", received, &node.received),
        series("out", sent, &node.sent),
        series(
            "turn",
            format!("p99 {}", if p99 == 0 { "-".into() } else { time(p99) }),
            &node.turns,
        ),
        Line::raw(format!(
            "{}turns{per}, {per_turn:.1} events each, spin {hits}",
            Metric(rate(|s| s.turns))
        )),
        Line::from(vec![
            slow,
            Span::raw(format!(
                ", longest {}, {} parks{per}",
                of_timed(short(statistics.turn_longest_ns)),
                amount_of(rate(|s| s.parks))
            )),
        ]),
    ]
}

fn lane_lines<'a>(snapshot: &Snapshot, statistics: &Statistics) -> Vec<Line<'a>> {
    let mut lines = vec![Line::styled("LANES     QUEUED        OLDEST  DROPS", HEAD)];
    let bytes = |lane: usize| {
        snapshot.sessions().map(|session| session.lanes[lane].bytes).fold(0, u64::saturating_add)
    };
    let most = (0..LANE_NAMES.len()).map(bytes).max().unwrap_or(0);
    for (lane, name) in LANE_NAMES.iter().enumerate().rev() {
        let oldest = snapshot.sessions().map(|session| session.lanes[lane].oldest_ns).max();
        let oldest = oldest.filter(|&nanos| nanos > 0).map_or_else(|| "-".into(), short);
        let drops = statistics.drops.iter().filter(|drop| drop.lane == lane);
        let dropped = drops.map(|drop| drop.count).fold(0, u64::saturating_add);
        lines.push(Line::from(vec![
            Span::raw(format!("{name:8} {:>7} ", amount(bytes(lane)) + "B")),
            Span::styled(bar(bytes(lane), most, 6), Style::new().fg(Color::Green)),
            Span::raw(format!(" {oldest:>7} ")),
            Span::styled(
                format!("{:>6}", amount(dropped)),
                if dropped > 0 { ALARM } else { PLAIN },
            ),
        ]));
    }
    let mut reasons: Vec<_> = DropReason::ALL
        .into_iter()
        .filter(|&reason| statistics.dropped(reason) > 0)
        .map(|reason| format!("{} {}", reason.name(), amount(statistics.dropped(reason))))
        .collect();
    if statistics.sends_refused > 0 {
        reasons.insert(0, format!("refused {}", amount(statistics.sends_refused)));
    }
    if statistics.reliable_unconfirmed > 0 {
        reasons.insert(0, format!("unconfirmed {}", amount(statistics.reliable_unconfirmed)));
    }
    lines.push(Line::styled(reasons.join(", "), DIM));
    lines
}

fn latency_lines<'a>(top: &Top, node: &Node, width: u16) -> Vec<Line<'a>> {
    let of = match top.shows_all_time || node.is_dead() {
        true => "since its start".into(),
        false => format!("last {RECENT_TICKS} ticks"),
    };
    let head = format!(
        "{:16} {:>6} {:>7} {:>7} {:>7} {:>7}  {of}",
        "LATENCY", "COUNT", "p50", "p99", "p99.9", "max"
    );
    let mut lines = vec![Line::styled(head, HEAD)];
    let room = usize::from(width).saturating_sub(58);
    for (name, _) in Snapshot::histogram_names() {
        let reading = node.histogram(name, top.shows_all_time);
        if reading.count() == 0 {
            continue;
        }
        let name = match name {
            "one_way_error" => "clock error".into(),
            // What the count says of them.
            "handler" => "handler (1/64)".into(),
            name => name.replace('_', " ").replace("round trip", "trip"),
        };
        lines.push(Line::from(vec![
            Span::raw(format!(
                "{name:16} {:>6} {:>7} {:>7} {:>7} {:>7}  ",
                amount(reading.count()),
                short(reading.quantile_ns(0.5)),
                short(reading.quantile_ns(0.99)),
                short(reading.quantile_ns(0.999)),
                short(reading.max_ns()),
            )),
            Span::styled(span(&reading, room), Style::new().fg(Color::Green)),
        ]));
    }
    lines
}

fn amount_of(rate: f64) -> String {
    Metric(rate).to_string().replace(' ', "")
}

fn short(nanos: u64) -> String {
    time(nanos).replace(' ', "")
}

fn draw_sessions(frame: &mut Frame<'_>, area: Rect, top: &Top, statistics: &Statistics) {
    let sessions = top.sessions();
    let mark = |sort: Sort, name: &str| match sort == top.sort {
        true => format!("{name}▾"),
        false => name.to_owned(),
    };
    let is_dead = top.node().is_some_and(|(_, node)| node.is_dead());
    let (received, sent) = if is_dead { ("IN", "OUT") } else { ("IN/s", "OUT/s") };
    let head = format!(
        "{:7} {:20} {:10} {:>7} {:>7} {:>7} {:>7} {:>7}",
        mark(Sort::Id, "SESSION"),
        format!("PEER ({} connected)", statistics.connections_active),
        "STATE",
        mark(Sort::Received, received),
        mark(Sort::Sent, sent),
        mark(Sort::Queued, "QUEUED"),
        mark(Sort::Oldest, "OLDEST"),
        mark(Sort::Dropped, "DROPS"),
    );
    let mut lines = vec![Line::styled(head, HEAD)];
    let room = usize::from(area.height).saturating_sub(1);
    let hidden = sessions.len().saturating_sub(top.scroll + room);
    let shown = if hidden > 0 { room.saturating_sub(1) } else { room };
    lines.extend(sessions.iter().skip(top.scroll).take(shown).map(session_line));
    if hidden > 0 {
        lines.push(Line::styled(format!("… {} more (arrow keys)", hidden + 1), DIM));
    }
    if sessions.is_empty() {
        let why = match &*top.filter {
            "" => "no sessions".to_owned(),
            filter => format!("no session matches {}", printable(filter)),
        };
        lines.push(Line::styled(why, DIM));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn session_line<'a>(line: &SessionLine<'_>) -> Line<'a> {
    let session = line.session;
    let queued = line.queued();
    let dropped = session.dropped();
    let state = match session.state {
        ringwire::stats::RowState::Connected => PLAIN,
        ringwire::stats::RowState::Ended => DIM,
        _ => ALARM,
    };
    Line::from(vec![
        Span::raw(format!("{:7} {:20} ", cut(&session.id(), 7), cut(&peer(session), 20))),
        Span::styled(format!("{:10} ", session.state.name()), state),
        Span::raw(format!(
            "{:>7} {:>7} {:>7} {:>7} ",
            amount_of(line.received),
            amount_of(line.sent),
            if queued == 0 { "-".into() } else { amount(queued) + "B" },
            if line.oldest_ns() == 0 { "-".into() } else { short(line.oldest_ns()) },
        )),
        Span::styled(format!("{:>7}", amount(dropped)), if dropped > 0 { ALARM } else { PLAIN }),
    ])
}

fn keys<'a>(top: &Top, width: u16) -> Line<'a> {
    if top.mode == Mode::TypeFilter {
        return Line::from(vec![
            Span::styled("filter: ", HEAD),
            Span::raw(printable(&top.filter)),
            Span::styled("█", DIM),
            Span::styled("  Enter keeps it, Esc drops it", DIM),
        ]);
    }
    let filter = match &*top.filter {
        "" => String::new(),
        filter => format!("[{}] ", printable(filter)),
    };
    let all = "q quit  ? help  p pause  s sort  / filter  Tab node  a all time  e ended";
    let few = "q quit  ? help";
    let keys = if usize::from(width) >= all.len() + filter.len() { all } else { few };
    Line::from(vec![Span::styled(filter, HEAD), Span::styled(keys, DIM)])
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = [
        "q, Ctrl-C      quit",
        "p, space       pause, and go on",
        "Tab, ← →       the next node, the one before",
        "s              sort sessions: id, in, out, queued, oldest, drops",
        "/              filter sessions by id, peer, address or state",
        "Esc            drop the filter",
        "e              show sessions that are over, too",
        "a              latencies since the start, or of the last ticks",
        "↑ ↓ PgUp PgDn  scroll the sessions",
        "r              look at once",
        "",
        "Bars of latencies go from p50 to p99 (thick) and to the longest",
        "(thin), 100 ns to 1 s, a decade each eighth or so.",
        "turn: one pass of a reactor; slow: above turn_threshold_us.",
    ];
    let area = frame.area();
    let width = area.width.min(70);
    let height = area.height.min(u16::try_from(lines.len()).expect("few") + 2);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let help = Paragraph::new(lines.map(Line::raw).to_vec());
    frame.render_widget(help.block(Block::bordered().title(" ringwire top ")), place);
}

/// The newest values as a line of blocks, the largest full.
fn sparkline(series: &VecDeque<u64>, columns: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = series.iter().skip(series.len().saturating_sub(columns));
    let most = shown.clone().max().copied().unwrap_or(0).max(1);
    shown
        .map(|&value| match value {
            0 => ' ',
            value => {
                let step = u128::from(value) * (STEPS.len() as u128 - 1) / u128::from(most);
                STEPS[usize::try_from(step).expect("below the largest")]
            }
        })
        .collect()
}

/// A bar of at most `columns`, filled up with spaces.
fn bar(value: u64, most: u64, columns: usize) -> String {
    let share = value as f64 / most.max(1) as f64;
    let filled = cell(share, columns);
    let filled = if value > 0 { filled.max(1) } else { filled };
    "█".repeat(filled) + &" ".repeat(columns - filled.min(columns))
}

/// A share of `columns`, rounded.
fn cell(share: f64, columns: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "a share of a line")]
    let filled = (share.clamp(0.0, 1.0) * columns as f64).round() as usize;
    filled.min(columns)
}

/// From the median to the 99th percentile, and on to the longest, on a logarithmic scale.
fn span(reading: &Reading, columns: usize) -> String {
    let place = |nanos: u64| {
        let decades = (nanos as f64 / BAR_FROM_NS).max(1.0).log10();
        cell(decades / (BAR_TO_NS / BAR_FROM_NS).log10(), columns)
    };
    let [from, to, end] =
        [reading.quantile_ns(0.5), reading.quantile_ns(0.99), reading.max_ns()].map(place);
    let thick = (to - from).max(1).min(columns - from.min(columns));
    let thin = end.saturating_sub(from + thick);
    " ".repeat(from) + &"━".repeat(thick) + &"─".repeat(thin)
}
