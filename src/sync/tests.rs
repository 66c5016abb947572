//! The protocols between real threads, with the queues they drive in earnest: what Miri looks at
//! for data races and for what the memory model allows. Every interleaving is the models' business
//! (`loom/`), which have no crossbeam.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_queue::ArrayQueue;

use super::claim::Claim;
use super::doorbell::{self, Bell, Events};
use super::inbox::{Bytes, Turns, Writers};
use super::mailbox::{Mailbox, Queue, Wake};
use super::ring::Ring;
use super::sequence::{self, Sequence};
use super::single::Single;

const PATIENCE: Duration = Duration::from_secs(20);
/// How many things pass from thread to thread.
const COUNT: usize = if cfg!(miri) { 40 } else { 20_000 };

/// A token that wakes one waiting thread.
struct Token(Sender<()>);

impl Wake for Token {
    fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

impl Bell for Token {
    fn ring(&self) {
        let _ = self.0.try_send(());
    }
}

fn token() -> (Token, Receiver<()>) {
    let (put, take) = bounded(1);
    (Token(put), take)
}

/// What became of commands.
#[derive(Default)]
struct Fates {
    carried_out: AtomicUsize,
    refused: AtomicUsize,
}

struct Commands(ArrayQueue<Arc<Fates>>);

impl Queue for Commands {
    type Item = Arc<Fates>;

    fn push(&self, item: Self::Item) -> Result<(), Self::Item> {
        self.0.push(item)
    }

    fn pop(&self) -> Option<Self::Item> {
        self.0.pop()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn refuse(&self, item: Self::Item) {
        item.refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn every_command_is_carried_out_or_refused_by_a_reactor_that_sleeps_and_ends() {
    let (waker, woken) = token();
    let mailbox = &Mailbox::over(Commands(ArrayQueue::new(4)), waker);
    let fates = &Arc::new(Fates::default());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                for _ in 0..COUNT {
                    let mut command = fates.clone();
                    while let Err(full) = mailbox.post(command) {
                        command = full;
                        thread::yield_now();
                    }
                }
            });
        }
        scope.spawn(move || {
            let mut taken = 0;
            while taken < COUNT {
                if let Some(command) = mailbox.take() {
                    command.carried_out.fetch_add(1, Ordering::Relaxed);
                    taken += 1;
                } else if mailbox.prepare_to_sleep() {
                    woken.recv_timeout(PATIENCE).expect("no command lies while the reactor sleeps");
                    mailbox.awake();
                }
            }
            mailbox.close();
        });
    });
    assert!(mailbox.is_closed());
    assert!(mailbox.is_empty());
    assert_eq!(fates.carried_out.load(Ordering::Relaxed), COUNT);
    assert_eq!(fates.refused.load(Ordering::Relaxed), COUNT, "the rest");
    assert_eq!(Arc::strong_count(fates), 1, "nobody holds a command any more");
}

#[test]
fn one_of_two_threads_is_first() {
    for _ in 0..COUNT.div_ceil(10) {
        let claim = Claim::default();
        let other = claim.clone();
        let outcomes = thread::scope(|scope| {
            let other = scope.spawn(move || other.try_claim());
            [claim.try_claim(), other.join().expect("no panic")]
        });
        assert_ne!(outcomes[0], outcomes[1]);
    }
}

struct News(ArrayQueue<u64>);

impl Events for News {
    type Item = u64;

    fn push(&self, item: u64) -> bool {
        self.0.force_push(item).is_some()
    }

    fn pop(&self) -> Option<u64> {
        self.0.pop()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[test]
fn no_event_waits_while_a_thread_does() {
    let (bell, rung) = token();
    let (news, bell) = (&News(ArrayQueue::new(4)), &bell);
    // Fetched, or gone to make room.
    let settled = &AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            let rung = rung.clone();
            scope.spawn(move || {
                while settled.load(Ordering::Relaxed) < COUNT {
                    rung.recv_timeout(PATIENCE).expect("an event waits, or all are settled");
                    if doorbell::pop(news, bell).is_some() {
                        settled.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // For the other one, which may wait.
                bell.ring();
            });
        }
        scope.spawn(move || {
            for number in 0..COUNT {
                if doorbell::push(news, bell, number as u64) {
                    settled.fetch_add(1, Ordering::Relaxed);
                }
            }
            bell.ring();
        });
    });
    assert_eq!(settled.load(Ordering::Relaxed), COUNT);
}

#[test]
fn what_writers_left_behind_is_seen_once_they_are_gone() {
    let (writers, bytes) = (Writers::new(2), Bytes::default());
    let queue = &ArrayQueue::new(2 * COUNT);
    thread::scope(|scope| {
        for _ in 0..2 {
            let (writers, bytes) = (writers.clone(), bytes.clone());
            scope.spawn(move || {
                for _ in 0..COUNT {
                    bytes.add(3);
                    queue.push(3).expect("room for all");
                }
                writers.leave();
            });
        }
        let mut taken = 0;
        loop {
            let is_all = writers.are_gone();
            while let Some(count) = queue.pop() {
                bytes.remove(count);
                taken += 1;
            }
            if is_all {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(taken, 2 * COUNT);
    });
    assert_eq!(bytes.count(), 0);
}

/// Words in runs of one to three, as frames are, around a ring of eight.
#[test]
fn ring_hands_on_in_order_or_counts_as_lost() {
    let ring = &Ring::over((0..8).map(|_| AtomicU64::new(0)).collect());
    let write = move || {
        let (mut written, mut lost) = (0, 0);
        for number in 1..=COUNT as u64 {
            let count = number % 3 + 1;
            if written + count > ring.freed() + ring.len() as u64 {
                lost += 1;
                ring.set_lost(lost);
                thread::yield_now();
                continue;
            }
            (0..count).for_each(|offset| ring.store(written + offset, number));
            written += count;
            ring.publish(written);
        }
        ring.close();
    };
    let (mut last, mut frames) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(write);
        loop {
            let is_all = ring.is_closed();
            while ring.read() < ring.written() {
                let number = ring.load(ring.read());
                let count = number % 3 + 1;
                let (front, back) = ring.places(ring.read(), usize::try_from(count).expect("3"));
                for word in front.iter().chain(back) {
                    assert_eq!(word.load(Ordering::Relaxed), number, "a run is whole");
                }
                assert!(number > last, "{number} behind {last}");
                (last, frames) = (number, frames + 1);
                ring.free(ring.read() + count);
            }
            if is_all {
                break;
            }
            thread::yield_now();
        }
    });
    assert!(frames > 0, "something passed");
    assert_eq!(frames + ring.lost(), COUNT as u64);
}

#[test]
fn number_with_one_writer_never_goes_backwards() {
    let number = &Single::default();
    thread::scope(|scope| {
        scope.spawn(move || (0..COUNT).for_each(|_| number.add(2)));
        let mut last = 0;
        while last < 2 * COUNT as u64 {
            let now = number.get();
            assert!(now >= last && now % 2 == 0, "{now} after {last}");
            last = now;
            thread::yield_now();
        }
    });
    assert_eq!(number.get(), 2 * COUNT as u64);
}

#[test]
fn copies_are_of_one_moment_or_say_so() {
    let (sequence, words) = (&Sequence::default(), &[(); 8].map(|()| AtomicU64::new(0)));
    let write = move || {
        for turn in 1..=COUNT as u64 {
            sequence.begin(2 * turn - 1);
            words.iter().for_each(|word| word.store(turn, Ordering::Relaxed));
            sequence.end(2 * turn);
            thread::yield_now();
        }
    };
    let mut last = 0;
    thread::scope(|scope| {
        scope.spawn(write);
        while last < COUNT as u64 {
            let mut copy = [0; 8];
            let is_whole = sequence::read(
                || Ok::<_, Infallible>(sequence.load()),
                || {
                    copy = std::array::from_fn(|index| words[index].load(Ordering::Relaxed));
                    Ok(())
                },
            );
            if matches!(is_whole, Ok(true)) {
                assert_eq!(copy, [copy[0]; 8], "of different moments");
                assert!(copy[0] >= last, "{} after {last}", copy[0]);
                last = copy[0];
            }
            thread::yield_now();
        }
    });
}

#[test]
fn turns_at_an_inbox_go_round() {
    let mut turns: Vec<_> = Turns::new(3).collect();
    // What is set aside for another one, as each sees it.
    let seen = |turns: &[Turns]| turns.iter().map(Turns::set_aside).collect::<Vec<_>>();
    assert_eq!(seen(&turns), [None; 3], "nobody wishes");
    for (index, bytes) in [(1, 10), (0, 0), (2, 20), (1, 11)] {
        turns[index].wish(bytes);
    }
    assert_eq!(seen(&turns), [Some(11), None, Some(11)], "the first to wish");
    turns[1].end();
    turns[1].wish(12);
    assert_eq!(seen(&turns), [Some(20), Some(20), None], "the next one, and not itself again");
    turns[2].end();
    assert_eq!(seen(&turns), [None, Some(0), Some(0)]);
    turns[1].end();
    assert_eq!(seen(&turns), [None, Some(0), Some(0)], "who wishes no more has no turn to give");
    turns[1].wish(13);
    turns.remove(0);
    assert_eq!(seen(&turns), [None, Some(13)], "a reactor has ended");
    turns[0].end();
    assert_eq!(seen(&turns), [None; 2]);
}
