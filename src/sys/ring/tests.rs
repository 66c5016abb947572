//! The ring against the running kernel: what the module promises, and what it relies on.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;

const TOKEN: Token = Token(7);

fn ring() -> Ring {
    Ring::new(8, 64).expect("this kernel has io_uring")
}

/// A connected TCP pair: prompt sends are about TCP first of all.
fn tcp_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let near = std::net::TcpStream::connect(address).expect("it listens");
    let (far, _) = listener.accept().expect("it connected");
    near.set_nonblocking(true).expect("a socket");
    (near, far)
}

fn any(bytes: usize) -> ReceiveOptions {
    ReceiveOptions { offset: 0, bytes, whole: false, poll_first: false }
}

/// Enters until a completion can be reaped; fails after five seconds.
fn wait(ring: &mut Ring) -> Completion {
    let deadline = crate::time::Nanos::now() + Duration::from_secs(5);
    loop {
        if let Some(completion) = ring.reap() {
            return completion;
        }
        assert!(crate::time::Nanos::now() < deadline, "no completion in five seconds");
        ring.enter(1, Some(Duration::from_millis(50)), None).expect("the ring works");
    }
}

/// The first `bytes` of a buffer.
fn front(bytes: usize, mode: SendMode) -> SendOptions {
    SendOptions { offset: 0, bytes, mode }
}

#[test]
fn prompt_send_completes_without_a_completion_of_the_kernels() {
    let (near, mut far) = tcp_pair();
    let mut ring = ring();
    let mut buffer = Buffer::new(64);
    buffer.bytes_mut().fill(9);
    ring.send(near.as_raw_fd(), buffer, front(64, SendMode::Prompt), TOKEN).expect("room");
    assert!(ring.reap().is_none(), "nothing is known before it was submitted");
    ring.enter(0, None, None).expect("the ring works");
    assert!(ring.uring.completion().is_empty(), "the kernel posts nothing for a success");
    let completion = ring.reap().expect("it is known to be done");
    assert_eq!(completion.result, Ok(64));
    assert_eq!(completion.buffer.expect("it comes back").bytes(), [9; 64]);
    let mut received = [0; 64];
    io::Read::read_exact(&mut far, &mut received).expect("it was sent");
    assert_eq!(received, [9; 64]);
}

#[test]
fn prompt_send_into_a_full_socket_reports_what_was_taken() {
    let (near, far) = tcp_pair();
    let mut ring = ring();
    let bytes = 64 << 20;
    let buffer = Buffer::new(bytes);
    ring.send(near.as_raw_fd(), buffer, front(bytes, SendMode::Prompt), TOKEN).expect("room");
    ring.enter(0, None, None).expect("the ring works");
    let completion = ring.reap().expect("the one attempt is over");
    let taken = completion.result.expect("a part was taken") as usize;
    assert!(taken > 0 && taken < bytes, "{taken} of {bytes}");

    // The socket is full now: the next attempt takes nothing and says so.
    let buffer = completion.buffer.expect("it comes back");
    let mut buffer = Some(buffer);
    let mut last = Ok(1);
    for _ in 0..100 {
        let next = buffer.take().expect("it came back");
        ring.send(near.as_raw_fd(), next, front(bytes, SendMode::Prompt), TOKEN).expect("room");
        ring.enter(0, None, None).expect("the ring works");
        let completion = ring.reap().expect("the one attempt is over");
        buffer = completion.buffer;
        last = completion.result;
        if last == Err(libc::EAGAIN) {
            break;
        }
    }
    assert_eq!(last, Err(libc::EAGAIN));
    assert_eq!(ring.in_flight(), 0);
    drop(far);
}

#[test]
fn prompt_send_to_a_closed_peer_reports_the_error() {
    let (near, far) = UnixStream::pair().expect("a pair");
    drop(far);
    let mut ring = ring();
    ring.send(near.as_raw_fd(), Buffer::new(16), front(16, SendMode::Prompt), TOKEN).expect("room");
    ring.enter(0, None, None).expect("the ring works");
    let completion = ring.reap().expect("an error is a completion");
    assert_eq!(completion.result, Err(libc::EPIPE));
    assert!(completion.buffer.is_some());
    assert!(ring.reap().is_none(), "it completes once");
}

#[test]
fn whole_send_waits_for_room_and_sends_everything() {
    let (near, mut far) = tcp_pair();
    let mut ring = ring();
    let bytes = 32 << 20;
    let send =
        ring.send(near.as_raw_fd(), Buffer::new(bytes), front(bytes, SendMode::Whole), TOKEN);
    send.expect("room");
    ring.enter(0, None, None).expect("the ring works");
    assert!(ring.reap().is_none(), "the socket can not hold that much");
    let reader = std::thread::spawn(move || {
        let mut sink = vec![0; bytes];
        io::Read::read_exact(&mut far, &mut sink).expect("everything comes");
    });
    assert_eq!(wait(&mut ring).result, Ok(u32::try_from(bytes).expect("small")));
    reader.join().expect("it read everything");
}

#[test]
fn zero_copy_send_gives_its_buffer_back_with_the_notification() {
    let (near, mut far) = tcp_pair();
    let mut ring = ring();
    let mut buffers = [Buffer::new(1 << 16)];
    let registered = ring.register_buffers(buffers.iter_mut(), 1 << 20);
    assert_eq!(registered.expect("within RLIMIT_MEMLOCK"), 1 << 16);
    let [buffer] = buffers;
    assert_eq!(buffer.registered(), Some(0));
    ring.send(near.as_raw_fd(), buffer, front(1 << 16, SendMode::ZeroCopy), TOKEN).expect("room");
    let mut received = vec![0; 1 << 16];
    let reader = std::thread::spawn(move || {
        io::Read::read_exact(&mut far, &mut received).expect("everything comes");
        far
    });
    let completion = wait(&mut ring);
    assert_eq!(completion.result, Ok(1 << 16));
    assert!(completion.buffer.is_some());
    assert!(completion.copied, "loopback copies, and the kernel says so");
    assert_eq!(ring.in_flight(), 0);
    reader.join().expect("it read everything");
}

#[test]
fn overflowing_completion_queue_loses_nothing() {
    // 8 entries, 64 completions: 100 receives that all complete before anything is reaped.
    let mut ring = Ring::new(8, 128).expect("this kernel has io_uring");
    let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().expect("a pair")).collect();
    for (index, (near, mut far)) in pairs.iter().map(|(near, far)| (near, far)).enumerate() {
        io::Write::write_all(&mut far, &[1; 16]).expect("room");
        ring.receive(near.as_raw_fd(), Buffer::new(64), any(64), Token(index as u64))
            .expect("a full queue is submitted by itself");
    }
    ring.enter(0, None, None).expect("the ring works");
    assert!(ring.has_overflow(), "the queue was meant to overflow");
    let mut seen = vec![false; pairs.len()];
    for _ in 0..pairs.len() {
        let completion = wait(&mut ring);
        assert_eq!(completion.result, Ok(16));
        let first_time = !std::mem::replace(
            &mut seen[usize::try_from(completion.token.0).expect("small")],
            true,
        );
        assert!(first_time, "each completes once");
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn prompt_send_is_not_settled_while_completions_overflow() {
    let mut ring = Ring::new(8, 128).expect("this kernel has io_uring");
    let pairs: Vec<_> = (0..80).map(|_| UnixStream::pair().expect("a pair")).collect();
    for (near, mut far) in pairs.iter().map(|(near, far)| (near, far)) {
        io::Write::write_all(&mut far, &[1; 16]).expect("room");
        ring.receive(near.as_raw_fd(), Buffer::new(64), any(64), Token(0)).expect("room");
    }
    // Fails, and its completion goes to the overflow list behind the others.
    let (near, far) = UnixStream::pair().expect("a pair");
    drop(far);
    ring.send(near.as_raw_fd(), Buffer::new(16), front(16, SendMode::Prompt), TOKEN).expect("room");
    ring.enter(0, None, None).expect("the ring works");
    assert!(ring.has_overflow(), "the queue was meant to overflow");
    let outcome = loop {
        let completion = wait(&mut ring);
        if completion.kind == OpKind::Send {
            break completion.result;
        }
    };
    assert_eq!(outcome, Err(libc::EPIPE), "an overflowed failure is not taken for success");
}

#[test]
fn prompt_send_is_settled_although_the_queue_never_empties() {
    let mut ring = Ring::new(8, 64).expect("this kernel has io_uring");
    let pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().expect("a pair")).collect();
    let receive = |ring: &mut Ring| {
        for (near, mut far) in pairs.iter().map(|(near, far)| (near, far)) {
            io::Write::write_all(&mut far, &[1; 16]).expect("room");
            ring.receive(near.as_raw_fd(), Buffer::new(64), any(64), Token(0)).expect("room");
        }
    };
    let (near, _far) = tcp_pair();
    ring.send(near.as_raw_fd(), Buffer::new(16), front(16, SendMode::Prompt), TOKEN).expect("room");
    receive(&mut ring);
    ring.enter(0, None, None).expect("the ring works");
    // As a busy reactor does: reap some, submit more, so that there is always something to reap.
    for reaped in 0..20 {
        assert!(!ring.uring.completion().is_empty(), "the queue is meant never to empty");
        if ring.reap().expect("there is something").kind == OpKind::Send {
            return;
        }
        if reaped == 10 {
            receive(&mut ring);
            ring.enter(0, None, None).expect("the ring works");
        }
    }
    panic!("the send is held back by completions that came after it");
}

/// Behind an overflow that is over the queue may never be empty either.
#[test]
fn prompt_send_is_settled_after_an_overflow_although_the_queue_never_empties() {
    let mut ring = Ring::new(8, 200).expect("this kernel has io_uring");
    let pairs: Vec<_> = (0..80).map(|_| UnixStream::pair().expect("a pair")).collect();
    let mut next = pairs.iter().cycle();
    let mut receive = |ring: &mut Ring| {
        let (near, mut far) = next.next().map(|(near, far)| (near, far)).expect("endless");
        io::Write::write_all(&mut far, &[1; 16]).expect("room");
        ring.receive(near.as_raw_fd(), Buffer::new(64), any(16), Token(0)).expect("room");
    };
    (0..80).for_each(|_| receive(&mut ring));
    // The queue is full by now.
    let (near, _far) = tcp_pair();
    ring.send(near.as_raw_fd(), Buffer::new(16), front(16, SendMode::Prompt), TOKEN).expect("room");
    ring.enter(0, None, None).expect("the ring works");
    assert!(ring.has_overflow(), "the queue was meant to overflow");
    for _ in 0..400 {
        // As long as it overflows a little more is reaped than comes.
        let count = if ring.has_overflow() { 2 } else { 1 };
        for _ in 0..count {
            assert!(!ring.uring.completion().is_empty(), "the queue is meant never to empty");
            if ring.reap().expect("there is something").kind == OpKind::Send {
                return;
            }
        }
        receive(&mut ring);
        ring.enter(0, None, None).expect("the ring works");
    }
    panic!("the send is held back by completions that came after it");
}

#[test]
fn full_table_gives_the_buffer_back() {
    let (near, _far) = tcp_pair();
    let mut ring = Ring::new(8, 1).expect("this kernel has io_uring");
    let fd = near.as_raw_fd();
    ring.receive(fd, Buffer::new(64), any(64), TOKEN).expect("room for one");
    let buffer = Buffer::new(32);
    let back = ring.receive(fd, buffer, any(32), TOKEN).expect_err("no room for two");
    assert_eq!(back.len(), 32);
    assert_eq!(ring.in_flight(), 1);
}

#[test]
fn cancelled_receive_gives_its_buffer_back_once() {
    let (near, mut far) = tcp_pair();
    let mut ring = ring();
    let key = ring.receive(near.as_raw_fd(), Buffer::new(64), any(64), TOKEN).expect("room");
    ring.cancel(key);
    let completion = wait(&mut ring);
    assert_eq!(completion.result, Err(libc::ECANCELED));
    assert!(completion.buffer.is_some());
    ring.cancel(key); // Too late: the key finds nothing.
    assert_eq!(ring.in_flight(), 0);

    // The race: data is there before the cancel. One completion either way.
    for _ in 0..200 {
        let key = ring.receive(near.as_raw_fd(), Buffer::new(64), any(64), TOKEN).expect("room");
        ring.enter(0, None, None).expect("the ring works");
        io::Write::write_all(&mut far, b"x").expect("room");
        ring.cancel(key);
        let completion = wait(&mut ring);
        assert!(matches!(completion.result, Ok(1..) | Err(libc::ECANCELED)), "{completion:?}");
        assert!(completion.buffer.is_some());
        assert!(ring.reap().is_none());
        assert_eq!(ring.in_flight(), 0);
    }
}

#[test]
fn dropped_ring_waits_for_the_kernel() {
    for _ in 0..100 {
        let (near, _far) = tcp_pair();
        let mut ring = ring();
        let (fd, bytes) = (near.as_raw_fd(), 16 << 20);
        ring.receive(fd, Buffer::new(64), any(64), TOKEN).expect("room");
        let send = ring.send(fd, Buffer::new(bytes), front(bytes, SendMode::Whole), TOKEN);
        send.expect("room");
        ring.enter(0, None, None).expect("the ring works");
        assert_eq!(ring.in_flight(), 2, "both are meant to be in flight");
        ring.drain();
        assert_eq!(ring.in_flight(), 0);
        // Queued and never submitted: owned all the same.
        ring.receive(fd, Buffer::new(64), any(64), TOKEN).expect("room");
    }
}

#[test]
fn multishot_accept_delivers_a_descriptor_each() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut ring = ring();
    ring.accept(listener.as_raw_fd(), TOKEN).expect("room");
    for _ in 0..3 {
        let _peer = std::net::TcpStream::connect(address).expect("it listens");
        let completion = wait(&mut ring);
        assert!(completion.continues);
        let accepted = completion.accepted.expect("a connection");
        assert_eq!(completion.result, u32::try_from(accepted.as_raw_fd()).map_err(|_| 0));
    }
    // Nobody takes these: they are closed, each once, by whoever drops the completion or the ring.
    let mut ends = [0; 2].map(|_| std::net::TcpStream::connect(address).expect("it listens"));
    drop(wait(&mut ring));
    drop(ring);
    drop(listener);
    for end in &mut ends {
        end.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
        let read = io::Read::read(end, &mut [0]).map_err(|error| error.kind());
        assert!(matches!(read, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{read:?}");
    }
}

#[test]
fn send_beyond_the_end_is_refused_before_anything_is_booked() {
    let (near, _far) = tcp_pair();
    let mut ring = ring();
    for bytes in [65, usize::MAX] {
        let send = || {
            let options = SendOptions { offset: 64, bytes, mode: SendMode::Whole };
            ring.send(near.as_raw_fd(), Buffer::new(64), options, TOKEN).map(drop)
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(send)).expect_err("it panics");
        assert_eq!(ring.in_flight(), 0);
    }
}

/// A buffer whose head and tail stand around the bytes of somebody else.
fn gathered(payload: &bytes::Bytes) -> (Buffer, Vec<u8>) {
    let mut pool = crate::mem::Pool::new(&crate::mem::PoolLayout::uniform(64, 1)).expect("memory");
    let mut buffer = pool.take(64).expect("free");
    buffer.bytes_mut()[..40]
        .copy_from_slice(&std::array::from_fn::<u8, 40, _>(|at| at.to_le_bytes()[0]));
    buffer.set_insert(pool.insert(32, payload.clone()));
    let expected = buffer.pieces(0..40 + payload.len()).to_vec();
    assert_eq!(expected[32..32 + payload.len()], payload[..]);
    (buffer, expected)
}

#[test]
fn gathered_sends_are_one_message_in_every_mode() {
    let payload = (0..100_003_u32).map(|at| at.to_le_bytes()[0]).collect::<bytes::Bytes>();
    for mode in [SendMode::Prompt, SendMode::Whole, SendMode::ZeroCopy] {
        let (near, mut far) = tcp_pair();
        let mut ring = ring();
        let (buffer, expected) = gathered(&payload);
        let total = expected.len();
        // The last bytes of the head, the payload, and the padding; then what is within one piece.
        for (from, to) in [(0, total), (30, total), (32 + 7, total - 9), (5, 20)] {
            let (buffer, _) = gathered(&payload);
            let options = SendOptions { offset: from, ..front(to - from, mode) };
            ring.send(near.as_raw_fd(), buffer, options, TOKEN).expect("room");
            ring.enter(0, None, None).expect("the ring works");
            let mut received = vec![0; to - from];
            io::Read::read_exact(&mut far, &mut received).expect("everything comes");
            assert_eq!(received, expected[from..to], "{mode:?}, {from} to {to}");
            let completion = wait(&mut ring);
            assert_eq!(completion.result, Ok(u32::try_from(to - from).expect("small")));
        }
        drop(buffer);
        assert!(ring.vectors.len() <= 1, "{} vectors for one send at a time", ring.vectors.len());
        assert_eq!(ring.in_flight(), 0);
    }
    assert!(payload.is_unique(), "nobody holds the bytes any more");
}

#[test]
fn inserted_bytes_are_held_for_as_long_as_the_kernel_reads_them() {
    let payload = bytes::Bytes::from(vec![7; 32 << 20]);
    let (near, mut far) = tcp_pair();
    let mut ring = ring();
    let (buffer, expected) = gathered(&payload);
    let bytes = expected.len();
    drop(expected);
    ring.send(near.as_raw_fd(), buffer, front(bytes, SendMode::Whole), TOKEN).expect("room");
    ring.enter(0, None, None).expect("the ring works");
    assert!(ring.reap().is_none(), "the socket can not hold that much");
    assert!(!payload.is_unique(), "the operation holds them");
    // Dropping the ring cancels the send, and lets go only when the kernel has.
    let watch = payload.clone();
    drop(payload);
    drop(ring);
    assert!(watch.is_unique(), "the operation has ended");
    drop(near);
    let mut sink = Vec::new();
    io::Read::read_to_end(&mut far, &mut sink).expect("a part comes, and the end");
    assert!(sink.len() < bytes && sink[40..].iter().all(|&byte| byte == 7), "nothing else");
}

/// Where the kernel counts completions that it dropped, in the memory it shares: as it says to
/// whoever sets a ring up.
fn dropped_count_offset() -> usize {
    use std::os::fd::{FromRawFd, OwnedFd};
    // struct io_uring_params of linux/io_uring.h: 120 bytes, `cq_off.overflow` at 96.
    let mut params = [0_u32; 30];
    // SAFETY: the kernel reads and writes `params`, which are as many bytes as it expects
    // (io_uring_setup(2)).
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, params.as_mut_ptr()) };
    let fd = i32::try_from(fd).expect("a descriptor or -1");
    assert!(fd >= 0, "this kernel has io_uring");
    // SAFETY: a new descriptor, which nobody else knows.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    params[24] as usize
}

/// Writes what the kernel writes when it has no memory for a completion.
fn drop_a_completion(ring: &Ring) {
    use std::sync::atomic::{AtomicU32, Ordering};
    let at = dropped_count_offset();
    let bytes = crate::sys::map::page_bytes();
    assert!(at.is_multiple_of(4) && at < bytes, "in the first page: {at}");
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (fd, null) = (ring.uring.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: a new mapping where the kernel chooses, of what the ring shares (IORING_OFF_SQ_RING,
    // which with IORING_FEAT_SINGLE_MMAP has both queues).
    let start = unsafe { libc::mmap(null, bytes, protection, libc::MAP_SHARED, fd, 0) };
    assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    // SAFETY: within the page, see above.
    let count = unsafe { start.cast::<u8>().add(at) }.cast::<AtomicU32>();
    // SAFETY: aligned, mapped, and changed by atomic stores alone.
    unsafe { &*count }.store(1, Ordering::Release);
    // SAFETY: mapped above, and not used after this.
    assert_eq!(unsafe { libc::munmap(start, bytes) }, 0);
}

#[test]
fn dropped_completion_is_the_rings_end_and_no_sends_success() {
    let mut ring = ring();
    let (near, far) = UnixStream::pair().expect("a pair");
    drop(far);
    ring.send(near.as_raw_fd(), Buffer::new(16), front(16, SendMode::Prompt), TOKEN).expect("room");
    drop_a_completion(&ring);
    for timeout in [None, Some(Duration::ZERO)] {
        let error =
            ring.enter(u32::from(timeout.is_some()), timeout, None).expect_err("it is lost");
        assert_eq!(error.raw_os_error(), Some(libc::EBADR));
    }
    assert_eq!(ring.prompt_submitted, 0, "it is not known what became of it");
}
