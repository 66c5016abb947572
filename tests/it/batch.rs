//! Messages that are queued in one go: what arrives, and what a refusal leaves behind.

use ringwire::{BatchReport, Client, Config, Envelope, Kind, SendError};

use crate::bed::Bed;
use crate::proxy::Fault;
use crate::util::{
    DATA, LOW, NORMAL, PATIENCE, client_and_peer, config, isolated, settings, wait_for,
};

fn narrow() -> Config {
    let settings = settings()
        .lane_bytes_max(256 << 10)
        .lane_frames_max(1000)
        .tcp_send_buffer_bytes(8 << 10)
        .zero_copy_bytes_min(0);
    settings.build().expect("valid")
}

fn numbered(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let payload = |number: usize| {
        let mut payload = vec![number as u8; bytes];
        payload[..4].copy_from_slice(&(number as u32).to_le_bytes());
        payload
    };
    (0..count).map(payload).collect()
}

fn slices(bodies: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    bodies.iter().map(Vec::as_slice)
}

/// Sends everything, turning whenever there is no room. Returns how often there was none.
fn send_all(client: &mut Client, envelope: Envelope, bodies: &[Vec<u8>]) -> usize {
    let mut rest = bodies;
    let mut refusals = 0;
    while !rest.is_empty() {
        let report = client.send_all(envelope, slices(rest));
        rest = &rest[report.queued..];
        match report.refused {
            None => assert!(rest.is_empty(), "nothing is left out silently"),
            Some(SendError::Full | SendError::MemoryFull) => {
                refusals += 1;
                client.poll();
            }
            Some(error) => panic!("{error}"),
        }
    }
    refusals
}

#[test]
fn batches_arrive_whole_and_in_order() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(narrow());
        let bodies = numbered(5000, 300);
        let expected = bodies.clone();
        let reading = std::thread::spawn(move || {
            for payload in &expected {
                // It checks sequences and padding, too.
                let frame = peer.frame();
                assert_eq!((frame.kind, frame.priority), (DATA, LOW));
                assert_eq!(frame.payload, *payload);
            }
            peer
        });
        let envelope = Envelope::data().priority(ringwire::Priority::Low);
        let refusals = send_all(&mut client, envelope, &bodies);
        assert!(refusals > 0, "the lane was never full: nothing was tested");
        client.flush_within(PATIENCE).expect("read by the peer");
        assert_eq!(client.statistics().messages_sent, 5000);
        drop(reading.join().expect("all arrives"));
    });
}

#[test]
fn first_refusal_ends_a_batch_and_takes_no_more_bodies() {
    isolated(|| {
        let settings = settings().lane_frames_max(10).build().expect("valid");
        let (mut client, mut peer) = client_and_peer(settings);
        let bodies = numbered(20, 8);
        let mut bodies_left = slices(&bodies);
        let report = client.send_all(Envelope::data(), bodies_left.by_ref());
        assert_eq!((report.queued, report.refused), (10, Some(SendError::Full)));
        assert_eq!(bodies_left.count(), 9, "ten were queued, one was refused");
        assert_eq!(client.statistics().sends_refused, 1);
        client.flush();
        client.poll();
        let rest = client.send_all(Envelope::data(), slices(&bodies[10..]));
        assert_eq!((rest.queued, rest.refused), (10, None));
        client.flush();
        for payload in &bodies {
            let frame = peer.frame();
            assert_eq!((frame.kind, frame.priority), (DATA, NORMAL));
            assert_eq!(frame.payload, *payload);
        }
    });
}

#[test]
fn whole_blocks_of_a_batch_leave_by_themselves() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let bodies = numbered(4000, 64);
        let report = client.send_all(Envelope::data(), slices(&bodies));
        assert_eq!((report.queued, report.refused), (4000, None));
        // No call follows: what has left, the batch itself has submitted.
        let queued = client.connection().expect("connected").frames_queued;
        assert!(queued < 2000, "{queued} of 4000 are still here");
        for payload in &bodies[..2000] {
            assert_eq!(peer.frame().payload, *payload);
        }
    });
}

/// Long ones by themselves, too: as many as leave at once.
#[test]
fn long_messages_leave_by_themselves() {
    isolated(|| {
        let config = settings().lane_bytes_max(512 << 10).build().expect("valid");
        let (mut client, mut peer) = client_and_peer(config);
        let bodies = numbered(6, 64 << 10);
        let queued = |client: &Client| client.connection().expect("connected").frames_queued;
        for body in &bodies[..5] {
            client.send(Envelope::data(), body).expect("room");
        }
        assert_eq!(queued(&client), 5, "less than 384 KiB wait");
        client.send(Envelope::data(), &bodies[5]).expect("room");
        // No call follows.
        assert_eq!(peer.frame().payload, bodies[0]);
    });
}

#[test]
fn batch_without_a_connection_is_refused_whole() {
    isolated(|| {
        let mut client = Client::new(config()).expect("a ring");
        let bodies = numbered(3, 8);
        let report = client.send_all(Envelope::data(), slices(&bodies));
        assert_eq!((report.queued, report.refused), (0, Some(SendError::NotConnected)));
        let empty: [&[u8]; 0] = [];
        let report = client.send_all(Envelope::data(), empty);
        assert_eq!(report.refused, Some(SendError::NotConnected));
    });
}

#[test]
fn empty_batch_is_nothing() {
    isolated(|| {
        let (mut client, _peer) = client_and_peer(config());
        let empty: [&[u8]; 0] = [];
        assert_eq!(client.send_all(Envelope::data(), empty), BatchReport::default());
        assert_eq!(client.connection().expect("connected").frames_queued, 0);
    });
}

#[test]
fn message_that_can_not_be_sent_ends_a_batch() {
    isolated(|| {
        let (mut client, mut peer) = client_and_peer(config());
        let frame_max = client.reactor().config().frame_bytes_max() as usize;
        let bodies = [vec![1; 8], vec![2; frame_max], vec![3; 8]];
        let report = client.send_all(Envelope::data(), slices(&bodies));
        assert_eq!(report.queued, 1);
        assert!(matches!(report.refused, Some(SendError::TooLarge { .. })), "{report:?}");
        let reserved = client.send_all(Envelope::of(Kind::Hello), slices(&bodies[..1]));
        assert!(matches!(reserved.refused, Some(SendError::KindReserved { .. })), "{reserved:?}");
        client.flush();
        assert_eq!(peer.frame().payload, [1; 8]);
    });
}

/// While the link is away: reliable messages are kept, in order, best-effort ones refused.
#[test]
fn batch_waits_for_a_link_when_it_is_reliable() {
    isolated(|| {
        let mut bed = Bed::new();
        let bodies = numbered(50, 100);
        bed.lose_link(Fault::Cut);
        let best_effort = bed.client.send_all(Envelope::data(), slices(&bodies));
        assert_eq!((best_effort.queued, best_effort.refused), (0, Some(SendError::NotConnected)));
        let received_before = bed.server.statistics().messages_received;
        let reliable = bed.client.send_all(Envelope::command().reliable(), slices(&bodies));
        assert_eq!((reliable.queued, reliable.refused), (50, None));
        bed.proxy.admit();
        bed.client.flush_within(PATIENCE).expect("confirmed over the next link");
        // Their confirmation leaves with an answer, before they are counted.
        let expected = received_before + 50;
        wait_for(&bed.server, "they are counted", |s| s.messages_received >= expected);
        assert_eq!(bed.server.statistics().messages_received, expected);
        for payload in &bodies {
            let answer = bed.client.receive(PATIENCE).expect("every command is echoed");
            assert_eq!(answer.payload(), payload);
        }
    });
}
