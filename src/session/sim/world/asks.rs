//! Requests: who asks whom, what comes back, and what is said of it. Kept apart from
//! `session/requests.rs`, which is compared with it after every step.

use super::*;
use crate::error::RequestError;
use crate::session::requests::RequestId;

/// A request, as its asker's application knows it.
#[derive(Debug)]
pub(super) struct Ask {
    node: usize,
    /// The session, by its public seat.
    session: usize,
    /// The seat that carries it.
    part: usize,
    id: RequestId,
    /// The message that it is.
    message: usize,
    lane: Priority,
    reliable: bool,
    /// It has a time to live as well.
    has_ttl: bool,
    timeout: u64,
    /// By the asker's clock.
    deadline: Nanos,
    opened_true: u64,
    /// What its owner must be told.
    expected: Option<Outcome>,
    stage: Stage,
    /// The peer knows that it is given up.
    is_cancel_seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// By this message.
    Answer(usize),
    Timeout,
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its owner has not been told.
    Open,
    Told,
    Cancelled,
    /// Its process has died.
    Dead,
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Plain,
    Request {
        timeout: u64,
    },
    /// Of the ask, or to a request of somebody else's.
    Answer {
        ask: Option<usize>,
        correlation: u64,
    },
    Cancel {
        ask: usize,
        correlation: u64,
    },
}

impl World {
    /// What the next message of a session is for.
    pub(super) fn purpose(&mut self) -> Purpose {
        if !self.random.chance(self.climate.request_percent) {
            return Purpose::Plain;
        }
        if self.random.chance(85) {
            return Purpose::Request { timeout: self.random.scaled(50 * US, 500 * MS) / US * US };
        }
        // An answer that nobody has asked for, here: to a request that waits elsewhere, if any
        // does.
        let waiting = |ask: &&Ask| ask.stage == Stage::Open && ask.expected.is_none();
        let others: Vec<_> = self.asks.iter().rev().take(64).filter(waiting).take(8).collect();
        let correlation = match others.is_empty() {
            true => self.random.between(1, 1000),
            false => others[self.random.size(0, others.len())].id.correlation(),
        };
        Purpose::Answer { ask: None, correlation }
    }

    /// Opens a request that is about to be sent. `None` when there are too many.
    pub(super) fn open(
        &mut self,
        [session, part]: [usize; 2],
        envelope: &Envelope,
        timeout: u64,
    ) -> Option<RequestId> {
        let node = self.seats[part].node;
        let now = self.clock(node);
        let timeout = Duration::from_nanos(timeout);
        let opened = self.nodes[node].requests.open(session, part, envelope, timeout, now);
        let open = self.open_asks(node).count();
        let is_full = open >= self.nodes[node].requests_max as usize;
        assert_eq!(opened.is_err(), is_full, "{open} requests: {opened:?}");
        opened.ok()
    }

    /// A request was admitted, as this message.
    pub(super) fn opened(
        &mut self,
        id: RequestId,
        [session, part]: [usize; 2],
        message: usize,
        timeout: u64,
    ) {
        let node = self.seats[part].node;
        let Message { lane, reliable, expires_at, .. } = self.truth.messages[message];
        trace!(self, "seat {part}: request {:#x} is message {message}", id.correlation());
        self.truth.messages[message].ask = Some(self.asks.len());
        self.report.requests += 1;
        self.asks.push(Ask {
            node,
            session,
            part,
            id,
            message,
            lane,
            reliable,
            has_ttl: expires_at.is_some(),
            timeout,
            deadline: self.clock(node) + Duration::from_nanos(timeout),
            opened_true: self.now,
            expected: None,
            stage: Stage::Open,
            is_cancel_seen: false,
        });
        self.arm_requests(node);
    }

    fn open_asks(&self, node: usize) -> impl Iterator<Item = usize> + use<'_> {
        let is_open = move |ask: &Ask| ask.node == node && ask.stage == Stage::Open;
        let first = self.nodes[node].asks_from;
        let asks = self.asks.iter().enumerate().skip(first);
        asks.filter(move |(_, ask)| is_open(ask)).map(|(index, _)| index)
    }

    /// Those of the asks for which `is_meant` says so have this outcome now.
    fn expect(&mut self, node: usize, outcome: Outcome, is_meant: impl Fn(&Ask) -> bool) {
        for index in self.open_asks(node).collect::<Vec<_>>() {
            let ask = &mut self.asks[index];
            if ask.expected.is_none() && is_meant(ask) {
                ask.expected = Some(outcome);
            }
        }
    }

    /// The owners of a node's requests look for outcomes. `all`: none looks away.
    fn look(&mut self, node: usize, all: bool) {
        for index in self.open_asks(node).collect::<Vec<_>>() {
            if !all && self.random.chance(50) {
                continue;
            }
            let ask = &mut self.asks[index];
            let got = self.nodes[node].requests.take(ask.id).map(|outcome| match outcome {
                Ok(message) => Outcome::Answer(message),
                Err(RequestError::Timeout { timeout }) => {
                    assert_eq!(timeout, Duration::from_nanos(ask.timeout), "its own timeout");
                    Outcome::Timeout
                }
                Err(RequestError::ConnectionLost { .. }) => Outcome::Lost,
                Err(other) => panic!("ask {index}: {other}"),
            });
            assert_eq!(got, ask.expected, "ask {index}: {ask:?}");
            let Some(outcome) = got else { continue };
            ask.stage = Stage::Told;
            match outcome {
                Outcome::Answer(_) => self.report.answers += 1,
                Outcome::Timeout => self.report.timeouts += 1,
                Outcome::Lost => self.report.requests_lost += 1,
            }
        }
        let first_open = self.open_asks(node).next();
        self.nodes[node].asks_from = first_open.unwrap_or(self.asks.len());
    }

    fn arm_requests(&mut self, node: usize) {
        let earliest = self.nodes[node].requests.earliest();
        if earliest == Nanos::NEVER {
            return;
        }
        let at = self.nodes[node].true_time(earliest);
        if at < self.nodes[node].requests_at {
            self.nodes[node].requests_at = at;
            self.at(at, Happening::Requests { node });
        }
    }

    /// The time of a request may be over.
    pub(super) fn on_requests(&mut self, node: usize) {
        self.nodes[node].requests_at = u64::MAX;
        let now = self.clock(node);
        self.nodes[node].requests.expire(now, |_| false);
        self.expect(node, Outcome::Timeout, |ask| ask.deadline <= now);
        self.look(node, false);
        self.arm_requests(node);
    }

    /// A part has lost its link: what it has asked and will not ask again is answered at once.
    pub(super) fn requests_lost_link(&mut self, part: usize) {
        let node = self.seats[part].node;
        self.nodes[node].requests.fail_unreliable(part, CloseReason::PeerClosed);
        self.expect(node, Outcome::Lost, |ask| ask.part == part && !ask.reliable);
        self.look(node, false);
        // The last that left: its peer may have it, and can not be told.
        let has_left = |&index: &usize| {
            let ask = &self.asks[index];
            ask.part == part && ask.expected.is_none() && self.truth.messages[ask.message].left
        };
        let last = self.open_asks(node).filter(has_left).last();
        if let Some(index) = last
            && self.random.chance(50)
        {
            self.cancel(index);
        }
    }

    /// A session or a part of one is over.
    pub(super) fn requests_fail(&mut self, ended: usize) {
        let node = self.seats[ended].node;
        self.nodes[node].requests.fail(ended, CloseReason::PeerClosed);
        self.expect(node, Outcome::Lost, |ask| ask.session == ended || ask.part == ended);
        self.look(node, false);
    }

    pub(super) fn requests_die(&mut self, node: usize) {
        for index in self.open_asks(node).collect::<Vec<_>>() {
            self.asks[index].stage = Stage::Dead;
        }
    }

    // The side that is asked.

    /// A request has come too late to be handled: its sender waits no more.
    pub(super) fn request_expired(&self, message: usize) {
        let Some(ask) = self.truth.messages[message].ask.map(|ask| &self.asks[ask]) else { return };
        // By its sender's clock; its time to live is another matter.
        let waits_until = ask.opened_true + ask.timeout - ask.timeout / 1000;
        let is_over = self.now + 10 * US >= waits_until;
        assert!(ask.has_ttl || is_over, "refused while it is waited for: {ask:?}");
    }

    /// A handler has got a message that asks something.
    pub(super) fn asked(&mut self, conn: usize, message: usize, frame: &Frame<'_>, now: Nanos) {
        let Conn { seat, node, .. } = self.conns[conn];
        let index = self.truth.messages[message].ask.expect("it was opened");
        let ask = &self.asks[index];
        assert_eq!(frame.correlation(), ask.id.correlation(), "ask {index}");
        assert!(!ask.is_cancel_seen, "ask {index} is handled after its cancellation");
        let session = &self.seats[seat].session;
        let deadline = session.deadline_of(&frame.lifetime(), now);
        if !ask.has_ttl {
            let is_known = session.clock_offset(now).is_some();
            assert_eq!(deadline != Nanos::NEVER, is_known, "ask {index}: the time that remains");
        }
        if deadline != Nanos::NEVER && !ask.has_ttl {
            let until = self.nodes[node].true_time(deadline);
            let slack = ask.timeout / 1000 + 10 * US;
            let waits_until = ask.opened_true + ask.timeout;
            assert!(until + slack >= waits_until, "ask {index}: less time than remains");
        }
        if self.random.chance(70) {
            let delay = self.random.scaled(1, 2 * ask.timeout);
            self.at(self.now + delay, Happening::Answer { seat, ask: index });
            if self.random.chance(10) {
                self.soon(4 * delay, Happening::Answer { seat, ask: index });
            }
        }
    }

    pub(super) fn on_answer(&mut self, seat: usize, index: usize) {
        let ask = &self.asks[index];
        if self.seats[seat].place == Place::Over || ask.is_cancel_seen {
            return;
        }
        let envelope = Envelope::status().priority(ask.lane);
        let envelope = if ask.reliable { envelope.reliable() } else { envelope };
        let correlation = ask.id.correlation();
        self.send(seat, envelope, None, Purpose::Answer { ask: Some(index), correlation });
    }

    /// A request is given up, its peer says.
    pub(super) fn cancelled(&mut self, message: usize, frame: &Frame<'_>) {
        let index = self.truth.messages[message].cancels.expect("a cancellation");
        let ask = &mut self.asks[index];
        assert_eq!(frame.correlation(), ask.id.correlation(), "ask {index}");
        assert!(ask.stage != Stage::Open, "ask {index} is waited for");
        ask.is_cancel_seen = true;
        self.report.cancels_seen += 1;
    }

    // The side that asks.

    /// An answer has come.
    pub(super) fn answered(&mut self, conn: usize, message: usize, frame: &Frame<'_>) {
        let Conn { seat, node, .. } = self.conns[conn];
        let session = self.public(seat);
        let correlation = frame.correlation();
        let is_it = |ask: &Ask| {
            ask.session == session && ask.id.correlation() == correlation && ask.expected.is_none()
        };
        let waiting = self.open_asks(node).find(|&index| is_it(&self.asks[index]));
        let since = self.nodes[node].requests.waiting_since(session, correlation);
        assert_eq!(since.is_some(), waiting.is_some(), "message {message}: waited for or late");
        let Some(index) = waiting else {
            self.report.late += 1;
            return;
        };
        if let Some(of) = self.truth.messages[message].answers {
            assert_eq!(of, index, "message {message} answers another request");
        }
        self.nodes[node].requests.answer(correlation, message);
        self.asks[index].expected = Some(Outcome::Answer(message));
        self.look(node, false);
    }

    /// An owner gives a request up.
    pub(super) fn cancel_one(&mut self, session: usize) {
        let node = self.seats[session].node;
        let mine: Vec<_> =
            self.open_asks(node).filter(|&index| self.asks[index].session == session).collect();
        if mine.is_empty() {
            return;
        }
        let index = self.random.pick(&mine);
        self.cancel(index);
    }

    fn cancel(&mut self, index: usize) {
        let ask = &mut self.asks[index];
        let node = ask.node;
        ask.stage = Stage::Cancelled;
        let (id, is_waiting) = (ask.id, ask.expected.is_none());
        let cancelled = self.nodes[node].requests.cancel(id);
        assert_eq!(cancelled.is_some(), is_waiting, "ask {index}: whether its peer is told");
        let Some((session, envelope)) = cancelled else { return };
        let Ask { reliable, lane, .. } = self.asks[index];
        assert_eq!(envelope.is_reliable(), reliable, "ask {index}");
        assert_eq!(envelope.lane(), lane, "ask {index}: behind its request");
        if self.withdraw(session, index) {
            self.report.withdrawals += 1;
            return;
        }
        let purpose = Purpose::Cancel { ask: index, correlation: id.correlation() };
        match self.send(session, envelope, None, purpose) {
            Some(_) => self.report.cancels += 1,
            None => self.report.cancels_in_vain += 1,
        }
    }

    /// Drops a request that its peer does not have: it need not be told. Returns whether it did.
    fn withdraw(&mut self, public: usize, index: usize) -> bool {
        let Ask { id, lane, message, .. } = self.asks[index];
        let Some(seat) = self.carrier(public, lane) else { return false };
        if self.seats[seat].place == Place::Over {
            return false;
        }
        let Seat { session, node, life, .. } = &mut self.seats[seat];
        let (node, life) = (*node, *life);
        let now = self.nodes[node].clock(self.now);
        let is_withdrawn =
            session.withdraw(lane, id.correlation(), now, &mut self.nodes[node].memory);
        trace!(self, "seat {seat}: message {message} is withdrawn: {is_withdrawn}");
        if is_withdrawn {
            self.truth.withdraw(message);
        } else {
            let must_be = self.truth.must_be_withdrawn(message, life, now);
            assert!(!must_be, "message {message} waits, and is not withdrawn");
        }
        self.check_seat(seat);
        is_withdrawn
    }

    /// Whether every request has its outcome.
    pub(super) fn asks_are_settled(&self) -> bool {
        let is_open = |ask: &Ask| ask.stage == Stage::Open && ask.expected.is_none();
        !self.asks.iter().any(is_open)
    }

    /// At the very end each request has had one outcome.
    pub(super) fn check_asks(&mut self) {
        for node in 0..self.nodes.len() {
            self.look(node, true);
        }
        let open = self.asks.iter().position(|ask| ask.stage == Stage::Open);
        assert_eq!(
            open,
            None,
            "a request that was never answered: {:?}",
            open.map(|i| &self.asks[i])
        );
    }
}
