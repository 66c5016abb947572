//! The two ends of a registry: what is written, and what a reader says of files that are not right.

use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::layout::{BlockHead, HEADER_BYTES, Header, Plan, Row, layout};
use super::*;
use crate::config::Config;
use crate::sys::lock;
use crate::time::Nanos;

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // ORDERING: Relaxed: only to be different each time.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringwire-stats-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn registry(&self) -> Registry {
        let config = Config::builder().registry_directory(&self.0).node_name("drive/7");
        let config = config.turn_threshold_us(500).build().expect("valid");
        Registry::new(&config, 2, 4).expect("memory")
    }

    /// What a process left that was killed just now.
    fn left_behind(&self) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // ORDERING: Relaxed: only to be different each time.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.0.join(format!("cell-4194305-{number}.rwstats"));
        let mut living = files(std::slice::from_ref(&self.0)).into_iter();
        let living = living.rfind(|path| is_abandoned(path).is_ok_and(|dead| !dead));
        std::fs::copy(living.expect("one that lives"), &path).expect("room");
        path
    }

    /// The same of one that had run for long, until that turn of its second reactor. To the file
    /// system all of these are of now.
    fn left_after(&self, turn_began: u64) -> PathBuf {
        let path = self.left_behind();
        poke(&path, offset_of!(Header, created_ns), 1);
        let second = HEADER_BYTES + Plan { blocks: 2, rows: 4 }.block_bytes();
        poke(&path, second + offset_of!(BlockHead, turn_began_ns), turn_began);
        path
    }

    fn file(&self) -> PathBuf {
        let files = files(std::slice::from_ref(&self.0));
        assert_eq!(files.len(), 1, "{files:?}");
        files.into_iter().next().expect("just counted")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Registries can be read only, so that nobody cuts off what a node has mapped.
fn writable(path: &Path) -> std::fs::File {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).expect("our own");
    std::fs::File::options().write(true).open(path).expect("our own")
}

fn poke(path: &Path, offset: usize, word: u64) {
    let file = writable(path);
    file.write_all_at(&word.to_le_bytes(), offset as u64).expect("our own");
}

#[test]
fn what_is_written_is_read_by_another() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    registry.set_listening("127.0.0.1:7411");
    let [first, second] = registry.blocks() else { panic!("two reactors") };
    first.counters.messages_sent.add(3);
    second.counters.messages_sent.add(4);
    second.counters.drops[3][1].add(9);
    second.counters.turn_longest_ns.raise(77);
    first.histograms.handler.record(1_000);
    second.histograms.handler.record(3_000);
    let row = &second.rows[2];
    row.key.store(3 | 5 << 32, Ordering::Relaxed);
    row.state.store(RowState::Connected.code(), Ordering::Relaxed);
    store_text(&row.peer_name, "controller");
    row.lanes[1].bytes.store(4096, Ordering::Relaxed);
    let updated = Nanos::now().0;
    row.updated_ns.store(updated, Ordering::Relaxed);
    row.lanes[1].oldest_ns.store(updated - 1_000_000, Ordering::Relaxed);
    row.drops[0][4].store(2, Ordering::Relaxed);
    row.reason.store(3, Ordering::Relaxed);

    let path = scratch.file();
    let name = path.file_name().expect("a file").to_str().expect("plain").to_owned();
    let expected = format!("drive_7-{}-", std::process::id());
    assert!(name.starts_with(&expected), "{name}");
    let snapshot = Snapshot::from_file(&path).expect("readable");
    assert_eq!((snapshot.pid, snapshot.writer), (std::process::id(), WriterState::Running));
    assert_eq!((&*snapshot.node_name, &*snapshot.endpoint), ("drive/7", "127.0.0.1:7411"));
    assert!(snapshot.is_server);
    assert!(!snapshot.command.is_empty());
    assert!(!snapshot.is_torn());
    assert_eq!(snapshot.turn_threshold, Duration::from_micros(500));
    let statistics = snapshot.statistics();
    assert_eq!((statistics.messages_sent, statistics.turn_longest_ns), (7, 77));
    assert_eq!(statistics.drops.len(), 1);
    assert_eq!((statistics.drops[0].lane, statistics.drops[0].count), (3, 9));
    let handler = snapshot.histogram("handler").expect("there is one");
    assert_eq!((handler.count(), handler.max_ns(), handler.sum_ns()), (2, 3_000, 4_000));
    assert_eq!(snapshot.histogram("turn").map(|turn| turn.count()), Some(0));
    assert!(snapshot.histogram("unheard of").is_none());

    let sessions: Vec<_> = snapshot.sessions().collect();
    let [session] = sessions[..] else { panic!("one session: {sessions:?}") };
    assert_eq!((&*session.id(), session.state), ("1.3.2", RowState::Connected));
    assert_eq!((&*session.peer_name, session.reason), ("controller", Some("local")));
    assert_eq!((session.lanes[1].bytes, session.lanes[0].bytes), (4096, 0));
    assert_eq!(session.lanes[1].oldest_ns, 1_000_000, "as of then");
    assert_eq!((session.lanes[0].oldest_ns, session.dropped(), session.drops[0][4]), (0, 2, 2));

    // The process itself sees the same.
    let own = registry.handle().snapshot();
    assert_eq!(own.statistics(), statistics);
    assert_eq!(own.histogram("handler"), Some(handler));
}

#[test]
fn ends_in_order_without_a_file_and_is_read_on() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    let (handle, path) = (registry.handle(), scratch.file());
    assert_eq!(handle.snapshot().writer, WriterState::Running);
    registry.blocks()[0].counters.messages_sent.add(1);
    drop(registry);
    assert!(!path.exists(), "it removes its own");
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.writer, WriterState::Exited);
    assert_eq!(snapshot.statistics().messages_sent, 1);
}

/// The lock tells, and not the process's number: that of another PID namespace means nothing here.
#[test]
fn dead_writer_is_told_from_a_running_one() {
    let scratch = Scratch::new();
    let _registry = scratch.registry();
    let path = scratch.file();
    // Above the largest number a process may have (proc_sys_kernel(5), pid_max).
    poke(&path, offset_of!(Header, pid), 4_194_305);
    assert_eq!(Snapshot::from_file(&path).expect("readable").writer, WriterState::Running);
    assert!(!is_abandoned(&path).expect("readable"));
    assert!(!remove_abandoned(&path).expect("readable") && path.exists());
    // As its file stays behind: with a number that may be another's by now.
    let dead = scratch.left_behind();
    poke(&dead, offset_of!(Header, pid), std::process::id().into());
    assert_eq!(Snapshot::from_file(&dead).expect("readable").writer, WriterState::Died);
    assert!(is_abandoned(&dead).expect("readable"));
    assert!(remove_abandoned(&dead).expect("readable") && !dead.exists());
    let gone = remove_abandoned(&dead).expect_err("it was removed");
    assert!(matches!(gone, RegistryError::File { .. }), "{gone}");
}

/// Whoever may write any file, as root may, is no measure.
#[test]
fn owner_removes_the_file_of_a_dead_process() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let living = scratch.registry();
    let mode = std::fs::metadata(scratch.file()).expect("it is there").permissions().mode();
    let dead = scratch.left_behind();
    let as_it_was = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(&dead, as_it_was).expect("our own");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
            let mut own = capabilities(None).expect("a thread may ask");
            own.effective.remove(CapabilitySet::DAC_OVERRIDE);
            set_capabilities(None, own).expect("a thread may have less");
            assert!(remove_abandoned(&dead).expect("its owner may"));
        });
    });
    assert!(!dead.exists());
    drop(living);
}

/// A file that was made, and whose writer died before it had written to it.
#[test]
fn unfinished_file_is_abandoned_after_a_minute_without_a_writer() {
    let scratch = Scratch::new();
    std::fs::create_dir(&scratch.0).expect("writable");
    for bytes in [0, HEADER_BYTES as u64, 1 << 20] {
        let path = scratch.0.join("cell-7-0.rwstats");
        let file = std::fs::File::create(&path).expect("writable");
        file.set_len(bytes).expect("room");
        let check_begun = || {
            let young = is_abandoned(&path).expect_err("its writer may be at it").to_string();
            assert!(young.contains("being created"), "{young}");
            assert!(remove_abandoned(&path).is_err() && path.exists(), "{bytes}");
        };
        check_begun();
        assert!(lock::try_hold(&file).expect("supported"));
        let then = std::time::UNIX_EPOCH + Duration::from_nanos(crate::time::wall_ns());
        file.set_modified(then - Duration::from_secs(120)).expect("our own");
        let slow = is_abandoned(&path).expect_err("its writer is at it").to_string();
        assert!(slow.contains("being created"), "{slow}");
        drop(file);
        assert!(remove_abandoned(&path).expect("told by its age"), "{bytes}");
        assert!(!path.exists());
    }
}

/// Nodes that are killed again and again do not fill the directory, which is memory as a rule. Who
/// died last is told by what was written last, and not by when the file was made: those that died
/// first are made last here.
#[test]
fn new_registry_removes_those_that_died_first() {
    let scratch = Scratch::new();
    let running = scratch.registry();
    let alive = scratch.file();
    let now = Nanos::now().0;
    let dead: Vec<_> = (0..DEAD_FILES_MAX as u64 + 4)
        .map(|age| scratch.left_after(now - 1_000_000 * age))
        .collect();
    let other_version = scratch.left_after(2);
    poke(&other_version, offset_of!(Header, version), 1);
    let begun = scratch.0.join("cell-7-1000.rwstats");
    std::fs::write(&begun, "").expect("room");
    let second = scratch.registry();
    let (kept, removed) = dead.split_at(DEAD_FILES_MAX);
    assert!(kept.iter().all(|path| path.exists()), "the last to die stay");
    assert!(!removed.iter().any(|path| path.exists()), "the first to die go");
    assert!(alive.exists() && begun.exists() && other_version.exists());
    drop((running, second));
    assert!(!alive.exists());
}

/// Damaged and forged files, and those of a start of the machine before this one.
#[test]
fn times_that_can_not_be_do_not_make_a_file_the_newest() {
    let scratch = Scratch::new();
    let _running = scratch.registry();
    let silence = |path: &Path| {
        let (now, wall) = (Nanos::now(), crate::time::wall_ns());
        reader::silence_of(path, now, wall).expect("readable")
    };
    let long = Duration::from_nanos(Nanos::now().0 / 2);
    let turned = scratch.left_after(Nanos::now().0);
    assert!(silence(&turned) < long, "its last turn was just now");
    assert!(silence(&scratch.left_after(0)) > long, "it was made, and never turned");
    let ahead = scratch.left_after(u64::MAX);
    assert!(silence(&ahead) > long, "a turn that is yet to come");
    for (field, value) in [
        (offset_of!(Header, blocks), u64::MAX),
        (offset_of!(Header, block_bytes), u64::MAX),
        (offset_of!(Header, header_bytes), u64::MAX - 7),
    ] {
        poke(&ahead, field, value);
        assert!(silence(&ahead) > long, "{field}: what it was made");
    }
    // Then the file system tells, which knows that it was written just now.
    poke(&turned, offset_of!(Header, created_ns), u64::MAX);
    assert!(silence(&turned) < long, "made later than now");
    let file = writable(&ahead);
    let set_modified = |ago: Duration| {
        let now = std::time::UNIX_EPOCH + Duration::from_nanos(crate::time::wall_ns());
        file.set_modified(now - ago).expect("our own");
    };
    let year = Duration::from_secs(365 * 86_400);
    poke(&ahead, offset_of!(Header, created_ns), u64::MAX);
    set_modified(year);
    assert!(silence(&ahead) >= year);
    assert_eq!(reader::silence_of(&scratch.0, Nanos::now(), 0), None, "a directory");
}

#[test]
fn state_is_that_of_the_sessions() {
    let scratch = Scratch::new();
    let _registry = scratch.registry();
    let copy = scratch.0.join("copy.rwstats");
    std::fs::copy(scratch.file(), &copy).expect("room");
    let writer = writable(&copy);
    assert!(lock::try_hold(&writer).expect("supported"));
    let check = |expected| {
        let snapshot = Snapshot::from_file(&copy).expect("readable");
        assert_eq!(snapshot.statistics().state, expected);
    };
    check(ConnectionState::Disconnected);
    let row = HEADER_BYTES + Plan::ROWS_AT;
    poke(&copy, row + offset_of!(Row, key), 1 | 1 << 32);
    for (state, expected) in [
        (RowState::Connecting, ConnectionState::Connecting),
        (RowState::Connected, ConnectionState::Connected),
        (RowState::Away, ConnectionState::Reconnecting),
        (RowState::Closing, ConnectionState::Closing),
        (RowState::Ended, ConnectionState::Disconnected),
    ] {
        poke(&copy, row + offset_of!(Row, state), state.code());
        check(expected);
    }
    poke(&copy, offset_of!(Header, is_server), 1);
    check(ConnectionState::Connected);
    drop(writer);
    check(ConnectionState::Disconnected);
}

fn check_refused(damage: impl FnOnce(&Path), expected: &str) {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    let path = scratch.file();
    // What is done to a mapped file would reach the writer.
    let copy = scratch.0.join("copy.rwstats");
    std::fs::copy(&path, &copy).expect("room");
    damage(&copy);
    let error = Snapshot::from_file(&copy).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("copy.rwstats"), "{error}");
    drop(registry);
}

#[test]
fn registry_can_not_be_opened_for_writing() {
    let scratch = Scratch::new();
    let _registry = scratch.registry();
    let mode = std::fs::metadata(scratch.file()).expect("it is there").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o400);
}

#[test]
fn what_is_no_registry_is_told_clearly() {
    let cut = |bytes: u64| {
        move |path: &Path| {
            let file = writable(path);
            file.set_len(bytes).expect("our own");
        }
    };
    check_refused(|path| poke(path, 0, 1), "not a ringwire registry");
    check_refused(cut(5), "not a ringwire registry");
    check_refused(|path| std::fs::write(path, "[package]\nname = \"x\"\n").expect("room"), "not a");
    check_refused(cut(0), "being created");
    check_refused(|path| poke(path, 16, 0), "being created");
    check_refused(
        |path| {
            cut(0)(path);
            cut(HEADER_BYTES as u64)(path);
        },
        "being created",
    );
    let reads = format!("this build reads layout 2-{:08x}: use the command", layout() >> 32);
    check_refused(|path| poke(path, 8, 7), &reads);
    let own = concat!(
        "another version: this is layout 7, built by ringwire ",
        env!("CARGO_PKG_VERSION"),
        ";"
    );
    check_refused(|path| poke(path, 8, 7), own);
    // Before builds said what they are.
    let oldest = |path: &Path| {
        poke(path, 8, 1);
        (0..3).for_each(|word| poke(path, offset_of!(Header, build) + 8 * word, 0));
    };
    check_refused(oldest, "another version: this is layout 1, built by an unknown build;");
    // The same byte table, and another number of counters, say.
    let newer = |path: &Path| {
        poke(path, offset_of!(Header, layout), 0x1234_5678_0000_0000);
        poke(path, offset_of!(Header, rows_at), 8);
        poke(path, offset_of!(Header, build) + 8, u64::from_le_bytes(*b" 7.8.9\0\0"));
    };
    check_refused(newer, "another version: this is layout 2-12345678, built by ringwire 7.8.9;");
    let hostile = |path: &Path| {
        poke(path, 8, 7);
        poke(path, offset_of!(Header, build), u64::from_le_bytes(*b"\x1b[2Jxxxx"));
    };
    check_refused(hostile, "built by an unknown build;");
    check_refused(cut(4096), "cut short: 4096 bytes of");
    check_refused(cut(100_000), "cut short: 100000 bytes of");
    check_refused(
        |path| poke(path, offset_of!(Header, rows), u64::MAX),
        "damaged: the file's length",
    );
    check_refused(|path| poke(path, offset_of!(Header, blocks), 1), "damaged: the file's length");
    check_refused(|path| poke(path, offset_of!(Header, lanes), 9), "damaged: the number of lanes");
    let missing = Snapshot::from_file(Path::new("/nonexistent/x.rwstats")).expect_err("missing");
    assert!(missing.to_string().contains("/nonexistent/x.rwstats"), "{missing}");
    let folder = Snapshot::from_file(&std::env::temp_dir()).expect_err("a folder");
    assert!(folder.to_string().contains("not a ringwire registry"), "{folder}");
}

/// Opening it must not wait for a writer.
#[test]
fn fifo_is_no_registry() {
    let scratch = Scratch::new();
    let _registry = scratch.registry();
    let fifo = scratch.0.join("fifo.rwstats");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).expect("room");
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let read = Snapshot::from_file(&fifo).map(|_| ()).expect_err("a FIFO");
        let asked = is_abandoned(&fifo).expect_err("a FIFO");
        done.send([read, asked].map(|error| error.to_string())).expect("the test waits");
    });
    let errors = outcome.recv_timeout(Duration::from_secs(10)).expect("it does not block");
    assert!(errors.iter().all(|error| error.contains("not a ringwire registry")), "{errors:?}");
}

/// A build that knows other counters finds those it knows.
#[test]
fn counters_are_found_by_their_labels() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    registry.blocks()[0].counters.messages_sent.add(5);
    registry.blocks()[0].counters.bytes_sent.add(600);
    let path = scratch.file();
    let copy = scratch.0.join("copy.rwstats");
    std::fs::copy(&path, &copy).expect("room");
    let bytes = std::fs::read(&copy).expect("our own");
    let labels = String::from_utf8_lossy(&bytes[512..HEADER_BYTES]).into_owned();
    assert!(labels.starts_with("messages_sent\nbytes_sent\n"), "{labels}");
    // As if the first two stood in the other order.
    let file = writable(&copy);
    file.write_all_at(b"bytes_sent\nmessages_sent\n", 512).expect("our own");
    let statistics = Snapshot::from_file(&copy).expect("readable").statistics();
    assert_eq!((statistics.messages_sent, statistics.bytes_sent), (600, 5));
}

#[test]
fn node_runs_without_a_file() {
    let scratch = Scratch::new();
    std::fs::create_dir(&scratch.0).expect("room");
    let file = scratch.0.join("no_directory");
    std::fs::write(&file, "").expect("room");
    for builder in [
        Config::builder().registry_directory(&file),
        Config::builder().registry_directory(scratch.0.join("a/b")),
        Config::builder().registry_directory(&scratch.0).registry(false),
    ] {
        let registry = Registry::new(&builder.build().expect("valid"), 1, 4).expect("memory");
        registry.blocks()[0].counters.turns.add(1);
        let snapshot = registry.handle().snapshot();
        assert_eq!((snapshot.statistics().turns, snapshot.path), (1, PathBuf::new()));
    }
    assert_eq!(files(std::slice::from_ref(&scratch.0)), Vec::<PathBuf>::new());
}

#[test]
fn message_ages_on_only_in_a_turn_of_a_live_writer() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    let block = &registry.blocks()[0];
    let (row, taken) = (&block.rows[0], Nanos::now().0);
    let (updated, began) = (taken - 5_000_000_000, taken - 3_000_000_000);
    row.key.store(1 << 32 | 1, Ordering::Relaxed);
    row.state.store(RowState::Connected.code(), Ordering::Relaxed);
    row.updated_ns.store(updated, Ordering::Relaxed);
    row.lanes[2].oldest_ns.store(updated - 1_000_000, Ordering::Relaxed);
    let path = scratch.file();
    let age_in = |path: &Path| {
        let snapshot = Snapshot::from_file(path).expect("readable");
        snapshot.sessions().next().expect("a row").lanes[2].oldest_ns
    };
    let age = || age_in(&path);
    assert_eq!(age(), 1_000_000, "it has left since, for all that is known");
    block.head.turn_began_ns.store(began, Ordering::Relaxed);
    block.head.begin(1);
    assert!((3_001_000_000..60_000_000_000).contains(&age()), "the turn hangs: {}", age());
    assert_eq!(age_in(&scratch.left_behind()), 1_000_000, "dead in the middle of a turn");
}

/// What a writer at work writes together is read together, counters, histograms and rows, or the
/// snapshot says that it is torn.
#[test]
fn snapshots_are_of_one_moment() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    let path = scratch.file();
    let block = registry.blocks()[0].clone();
    for (slot, row) in block.rows.iter().enumerate() {
        row.key.store((slot as u64 + 1) | (1 << 32), Ordering::Relaxed);
        row.state.store(RowState::Connected.code(), Ordering::Relaxed);
    }
    let add = |word: &AtomicU64| word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    let deadline = Nanos::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // ORDERING: Relaxed: it carries nothing else.
            for turn in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                block.head.begin(2 * turn - 1);
                block.counters.messages_received.add(1);
                // Ever other places, some of them for the first time.
                block.histograms.turn.record(turn * turn % 10_000_019);
                add(&block.rows[usize::try_from(turn % 4).expect("small")].messages_received);
                block.histograms.queueing.record(turn);
                block.counters.accept_errors.add(1);
                block.head.end(2 * turn);
                // As long as a peer takes to answer, or a little more.
                let next = Nanos::now() + Duration::from_micros(30);
                while Nanos::now() < next {
                    std::thread::yield_now();
                }
            }
        });
        // Whole snapshots between which something was written.
        let (mut whole, mut last) = (0, 0);
        while whole < 100 {
            assert!(Nanos::now() < deadline, "only {whole} whole snapshots");
            let snapshot = Snapshot::from_file(&path).expect("readable");
            let reactor = &snapshot.reactors[0];
            if reactor.is_torn {
                continue;
            }
            let received = reactor.counters.messages_received.get();
            let in_rows = reactor.sessions.iter().map(|session| session.messages_received).sum();
            let count = |name: &str| snapshot.histogram(name).expect("there is one").count();
            let found = [reactor.counters.accept_errors.get(), in_rows, count("turn")];
            assert_eq!(found, [received; 3], "of different moments");
            let queueing = snapshot.histogram("queueing").expect("there is one");
            let expected = (received, received, received * (received + 1) / 2);
            assert_eq!((queueing.count(), queueing.max_ns(), queueing.sum_ns()), expected);
            assert!(received >= last, "it went backwards");
            whole += u64::from(received > last);
            last = received;
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// One that never rests costs a reader some milliseconds, and not the rest of its life.
#[test]
fn writer_without_a_pause_is_read_in_time_and_marked() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    let path = scratch.file();
    let block = registry.blocks()[0].clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut sequence = 0;
            while !stop.load(Ordering::Relaxed) {
                block.head.begin(sequence + 1);
                block.histograms.turn.record(sequence);
                sequence += 2;
                block.head.end(sequence);
            }
            sequence
        });
        // The writer may not have begun yet, or not run for a while.
        let deadline = Nanos::now() + Duration::from_secs(10);
        let is_torn = loop {
            let began = Nanos::now();
            let snapshot = Snapshot::from_file(&path).expect("readable");
            let took = Nanos::now().since(began);
            assert!(took < Duration::from_secs(5), "{took:?}");
            if snapshot.is_torn() || Nanos::now() > deadline {
                break snapshot.is_torn();
            }
        };
        stop.store(true, Ordering::Relaxed);
        let sequence = writer.join().expect("no panic");
        assert!(sequence > 0, "it did not write");
        assert!(is_torn, "nothing says that the numbers are of different moments");
    });
}

#[test]
fn writer_in_the_middle_of_a_turn_is_read_and_marked() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    let block = &registry.blocks()[1];
    block.counters.turns.add(8);
    block.head.begin(1);
    let snapshot = Snapshot::from_file(&scratch.file()).expect("readable");
    let reactor = &snapshot.reactors[1];
    assert!(reactor.is_torn && reactor.is_in_turn, "{reactor:?}");
    assert!(!snapshot.reactors[0].is_torn);
    assert_eq!(reactor.counters.turns.get(), 8);
}

#[test]
fn file_is_as_long_as_its_plan() {
    let scratch = Scratch::new();
    let registry = scratch.registry();
    let bytes = std::fs::metadata(scratch.file()).expect("it is there").len();
    assert_eq!(bytes, Plan { blocks: 2, rows: 4 }.file_bytes() as u64);
    drop(registry);
}

/// Names and offsets of the tables above.
fn documented() -> Vec<(usize, String)> {
    let rows = include_str!("mod.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.filter_map(|row| {
        let mut cells = row.split(" | ");
        let offset = cells.next()?.parse().ok()?;
        Some((offset, cells.nth(1)?.to_owned()))
    })
    .collect()
}

#[test]
fn tables_are_the_layout() {
    let documented = documented();
    macro_rules! check {
        ($kind:ty: $($field:ident)+) => {
            $(
                let entry = (offset_of!($kind, $field), stringify!($field).to_owned());
                assert!(documented.contains(&entry), "{entry:?} is not in the tables");
            )+
        };
    }
    check!(Header: magic version ready file_bytes header_bytes block_bytes blocks counters_at
        counter_words histograms_at histograms histogram_bytes rows_at rows row_bytes lanes
        drop_reasons labels_bytes pid layout created_ns created_wall_ns
        exited_wall_ns is_server turn_threshold_ns handles_too_large handles_overdue
        build node_name command endpoint labels);
    check!(BlockHead: sequence turn_began_ns unsettled_messages unsettled_bytes);
    check!(Row: sequence key state updated_ns since_ns last_activity_ns messages_sent
        messages_received bytes_sent bytes_received bytes_kept messages_missed messages_expired
        expired_at_peer round_trip_ns clock_offset_ns clock_error_ns links reason peer_number
        peer_name address lanes drops);
    let text = include_str!("mod.rs");
    let names: Vec<_> = Snapshot::histogram_names().map(|(name, _)| name).collect();
    let flat = text.replace("\n//!", "");
    assert!(flat.contains(&names.join(", ")), "{names:?}");
    for (bytes, what) in
        [(size_of::<Row>(), "| rows_at |"), (size_of::<Histogram>(), "| histograms_at |")]
    {
        assert!(text.contains(&format!("{what} {bytes} each")), "{what} {bytes}");
    }
}
