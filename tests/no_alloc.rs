//! Steady state allocates nothing: a counting allocator watches send, receive, request and
//! handlers, of a client, a reactor and a node's handle. What does allocate is counted exactly.
//!
//! Each thread has its own count, so that the tests may run side by side.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use ringwire::{
    Checksum, Choice, Client, Config, ConfigBuilder, ConnectionId, Endpoint, Envelope, Idle,
    Incoming, Kind, Message, Nanos, Node, NodeHandle, Pool, PoolConfig, Reactor, SendError, Server,
    Tap, TapFilter, Wait,
};
use rustix::thread::{Pid, gettid};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator unchanged; counting touches only a
// thread-local that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Sample {
    axis: u32,
    position: f64,
    history: Vec<f32>,
}
ringwire::payload!(Sample = 1);

fn settings() -> ConfigBuilder {
    Config::builder().registry(false)
}

#[test]
fn steady_state_allocates_nothing() {
    check_steady_state(settings().idle(Idle::Park), 2_000, 5_000);
}

/// Receives by system calls of its own, too. Fewer of them: two threads that spin beside other
/// tests wait for each other's cores.
#[test]
fn steady_state_of_spinning_reactors_allocates_nothing() {
    check_steady_state(settings().idle(Idle::Spin), 40, 100);
}

#[test]
fn steady_state_of_two_connections_allocates_nothing() {
    check_steady_state(settings().idle(Idle::Park).express(true), 500, 1_000);
}

#[test]
fn steady_state_with_checksums_allocates_nothing() {
    check_steady_state(settings().idle(Idle::Park).checksum(Checksum::Always), 500, 1_000);
}

/// After so many rounds to warm up, in so many.
fn check_steady_state(settings: ConfigBuilder, warm_up: u32, rounds: u32) {
    assert_eq!(allocations(|| drop(Vec::<u8>::with_capacity(10))), 1, "the allocator counts");

    // The server is a reactor on a thread of its own that counts its own allocations.
    let config = settings.build().expect("valid");
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let server_config = config.clone();
    let server = std::thread::spawn(move || {
        let mut reactor = Reactor::new(&server_config).expect("a ring");
        reactor.on(Kind::Command, |context, frame| {
            context.reply(Envelope::status(), frame.payload()).expect("room");
        });
        // Every typed sample is answered by a message that no handler takes.
        reactor.on_type::<Sample>(|context, frame, sample| {
            assert_eq!(sample.history.len(), 16);
            context.reply(Envelope::data(), frame.payload()).expect("room");
        });
        let endpoint: Endpoint = "127.0.0.1:0".parse().expect("well formed");
        let address = reactor.listen(&endpoint).expect("a free port");
        tell.send(address.to_string()).expect("the test waits");
        let mut turns = || {
            let limit = Nanos::now() + Duration::from_millis(20);
            reactor.turn(Wait::Until(limit)).expect("the ring works");
        };
        // Warm-up, until the client says so; then count.
        while stopped.try_recv().is_err() {
            turns();
        }
        let count = allocations(|| {
            while stopped.try_recv().is_err() {
                turns();
            }
        });
        (count, reactor.statistics().messages_received)
    });

    let address = told.recv_timeout(Duration::from_secs(5)).expect("the server listens");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&address).expect("the server listens");

    let sample = Sample { axis: 3, position: 0.5, history: vec![1.0; 16] };
    let mut round = |count: u32| {
        for _ in 0..count {
            exercise(&mut client, &sample);
        }
    };
    round(warm_up);
    stop.send(()).expect("the server runs");
    round(10);
    let of_client = allocations(|| round(rounds));
    stop.send(()).expect("the server runs");

    let (of_server, received) = server.join().expect("no panic");
    assert_eq!(of_client, 0, "client: send, request, receive");
    assert_eq!(of_server, 0, "server: receive, handler, reply");
    // Four messages a round.
    assert_eq!(received, 4 * u64::from(warm_up + 10 + rounds), "the messages really went");
}

/// A reactor with a tap: while there is room in it, and when there is none any more.
#[test]
fn tap_allocates_nothing_on_its_reactor() {
    let config = Config::builder().registry(false).idle(Idle::Park).build().expect("valid");
    let server = Server::builder()
        .config(config.clone())
        .listen("127.0.0.1:0")
        .on(Kind::Command, |context, frame| {
            context.reply(Envelope::status(), frame.payload()).expect("room");
        })
        .start()
        .expect("it starts");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("the server listens");
    let (tap, mut frames) = Tap::new(TapFilter::both().memory_bytes(256 << 10));
    client.reactor().set_tap(&tap).expect("memory");
    let mut round = |count: u32| {
        for _ in 0..count {
            let answer = client.request_with(Envelope::command(), &[5; 64], PATIENCE, |_| ());
            answer.expect("answered");
        }
    };
    round(100);
    // 256 KiB hold some 900 requests and their answers.
    assert_eq!(allocations(|| round(500)), 0, "with room");
    assert_eq!(frames.receive(Duration::ZERO).map(|tapped| tapped.lost_before), Ok(0));
    assert_eq!(frames.frames_lost(), 0);
    round(2_000);
    assert!(frames.frames_lost() > 0, "it is full");
    assert_eq!(allocations(|| round(500)), 0, "without room");
}

/// A request read in place, a request answered with a message, a typed message and its answer.
fn exercise(client: &mut Client, sample: &Sample) {
    let second = Duration::from_secs(5);
    let length = client
        .request_with(Envelope::command(), b"in place", second, |frame| frame.payload().len())
        .expect("answered");
    assert_eq!(length, 8);

    let answer = client.request(Envelope::command(), &[5; 64], second).expect("answered");
    assert_eq!(answer.payload()[..], [5; 64]);

    // Sent from where it is; a static one, because others allocate when they are first cloned.
    static LONG: [u8; 40_000] = [7; 40_000];
    let long = bytes::Bytes::from_static(&LONG);
    let answered = client
        .request_with(Envelope::command(), &long, second, |frame| frame.payload() == &LONG[..]);
    assert!(answered.expect("answered"));

    while let Err(error) = client.send(Envelope::data(), sample) {
        assert_eq!(error, SendError::Full);
        client.poll();
    }
    let message = client.receive(second).expect("the typed message is answered");
    assert_eq!(message.kind(), Kind::Data);
}

const PATIENCE: Duration = Duration::from_secs(10);

/// A server's thread beside the reactor's, and what it talks to: a client that sends every
/// message back, and a status after it.
struct Handle {
    node: NodeHandle,
    client: ConnectionId,
    /// A request that may be answered again and again: the client drops what comes too late.
    request: Message,
    /// Allocations of the reactor's thread, as of the last status.
    of_reactor: Arc<AtomicU64>,
    statuses: u64,
}

/// How the reactor is held in a handler.
struct Hold {
    is_entered: Receiver<()>,
    release: Sender<()>,
}

/// Waits until a thread of this process sleeps for another one: /proc names the call of a blocked
/// thread only (proc_pid_syscall(5)).
fn until_asleep(thread: Pid) {
    let path = format!("/proc/self/task/{}/syscall", thread.as_raw_nonzero());
    let futex = format!("{} ", libc::SYS_futex);
    let deadline = Nanos::now() + PATIENCE;
    while !std::fs::read_to_string(&path).expect("a thread of ours").starts_with(&futex) {
        assert!(Nanos::now() < deadline, "it does not sleep");
        std::thread::yield_now();
    }
}

impl Handle {
    /// What came back.
    fn receive(&mut self) -> Message {
        let message = self.node.receive(PATIENCE).expect("it comes back");
        self.statuses += 1;
        message
    }

    /// One of each call that sends, and what comes back.
    fn exercise(&mut self, sample: &Sample) {
        self.node.send_to(self.client, Envelope::data(), &[5; 64]).expect("room");
        assert_eq!(self.receive().payload()[..], [5; 64]);
        self.node.send_to(self.client, Envelope::data(), &[6; 16 << 10]).expect("room");
        assert_eq!(self.receive().payload()[..], [6; 16 << 10]);
        self.node.post_to(self.client, Envelope::data(), sample).expect("room");
        assert_eq!(self.receive().payload().len() % 4, 0);
        self.node.reply(&self.request, Envelope::status(), b"late").expect("room");
        self.node.post_reply(&self.request, Envelope::status(), b"late").expect("room");
    }

    /// Sleeps for a message and for a verdict: the first to sleep for something makes room in its
    /// channel for those who do.
    fn sleep_once(&mut self, hold: &Hold) {
        let thread = gettid();
        let node = self.node.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until_asleep(thread);
                node.post_to(self.client, Envelope::data(), b"hold").expect("room");
            });
            assert_eq!(self.node.receive(PATIENCE).expect("it comes back").payload(), "hold");
        });
        self.statuses += 1;
        hold.is_entered.recv_timeout(PATIENCE).expect("the handler runs");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until_asleep(thread);
                hold.release.send(()).expect("the handler waits");
            });
            self.node.send_to(self.client, Envelope::data(), b"x").expect("room");
        });
        self.receive();
    }

    /// The same for a message or an event.
    fn sleep_for_anything(&mut self) {
        let thread = gettid();
        let node = self.node.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until_asleep(thread);
                node.post_to(self.client, Envelope::data(), b"x").expect("room");
            });
            let incoming = self.node.wait(PATIENCE).expect("it comes back");
            assert!(matches!(incoming, Incoming::Message(_)), "{incoming:?}");
        });
        self.statuses += 1;
    }

    /// Allocations of the reactor's thread so far: all that was sent before has been handled.
    fn of_reactor(&self) -> u64 {
        let deadline = Nanos::now() + PATIENCE;
        while self.node.counters()[0].messages_received.get() < 2 * self.statuses + 1 {
            assert!(Nanos::now() < deadline, "the statuses do not come");
            std::thread::yield_now();
        }
        self.of_reactor.load(Ordering::SeqCst)
    }
}

/// Sends back what comes, until the server ends the session.
fn mirror(address: &str) {
    let config = Config::builder().registry(false).idle(Idle::Park).build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(address).expect("the server listens");
    client.start_request(Envelope::command(), b"ask", PATIENCE).expect("room");
    while let Ok(message) = client.receive(PATIENCE) {
        client.send(Envelope::data(), &message.payload()[..]).expect("room");
        let head = &message.payload()[..message.payload().len().min(4)];
        client.send(Envelope::status(), head).expect("room");
    }
}

#[test]
fn handle_of_a_node_allocates_nothing() {
    let of_reactor = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&of_reactor);
    let (enter, is_entered) = bounded(1);
    let (release, is_released) = bounded(1);
    let config = Config::builder().registry(false).idle(Idle::Park).build().expect("valid");
    let server = Server::builder()
        .config(config)
        .listen("127.0.0.1:0")
        .on(Kind::Status, move |_, frame| {
            if frame.payload() == b"hold" {
                enter.send(()).expect("the test waits");
                is_released.recv_timeout(PATIENCE).expect("the test releases");
            }
            seen.store(ALLOCATIONS.with(Cell::get), Ordering::SeqCst);
        })
        .start()
        .expect("a free port");
    let address = server.addresses()[0].to_string();
    let far = std::thread::spawn(move || mirror(&address));
    let request = server.receive(PATIENCE).expect("the request");
    let (node, client) = (server.handle(), request.connection());
    let mut handle = Handle { node, client, request, of_reactor, statuses: 0 };
    let sample = Sample { axis: 3, position: 0.5, history: vec![1.0; 16] };
    handle.sleep_once(&Hold { is_entered, release });
    for _ in 0..1_000 {
        handle.exercise(&sample);
    }
    let of_reactor_before = handle.of_reactor();
    let of_handle = allocations(|| {
        for _ in 0..2_000 {
            handle.exercise(&sample);
        }
    });
    let of_reactor = handle.of_reactor() - of_reactor_before;
    assert_eq!(of_handle, 0, "handle: send_to, post_to, reply, post_reply, receive");
    assert_eq!(of_reactor, 0, "reactor: commands, sends, receives, inbox");

    check_costs(&mut handle);
    let _ = server.shutdown(PATIENCE);
    far.join().expect("no panic");
}

/// What does allocate, and how often: as the documentation of each call says.
fn check_costs(handle: &mut Handle) {
    handle.node.wait(Duration::from_micros(10)).map(drop).expect("the client came");
    handle.sleep_for_anything();
    let large = vec![7; 20 << 10];
    let mut slept = 0;
    for _ in 0..100 {
        let (node, client) = (&handle.node, handle.client);
        let count = allocations(|| node.send_to(client, Envelope::data(), &large).expect("room"));
        assert_eq!(count, 1, "a payload above 16 KiB");
        assert_eq!(handle.receive().payload().len(), large.len());

        // Nothing to wait for: the message is there.
        handle.node.send_to(handle.client, Envelope::data(), b"x").expect("room");
        handle.statuses += 1;
        handle.of_reactor();
        let mut incoming = None;
        let count = allocations(|| incoming = handle.node.wait(Duration::ZERO).ok());
        assert!(matches!(incoming, Some(Incoming::Message(_))), "{incoming:?}");
        assert_eq!(count, 0, "a wait that finds something");

        // It need not sleep when this thread was away until its time was over.
        let count = allocations(|| {
            handle.node.wait(Duration::from_millis(2)).expect_err("nobody speaks");
        });
        assert!(count <= 1, "a wait that sleeps: {count}");
        slept += count;
    }
    assert!(slept > 0, "none slept");
}

/// One of each call that goes through a pool, and what comes back.
fn exercise_pool(pool: &mut Pool, number: u64) {
    let choices = [Choice::LeastQueued, Choice::Key(number)];
    for choice in choices {
        pool.send(choice, Envelope::data(), &[5; 64]).expect("room");
        pool.send(choice, Envelope::data().reliable(), &[6; 64]).expect("room");
    }
    let answer = pool.request(Choice::LeastQueued, Envelope::command(), b"?", PATIENCE);
    assert_eq!(answer.expect("an answer").payload()[..], *b"?");
    let key = Choice::Key(number);
    let id = pool.start_request(key, Envelope::command(), b"?", PATIENCE).expect("room");
    let deadline = Nanos::now() + PATIENCE;
    while pool.take_response(id).is_none() {
        assert!(Nanos::now() < deadline, "no answer");
        pool.poll();
    }
    assert_eq!(pool.statistics().connected, 4);
}

/// Choosing, refusing and looking after the members: of those that are kept, and of one that load
/// has brought, which is looked at again and again.
#[test]
fn pool_allocates_nothing() {
    let config = Config::builder().registry(false).idle(Idle::Park).build().expect("valid");
    let server = Server::builder()
        .config(config.clone())
        .listen("127.0.0.1:0")
        .on(Kind::Command, |context, frame| {
            context.reply(Envelope::status(), frame.payload()).expect("room");
        })
        .on(Kind::Data, |_, _| {})
        .start()
        .expect("a free port");
    let plan = PoolConfig::builder(server.addresses()[0].to_string()).members_min(3);
    let plan = plan.members_max(4).grow_bytes(1).idle_after_ms(20_000).build().expect("valid");
    let mut pool = Pool::new(config, plan).expect("a ring");
    pool.connect().expect("room");
    pool.wait_ready(PATIENCE).expect("the server listens");
    let deadline = Nanos::now() + PATIENCE;
    while pool.statistics().connected < 4 {
        assert!(Nanos::now() < deadline, "it does not grow");
        for _ in 0..4 {
            pool.send(Choice::LeastQueued, Envelope::data(), b"load").expect("room");
        }
        pool.poll();
    }
    for number in 0..2_000 {
        exercise_pool(&mut pool, number);
    }
    let count = allocations(|| {
        for number in 0..2_000 {
            exercise_pool(&mut pool, number);
        }
    });
    assert_eq!(count, 0, "pool: send, request, statistics");
    let long = vec![0; 8 << 20];
    let refused = allocations(|| {
        let refused = pool.send(Choice::LeastQueued, Envelope::data(), &long);
        assert!(matches!(refused, Err(SendError::TooLarge { .. })), "{refused:?}");
    });
    assert_eq!(refused, 0, "a refusal");

    let quiet = Config::builder().registry(false).build().expect("valid");
    let node = Node::builder().config(quiet).start().expect("it starts");
    let plan = PoolConfig::builder(server.addresses()[0].to_string()).members_min(2);
    let handles = node.pool_on_all(&plan.build().expect("valid")).expect("room");
    handles.wait_ready(PATIENCE).expect("the server listens");
    let send = |count: u64| {
        for number in 0..count {
            handles.send(Choice::LeastQueued, Envelope::data(), &[5; 64]).expect("room");
            handles.send(Choice::Key(number), Envelope::data(), &[6; 64]).expect("room");
        }
    };
    send(2_000);
    // The first of this thread's calls that sleeps makes room for those who do, whenever that is.
    let count = allocations(|| send(4_000));
    assert!(count <= 1, "handle: send: {count} in 8,000 calls");
}
