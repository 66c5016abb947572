//! What `ringwire top` knows and shows: the nodes it is attached to, what changed in them, and what
//! the operator has asked for. No terminal and no clock here: snapshots and keys come in.
//!
//! A node that is started again takes the place of its dead predecessor, when that was looked at
//! until then. A dead node that the operator steps to stays.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ringwire::stats::{Reading, RowState, SessionReading, WriterState};
use ringwire::{Nanos, Snapshot};

use crate::cli::attach::{Change, Found, title, warnings};
use crate::cli::stat::peer;

/// Ticks that sparklines go back.
pub(super) const TICKS_MAX: usize = 240;
/// Ticks that recent latencies are of.
pub(super) const RECENT_TICKS: usize = 10;

/// The state of the view.
#[derive(Debug)]
pub(super) struct Top {
    pub(super) nodes: Vec<Node>,
    selected: Option<NodeKey>,
    /// The operator has chosen a dead node: no running one takes its place.
    is_kept: bool,
    pub(super) failures: Vec<String>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) is_paused: bool,
    /// Sessions that are over are shown, too.
    pub(super) shows_ended: bool,
    /// Latencies since the node's start, not the recent ones.
    pub(super) shows_all_time: bool,
    /// Sessions above the first one shown.
    pub(super) scroll: usize,
}

/// Which node: two starts of one process have two registries.
type NodeKey = (u32, Nanos);

/// What keys mean at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Look,
    TypeFilter,
    Help,
}

/// What sessions are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Id,
    Received,
    Sent,
    Queued,
    Oldest,
    Dropped,
}

impl Sort {
    const ALL: [Self; 6] =
        [Self::Id, Self::Received, Self::Sent, Self::Queued, Self::Oldest, Self::Dropped];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|&sort| sort == self).expect("all are there");
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// What an operator wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// Look again at once.
    Refresh,
    Quit,
}

/// A node and its recent past.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) snapshot: Snapshot,
    pub(super) change: Option<Change>,
    /// Messages per second, the newest last.
    pub(super) received: VecDeque<u64>,
    pub(super) sent: VecDeque<u64>,
    /// The slowest hundredth of the turns of each tick, in nanoseconds.
    pub(super) turns: VecDeque<u64>,
    /// Of the last ticks, for what happened lately.
    past: VecDeque<Snapshot>,
}

/// A session with its rates: messages a second, or all of them when its node is dead.
#[derive(Debug)]
pub(super) struct SessionLine<'a> {
    pub(super) session: &'a SessionReading,
    pub(super) received: f64,
    pub(super) sent: f64,
}

impl SessionLine<'_> {
    pub(super) fn queued(&self) -> u64 {
        self.session.lanes.iter().map(|lane| lane.bytes).fold(0, u64::saturating_add)
    }

    pub(super) fn oldest_ns(&self) -> u64 {
        self.session.lanes.iter().map(|lane| lane.oldest_ns).max().unwrap_or(0)
    }
}

impl Top {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            selected: None,
            is_kept: false,
            failures: Vec::new(),
            sort: Sort::Id,
            filter: String::new(),
            mode: Mode::Look,
            is_paused: false,
            shows_ended: false,
            shows_all_time: false,
            scroll: 0,
        }
    }

    /// Takes in what was found at this tick.
    pub(super) fn update(&mut self, found: Found) {
        self.failures = warnings(&found.failures);
        let mut before = std::mem::take(&mut self.nodes);
        for snapshot in found.snapshots {
            let known = before.iter().position(|node| node.key() == key_of(&snapshot));
            let node = match known {
                Some(at) => before.swap_remove(at).advance(snapshot),
                None => Node::new(snapshot),
            };
            self.nodes.push(node);
        }
        self.select_again(&before);
        // Sessions may have gone.
        self.clamp_scroll();
    }

    /// Keeps the selection, or what has taken its place.
    fn select_again(&mut self, gone: &[Node]) {
        let selected = self.nodes.iter().find(|node| Some(node.key()) == self.selected);
        let name = match selected {
            Some(node) if !node.is_dead() || self.is_kept => return,
            Some(node) => Some(title(&node.snapshot)),
            None => {
                let last = gone.iter().find(|node| Some(node.key()) == self.selected);
                last.map(|node| title(&node.snapshot))
            }
        };
        let runs = |node: &&Node| !node.is_dead() && Some(title(&node.snapshot)) == name;
        let successor = self.nodes.iter().find(runs);
        // A dead one without a successor is looked at on.
        let next = successor.or(selected).or(self.nodes.first());
        self.select(next.map(Node::key));
    }

    fn select(&mut self, key: Option<NodeKey>) {
        if self.selected != key {
            (self.selected, self.is_kept, self.scroll) = (key, false, 0);
        }
    }

    /// The node looked at, and its number.
    pub(super) fn node(&self) -> Option<(usize, &Node)> {
        self.nodes.iter().enumerate().find(|(_, node)| Some(node.key()) == self.selected)
    }

    fn step_node(&mut self, forward: bool) {
        let Some((at, _)) = self.node() else { return };
        let count = self.nodes.len();
        let next = if forward { at + 1 } else { at + count - 1 } % count;
        if next == at {
            // There is no other.
            return;
        }
        let (key, is_dead) = (self.nodes[next].key(), self.nodes[next].is_dead());
        self.select(Some(key));
        self.is_kept = is_dead;
    }

    /// No further than the last session.
    fn clamp_scroll(&mut self) {
        self.scroll = self.scroll.min(self.sessions().len().saturating_sub(1));
    }

    /// Sessions as they are to be shown.
    pub(super) fn sessions(&self) -> Vec<SessionLine<'_>> {
        let Some((_, node)) = self.node() else { return Vec::new() };
        let needle = self.filter.to_lowercase();
        let shows_ended = self.shows_ended || node.is_dead();
        let is_shown = |session: &&SessionReading| {
            let text = format!(
                "{} {} {} {}",
                session.id(),
                peer(session),
                session.address,
                session.state.name()
            );
            (shows_ended || session.state != RowState::Ended)
                && text.to_lowercase().contains(&needle)
        };
        let mut lines: Vec<_> =
            node.snapshot.sessions().filter(is_shown).map(|session| node.line(session)).collect();
        let id = |line: &SessionLine<'_>| (line.session.reactor, line.session.slot);
        lines.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Id => std::cmp::Ordering::Equal,
                Sort::Received => b.received.total_cmp(&a.received),
                Sort::Sent => b.sent.total_cmp(&a.sent),
                Sort::Queued => b.queued().cmp(&a.queued()),
                Sort::Oldest => b.oldest_ns().cmp(&a.oldest_ns()),
                Sort::Dropped => b.session.dropped().cmp(&a.session.dropped()),
            };
            order.then_with(|| id(a).cmp(&id(b)))
        });
        lines
    }

    /// Does what a key asks for.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Wish::Quit;
        }
        match self.mode {
            Mode::TypeFilter => self.press_in_filter(key.code),
            Mode::Help => {
                self.mode = Mode::Look;
                if key.code == KeyCode::Char('q') { Wish::Quit } else { Wish::Nothing }
            }
            Mode::Look => self.press_in_view(key.code),
        }
    }

    fn press_in_filter(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Enter => self.mode = Mode::Look,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Look;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.len() < 64 => self.filter.push(c),
            _ => {}
        }
        self.scroll = 0;
        Wish::Nothing
    }

    fn press_in_view(&mut self, code: KeyCode) -> Wish {
        match code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::TypeFilter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('e') => self.shows_ended = !self.shows_ended,
            KeyCode::Char('a') => self.shows_all_time = !self.shows_all_time,
            KeyCode::Char('r') => return Wish::Refresh,
            KeyCode::Tab | KeyCode::Right => self.step_node(true),
            KeyCode::BackTab | KeyCode::Left => self.step_node(false),
            KeyCode::Down => self.scroll += 1,
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll += 10,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        self.clamp_scroll();
        Wish::Nothing
    }
}

fn key_of(snapshot: &Snapshot) -> NodeKey {
    (snapshot.pid, snapshot.created)
}

impl Node {
    fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            change: None,
            received: VecDeque::new(),
            sent: VecDeque::new(),
            turns: VecDeque::new(),
            past: VecDeque::new(),
        }
    }

    fn key(&self) -> NodeKey {
        key_of(&self.snapshot)
    }

    /// Its process is gone: nothing happens any more, so all that it did is shown, and its sessions
    /// that were over before.
    pub(super) fn is_dead(&self) -> bool {
        self.snapshot.writer != WriterState::Running
    }

    /// One tick later.
    fn advance(mut self, snapshot: Snapshot) -> Self {
        let Some(change) = Change::between(&self.snapshot, &snapshot) else { return self };
        #[expect(clippy::cast_possible_truncation, reason = "rates are far below 2^64")]
        let rounded = |rate: f64| rate.round() as u64;
        let pairs = [
            (&mut self.received, rounded(change.rate(|s| s.messages_received))),
            (&mut self.sent, rounded(change.rate(|s| s.messages_sent))),
            (&mut self.turns, turn_p99(&self.snapshot, &snapshot)),
        ];
        for (series, value) in pairs {
            if series.len() == TICKS_MAX {
                series.pop_front();
            }
            series.push_back(value);
        }
        self.past.push_back(std::mem::replace(&mut self.snapshot, snapshot));
        if self.past.len() > RECENT_TICKS {
            self.past.pop_front();
        }
        self.change = Some(change);
        self
    }

    /// A histogram: of the last ticks, or of all time.
    pub(super) fn histogram(&self, name: &str, all_time: bool) -> Reading {
        let now = self.snapshot.histogram(name).unwrap_or_default();
        match self.past.front().and_then(|past| past.histogram(name)) {
            Some(past) if !all_time && !self.is_dead() => now.since(&past),
            _ => now,
        }
    }

    fn line<'a>(&self, session: &'a SessionReading) -> SessionLine<'a> {
        let seconds = self.change.as_ref().map_or(0.0, |change| change.seconds);
        let is_same = |other: &&SessionReading| {
            (other.reactor, other.slot, other.generation)
                == (session.reactor, session.slot, session.generation)
        };
        let before = self.past.back().and_then(|past| past.sessions().find(is_same));
        let rate = |count: fn(&SessionReading) -> u64| match before {
            _ if self.is_dead() => count(session) as f64,
            Some(before) if seconds > 0.0 => {
                count(session).saturating_sub(count(before)) as f64 / seconds
            }
            _ => 0.0,
        };
        SessionLine {
            session,
            received: rate(|session| session.messages_received),
            sent: rate(|session| session.messages_sent),
        }
    }
}

fn turn_p99(before: &Snapshot, after: &Snapshot) -> u64 {
    match [before, after].map(|snapshot| snapshot.histogram("turn")) {
        [Some(before), Some(after)] => after.since(&before).quantile_ns(0.99),
        _ => 0,
    }
}
