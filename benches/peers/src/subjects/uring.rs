//! One bare io_uring an end, over the `io-uring` crate: the floor of the ring itself.
//!
//! SINGLE_ISSUER, DEFER_TASKRUN, COOP_TASKRUN and TASKRUN_FLAG; one send and one receive at a time,
//! submitted together with one call. `uring-spin` watches the completion queue and
//! `IORING_SQ_TASKRUN` in memory and enters the kernel only to submit and when work is due there;
//! `uring-park` waits in io_uring_enter(2). `uring-sqpoll` has a kernel thread on the end's own
//! core that watches the submission queue (SQPOLL, which excludes the flags above but
//! SINGLE_ISSUER): it spins for a second after the last entry, and the application sleeps for
//! completions. No fixed files, no registered buffers, no multishot.

use std::hint::spin_loop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use io_uring::{IoUring, opcode, squeue, types};

use super::raw::{Pipe, PipeClient, accept_one, connect, listen, serve_pipe};
use super::{Facts, Ready, Role, Subject};
use crate::drive::{Failure, drive, now_or_never};
use crate::frame::BUFFER_BYTES;
use crate::job::{Case, Job, Round, Scenario};

const ENTRIES: u32 = 8;
const SEND: u64 = 1;
const RECEIVE: u64 = 2;

/// Whether an end sleeps while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Spin,
    Park,
    /// It does, and a kernel thread on this core spins meanwhile.
    Poll {
        core: u32,
    },
}

/// How long the thread of SQPOLL watches an empty queue, in milliseconds: longer than any pause
/// between two messages here.
const POLL_IDLE_MS: u32 = 1_000;

/// The three subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Spin,
    Park,
    Sqpoll,
}

struct Uring {
    name: &'static str,
    kind: Kind,
}

impl Uring {
    fn wait(&self, job: &Job) -> Result<Wait, Failure> {
        Ok(match self.kind {
            Kind::Spin => Wait::Spin,
            Kind::Park => Wait::Park,
            Kind::Sqpoll => Wait::Poll { core: u32::try_from(job.cores[0])? },
        })
    }
}

pub fn all() -> impl Iterator<Item = Box<dyn Subject>> {
    let uring = |name, kind| Box::new(Uring { name, kind }) as Box<dyn Subject>;
    [
        uring("uring-spin", Kind::Spin),
        uring("uring-park", Kind::Park),
        uring("uring-sqpoll", Kind::Sqpoll),
    ]
    .into_iter()
}

impl Subject for Uring {
    fn facts(&self) -> Facts {
        let idle = if self.kind == Kind::Park { "park" } else { "spin" };
        let package = "io-uring";
        Facts { name: self.name, idle, transport: "tcp", package, role: Role::Floor }
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        (case.bulk || case.scenario == Scenario::FanIn)
            .then_some("a floor of one connection a ring")
    }

    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (listener, address) = listen("tcp")?;
        ready(Ready::at(address))?;
        loop {
            if let Some(socket) = accept_one(listener.as_fd())? {
                serve_pipe(Ring::new(socket, self.wait(job)?)?, &job.case)?;
            }
        }
    }

    fn drive(&self, job: &Job) -> Result<Round, Failure> {
        let connect = async |job: &Job| -> Result<_, Failure> {
            let ring = Ring::new(connect(&job.address)?, self.wait(job)?)?;
            Ok(PipeClient::new(ring, &job.case))
        };
        now_or_never(drive(job, connect))
    }
}

/// A socket and the ring that carries it.
///
/// Invariant: a receive is in flight only during [`Pipe::read_some`]; a send may outlive
/// [`Pipe::write_all`], and then its bytes stand in `out`, which nobody touches until it is done.
struct Ring {
    ring: IoUring,
    socket: OwnedFd,
    wait: Wait,
    out: Vec<u8>,
    /// Bytes of the send in flight; 0 without one.
    sending: usize,
}

impl Ring {
    fn new(socket: OwnedFd, wait: Wait) -> Result<Self, Failure> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer();
        match wait {
            Wait::Poll { core } => builder.setup_sqpoll(POLL_IDLE_MS).setup_sqpoll_cpu(core),
            Wait::Spin | Wait::Park => {
                builder.setup_defer_taskrun().setup_coop_taskrun().setup_taskrun_flag()
            }
        };
        let ring = builder.build(ENTRIES)?;
        Ok(Self { ring, socket, wait, out: Vec::with_capacity(BUFFER_BYTES), sending: 0 })
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the entry names `self.socket`, which lives as long as the ring, and memory that
        // stays until its completion is reaped: see the invariant of this type. A failure of the
        // ring ends the process.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("two operations at most, and room for eight");
    }

    /// Waits for the completion of `operation`; that of a send may come before and is noted.
    fn reap(&mut self, operation: u64) -> Result<usize, Failure> {
        loop {
            while let Some(completion) = self.ring.completion().next() {
                if completion.result() < 0 {
                    return Err(std::io::Error::from_raw_os_error(-completion.result()).into());
                }
                let bytes = usize::try_from(completion.result())?;
                if completion.user_data() == SEND {
                    if bytes != self.sending {
                        return Err("MSG_WAITALL, and yet a send was cut short".into());
                    }
                    self.sending = 0;
                }
                if completion.user_data() == operation {
                    return Ok(bytes);
                }
            }
            self.enter()?;
        }
    }

    fn enter(&mut self) -> Result<(), Failure> {
        if self.wait == Wait::Spin {
            if !self.ring.submission().is_empty() {
                self.ring.submit()?;
            }
            while self.ring.completion().is_empty() && !self.ring.submission().taskrun() {
                spin_loop();
            }
            if !self.ring.completion().is_empty() {
                return Ok(());
            }
        }
        self.ring.submit_and_wait(1)?;
        Ok(())
    }
}

impl Pipe for Ring {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let fd = types::Fd(self.socket.as_raw_fd());
        self.push(opcode::Recv::new(fd, buffer.as_mut_ptr(), length).build().user_data(RECEIVE));
        self.reap(RECEIVE)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.sending > 0 {
            self.reap(SEND)?;
        }
        let is_short = bytes.len() <= self.out.capacity();
        let source = if is_short {
            self.out.clear();
            self.out.extend_from_slice(bytes);
            &self.out[..]
        } else {
            bytes
        };
        let length = u32::try_from(source.len())?;
        let fd = types::Fd(self.socket.as_raw_fd());
        let send = opcode::Send::new(fd, source.as_ptr(), length)
            .flags(libc_flags())
            .build()
            .user_data(SEND);
        self.sending = bytes.len();
        self.push(send);
        // A long one stands in the caller's memory; a stream's must leave although nobody reads.
        if !is_short || bytes.len() >= BUFFER_BYTES / 8 {
            self.reap(SEND)?;
        }
        Ok(())
    }
}

fn libc_flags() -> i32 {
    use rustix::net::SendFlags;
    // A send is done when all of it is: MSG_WAITALL, which has the same number in both directions.
    let wait_all = rustix::net::RecvFlags::WAITALL.bits();
    i32::try_from(SendFlags::NOSIGNAL.bits() | wait_all).expect("flags are small")
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel owns `out` until then. A peer that is gone fails the send, which ends it too.
        if self.sending > 0 {
            let _ = self.reap(SEND);
        }
    }
}
