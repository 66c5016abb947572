//! Steady state allocates nothing: a counting allocator watches send, receive, request and
//! handlers.
//!
//! One test function, because the allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use ringwire::{Client, Config, Endpoint, Envelope, Idle, Kind, Nanos, Reactor, SendError, Wait};

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

#[test]
fn steady_state_allocates_nothing() {
    assert_eq!(allocations(|| drop(Vec::<u8>::with_capacity(10))), 1, "the allocator counts");

    // The server is a reactor on a thread of its own that counts its own allocations.
    let config = Config::builder().idle(Idle::Park).build().expect("valid");
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
    round(2_000);
    stop.send(()).expect("the server runs");
    round(10);
    let of_client = allocations(|| round(5_000));
    stop.send(()).expect("the server runs");

    let (of_server, received) = server.join().expect("no panic");
    assert_eq!(of_client, 0, "client: send, request, receive");
    assert_eq!(of_server, 0, "server: receive, handler, reply");
    assert!(received > 15_000, "the messages really went: {received}");
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

    while let Err(error) = client.send(Envelope::data(), sample) {
        assert_eq!(error, SendError::Full);
        client.poll();
    }
    let message = client.receive(second).expect("the typed message is answered");
    assert_eq!(message.kind(), Kind::Data);
}
