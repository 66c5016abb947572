//! A process that does not outlive its test.

use std::process::{Child, Command};

/// Killed when it is dropped, also by a test that fails.
#[derive(Debug)]
pub(crate) struct Guard(pub(crate) Child);

impl Guard {
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
