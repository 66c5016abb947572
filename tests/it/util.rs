//! What the tests share: a child process per test, a peer that speaks the documented bytes over
//! plain blocking `std` sockets, and waits that end.
//!
//! The encoder and decoder here are written from the tables in `src/wire/mod.rs` and share no code
//! with the library, so that no mistake hides in both ends.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use ringwire::{
    Address, Client, Config, ConfigBuilder, Idle, Nanos, Reactor, Server, ServerBuilder,
    Statistics, Wait,
};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a whole test may take before its process is killed: what it waits for has deadlines of
/// its own, and a busy machine takes its time for the rest.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Names the test in a child's environment.
const CHILD: &str = "RINGWIRE_IT_CHILD";

/// Runs the test in a process of its own, and checks that it leaves no descriptor open.
///
/// A process per test, because what the tests look at belongs to a process: its descriptors, its
/// memory, its limits, its signals.
pub(crate) fn isolated<F: FnOnce()>(body: F) {
    isolated_for(TEST_TIMEOUT, body);
}

/// As [`isolated`], for a test that may take longer or must end sooner.
pub(crate) fn isolated_for<F: FnOnce()>(timeout: Duration, body: F) {
    let name = std::any::type_name::<F>();
    let name = name.split_once("::").expect("a path").1;
    let name = name.strip_suffix("::{{closure}}").expect("the test passes a closure");
    if std::env::var_os(CHILD).is_some_and(|case| case == name) {
        // What the standard library opens once for its own use is not ours to close.
        drop(TcpListener::bind("127.0.0.1:0").expect("loopback"));
        let before = open_descriptors();
        body();
        return wait_until("every descriptor is closed again", || open_descriptors() == before);
    }
    let mut child = Command::new(std::env::current_exe().expect("Linux has /proc"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        // One heap for all threads (mallopt(3)): which of several a thread is given is chance, and
        // memory that is resident by chance can not be told from memory that leaks.
        .env("MALLOC_ARENA_MAX", "1")
        // And slabs are mapped each by itself: by default what has been freed once makes later ones
        // come from the heap, cleared, and so resident, now and then.
        .env("MALLOC_MMAP_THRESHOLD_", "1048576")
        // Where no name server answers, a test that asks one does not wait for half a minute
        // (resolv.conf(5)).
        .env("RES_OPTIONS", "timeout:1 attempts:1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the child runs");
    let said = read_all(child.stdout.take().expect("piped"));
    let complained = read_all(child.stderr.take().expect("piped"));
    let deadline = Nanos::now() + timeout;
    let mut outcome = None;
    while outcome.is_none() && Nanos::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(5));
        outcome = child.try_wait().expect("our own child");
    }
    if outcome.is_none() {
        child.kill().expect("our own child");
    }
    child.wait().expect("our own child");
    let said = said.join().expect("no panic");
    let complained = complained.join().expect("no panic");
    let outcome = outcome.unwrap_or_else(|| panic!("hangs:\n{said}\n{complained}"));
    assert!(outcome.success(), "{outcome}:\n{said}\n{complained}");
    assert!(said.contains("1 passed"), "the child ran no test of this name: {said}");
}

fn read_all(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The open descriptors of this process, in order, whose file is such a one.
pub(crate) fn descriptors_that(is_wanted: impl Fn(&str) -> bool) -> Vec<RawFd> {
    let open = std::fs::read_dir("/proc/self/fd").expect("it is mounted");
    let mut found = Vec::new();
    for entry in open {
        let path = entry.expect("it is read").path();
        // The directory's own is closed again by then.
        let target = std::fs::read_link(&path).unwrap_or_default();
        let is_own = target.starts_with("/proc") && target.ends_with("fd");
        if !is_own && is_wanted(&target.to_string_lossy()) {
            let name = path.file_name().and_then(|name| name.to_str()).expect("text");
            found.push(name.parse().expect("a number"));
        }
    }
    found.sort_unstable();
    found
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux has /proc").count()
}

/// Resident memory of this process in KiB. Zero under AddressSanitizer: it would mostly be the
/// checker's own, which keeps all that was freed lately.
pub(crate) fn resident_kib() -> usize {
    if cfg!(asan) {
        return 0;
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Waits for something another thread brings about.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Nanos::now() + PATIENCE;
    while !condition() {
        assert!(Nanos::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Runs `body` and says how long it took.
pub(crate) fn timed<T>(body: impl FnOnce() -> T) -> (T, Duration) {
    let start = Nanos::now();
    let value = body();
    (value, Nanos::now().since(start))
}

/// Settings that suit two cores shared by many tests: a thread that does not get one for some
/// seconds is not dead.
pub(crate) fn settings() -> ConfigBuilder {
    // A test that is killed leaves no file behind. Tests of the registry have directories of their
    // own.
    let settings = Config::builder().registry(false).idle(Idle::Park).connections_max(64);
    settings.reconnect(false).heartbeat_misses(10)
}

pub(crate) fn config() -> Config {
    settings().build().expect("valid")
}

/// A server on a free port that answers commands with their own payload.
pub(crate) fn echo() -> ServerBuilder {
    Server::builder().config(config()).listen("127.0.0.1:0").on(
        ringwire::Kind::Command,
        |context, frame| {
            let _ = context.reply(ringwire::Envelope::status(), frame.payload());
        },
    )
}

pub(crate) fn start(builder: ServerBuilder) -> Server {
    builder.start().expect("the server starts")
}

/// Where a server listens, as text.
pub(crate) fn endpoint(server: &Server) -> String {
    server.addresses()[0].to_string()
}

pub(crate) fn client(endpoint: &str) -> Client {
    client_with(config(), endpoint)
}

pub(crate) fn client_with(config: Config, endpoint: &str) -> Client {
    let mut client = Client::new(config).expect("a ring");
    client.connect(endpoint).expect("the server listens");
    client
}

/// What the library logs as a warning in this process, from here on.
pub(crate) fn warnings() -> crossbeam_channel::Receiver<String> {
    let (said, warnings) = crossbeam_channel::unbounded();
    tracing::subscriber::set_global_default(Warnings(said)).expect("the first");
    warnings
}

struct Warnings(crossbeam_channel::Sender<String>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.send(text.0).expect("the test keeps the other end");
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A directory that goes when it is dropped.
pub(crate) struct Directory(std::path::PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let name = format!("ringwire-it-{}-{}", std::process::id(), Nanos::now().0);
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a writable directory for temporary files");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `bytes` bytes that repeat late, so that a shifted or doubled piece is noticed.
pub(crate) fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

// Kinds, flags and lanes as the format's tables number them.
pub(crate) const COMMAND: u8 = 1;
pub(crate) const DATA: u8 = 2;
pub(crate) const STATUS: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 5;
pub(crate) const ACKNOWLEDGEMENT: u8 = 6;
pub(crate) const GAP: u8 = 8;
pub(crate) const CANCEL: u8 = 9;
pub(crate) const HELLO: u8 = 0x80;
pub(crate) const WELCOME: u8 = 0x81;
pub(crate) const REJECT: u8 = 0x82;
pub(crate) const GOODBYE: u8 = 0x83;
pub(crate) const EXTENDED: u8 = 1;
pub(crate) const REQUEST: u8 = 4;
pub(crate) const RESPONSE: u8 = 8;
pub(crate) const CHECKSUM: u8 = 16;
pub(crate) const TIMEOUT: u8 = 32;
pub(crate) const RELIABLE: u8 = 2;
pub(crate) const LOW: u8 = 1;
pub(crate) const NORMAL: u8 = 2;
pub(crate) const HIGH: u8 = 3;
pub(crate) const CRITICAL: u8 = 4;

/// A frame, field by field, so that a test can put anything anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) priority: u8,
    pub(crate) codec: u8,
    pub(crate) sequence: u32,
    pub(crate) type_id: u32,
    pub(crate) acknowledged: u64,
    pub(crate) correlation: u64,
    pub(crate) ttl_us: u32,
    pub(crate) payload: Vec<u8>,
}

impl Plain {
    pub(crate) fn new(kind: u8, priority: u8, payload: &[u8]) -> Self {
        Self {
            kind,
            flags: 0,
            priority,
            codec: 0,
            sequence: 0,
            type_id: 0,
            acknowledged: 0,
            correlation: 0,
            ttl_us: 0,
            payload: payload.to_vec(),
        }
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn correlated(mut self, flag: u8, correlation: u64) -> Self {
        self.flags |= EXTENDED | CHECKSUM | flag;
        self.correlation = correlation;
        self
    }

    pub(crate) fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.payload.len() + 80);
        out.extend_from_slice(&[0x52, 0x57, 1, self.kind]);
        out.extend_from_slice(&[self.flags, self.priority, self.codec, 0]);
        out.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.type_id.to_le_bytes());
        out.extend_from_slice(&7_u64.to_le_bytes());
        if self.flags & EXTENDED != 0 {
            out.extend_from_slice(&self.acknowledged.to_le_bytes());
            out.extend_from_slice(&self.correlation.to_le_bytes());
            out.extend_from_slice(&self.ttl_us.to_le_bytes());
            out.extend_from_slice(&[0; 12]);
        }
        out.extend_from_slice(&self.payload);
        if self.flags & CHECKSUM != 0 {
            let checksum = crc32c(&out);
            out[12..16].copy_from_slice(&checksum.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(16), 0);
        out
    }

    /// Reads one frame and checks every rule of the format that a receiver can check.
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut head = vec![0; 32];
        stream.read_exact(&mut head)?;
        assert_eq!(head[..3], [0x52, 0x57, 1], "magic and version");
        let (kind, flags, priority, codec) = (head[3], head[4], head[5], head[6]);
        assert_eq!(head[7], 0, "reserved");
        let four = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (payload_bytes, checksum) = (four(8) as usize, four(12));
        let (sequence, type_id) = (four(16), four(20));
        let (mut acknowledged, mut correlation, mut ttl_us) = (0, 0, 0);
        if flags & EXTENDED != 0 {
            head.resize(64, 0);
            stream.read_exact(&mut head[32..])?;
            acknowledged = u64::from_le_bytes(head[32..40].try_into().expect("eight bytes"));
            correlation = u64::from_le_bytes(head[40..48].try_into().expect("eight bytes"));
            ttl_us = u32::from_le_bytes(head[48..52].try_into().expect("four bytes"));
            assert_eq!(head[60..64], [0; 4], "reserved");
        }
        let padding = (head.len() + payload_bytes).next_multiple_of(16) - head.len();
        let mut payload = vec![0; padding];
        stream.read_exact(&mut payload)?;
        assert!(payload[payload_bytes..].iter().all(|&byte| byte == 0), "padding is zero");
        payload.truncate(payload_bytes);
        if flags & CHECKSUM != 0 {
            head[12..16].fill(0);
            assert_eq!(crc32c(&[&head[..], &payload].concat()), checksum, "checksum");
        } else {
            assert_eq!(checksum, 0, "no checksum without its flag");
        }
        let frame =
            Self { kind, flags, priority, codec, sequence, type_id, ..Self::new(0, 0, &[]) };
        Ok(Self { acknowledged, correlation, ttl_us, payload, ..frame })
    }
}

/// CRC-32C as RFC 3720 has it: reflected 0x1edc6f41, all ones in and out.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 != 0 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum, &byte| TABLE[(sum as u8 ^ byte) as usize] ^ sum >> 8)
}

/// What a peer says of itself in its hello or welcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Greeting {
    pub(crate) protocol: (u8, u8),
    pub(crate) schema_hash: u64,
    pub(crate) frame_bytes_max: u32,
    pub(crate) heartbeat_interval_us: u32,
    /// Bit 0: the session outlives its connection.
    pub(crate) features: u32,
    pub(crate) session_id: [u8; 16],
    /// The other end's, when it is known.
    pub(crate) peer_session_id: [u8; 16],
    pub(crate) last_received: [u64; 4],
    pub(crate) messages_received: [u64; 4],
    pub(crate) monotonic_ns: u64,
}

impl Default for Greeting {
    fn default() -> Self {
        Self {
            protocol: (1, 1),
            schema_hash: 0,
            frame_bytes_max: 4 << 20,
            heartbeat_interval_us: 0,
            features: 0,
            session_id: [9; 16],
            peer_session_id: [0; 16],
            last_received: [0; 4],
            messages_received: [0; 4],
            monotonic_ns: 1,
        }
    }
}

impl Greeting {
    pub(crate) fn payload(self) -> Vec<u8> {
        let mut out = vec![self.protocol.0, self.protocol.1];
        let eights = |out: &mut Vec<u8>, numbers: [u64; 4]| {
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        };
        out.extend_from_slice(&4_u16.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        out.extend_from_slice(&self.session_id);
        out.extend_from_slice(&self.schema_hash.to_le_bytes());
        out.extend_from_slice(&self.frame_bytes_max.to_le_bytes());
        out.extend_from_slice(&self.heartbeat_interval_us.to_le_bytes());
        eights(&mut out, self.last_received);
        out.extend_from_slice(&self.monotonic_ns.to_le_bytes());
        out.extend_from_slice(&2_u64.to_le_bytes());
        out.extend_from_slice(&5_u32.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        eights(&mut out, self.messages_received);
        out.extend_from_slice(&self.peer_session_id);
        assert_eq!(out.len(), 144, "the fixed part of a greeting");
        out.extend_from_slice(b"peer");
        out
    }

    /// The frame, hello or welcome.
    pub(crate) fn frame(self, kind: u8) -> Plain {
        Plain::new(kind, CRITICAL, &self.payload()).flags(CHECKSUM)
    }
}

/// A stream of either family.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(out),
            Self::Unix(stream) => stream.read(out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other end: a plain blocking socket. Every read and write ends after [`PATIENCE`].
pub(crate) struct Peer {
    pub(crate) stream: Stream,
    /// Last sequence sent, per lane.
    pub(crate) sent: [u32; 4],
    /// Last sequence received, per lane.
    pub(crate) received: [u32; 4],
    /// Names the other end's side of the session.
    pub(crate) other_id: [u8; 16],
}

impl Peer {
    pub(crate) fn new(stream: Stream) -> Self {
        match &stream {
            Stream::Tcp(tcp) => {
                tcp.set_nodelay(true).expect("a TCP option");
                tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                tcp.set_write_timeout(Some(PATIENCE)).expect("a timeout");
            }
            Stream::Unix(unix) => {
                unix.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                unix.set_write_timeout(Some(PATIENCE)).expect("a timeout");
            }
        }
        Self { stream, sent: [0; 4], received: [0; 4], other_id: [0; 16] }
    }

    /// Connects without a word.
    pub(crate) fn dial(address: &Address) -> Self {
        Self::new(match address {
            Address::Tcp(address) => Stream::Tcp(TcpStream::connect(address).expect("listening")),
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path).expect("listening")),
        })
    }

    /// Connects and completes the handshake.
    pub(crate) fn connect(server: &Server) -> Self {
        Self::connect_to(&server.addresses()[0])
    }

    pub(crate) fn connect_to(address: &Address) -> Self {
        Self::connect_as(address, Greeting::default())
    }

    pub(crate) fn connect_as(address: &Address, greeting: Greeting) -> Self {
        let mut peer = Self::dial(address);
        peer.write(&greeting.frame(HELLO).encode());
        let welcome = peer.frame();
        assert_eq!(welcome.kind, WELCOME, "{welcome:?}");
        peer.other_id.copy_from_slice(&welcome.payload[8..24]);
        peer
    }

    /// Takes a client's connection and completes the handshake.
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        let mut peer = Self::new(Stream::Tcp(listener.accept().expect("a client").0));
        peer.welcome(Greeting::default());
        peer
    }

    /// Reads a hello and answers it. Returns the hello.
    pub(crate) fn welcome(&mut self, greeting: Greeting) -> Plain {
        let hello = self.frame();
        assert_eq!(hello.kind, HELLO, "{hello:?}");
        self.write(&greeting.frame(WELCOME).encode());
        hello
    }

    /// Writes raw bytes.
    #[track_caller]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the other end reads");
    }

    /// Gives the next frame of its lane its sequence.
    pub(crate) fn stamp(&mut self, frame: Plain) -> Plain {
        let lane = &mut self.sent[usize::from(frame.priority) - 1];
        *lane += 1;
        frame.sequence(*lane)
    }

    /// Sends a frame as the next of its lane.
    #[track_caller]
    pub(crate) fn send(&mut self, frame: Plain) {
        let bytes = self.stamp(frame).encode();
        self.write(&bytes);
    }

    /// Confirms everything up to `received`, per lane.
    #[track_caller]
    pub(crate) fn acknowledge(&mut self, received: [u64; 4]) {
        let mut payload: Vec<u8> = received.iter().flat_map(|lane| lane.to_le_bytes()).collect();
        payload.extend_from_slice(&0_u64.to_le_bytes());
        let frame = Plain::new(ACKNOWLEDGEMENT, CRITICAL, &payload).flags(CHECKSUM).encode();
        self.write(&frame);
    }

    /// Sends a request and returns the payload of its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, payload: &[u8]) -> Vec<u8> {
        self.send(Plain::new(COMMAND, NORMAL, payload).correlated(REQUEST, 77));
        let answer = self.frame();
        assert_eq!(answer.flags & RESPONSE, RESPONSE, "{answer:?}");
        assert_eq!(answer.correlation, 77, "{answer:?}");
        answer.payload
    }

    /// The next frame, or what the socket said instead. Sequences must follow each other.
    pub(crate) fn try_frame(&mut self) -> io::Result<Plain> {
        let frame = Plain::read(&mut self.stream)?;
        // The session's own frames have no sequence, and a gap stands for as many as it says.
        let sequences = match frame.kind {
            HEARTBEAT | ACKNOWLEDGEMENT | 0x80.. => 0,
            GAP => frame.type_id,
            _ => 1,
        };
        if sequences > 0 {
            let lane = &mut self.received[usize::from(frame.priority) - 1];
            *lane += sequences;
            assert_eq!(frame.sequence, *lane, "a lane's frames come in order");
        }
        Ok(frame)
    }

    #[track_caller]
    pub(crate) fn frame(&mut self) -> Plain {
        self.try_frame().expect("a frame")
    }

    /// Reads until the other end has closed; what comes before does not matter.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut scrap = vec![0; 1 << 16];
        loop {
            match self.stream.read(&mut scrap) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                // A ring that this thread has just dropped still interrupts it.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("neither closed nor reset: {error}"),
            }
        }
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        let Stream::Tcp(stream) = self.stream else { panic!("only TCP has resets") };
        let socket = socket2::Socket::from(OwnedFd::from(stream));
        socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
    }

    /// Small kernel buffers, so that a sender feels soon that nobody reads.
    pub(crate) fn dial_narrow(address: &Address) -> Self {
        let Address::Tcp(address) = address else { panic!("TCP only") };
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(*address),
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )
        .expect("a socket");
        socket.set_recv_buffer_size(16 << 10).expect("a socket option");
        socket.connect(&(*address).into()).expect("listening");
        let mut peer = Self::new(Stream::Tcp(socket.into()));
        peer.write(&Greeting::default().frame(HELLO).encode());
        assert_eq!(peer.frame().kind, WELCOME);
        peer
    }
}

/// A plain listening socket, and its address as an endpoint.
pub(crate) fn plain_listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let endpoint = listener.local_addr().expect("bound").to_string();
    (listener, endpoint)
}

/// A port that is taken and where nobody listens: connecting is refused, and no other test can
/// listen there meanwhile.
pub(crate) fn deaf_port() -> (socket2::Socket, String) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
    let address = socket.local_addr().expect("bound").as_socket().expect("IPv4");
    (socket, address.to_string())
}

/// A client connected to a plain peer.
pub(crate) fn client_and_peer(config: Config) -> (Client, Peer) {
    let (listener, endpoint) = plain_listener();
    let accepting = std::thread::spawn(move || Peer::accept(&listener));
    let client = client_with(config, &endpoint);
    (client, accepting.join().expect("the handshake completes"))
}

/// The same over a Unix socket, where reading makes room for the sender at once: no acknowledgement
/// is on its way.
pub(crate) fn client_and_peer_over_unix(config: Config) -> (Client, Peer) {
    let directory = Directory::new();
    let path = directory.path("socket");
    let listener = UnixListener::bind(&path).expect("a new path");
    let accepting = std::thread::spawn(move || {
        let mut peer = Peer::new(Stream::Unix(listener.accept().expect("a client").0));
        peer.welcome(Greeting::default());
        peer
    });
    let client = client_with(config, &format!("unix:{}", path.display()));
    (client, accepting.join().expect("the handshake completes"))
}

/// A reactor in this thread, and so many peers that have connected to it, one after the other.
pub(crate) fn reactor_with_peers(config: &Config, count: usize) -> (Reactor, Vec<Peer>) {
    let mut reactor = Reactor::new(config).expect("a ring");
    let address = reactor.listen(&"127.0.0.1:0".parse().expect("valid")).expect("free");
    let connecting =
        std::thread::spawn(move || (0..count).map(|_| Peer::connect_to(&address)).collect());
    wait_until("all are connected", || {
        reactor.turn(Wait::Until(Nanos::now() + Duration::from_millis(1))).expect("a turn");
        connecting.is_finished()
    });
    (reactor, connecting.join().expect("connected"))
}

/// Waits until a server's statistics satisfy `condition`.
#[track_caller]
pub(crate) fn wait_for(server: &Server, what: &str, condition: impl Fn(&Statistics) -> bool) {
    let deadline = Nanos::now() + PATIENCE;
    while !condition(&server.statistics()) {
        assert!(Nanos::now() < deadline, "in vain until {what}: {:?}", server.statistics());
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
