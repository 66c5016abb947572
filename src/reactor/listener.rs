//! Accepting and dialling: how connections come to be.

use std::io;
use std::time::Duration;

use socket2::Socket;

use crate::config::Config;
use crate::endpoint::{Address, Endpoint};
use crate::error::{CloseReason, SetupError};
use crate::mem::Window;
use crate::reactor::command::DialFailure;
use crate::reactor::connection::Route;
use crate::reactor::connection::{Connection, ConnectionKey, Phase};
use crate::reactor::core::{Core, random_session_id};
use crate::reactor::sessions::backoff_policy;
use crate::reactor::{EventKind, Tokens};
use crate::session::backoff::Backoff;
use crate::session::{Part, Role, Session};
use crate::sys::ring::Completion;
use crate::sys::socket;
use crate::time::{Nanos, wall_ns};
use crate::wire::Kind;
use crate::wire::handshake::{HANDSHAKE_BYTES_MAX, RejectReason, write_farewell};

/// How long a listener rests when the process has no descriptor or memory for the next
/// connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a port in use is tried again: that of a process that was killed just now stays taken
/// until the kernel has taken its ring apart, some milliseconds.
const PORT_PATIENCE: Duration = Duration::from_millis(250);
const PORT_RETRY: Duration = Duration::from_millis(5);

/// How many ports are tried for a name with several addresses before it is given up.
const PORT_ATTEMPTS: u32 = 16;

/// A listening socket of this reactor.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: Socket,
    pub(crate) address: Address,
    pub(crate) is_tcp: bool,
    /// Of a Unix socket: its file.
    file: Option<(u64, u64)>,
    /// The operation, while connections are being accepted.
    pub(crate) operation: Option<crate::sys::ring::OpKey>,
    /// Accepting fails since some attempts ago.
    outage: Option<Outage>,
}

/// Accepting fails; said once when it begins and once when it is over.
#[derive(Debug)]
struct Outage {
    errno: i32,
    attempts: u64,
}

impl Listener {
    /// Accepting has failed once more.
    fn failed(&mut self, errno: i32) {
        let attempts = match self.outage {
            Some(Outage { errno: before, attempts }) if before == errno => attempts + 1,
            _ => {
                let error = io::Error::from_raw_os_error(errno);
                let remedy = crate::error::descriptor_remedy(&error);
                tracing::warn!(address = %self.address, %error, "cannot accept{remedy}");
                1
            }
        };
        self.outage = Some(Outage { errno, attempts });
    }

    /// A connection was accepted.
    fn succeeded(&mut self) {
        if let Some(Outage { attempts, .. }) = self.outage.take() {
            tracing::warn!(
                address = %self.address,
                attempts,
                "accepting again, after failed attempts"
            );
        }
    }
}

/// Listens on every address of `endpoint`, all on the same port.
///
/// For port 0 the first address gets a free one and the others the same; where it is taken there,
/// another is tried. Of several addresses, those that this machine does not have are left out,
/// with a warning, as long as one remains (`localhost` without IPv6). Anything else is an error,
/// and nothing is listened on.
pub(crate) fn bind(
    endpoint: &Endpoint,
    config: &Config,
) -> Result<Vec<(Socket, Address)>, SetupError> {
    let name = endpoint.to_string();
    let wanted = match endpoint.resolve() {
        Ok(wanted) => wanted,
        Err(source) => return Err(SetupError::Listen { address: name, source }),
    };
    let mut listen = |address: &Address| {
        socket::check_port_is_free(address)?;
        let socket = socket::listen(address, config)?;
        let address = socket::local_address(&socket)?;
        Ok((socket, address))
    };
    let deadline = Nanos::now() + PORT_PATIENCE;
    let mut pause = PORT_RETRY;
    let bound = loop {
        match bind_all(&wanted, &mut listen) {
            Err((_, error))
                if error.kind() == io::ErrorKind::AddrInUse && Nanos::now() < deadline =>
            {
                #[expect(clippy::disallowed_methods, reason = "no turn is under way at setup")]
                std::thread::sleep(pause);
                // A Unix socket that is in use is knocked at each time.
                pause *= 2;
            }
            outcome => break outcome,
        }
    };
    bound.map_err(|(address, source)| {
        let address = address.to_string();
        let address = if address == name { name } else { format!("{name} ({address})") };
        SetupError::Listen { address, source }
    })
}

type Bound = (Socket, Address);
type Listen<'a> = &'a mut dyn FnMut(&Address) -> io::Result<Bound>;

fn bind_all(wanted: &[Address], listen: Listen<'_>) -> Result<Vec<Bound>, (Address, io::Error)> {
    let mut attempts = 1;
    loop {
        match bind_once(wanted, listen) {
            Err((address, error))
                if error.kind() == io::ErrorKind::AddrInUse
                    && !wanted.contains(&address)
                    && attempts < PORT_ATTEMPTS =>
            {
                // The port that the first address was given is taken at another one.
                attempts += 1;
            }
            outcome => return outcome,
        }
    }
}

fn bind_once(wanted: &[Address], listen: Listen<'_>) -> Result<Vec<Bound>, (Address, io::Error)> {
    let mut bound: Vec<Bound> = Vec::with_capacity(wanted.len());
    let mut absent = None;
    for (index, address) in wanted.iter().enumerate() {
        if wanted[..index].contains(address) {
            // A resolver may name an address twice.
            continue;
        }
        let mut address = address.clone();
        if let Address::Tcp(address) = &mut address
            && address.port() == 0
            && let Some((_, Address::Tcp(first))) = bound.first()
        {
            address.set_port(first.port());
        }
        match listen(&address) {
            Ok(listening) => bound.push(listening),
            Err(error) if is_absent(&error) => {
                absent.get_or_insert((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    match absent {
        Some(absent) if bound.is_empty() => Err(absent),
        Some((address, error)) => {
            tracing::warn!(%address, %error, "not listening on every address of the name");
            Ok(bound)
        }
        None => Ok(bound),
    }
}

/// Whether an address could not be bound because this machine does not have it, or its family.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

impl Core {
    /// Adds a listening socket and begins to accept.
    pub(crate) fn add_listener(&mut self, socket: Socket) -> Result<Address, SetupError> {
        let system = |operation| move |source| SetupError::System { operation, source };
        let address = socket::local_address(&socket).map_err(system("getsockname"))?;
        let is_tcp = matches!(address, Address::Tcp(_));
        if self.listeners.len() >= 32 {
            let source = io::Error::other("a reactor listens on 32 addresses at most");
            return Err(SetupError::Listen { address: address.to_string(), source });
        }
        let file = address.unix_path().and_then(socket::identity_of_file);
        let (operation, outage) = (None, None);
        let listener =
            Listener { socket, address: address.clone(), is_tcp, file, operation, outage };
        self.listeners.push(listener);
        self.arm_listener(self.listeners.len() - 1);
        Ok(address)
    }

    fn arm_listener(&mut self, index: usize) {
        use std::os::fd::AsRawFd;
        let fd = self.listeners[index].socket.as_raw_fd();
        let operation = self.ring.accept(fd, Tokens::listener(index));
        self.listeners[index].operation = operation;
        if operation.is_none() {
            self.rest_listener(index);
        }
    }

    fn rest_listener(&mut self, index: usize) {
        let slot = self.places_max + 1 + index;
        let slot = u32::try_from(slot).expect("Config bounds the connections");
        self.deadlines.set(slot, self.now + ACCEPT_PAUSE);
    }

    /// A listener's rest is over.
    pub(crate) fn rearm_listener(&mut self, slot: u32) {
        let index = slot as usize - 1 - self.places_max;
        if index < self.listeners.len() && !self.life.is_closing() {
            self.arm_listener(index);
        }
    }

    /// Stops accepting and closes the listening sockets.
    pub(crate) fn stop_listening(&mut self) {
        for listener in &mut self.listeners {
            if let Some(operation) = listener.operation.take() {
                self.ring.cancel(operation);
            }
            // The file may be gone, or another listener's by now. Ours stays ours while the socket
            // is open: its inode is not used again before.
            if let Some(path) = listener.address.unix_path()
                && socket::identity_of_file(path) == listener.file
            {
                let _ = std::fs::remove_file(path);
            }
        }
        for listener in self.listeners.drain(..) {
            // The last completion of its accept may come later: it carries no memory of ours.
            drop(listener);
        }
    }

    #[cold]
    pub(crate) fn on_accept(&mut self, index: usize, completion: Completion) {
        let Completion { accepted, result, continues, .. } = completion;
        match result {
            Ok(_) => {
                let socket = accepted.expect("a completed accept has its connection");
                if self.life.is_closing() || index >= self.listeners.len() {
                    self.turn_away(&socket, RejectReason::ShuttingDown);
                } else {
                    self.listeners[index].succeeded();
                    self.admit(socket, self.listeners[index].is_tcp);
                }
            }
            // By our own cancel, or by a kernel that found the completion queue full just when the
            // accept was armed (before 6.15 io_accept() ends with IOU_STOP_MULTISHOT there, whose
            // value this is): armed again below.
            Err(libc::ECANCELED) => {}
            Err(errno) => {
                self.counters.accept_errors.add(1);
                if let Some(listener) = self.listeners.get_mut(index) {
                    listener.failed(errno);
                }
            }
        }
        if !continues && index < self.listeners.len() && !self.life.is_closing() {
            self.listeners[index].operation = None;
            match result {
                Ok(_) => self.arm_listener(index),
                Err(_) => self.rest_listener(index),
            }
        }
    }

    /// Makes an accepted socket a connection, if there is room.
    fn admit(&mut self, socket: Socket, is_tcp: bool) {
        if is_tcp && let Err(error) = socket::prepare_accepted(&socket, &self.config) {
            // The peer may have gone already; the first receive will tell.
            tracing::debug!(%error, "cannot set socket options");
        }
        let address = socket::peer_address(&socket);
        let Some(key) = self.insert(socket, address, Role::Listener) else { return };
        self.new_home(key);
        let connection = &mut self.connections[key];
        connection.state_deadline = self.now + self.config.handshake_timeout();
        self.set_deadline(key);
        self.mark_unarmed(key);
    }

    /// Gives a socket a slot. Without room the peer is told, and the close counted.
    pub(crate) fn insert(
        &mut self,
        socket: Socket,
        address: String,
        role: Role,
    ) -> Option<ConnectionKey> {
        let base = if self.is_full() { None } else { self.windows.take(1) };
        let Some(base) = base else {
            self.counters.closes[CloseReason::ConnectionLimit.index()].add(1);
            if role == Role::Listener {
                self.turn_away(&socket, RejectReason::Full);
            }
            return None;
        };
        let id = match random_session_id() {
            Ok(id) => id,
            Err(error) => {
                // Without a name there is no session; getrandom(2) fails in early boot only.
                tracing::error!(%error, "no random bytes for a session id");
                self.windows.give(base);
                return None;
            }
        };
        let session = Session::new(role, id, self.limits, &self.identity);
        let connection = Connection::new(socket, address, session, Window::new(base));
        let key = self.connections.insert(connection);
        self.keys[key.slot() as usize] = key;
        Some(key)
    }

    /// Tells a peer why it is not let in. One attempt, without waiting: the socket is closed
    /// whether the peer listens or not.
    pub(crate) fn turn_away(&self, socket: &Socket, reason: RejectReason) {
        let mut frame = [0; HANDSHAKE_BYTES_MAX];
        let detail = self.config.connections_max();
        let bytes = write_farewell(Kind::Reject, reason.code(), detail, self.now.0, &mut frame);
        let _ = socket.send_with_flags(&frame[..bytes], libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
    }

    /// Begins to connect to `address`.
    pub(crate) fn dial(&mut self, address: &Address) -> Result<ConnectionKey, DialFailure> {
        let key = self.dial_for(address)?;
        let backoff = Backoff::new(backoff_policy(&self.config));
        let route = Route { target: address.clone(), backoff };
        self.connections[key].route = Some(Box::new(route));
        self.new_home(key);
        if self.config.express() {
            self.plan_pair(key);
        }
        self.emit(key, EventKind::Connecting);
        Ok(key)
    }

    /// Begins to connect to `address` for a session that the caller looks after.
    pub(crate) fn dial_for(&mut self, address: &Address) -> Result<ConnectionKey, DialFailure> {
        use std::os::fd::AsRawFd;
        let connections_max = self.config.connections_max();
        if self.is_full() {
            return Err(DialFailure::TooMany { connections_max });
        }
        let (socket, target) = socket::open(address, &self.config).map_err(DialFailure::Socket)?;
        let fd = socket.as_raw_fd();
        let key = self
            .insert(socket, address.to_string(), Role::Dialer)
            .ok_or(DialFailure::TooMany { connections_max })?;
        let Some(operation) = self.ring.connect(fd, target, Tokens::connection(key)) else {
            self.ended.push(key);
            return Err(DialFailure::Socket(io::Error::from_raw_os_error(libc::EBUSY)));
        };
        self.now = Nanos::now();
        let connection = &mut self.connections[key];
        connection.phase = Phase::Connecting { operation };
        connection.state_deadline = self.now + self.config.connect_timeout();
        self.set_deadline(key);
        Ok(key)
    }

    #[cold]
    pub(crate) fn on_connect(&mut self, key: ConnectionKey, result: Result<u32, i32>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match connection.phase {
            Phase::Connecting { .. } => connection.phase = Phase::Live,
            Phase::Closing { .. } => {
                self.ended.push(key);
                return;
            }
            Phase::Live | Phase::Departed { .. } => unreachable!("a connect completes once"),
        }
        if let Err(errno) = result {
            self.close(key, CloseReason::Socket { errno });
            return;
        }
        let Some(buffer) = self.take_control_buffer() else {
            self.close(key, CloseReason::Socket { errno: libc::ENOBUFS });
            return;
        };
        let connection = &mut self.connections[key];
        connection.session.greet(buffer, &self.identity, self.now, wall_ns());
        connection.state_deadline = self.now + self.config.handshake_timeout();
        self.set_deadline(key);
        self.mark_dirty(key);
        self.mark_unarmed(key);
    }

    /// The handshake is complete.
    #[cold]
    pub(crate) fn establish(&mut self, key: ConnectionKey) {
        let now = self.now;
        let connection = &mut self.connections[key];
        connection.established_at = now;
        connection.last_activity = now;
        connection.state_deadline = Nanos::NEVER;
        let is_resumed = std::mem::take(&mut connection.is_resumed);
        let home = connection.home;
        if let Some(route) = &mut connection.route {
            route.backoff.established(now);
        }
        let is_express = connection.home != connection.public;
        self.set_deadline(key);
        // At once: it may be over before this turn is.
        self.write_row(home);
        if !is_resumed && !is_express {
            for &(watched, period) in &self.watches {
                let watchdog = &mut self.connections[key].session.watchdog;
                // Of a peer that has started anew, it goes on: silence is silence.
                if watchdog.has(watched) {
                    continue;
                }
                if let Err(error) = watchdog.watch(watched, period, now) {
                    tracing::warn!(%error, ?watched, "a session is not watched");
                }
            }
        }
        self.set_session_deadline(home);
        self.mark_dirty(key);
        if is_resumed {
            // Whoever is told that the link is back finds the session counted.
            let is_alone = self.connections[key].session.part() != Part::Main;
            let is_known = is_alone || self.pairs.is_tied(home);
            if !is_express && is_known && self.pairs.is_complete(home) {
                self.count_active(key);
            }
            self.counters.sessions_resumed.add(1);
            let messages_dropped = self.count_drops(home);
            self.counters.messages_dropped.add(messages_dropped);
            let link = self.link(home);
            self.emit(key, EventKind::Resumed { link, messages_dropped });
            self.mark_dirty(key);
        }
        self.main_established(key);
        if is_express || !self.pairs.is_complete(home) {
            self.announce_if_complete(home);
            return;
        }
        self.count_active(key);
        if !is_resumed {
            self.tell_connected(key);
        }
    }

    /// Tells that messages flow.
    pub(crate) fn tell_connected(&mut self, key: ConnectionKey) {
        self.emit(key, EventKind::Connected);
        self.answer_dial(key, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// Addresses of this machine, all on `port`.
    fn loopback(hosts: &[[u8; 4]], port: u16) -> Vec<Address> {
        hosts.iter().map(|&host| Address::Tcp((host, port).into())).collect()
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];
    const ALSO_HERE: [u8; 4] = [127, 0, 0, 2];
    /// TEST-NET-1 (RFC 5737): no machine has it.
    const ELSEWHERE: [u8; 4] = [192, 0, 2, 1];

    fn listen(address: &Address) -> io::Result<Bound> {
        socket::check_port_is_free(address)?;
        let socket = socket::listen(address, &Config::default())?;
        let address = socket::local_address(&socket)?;
        Ok((socket, address))
    }

    fn port(address: &Address) -> u16 {
        let Address::Tcp(address) = address else { panic!("TCP") };
        address.port()
    }

    #[test]
    fn all_addresses_share_the_port_and_none_comes_twice() {
        let wanted = loopback(&[HERE, ALSO_HERE, HERE], 0);
        let bound = bind_all(&wanted, &mut listen).expect("two addresses");
        let addresses: Vec<_> = bound.into_iter().map(|(_, address)| address).collect();
        assert_eq!(addresses, loopback(&[HERE, ALSO_HERE], port(&addresses[0])));
        assert_ne!(port(&addresses[0]), 0);
    }

    #[test]
    fn address_of_another_machine_is_left_out_while_one_remains() {
        let wanted = loopback(&[ELSEWHERE, HERE], 0);
        let bound = bind_all(&wanted, &mut listen).expect("one address");
        assert_eq!(bound.len(), 1);
        let (address, error) =
            bind_all(&wanted[..1], &mut listen).expect_err("not an address of this machine");
        assert_eq!(address, wanted[0]);
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn taken_port_is_named_and_nothing_is_kept() {
        let taken =
            std::net::TcpListener::bind(SocketAddr::from((ALSO_HERE, 0))).expect("loopback");
        let number = taken.local_addr().expect("bound").port();
        let wanted = loopback(&[HERE, ALSO_HERE], number);
        let (address, error) = bind_all(&wanted, &mut listen).expect_err("taken");
        assert_eq!((address, error.kind()), (wanted[1].clone(), io::ErrorKind::AddrInUse));
        drop(std::net::TcpListener::bind(SocketAddr::from((HERE, number))).expect("free again"));
    }

    /// The port of the first address is taken at the second `times` times. Returns how often the
    /// second was tried.
    fn retry(times: u32) -> (u32, Result<Vec<Bound>, (Address, io::Error)>) {
        let mut tried = 0;
        let mut listen_elsewhere = |address: &Address| {
            let Address::Tcp(tcp) = address else { panic!("TCP") };
            if tcp.ip() == std::net::IpAddr::from(ALSO_HERE) {
                tried += 1;
                if tried <= times {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
            }
            listen(address)
        };
        let outcome = bind_all(&loopback(&[HERE, ALSO_HERE], 0), &mut listen_elsewhere);
        (tried, outcome)
    }

    #[test]
    fn port_that_is_taken_at_another_address_is_exchanged() {
        let (tried, outcome) = retry(3);
        assert_eq!((tried, outcome.expect("another port").len()), (4, 2));
        let (tried, outcome) = retry(u32::MAX);
        assert_eq!(tried, PORT_ATTEMPTS);
        assert_eq!(outcome.expect_err("no port").1.kind(), io::ErrorKind::AddrInUse);
    }
}
