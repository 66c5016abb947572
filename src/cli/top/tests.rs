//! The picture, drawn on a terminal that exists only here, of registry files forged by the byte
//! table in the documentation of `ringwire::stats`: so that the figures are known, and that the
//! table is enough to write one.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ringwire::{Config, Nanos, Reactor};

use super::draw::draw;
use super::state::{Mode, Top, Wish};
use crate::cli::attach::Selection;

/// A directory of registry files, which goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A registry file whose writer, this process, does nothing.
struct Forged {
    file: std::fs::File,
    /// Holds the lock that says that it lives.
    writer: Option<Reactor>,
    /// Offsets of the first block's parts.
    counters: u64,
    histograms: u64,
    rows: u64,
    labels: Vec<String>,
}

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // ORDERING: Relaxed: only to be different each time.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringwire-top-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory for temporary files");
        Self(path)
    }

    /// A real file under a second name, so that it is locked as long as its writer lives.
    fn forge(&self, name: &str) -> Forged {
        let number = std::fs::read_dir(&self.0).expect("ours").count();
        let real = self.0.join(format!("real-{number}"));
        let config = Config::builder().registry_directory(&real).node_name(name);
        let config = config.connections_max(4).build().expect("valid");
        let reactor = Reactor::new(&config).expect("a ring");
        let entries = std::fs::read_dir(&real).expect("the reactor made it");
        let path = entries.last().expect("a file").expect("readable").path();
        let second = self.0.join(path.file_name().expect("a file"));
        std::fs::hard_link(&path, &second).expect("room");
        let file = std::fs::File::options().read(true).write(true).open(&second).expect("ours");
        let word = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).expect("within the header");
            u64::from_le_bytes(bytes)
        };
        let block = word(32);
        let parts = [word(56), word(72), word(96)].map(|offset| block + offset);
        let mut labels = vec![0; usize::try_from(word(136)).expect("small")];
        file.read_exact_at(&mut labels, 512).expect("within the header");
        let labels = String::from_utf8(labels).expect("UTF-8");
        let labels = labels.lines().map(str::to_owned).collect();
        let [counters, histograms, rows] = parts;
        Forged { file, writer: Some(reactor), counters, histograms, rows, labels }
    }

    fn look(&self, top: &mut Top) {
        top.update(Selection { who: None, directories: vec![self.0.clone()] }.read());
    }
}

impl Forged {
    /// As if its process had been killed: nothing says that it has ended.
    fn die(&mut self) {
        self.writer = None;
        self.word(192, 0);
    }

    fn word(&self, at: u64, value: u64) {
        self.file.write_all_at(&value.to_le_bytes(), at).expect("our own");
    }

    fn text(&self, at: u64, text: &str) {
        self.file.write_all_at(text.as_bytes(), at).expect("our own");
    }

    fn counter(&self, name: &str, value: u64) {
        let at = self.labels.iter().position(|label| label == name).expect(name);
        self.word(self.counters + 8 * at as u64, value);
    }

    /// A session with a busy normal lane.
    fn session(&self, slot: u64, peer: &str, state: u64, queued: u64, dropped: u64) {
        let row = self.rows + 640 * (slot - 1);
        self.word(row + 8, slot | 1 << 32);
        self.word(row + 16, state);
        self.text(row + 160, peer);
        self.text(row + 224, "10.0.0.7:40212");
        let normal = row + 336 + 24;
        self.word(normal, queued);
        self.word(normal + 8, queued / 100);
        if queued > 0 {
            self.word(normal + 16, Nanos::now().0 - 5_000_000_000);
        }
        // Normal lane, the fourth reason.
        self.word(row + 432 + 8 * (5 + 3), dropped);
    }

    /// `count` values of 1,000 ns, the first histogram being the handlers'.
    fn handlers(&self, count: u64) {
        self.word(self.histograms, 1_000 * count);
        self.word(self.histograms + 8, 1_003);
        // 512 to 1,023 are told apart by four: 1000 is counted in the 125th of the upper half.
        self.word(self.histograms + 128 + 8 * (2 * 128 + 250), count);
    }
}

fn picture(top: &Top, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
    terminal.draw(|frame| draw(frame, top)).expect("it draws");
    let buffer = terminal.backend().buffer().clone();
    let line = |row: u16| -> String {
        (0..columns).map(|column| buffer[(column, row)].symbol().to_owned()).collect()
    };
    (0..rows).map(|row| line(row).trim_end().to_owned() + "\n").collect()
}

fn press(top: &mut Top, code: KeyCode) -> Wish {
    top.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn line_with<'a>(picture: &'a str, text: &str) -> &'a str {
    picture.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}:\n{picture}"))
}

/// Two looks at one node, between which it was busy.
fn busy(scratch: &Scratch) -> (Top, Forged) {
    let forged = scratch.forge("cell");
    let mut top = Top::new();
    scratch.look(&mut top);
    forged.counter("messages_received", 5_000);
    forged.counter("connections_active", 2);
    forged.counter("turns_slow", 3);
    forged.counter("drops.1.overflow", 7);
    forged.counter("reliable_unconfirmed", 4);
    forged.counter("sends_refused", 9);
    forged.handlers(64);
    forged.session(1, "controller", 2, 0, 0);
    forged.session(2, "logger", 2, 65_536, 7);
    forged.session(3, "gone", 5, 0, 0);
    scratch.look(&mut top);
    (top, forged)
}

#[test]
fn everything_has_its_place_in_80_by_24() {
    let scratch = Scratch::new();
    let (top, _forged) = busy(&scratch);
    let picture = picture(&top, 80, 24);
    assert!(picture.starts_with("cell pid "), "{picture}");
    assert!(picture.lines().all(|line| line.chars().count() <= 80), "{picture}");
    assert!(line_with(&picture, "LANES").starts_with("FLOW"), "{picture}");
    assert!(line_with(&picture, "in  ").contains("/s 0B/s █"), "{picture}");
    assert!(line_with(&picture, "slow 3").starts_with("slow 3, longest"), "{picture}");
    let lane = line_with(&picture, "normal ");
    assert!(lane.contains("65.5kB ██████"), "{picture}");
    assert!(lane.trim_end().ends_with(" 7"), "{picture}");
    assert!(picture.contains("unconfirmed 4, refused 9, overflow 7"), "{picture}");
    let handlers = line_with(&picture, "handler");
    assert!(handlers.contains("64  1.00µs  1.00µs  1.00µs  1.00µs"), "{picture}");
    assert!(handlers.contains("handler (1/64) "), "one in 64 is timed: {picture}");
    let logger = line_with(&picture, "logger");
    assert!(logger.starts_with("0.2.0   logger"), "{picture}");
    assert!(logger.contains("connected") && logger.contains("65.5kB"), "{picture}");
    assert!(logger.ends_with('7'), "{picture}");
    assert!(picture.contains("PEER (2 connected)"), "{picture}");
    assert!(!picture.contains("gone"), "it is over:\n{picture}");
    assert!(picture.trim_end().ends_with("e ended"), "{picture}");
}

#[test]
fn sessions_are_sorted_and_filtered_and_scrolled() {
    let scratch = Scratch::new();
    let (mut top, _forged) = busy(&scratch);
    let order = |top: &Top| -> Vec<String> {
        top.sessions().iter().map(|line| line.session.peer_name.clone()).collect()
    };
    assert_eq!(order(&top), ["controller", "logger"]);
    for _ in 0..3 {
        press(&mut top, KeyCode::Char('s'));
    }
    assert_eq!(order(&top), ["logger", "controller"], "by what is queued");
    assert!(picture(&top, 80, 24).contains("QUEUED▾"));
    press(&mut top, KeyCode::Char('e'));
    assert_eq!(order(&top).len(), 3);
    press(&mut top, KeyCode::Char('/'));
    assert_eq!(top.mode, Mode::TypeFilter);
    for c in "CONTR".chars() {
        press(&mut top, KeyCode::Char(c));
    }
    assert!(picture(&top, 80, 24).contains("filter: CONTR"));
    press(&mut top, KeyCode::Enter);
    assert_eq!(order(&top), ["controller"]);
    assert!(picture(&top, 80, 24).contains("[CONTR] q quit"));
    press(&mut top, KeyCode::Esc);
    press(&mut top, KeyCode::Down);
    press(&mut top, KeyCode::PageDown);
    assert_eq!(top.scroll, 2, "no further than the last");
    let picture = picture(&top, 80, 24);
    assert!(!picture.contains("logger  "), "{picture}");
}

#[test]
fn dead_node_is_marked_and_its_successor_taken() {
    let scratch = Scratch::new();
    let (mut top, mut forged) = busy(&scratch);
    forged.die();
    scratch.look(&mut top);
    let dead = picture(&top, 80, 24);
    assert!(dead.contains("DIED: its last numbers"), "{dead}");
    assert!(dead.contains("logger"), "{dead}");
    // Long after: nothing has changed in the ticks that are kept.
    for _ in 0..20 {
        scratch.look(&mut top);
    }
    let dead = picture(&top, 80, 24);
    assert!(line_with(&dead, "FLOW").starts_with("FLOW since its start "), "{dead}");
    assert!(line_with(&dead, "in  ").contains(" 5.00k 0B "), "{dead}");
    assert!(line_with(&dead, "LATENCY").ends_with("since its start"), "{dead}");
    assert!(line_with(&dead, "handler").contains("64  1.00µs"), "{dead}");
    assert!(line_with(&dead, "gone").contains("ended"), "{dead}");
    assert!(!dead.contains("IN/s") && dead.contains(" OUT "), "{dead}");
    let _successor = scratch.forge("cell");
    scratch.look(&mut top);
    let alive = picture(&top, 80, 24);
    assert!(alive.contains("1/2 pid"), "{alive}");
    assert!(alive.contains(" up "), "{alive}");
    press(&mut top, KeyCode::Tab);
    assert!(picture(&top, 80, 24).contains("DIED"));
    std::fs::remove_dir_all(&scratch.0).expect("ours");
    scratch.look(&mut top);
    assert!(picture(&top, 80, 24).contains("no node runs"));
}

/// The process that is looked at, by its number among all: `n/m`.
fn number(top: &Top) -> usize {
    top.node().expect("one is looked at").0 + 1
}

/// What died last, looked at on purpose: also while its namesake runs.
#[test]
fn dead_node_that_was_chosen_stays() {
    let scratch = Scratch::new();
    let (mut top, mut forged) = busy(&scratch);
    let _successor = scratch.forge("cell");
    forged.die();
    scratch.look(&mut top);
    assert_eq!(number(&top), 1, "the one that runs takes its place");
    press(&mut top, KeyCode::Tab);
    press(&mut top, KeyCode::Down);
    for _ in 0..5 {
        scratch.look(&mut top);
        assert_eq!((number(&top), top.scroll), (2, 1));
    }
    assert!(picture(&top, 80, 24).contains("DIED"));
    // The running one again, which is followed as before.
    press(&mut top, KeyCode::Tab);
    scratch.look(&mut top);
    assert_eq!((number(&top), top.scroll), (1, 0));
    assert!(picture(&top, 80, 24).contains(" up "));
}

#[test]
fn dead_node_is_scrolled_as_others_are() {
    let scratch = Scratch::new();
    let (mut top, mut forged) = busy(&scratch);
    forged.die();
    scratch.look(&mut top);
    // There is no other to step to.
    press(&mut top, KeyCode::Tab);
    press(&mut top, KeyCode::Down);
    press(&mut top, KeyCode::Down);
    for _ in 0..5 {
        scratch.look(&mut top);
        assert_eq!(top.scroll, 2);
    }
    // Its successor is looked at from the top.
    let _successor = scratch.forge("cell");
    scratch.look(&mut top);
    assert_eq!((number(&top), top.scroll), (1, 0));
}

#[test]
fn scroll_stays_among_the_sessions_there_are() {
    let scratch = Scratch::new();
    let (mut top, forged) = busy(&scratch);
    press(&mut top, KeyCode::Down);
    scratch.look(&mut top);
    assert_eq!((top.sessions().len(), top.scroll), (2, 1));
    // One is over, and not shown.
    forged.session(2, "logger", 5, 0, 0);
    scratch.look(&mut top);
    assert_eq!((top.sessions().len(), top.scroll), (1, 0));
    assert!(picture(&top, 80, 24).contains("controller"));
    forged.session(1, "controller", 5, 0, 0);
    scratch.look(&mut top);
    assert_eq!((top.sessions().len(), top.scroll), (0, 0));
    assert!(picture(&top, 80, 24).contains("no sessions"));
}

#[test]
fn stall_is_shown_while_it_lasts() {
    let scratch = Scratch::new();
    let (mut top, forged) = busy(&scratch);
    let block = forged.counters - 128;
    forged.word(block, 1);
    forged.word(block + 8, Nanos::now().0 - 3_000_000_000);
    scratch.look(&mut top);
    let stalled = picture(&top, 80, 24);
    let (_, time) = stalled.split_once("STALL: reactor 0 for ").expect("it is shown");
    let digits = time.find(|c: char| !c.is_ascii_digit() && c != '.').expect("a unit");
    let seconds: f64 = time[..digits].parse().expect("a number");
    // Ours, and the machine's.
    assert!((3.0..13.0).contains(&seconds), "{stalled}");
    forged.word(block, 2);
    scratch.look(&mut top);
    assert!(!picture(&top, 80, 24).contains("STALL"));
}

#[test]
fn help_pause_and_quit() {
    let scratch = Scratch::new();
    let (mut top, _forged) = busy(&scratch);
    press(&mut top, KeyCode::Char('?'));
    let help = picture(&top, 80, 24);
    assert!(help.contains("filter sessions by id, peer, address or state"), "{help}");
    assert_eq!(press(&mut top, KeyCode::Char('x')), Wish::Nothing);
    assert!(!picture(&top, 80, 24).contains("filter sessions by"));
    press(&mut top, KeyCode::Char('p'));
    assert!(picture(&top, 80, 24).contains("PAUSED"));
    assert_eq!(press(&mut top, KeyCode::Char('r')), Wish::Refresh);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(top.press(interrupt), Wish::Quit);
    assert_eq!(press(&mut top, KeyCode::Char('q')), Wish::Quit);
}

/// Nothing is known of turns that were not timed: that is no 0.
#[test]
fn turns_that_were_not_timed_are_no_zeros() {
    let scratch = Scratch::new();
    let forged = scratch.forge("drive");
    forged.counter("turns", 5_000);
    let mut top = Top::new();
    scratch.look(&mut top);
    let shown = picture(&top, 80, 24);
    assert!(shown.contains("slow -, longest -"), "{shown}");
    let stat = || {
        let found = Selection { who: None, directories: vec![scratch.0.clone()] }.read();
        crate::cli::stat::of_node(&found.snapshots[0])
    };
    assert!(stat().contains("turns 5.00k, slow - (over"), "{}", stat());
    forged.counter("turn_longest_ns", 70_000);
    scratch.look(&mut top);
    let shown = picture(&top, 80, 24);
    assert!(shown.contains("slow 0, longest 70.0µs"), "{shown}");
    assert!(stat().contains("turns 5.00k, 0 slow (over"), "{}", stat());
}

/// A damaged or forged file may say any number: no column runs into the next.
#[test]
fn absurd_numbers_stay_in_their_columns() {
    let scratch = Scratch::new();
    let forged = scratch.forge("drive");
    for label in &forged.labels {
        forged.counter(label, u64::MAX);
    }
    forged.session(1, "press", 2, u64::MAX, u64::MAX);
    let mut top = Top::new();
    scratch.look(&mut top);
    let wide = picture(&top, 200, 60);
    let line = line_with(&wide, "press");
    assert!(line.trim_end().chars().count() <= 80, "{line}");
    assert!(line.contains("18.4EB") && line.contains("18.4E"), "{line}");
    let found = Selection { who: None, directories: vec![scratch.0.clone()] }.read();
    let text = crate::cli::stat::of_node(&found.snapshots[0]);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("press") && text.contains("18.4E"), "{text}");
}

#[test]
fn every_size_can_be_drawn() {
    let scratch = Scratch::new();
    let (mut top, _forged) = busy(&scratch);
    for mode in [Mode::Look, Mode::TypeFilter, Mode::Help] {
        top.mode = mode;
        for (columns, rows) in
            (1..100).step_by(7).flat_map(|columns| (1..30).map(move |rows| (columns, rows)))
        {
            picture(&top, columns, rows);
        }
        picture(&top, 300, 100);
    }
    picture(&Top::new(), 10, 2);
}

/// What peers call themselves is not for the terminal to act on.
#[test]
fn hostile_names_are_harmless() {
    let scratch = Scratch::new();
    let forged = scratch.forge("cell");
    forged.session(1, "\x1b[31mred\r\n\u{202e}", 2, 0, 0);
    let mut top = Top::new();
    scratch.look(&mut top);
    let picture = picture(&top, 80, 24);
    assert!(!picture.contains(['\x1b', '\r', '\u{202e}']), "{picture:?}");
    assert!(picture.contains("\u{fffd}[31mred"), "{picture}");
}
