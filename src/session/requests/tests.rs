//! Requests over sessions that lose their links, against a plain model, in virtual time: one seed
//! is one run. Answers come in time, late, twice, for another session, after a new link, or never.

use super::*;

const SESSIONS: u64 = 3;
const REQUESTS_MAX: u32 = 8;

/// A request that the model knows.
#[derive(Debug)]
struct Known {
    id: RequestId,
    session: u64,
    reliable: bool,
    deadline: Nanos,
    /// What its owner must be told, once that is settled.
    outcome: Option<Expected>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Answer,
    Timeout,
    Lost,
}

#[test]
fn every_request_has_one_outcome_and_the_right_one() {
    let mut counts = [0_u64; 6];
    for seed in 0..crate::seeds(300) {
        run(&mut fastrand::Rng::with_seed(seed), seed, &mut counts);
    }
    let names = ["refused", "answered", "timed out", "lost", "late", "closed"];
    for (name, count) in names.into_iter().zip(counts) {
        assert!(count > 0, "none {name}: the run proves nothing");
    }
}

fn run(rng: &mut fastrand::Rng, seed: u64, counts: &mut [u64; 6]) {
    let mut requests = Requests::new(REQUESTS_MAX, seed);
    let mut known: Vec<Known> = Vec::new();
    // Correlations of all requests ever made, with their sessions: answers come to any of them.
    let mut asked: Vec<(u64, u64)> = Vec::new();
    let mut now = Nanos(1_000);
    for _ in 0..200 {
        now = now + Duration::from_nanos(rng.u64(0..200));
        // As the reactor: what is due comes before what is received.
        requests.expire(now, |_| false);
        for request in &mut known {
            if request.outcome.is_none() && request.deadline <= now {
                request.outcome = Some(Expected::Timeout);
            }
        }
        let named = rng.u64(..SESSIONS);
        match rng.u8(..10) {
            0..=3 => {
                let timeout = Duration::from_nanos(rng.u64(1..1_000));
                let reliable = rng.bool();
                let envelope = Envelope::command();
                let envelope = if reliable { envelope.reliable() } else { envelope };
                let opened = requests.open(named, named, &envelope, timeout, now);
                if known.len() >= REQUESTS_MAX as usize {
                    let refused = Err(RequestError::TooMany { requests_max: REQUESTS_MAX });
                    assert_eq!(opened, refused, "seed {seed}");
                    counts[0] += 1;
                } else {
                    let id = opened.expect("there is room");
                    let (deadline, outcome) = (now + timeout, None);
                    asked.push((named, id.correlation()));
                    known.push(Known { id, session: named, reliable, deadline, outcome });
                }
            }
            // An answer, to whatever was ever asked, by its session or another.
            4..=6 if !asked.is_empty() => {
                let (asked_in, correlation) = asked[rng.usize(..asked.len())];
                let from = if rng.u8(..8) == 0 { named } else { asked_in };
                let waiting = known.iter_mut().find(|request| {
                    request.id.correlation() == correlation
                        && request.session == from
                        && request.outcome.is_none()
                });
                let is_waiting = requests.waiting_since(from, correlation).is_some();
                assert_eq!(is_waiting, waiting.is_some(), "seed {seed}: {correlation:#x}");
                match waiting {
                    Some(request) => {
                        requests.answer(correlation, correlation);
                        request.outcome = Some(Expected::Answer);
                    }
                    None => counts[4] += 1,
                }
            }
            // The link is lost: a reliable request goes on on the next one. Or the session is over.
            7 => {
                let is_over = rng.u8(..4) == 0;
                match is_over {
                    true => requests.fail(named, CloseReason::SessionExpired),
                    false => requests.fail_unreliable(named, CloseReason::PeerClosed),
                }
                for request in known.iter_mut().filter(|request| request.session == named) {
                    if request.outcome.is_none() && (is_over || !request.reliable) {
                        request.outcome = Some(Expected::Lost);
                    }
                }
            }
            8 if !known.is_empty() => {
                let request = known.swap_remove(rng.usize(..known.len()));
                requests.close(request.id);
                assert!(requests.take(request.id).is_none(), "seed {seed}: it is forgotten");
                counts[5] += 1;
            }
            _ => known.retain(|request| !is_told(&mut requests, request, counts, seed)),
        }
        let earliest = known.iter().filter(|request| request.outcome.is_none());
        let earliest = earliest.map(|request| request.deadline).min().unwrap_or(Nanos::NEVER);
        assert_eq!(requests.earliest(), earliest, "seed {seed}: the next deadline");
    }
    // Whatever is left ends by itself.
    requests.expire(now + Duration::from_secs(1), |_| false);
    for request in &mut known {
        request.outcome.get_or_insert(Expected::Timeout);
        assert!(is_told(&mut requests, request, counts, seed), "seed {seed}: {request:?}");
    }
    assert_eq!(requests.slots.len(), 0, "seed {seed}: nothing is left");
    assert_eq!(requests.earliest(), Nanos::NEVER, "seed {seed}: nothing is due");
}

/// A process that has taken the place of another waits for none of the answers to that.
#[test]
fn requests_of_two_processes_have_other_correlations() {
    let correlations = |salt: u64| {
        let mut requests = Requests::<u64, u64>::new(64, salt);
        let open = |_| {
            let timeout = Duration::from_secs(1);
            let id = requests.open(0, 0, &Envelope::command(), timeout, Nanos(1));
            id.expect("there is room").correlation()
        };
        (0..64).map(open).collect::<std::collections::BTreeSet<_>>()
    };
    let (before, after) =
        (correlations(0x1234_5678_9abc_def0), correlations(0x0fed_cba9_8765_4321));
    assert!(before.is_disjoint(&after));
    assert_eq!(correlations(0).first(), Some(&(1 << 32 | 1 << 31 | 1)), "never 0");
}

/// Takes the outcome of a request, if there is one: it must be what the model expects.
fn is_told(
    requests: &mut Requests<u64, u64>,
    request: &Known,
    counts: &mut [u64; 6],
    seed: u64,
) -> bool {
    let outcome = requests.take(request.id).map(|outcome| match outcome {
        Ok(message) => {
            assert_eq!(message, request.id.correlation(), "seed {seed}");
            Expected::Answer
        }
        Err(RequestError::Timeout { .. }) => Expected::Timeout,
        Err(RequestError::ConnectionLost { .. }) => Expected::Lost,
        Err(other) => panic!("seed {seed}: {other}"),
    });
    assert_eq!(outcome, request.outcome, "seed {seed}: {request:?}");
    match outcome {
        Some(Expected::Answer) => counts[1] += 1,
        Some(Expected::Timeout) => counts[2] += 1,
        Some(Expected::Lost) => counts[3] += 1,
        None => return false,
    }
    assert!(requests.take(request.id).is_none(), "seed {seed}: told once");
    true
}
