//! A TCP proxy that breaks what passes through it, on purpose and on time.
//!
//! It stands between a real client and a real server. Each connection through it is a *link*: two
//! sockets and a thread for each direction. What happens to a link is said beforehand, by the byte
//! at which it is to happen (its [`Plan`]), or now, to all links there are (the proxy's methods).
//! Plans made from a seed do the same to the same bytes again.
//!
//! Not for measuring: a link adds two threads and two copies to every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ringwire::Nanos;
use socket2::{Domain, Socket, Type};

/// How long a thread of the proxy looks at one thing before it looks at the others.
const TICK: Duration = Duration::from_millis(1);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Both ends see an orderly end of the stream.
    Cut,
    /// Both ends see a reset.
    Reset,
    /// The client sees a reset; the server sees nothing at all from then on.
    HalfOpen,
    /// A bit of the byte is turned over. The link goes on.
    Corrupt { bit: u8 },
    /// Nothing passes this way for a time. The link goes on.
    Stall { ms: u32 },
}

/// What is to happen to a link. The default is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plan {
    /// What, which way, and behind how many bytes that have passed that way.
    pub(crate) fault: Option<(Way, u64, Fault)>,
    /// So many bytes at a time at most; 0 is as they come.
    pub(crate) trickle: usize,
    /// Each piece waits so long.
    pub(crate) delay: Duration,
}

impl Plan {
    pub(crate) fn new(way: Way, at: u64, fault: Fault) -> Self {
        Self { fault: Some((way, at, fault)), ..Self::default() }
    }
}

/// What is to happen to the links to come, by their number from 0.
type Plans = Box<dyn FnMut(u64) -> Plan + Send>;

enum Order {
    /// To all links there are.
    Break(Fault),
    /// To the link with this number.
    BreakOne(u64, Fault),
    /// Nothing passes from now on, or everything again.
    Hold(bool),
    /// Connections are refused, as by a machine where nobody listens.
    Refuse,
    Admit,
    /// As above, for a time.
    HoldFor(Duration),
    RefuseFor(Duration),
    /// Where the links to come lead.
    Lead(SocketAddr),
    Plan(Plans),
}

/// See the module.
pub(crate) struct Proxy {
    address: SocketAddr,
    orders: Option<Sender<(Order, Sender<()>)>>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    links: AtomicU64,
    faults: AtomicU64,
}

impl Proxy {
    /// A proxy in front of `server`, `host:port`.
    pub(crate) fn new(server: &str) -> Self {
        // Keeps the port while nobody listens there.
        let keeper = socket();
        keeper.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
        let address = keeper.local_addr().expect("bound").as_socket().expect("IPv4");
        let counts = Arc::new(Counts::default());
        let (orders, inbox) = unbounded();
        let mut broker = Broker {
            listener: Some(listen(address)),
            address,
            target: server.parse().expect("an address"),
            plans: Box::new(|_| Plan::default()),
            links: Vec::new(),
            holds: Arc::new(AtomicBool::new(false)),
            counts: Arc::clone(&counts),
            release_at: Nanos::NEVER,
            admit_at: Nanos::NEVER,
        };
        let thread = std::thread::spawn(move || {
            broker.run(&inbox);
            drop(keeper);
        });
        Self { address, orders: Some(orders), counts, thread: Some(thread) }
    }

    /// Where clients connect to.
    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Breaks all links there are. They are broken when this returns.
    pub(crate) fn breaks(&self, fault: Fault) {
        self.order(Order::Break(fault));
    }

    /// As [`Proxy::breaks`], for the link with this number only.
    pub(crate) fn breaks_one(&self, number: u64, fault: Fault) {
        self.order(Order::BreakOne(number, fault));
    }

    /// Lets nothing pass until [`Proxy::release`]: new connections are made and stay mute.
    pub(crate) fn hold(&self) {
        self.order(Order::Hold(true));
    }

    pub(crate) fn release(&self) {
        self.order(Order::Hold(false));
    }

    /// Refuses new connections until [`Proxy::admit`].
    pub(crate) fn refuse(&self) {
        self.order(Order::Refuse);
    }

    pub(crate) fn admit(&self) {
        self.order(Order::Admit);
    }

    /// As [`Proxy::hold`], for a time that runs while the test goes on.
    pub(crate) fn hold_for(&self, ms: u32) {
        self.order(Order::HoldFor(Duration::from_millis(ms.into())));
    }

    /// As [`Proxy::refuse`], for a time that runs while the test goes on.
    pub(crate) fn refuse_for(&self, ms: u32) {
        self.order(Order::RefuseFor(Duration::from_millis(ms.into())));
    }

    /// Leads the links to come to another server.
    pub(crate) fn lead(&self, server: &str) {
        self.order(Order::Lead(server.parse().expect("an address")));
    }

    /// What is to happen to the links to come.
    pub(crate) fn plan(&self, plans: impl FnMut(u64) -> Plan + Send + 'static) {
        self.order(Order::Plan(Box::new(plans)));
    }

    /// How many links there have been.
    pub(crate) fn links(&self) -> u64 {
        self.counts.links.load(Ordering::Relaxed)
    }

    /// How many faults have struck.
    pub(crate) fn faults(&self) -> u64 {
        self.counts.faults.load(Ordering::Relaxed)
    }

    /// Has the thread carry an order out, and waits for that.
    fn order(&self, order: Order) {
        let (done, carried_out) = bounded(1);
        let orders = self.orders.as_ref().expect("until it is dropped");
        orders.send((order, done)).expect("the thread lives as long");
        carried_out.recv_timeout(crate::util::PATIENCE).expect("an order takes a moment");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders = None;
        let ended = self.thread.take().expect("dropped once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the proxy has panicked");
    }
}

fn socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.set_reuse_port(true).expect("an option");
    socket
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = socket();
    socket.bind(&address.into()).expect("the port is kept");
    socket.listen(64).expect("bound");
    socket.set_nonblocking(true).expect("an option");
    socket.into()
}

/// The proxy's own thread: accepts, and carries orders out.
struct Broker {
    listener: Option<TcpListener>,
    address: SocketAddr,
    target: SocketAddr,
    plans: Plans,
    links: Vec<(Arc<Link>, [JoinHandle<()>; 2])>,
    holds: Arc<AtomicBool>,
    counts: Arc<Counts>,
    release_at: Nanos,
    admit_at: Nanos,
}

impl Broker {
    fn run(&mut self, inbox: &Receiver<(Order, Sender<()>)>) {
        loop {
            match inbox.recv_timeout(TICK) {
                Ok((order, done)) => {
                    self.carry_out(order);
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.release_at <= Nanos::now() {
                self.carry_out(Order::Hold(false));
            }
            if self.admit_at <= Nanos::now() {
                self.carry_out(Order::Admit);
            }
            while let Some(Ok((client, _))) = self.listener.as_ref().map(TcpListener::accept) {
                self.connect(client);
            }
            self.bury(Link::is_over);
        }
        self.links.iter().for_each(|(link, _)| link.end(Fault::Cut));
        self.bury(|_| true);
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Break(fault) => {
                for (link, _) in &self.links {
                    link.end(fault);
                }
                self.counts.faults.fetch_add(self.links.len() as u64, Ordering::Relaxed);
                self.bury(Link::is_over);
            }
            Order::BreakOne(number, fault) => {
                let links = self.links.iter().map(|(link, _)| link);
                let link = links.into_iter().find(|link| link.number == number);
                link.expect("the link is there").end(fault);
                self.counts.faults.fetch_add(1, Ordering::Relaxed);
                self.bury(Link::is_over);
            }
            Order::Hold(holds) => {
                self.holds.store(holds, Ordering::Relaxed);
                self.release_at = Nanos::NEVER;
            }
            Order::Refuse => self.listener = None,
            Order::Admit => {
                self.listener.get_or_insert_with(|| listen(self.address));
                self.admit_at = Nanos::NEVER;
            }
            Order::HoldFor(time) => {
                self.carry_out(Order::Hold(true));
                self.release_at = Nanos::now() + time;
            }
            Order::RefuseFor(time) => {
                self.carry_out(Order::Refuse);
                self.admit_at = Nanos::now() + time;
            }
            Order::Lead(target) => self.target = target,
            Order::Plan(plans) => self.plans = plans,
        }
    }

    fn connect(&mut self, client: TcpStream) {
        // Nobody there: the client sees its connection end.
        let Ok(server) = TcpStream::connect(self.target) else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("an option");
            stream.set_nonblocking(false).expect("an option");
            stream.set_read_timeout(Some(TICK)).expect("an option");
            stream.set_write_timeout(Some(TICK)).expect("an option");
        }
        let number = self.counts.links.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new(Link {
            number,
            client,
            server,
            end: AtomicU8::new(OPEN),
            closed: AtomicU8::new(0),
            plan: (self.plans)(number),
            holds: Arc::clone(&self.holds),
            counts: Arc::clone(&self.counts),
        });
        let pumps = [Way::Up, Way::Down].map(|way| {
            let link = Arc::clone(&link);
            std::thread::spawn(move || link.pump(way))
        });
        self.links.push((link, pumps));
    }

    /// Waits for the threads of links that are over. Their sockets close with them.
    fn bury(&mut self, is_over: impl Fn(&Link) -> bool) {
        let mut index = 0;
        while index < self.links.len() {
            if !is_over(&self.links[index].0) {
                index += 1;
                continue;
            }
            let (_, pumps) = self.links.swap_remove(index);
            for pump in pumps {
                pump.join().expect("a pump does not panic");
            }
        }
    }
}

/// A link is open, mute for good, or over. One that is mute takes what the server sends, unless
/// nothing passed when it became so.
const OPEN: u8 = 0;
const MUTE: u8 = 1;
const STUCK: u8 = 2;
const OVER: u8 = 3;

struct Link {
    /// How many there were before it.
    number: u64,
    client: TcpStream,
    server: TcpStream,
    end: AtomicU8,
    /// Directions that have ended in order.
    closed: AtomicU8,
    plan: Plan,
    holds: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Link {
    fn is_over(&self) -> bool {
        self.end.load(Ordering::Relaxed) == OVER
    }

    fn is_open(&self) -> bool {
        self.end.load(Ordering::Relaxed) == OPEN
    }

    fn end(&self, fault: Fault) {
        match fault {
            Fault::Cut => {
                let _ = self.client.shutdown(Shutdown::Both);
                let _ = self.server.shutdown(Shutdown::Both);
                self.end.store(OVER, Ordering::Relaxed);
            }
            Fault::Reset => {
                reset(&self.client);
                reset(&self.server);
                self.end.store(OVER, Ordering::Relaxed);
            }
            Fault::HalfOpen => {
                let is_held = self.holds.load(Ordering::Relaxed);
                self.end.store(if is_held { STUCK } else { MUTE }, Ordering::Relaxed);
                reset(&self.client);
            }
            Fault::Corrupt { .. } | Fault::Stall { .. } => {
                unreachable!("only a plan says where")
            }
        }
    }

    /// Carries bytes one way until the link is over.
    fn pump(&self, way: Way) {
        let (source, target) = match way {
            Way::Up => (&self.client, &self.server),
            Way::Down => (&self.server, &self.client),
        };
        let mut fault = self.plan.fault.filter(|&(fault_way, ..)| fault_way == way);
        let mut passed = 0;
        let mut buffer = vec![0; 64 << 10];
        while self.is_open() {
            if self.holds.load(Ordering::Relaxed) {
                std::thread::park_timeout(TICK);
                continue;
            }
            if let Some((_, at, what)) = fault
                && at == passed
                && !matches!(what, Fault::Corrupt { .. })
            {
                fault = None;
                self.counts.faults.fetch_add(1, Ordering::Relaxed);
                match what {
                    Fault::Stall { ms } => self.wait(Duration::from_millis(ms.into())),
                    what => self.end(what),
                }
                continue;
            }
            let most = match (self.plan.trickle, fault) {
                (0, Some((_, at, _))) if at > passed => buffer.len().min((at - passed) as usize),
                (0, _) => buffer.len(),
                (trickle, _) => trickle,
            };
            let mut stream = source;
            let bytes = match stream.read(&mut buffer[..most]) {
                Ok(0) => {
                    self.close_behind(target);
                    break;
                }
                Ok(bytes) => bytes,
                Err(error) if is_patient(&error) => continue,
                Err(_) => {
                    self.fail();
                    break;
                }
            };
            // It may have been waiting for these bytes since before the order to hold.
            while self.holds.load(Ordering::Relaxed) && self.is_open() {
                std::thread::park_timeout(TICK);
            }
            if let Some((_, at, Fault::Corrupt { bit })) = fault
                && (passed..passed + bytes as u64).contains(&at)
            {
                buffer[(at - passed) as usize] ^= 1 << (bit & 7);
                fault = None;
                self.counts.faults.fetch_add(1, Ordering::Relaxed);
            }
            self.wait(self.plan.delay);
            self.write(target, &buffer[..bytes]);
            passed += bytes as u64;
        }
        while !self.is_over() {
            // What the server sends to nobody is taken, so that it notices nothing.
            if way == Way::Down && self.end.load(Ordering::Relaxed) == MUTE {
                let mut stream = source;
                if matches!(stream.read(&mut buffer), Ok(0)) {
                    self.end.store(OVER, Ordering::Relaxed);
                }
            } else {
                std::thread::park_timeout(TICK);
            }
        }
    }

    /// One end has closed its direction: so does the other. With both closed the link is over.
    fn close_behind(&self, target: &TcpStream) {
        let _ = target.shutdown(Shutdown::Write);
        if self.closed.fetch_add(1, Ordering::Relaxed) == 1 {
            self.end.store(OVER, Ordering::Relaxed);
        }
    }

    /// A socket has failed: so does the other, unless the proxy itself broke the first.
    fn fail(&self) {
        if self.is_open() {
            self.end(Fault::Reset);
        }
    }

    /// Waits, as part of a fault, while the link is open.
    fn wait(&self, time: Duration) {
        let until = Nanos::now() + time;
        while self.is_open() && Nanos::now() < until {
            std::thread::park_timeout(TICK.min(until.since(Nanos::now())));
        }
    }

    fn write(&self, mut target: &TcpStream, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.is_open() {
            match target.write(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if is_patient(&error) => {}
                Err(_) => self.fail(),
            }
        }
    }
}

fn is_patient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Has the kernel send a reset, now: what "disconnecting" a TCP socket does (connect(2),
/// AF_UNSPEC).
fn reset(stream: &TcpStream) {
    // It may have been reset from the other side.
    let _ = rustix::net::connect_unspec(stream);
}
