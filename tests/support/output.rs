//! Commands that end by themselves: in time, or they are killed and the test fails.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ringwire::Nanos;

use crate::guard::Guard;

/// Far longer than any command here takes that ends by itself, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a command to its end, as [`Command::output`] does, and not for ever.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    let mut child = Guard::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let deadline = Nanos::now() + PATIENCE;
    let stdout = read(child.0.stdout.take().expect("piped"));
    let stderr = read(child.0.stderr.take().expect("piped"));
    // Both close when the process ends, at the latest.
    let all = |bytes: &Receiver<Vec<u8>>| {
        let left = deadline.since(Nanos::now());
        bytes.recv_timeout(left).unwrap_or_else(|_| panic!("{command:?}: no end in {PATIENCE:?}"))
    };
    let (stdout, stderr) = (all(&stdout), all(&stderr));
    loop {
        if let Some(status) = child.0.try_wait().expect("our own child") {
            return Output { status, stdout, stderr };
        }
        assert!(Nanos::now() < deadline, "{command:?}: no end in {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Everything that comes out of a pipe until it is closed.
fn read(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, all) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    all
}
