//! Numbered messages both ways while links break: none lost, none doubled, in order, and counted.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use ringwire::{
    Checksum, ConfigBuilder, ConnectionState, Envelope, EventKind, Idle, Message, Nanos, Priority,
    SendError, Statistics,
};

use crate::bed::{Bed, settings_that_resume, silent, turn, valid};
use crate::proxy::{Fault, Plan, Way};
use crate::util::{PATIENCE, isolated, isolated_for, open_descriptors, pattern, resident_kib};

const LANES: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];

/// Numbered messages one way, in all lanes.
#[derive(Debug, Default)]
struct Numbers {
    /// The number of the last message admitted, and of the last received, by lane.
    sent: [u64; 4],
    received: [u64; 4],
    /// How many of them there were: best effort, reliable.
    sent_of: [u64; 2],
    received_of: [u64; 2],
    /// Reliable messages that have not come yet, in order, by lane.
    awaited: [VecDeque<u64>; 4],
    /// How often a lane was full.
    refused: u64,
}

impl Numbers {
    /// Sends the next message of a lane.
    fn send(
        &mut self,
        rng: &mut fastrand::Rng,
        loose: bool,
        send: impl FnOnce(Envelope, &Bytes) -> Result<(), SendError>,
    ) {
        let lane = rng.usize(..4);
        let is_reliable = !loose || rng.bool();
        let number = self.sent[lane] + 1;
        let bytes = if rng.u8(..20) == 0 { rng.usize(16..40_000) } else { rng.usize(16..1500) };
        let mut payload = pattern(bytes, number);
        payload[..8].copy_from_slice(&number.to_le_bytes());
        payload[8] = u8::from(is_reliable);
        let mut envelope = Envelope::data().priority(LANES[lane]);
        if is_reliable {
            envelope = envelope.reliable();
        }
        match send(envelope, &payload.into()) {
            Ok(()) => {
                self.sent[lane] = number;
                self.sent_of[usize::from(is_reliable)] += 1;
                if is_reliable {
                    self.awaited[lane].push_back(number);
                }
            }
            Err(SendError::Full | SendError::MemoryFull) => self.refused += 1,
            // The link is down.
            Err(SendError::NotConnected) if !is_reliable => {}
            Err(error) => panic!("message {number} of lane {lane}: {error}"),
        }
    }

    /// Checks that a message is the next: none is lost, none doubled, order is kept.
    fn receive(&mut self, message: &Message) {
        let payload = message.payload();
        let number = u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"));
        let is_reliable = payload[8] == 1;
        let lane = LANES.iter().position(|&lane| lane == message.priority()).expect("a lane");
        assert!(number > self.received[lane], "lane {lane}: {number} after {:?}", self.received);
        assert_eq!(payload[9..], pattern(payload.len(), number)[9..], "it came unchanged");
        if is_reliable {
            let expected = self.awaited[lane].pop_front();
            assert_eq!(Some(number), expected, "lane {lane}, after {:?}", self.received);
        }
        self.received[lane] = number;
        self.received_of[usize::from(is_reliable)] += 1;
    }

    fn is_complete(&self) -> bool {
        self.awaited.iter().all(VecDeque::is_empty)
    }

    /// Best-effort messages that did not come.
    fn lost(&self) -> u64 {
        self.sent_of[0] - self.received_of[0]
    }
}

/// Numbered messages both ways.
#[derive(Debug, Default)]
struct Traffic {
    up: Numbers,
    down: Numbers,
    /// Half of the messages are best effort.
    loose: bool,
}

impl Traffic {
    /// Sends some both ways, and takes what has come.
    fn step(&mut self, bed: &mut Bed, rng: &mut fastrand::Rng) {
        for _ in 0..rng.u32(..8) {
            self.up.send(rng, self.loose, |envelope, body| bed.client.send(envelope, body));
        }
        for _ in 0..rng.u32(..8) {
            self.down
                .send(rng, self.loose, |envelope, body| bed.server.send_to(bed.id, envelope, body));
        }
        self.take(bed);
        check_reliable(&bed.client.statistics());
    }

    fn take(&mut self, bed: &mut Bed) {
        turn(&mut bed.client);
        while let Ok(message) = bed.client.receive(Duration::ZERO) {
            self.down.receive(&message);
        }
        while let Ok(message) = bed.server.receive(Duration::ZERO) {
            self.up.receive(&message);
        }
        while let Some(event) = bed.client.poll_event() {
            let is_over = matches!(
                event.kind,
                EventKind::SessionLost { .. } | EventKind::Disconnected { .. }
            );
            assert!(!is_over, "the client's session ended: {event:?}");
        }
        while let Some(event) = bed.server.poll_event() {
            let is_over = matches!(
                event.kind,
                EventKind::SessionLost { .. } | EventKind::Disconnected { .. }
            );
            let is_ours = event.connection == bed.id;
            assert!(!(is_over && is_ours), "the server's session ended: {event:?}");
        }
    }

    /// Takes the rest. Everything reliable has come, and the statistics add up.
    #[track_caller]
    fn finish(&mut self, bed: &mut Bed, seed: u64) {
        bed.proxy.plan(|_| Plan::default());
        bed.proxy.release();
        bed.proxy.admit();
        // The last link may have a plan of its own.
        bed.proxy.breaks(Fault::Cut);
        let deadline = Nanos::now() + PATIENCE;
        let is_settled = |bed: &Bed| {
            bed.client.connection_state() == ConnectionState::Connected
                && bed.server.statistics().connections_active == 1
        };
        while !(self.up.is_complete() && self.down.is_complete() && is_settled(bed)) {
            assert!(
                Nanos::now() < deadline,
                "seed {seed}: {} up and {} down have not come:\n{:?}\n{:?}",
                self.up.awaited.iter().map(VecDeque::len).sum::<usize>(),
                self.down.awaited.iter().map(VecDeque::len).sum::<usize>(),
                bed.client.statistics(),
                bed.server.statistics(),
            );
            self.take(bed);
        }
        bed.turn_until("nothing is kept that makes a lane full", |bed| {
            let both = [bed.client.statistics(), bed.server.statistics()];
            both.iter().all(|statistics| statistics.reliable_unconfirmed == 0)
        });
        // What is behind the last reliable message is best effort; a last link loses none of it.
        self.take_rest(bed);
        let (client, server) = (bed.client.statistics(), bed.server.statistics());
        assert_eq!((client.sessions_lost, server.sessions_lost), (0, 0), "seed {seed}");
        assert_eq!(client.messages_dropped, self.up.lost(), "seed {seed}: {client:?}");
        assert_eq!(server.messages_dropped, self.down.lost(), "seed {seed}: {server:?}");
        let received: u64 = self.down.received_of.iter().sum();
        assert_eq!(client.messages_received, received, "seed {seed}");
        // Counted behind the whole of what one receive has brought.
        let received: u64 = self.up.received_of.iter().sum();
        bed.turn_until("all that was handed out is counted", |bed| {
            bed.server.statistics().messages_received >= received
        });
        assert_eq!(bed.server.statistics().messages_received, received, "seed {seed}");
        self.check_books(bed, seed);
    }

    /// What the statistics say became of every message.
    #[track_caller]
    fn check_books(&self, bed: &mut Bed, seed: u64) {
        let both = |bed: &Bed| [bed.client.statistics(), bed.server.statistics()];
        bed.turn_until("nothing is queued", |bed| {
            both(bed).iter().all(|statistics| statistics.messages_queued == 0)
        });
        bed.turn_until("what is reliable is confirmed", |bed| {
            both(bed).iter().all(|statistics| statistics.reliable_unconfirmed == 0)
        });
        let [client, server] = both(bed);
        for (here, there, sent_of) in
            [(&client, &server, self.up.sent_of), (&server, &client, self.down.sent_of)]
        {
            check_reliable(here);
            assert_eq!(here.reliable_admitted, sent_of[1], "seed {seed}: {here:?}");
            assert_eq!(here.reliable_lost, 0, "seed {seed}: the sessions go on");
            let sent: u64 = sent_of.iter().sum();
            assert_eq!(here.messages_admitted, sent, "seed {seed}: {here:?}");
            let dropped: u64 = here.drops.iter().map(|drop| drop.count).sum();
            let arrived = there.messages_received + there.messages_expired;
            assert_eq!(here.messages_admitted, dropped + arrived, "seed {seed}: {here:?}");
            let first = here.messages_sent - here.messages_resent;
            match dropped {
                0 => assert_eq!(first, sent, "seed {seed}: {here:?}"),
                _ => assert!(first <= sent && first >= arrived, "seed {seed}: {here:?}"),
            }
        }
        assert!(client.messages_resent + server.messages_resent > 0, "seed {seed}: links were cut");
    }

    /// A reliable message behind everything else in each lane: when it has come, all has.
    fn take_rest(&mut self, bed: &mut Bed) {
        for lane in LANES {
            let envelope = Envelope::data().priority(lane).reliable();
            let index = LANES.iter().position(|&other| other == lane).expect("a lane");
            for (numbers, up) in [(&mut self.up, true), (&mut self.down, false)] {
                let number = numbers.sent[index] + 1;
                let mut payload = pattern(16, number);
                payload[..8].copy_from_slice(&number.to_le_bytes());
                payload[8] = 1;
                let sent = match up {
                    true => bed.client.send(envelope, &payload),
                    false => bed.server.send_to(bed.id, envelope, &payload),
                };
                sent.expect("the lanes are empty");
                numbers.sent[index] = number;
                numbers.sent_of[1] += 1;
                numbers.awaited[index].push_back(number);
            }
        }
        let deadline = Nanos::now() + PATIENCE;
        while !(self.up.is_complete() && self.down.is_complete()) {
            assert!(Nanos::now() < deadline, "the last messages do not come");
            self.take(bed);
        }
    }
}

/// What became of reliable messages adds up, at any time. Not to be read while another thread
/// counts.
#[track_caller]
fn check_reliable(statistics: &Statistics) {
    let known = statistics.reliable_confirmed + statistics.reliable_lost;
    let expected = known + statistics.reliable_unconfirmed;
    assert_eq!(statistics.reliable_admitted, expected, "{statistics:?}");
}

/// Traffic both ways over `links` links, each broken at a random byte.
fn check_traffic(loose: bool, seeds: std::ops::Range<u64>, links: u64) {
    check_traffic_with(settings_that_resume, loose, seeds, links);
}

fn check_traffic_with(
    settings: fn() -> ConfigBuilder,
    loose: bool,
    seeds: std::ops::Range<u64>,
    links: u64,
) {
    for seed in seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let builder = silent().config(valid(settings()));
        let client = settings().reconnect_delay_max_ms(8);
        let mut bed = Bed::around(client, builder);
        let mut plans = fastrand::Rng::with_seed(seed);
        bed.proxy.plan(move |_| {
            let way = if plans.bool() { Way::Up } else { Way::Down };
            let fault = [Fault::Cut, Fault::Reset, Fault::HalfOpen][plans.usize(..3)];
            // From within the handshake to some hundred messages.
            let at = 1 << plans.u64(4..18);
            Plan::new(way, at + plans.u64(..at), fault)
        });
        bed.proxy.breaks(Fault::Cut);
        let mut traffic = Traffic { loose, ..Traffic::default() };
        // For each link.
        let (mut seen, mut deadline) = (0, Nanos::now() + PATIENCE);
        while bed.proxy.links() <= links {
            traffic.step(&mut bed, &mut rng);
            assert!(Nanos::now() < deadline, "seed {seed}: {} links", bed.proxy.links());
            if bed.proxy.links() > seen {
                (seen, deadline) = (bed.proxy.links(), Nanos::now() + PATIENCE);
            }
        }
        traffic.finish(&mut bed, seed);
        assert!(bed.client.statistics().sessions_resumed >= links / 4, "seed {seed}");
        if !loose {
            assert_eq!(traffic.up.lost() + traffic.down.lost(), 0, "seed {seed}");
        }
    }
}

#[test]
fn reliable_messages_survive_cuts_at_any_byte() {
    isolated(|| check_traffic(false, 0..6, 40));
}

/// Sends and receives by system calls of their own.
#[test]
fn spinning_ends_survive_cuts_at_any_byte() {
    fn spinning() -> ConfigBuilder {
        settings_that_resume().idle(Idle::Spin)
    }
    isolated(|| {
        check_traffic_with(spinning, false, 200..202, 20);
        check_traffic_with(spinning, true, 202..204, 20);
    });
}

/// Sends that the kernel makes from the buffers themselves, and reports twice.
#[test]
fn zero_copy_sends_survive_cuts_at_any_byte() {
    fn zero_copy() -> ConfigBuilder {
        settings_that_resume().zero_copy_bytes_min(64)
    }
    isolated(|| {
        check_traffic_with(zero_copy, false, 300..303, 30);
        check_traffic_with(zero_copy, true, 303..306, 30);
    });
}

// Payloads that are sent from where they are, by each way there is.

fn in_place() -> ConfigBuilder {
    settings_that_resume().in_place_bytes_min(64).zero_copy_bytes_min(0)
}

#[test]
fn payloads_in_place_survive_cuts_at_any_byte() {
    isolated(|| check_traffic_with(in_place, false, 700..703, 30));
}

#[test]
fn loose_payloads_in_place_survive_cuts_at_any_byte() {
    isolated(|| check_traffic_with(in_place, true, 703..705, 30));
}

#[test]
fn payloads_in_place_of_spinning_ends_survive_cuts_at_any_byte() {
    isolated(|| check_traffic_with(|| in_place().idle(Idle::Spin), false, 705..707, 20));
}

#[test]
fn payloads_in_place_sent_without_a_copy_survive_cuts_at_any_byte() {
    isolated(|| check_traffic_with(|| in_place().zero_copy_bytes_min(64), false, 707..709, 30));
}

#[test]
fn payloads_in_place_with_checksums_survive_cuts_at_any_byte() {
    isolated(|| check_traffic_with(|| in_place().checksum(Checksum::Always), false, 709..711, 30));
}

/// Small windows and blocks: frames that move, and lanes that take many blocks.
#[test]
fn large_frames_survive_cuts_at_any_byte() {
    fn narrow() -> ConfigBuilder {
        settings_that_resume().window_bytes(4 << 10).block_bytes(4 << 10)
    }
    isolated(|| {
        check_traffic_with(narrow, false, 400..403, 30);
        check_traffic_with(narrow, true, 403..406, 30);
    });
}

/// Each of the two links breaks by itself.
#[test]
fn express_sessions_survive_cuts_at_any_byte() {
    fn express() -> ConfigBuilder {
        settings_that_resume().express(true)
    }
    isolated(|| {
        check_traffic_with(express, false, 600..604, 60);
        check_traffic_with(express, true, 604..608, 60);
    });
}

/// An inbox that is always full: links are lost while they are not read.
#[test]
fn held_back_ends_survive_cuts_at_any_byte() {
    fn held_back() -> ConfigBuilder {
        settings_that_resume().inbox_frames_max(2)
    }
    isolated(|| {
        check_traffic_with(held_back, false, 500..504, 30);
        check_traffic_with(held_back, true, 504..508, 30);
    });
}

#[test]
fn best_effort_messages_are_lost_and_counted() {
    isolated(|| check_traffic(true, 100..106, 40));
}

/// For how long [`random_faults_lose_and_double_nothing`] runs, in seconds.
const SOAK: &str = "RINGWIRE_SOAK_SECONDS";

/// What may happen to a link, from a seed.
fn any_plan(rng: &mut fastrand::Rng) -> Plan {
    let way = if rng.bool() { Way::Up } else { Way::Down };
    let at = 1 << rng.u64(4..18);
    let fault = match rng.u8(..7) {
        0 | 1 => Fault::Cut,
        2 => Fault::Reset,
        3 => Fault::HalfOpen,
        4 | 5 => Fault::Corrupt { bit: rng.u8(..8) },
        _ => Fault::Stall { ms: rng.u32(1..100) },
    };
    let plan = Plan::new(way, at + rng.u64(..at), fault);
    match rng.u8(..8) {
        0 => Plan { trickle: rng.usize(1..100), ..plan },
        1 => Plan { delay: Duration::from_micros(rng.u64(..3000)), ..plan },
        _ => plan,
    }
}

/// How long the tests of random faults run.
fn soak() -> Duration {
    let seconds = std::env::var(SOAK).ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

/// So much longer may they take where that is too short to prove anything.
fn soak_more() -> Duration {
    2 * soak() + Duration::from_secs(60)
}

/// Longer than they may take.
fn soak_timeout() -> Duration {
    soak() + soak_more() + Duration::from_secs(60)
}

#[test]
fn random_faults_lose_and_double_nothing() {
    isolated_for(soak_timeout(), || check_random_faults(false));
}

#[test]
fn random_faults_of_two_links_lose_and_double_nothing() {
    isolated_for(soak_timeout(), || check_random_faults(true));
}

/// Reliable traffic both ways under every fault the proxy knows.
fn check_random_faults(express: bool) {
    let seconds = soak().as_secs();
    let seed = std::env::var("RINGWIRE_SOAK_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(20);
    let settings = || {
        settings_that_resume()
            .express(express)
            .checksum(Checksum::Always)
            .frame_timeout_ms(200)
            .handshake_timeout_ms(200)
            .reconnect_delay_max_ms(8)
            // Little memory, so that all of it is soon in use.
            .frame_bytes_max(256 << 10)
            .kept_bytes_max(512 << 10)
            .send_memory_bytes(4 << 20)
            .receive_memory_bytes(1 << 20)
            .inbox_bytes_max(1 << 20)
    };
    let mut bed = Bed::around(settings(), silent().config(valid(settings())));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut plans = fastrand::Rng::with_seed(seed + 1);
    bed.proxy.plan(move |_| any_plan(&mut plans));
    bed.proxy.breaks(Fault::Cut);
    let mut traffic = Traffic::default();
    let (begin, length) = (Nanos::now(), Duration::from_secs(seconds));
    let mut resident = 0;
    // Fewer would prove little. What is slow, a busy machine or a checked build, gets more time.
    let (faults_min, resumed_min) = (5 * seconds, 2 * seconds);
    let is_quiet = |bed: &Bed| {
        bed.proxy.faults() <= faults_min || bed.client.statistics().sessions_resumed <= resumed_min
    };
    let latest = begin + length + soak_more();
    while Nanos::now() < begin + length || (is_quiet(&bed) && Nanos::now() < latest) {
        traffic.step(&mut bed, &mut rng);
        match rng.u16(..500) {
            0 => bed.proxy.breaks(Fault::Reset),
            1 => bed.proxy.refuse_for(rng.u32(..50)),
            2 => bed.proxy.hold_for(rng.u32(..50)),
            _ => {}
        }
        let is_warm = Nanos::now() > begin + length / 4;
        if resident == 0 && is_warm {
            resident = resident_kib();
        }
        assert!(open_descriptors() < 64, "{} descriptors", open_descriptors());
    }
    let grown = resident_kib().saturating_sub(resident);
    let (up, down) = (&traffic.up.received, &traffic.down.received);
    let summary = format!("{} faults, {up:?} up, {down:?} down", bed.proxy.faults());
    println!("{summary}; {} links; {grown} KiB more", bed.proxy.links());
    traffic.finish(&mut bed, seed);
    assert!(grown < 8192, "{grown} KiB more: {summary}");
    assert!(!is_quiet(&bed), "too quiet: {summary}");
    assert_eq!(traffic.up.lost() + traffic.down.lost(), 0, "{summary}");
}
