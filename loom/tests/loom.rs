//! The lock-free protocols of `src/sync/`, in every interleaving their threads can have.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --manifest-path loom/Cargo.toml
//! ```
//!
//! The files under test are compiled here as they are, with loom's atomics. What they drive is
//! replaced by something weaker: a queue of `Relaxed` accesses, so that all order comes from the
//! protocol; an eventfd that sleeps for ever when nobody writes it, which loom reports as deadlock.
//!
//! That the models see something: each fence, each ordering and each second look that has a `Site`
//! is left out in a run of its own, which must fail ([`check`]). Mistakes that have no site are
//! made on purpose in tests of their own (`*_is_needed`). Not left out anywhere: the two orderings
//! by which a ring's reader gives room back, see `sync::ring`.
//!
//! Loom 0.7 keeps the stores to one atomic in a partial order, and lets a swap read any that none
//! is known to follow (`rt/atomic.rs`, `match_rmw_to_stores`). So it shows a second swap what no
//! machine can: the value of the first, past a store that came in between and after a fence. Where
//! more than one thread rings, the reactor's stores are therefore swaps ([`with_total_order`]).
#![cfg(loom)]

#[path = "../../src/sync/mod.rs"]
#[expect(dead_code, reason = "models use what they need")]
mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use sync::claim::Claim;
use sync::doorbell::{self, Bell, Events};
use sync::inbox::{Bytes, Turns, Writers};
use sync::mailbox::{Mailbox, Queue, Wake};
use sync::ring::Ring;
use sync::sequence::{self, Sequence};
use sync::single::Single;
use sync::{Site, leave_out};

/// Runs a model, and again without each of the `sites` that it is about: then it must fail.
fn check(sites: &[Site], model: impl Fn() + Sync + Send + Copy + 'static) {
    check_within(None, sites, model);
}

/// As [`check`], for three threads: with enough preemptions to show what each site is for, in
/// seconds.
fn check_crowded(sites: &[Site], model: impl Fn() + Sync + Send + Copy + 'static) {
    check_within(Some(3), sites, model);
}

fn check_within(
    preemptions_max: Option<usize>,
    sites: &[Site],
    model: impl Fn() + Sync + Send + Copy + 'static,
) {
    let explore = || {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions_max;
        builder.check(model);
    };
    explore();
    for &site in sites {
        leave_out(Some(site));
        let outcome = catch_unwind(AssertUnwindSafe(explore));
        leave_out(None);
        assert!(outcome.is_err(), "without {site:?} the model still holds");
    }
}

thread_local! {
    /// Stores of flags are swaps.
    static IS_TOTAL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs a model with the total order of the stores to each flag; see the top of the file.
fn with_total_order(model: impl Fn() + Sync + Send + Copy + 'static) {
    IS_TOTAL.set(true);
    check_crowded(&[], model);
    IS_TOTAL.set(false);
}

/// What the files under test see as `std::sync::atomic`.
mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(crate) fn new(value: bool) -> Self {
            Self(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(crate) fn load(&self, ordering: Ordering) -> bool {
            self.0.load(ordering)
        }

        pub(crate) fn store(&self, value: bool, ordering: Ordering) {
            if super::IS_TOTAL.get() {
                let _ = self.0.swap(value, ordering);
            } else {
                self.0.store(value, ordering);
            }
        }

        pub(crate) fn swap(&self, value: bool, ordering: Ordering) -> bool {
            self.0.swap(value, ordering)
        }
    }
}

/// How many things there are: a queue that orders nothing.
#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Looks first, as a queue does: what it sees may be old.
    fn take(&self) -> Option<()> {
        self.0.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).ok().map(drop)
    }

    fn is_zero(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

thread_local! {
    /// Commands refused in this execution of a model.
    static REFUSED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Queue for Count {
    type Item = ();

    fn push(&self, (): ()) -> Result<(), ()> {
        self.add();
        Ok(())
    }

    fn pop(&self) -> Option<()> {
        self.take()
    }

    fn is_empty(&self) -> bool {
        self.is_zero()
    }

    fn refuse(&self, (): ()) {
        REFUSED.set(REFUSED.get() + 1);
    }
}

impl Events for Count {
    type Item = ();

    fn push(&self, (): ()) -> bool {
        self.add();
        false
    }

    fn pop(&self) -> Option<()> {
        self.take()
    }

    fn is_empty(&self) -> bool {
        self.is_zero()
    }
}

/// An eventfd that a thread sleeps on; also the token of a bell.
#[derive(Debug, Default)]
struct Signal {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn set(&self) {
        *self.is_set.lock().unwrap() = true;
        self.changed.notify_one();
    }

    /// Sleeps until it is set, and resets it.
    fn wait(&self) {
        let mut is_set = self.is_set.lock().unwrap();
        while !*is_set {
            is_set = self.changed.wait(is_set).unwrap();
        }
        *is_set = false;
    }
}

impl Wake for Signal {
    fn wake(&self) {
        self.set();
    }
}

impl Bell for Signal {
    fn ring(&self) {
        self.set();
    }
}

type Mail = Mailbox<Count, Signal>;

fn mailbox() -> Arc<Mail> {
    Arc::new(Mail::over(Count::default(), Signal::default()))
}

/// A reactor that does nothing but carry out `commands` commands, and sleeps in between.
fn carry_out(mailbox: &Mail, mut commands: usize) {
    while commands > 0 {
        if mailbox.take().is_some() {
            commands -= 1;
        } else if mailbox.prepare_to_sleep() {
            mailbox.waker().wait();
            mailbox.awake();
        }
    }
}

#[test]
fn no_command_lies_while_the_reactor_sleeps() {
    check(&[Site::Wake, Site::Sleep], || {
        let mailbox = mailbox();
        let other = Arc::clone(&mailbox);
        let other = thread::spawn(move || other.post(()).unwrap());
        carry_out(&mailbox, 1);
        other.join().unwrap();
        assert!(mailbox.is_empty(), "one came, one was carried out");
    });
}

#[test]
fn two_threads_wake_a_reactor_for_both_their_commands() {
    with_total_order(|| {
        let mailbox = mailbox();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || mailbox.post(()).unwrap())
            })
            .collect();
        carry_out(&mailbox, 2);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn command_is_carried_out_or_refused_when_the_reactor_ends() {
    check(&[Site::Wake, Site::Close], || {
        REFUSED.set(0);
        let mailbox = mailbox();
        let other = Arc::clone(&mailbox);
        let other = thread::spawn(move || other.post(()).unwrap());
        let carried_out = usize::from(mailbox.take().is_some());
        mailbox.close();
        other.join().unwrap();
        assert_eq!(carried_out + REFUSED.get(), 1, "its sender waits for an answer");
    });
}

#[test]
fn reactor_that_waits_for_room_is_told_of_it() {
    check(&[Site::Want, Site::Room], || {
        let (mailbox, room) = (mailbox(), Arc::new(AtomicBool::new(false)));
        let reader = {
            let (mailbox, room) = (Arc::clone(&mailbox), Arc::clone(&room));
            thread::spawn(move || {
                room.store(true, Relaxed);
                mailbox.inbox_has_room();
            })
        };
        assert!(mailbox.prepare_to_sleep(), "nobody sends commands");
        mailbox.want_inbox();
        if !room.load(Relaxed) {
            mailbox.waker().wait();
        }
        mailbox.awake();
        reader.join().unwrap();
    });
}

#[test]
fn reactor_that_waits_for_its_turn_is_told_of_it() {
    check(&[Site::Want, Site::Room], || {
        let mailbox = mailbox();
        let mut turns = Turns::new(2);
        let (mut other, mut own) = (turns.next().unwrap(), turns.next().unwrap());
        other.wish(1);
        let other = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                other.end();
                mailbox.inbox_has_room();
                other
            })
        };
        assert!(mailbox.prepare_to_sleep(), "nobody sends commands");
        own.wish(1);
        mailbox.want_inbox();
        if own.set_aside().is_some() {
            mailbox.waker().wait();
        }
        mailbox.awake();
        assert_eq!(own.set_aside(), None, "nobody else wishes");
        drop(other.join().unwrap());
    });
}

#[test]
fn wish_and_command_at_the_same_time_are_both_answered() {
    with_total_order(|| {
        let (mailbox, room) = (mailbox(), Arc::new(AtomicBool::new(false)));
        let reader = {
            let (mailbox, room) = (Arc::clone(&mailbox), Arc::clone(&room));
            thread::spawn(move || {
                room.store(true, Relaxed);
                mailbox.inbox_has_room();
            })
        };
        let other = Arc::clone(&mailbox);
        let other = thread::spawn(move || other.post(()).unwrap());
        // The reactor's `park`, until both have happened.
        let (mut has_command, mut has_room) = (false, false);
        while !has_command || !has_room {
            has_command |= mailbox.take().is_some();
            has_room |= room.load(Relaxed);
            if (has_command && has_room) || !mailbox.prepare_to_sleep() {
                continue;
            }
            if !has_room {
                mailbox.want_inbox();
                if room.load(Relaxed) {
                    mailbox.awake();
                    continue;
                }
            }
            mailbox.waker().wait();
            mailbox.awake();
        }
        reader.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn one_of_two_claims_a_command() {
    check(&[], || {
        let claim = Claim::default();
        let caller = claim.clone();
        let caller = thread::spawn(move || caller.try_claim());
        let reactor = claim.try_claim();
        let caller = caller.join().unwrap();
        assert_ne!(reactor, caller, "carried out, or withdrawn");
    });
}

#[test]
fn claim_serves_the_next_command_once_it_is_answered() {
    check(&[], || {
        let (claim, asked, answered) =
            (Claim::default(), Arc::new(Signal::default()), Arc::new(Signal::default()));
        let reactor = {
            let (claim, asked, answered) =
                (claim.clone(), Arc::clone(&asked), Arc::clone(&answered));
            thread::spawn(move || {
                asked.wait();
                assert!(claim.try_claim(), "the caller is patient");
                answered.set();
                asked.wait();
                claim.try_claim()
            })
        };
        asked.set();
        answered.wait();
        claim.renew();
        asked.set();
        let withdrawn = claim.try_claim();
        assert_ne!(reactor.join().unwrap(), withdrawn, "carried out, or withdrawn");
    });
}

/// Without the swap both are first: the model above can tell.
#[test]
#[should_panic(expected = "carried out, or withdrawn")]
fn swap_is_needed() {
    loom::model(|| {
        let claim = Arc::new(AtomicBool::new(false));
        let is_first = |claim: &AtomicBool| {
            !claim.load(Relaxed) && {
                claim.store(true, Relaxed);
                true
            }
        };
        let caller = Arc::clone(&claim);
        let caller = thread::spawn(move || is_first(&caller));
        let reactor = is_first(&claim);
        assert_ne!(reactor, caller.join().unwrap(), "carried out, or withdrawn");
    });
}

#[test]
fn no_event_waits_while_a_thread_does() {
    check_crowded(&[Site::RingAgain], || {
        let (events, bell) = (Arc::new(Count::default()), Arc::new(Signal::default()));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let (events, bell) = (Arc::clone(&events), Arc::clone(&bell));
                thread::spawn(move || {
                    while doorbell::pop(&*events, &*bell).is_none() {
                        bell.wait();
                    }
                })
            })
            .collect();
        doorbell::push(&*events, &*bell, ());
        doorbell::push(&*events, &*bell, ());
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn what_the_last_writer_left_behind_is_seen() {
    check(&[Site::Leave, Site::Left], || {
        let (inbox, writers) = (Arc::new(Count::default()), Writers::new(2));
        for _ in 0..2 {
            let (inbox, writers) = (Arc::clone(&inbox), writers.clone());
            thread::spawn(move || {
                inbox.add();
                writers.leave();
            });
        }
        if writers.are_gone() {
            let taken = [inbox.take(), inbox.take()];
            assert_eq!(taken, [Some(()); 2], "this is all there will be");
        }
    });
}

/// A message of three bytes is put in while another thread takes it out.
fn count_bytes(put: fn(&Bytes, &Count)) {
    loom::model(move || {
        let (inbox, bytes) = (Arc::new(Count::default()), Bytes::default());
        let reactor = {
            let (inbox, bytes) = (Arc::clone(&inbox), bytes.clone());
            thread::spawn(move || put(&bytes, &inbox))
        };
        let is_taken = inbox.take().is_some();
        if is_taken {
            bytes.remove(3);
        }
        assert!(bytes.count() <= 3, "never below zero");
        reactor.join().unwrap();
        assert_eq!(bytes.count(), if is_taken { 0 } else { 3 });
    });
}

#[test]
fn bytes_of_an_inbox_are_never_below_zero() {
    count_bytes(|bytes, inbox| {
        bytes.add(3);
        inbox.add();
    });
}

#[test]
#[should_panic(expected = "counted before it could be taken")]
fn counting_before_putting_in_is_needed() {
    count_bytes(|bytes, inbox| {
        inbox.add();
        bytes.add(3);
    });
}

/// Of what a writer puts into a ring with room for two, the reader gets each whole and in order, or
/// it is counted as lost; and all of it is known once the writer has gone.
#[test]
fn ring_hands_on_or_counts_as_lost() {
    check(&[Site::Publish, Site::CloseRing], || {
        let words = (0..4).map(|_| atomic::AtomicU64::new(0)).collect();
        let ring = Arc::new(Ring::over(words));
        let writer = Arc::clone(&ring);
        let writer = thread::spawn(move || {
            let (mut written, mut lost) = (0, 0);
            for entry in 1..=3 {
                if written + 2 - writer.freed() > writer.len() as u64 {
                    lost += 1;
                    writer.set_lost(lost);
                    continue;
                }
                writer.store(written, entry);
                writer.store(written + 1, entry);
                written += 2;
                writer.publish(written);
            }
            writer.close();
        });
        let (mut taken, mut last) = (0, 0);
        loop {
            let is_closed = ring.is_closed();
            let read = ring.read();
            if ring.written() != read {
                let entry = [ring.load(read), ring.load(read + 1)];
                assert_eq!(entry[0], entry[1], "a whole entry");
                assert!(entry[0] > last, "in order, each once");
                (taken, last) = (taken + 1, entry[0]);
                ring.free(read + 2);
            } else if is_closed {
                break;
            } else {
                thread::yield_now();
            }
        }
        assert_eq!(taken + ring.lost(), 3, "handed on, or lost and counted");
        writer.join().unwrap();
    });
}

/// Of two words that are written together a reader has both as of one moment, or knows that it has
/// not.
#[test]
fn copy_is_of_one_moment_or_says_so() {
    check(&[Site::BeginWriting, Site::EndWriting], || {
        let shared = Arc::new((Sequence::default(), [(); 2].map(|()| atomic::AtomicU64::new(0))));
        let writer = Arc::clone(&shared);
        let writer = thread::spawn(move || {
            let (sequence, words) = &*writer;
            for turn in 1..=2 {
                sequence.begin(2 * turn - 1);
                words.iter().for_each(|word| word.store(turn, Relaxed));
                sequence.end(2 * turn);
            }
        });
        let (sequence, words) = &*shared;
        let mut copy = [0; 2];
        let is_whole = sequence::read::<()>(
            || Ok(sequence.load()),
            || {
                copy = [0, 1].map(|index: usize| words[index].load(Relaxed));
                Ok(())
            },
        );
        if is_whole.unwrap() {
            assert_eq!(copy[0], copy[1], "of different moments");
        }
        writer.join().unwrap();
    });
}

#[test]
fn counter_never_goes_backwards_and_loses_nothing() {
    check(&[], || {
        let counter = Arc::new(Single::default());
        let reader = Arc::clone(&counter);
        let reader = thread::spawn(move || {
            let (first, second) = (reader.get(), reader.get());
            assert!(first <= second, "{first}, then {second}");
        });
        counter.add(1);
        counter.add(2);
        reader.join().unwrap();
        assert_eq!(counter.get(), 3);
    });
}

#[test]
#[should_panic(expected = "lost")]
fn one_writer_is_needed() {
    loom::model(|| {
        let counter = Arc::new(Single::default());
        let other = Arc::clone(&counter);
        let other = thread::spawn(move || other.add(1));
        counter.add(1);
        other.join().unwrap();
        assert_eq!(counter.get(), 2, "lost");
    });
}
