//! Tokio with `tokio_util::codec::LengthDelimitedCodec`, the usual way to send messages with it.
//!
//! One current-thread runtime an end, which Tokio's documentation has for work that one core does:
//! no task moves between threads, and as a `LocalRuntime` none needs to be able to. TCP_NODELAY is
//! on. Requests leave with `send`; a stream is `feed` with a backpressure boundary of 64 KiB
//! instead of 8 KiB, and as much is received at once. Long messages are shared memory, not copies.
//! In fan-in each connection has a task at both ends. Bulk goes from a task of its own over a
//! connection of its own.

use std::net::Ipv4Addr;

use ::tokio::net::{TcpListener, TcpStream};
use ::tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use ::tokio::task::{spawn, spawn_local, yield_now};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure};
use crate::job::{Case, Job, Round};
use crate::message::{Desk, Message, Reply, Seen, Tag};
use crate::shared::Shared;
use crate::tasks::{self, Task, Tasks};

/// Bytes gathered before they are written, and read at once.
const GATHER_BYTES: usize = 64 << 10;

pub struct Tokio;

type Link = Framed<TcpStream, LengthDelimitedCodec>;

impl Subject for Tokio {
    fn facts(&self) -> Facts {
        Facts { name: "tokio", idle: "park", transport: "tcp", package: "tokio", role: Role::Peer }
    }

    fn lacks(&self, _: &Case) -> Option<&'static str> {
        None
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        runtime()?.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            ready(Ready::at(listener.local_addr()?))?;
            loop {
                let (stream, _) = listener.accept().await?;
                let link = framed(stream)?;
                let payload_bytes = job.case.payload_bytes;
                spawn(async move {
                    if let Err(error) = serve_one(link, payload_bytes).await {
                        eprintln!("a connection ended: {error}");
                    }
                });
            }
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        runtime()?.block_on(tasks::drive_beside(job, LocalTasks, connect, connect))
    }
}

/// A runtime on the calling thread.
pub fn runtime() -> Result<LocalRuntime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?)
}

/// The tasks of that runtime.
#[derive(Debug, Clone, Copy)]
pub struct LocalTasks;

impl Tasks for LocalTasks {
    fn spawn(self, task: Task) -> Result<(), Failure> {
        spawn_local(task);
        Ok(())
    }

    async fn turn(self) -> Result<(), Failure> {
        // Comes back after the driver has been asked for what is ready.
        yield_now().await;
        Ok(())
    }
}

async fn connect(job: &Job) -> Result<TokioClient, Failure> {
    let link = framed(TcpStream::connect(&job.address).await?)?;
    Ok(TokioClient { link, shared: Shared::default() })
}

fn framed(stream: TcpStream) -> Result<Link, Failure> {
    stream.set_nodelay(true)?;
    let codec =
        LengthDelimitedCodec::builder().little_endian().max_frame_length(16 << 20).new_codec();
    let mut link = Framed::with_capacity(stream, codec, GATHER_BYTES);
    link.set_backpressure_boundary(GATHER_BYTES);
    Ok(link)
}

async fn serve_one(mut link: Link, payload_bytes: usize) -> Result<(), Failure> {
    let mut desk = Desk::new(payload_bytes);
    while let Some(frame) = link.next().await {
        let frame = frame?;
        match desk.take(&frame) {
            Reply::Nothing => {}
            Reply::Echo => link.send(frame.freeze()).await?,
            Reply::Seen(bytes) => link.send(Bytes::copy_from_slice(&bytes)).await?,
        }
    }
    Ok(())
}

struct TokioClient {
    link: Link,
    shared: Shared,
}

impl TokioClient {
    async fn receive(&mut self) -> Result<BytesMut, Failure> {
        let frame = self.link.next().await.ok_or("the server has closed the connection")?;
        Ok(frame?)
    }

    async fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.link.send(Bytes::copy_from_slice(Message::short(tag).payload())).await?;
        let answer = self.receive().await?;
        Seen::from_bytes(&answer).ok_or_else(|| "that is no answer".into())
    }
}

impl Client for TokioClient {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.link.send(self.shared.bytes_of(message)).await?;
        Ok(self.receive().await? == message.payload())
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        Ok(self.link.feed(self.shared.bytes_of(message)).await?)
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask).await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        Ok(self.link.send(self.shared.bytes_of(message)).await?)
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::AskBulk).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_received_at_once_as_is_sent() {
        let link = runtime().expect("a runtime").block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            framed(TcpStream::connect(listener.local_addr()?).await?)
        });
        let link = link.expect("a connection over loopback");
        assert!(link.read_buffer().capacity() >= GATHER_BYTES);
        assert_eq!(link.backpressure_boundary(), GATHER_BYTES);
    }
}
