//! Two clocks that are read: what the machine does to whoever spins on its cores.
//!
//! No transport: the floor of tails. Both ends read the clock and do nothing else for as long as
//! others exchange messages. For each instant at which a request would be due either end notes how
//! late its first reading after it is, and the sample is that of the later one: an answer to a
//! request of that instant could not have come sooner, because one of its ends did not run. What a
//! host takes from its guests shows here, and so do interrupts and other threads. It has rounds of
//! its own, so that it tells what the machine does in such minutes and bounds nobody: others may
//! have met fewer stops. As `clock` of `ringwire bench paced`, but with a process for each end.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use ringwire::time::Nanos;

use super::{Facts, Ready, Role, Subject, raw};
use crate::drive::{Failure, Latency, Stopwatch};
use crate::job::{Case, Job, Round, Scenario};

/// Its name: what verdicts have beside the peer's.
pub const NAME: &str = "clock";

/// The subject.
pub struct Clock;

/// When requests would be due, the same for both ends: one clock has all processes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instants {
    start: Nanos,
    period_ns: u64,
    count: u64,
}

impl Subject for Clock {
    fn facts(&self) -> Facts {
        Facts { name: NAME, idle: "spin", transport: "tcp", package: "", role: Role::Floor }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        (case.scenario != Scenario::Paced).then_some("a clock carries no messages")
    }

    /// Tells each client, once the last instant is over, how late it was.
    fn serve(
        &self,
        _: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (listener, address) = raw::listen("tcp")?;
        ready(Ready::at(address))?;
        let listener = TcpListener::from(listener);
        loop {
            let (mut client, _) = listener.accept()?;
            let late_ns = Instants::read_from(&mut client)?.watch(Nanos::now)?;
            let bytes: Vec<u8> = late_ns.into_iter().flat_map(u64::to_le_bytes).collect();
            client.write_all(&bytes)?;
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let period_ns = job.case.period_ns().ok_or("only paced cases have a rate")?;
        let mut server = TcpStream::from(raw::connect(&job.address)?);
        let count = job.duration_ns.div_ceil(period_ns).max(1);
        let warm = Nanos(Nanos::now().0 + job.warm_up_ns);
        let instants = Instants { start: Nanos(warm.0 + period_ns), period_ns, count };
        server.write_all(&instants.to_bytes())?;
        while Nanos::now() < warm {}
        let stopwatch = Stopwatch::start(job)?;
        let late_ns = instants.watch(Nanos::now)?;
        // As of others, a request and its answer each.
        let round = stopwatch.stop(2 * count, 0)?;
        let latency = Latency::default();
        for client_ns in late_ns {
            let mut bytes = [0; 8];
            server.read_exact(&mut bytes)?;
            latency.record(client_ns.max(u64::from_le_bytes(bytes)));
        }
        Ok(Round { histogram_v2: Some(latency.encode()), ..round })
    }
}

impl Instants {
    const BYTES: usize = 24;

    fn to_bytes(self) -> Vec<u8> {
        let words = [self.start.0, self.period_ns, self.count];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn read_from(from: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; Self::BYTES];
        from.read_exact(&mut bytes)?;
        let (words, _) = bytes.as_chunks();
        let word = |at: usize| u64::from_le_bytes(words[at]);
        Ok(Self { start: Nanos(word(0)), period_ns: word(1), count: word(2) })
    }

    /// How late `read` is at each of them.
    ///
    /// Hot path: what is measured. It allocates nothing and calls nobody.
    fn watch(self, mut read: impl FnMut() -> Nanos) -> Result<Vec<u64>, Failure> {
        // Not zeroes: their pages would be touched, for the first time, while it is timed.
        let mut late_ns = vec![u64::MAX; usize::try_from(self.count)?];
        let mut due_ns = self.start.0;
        let mut left = late_ns.iter_mut();
        let mut next = left.next();
        while let Some(late) = &mut next {
            let now = read();
            if due_ns <= now.0 {
                **late = now.0 - due_ns;
                due_ns += self.period_ns;
                next = left.next();
            }
        }
        Ok(late_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: Instants = Instants { start: Nanos(100), period_ns: 10, count: 4 };

    #[test]
    fn end_that_was_stopped_is_late_for_every_instant_it_missed() {
        let mut readings = [90, 101, 125, 125, 128, 140].into_iter().map(Nanos);
        let late = FOUR.watch(|| readings.next().expect("no reading after the last instant"));
        assert_eq!(late.expect("small"), [1, 15, 5, 10]);
    }

    #[test]
    fn instants_come_back_as_they_left() {
        let bytes = FOUR.to_bytes();
        assert_eq!(bytes.len(), Instants::BYTES);
        assert_eq!(Instants::read_from(&mut &bytes[..]).expect("whole"), FOUR);
        assert!(Instants::read_from(&mut &bytes[1..]).is_err());
    }
}
