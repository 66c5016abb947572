//! compio: one thread, one io_uring, the same frames as the floor.
//!
//! Its io_uring driver with `coop_taskrun` and `taskrun_flag`, which its documentation has against
//! needless interrupts of a thread that polls by itself; TCP_NODELAY is on. In fan-in each
//! connection has a task at both ends; bulk goes from a task of its own over a connection of its
//! own.

use std::io;
use std::ops::Range;

use ::compio::BufResult;
use ::compio::buf::{IntoInner, IoBuf};
use ::compio::driver::ProactorBuilder;
use ::compio::io::{AsyncRead, AsyncWriteExt};
use ::compio::net::{TcpListener, TcpStream};
use ::compio::runtime::{Runtime, RuntimeBuilder};

use super::owned::{OwnedClient, Stream, serve};
use super::{Facts, Ready, Role, Subject};
use crate::drive::Failure;
use crate::job::{Case, Job, Round};
use crate::tasks::{self, Task, Tasks, yield_now};

pub struct Compio;

impl Subject for Compio {
    fn facts(&self) -> Facts {
        let name = "compio";
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
        runtime()?.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            ready(Ready::at(listener.local_addr()?))?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                ::compio::runtime::spawn(serve(stream, case)).detach();
            }
        })
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        runtime()?.block_on(tasks::drive_beside(job, LocalTasks, connect, connect))
    }
}

fn runtime() -> io::Result<Runtime> {
    let mut driver = ProactorBuilder::new();
    driver.coop_taskrun(true).taskrun_flag(true);
    RuntimeBuilder::new().with_proactor(driver).build()
}

async fn connect(job: &Job) -> Result<OwnedClient<TcpStream>, Failure> {
    let stream = TcpStream::connect(&*job.address).await?;
    stream.set_nodelay(true)?;
    Ok(OwnedClient::new(stream, &job.case))
}

#[derive(Clone, Copy)]
struct LocalTasks;

impl Tasks for LocalTasks {
    fn spawn(self, task: Task) -> Result<(), Failure> {
        ::compio::runtime::spawn(task).detach();
        Ok(())
    }

    async fn turn(self) -> Result<(), Failure> {
        // Its tasks and its driver have their turn before the woken future of `block_on` again.
        yield_now().await;
        Ok(())
    }
}

impl Stream for TcpStream {
    async fn read(&mut self, buffer: Vec<u8>, part: Range<usize>) -> (io::Result<usize>, Vec<u8>) {
        let BufResult(result, slice) = AsyncRead::read(self, buffer.slice(part)).await;
        (result, slice.into_inner())
    }

    async fn write_all(
        &mut self,
        buffer: Vec<u8>,
        part: Range<usize>,
    ) -> (io::Result<()>, Vec<u8>) {
        let BufResult(result, slice) = AsyncWriteExt::write_all(self, buffer.slice(part)).await;
        (result, slice.into_inner())
    }
}
