//! tarpc: calls in Rust types over Tokio.
//!
//! Its length-delimited transport with bincode; data are `bytes::Bytes`, which serde takes whole
//! instead of byte by byte. TCP_NODELAY is on; a current-thread runtime, because each end has one
//! core. It has calls only, so that nothing is streamed. Neither its README nor docs.rs/tarpc
//! advises on latency; `client::Config` and `server::Config`, the sizes of its queues, are the
//! defaults.

use std::net::Ipv4Addr;

use ::tarpc::client::Config;
use ::tarpc::context::{self, Context};
use ::tarpc::serde_transport;
use ::tarpc::server::{BaseChannel, Channel};
use ::tarpc::tokio_serde::formats::Bincode;
use ::tarpc::tokio_util::codec::{Framed, LengthDelimitedCodec};
use ::tokio::net::{TcpListener, TcpStream};
use ::tokio::task::{spawn, yield_now};
use bytes::Bytes;
use futures_util::StreamExt;
use ringwire::time::Nanos;

use super::tokio::{LocalTasks, runtime};
use super::{Facts, Ready, Role, Subject};
use crate::drive::{Client, Failure};
use crate::job::{Case, Job, Round, Scenario};
use crate::message::{Message, Seen};
use crate::shared::Shared;
use crate::tasks;

/// The longest message is a MiB and what bincode adds.
const FRAME_BYTES_MAX: usize = 16 << 20;

#[::tarpc::service]
trait Echo {
    async fn echo(data: Bytes) -> Bytes;
}

pub struct Tarpc;

impl Subject for Tarpc {
    fn facts(&self) -> Facts {
        let name = "tarpc";
        Facts { name, idle: "park", transport: "tcp", package: name, role: Role::Peer }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        (case.scenario == Scenario::Stream || case.bulk)
            .then_some("calls only, no one-way messages")
    }

    fn serve(
        &self,
        _: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        runtime()?.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            ready(Ready::at(listener.local_addr()?))?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let channel = BaseChannel::with_defaults(serde_transport::new(
                    framed(stream),
                    Bincode::default(),
                ));
                spawn(channel.execute(Server.serve()).for_each(|response| async {
                    spawn(response);
                }));
            }
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let stream = TcpStream::connect(&job.address).await?;
            stream.set_nodelay(true)?;
            let transport = serde_transport::new(framed(stream), Bincode::default());
            let client = EchoClient::new(Config::default(), transport).spawn();
            Ok(TarpcClient { client, shared: Shared::default() })
        };
        runtime()?.block_on(tasks::drive(job, LocalTasks, connect))
    }
}

fn framed(stream: TcpStream) -> Framed<TcpStream, LengthDelimitedCodec> {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX).new_framed(stream)
}

#[derive(Clone)]
struct Server;

impl Echo for Server {
    async fn echo(self, _: Context, data: Bytes) -> Bytes {
        data
    }
}

struct TarpcClient {
    client: EchoClient,
    shared: Shared,
}

impl Client for TarpcClient {
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        let data = self.shared.bytes_of(message);
        Ok(self.client.echo(context::current(), data).await? == message.payload())
    }

    async fn send(&mut self, _: &mut Message) -> Result<(), Failure> {
        Err("calls only, no one-way messages".into())
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        Err("calls only, no one-way messages".into())
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            // Lets the connection's task run, which has work behind each call.
            yield_now().await;
        }
        Ok(())
    }
}
