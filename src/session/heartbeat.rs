//! Whether the peer is alive, and when to tell it that we are.
//!
//! Each end says in its greeting how often it wants to hear from the other ([`HeartbeatPolicy`]).
//! The other then sends a heartbeat whenever it has sent nothing for that long; *any* byte received
//! is a sign of life, so a busy session sends no heartbeats. Whoever hears nothing for `interval *
//! misses` takes the peer for dead: also a half-open one, for which the kernel would take 13 to 30
//! minutes (tcp(7), tcp_retries2).
//!
//! Heartbeats are answered at once, answers never: two ends cannot set each other off. Every beat
//! names the last one that came the other way and when, so that both ends get the readings of an
//! [`Exchange`] for the [clock estimate](super::clock), also the one that only ever answers.
//!
//! **Known in time.** [`Heartbeat::poll`] reports a silent peer at [`Heartbeat::deadline`], that is
//! `interval * misses` after the last byte. When it is called more than one interval late, our own
//! thread was away (a stopped process, a client that was not polled) and the peer's beats may wait
//! unread in the kernel: the peer then has one more interval, once, counted from that call.
//!
//! **Measured in turn.** A busy session measures the clocks by a beat that nothing else asks for.
//! Thousands of sessions that began in the same second would all do so in the same millisecond, and
//! their messages would wait behind it: a [`Pace`] that they share gives each a moment of its own.
//! Beats that keep a session alive do not wait for it.
//!
//! Costs one store per receive and per send, two comparisons per poll; no allocation. Not for
//! peers that are alive but stuck: that a lane does not drain is for its overflow policy to see.

use std::time::Duration;

use crate::session::clock::{Exchange, PeerNanos};
use crate::time::Nanos;
use crate::wire::heartbeat::{Beat, Echo, Form, TIME_NS_END};

/// No shorter interval is kept, whatever a greeting asks for: both ends count with this then.
pub(crate) const INTERVAL_US_MIN: u32 = 1_000;

/// Heartbeats that come closer together than this are not answered: half the shortest interval.
const ANSWER_SPACING: Duration = Duration::from_micros(INTERVAL_US_MIN as u64 / 2);

/// What this end wants. Made from a valid `Config`; the bounds are asserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeartbeatPolicy {
    /// How often we want to hear from the peer, in microseconds; goes into the greeting. 0: not at
    /// all, and then it is never taken for dead.
    pub(crate) interval_us: u32,
    /// How many intervals of silence make a dead peer. At least 2: with 1 a peer that keeps to its
    /// interval would die of the way's jitter.
    pub(crate) misses: u32,
    /// Sends a heartbeat, traffic or not, when this much time went by without an exchange, so that
    /// the clock estimate of a busy session does not age. Zero: only when idle. Later when as many
    /// sessions share a [`Pace`] that it does not allow that.
    pub(crate) measure_every: Duration,
}

/// Keeps the measurements of all sessions of a core `spacing` apart, while its thread keeps up.
///
/// A queue in which only the time of the last one is kept. A session is in it at most once, and
/// nobody waits longer than `spacing` times the number of sessions: the places of sessions that end
/// meanwhile are lost, and where many do, some of the others share one.
#[derive(Debug)]
pub(crate) struct Pace {
    spacing: Duration,
    /// As long as everybody's turn takes.
    wait_max: Duration,
    free_from: Nanos,
}

impl Pace {
    /// Zero: none has to wait.
    pub(crate) const fn new(spacing: Duration) -> Self {
        Self { spacing, wait_max: Duration::ZERO, free_from: Nanos(0) }
    }

    /// So many sessions share it from now on.
    #[inline]
    pub(crate) fn set_sessions(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.wait_max = self.spacing.saturating_mul(count);
    }

    /// When the next may be, `now` at the earliest. It is taken: whoever asks must keep to it.
    fn take(&mut self, now: Nanos) -> Nanos {
        let at = self.free_from.max(now).min(now + self.wait_max);
        self.free_from = at + self.spacing;
        at
    }
}

/// What [`Heartbeat::poll`] wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Action {
    /// Nothing before the deadline.
    Nothing,
    /// Send this now. It counts as sent.
    SendHeartbeat(Beat),
    /// The peer is silent for too long: close. From now on every poll says so.
    PeerDead,
}

/// What follows from a beat received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Heard {
    /// Send this now. It counts as sent.
    pub(crate) answer: Option<Beat>,
    /// A measurement, for the clock estimate. That of an [`Answer`](Form::Answer) is fresh: its
    /// round trip belongs in the histogram, that of a heartbeat spans an idle interval.
    pub(crate) exchange: Option<Exchange>,
}

/// When the clocks are measured next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measurement {
    /// When the last one is old enough.
    AsPlanned,
    /// It is old enough, and this is the place that the [`Pace`] had.
    InTurn(Nanos),
    /// Somebody waits for it.
    AtOnce,
}

/// Whether the silence of the peer has been excused once, because we were not listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    Counts,
    ExcusedUntil(Nanos),
    Fatal,
}

/// The life signs of one established connection. Starts anew with every connection.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// How often we want to hear; `None` never.
    hear_every: Option<Duration>,
    /// How much silence is fatal.
    dead_after: Duration,
    /// How often the peer wants to hear; `None` never.
    send_every: Option<Duration>,
    measure_every: Option<Duration>,
    established_at: Nanos,
    received_at: Nanos,
    sent_at: Nanos,
    /// When an exchange was last measured or, in vain so far, begun.
    measured_at: Nanos,
    measurement: Measurement,
    answered_at: Option<Nanos>,
    /// The peer's last beat, for the next of ours.
    echo: Option<Echo>,
    silence: Silence,
    /// Silence is not judged before.
    judged_from: Nanos,
}

impl Heartbeat {
    /// A connection whose handshake is complete. `peer_interval_us` is from the peer's greeting.
    ///
    /// # Panics
    ///
    /// When `policy` allows less than two misses: `Config` has checked it.
    pub(crate) fn new(policy: HeartbeatPolicy, peer_interval_us: u32, now: Nanos) -> Self {
        assert!(policy.misses >= 2, "one late beat is not a death");
        let hear_every = effective(policy.interval_us);
        let dead_after = hear_every.unwrap_or(Duration::ZERO).saturating_mul(policy.misses);
        Self {
            hear_every,
            dead_after,
            send_every: effective(peer_interval_us),
            measure_every: Some(policy.measure_every).filter(|every| !every.is_zero()),
            established_at: now,
            received_at: now,
            sent_at: now,
            measured_at: now,
            measurement: Measurement::AsPlanned,
            answered_at: None,
            echo: None,
            silence: Silence::Counts,
            judged_from: Nanos(0),
        }
    }

    /// Bytes came in, of whatever kind.
    ///
    /// Hot path: once per receive. Two stores.
    #[inline]
    pub(crate) fn received(&mut self, now: Nanos) {
        self.received_at = now;
        if self.silence != Silence::Fatal {
            self.silence = Silence::Counts;
        }
    }

    /// Bytes went out, of whatever kind.
    ///
    /// Hot path: once per send. One store.
    #[inline]
    pub(crate) fn sent(&mut self, now: Nanos) {
        self.sent_at = now;
    }

    /// Makes a heartbeat due now, idle or not: for the listening side, which knows nothing of the
    /// peer's clock before it, once the connection is established.
    pub(crate) fn measure(&mut self) {
        self.measurement = Measurement::AtOnce;
    }

    /// The peer's welcome counts as its first beat: the next of ours echoes it, at once, so that
    /// the listening side can reckon with our clock before our first message comes. A time that a
    /// beat can not tell of is not echoed.
    pub(crate) fn welcomed(&mut self, welcome_ns: u64, now: Nanos) {
        if (1..TIME_NS_END).contains(&welcome_ns) {
            self.echo = Some(Echo { origin_ns: welcome_ns, received_ns: now.0 });
        }
        self.measure();
    }

    /// A heartbeat or an answer came in.
    ///
    /// `now` was read after its bytes came out of the kernel: see [`clock`](super::clock).
    pub(crate) fn heard(&mut self, beat: &Beat, now: Nanos) -> Heard {
        self.received(now);
        let exchange = beat.echo.and_then(|echo| self.exchange(beat, echo, now));
        if exchange.is_some() {
            self.measured(now);
        }
        let echo = Echo { origin_ns: beat.sent_ns, received_ns: now.0 };
        self.echo = Some(echo);
        let wants_answer = match beat.form {
            Form::Heartbeat => self.answered_at.is_none_or(|at| now >= at + ANSWER_SPACING),
            // Here ends what would be a storm.
            Form::Answer => false,
        };
        let answer = wants_answer.then(|| {
            self.answered_at = Some(now);
            self.sent(now);
            Beat { form: Form::Answer, echo: Some(echo), sent_ns: now.0 }
        });
        Heard { answer, exchange }
    }

    /// What is due. To be called after what was received has been taken in, at the deadline or
    /// whenever convenient.
    pub(crate) fn poll(&mut self, now: Nanos, pace: &mut Pace) -> Action {
        let silent_until = self.silent_until();
        if now >= silent_until && now >= self.judged_from {
            let interval = self.hear_every.expect("without one, silence is never fatal");
            match self.silence {
                Silence::Counts if now > silent_until + interval => {
                    self.silence = Silence::ExcusedUntil(now + interval);
                }
                Silence::Counts | Silence::ExcusedUntil(_) => self.silence = Silence::Fatal,
                Silence::Fatal => {}
            }
        }
        if self.silence == Silence::Fatal {
            return Action::PeerDead;
        }
        if now < self.idle_until() && !self.measures(now, pace) {
            return Action::Nothing;
        }
        self.sent(now);
        self.measured(now);
        // A peer refuses a beat that left before what it echoes came, however the caller's clock
        // went.
        let sent_ns = self.echo.map_or(now.0, |echo| echo.received_ns.max(now.0));
        Action::SendHeartbeat(Beat { form: Form::Heartbeat, echo: self.echo, sent_ns })
    }

    /// What has come since `caught_up` may not have been taken in yet: a silence that is not fatal
    /// without that time is judged at `look_again`. To be called before [`poll`](Self::poll).
    pub(crate) fn lag_behind(&mut self, caught_up: Nanos, now: Nanos, look_again: Nanos) {
        let silent_until = self.silent_until();
        if self.silence != Silence::Fatal && now >= silent_until && silent_until > caught_up {
            self.judged_from = look_again;
        }
    }

    /// When [`poll`](Self::poll) has something to do, unless bytes come or go before.
    /// [`Nanos::NEVER`] when the peer is dead or neither end wants to hear.
    ///
    /// Moves later with the traffic: a timer need not follow it, but may look again when it is due.
    #[inline]
    pub(crate) fn deadline(&self) -> Nanos {
        match self.silence {
            Silence::Fatal => Nanos::NEVER,
            _ => self.silent_until().max(self.judged_from).min(self.send_at()),
        }
    }

    /// When the peer's silence becomes fatal.
    fn silent_until(&self) -> Nanos {
        match self.silence {
            Silence::ExcusedUntil(until) => until,
            _ if self.hear_every.is_none() => Nanos::NEVER,
            _ => self.received_at + self.dead_after,
        }
    }

    /// Whether a busy session sends a heartbeat now to measure by it; takes its place for later if
    /// that is what the pace has.
    fn measures(&mut self, now: Nanos, pace: &mut Pace) -> bool {
        match self.measurement {
            Measurement::AtOnce => true,
            Measurement::InTurn(at) if now < at => false,
            Measurement::InTurn(_) => {
                self.measurement = Measurement::AsPlanned;
                // Unless the peer has measured meanwhile.
                now >= self.stale_from()
            }
            Measurement::AsPlanned if now < self.stale_from() => false,
            Measurement::AsPlanned => {
                let at = pace.take(now);
                if at > now {
                    self.measurement = Measurement::InTurn(at);
                }
                at <= now
            }
        }
    }

    /// Clocks were measured, or will be by the beat that leaves now. A place that is still to come
    /// remains taken: whoever gave it up could take another before it, and the others had to wait
    /// for both.
    fn measured(&mut self, now: Nanos) {
        self.measured_at = now;
        self.measurement = match self.measurement {
            Measurement::InTurn(at) if at > now => Measurement::InTurn(at),
            _ => Measurement::AsPlanned,
        };
    }

    /// When a heartbeat is due, or to be planned.
    fn send_at(&self) -> Nanos {
        let measurement = match self.measurement {
            Measurement::AsPlanned => self.stale_from(),
            Measurement::InTurn(at) => at,
            Measurement::AtOnce => Nanos(0),
        };
        measurement.min(self.idle_until())
    }

    /// When the last measurement is too old.
    fn stale_from(&self) -> Nanos {
        self.measure_every.map_or(Nanos::NEVER, |every| self.measured_at + every)
    }

    /// When the peer has heard nothing from us for as long as it wants to bear.
    fn idle_until(&self) -> Nanos {
        self.send_every.map_or(Nanos::NEVER, |every| self.sent_at + every)
    }

    /// The four readings, unless the peer names a time at which we have sent it nothing.
    fn exchange(&self, beat: &Beat, echo: Echo, now: Nanos) -> Option<Exchange> {
        let asked = Nanos(echo.origin_ns);
        (self.established_at..=now).contains(&asked).then_some(Exchange {
            asked,
            peer_received: PeerNanos(echo.received_ns),
            peer_sent: PeerNanos(beat.sent_ns),
            returned: now,
        })
    }
}

/// How often an end hears that asked for `interval_us`. Both ends reckon with this.
fn effective(interval_us: u32) -> Option<Duration> {
    let asked = (interval_us > 0).then_some(interval_us)?;
    Some(Duration::from_micros(asked.max(INTERVAL_US_MIN).into()))
}

#[cfg(test)]
mod tests;
