//! monoio: one thread, one io_uring, the same frames as the floor.
//!
//! Its io_uring driver (not the legacy one) with its default ring; TCP_NODELAY is on. No timer
//! driver: nothing here uses one. In fan-in each connection has a task at both ends; bulk goes from
//! a task of its own over a connection of its own. Neither docs.rs/monoio nor its README and
//! configuration guide advise on latency over sockets: the guide has a larger ring for high rates,
//! to submit less often, and the timer only where it is used.

use std::io;
use std::ops::Range;

use ::monoio::buf::{IoBuf, IoBufMut};
use ::monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use ::monoio::net::{TcpListener, TcpStream};
use ::monoio::{IoUringDriver, RuntimeBuilder};

use super::owned::{OwnedClient, Stream, serve};
use super::{Facts, Ready, Role, Subject};
use crate::drive::Failure;
use crate::job::{Case, Job, Round};
use crate::tasks::{self, Task, Tasks};

pub struct Monoio;

impl Subject for Monoio {
    fn facts(&self) -> Facts {
        let name = "monoio";
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
        let case = job.case;
        RuntimeBuilder::<IoUringDriver>::new().build()?.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            ready(Ready::at(listener.local_addr()?))?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                ::monoio::spawn(serve(stream, case));
            }
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        RuntimeBuilder::<IoUringDriver>::new()
            .build()?
            .block_on(tasks::drive_beside(job, LocalTasks, connect, connect))
    }
}

async fn connect(job: &Job) -> Result<OwnedClient<TcpStream>, Failure> {
    let stream = TcpStream::connect(&job.address).await?;
    stream.set_nodelay(true)?;
    Ok(OwnedClient::new(stream, &job.case))
}

#[derive(Clone, Copy)]
struct LocalTasks;

impl Tasks for LocalTasks {
    fn spawn(self, task: Task) -> Result<(), Failure> {
        ::monoio::spawn(task);
        Ok(())
    }

    async fn turn(self) -> Result<(), Failure> {
        // It has no yield, and a task that wakes itself goes before all others. This one is behind
        // them, and then the driver is asked.
        ::monoio::spawn(async {}).await;
        Ok(())
    }
}

impl Stream for TcpStream {
    async fn read(&mut self, buffer: Vec<u8>, part: Range<usize>) -> (io::Result<usize>, Vec<u8>) {
        let (result, slice) = AsyncReadRent::read(self, buffer.slice_mut(part)).await;
        (result, slice.into_inner())
    }

    async fn write_all(
        &mut self,
        buffer: Vec<u8>,
        part: Range<usize>,
    ) -> (io::Result<()>, Vec<u8>) {
        let (result, slice) = AsyncWriteRentExt::write_all(self, buffer.slice(part)).await;
        (result.map(drop), slice.into_inner())
    }
}
