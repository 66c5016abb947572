//! How far a reactor is behind what the kernel has for it.
//!
//! A turn takes in a bounded number of completions. After a stall of the thread, or under overload,
//! what a peer has sent may wait in the completion queue for many turns, and its silence is ours
//! then. So nobody is given up as silent or late before everything has been taken in that was there
//! when its time was over.
//!
//! Completions are taken in the order in which they came, and no more operations can have had their
//! last one than were in flight. So once as many last ones have been taken in as operations were in
//! flight at some instant, everything has been that was there at that instant. Operations that end
//! without one (prompt sends) only put that off, while there is anything to take in.

use std::time::Duration;

use crate::time::Nanos;

/// How much later a verdict is looked at again that could not be made.
pub(crate) const LAG_PAUSE: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct CatchUp {
    /// Everything that came before has been taken in.
    at: Nanos,
    /// With so many operations finished, everything has that came before that instant.
    mark: Option<(u64, Nanos)>,
}

impl CatchUp {
    pub(crate) const fn new() -> Self {
        Self { at: Nanos(0), mark: None }
    }

    /// Nothing waits to be taken in.
    pub(crate) fn is_done(&mut self, now: Nanos) {
        (self.at, self.mark) = (now, None);
    }

    /// Something waits; the last completion of `finished` operations has been taken in so far, and
    /// `in_flight` are to have one.
    pub(crate) fn is_behind(&mut self, now: Nanos, finished: u64, in_flight: usize) {
        match self.mark {
            Some((target, _)) if finished < target => return,
            Some((_, at)) => self.at = at,
            None => {}
        }
        self.mark = Some((finished + in_flight as u64, now));
    }

    /// Everything that came before this instant has been taken in.
    pub(crate) fn at(&self) -> Nanos {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_has_been_taken_in_with_as_many_as_were_in_flight() {
        let mut catch_up = CatchUp::new();
        catch_up.is_done(Nanos(10));
        assert_eq!(catch_up.at(), Nanos(10));
        catch_up.is_behind(Nanos(20), 100, 50);
        catch_up.is_behind(Nanos(30), 149, 60);
        assert_eq!(catch_up.at(), Nanos(10), "one may be left of those at 20");
        catch_up.is_behind(Nanos(40), 150, 60);
        assert_eq!(catch_up.at(), Nanos(20));
        catch_up.is_behind(Nanos(50), 209, 60);
        assert_eq!(catch_up.at(), Nanos(20));
        catch_up.is_behind(Nanos(60), 210, 60);
        assert_eq!(catch_up.at(), Nanos(40));
        catch_up.is_done(Nanos(70));
        assert_eq!(catch_up.at(), Nanos(70));
        // Nothing of the former time is left.
        catch_up.is_behind(Nanos(80), 300, 1);
        assert_eq!(catch_up.at(), Nanos(70));
    }
}
