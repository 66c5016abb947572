//! What a pool passes on to the reactor under it: watches, and requests that are given up.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ringwire::{Envelope, Kind, Pool, WatchKey};

use crate::bed::silent;
use crate::pool::{plan, ready, turn_until};
use crate::util::{PATIENCE, config, endpoint, isolated, settings, start, wait_until};

#[test]
fn pool_is_told_of_what_stays_away_and_comes_again() {
    isolated(|| {
        let server = start(silent().config(config()));
        let plan = plan(&endpoint(&server)).build().expect("valid");
        let mut pool = Pool::new(config(), plan).expect("a ring");
        let key = WatchKey::Kind(Kind::Status);
        pool.watch(key, Duration::from_millis(20)).expect("room");
        let (missed, recovered) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let [misses, recoveries] = [&missed, &recovered].map(Rc::clone);
        pool.on_deadline_missed(move |_, watched| {
            misses.set(misses.get() + u32::from(watched.key == key));
        });
        pool.on_deadline_recovered(move |_, watched| {
            recoveries.set(recoveries.get() + u32::from(watched.key == key));
        });
        pool.connect().expect("there is room");
        pool.wait_ready(PATIENCE).expect("the server listens");
        turn_until(&mut pool, "it is missed", |_| missed.get() == 1);
        assert_eq!(recovered.get(), 0);
        let report = server.broadcast(Envelope::status(), b"late").expect("it is asked");
        assert_eq!(report.queued(), 1);
        turn_until(&mut pool, "it has come", |_| recovered.get() == 1);
    });
}

#[test]
fn pool_is_told_of_requests_that_are_given_up() {
    isolated(|| {
        let server = start(silent().config(config()));
        let mut pool = ready(settings(), plan(&endpoint(&server)));
        let given_up = Rc::new(Cell::new(0));
        let count = Rc::clone(&given_up);
        pool.on_cancelled(move |_, _| count.set(count.get() + 1));
        wait_until("it is connected", || server.clients().len() == 1);
        let id = server.clients()[0].id;
        let request = server.start_request(id, Envelope::command(), b"still wanted?", PATIENCE);
        let request = request.expect("room");
        let message = pool.receive(PATIENCE).expect("a request");
        assert!(!pool.is_abandoned(&message));
        request.cancel();
        turn_until(&mut pool, "it is given up", |_| given_up.get() == 1);
        assert!(pool.is_abandoned(&message));
    });
}
