//! Sockets: creation, options, listening. Safe wrappers of `socket2` and `rustix` in one place.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::config::Config;
use crate::endpoint::Address;
use crate::mem::Pieces;

/// Makes an unconnected socket for `address` with the configured options.
pub(crate) fn open(address: &Address, config: &Config) -> io::Result<(Socket, SockAddr)> {
    let (domain, protocol, target) = match address {
        Address::Tcp(address) => {
            (Domain::for_address(*address), Some(Protocol::TCP), SockAddr::from(*address))
        }
        Address::Unix(path) => (Domain::UNIX, None, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), protocol)?;
    if let Address::Tcp(_) = address {
        set_tcp_options(SockRef::from(&socket), config)?;
        avoid_pacing(&socket, &target, config);
    }
    Ok((socket, target))
}

/// Applies the configured options to an accepted TCP socket.
pub(crate) fn prepare_accepted(socket: &Socket, config: &Config) -> io::Result<()> {
    set_tcp_options(SockRef::from(socket), config)?;
    // A listener on all addresses did not know where its peers would be.
    avoid_pacing(socket, &socket.peer_addr()?, config);
    Ok(())
}

/// Binds and listens. TCP listeners share their port between reactors (SO_REUSEPORT).
///
/// A Unix socket file that nobody listens on any more is replaced.
pub(crate) fn listen(address: &Address, config: &Config) -> io::Result<Socket> {
    let (socket, target) = open(address, config)?;
    match address {
        Address::Tcp(_) => {
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
        }
        Address::Unix(path) => {
            if is_abandoned(path) {
                std::fs::remove_file(path)?;
            }
        }
    }
    socket.bind(&target)?;
    let backlog = i32::try_from(config.listen_backlog()).expect("Config bounds it");
    socket.listen(backlog)?;
    Ok(socket)
}

/// Whether `path` is a socket file that nobody listens on any more: connecting to it is refused,
/// as it is to a file of any other type, so that is looked at first (connect(2), ECONNREFUSED).
/// Does not wait for a listener whose queue is full, as that of a process that stands still.
fn is_abandoned(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let knock = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && knock().is_err_and(refused)
}

/// What tells a file from another that takes its name: device and inode.
pub(crate) fn identity_of_file(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Refuses a TCP port that another process listens on: SO_REUSEPORT alone would share it
/// silently with any process of the same user.
pub(crate) fn check_port_is_free(address: &Address) -> io::Result<()> {
    let Address::Tcp(address) = address else { return Ok(()) };
    if address.port() == 0 {
        return Ok(());
    }
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(*address))?;
    socket.listen(1)
}

/// The address a socket is bound to.
pub(crate) fn local_address(socket: &Socket) -> io::Result<Address> {
    let address = socket.local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(Address::Tcp(address)),
        (_, Some(path)) => Ok(Address::Unix(path.into())),
        _ => Err(io::Error::other("a socket of another family")),
    }
}

/// The address of a connected socket's peer, for people.
pub(crate) fn peer_address(socket: &Socket) -> String {
    match socket.peer_addr() {
        Ok(address) => match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => address.to_string(),
            (_, Some(path)) => format!("unix:{}", path.display()),
            _ => "unix:".into(),
        },
        Err(_) => "unknown".into(),
    }
}

/// Whether zero-copy sends may be tried on a socket: Unix sockets refuse them (EOPNOTSUPP;
/// SOCK_SUPPORT_ZC is for inet sockets). In doubt yes: a refusal is met with a plain send.
pub(crate) fn may_zero_copy(socket: &Socket) -> bool {
    socket.domain().map_or(true, |domain| domain != Domain::UNIX)
}

/// SO_SNDBUF over loopback, which the kernel doubles: as much as stays in a core's caches, and as a
/// message behind it waits for. With the kernel's autotuning up to 4 MB wait between both ends,
/// which each of them then fetches from memory: streams of 1 MiB messages ran at two thirds of the
/// rate. With half of this they ran at five sixths; with twice, what came behind them took twice as
/// long. A network's bandwidth-delay product is not to be bounded like this.
const LOOPBACK_SEND_BUFFER_BYTES: usize = 320 << 10;

/// Without a network there is no rate to find out. BBR paces all the same: a stream of 1 MiB
/// messages ran at little more than half of what it does so, and a round trip takes a fiftieth
/// more. Always there (tcp(7)).
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// Has nothing pace a connection to or from this address if that is loopback, whatever the system's
/// congestion control is, unless the configuration names one.
fn avoid_pacing(socket: &Socket, address: &SockAddr, config: &Config) {
    if config.tcp_congestion().is_none() && is_loopback(address) {
        // What the kernel refuses stays as it was: slower, and no reason to end anything.
        let _ = socket.set_tcp_congestion(LOOPBACK_CONGESTION);
    }
}

/// What the send buffer of a loopback connection has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loopback {
    /// Long messages, of which several fit into a bounded buffer.
    Long,
    /// Messages that do not: each leaves with one call where the kernel has room for all of it.
    Longest,
}

/// Prepares a loopback connection for long messages, unless the configuration says otherwise: what
/// waits between both ends is bounded, but for the longest. Sockets of other peers, and those of
/// other families, stay as they are.
#[cold]
pub(crate) fn prepare_loopback(socket: &Socket, messages: Loopback, config: &Config) {
    let Ok(peer) = socket.peer_addr() else { return };
    if !is_loopback(&peer) {
        return;
    }
    // What the kernel refuses stays as it was: slower, and no reason to end anything.
    if config.tcp_send_buffer_bytes() == 0 {
        let _ = match messages {
            Loopback::Long => socket.set_send_buffer_size(LOOPBACK_SEND_BUFFER_BYTES),
            Loopback::Longest => unlock_send_buffer(socket),
        };
    }
    // Who dials all addresses (0.0.0.0) is connected to loopback and did not say so.
    avoid_pacing(socket, &peer, config);
}

/// Has the kernel tune the send buffer again after its size has been set: SO_BUF_LOCK, Linux 5.16
/// (commit 04190bf8944d), without a page in socket(7) so far.
fn unlock_send_buffer(socket: &Socket) -> io::Result<()> {
    // asm-generic/socket.h, and SOCK_SNDBUF_LOCK of net/sock.h; the C library's crate has neither.
    const SO_BUF_LOCK: libc::c_int = 72;
    const SOCK_SNDBUF_LOCK: libc::c_int = 1;
    const BYTES: libc::socklen_t = 4;
    const _: () = assert!(size_of::<libc::c_int>() == BYTES as usize);
    let (mut locks, mut bytes): (libc::c_int, _) = (0, BYTES);
    let place = (&raw mut locks).cast();
    // SAFETY: `place` is a c_int that lives here, and `bytes` is its size; the kernel writes no
    // more than that (getsockopt(2)).
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_BUF_LOCK, place, &raw mut bytes)
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    locks &= !SOCK_SNDBUF_LOCK;
    let place = (&raw const locks).cast();
    // SAFETY: as above; the kernel reads it.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_BUF_LOCK, place, BYTES)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_loopback(address: &SockAddr) -> bool {
    address.as_socket().is_some_and(|address| address.ip().to_canonical().is_loopback())
}

/// Applies the configured TCP options; on a listener, accepted sockets inherit them (tcp(7)).
fn set_tcp_options(socket: SockRef<'_>, config: &Config) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Heartbeats find a peer that is gone. The kernel would give up one that is there and does not
    // read, too: a window that stays closed counts as time without an acknowledgement.
    if config.tcp_user_timeout_ms() > 0 && config.heartbeat_interval_ms() == 0 {
        let timeout = Duration::from_millis(config.tcp_user_timeout_ms().into());
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    if config.tcp_keepalive_s() > 0 {
        let idle = Duration::from_secs(config.tcp_keepalive_s().into());
        let probes = TcpKeepalive::new().with_time(idle).with_interval(Duration::from_secs(1));
        socket.set_tcp_keepalive(&probes)?;
    }
    if config.tcp_send_buffer_bytes() > 0 {
        socket.set_send_buffer_size(config.tcp_send_buffer_bytes() as usize)?;
    }
    if config.tcp_receive_buffer_bytes() > 0 {
        socket.set_recv_buffer_size(config.tcp_receive_buffer_bytes() as usize)?;
    }
    if let Some(name) = config.tcp_congestion() {
        socket.set_tcp_congestion(name.as_bytes()).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => {
                    "is not known to this kernel: net.ipv4.tcp_available_congestion_control lists \
                     what is"
                }
                io::ErrorKind::PermissionDenied => {
                    "needs CAP_NET_ADMIN: net.ipv4.tcp_allowed_congestion_control lists what \
                     does not"
                }
                _ => "is refused",
            };
            let text = format!("tcp_congestion = {name:?} {remedy} ({error})");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
    }
    if config.tcp_notsent_lowat_bytes() > 0 {
        socket.set_tcp_notsent_lowat(config.tcp_notsent_lowat_bytes())?;
    }
    if config.tcp_dscp() > 0 {
        set_dscp(&socket, config.tcp_dscp())?;
    }
    Ok(())
}

/// DSCP is the upper six bits of the traffic class (RFC 2474).
fn set_dscp(socket: &SockRef<'_>, dscp: u8) -> io::Result<()> {
    let class = u32::from(dscp) << 2;
    match socket.domain()? {
        Domain::IPV6 => {
            // IPv4 over the same socket has a class of its own (ip(7)); one that is not for it
            // (IPV6_V6ONLY) needs none.
            let _ = socket.set_tos_v4(class);
            socket.set_tclass_v6(class)
        }
        _ => socket.set_tos_v4(class),
    }
}

/// Bounds what the kernel holds unsent (TCP_NOTSENT_LOWAT, tcp(7)). Other sockets than those of TCP
/// have no such bound, and refuse.
pub(crate) fn bound_unsent(socket: &Socket, bytes: u32) {
    let _ = socket.set_tcp_notsent_lowat(bytes);
}

/// Reads what is there, without waiting.
#[inline]
pub(crate) fn receive(socket: &Socket, into: &mut [u8]) -> Result<usize, Errno> {
    use rustix::net::{RecvFlags, recv};
    Ok(recv(socket, into, RecvFlags::DONTWAIT)?.0)
}

/// As [`receive`], into `first` and, what does not fit there, `second` (recvmsg(2)).
#[inline]
pub(crate) fn receive_scattered(
    socket: &Socket,
    first: &mut [u8],
    second: &mut [u8],
) -> Result<usize, Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};
    let mut into = [io::IoSliceMut::new(first), io::IoSliceMut::new(second)];
    let mut nothing = RecvAncillaryBuffer::default();
    Ok(recvmsg(socket, &mut into, &mut nothing, RecvFlags::DONTWAIT)?.bytes)
}

/// Never waits, and raises no SIGPIPE. For the C library, which is called for several pieces.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Pieces of memory at most that leave with one call: those of twelve blocks.
const GATHERED_MAX: usize = 36;

/// Sends what the socket has room for, without waiting. Short sends past the C library: its send(2)
/// is a cancellation point, which costs two atomic operations where there are threads.
#[inline]
pub(crate) fn send(socket: &Socket, pieces: &Pieces<'_>) -> io::Result<usize> {
    use rustix::net::SendFlags;
    match pieces.single() {
        Some(piece) => {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            Ok(rustix::net::send(socket, piece, flags)?)
        }
        None => {
            let mut slices = [io::IoSlice::new(&[]); 3];
            for (slice, piece) in slices.iter_mut().zip(pieces.as_slice()) {
                *slice = io::IoSlice::new(piece);
            }
            socket.send_vectored_with_flags(&slices, SEND_FLAGS)
        }
    }
}

/// The pieces of several blocks, for one sendmsg(2).
#[derive(Debug)]
pub(crate) struct Gather<'a> {
    slices: [io::IoSlice<'a>; GATHERED_MAX],
    count: usize,
    bytes: usize,
}

impl<'a> Gather<'a> {
    #[inline]
    pub(crate) fn of(pieces: &Pieces<'a>) -> Self {
        let mut gather = Self { slices: [io::IoSlice::new(&[]); GATHERED_MAX], count: 0, bytes: 0 };
        assert!(gather.add(pieces), "there is room for one block");
        gather
    }

    /// Adds the pieces of one more block. Returns whether there was room for them.
    #[inline]
    pub(crate) fn add(&mut self, pieces: &Pieces<'a>) -> bool {
        let pieces = pieces.as_slice();
        let Some(room) = self.slices.get_mut(self.count..self.count + pieces.len()) else {
            return false;
        };
        for (slice, piece) in room.iter_mut().zip(pieces) {
            *slice = io::IoSlice::new(piece);
            self.bytes += piece.len();
        }
        self.count += pieces.len();
        true
    }

    /// Length of all pieces together.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sends what the socket has room for, without waiting. Returns how many bytes that were.
    #[inline]
    pub(crate) fn send(&self, socket: &Socket) -> io::Result<usize> {
        socket.send_vectored_with_flags(&self.slices[..self.count], SEND_FLAGS)
    }
}

/// Ends a TCP connection with a reset and drops what the kernel still holds to send on it: only
/// then does it let go of the pages of a zero-copy send that the peer does not read.
pub(crate) fn reset(socket: &Socket) {
    // "Connecting" to no address dissolves the association (connect(2), AF_UNSPEC). It fails when
    // the connection is gone, and then so is what it held.
    let _ = rustix::net::connect_unspec(socket);
}

/// Wakes a sleeping reactor: a counter that its ring polls (eventfd(2)).
#[derive(Debug)]
pub(crate) struct Waker {
    fd: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Wakes the reactor. One system call; never blocks.
    pub(crate) fn wake(&self) {
        // It can only fail with EAGAIN, when the counter is at its limit and the reactor already
        // due to wake.
        let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// Resets the counter.
    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.fd, &mut count);
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a connection: the send buffer's size and the congestion control.
    fn options(socket: &Socket) -> (usize, Vec<u8>) {
        let name = socket.tcp_congestion().expect("a socket option");
        let name = name.split(|&byte| byte == 0).next().expect("a name").to_vec();
        (socket.send_buffer_size().expect("a socket option"), name)
    }

    /// Both ends of a connection over loopback to a listener there, as the transport makes them.
    fn connected(listen: &str, config: &Config) -> (Socket, Socket) {
        let listen = Address::Tcp(listen.parse().expect("an address"));
        let listener = super::listen(&listen, config).expect("a port");
        let Address::Tcp(bound) = local_address(&listener).expect("it is bound") else {
            panic!("a TCP listener is bound to a TCP address")
        };
        let target = Address::Tcp(([127, 0, 0, 1], bound.port()).into());
        let (dialled, target) = open(&target, config).expect("a socket");
        dialled.set_nonblocking(false).expect("a socket option");
        dialled.connect(&target).expect("it listens");
        listener.set_nonblocking(false).expect("a socket option");
        let (accepted, _) = listener.accept().expect("one has come");
        prepare_accepted(&accepted, config).expect("socket options");
        (dialled, accepted)
    }

    /// What a new socket has when it has been asked for this congestion control.
    fn congestion_after(name: &[u8]) -> Vec<u8> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // An administrator may forbid it (tcp_allowed_congestion_control).
        let _ = socket.set_tcp_congestion(name);
        options(&socket).1
    }

    /// Dialled and accepted. Somebody who reads slowly is not given up by the kernel while
    /// heartbeats tell that he is there.
    #[test]
    fn both_ends_watch_for_a_peer_that_is_gone() {
        for (interval_ms, timeout) in [(1_000, None), (0, Some(Duration::from_millis(700)))] {
            let config = Config::builder()
                .heartbeat_interval_ms(interval_ms)
                .tcp_user_timeout_ms(700)
                .tcp_keepalive_s(7)
                .build()
                .expect("valid");
            let (dialled, accepted) = connected("127.0.0.1:0", &config);
            for socket in [dialled, accepted] {
                assert!(socket.tcp_nodelay().expect("a socket option"));
                assert!(socket.keepalive().expect("a socket option"));
                let idle = socket.tcp_keepalive_time().expect("a socket option");
                let interval = socket.tcp_keepalive_interval().expect("a socket option");
                assert_eq!((idle.as_secs(), interval.as_secs()), (7, 1));
                // What is not set reads as no time.
                let found = socket.tcp_user_timeout().expect("a socket option");
                assert_eq!(found.filter(|found| !found.is_zero()), timeout);
                // A child of a process that embeds this holds no link open.
                let flags = rustix::io::fcntl_getfd(&socket).expect("open");
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
        }
    }

    #[test]
    fn loopback_connections_are_not_paced() {
        let unpaced = congestion_after(LOOPBACK_CONGESTION);
        for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
            let (dialled, accepted) = connected(listen, &Config::default());
            assert_eq!(
                (options(&dialled).1, options(&accepted).1),
                (unpaced.clone(), unpaced.clone())
            );
        }
        // What is asked for stays; another than the loopback's, where there is one.
        let other = ["cubic", "bbr"].into_iter().find(|name| {
            let name = name.as_bytes();
            name != unpaced && congestion_after(name) == name
        });
        let asked = String::from_utf8_lossy(&unpaced);
        let asked = other.unwrap_or(&asked);
        let config = Config::builder().tcp_congestion(asked).build().expect("valid");
        let (dialled, accepted) = connected("127.0.0.1:0", &config);
        for socket in [dialled, accepted] {
            assert_eq!(options(&socket).1, asked.as_bytes());
            prepare_loopback(&socket, Loopback::Long, &config);
            assert_eq!(options(&socket).1, asked.as_bytes(), "nor does a long message change it");
        }
        // So does the system's, where a network is in between.
        let elsewhere = Address::Tcp("192.0.2.1:7411".parse().expect("an address"));
        let (unconnected, _) = open(&elsewhere, &Config::default()).expect("a socket");
        assert_eq!(options(&unconnected).1, congestion_after(b""));
    }

    #[test]
    fn loopback_has_addresses_of_both_versions() {
        let is = |address: &str| {
            is_loopback(&SockAddr::from(address.parse::<std::net::SocketAddr>().expect("one")))
        };
        assert!(
            is("127.0.0.1:1") && is("127.8.8.8:1") && is("[::1]:1") && is("[::ffff:127.0.0.1]:1")
        );
        assert!(!is("192.0.2.1:1") && !is("0.0.0.0:1") && !is("[::]:1") && !is("[2001:db8::1]:1"));
        assert!(!is_loopback(&SockAddr::unix("/a").expect("short")));
    }

    /// Answers are marked whichever version of IP a client came by to a listener for both.
    #[test]
    fn both_versions_have_their_traffic_class() {
        let config = Config::builder().tcp_dscp(46).build().expect("valid");
        let (_, accepted) = connected("127.0.0.1:0", &config);
        assert_eq!(accepted.tos_v4().expect("a socket option"), 46 << 2);
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            // A machine without IPv6 has no such listeners.
            return;
        }
        let (dialled, accepted) = connected("[::]:0", &config);
        assert_eq!(dialled.tos_v4().expect("a socket option"), 46 << 2);
        assert_eq!(accepted.tos_v4().expect("a socket option"), 46 << 2);
        assert_eq!(accepted.tclass_v6().expect("a socket option"), 46 << 2);
    }

    #[test]
    fn only_loopback_connections_are_bounded() {
        let (connected, untouched) = connected("127.0.0.1:0", &Config::default());
        prepare_loopback(&connected, Loopback::Long, &Config::default());
        assert_eq!(options(&connected).0, 2 * LOOPBACK_SEND_BUFFER_BYTES);
        // Tuned by the kernel again: it grows with what is sent.
        prepare_loopback(&connected, Loopback::Longest, &Config::default());
        connected.set_nonblocking(true).expect("a socket option");
        let mut reader = untouched.try_clone().expect("a descriptor");
        let mut room = vec![0; 1 << 20];
        let deadline = crate::time::Nanos::now() + Duration::from_secs(10);
        while options(&connected).0 <= 2 * LOOPBACK_SEND_BUFFER_BYTES {
            while connected.send(&room).is_ok() {}
            let _ = io::Read::read(&mut reader, &mut room).expect("it was sent");
            assert!(crate::time::Nanos::now() < deadline, "it stays as it was");
        }

        let before = options(&untouched);
        let asked = Config::builder().tcp_send_buffer_bytes(8 << 10).build().expect("valid");
        prepare_loopback(&untouched, Loopback::Long, &asked);
        assert_eq!(options(&untouched), before, "what is configured was set before");

        let (stranger, _) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair");
        let before = stranger.send_buffer_size().expect("a socket option");
        prepare_loopback(&stranger, Loopback::Long, &Config::default());
        assert_eq!(stranger.send_buffer_size().expect("a socket option"), before);
    }
}
