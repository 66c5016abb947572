//! Applications: messages of every kind, and what may be said to them.

use super::*;
use crate::wire::low_half;

/// Enough for one run.
const PUSHES_MAX: u64 = 4_000;

impl World {
    pub(super) fn on_traffic(&mut self, seat: usize) {
        if self.is_over() || self.seats[seat].place == Place::Over {
            return;
        }
        for _ in 0..self.random.between(0, self.climate.burst + 1) {
            self.push(seat);
            if self.seats[seat].place == Place::Over {
                return;
            }
        }
        // A session with two connections has more ways to end, and is to show them.
        let rarely = if self.is_paired(seat) { 100 } else { 500 };
        if self.random.next().is_multiple_of(rarely) {
            self.disconnect(seat);
        }
        if self.random.chance(self.climate.request_percent / 2) {
            self.cancel_one(seat);
        }
        if self.report.pushes > PUSHES_MAX {
            self.climate.traffic_until = self.now;
        }
        let pause = self.random.between(1, 2 * self.climate.pause);
        self.at(self.now + pause, Happening::Traffic { seat });
    }

    fn push(&mut self, seat: usize) {
        self.report.pushes += 1;
        let now = self.clock(self.seats[seat].node);
        let (envelope, ttl) = self.envelope(now);
        let purpose = self.purpose();
        self.send(seat, envelope, ttl, purpose);
    }

    /// Sends a message in a session. Returns its number, if it is admitted.
    pub(super) fn send(
        &mut self,
        seat: usize,
        envelope: Envelope,
        ttl: Option<u64>,
        purpose: Purpose,
    ) -> Option<usize> {
        let public = self.public(seat);
        let lane = envelope.lane();
        let Some(seat) = self.carrier(public, lane) else {
            self.report.too_early += 1;
            return None;
        };
        if self.seats[seat].place == Place::Over {
            return None;
        }
        let node = self.seats[seat].node;
        let now = self.clock(node);
        let mut request = None;
        let correlation = match purpose {
            Purpose::Plain => Correlation::None,
            Purpose::Request { timeout } => match self.open([public, seat], &envelope, timeout) {
                Some(id) => {
                    request = Some((id, timeout));
                    let timeout_us = u32::try_from(timeout / US).expect("short");
                    Correlation::Request { id: id.correlation(), timeout_us }
                }
                None => Correlation::None,
            },
            Purpose::Answer { correlation, .. } => Correlation::Response(correlation),
            Purpose::Cancel { correlation, .. } => Correlation::Cancel(correlation),
        };
        let body = self.body(node);
        let policy = self.nodes[node].limits.overflow[lane.index()];
        let key = match envelope.conflation_key() {
            Some(key) => Some(u64::from(key)),
            None if policy == Overflow::LatestValue
                && correlation == Correlation::None
                && !envelope.is_reliable() =>
            {
                Some(u64::from(envelope.kind() as u8) << 32 | u64::from(body.type_id))
            }
            None => None,
        };
        let before = self.fill(seat, lane);
        let latest = key.and_then(|key| self.truth.latest(self.seats[seat].life, lane, key));
        let Seat { session, .. } = &mut self.seats[seat];
        let Node { memory, identity, .. } = &mut self.nodes[node];
        let pushed = session.push(envelope, correlation, &body, identity, now, memory);
        let sequence = session.lanes[lane.index()].sequence();
        if let Some(latest) = latest
            && !matches!(pushed, Err(SendError::NotConnected | SendError::Expired))
        {
            self.truth.messages[latest].has_newer = true;
        }
        trace!(self, "seat {seat}: {envelope:?} key {key:?}: {pushed:?}, sequence {sequence}");
        match pushed {
            Ok(_) => {
                let message = Message {
                    life: self.seats[seat].life,
                    lane,
                    kind: envelope.kind(),
                    type_id: body.type_id,
                    sequence: 0,
                    payload_bytes: body.payload.len(),
                    reliable: envelope.is_reliable(),
                    expires_at: ttl.map(|ttl| Nanos(now.0 + ttl)),
                    expires_true: ttl.map(|ttl| self.now + ttl),
                    key,
                    era: self.seats[seat].era,
                    left: false,
                    superseded: false,
                    has_newer: false,
                    withdrawn: false,
                    handled: false,
                    listed: None,
                    useful_until: [ttl, request.map(|(_, timeout)| timeout)]
                        .into_iter()
                        .flatten()
                        .min()
                        .map(|nanos| Nanos(now.0 + nanos)),
                    ask: None,
                    answers: match purpose {
                        Purpose::Answer { ask, .. } => ask,
                        _ => None,
                    },
                    cancels: match purpose {
                        Purpose::Cancel { ask, .. } => Some(ask),
                        _ => None,
                    },
                };
                self.report.wraps += u64::from(low_half(sequence) == 0);
                self.truth.admit(message, sequence);
                self.check_admitted(seat, lane, before, envelope.is_reliable(), key.is_some());
                let number = self.truth.messages.len() - 1;
                if let Some((id, timeout)) = request {
                    self.opened(id, [public, seat], number, timeout);
                }
            }
            Err(error) => {
                if let Some((id, _)) = request {
                    self.nodes[node].requests.close(id);
                }
                self.check_refused(seat, lane, error, before, &envelope);
            }
        }
        let number = pushed.is_ok().then(|| self.truth.messages.len() - 1);
        if let Place::Here(conn) = self.seats[seat].place {
            if pushed == Err(SendError::Full) && policy == Overflow::Disconnect {
                self.close(conn, CloseReason::SlowPeer);
                return None;
            }
            self.mark_dirty(conn);
        }
        self.check_seat(seat);
        number
    }

    /// How a message travels, and its time to live as the wire says it, in nanoseconds.
    fn envelope(&mut self, now: Nanos) -> (Envelope, Option<u64>) {
        let r = &mut self.random;
        let climate = &self.climate;
        let kinds = [Kind::Command, Kind::Data, Kind::Status, Kind::Configuration, Kind::Error];
        let mut envelope = Envelope::of(r.pick(&kinds));
        envelope = envelope.priority(Priority::ALL[r.size(0, climate.lanes)]);
        let mut ttl = None;
        if r.chance(climate.reliable_percent) {
            envelope = envelope.reliable();
        }
        if r.chance(climate.ttl_percent) {
            let nanos = r.scaled(US, climate.ttl.max(2 * US));
            ttl = Some(nanos.div_ceil(US) * US);
            envelope = match r.chance(20) {
                true => envelope.expires_at(Nanos(now.0 + nanos), now),
                false => envelope.ttl(Duration::from_nanos(nanos)),
            };
        }
        if r.chance(climate.key_percent) {
            envelope = envelope.latest(u32::try_from(r.between(0, climate.keys)).expect("few"));
        }
        (envelope, ttl)
    }

    fn body(&mut self, node: usize) -> Numbered {
        let r = &mut self.random;
        let most = self.nodes[node].limits.frame_bytes_max;
        let bytes = if r.chance(self.climate.large_percent) {
            r.size(PAYLOAD_BYTES_MIN, most)
        } else {
            r.size(PAYLOAD_BYTES_MIN, 100)
        };
        let type_id = u32::try_from(r.between(0, 3)).expect("few");
        let payload = payload(self.truth.messages.len(), bytes).into();
        Numbered { codec: Codec::Opaque, type_id, payload }
    }
}
