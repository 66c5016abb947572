//! tonic: gRPC over HTTP/2.
//!
//! Unary calls for round trips, a client-streaming call for streams, which ends when the receiver
//! is asked what it saw. Messages are protobuf with one field of bytes, without a copy
//! (`bytes::Bytes`). TCP_NODELAY is on, which is the default; stream and connection windows are
//! raised to 4 MiB, as for long messages; a current-thread runtime, because each end has one core.
//! docs.rs/tonic has no advice on latency. Its `transport::Server::tcp_nodelay` says that it is
//! ignored with `serve_with_incoming`, so that the subject sets it on each connection; the adaptive
//! window (`http2_adaptive_window`) stays off, as by default.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ::tokio::net::TcpListener;
use ::tokio::sync::{Mutex, mpsc};
use ::tokio::task::{JoinHandle, spawn, yield_now};
use ::tonic::transport::{Channel, Endpoint, Server};
use ::tonic::{Request, Response, Status, Streaming};
use bytes::Bytes;
use ringwire::time::Nanos;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

use super::tokio::{LocalTasks, runtime};
use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure};
use crate::job::{Case, Job, Round};
use crate::message::{Desk, Message, Reply, Seen, Tag};
use crate::shared::Shared;
use crate::tasks;

#[allow(clippy::all, clippy::pedantic, missing_docs, unused_qualifications, reason = "generated")]
mod service {
    include!(concat!(env!("OUT_DIR"), "/peers.Peer.rs"));
}

use service::peer_client::PeerClient;
use service::peer_server::{Peer, PeerServer};

/// HTTP/2's windows, of a stream and of a connection, alike at both ends.
const WINDOW_BYTES: u32 = 4 << 20;
/// The longest message is a MiB and a few bytes of protobuf.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Messages that wait to be sent.
const QUEUE: usize = 64;

/// The only message there is.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

pub struct Tonic;

impl Subject for Tonic {
    fn facts(&self) -> Facts {
        let name = "tonic";
        Facts { name, idle: "park", transport: "tcp", package: name, role: Role::Peer }
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
            let desk = Arc::new(Mutex::new(Desk::new(job.case.payload_bytes)));
            let service = PeerServer::new(Service { desk })
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            Server::builder()
                .tcp_nodelay(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .add_service(service)
                // Which does not set TCP_NODELAY on connections that come to it accepted.
                .serve_with_incoming(tokio_stream::StreamExt::map(
                    TcpListenerStream::new(listener),
                    |stream| {
                        let stream = stream?;
                        stream.set_nodelay(true)?;
                        Ok::<_, std::io::Error>(stream)
                    },
                ))
                .await?;
            Ok(())
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let channel = Endpoint::from_shared(format!("http://{}", job.address))?
                .tcp_nodelay(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .connect()
                .await?;
            let client = PeerClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            Ok(TonicClient { client, call: None, shared: Shared::default() })
        };
        runtime()?.block_on(tasks::drive(job, LocalTasks, connect))
    }
}

/// The server. The desk is locked once a streaming call.
struct Service {
    desk: Arc<Mutex<Desk>>,
}

#[::tonic::async_trait]
impl Peer for Service {
    async fn call(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn stream(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Payload>, Status> {
        let mut messages = request.into_inner();
        let mut desk = self.desk.lock().await;
        while let Some(message) = messages.message().await? {
            if let Reply::Seen(bytes) = desk.take(&message.data) {
                return Ok(Response::new(Payload { data: Bytes::copy_from_slice(&bytes) }));
            }
        }
        Err(Status::cancelled("nobody asked what had arrived"))
    }
}

struct TonicClient {
    client: PeerClient<Channel>,
    /// The streaming call under way.
    call: Option<Call>,
    shared: Shared,
}

struct Call {
    messages: mpsc::Sender<Payload>,
    answer: JoinHandle<Result<Response<Payload>, Status>>,
}

impl TonicClient {
    async fn stream(&mut self, message: &Message) -> Result<(), Failure> {
        let data = self.shared.bytes_of(message);
        let call = self.call.get_or_insert_with(|| {
            let (messages, queue) = mpsc::channel(QUEUE);
            let mut client = self.client.clone();
            let answer = spawn(async move { client.stream(ReceiverStream::new(queue)).await });
            Call { messages, answer }
        });
        Ok(call.messages.send(Payload { data }).await.map_err(|_| "the call has ended")?)
    }

    async fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.stream(&Message::short(tag)).await?;
        let call = self.call.take().ok_or("no call is under way")?;
        drop(call.messages);
        let answer = call.answer.await??.into_inner();
        Seen::from_bytes(&answer.data).ok_or_else(|| "that is no answer".into())
    }
}

impl Client for TonicClient {
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        let data = self.shared.bytes_of(message);
        let answer = self.client.call(Request::new(Payload { data })).await?;
        Ok(answer.get_ref().data == message.payload())
    }

    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.stream(message).await
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask).await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.stream(message).await
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::AskBulk).await
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            // Lets the connection's task run, which has work behind each call, and that of bulk.
            yield_now().await;
        }
        Ok(())
    }
}
