//! The rules one by one. What they are good for together shows in simulation.

use super::*;

fn view(place: Place, state: State) -> View {
    View { place, state, is_flushed: true, peer: Some(SessionId([2; 16])) }
}

fn complete() -> (Pair, View, View) {
    let mut pair = Pair::default();
    pair.join();
    let main = view(Place::Here, State::Open);
    let express = View { peer: main.peer.map(SessionId::companion), ..main };
    assert!(pair.complete(&main, &express));
    (pair, main, express)
}

fn lost(messages_dropped: u64) -> Remains {
    Remains { messages_dropped, undelivered: Vec::new() }
}

#[test]
fn session_is_complete_once_both_parts_stand_with_one_peer() {
    let mut pair = Pair::default();
    let main = view(Place::Here, State::Open);
    let express = View { peer: main.peer.map(SessionId::companion), ..main };
    assert_eq!(pair.main_established(Role::Dialer, &View::ABSENT), Next::Dial);
    assert_eq!(pair.main_established(Role::Listener, &View::ABSENT), Next::Await);
    assert!(pair.may_join());
    pair.join();
    assert!(!pair.may_join(), "one is enough");
    assert!(!pair.complete(&main, &View { place: Place::Making, ..express }));
    assert!(!pair.complete(&main, &View { peer: main.peer, ..express }), "somebody else's");
    assert!(!pair.may_survive(), "nothing is kept before");
    assert!(pair.complete(&main, &express));
    assert!(!pair.complete(&main, &express), "once");
    pair.begin_anew();
    assert!(pair.may_survive(), "it has been complete");
    assert!(pair.complete(&main, &express), "with the new peer");
}

#[test]
fn main_that_is_back_hurries_express_or_leaves_with_it() {
    let (pair, _, express) = complete();
    let away = View { place: Place::Away, state: State::Down, ..express };
    assert_eq!(pair.main_established(Role::Dialer, &away), Next::Hurry);
    assert_eq!(pair.main_established(Role::Listener, &away), Next::Nothing);
    let leaving = View { state: State::Draining, ..express };
    assert_eq!(pair.main_established(Role::Dialer, &leaving), Next::Drain);
    let (mut pair, main, _) = complete();
    assert_eq!(pair.end(Half::Express, CloseReason::Goodbye, false, &main), Fate::Bound);
    assert_eq!(pair.main_established(Role::Dialer, &View::ABSENT), Next::Drain);
}

#[test]
fn end_of_one_part_is_the_end_of_the_other() {
    let check = |half, reason, has_lost, state, place, expected: Fate| {
        let (mut pair, main, _) = complete();
        let other = View { place, state, ..main };
        let fate = pair.end(half, reason, has_lost, &other);
        assert_eq!(fate, expected, "{half:?} {reason} {has_lost} {state:?} {place:?}");
        assert_eq!(pair.end(half, reason, has_lost, &other), Fate::Nothing, "once");
    };
    use CloseReason::{Goodbye, Local, PeerClosed};
    use Half::{Express, Main};
    use Place::{Away, Here, Leaving};
    check(Main, PeerClosed, false, State::Open, Here, Fate::End);
    // It may have waited for main to be flushed, which main is no more.
    check(Main, PeerClosed, false, State::Draining, Here, Fate::Follow);
    check(Main, PeerClosed, true, State::Draining, Here, Fate::End);
    check(Main, Local, true, State::Finishing, Here, Fate::Follow);
    check(Main, Local, false, State::Open, Here, Fate::End);
    check(Express, PeerClosed, false, State::Open, Here, Fate::End);
    check(Express, PeerClosed, false, State::Draining, Here, Fate::Follow);
    check(Express, Local, true, State::Draining, Here, Fate::Follow);
    check(Express, Goodbye, false, State::Open, Here, Fate::Bound);
    check(Express, Goodbye, false, State::Down, Away, Fate::End);
    check(Express, Goodbye, false, State::Open, Leaving, Fate::Follow);
}

#[test]
fn incomplete_session_ends_with_either_part() {
    let mut pair = Pair::default();
    pair.join();
    let draining = view(Place::Here, State::Draining);
    assert_eq!(pair.end(Half::Express, CloseReason::Local, false, &draining), Fate::End);
    let mut alone = Pair::default();
    let end = alone.end(Half::Main, CloseReason::PeerClosed, false, &View::ABSENT);
    assert_eq!(end, Fate::Nothing, "there is no other");
    assert!(!alone.may_join(), "nor will there be");
}

#[test]
fn both_are_flushed_before_express_says_goodbye_and_main_says_it_last() {
    let (mut pair, main, express) = complete();
    let unflushed = View { is_flushed: false, state: State::Draining, ..main };
    assert_eq!(pair.goodbye(Half::Express, &unflushed), Goodbye::Wait);
    assert_eq!(
        pair.goodbye(Half::Express, &View { place: Place::Away, ..unflushed }),
        Goodbye::Say
    );
    assert_eq!(pair.goodbye(Half::Main, &express), Goodbye::Nudge);
    let draining = View { state: State::Draining, ..main };
    assert_eq!(pair.goodbye(Half::Express, &draining), Goodbye::Say);
    assert_eq!(pair.end(Half::Express, CloseReason::Local, false, &draining), Fate::Follow);
    assert_eq!(pair.goodbye(Half::Main, &View::ABSENT), Goodbye::Say);
}

#[test]
fn farewell_is_told_once_with_what_both_have_left() {
    for express_is_first in [true, false] {
        let (mut pair, ..) = complete();
        let halves = match express_is_first {
            true => [Half::Express, Half::Main],
            false => [Half::Main, Half::Express],
        };
        assert_eq!(pair.leave(halves[0], lost(1)), None);
        assert_eq!(pair.leave(halves[0], lost(9)), None, "once each");
        assert!(!pair.is_told());
        assert_eq!(pair.leave(halves[1], lost(2)), Some(lost(3)));
        assert_eq!(pair.leave(halves[1], lost(9)), None);
        assert!(pair.is_told());
    }
    let mut alone = Pair::default();
    assert_eq!(alone.leave(Half::Main, lost(4)), Some(lost(4)));
}

#[test]
fn application_parts_with_what_can_still_deliver() {
    let (_, main, express) = complete();
    let away = View { place: Place::Away, state: State::Down, ..main };
    assert_eq!(parting(&main, &express), Parting::Both);
    assert_eq!(parting(&away, &express), Parting::Express);
    let greeting = View { place: Place::Making, state: State::Greeting, ..express };
    assert_eq!(parting(&away, &greeting), Parting::Now);
    assert_eq!(parting(&away, &View::ABSENT), Parting::Now);
}

#[test]
fn session_is_where_its_worse_part_is() {
    use ConnectionState::{Closing, Connected, Connecting, Reconnecting};
    let (mut pair, ..) = complete();
    assert_eq!(pair.state(Connected, Some(Connected)), Connected);
    assert_eq!(pair.state(Connected, Some(Reconnecting)), Reconnecting);
    assert_eq!(pair.state(Reconnecting, Some(Connected)), Reconnecting);
    assert_eq!(pair.state(Closing, Some(Connected)), Closing);
    pair.begin_anew();
    assert_eq!(pair.state(Connected, Some(Connected)), Connecting);
    assert_eq!(Pair::default().state(Connected, None), Connecting);
}
