//! Commands that end by themselves: in time, or they are killed and the test fails.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ringwire::Nanos;

use crate::guard::Guard;

/// Far longer than any command here takes that ends by itself, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a command to its end, as [`Command::output`] does, and not for ever.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    end_of(Guard::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())))
}

/// The rest of a command that runs, as [`Child::wait_with_output`], and not for ever. Nothing of
/// what is no pipe.
#[track_caller]
pub(crate) fn end_of(mut child: Guard) -> Output {
    drop(child.0.stdin.take());
    let deadline = Nanos::now() + PATIENCE;
    let (stdout, stderr) = (read(child.0.stdout.take()), read(child.0.stderr.take()));
    // Both close when the process ends, at the latest.
    let all = |bytes: &Receiver<Vec<u8>>| {
        let left = deadline.since(Nanos::now());
        bytes.recv_timeout(left).unwrap_or_else(|_| panic!("{child:?}: no end in {PATIENCE:?}"))
    };
    let (stdout, stderr) = (all(&stdout), all(&stderr));
    Output { status: status_of(&mut child.0), stdout, stderr }
}

/// How a process ends, as [`Child::wait`], and not for ever.
#[track_caller]
pub(crate) fn status_of(child: &mut Child) -> ExitStatus {
    let deadline = Nanos::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status;
        }
        assert!(Nanos::now() < deadline, "{child:?}: no end in {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Everything that comes out of a pipe until it is closed.
fn read(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, all) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    all
}
