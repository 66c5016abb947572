//! tokio-uring: io_uring driven by Tokio's current-thread runtime, the same frames as the floor.
//!
//! `tokio_uring::start` with its default ring: DEFER_TASKRUN, which spares interrupts, makes it
//! stall. TCP_NODELAY is on. In fan-in each connection has a task at both ends; bulk goes from a
//! task of its own over a connection of its own. docs.rs/tokio-uring has no advice on latency, and
//! for the ring's settings it refers to `io_uring::Builder`. Its DESIGN.md has operations submitted
//! when a task yields, within 500 us: here each is awaited at once.

use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;

use ::tokio_uring::buf::BoundedBuf;
use ::tokio_uring::net::{TcpListener, TcpStream};

use super::owned::{OwnedClient, Stream, serve};
use super::{Facts, Ready, Role, Subject};
use crate::drive::Failure;
use crate::job::{Case, Job, Round};
use crate::tasks::{self, Task, Tasks};

pub struct TokioUring;

impl Subject for TokioUring {
    fn facts(&self) -> Facts {
        let name = "tokio-uring";
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
        ::tokio_uring::start(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
            ready(Ready::at(listener.local_addr()?))?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                ::tokio_uring::spawn(serve(stream, job.case));
            }
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        ::tokio_uring::start(tasks::drive_beside(job, LocalTasks, connect, connect))
    }
}

async fn connect(job: &Job) -> Result<OwnedClient<TcpStream>, Failure> {
    let stream = TcpStream::connect(job.address.parse()?).await?;
    stream.set_nodelay(true)?;
    Ok(OwnedClient::new(stream, &job.case))
}

#[derive(Clone, Copy)]
struct LocalTasks;

impl Tasks for LocalTasks {
    fn spawn(self, task: Task) -> Result<(), Failure> {
        ::tokio_uring::spawn(task);
        Ok(())
    }

    async fn turn(self) -> Result<(), Failure> {
        // Tokio's own yield does not submit what stands in the ring.
        Ok(::tokio_uring::no_op().await?)
    }
}

impl Stream for TcpStream {
    async fn read(&mut self, buffer: Vec<u8>, part: Range<usize>) -> (io::Result<usize>, Vec<u8>) {
        let (result, slice) = Self::read(self, buffer.slice(part)).await;
        (result, slice.into_inner())
    }

    async fn write_all(
        &mut self,
        buffer: Vec<u8>,
        part: Range<usize>,
    ) -> (io::Result<()>, Vec<u8>) {
        let (result, slice) = Self::write_all(self, buffer.slice(part)).await;
        (result, slice.into_inner())
    }
}
