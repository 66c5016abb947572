//! The metrics of a node over HTTP, for Prometheus.
//!
//! One thread with a `tokio-uring` runtime of its own, which reads the registry as any other
//! process would: no reactor notices. `GET /metrics` gives OpenMetrics text to whoever asks for it
//! in its
//! `Accept` header, and Prometheus text 0.0.4 to others.
//!
//! Bounded, whoever asks: [`CONNECTIONS_MAX`] connections at once (more are closed at once), a
//! request's head of at most [`HEAD_BYTES_MAX`] that must be there within [`PATIENCE`], an answer
//! that must be taken within the same time, one request for each connection.
//!
//! Not here: encryption and authentication. Bind it to an address that only the right ones reach.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_uring::net::TcpStream;

use crate::stats::{Exposition, RegistryHandle, exposition};

/// Connections served at once.
const CONNECTIONS_MAX: usize = 8;
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long a request's head may take, and taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the other end may take to close once it is answered.
const LINGER: Duration = Duration::from_secs(1);
/// How long accepting rests after a failure, such as no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The thread that serves. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Metrics {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Begins to serve.
    ///
    /// # Errors
    ///
    /// The kernel's: no ring, no thread, or no descriptor for them.
    pub(crate) fn start(listener: TcpListener, registry: RegistryHandle) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = crossbeam_channel::bounded(1);
        let thread =
            std::thread::Builder::new().name("ringwire-metrics".into()).spawn(move || {
                // A runtime is its thread's own; who starts it hears here whether there is one.
                let runtime = match tokio_uring::Runtime::new(&tokio_uring::builder()) {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let _ = ready.send(Ok(()));
                let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    runtime.block_on(serve(listener, registry, stopped));
                }));
                if served.is_err() {
                    tracing::error!("the metrics endpoint has failed; the node goes on without it");
                }
            })?;
        let metrics = Self { address, stop: Some(stop), thread: Some(thread) };
        match is_ready.recv() {
            Ok(outcome) => outcome.map(|()| metrics),
            Err(_) => Err(io::Error::other("the thread ended during its setup")),
        }
    }

    /// Where it listens, with the port the kernel chose for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have failed before.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, registry: RegistryHandle, stopped: oneshot::Receiver<()>) {
    let registry = Rc::new(registry);
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    tokio_uring::spawn(async move {
        let open = Rc::new(Cell::new(0));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if open.get() >= CONNECTIONS_MAX {
                // Dropping it closes it: whoever is served is not to wait for more of them.
                tracing::debug!("the metrics endpoint has as many connections as it takes");
                continue;
            }
            let (registry, place) = (Rc::clone(&registry), Place::take(&open));
            tokio_uring::spawn(async move {
                answer(&stream, &registry).await;
                // What was received and not read would turn the close into a reset.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let rest = vec![0; 1024];
                let _ = timeout(LINGER, stream.read(rest)).await;
                let _ = stream.shutdown(std::net::Shutdown::Both);
                drop(place);
            });
        }
    });
    // An error is the other end's drop: as good.
    let _ = stopped.await;
}

/// A connection's place among those that are served.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Reads one request and answers it.
async fn answer(stream: &TcpStream, registry: &RegistryHandle) {
    let response = match timeout(PATIENCE, read_head(stream)).await {
        Ok(Ok(head)) => respond(&head, registry),
        Ok(Err(HeadError::TooLong)) => plain("431 Request Header Fields Too Large", "too long\n"),
        // Gone, or there is nobody to tell.
        Ok(Err(HeadError::Closed)) => return,
        Err(_) => plain("408 Request Timeout", "the request did not come in time\n"),
    };
    let _ = timeout(PATIENCE, stream.write_all(response)).await;
}

/// Why there is no request.
enum HeadError {
    TooLong,
    Closed,
}

async fn read_head(stream: &TcpStream) -> Result<Vec<u8>, HeadError> {
    let mut head = Vec::new();
    let mut buffer = vec![0; 2048];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let (outcome, returned) = stream.read(buffer).await;
        buffer = returned;
        match outcome {
            Ok(0) | Err(_) => return Err(HeadError::Closed),
            Ok(bytes) => head.extend_from_slice(&buffer[..bytes]),
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLong);
        }
    }
    Ok(head)
}

/// The response to a request with this head.
fn respond(head: &[u8], registry: &RegistryHandle) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let mut request = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (request.next(), request.next(), request.next());
    let (Some(method), Some(target), Some(version)) = (method, target, version) else {
        return plain("400 Bad Request", "not HTTP\n");
    };
    if !version.starts_with("HTTP/1.") {
        return plain("400 Bad Request", "not HTTP/1\n");
    }
    if target.split('?').next() != Some("/metrics") {
        return plain("404 Not Found", "metrics are at /metrics\n");
    }
    if method != "GET" {
        return plain("405 Method Not Allowed", "only GET\n");
    }
    let form =
        if accepts_openmetrics(lines) { Exposition::OpenMetrics } else { Exposition::Prometheus };
    let body = exposition(&registry.snapshot(), form);
    message("200 OK", form.content_type(), &body)
}

fn accepts_openmetrics<'a>(mut headers: impl Iterator<Item = &'a str>) -> bool {
    headers.any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("accept") && value.contains("application/openmetrics-text")
        })
    })
}

fn plain(status: &str, body: &str) -> Vec<u8> {
    message(status, "text/plain; charset=utf-8", body)
}

fn message(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let bytes = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {bytes}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::stats::Registry;

    /// That there is no ring for the metrics is said by the start, not by a panic on their thread.
    #[test]
    fn refused_ring_is_an_error_of_the_start() {
        let config = Config::builder().registry(false).build().expect("valid");
        let registry = Registry::new(&config, 1, 1).expect("memory");
        let handle = registry.handle();
        let listen = || TcpListener::bind("127.0.0.1:0").expect("loopback");
        // On a thread of its own: a filter stays, and holds for those that it starts.
        let refused = std::thread::scope(|scope| {
            let starting = scope.spawn(|| {
                let rules =
                    std::collections::BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
                let refused = seccompiler::SeccompAction::Errno(libc::EPERM.try_into().expect("1"));
                let arch = std::env::consts::ARCH.try_into().expect("one with seccomp");
                let allow = seccompiler::SeccompAction::Allow;
                let filter = seccompiler::SeccompFilter::new(rules, allow, refused, arch);
                let program: seccompiler::BpfProgram =
                    filter.expect("a filter").try_into().expect("a program");
                seccompiler::apply_filter(&program).expect("allowed");
                Metrics::start(listen(), handle.clone()).map(drop)
            });
            starting.join().expect("no panic")
        });
        assert_eq!(refused.expect_err("no ring").raw_os_error(), Some(libc::EPERM));
        drop(Metrics::start(listen(), handle.clone()).expect("a ring"));
    }
}
