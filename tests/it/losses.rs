//! Messages that are dropped: each is counted by peer, lane and reason, and told where that is
//! wanted.

use std::time::Duration;

use ringwire::error::DropReason;
use ringwire::stats::DropCount;
use ringwire::{
    ConfigBuilder, ConnectionState, Envelope, Event, EventKind, Nanos, Overflow, Priority, Server,
};

use crate::bed::{Bed, events_of_server, settings_that_resume, silent, turn, valid};
use crate::proxy::Fault;
use crate::util::{PATIENCE, Peer, isolated, pattern, settings, start, wait_until};

/// What events of drops say, summed.
fn told(events: &[Event]) -> Vec<(Priority, DropReason, u64)> {
    let mut sums: Vec<(Priority, DropReason, u64)> = Vec::new();
    for event in events {
        let EventKind::Dropped { priority, reason, count } = event.kind else { continue };
        match sums.iter_mut().find(|sum| (sum.0, sum.1) == (priority, reason)) {
            Some(sum) => sum.2 += count,
            None => sums.push((priority, reason, count)),
        }
    }
    sums
}

fn counted(drops: &[DropCount]) -> Vec<(Priority, DropReason, u64)> {
    drops.iter().map(|drop| (Priority::ALL[drop.lane], drop.reason, drop.count)).collect()
}

/// A server whose normal lane drops the oldest, and two clients, one of which does not read.
fn check_overflow(drop_events: bool) {
    let settings = settings()
        .overflow(Priority::Normal, Overflow::DropOldest)
        .lane_bytes_max(64 << 10)
        .tcp_send_buffer_bytes(16 << 10)
        .drop_events(drop_events);
    let server = start(Server::builder().config(valid(settings)).listen("127.0.0.1:0"));
    let stuck = Peer::dial_narrow(&server.addresses()[0]);
    wait_until("it is there", || server.clients().len() == 1);
    let id = server.clients()[0].id;
    let well = Peer::connect(&server);
    wait_until("both are there", || server.clients().len() == 2);
    let message = pattern(4 << 10, 1);
    let mut sent = 0;
    wait_until("much has been dropped", || {
        for _ in 0..64 {
            server.send_to(id, Envelope::data(), &message).expect("the oldest makes room");
            sent += 1;
        }
        server.statistics().dropped(DropReason::Overflow) > 1000
    });
    // What the last message has cost is counted behind the answer to who sent it.
    let mut all = Vec::new();
    wait_until("all are counted, by peer too: the other one has lost nothing", || {
        all = counted(&server.statistics().drops);
        server.clients().iter().all(|info| {
            let lost = if info.id == id { all.clone() } else { Vec::new() };
            counted(&info.drops) == lost
        })
    });
    let [(Priority::Normal, DropReason::Overflow, dropped)] = all[..] else {
        panic!("only that lane had too little room: {all:?}");
    };
    assert!(dropped < sent, "{dropped} of {sent}");
    let mut events = Vec::new();
    if drop_events {
        wait_until("all of them are told", || {
            events.extend(std::iter::from_fn(|| server.poll_event()));
            told(&events) == counted(&server.statistics().drops)
        });
        let drops = events.iter().filter(|event| matches!(event.kind, EventKind::Dropped { .. }));
        assert!(drops.clone().all(|event| event.connection == id));
        assert!(drops.count() < 200, "they are summed");
    }
    // What is still queued is dropped with the session, and told before its end.
    stuck.reset();
    wait_until("it is over", || {
        events.extend(std::iter::from_fn(|| server.poll_event()));
        events.iter().any(|event| matches!(event.kind, EventKind::Disconnected { .. }))
    });
    let is_end = |event: &Event| matches!(event.kind, EventKind::Disconnected { .. });
    let end = events.iter().position(is_end).expect("just seen");
    assert_eq!(told(&events[end..]), [], "none behind the end");
    if drop_events {
        assert_eq!(told(&events), counted(&server.statistics().drops), "they add up");
    } else {
        assert_eq!(told(&events), [], "nobody asked");
    }
    drop(well);
}

#[test]
fn drops_for_room_are_counted_by_peer_and_told() {
    isolated(|| check_overflow(true));
}

#[test]
fn drops_are_told_only_where_that_is_wanted() {
    isolated(|| check_overflow(false));
}

fn told_settings() -> ConfigBuilder {
    settings_that_resume().drop_events(true)
}

/// Each way to lose a message is told with its reason and its lane, over both links of a session.
/// For room is what [`check_overflow`] is about.
#[test]
fn every_reason_is_told() {
    isolated(|| {
        let settings = told_settings().express(true).session_linger_ms(300);
        let mut bed = Bed::around(settings, silent().config(valid(settings_that_resume())));
        let send = |bed: &mut Bed, envelope: Envelope| {
            bed.client.send(envelope, b"a message").expect("it is queued");
        };
        // What the link takes with it is told, too, as far as it had not left: more than sockets
        // hold of which nobody reads.
        bed.proxy.hold();
        bed.proxy.refuse();
        send(&mut bed, Envelope::data().critical());
        while bed.client.send(Envelope::data(), &[0; 60_000]).is_ok() {
            bed.client.poll();
        }
        bed.proxy.breaks(Fault::Cut);
        bed.turn_until("both links are lost", |bed| {
            bed.client.connection_state() == ConnectionState::Reconnecting
        });
        let kept = Envelope::data().priority(Priority::Low).reliable();
        send(&mut bed, kept.latest(7));
        send(&mut bed, kept.latest(7));
        send(&mut bed, kept.critical().ttl(Duration::from_millis(1)));
        let command = Envelope::command().reliable();
        let asked = bed.client.start_request(command, b"a question", PATIENCE).expect("it is kept");
        bed.client.cancel_request(asked);
        let mut events = Vec::new();
        bed.turn_until("the session is over", |bed| {
            events.extend(std::iter::from_fn(|| bed.client.poll_event()));
            events.iter().any(|event| matches!(event.kind, EventKind::Disconnected { .. }))
        });
        let mut told = told(&events);
        told.sort_by_key(|&(priority, reason, _)| (reason.index(), priority));
        let statistics = bed.client.statistics();
        let mut counted = counted(&statistics.drops);
        counted.sort_by_key(|&(priority, reason, _)| (reason.index(), priority));
        assert_eq!(told, counted);
        let (replaced, expired) = (DropReason::Replaced, DropReason::Expired);
        let (cancelled, ended) = (DropReason::Cancelled, DropReason::SessionEnded);
        for reason in [DropReason::LinkLost, replaced, expired, cancelled, ended] {
            assert!(statistics.dropped(reason) > 0, "{reason:?}: {counted:?}");
        }
        let last = events.last().expect("there are some");
        assert!(matches!(last.kind, EventKind::Disconnected { .. }), "{events:?}");
        assert!(bed.server.receive(Duration::ZERO).is_err(), "nothing arrived");
    });
}

/// What a newer value replaces while there is no link is counted at once, and was not lost with the
/// link before.
#[test]
fn values_replaced_while_the_link_is_down_are_not_lost_with_it() {
    isolated(|| {
        const VALUES: u64 = 100;
        let mut bed =
            Bed::around(settings_that_resume(), silent().config(valid(settings_that_resume())));
        bed.lose_link(Fault::Cut);
        events_of_server(&bed.server, "LinkLost");
        for value in 0..VALUES {
            let latest = Envelope::data().reliable().latest(7);
            bed.server.send_to(bed.id, latest, &value.to_le_bytes()).expect("it is kept");
        }
        bed.proxy.admit();
        bed.turn_until_resumed();
        let events = events_of_server(&bed.server, "Resumed");
        let resumed = events.iter().find_map(|event| match event.kind {
            EventKind::Resumed { messages_dropped, .. } => Some(messages_dropped),
            _ => None,
        });
        assert_eq!(resumed, Some(0), "{events:?}");
        let statistics = bed.server.statistics();
        assert_eq!(statistics.dropped(DropReason::Replaced), VALUES - 1);
        assert_eq!(statistics.messages_dropped, 0);
    });
}

/// A message whose time is over while nothing can be sent is told then, not with the next one.
fn check_told_in_time(lose: impl FnOnce(&mut Bed)) {
    let mut bed = Bed::around(told_settings(), silent().config(valid(settings_that_resume())));
    lose(&mut bed);
    let ttl = Duration::from_millis(50);
    let envelope = Envelope::data().priority(Priority::Low).reliable().ttl(ttl);
    let sent_at = Nanos::now();
    bed.client.send(envelope, b"a stale one").expect("it waits");
    let told = bed.turn_until_event("it is told", |kind| {
        matches!(kind, EventKind::Dropped { reason: DropReason::Expired, .. })
    });
    let (priority, reason, count) = (Priority::Low, DropReason::Expired, 1);
    assert_eq!(told, EventKind::Dropped { priority, reason, count });
    assert!(Nanos::now().since(sent_at) >= ttl, "not before its time");
    assert_eq!(bed.client.statistics().dropped(DropReason::Expired), 1);
}

#[test]
fn expired_message_of_a_lost_link_is_told_when_its_time_is_over() {
    isolated(|| check_told_in_time(|bed| bed.lose_link(Fault::Cut)));
}

#[test]
fn expired_message_of_a_stuck_link_is_told_when_its_time_is_over() {
    isolated(|| check_told_in_time(fill_link));
}

/// Nothing leaves any more: neither the socket nor the lane takes more.
fn fill_link(bed: &mut Bed) {
    bed.proxy.hold();
    let upload = pattern(256 << 10, 1);
    let deadline = Nanos::now() + PATIENCE;
    let mut refused = 0;
    while refused < 3 {
        assert!(Nanos::now() < deadline, "the lane takes everything");
        if bed.client.send(Envelope::data(), &upload).is_err() {
            refused += 1;
        }
        turn(&mut bed.client);
    }
}
