//! The asyncio peer in Python, `python/asyncio_peer.py`: what Ringwire replaces.
//!
//! Four bytes of length, big-endian, and JSON with metadata and data, over asyncio's streams; both
//! ends are Python, TCP_NODELAY is on, which asyncio does by itself. Each connection of a fan-in
//! has a task; bulk goes from a task of its own over a connection of its own. Runs as `python3`, or
//! what the variable PYTHON names. "What's New in Python 3.6" has TCP_NODELAY as the default of all
//! TCP transports; "Developing with asyncio" advises only not to block the loop, which JSON in the
//! loop does for as long as it takes, as in what is replaced.

use super::{Facts, Ready, Role, Subject};
use crate::drive::Failure;
use crate::job::{Case, Job, Round};

pub struct Asyncio;

impl Subject for Asyncio {
    fn facts(&self) -> Facts {
        let name = "python-asyncio";
        Facts { name, idle: "park", transport: "tcp", package: "", role: Role::Peer }
    }

    fn lacks(&self, _: &Case) -> Option<&'static str> {
        None
    }

    fn serve(
        &self,
        _: &Job,
        _: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        Err("runs in an interpreter of its own".into())
    }

    fn drive(&self, _: &Job) -> Result<Round, Failure> {
        Err("runs in an interpreter of its own".into())
    }

    fn program(&self) -> Option<Vec<String>> {
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/asyncio_peer.py");
        // Without what else is installed for that interpreter: that takes as long to load as
        // asyncio.
        Some(vec![python, "-I".into(), "-S".into(), script.into()])
    }
}
