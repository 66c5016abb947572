//! For libraries with the socket patterns of ZeroMQ: request/reply for round trips, push/pull for
//! what goes one way. What the receiver of a stream saw comes back over push/pull, too.
//!
//! The server's address is that of its three sockets: reply, pull, and the push of answers.

use std::thread;

use ringwire::time::Nanos;

use crate::drive::{Client, Failure};
use crate::message::{Message, Seen, Tag};

/// The client's sockets. Those a case does not need need not be connected.
#[allow(async_fn_in_trait, reason = "used with concrete types only, on one thread")]
pub trait Sockets {
    /// What a received message is.
    type Received: AsRef<[u8]>;

    /// Over request/reply.
    async fn request(&mut self, message: &Message) -> Result<Self::Received, Failure>;

    async fn push(&mut self, message: &Message) -> Result<(), Failure>;

    async fn pull(&mut self) -> Result<Self::Received, Failure>;

    /// Lets run what is not the calling code: threads, or tasks.
    async fn let_others_run(&mut self) {
        thread::yield_now();
    }
}

/// A client over [`Sockets`].
pub struct PatternClient<S>(pub S);

/// The addresses of the server's sockets, in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub reply: String,
    pub pull: String,
    pub answers: String,
}

impl Addresses {
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut words = text.split(' ').map(str::to_owned);
        let mut next = || words.next().ok_or("three addresses are expected");
        Ok(Self { reply: next()?, pull: next()?, answers: next()? })
    }

    pub fn join(&self) -> String {
        format!("{} {} {}", self.reply, self.pull, self.answers)
    }
}

impl<S: Sockets> PatternClient<S> {
    async fn ask_for(&mut self, tag: Tag) -> Result<Seen, Failure> {
        self.0.push(&Message::short(tag)).await?;
        let answer = self.0.pull().await?;
        Seen::from_bytes(answer.as_ref()).ok_or_else(|| "that is no answer".into())
    }
}

impl<S: Sockets> Client for PatternClient<S> {
    #[inline]
    async fn echo(&mut self, message: &mut Message) -> Result<bool, Failure> {
        Ok(self.0.request(message).await?.as_ref() == message.payload())
    }

    #[inline]
    async fn send(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.0.push(message).await
    }

    async fn ask(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::Ask).await
    }

    async fn bulk(&mut self, message: &mut Message) -> Result<(), Failure> {
        self.0.push(message).await
    }

    async fn ask_bulk(&mut self) -> Result<Seen, Failure> {
        self.ask_for(Tag::AskBulk).await
    }

    async fn idle_until(&mut self, until: Nanos) -> Result<(), Failure> {
        while Nanos::now() < until {
            self.0.let_others_run().await;
        }
        Ok(())
    }
}
