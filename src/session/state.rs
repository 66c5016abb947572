//! The life of a session. All transitions are in [`State::step`].
//!
//! ```text
//!                             Down
//!                            ▲    │
//!                  link lost │    │ resumed
//!                            │    ▼
//!   Greeting ──established──▶ Open ──drain──▶ Draining ──flushed──▶ Finishing
//!      │                       │                 │                     │
//!      └────────── failed ─────┴──── failed ─────┴─── failed, ended ───┴──▶ Ended
//! ```

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The handshake is not complete.
    Greeting,
    /// Messages flow both ways.
    Open,
    /// The link was lost; reliable messages are kept until there is another.
    Down,
    /// No new messages are admitted; what is queued still leaves.
    Draining,
    /// The goodbye is queued, or has left: waits for the peer to close.
    Finishing,
    /// Over.
    Ended,
}

/// What may happen to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The handshake is complete.
    Established,
    /// The link was lost, and the session will outlive it.
    LinkLost,
    /// A new link has taken the place of the lost one.
    Resumed,
    /// The application disconnects.
    Drain,
    /// Everything that was queued has been handed to the kernel, and the goodbye is queued.
    Flushed,
    /// The session ends now.
    End,
}

impl State {
    /// The only place where a session changes state.
    pub(crate) fn step(self, event: Event) -> Self {
        match (self, event) {
            (Self::Greeting, Event::Established) => Self::Open,
            (Self::Open, Event::LinkLost) => Self::Down,
            (Self::Down, Event::Resumed) => Self::Open,
            (Self::Open | Self::Greeting, Event::Drain) => Self::Draining,
            (Self::Draining, Event::Flushed) => Self::Finishing,
            (_, Event::End) => Self::Ended,
            // Asking twice to disconnect changes nothing.
            (Self::Draining | Self::Finishing | Self::Ended, Event::Drain) => self,
            // Events come from our own code, never straight from the peer: this is our bug.
            (state, event) => unreachable!("{event:?} in state {state:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orderly_life_passes_all_states() {
        let state = State::Greeting.step(Event::Established);
        assert_eq!(state, State::Open);
        let state = state.step(Event::Drain).step(Event::Drain);
        assert_eq!(state, State::Draining);
        let state = state.step(Event::Flushed);
        assert_eq!(state, State::Finishing);
        assert_eq!(state.step(Event::End), State::Ended);
    }

    #[test]
    fn what_is_over_stays_so() {
        let state = State::Open.step(Event::End);
        assert_eq!(state.step(Event::End).step(Event::Drain), State::Ended);
    }

    #[test]
    #[should_panic(expected = "Established in state Open")]
    fn impossible_transition_is_loud() {
        let _ = State::Open.step(Event::Established);
    }
}
