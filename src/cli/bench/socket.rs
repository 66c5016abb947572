//! The floor of rtt: the same bytes, echoed over plain sockets.
//!
//! One connection is a plain loop of send and recv at both ends, the least a round trip over TCP
//! can cost. Many connections go through epoll: see [`crowd`](super::crowd). Requests at a fixed
//! rate, and what flows beside them: see [`duplex`](super::duplex).

use std::io;

use ringwire::time::Nanos;
use ringwire::wire::{
    Checksum, Codec, EXTENSION_BYTES, Extension, Flags, FrameHead, HEADER_BYTES, Kind, Priority,
};

use super::harness::{Subject, SubjectError};
use super::link::{Link, with_server};
use super::options::Scenario;
use super::plan::Plan;
use super::round::{Extra, Resident, Round, Stopwatch, latency_histogram};
use super::{crowd, duplex};

/// Where the sequence stands in a header: see `wire`.
pub(super) const SEQUENCE: std::ops::Range<usize> = 16..20;

/// Plain sockets.
#[derive(Debug)]
pub(super) struct Socket;

impl Subject for Socket {
    fn round(&self, plan: &Plan) -> Result<Round, SubjectError> {
        match (plan.case.scenario, plan.case.connections) {
            (Scenario::Paced | Scenario::Mixed, _) => return duplex::round(plan),
            (_, 1) => {}
            _ => return crowd::round(plan),
        }
        let resident = Resident::start(plan);
        let frame_bytes = plan.case.frame_bytes();
        with_server(
            plan,
            |mut links| echo(links.pop().expect("one connection"), frame_bytes),
            |mut links| drive(links.pop().expect("one connection"), plan, &resident),
        )
    }
}

/// A request as ringwire would send it, for a payload of this length.
pub(super) fn request(payload_bytes: usize) -> Vec<u8> {
    let payload = payload(payload_bytes);
    let head = FrameHead {
        kind: Kind::Command,
        priority: Priority::Normal,
        codec: Codec::Opaque,
        type_id: 0,
        sequence: 1,
        sent_at_ns: 0,
        flags: Flags::REQUEST,
        extension: Some(Extension::default()),
        checksum: Checksum::Never,
    };
    let room = HEADER_BYTES + EXTENSION_BYTES + ringwire::wire::padded(payload_bytes);
    let mut bytes = vec![0; room];
    let length = head.encode(&payload, &mut bytes);
    assert_eq!(length, bytes.len(), "the frame fills its buffer");
    bytes
}

/// Payload bytes that are not all alike.
pub(super) fn payload(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

/// The server: takes a whole frame, sends it back, until the client closes.
fn echo(mut link: Link, frame_bytes: usize) -> io::Result<()> {
    let mut frame = vec![0; frame_bytes];
    while link.read_exact(&mut frame)? {
        link.write_all(&frame)?;
    }
    Ok(())
}

fn drive(mut link: Link, plan: &Plan, resident: &Resident) -> Result<Round, SubjectError> {
    let mut client = Client::new(plan);
    let io = SubjectError::io("round trip");
    client.check(&mut link)?;
    client.ping_pong(&mut link, Nanos::now() + plan.warm_up()).map_err(&io)?;
    client.latency.reset();
    client.errors = 0;

    let stopwatch = Stopwatch::start();
    client.ping_pong(&mut link, Nanos::now() + plan.duration).map_err(&io)?;
    let (elapsed_ns, cpu_ns) = stopwatch.stop();
    let resident_bytes = resident.stop();
    Ok(Round {
        frames: 2.0 * client.latency.len() as f64,
        latency: Some(client.latency),
        elapsed_ns,
        cpu_ns,
        calls: None,
        errors: client.errors,
        extra: Extra { resident_bytes, ..Extra::default() },
    })
}

/// The measuring end, with everything it needs allocated.
struct Client {
    request: Vec<u8>,
    answer: Vec<u8>,
    sequence: u32,
    latency: hdrhistogram::Histogram<u64>,
    errors: u64,
}

impl Client {
    fn new(plan: &Plan) -> Self {
        let request = request(plan.case.payload_bytes);
        let answer = vec![0; request.len()];
        Self { request, answer, sequence: 0, latency: latency_histogram(), errors: 0 }
    }

    /// One round trip whose answer must be right: timing wrong answers would be pointless.
    fn check(&mut self, link: &mut Link) -> Result<(), SubjectError> {
        self.round_trip(link).map_err(SubjectError::io("first round trip"))?;
        if self.errors > 0 {
            let what = "bytes of the first echo that are right";
            let expected = self.request.len() as u64;
            let right = self.request.iter().zip(&self.answer).filter(|(a, b)| a == b).count();
            return Err(SubjectError::WrongAnswer { what, expected, got: right as u64 });
        }
        Ok(())
    }

    fn ping_pong(&mut self, link: &mut Link, until: Nanos) -> io::Result<()> {
        while self.round_trip(link)? < until {}
        Ok(())
    }

    /// Hot path: what is measured. No allocation, no logging.
    #[inline]
    fn round_trip(&mut self, link: &mut Link) -> io::Result<Nanos> {
        self.sequence = self.sequence.wrapping_add(1);
        let start = Nanos::now();
        self.request[SEQUENCE].copy_from_slice(&self.sequence.to_le_bytes());
        link.write_all(&self.request)?;
        if !link.read_exact(&mut self.answer)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Inside the time measured, as for ringwire, whose answer is looked at in place.
        self.errors += u64::from(self.answer != self.request);
        let end = Nanos::now();
        self.latency.saturating_record(end.0.saturating_sub(start.0));
        Ok(end)
    }
}
