//! Tokio with `tokio_util::codec::LengthDelimitedCodec`, the usual way to send messages with it.
//!
//! One current-thread runtime an end, which Tokio's documentation has for work that one core does:
//! no task moves between threads. TCP_NODELAY is on. Requests leave with `send`; a stream is `feed`
//! with a backpressure boundary of 64 KiB instead of 8 KiB. Bulk goes from a task of its own over a
//! connection of its own.

use std::net::Ipv4Addr;

use ::ringwire::time::Nanos;
use ::tokio::net::{TcpListener, TcpStream};
use ::tokio::runtime::{Builder, Runtime};
use ::tokio::sync::mpsc;
use ::tokio::task::{spawn, yield_now};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure, drive};
use crate::job::{Case, Job, Round};
use crate::message::{Desk, Message, Reply, Seen, Tag};

/// Bytes gathered before they are written.
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
        let connect = async |job: &Job| -> Result<_, Failure> {
            let link = framed(TcpStream::connect(&job.address).await?)?;
            let bulk = if job.case.bulk { Some(Bulk::connect(&job.address).await?) } else { None };
            Ok(TokioClient { link, bulk })
        };
        runtime()?.block_on(drive(job, connect))
    }
}

/// A runtime on the calling thread.
pub fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn framed(stream: TcpStream) -> Result<Link, Failure> {
    stream.set_nodelay(true)?;
    let mut link = LengthDelimitedCodec::builder()
        .little_endian()
        .max_frame_length(16 << 20)
        .new_framed(stream);
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
    bulk: Option<Bulk>,
}

/// Messages to the task that sends bulk, and its answers.
struct Bulk {
    messages: mpsc::Sender<Bytes>,
    answers: mpsc::Receiver<BytesMut>,
}

impl Bulk {
    async fn connect(address: &str) -> Result<Self, Failure> {
        let mut link = framed(TcpStream::connect(address).await?)?;
        let (messages, mut queue) = mpsc::channel::<Bytes>(4);
        let (answer, answers) = mpsc::channel(1);
        spawn(async move {
            while let Some(message) = queue.recv().await {
                let is_question = message.len() < 100;
                // When the link fails the question stays without an answer, which is an error.
                if link.send(message).await.is_err() {
                    return;
                }
                if is_question
                    && let Some(Ok(frame)) = link.next().await
                    && answer.send(frame).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { messages, answers })
    }
}

impl TokioClient {
    async fn receive(&mut self) -> Result<BytesMut, Failure> {
        let frame = self.link.next().await.ok_or("the server has closed the connection")?;
        Ok(frame?)
    }
}

impl Client for TokioClient {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        self.link.send(Bytes::copy_from_slice(message.payload())).await?;
        Ok(self.receive().await? == message.payload())
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        Ok(self.link.feed(Bytes::copy_from_slice(message.payload())).await?)
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.link.send(Bytes::copy_from_slice(Message::short(Tag::Ask).payload())).await?;
        let answer = self.receive().await?;
        Seen::from_bytes(&answer).ok_or_else(|| "that is no answer".into())
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        let bulk = self.bulk.as_ref().ok_or("there is no connection for bulk")?;
        Ok(bulk.messages.send(Bytes::copy_from_slice(message.payload())).await?)
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        let bulk = self.bulk.as_mut().ok_or("there is no connection for bulk")?;
        let question = Bytes::copy_from_slice(Message::short(Tag::AskBulk).payload());
        bulk.messages.send(question).await?;
        let answer = bulk.answers.recv().await.ok_or("the connection for bulk has failed")?;
        Seen::from_bytes(&answer).ok_or_else(|| "that is no answer".into())
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            if self.bulk.is_some() {
                // Lets the task and the driver run.
                yield_now().await;
            }
        }
        Ok(())
    }
}
