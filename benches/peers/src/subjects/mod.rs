//! The subjects: each one file, configured as its own documentation advises for latency. The header
//! of each file says how.

use crate::drive::Failure;
use crate::job::{Case, Job, Round, Scenario};

mod bulk;
pub mod clock;
mod fan_in;
mod python;
mod raw;
mod ringwire;
pub mod tokio;
mod uring;

#[cfg(any(feature = "compio", feature = "monoio", feature = "tokio-uring"))]
mod owned;
#[cfg(any(feature = "nng", feature = "omq", feature = "zeromq", feature = "zmq"))]
mod pattern;

#[cfg(feature = "compio")]
mod compio;
#[cfg(feature = "monoio")]
mod monoio;
#[cfg(feature = "nng")]
mod nng;
#[cfg(feature = "omq")]
mod omq;
#[cfg(feature = "ringline")]
mod ringline;
#[cfg(feature = "tarpc")]
mod tarpc;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;
#[cfg(feature = "tonic")]
mod tonic;
#[cfg(feature = "zenoh")]
mod zenoh;
#[cfg(feature = "zeromq")]
mod zeromq;
#[cfg(feature = "zmq")]
mod zmq;

/// What the floors have over loopback, and Ringwire by itself.
pub const LOOPBACK_CONGESTION: &str = "reno";

/// One way of carrying messages, with two ends.
pub trait Subject: Sync {
    fn facts(&self) -> Facts;

    /// Why it can not do a case, if so.
    fn lacks(&self, case: &Case) -> Option<&'static str>;

    /// The server: calls `ready` once it listens, and never returns but on failure.
    fn serve(
        &self,
        job: &Job,
        ready: &mut dyn FnMut(Ready) -> Result<(), Failure>,
    ) -> Result<(), Failure>;

    /// The client: one round.
    fn drive(&self, job: &Job) -> Result<Round, Failure>;

    /// The program and first arguments of either end, where that is not this one.
    fn program(&self) -> Option<Vec<String>> {
        None
    }
}

/// What stands in the results about a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub name: &'static str,
    /// What both ends do while they wait: `spin`, `adaptive` or `park`.
    pub idle: &'static str,
    /// `tcp` or `unix`.
    pub transport: &'static str,
    /// The package whose version counts.
    pub package: &'static str,
    pub role: Role,
}

/// How a subject is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What the machine can do; the others are given as multiples of it.
    Floor,
    Ringwire,
    Peer,
}

/// Where a server listens.
#[derive(Debug)]
pub struct Ready {
    pub address: String,
    /// Its version, where only it knows.
    pub version: Option<String>,
}

impl Ready {
    pub fn at(address: impl ToString) -> Self {
        Self { address: address.to_string(), version: None }
    }
}

/// A subject that needs a cargo feature.
#[derive(Debug)]
pub struct Optional {
    pub feature: &'static str,
    pub subjects: &'static [&'static str],
}

/// What a full build has beyond the default one.
pub const OPTIONAL: &[Optional] = &[
    Optional { feature: "tokio-uring", subjects: &["tokio-uring"] },
    Optional { feature: "monoio", subjects: &["monoio"] },
    Optional { feature: "compio", subjects: &["compio"] },
    Optional { feature: "ringline", subjects: &["ringline"] },
    Optional { feature: "omq", subjects: &["omq-tokio", "omq-tokio-exclusive", "omq-tokio-spin"] },
    Optional { feature: "zeromq", subjects: &["zeromq"] },
    Optional { feature: "zmq", subjects: &["libzmq"] },
    Optional { feature: "nng", subjects: &["nng"] },
    Optional { feature: "tonic", subjects: &["tonic"] },
    Optional { feature: "tarpc", subjects: &["tarpc"] },
    Optional { feature: "zenoh", subjects: &["zenoh"] },
];

/// Every subject of this build, floors first.
pub fn all() -> Vec<Box<dyn Subject>> {
    let mut all: Vec<Box<dyn Subject>> = Vec::new();
    all.push(Box::new(clock::Clock));
    all.extend(raw::all());
    all.extend(bulk::all());
    all.extend(uring::all());
    all.extend(ringwire::all());
    all.push(Box::new(tokio::Tokio));
    #[cfg(feature = "tokio-uring")]
    all.push(Box::new(tokio_uring::TokioUring));
    #[cfg(feature = "monoio")]
    all.push(Box::new(monoio::Monoio));
    #[cfg(feature = "compio")]
    all.push(Box::new(compio::Compio));
    #[cfg(feature = "ringline")]
    all.push(Box::new(ringline::Ringline));
    #[cfg(feature = "omq")]
    all.extend(omq::all());
    #[cfg(feature = "zeromq")]
    all.push(Box::new(zeromq::Zeromq));
    #[cfg(feature = "zmq")]
    all.push(Box::new(zmq::Libzmq));
    #[cfg(feature = "nng")]
    all.push(Box::new(nng::Nng));
    #[cfg(feature = "tonic")]
    all.push(Box::new(tonic::Tonic));
    #[cfg(feature = "tarpc")]
    all.push(Box::new(tarpc::Tarpc));
    #[cfg(feature = "zenoh")]
    all.push(Box::new(zenoh::Zenoh));
    all.push(Box::new(python::Asyncio));
    all
}

pub fn find(name: &str) -> Option<Box<dyn Subject>> {
    all().into_iter().find(|subject| subject.facts().name == name)
}

/// The version of a package that this one depends on by itself, in this build.
pub fn version_of(package: &str) -> Option<&'static str> {
    version_in(include_str!("../../Cargo.lock"), package)
}

/// As a lock file says. Peers may depend on another version of the same package: our own entry
/// names the version where there are several.
fn version_in<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let own = concat!("\nname = \"", env!("CARGO_PKG_NAME"), "\"\n");
    let (_, own) = lock.split_once(own)?;
    let (_, dependencies) = own.split_once("\ndependencies = [\n")?;
    let (dependencies, _) = dependencies.split_once("\n]")?;
    let mut entries = dependencies.lines().map(|line| line.trim_matches([' ', '"', ',']));
    let entry = entries.find(|entry| entry.split(' ').next() == Some(package))?;
    if let Some(version) = entry.split(' ').nth(1) {
        return Some(version);
    }
    let head = format!("\nname = \"{package}\"\nversion = \"");
    let (_, rest) = lock.split_once(&head)?;
    Some(rest.split_once('"')?.0)
}

/// A port that was free a moment ago, for those that do not tell which one they were given.
#[cfg(any(feature = "nng", feature = "zenoh"))]
fn free_port() -> Result<u16, Failure> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// For those with one connection at a time.
fn lacks_fan_in(case: &Case) -> Option<&'static str> {
    (case.scenario == Scenario::FanIn).then_some("one connection a thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_that_of_our_own_dependency() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"0.6.4\"\n\n\
            [[package]]\nname = \"a\"\nversion = \"0.7.16\"\n\n\
            [[package]]\nname = \"b\"\nversion = \"2.0.0\"\ndependencies = [\n \"a 0.6.4\",\n]\n\n\
            [[package]]\nname = \"ringwire-peers\"\nversion = \"0.1.0\"\n\
            dependencies = [\n \"a 0.7.16\",\n \"b\",\n]\n\n\
            [[package]]\nname = \"c\"\nversion = \"3.0.0\"\n";
        assert_eq!(version_in(lock, "a"), Some("0.7.16"));
        assert_eq!(version_in(lock, "b"), Some("2.0.0"));
        assert_eq!(version_in(lock, "c"), None, "no dependency of ours");
        // The lock file of this package has two of these.
        assert!(version_of("io-uring").is_some_and(|version| version.starts_with("0.7.")));
    }

    #[test]
    fn names_are_unique_and_versions_known() {
        let mut names: Vec<_> = all().iter().map(|subject| subject.facts().name).collect();
        for subject in all() {
            let Facts { name, idle, transport, package, .. } = subject.facts();
            assert!(["spin", "adaptive", "park"].contains(&idle), "{name}");
            assert!(["tcp", "unix"].contains(&transport), "{name}");
            assert!(package.is_empty() || version_of(package).is_some(), "{name}: {package}");
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
