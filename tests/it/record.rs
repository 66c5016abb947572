//! Taps and recorders on real nodes: what passes is in the file, a reader that stalls or a disk
//! that is full costs counted frames, and nobody else anything.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringwire::record::{Direction, Ending, Record, RecordOrigin, RecordReader};
use ringwire::wire::Decoder;
use ringwire::{Envelope, Kind, Priority, ReceiveError, Recorder, Tap, TapFilter};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::util::{
    Directory, PATIENCE, client, client_with, echo, endpoint, isolated, pattern, settings, start,
    timed, wait_until,
};

/// A frame as it is compared: kind, lane, type, whether it is reliable, payload.
type Sent = (Kind, Priority, bool, Vec<u8>);

/// Everything in a recording, how many frames it says are missing, and how it ends.
fn read(path: &Path) -> (Vec<Sent>, u64, Ending) {
    let mut reader = RecordReader::open(path).expect("a recording");
    let (mut frames, mut missing, mut latest) = (Vec::new(), 0, reader.origin().monotonic);
    while let Some(record) = reader.next().expect("readable") {
        match record {
            Record::Frame(recorded) => {
                assert_eq!(recorded.direction, Direction::Received);
                assert!(recorded.at >= latest, "one reactor's times are in order");
                latest = recorded.at;
                let frame = Decoder::new(1 << 20).next(&mut &recorded.bytes[..]);
                let frame = frame.expect("valid").expect("whole");
                let payload = frame.payload().to_vec();
                frames.push((frame.kind(), frame.priority(), frame.is_reliable(), payload));
            }
            Record::Lost { frames, .. } => missing += frames,
            _ => {}
        }
    }
    (frames, missing, reader.ending().expect("read to its end"))
}

/// What is in a file already is nobody's to destroy, not even when the disk is full later.
#[test]
fn file_that_is_not_empty_is_refused_and_stays() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("notes");
        std::fs::write(&path, "precious").expect("a fresh directory");
        let (_tap, frames) = Tap::new(TapFilter::received());
        let file = File::options().append(true).open(&path).expect("it is there");
        let error = Recorder::start(frames, file, RecordOrigin::default()).expect_err("not empty");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("empty"), "{error}");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"precious");
    });
}

#[test]
fn recording_of_a_server_holds_what_its_client_sent() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("all.rwrec");
        let (tap, frames) = Tap::new(TapFilter::received());
        let server = start(echo().tap(tap));
        let file = File::create_new(&path).expect("a fresh directory");
        let origin = RecordOrigin { node_name: "cell".into(), ..RecordOrigin::default() };
        let recorder = Recorder::start(frames, file, origin).expect("a thread");

        let mut client = client(&endpoint(&server));
        let mut sent = Vec::new();
        for number in 0..200_u64 {
            let kind = Kind::APPLICATION[number as usize % Kind::APPLICATION.len()];
            let payload = pattern((number * 37 % 3_000) as usize, number);
            let envelope = Envelope::of(kind).priority(Priority::High);
            let reliable = number % 3 == 0;
            let envelope = if reliable { envelope.reliable() } else { envelope };
            client.send(envelope, &payload[..]).expect("room");
            sent.push((kind, Priority::High, reliable, payload));
        }
        client.flush_within(PATIENCE).expect("the server reads");
        // Its answer comes behind everything else.
        client
            .request(Envelope::command().priority(Priority::High), b"last", PATIENCE)
            .expect("answered");
        sent.push((Kind::Command, Priority::High, false, b"last".to_vec()));
        let _ = client.disconnect(PATIENCE);
        let _ = server.shutdown(PATIENCE);
        let report = recorder.finish();
        assert_eq!((report.frames, report.frames_lost), (201, 0));
        assert!(report.failure.is_none(), "{report:?}");
        assert_eq!(report.file_bytes, path.metadata().expect("it is there").len());
        let (found, missing, ending) = read(&path);
        assert!(found == sent, "{} frames of {} are there", found.len(), sent.len());
        assert_eq!((missing, ending), (0, Ending::Finished));
        let origin = RecordReader::open(&path).expect("a recording").origin().clone();
        assert_eq!(origin.node_name, "cell");
    });
}

#[test]
fn tap_of_a_client_sees_both_ways() {
    isolated(|| {
        let server = start(echo());
        let mut client = client(&endpoint(&server));
        let (tap, mut frames) = Tap::new(TapFilter::both().kind(Kind::Command).kind(Kind::Status));
        client.reactor().set_tap(&tap).expect("memory");
        client.send(Envelope::data(), b"of a kind that is left out").expect("room");
        for number in 0..50_u8 {
            let answer = client.request(Envelope::command(), &[number], PATIENCE);
            assert_eq!(answer.expect("answered").payload()[..], [number]);
        }
        for number in 0..50_u8 {
            for direction in [Direction::Sent, Direction::Received] {
                let tapped = frames.receive(Duration::ZERO).expect("it was handed over");
                assert_eq!(tapped.direction, direction);
                assert_eq!(tapped.frame().payload(), [number]);
                assert_eq!(tapped.lost_before, 0);
                let is_request = direction == Direction::Sent;
                assert_eq!(tapped.frame().is_request(), is_request);
            }
        }
        let nothing = frames.receive(Duration::ZERO).map(drop);
        assert!(matches!(nothing, Err(ReceiveError::Timeout { .. })), "{nothing:?}");
        drop((tap, client));
        assert_eq!(frames.receive(PATIENCE).map(drop), Err(ReceiveError::ShutDown));
    });
}

/// Two connections, one session: an application knows it by one name.
#[test]
fn frames_of_an_express_session_have_one_name() {
    isolated(|| {
        let config = settings().express(true).build().expect("valid");
        let server = start(echo().config(config.clone()));
        let mut client = client_with(config, &endpoint(&server));
        let (tap, mut frames) = Tap::new(TapFilter::both());
        client.reactor().set_tap(&tap).expect("memory");
        let id = client.connection().expect("connected").id;
        for priority in Priority::ALL {
            let answer = client.request(Envelope::command().priority(priority), b"x", PATIENCE);
            answer.expect("answered");
        }
        let mut lanes = Vec::new();
        while let Ok(tapped) = frames.receive(Duration::ZERO) {
            assert_eq!(tapped.connection, id, "{:?}", tapped.frame());
            if tapped.direction == Direction::Sent {
                lanes.push(tapped.frame().priority());
            }
        }
        assert_eq!(lanes, Priority::ALL);
    });
}

#[test]
fn reader_that_stalls_loses_counted_frames_and_slows_nobody() {
    isolated(|| {
        const REQUESTS: u64 = 3_000;
        let (tap, mut frames) = Tap::new(TapFilter::received().memory_bytes(64 << 10));
        let server = start(echo().tap(tap));
        let mut client = client(&endpoint(&server));
        // Nobody reads the tap meanwhile: its 64 KiB are full after 500 of them.
        let payload = pattern(32, 1);
        for _ in 0..REQUESTS {
            let answer = client.request(Envelope::command(), &payload[..], PATIENCE);
            assert_eq!(answer.expect("answered all the same").payload()[..], payload[..]);
        }
        let (mut received, mut missing) = (0, 0);
        let (report, took) = timed(|| {
            while let Ok(tapped) = frames.receive(Duration::ZERO) {
                received += 1;
                missing += tapped.lost_before;
            }
            // Who is not turned does not answer the goodbye, which is another matter.
            drop(client);
            server.shutdown(PATIENCE)
        });
        assert!(took < PATIENCE / 2, "the end was held up: {report:?}");
        assert!(received > 100, "{received} frames fit");
        assert_eq!(missing, 0, "the first that fit were the first that came");
        assert_eq!(received + frames.frames_lost(), REQUESTS);
        assert_eq!(frames.receive(PATIENCE).map(drop), Err(ReceiveError::ShutDown));
        assert_eq!(frames.frames_lost(), REQUESTS - received, "also when the node is gone");
    });
}

#[test]
fn full_disk_loses_counted_frames_and_goes_on_when_there_is_room() {
    isolated(|| {
        // A file that may not grow is a disk that is full; the signal that comes with it is not
        // ours to die of.
        let signalled = Arc::new(AtomicBool::new(false));
        let signal = signal_hook::consts::signal::SIGXFSZ;
        let id = signal_hook::flag::register(signal, Arc::clone(&signalled)).expect("a handler");
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(100_000), ..before }).expect("lower");

        let directory = Directory::new();
        let path = directory.path("full.rwrec");
        let (tap, frames) = Tap::new(TapFilter::received());
        let server = start(echo().tap(tap));
        let file = File::create_new(&path).expect("a fresh directory");
        let recorder = Recorder::start(frames, file, RecordOrigin::default()).expect("a thread");
        let mut client = client(&endpoint(&server));
        let payload = pattern(1_000, 2);
        let mut sent = 0;
        let mut ask = |count: u64| {
            for _ in 0..count {
                let answer = client.request(Envelope::command(), &payload[..], PATIENCE);
                assert_eq!(answer.expect("answered all the same").payload()[..], payload[..]);
            }
            sent += count;
            sent
        };
        ask(40);
        wait_until("the first are in the file", || recorder.progress().frames == 40);
        ask(200);
        wait_until("the file is full", || recorder.progress().errno.is_some());
        assert_eq!(recorder.progress().errno, Some(rustix::io::Errno::FBIG.raw_os_error()));
        assert!(signalled.load(Ordering::Relaxed), "the limit was met");
        let (found, _, ending) = read(&path);
        assert!(found.len() >= 40, "{}", found.len());
        assert_eq!(ending, Ending::Unfinished, "nothing half-written stays");
        assert!(path.metadata().expect("it is there").len() <= 100_000);

        setrlimit(Resource::Fsize, before).expect("raise");
        let mut sent = 0;
        wait_until("it can be written again", || {
            sent = ask(1);
            recorder.progress().errno.is_none()
        });
        let _ = client.disconnect(PATIENCE);
        let _ = server.shutdown(PATIENCE);
        let report = recorder.finish();
        assert!(report.frames_lost > 0, "{report:?}");
        assert_eq!(report.frames + report.frames_lost, sent);
        assert!(report.failure.is_some(), "{report:?}");
        let (found, missing, ending) = read(&path);
        assert_eq!(found.len() as u64, report.frames);
        assert_eq!((missing, ending), (report.frames_lost, Ending::Finished));
        signal_hook::low_level::unregister(id);
    });
}

/// What had come when the end began is written, however long the disk takes for it: for more than
/// a second here.
#[test]
fn slow_disk_loses_nothing_at_the_end() {
    const MESSAGES: u64 = 1_000;
    isolated(|| {
        let (tap, frames) = Tap::new(TapFilter::received());
        let server = start(echo().tap(tap.clone()));
        let (mut disk, file) = std::io::pipe().expect("descriptors");
        let file = File::from(std::os::fd::OwnedFd::from(file));
        let recorder = Recorder::start(frames, file, RecordOrigin::default()).expect("a thread");
        let mut client = client(&endpoint(&server));
        let payload = pattern(1_000, 3);
        let ask = |client: &mut ringwire::Client| {
            let answer = client.request(Envelope::command(), &payload[..], PATIENCE);
            assert_eq!(answer.expect("answered all the same").payload()[..], payload[..]);
        };
        // Far more than a pipe and the writer hold.
        (0..MESSAGES).for_each(|_| ask(&mut client));
        let ending = std::thread::spawn(move || recorder.finish());
        #[expect(
            clippy::disallowed_methods,
            reason = "a disk that stands still is what is tested"
        )]
        std::thread::sleep(Duration::from_millis(1_200));
        assert!(!ending.is_finished());
        let mut written = Vec::new();
        let read = std::io::Read::read_to_end(&mut disk, &mut written).expect("a pipe");
        let report = ending.join().expect("no panic");
        assert_eq!((report.frames, report.frames_lost), (MESSAGES, 0), "{report:?}");
        assert_eq!(report.file_bytes, read as u64);
        let mut reader = RecordReader::new(std::io::Cursor::new(written)).expect("a recording");
        let mut found = 0;
        while let Some(record) = reader.next().expect("memory") {
            found += u64::from(matches!(record, Record::Frame(_)));
        }
        assert_eq!((found, reader.ending()), (MESSAGES, Some(Ending::Finished)));
        drop(tap);
        let _ = client.disconnect(PATIENCE);
        let _ = server.shutdown(PATIENCE);
    });
}

/// The header is written at once, so a device that takes nothing is told at the start.
#[test]
fn device_that_takes_nothing_is_refused_at_the_start() {
    isolated(|| {
        let (_tap, frames) = Tap::new(TapFilter::received());
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let refused = Recorder::start(frames, full, RecordOrigin::default());
        let error = refused.map(drop).expect_err("it takes nothing");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    });
}
