//! For runtimes on completions, whose reads and writes own their buffers meanwhile.

use std::io;
use std::ops::Range;

use crate::drive::{Client, Failure};
use crate::frame::{BUFFER_BYTES, Cutter, Seat, Write};
use crate::job::Case;
use crate::message::{Message, Seen, Tag};

/// Bytes gathered before they are written.
const GATHER_BYTES: usize = 64 << 10;
/// Messages as long as this are not gathered: copying them would cost more than a call.
const GATHER_BYTES_MAX: usize = 16 << 10;

/// A byte stream of such a runtime.
#[allow(async_fn_in_trait, reason = "used with concrete types only, on one thread")]
pub trait Stream {
    /// Reads into a part of `buffer`, which holds as many bytes as the part starts at.
    async fn read(&mut self, buffer: Vec<u8>, part: Range<usize>) -> (io::Result<usize>, Vec<u8>);

    /// Writes all of a part of `buffer`.
    async fn write_all(&mut self, buffer: Vec<u8>, part: Range<usize>)
    -> (io::Result<()>, Vec<u8>);
}

/// A [`Client`] over such a stream.
pub struct OwnedClient<S> {
    stream: S,
    cutter: Cutter,
    out: Vec<u8>,
}

impl<S: Stream> OwnedClient<S> {
    pub fn new(stream: S, case: &Case) -> Self {
        Self { stream, cutter: Cutter::new(case), out: Vec::with_capacity(BUFFER_BYTES) }
    }

    async fn write(&mut self, message: &mut Message) -> Result<(), Failure> {
        let framed = message.take();
        let part = 0..framed.len();
        let (result, framed) = self.stream.write_all(framed, part).await;
        message.put(framed);
        Ok(result?)
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if self.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        let part = 0..out.len();
        let (result, mut out) = self.stream.write_all(out, part).await;
        out.clear();
        self.out = out;
        Ok(result?)
    }

    async fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.flush().await?;
        self.write(&mut Message::short(tag)).await?;
        let seen = self.receive(Seen::from_bytes).await?;
        seen.ok_or_else(|| "that is no answer".into())
    }

    async fn receive<R>(&mut self, take: impl Fn(&[u8]) -> R) -> Result<R, Failure> {
        loop {
            if let Some(payload) = self.cutter.next() {
                return Ok(take(payload));
            }
            if read(&mut self.stream, &mut self.cutter).await? == 0 {
                return Err("the server has closed the connection".into());
            }
        }
    }
}

async fn read<S: Stream>(stream: &mut S, cutter: &mut Cutter) -> Result<usize, Failure> {
    let (buffer, window) = cutter.lend();
    let (result, buffer) = stream.read(buffer, window).await;
    let bytes = *result.as_ref().unwrap_or(&0);
    cutter.give_back(buffer, bytes);
    Ok(result?)
}

impl<S: Stream> Client for OwnedClient<S> {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.write(message).await?;
        self.receive(|payload| payload == message.payload()).await
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        if message.framed().len() >= GATHER_BYTES_MAX {
            return self.write(message).await;
        }
        self.out.extend_from_slice(message.framed());
        if self.out.len() >= GATHER_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask).await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.write(message).await
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::AskBulk).await
    }
}

/// Serves one connection until it closes.
pub async fn serve<S: Stream>(mut stream: S, case: Case) {
    let mut seat = Seat::new(&case);
    loop {
        match serve_once(&mut stream, &mut seat).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                eprintln!("a connection ended: {error}");
                return;
            }
        }
    }
}

async fn serve_once<S: Stream>(stream: &mut S, seat: &mut Seat) -> Result<usize, Failure> {
    let bytes = read(stream, &mut seat.cutter).await?;
    match seat.answer() {
        Write::Nothing => {}
        Write::Input(range) => {
            let (result, buffer) = stream.write_all(seat.cutter.take(), range).await;
            seat.cutter.returned(buffer);
            result?;
        }
        Write::Output => {
            let out = std::mem::take(&mut seat.out);
            let part = 0..out.len();
            let (result, mut out) = stream.write_all(out, part).await;
            out.clear();
            seat.out = out;
            result?;
        }
    }
    Ok(bytes)
}
