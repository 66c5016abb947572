//! Where a server listens and a client connects.

use std::net::ToSocketAddrs;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use ringwire::{Address, Client, ConnectError, Envelope, Nanos, Server, SetupError};

use crate::util::{
    Directory, PATIENCE, Peer, client, config, deaf_port, echo, endpoint, isolated, plain_listener,
    start, timed,
};

const SECOND: Duration = Duration::from_secs(5);

/// A client and a plain peer get their answers from a server that listens on `listen`.
fn check(listen: &str, connect: impl Fn(&Server) -> String) {
    let server = start(Server::builder().config(config()).listen(listen).on(
        ringwire::Kind::Command,
        |context, frame| {
            context.reply(Envelope::status(), frame.payload()).expect("room");
        },
    ));
    let mut client = client(&connect(&server));
    let answer = client.request(Envelope::command(), b"ping", SECOND).expect("an answer");
    assert_eq!(&answer.payload()[..], b"ping");
    let mut peer = Peer::connect(&server);
    assert_eq!(peer.ask(b"plain"), b"plain");
    assert_eq!(server.clients().len(), 2);
    assert_eq!(client.disconnect(SECOND).flushed, 1);
}

fn port(server: &Server) -> u16 {
    match server.addresses()[0] {
        Address::Tcp(address) => address.port(),
        Address::Unix(_) => panic!("not TCP"),
    }
}

fn refused(listen: &str) -> SetupError {
    let outcome = Server::builder().config(config()).listen(listen).start();
    outcome.expect_err("the address is not to be had")
}

#[test]
fn tcp_v4() {
    isolated(|| check("127.0.0.1:0", endpoint));
}

/// As many as there may be, and one more.
#[test]
fn addresses_of_a_server_are_bounded() {
    const ADDRESSES_MAX: usize = 32;
    let listening = |count: usize| {
        let builder = echo();
        // One is the echo's own.
        (1..count).fold(builder, |builder, _| builder.listen("127.0.0.1:0")).reactors(2).start()
    };
    isolated(|| {
        let server = listening(ADDRESSES_MAX).expect("as many as there may be");
        assert_eq!(server.addresses().len(), ADDRESSES_MAX);
        for address in server.addresses() {
            assert_eq!(Peer::connect_to(address).ask(b"x"), b"x");
        }
        drop(server);
        let error = listening(ADDRESSES_MAX + 1).map(drop).expect_err("one too many");
        assert!(matches!(error, SetupError::Listen { .. }), "{error:?}");
        assert!(error.to_string().contains("32 addresses at most"), "{error}");
    });
}

/// A machine without IPv6 has no such listeners.
fn has_v6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn tcp_v6() {
    isolated(|| {
        if has_v6() {
            check("[::1]:0", endpoint);
        }
    });
}

#[test]
fn v6_wildcard_takes_v4_clients() {
    isolated(|| {
        if has_v6() {
            check("[::]:0", |server| format!("127.0.0.1:{}", port(server)));
        }
    });
}

#[test]
fn host_name() {
    isolated(|| check("localhost:0", |server| format!("localhost:{}", port(server))));
}

#[test]
fn unix_path() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("socket");
        check(&format!("unix:{}", path.display()), endpoint);
        assert!(!path.exists(), "the server takes its socket file away");
    });
}

#[test]
fn several_addresses_at_once() {
    isolated(|| {
        let directory = Directory::new();
        let unix = format!("unix:{}", directory.path("socket").display());
        let other = if has_v6() { "[::1]:0" } else { "127.0.0.1:0" };
        let server = start(echo().listen(other).listen(unix));
        assert_eq!(server.addresses().len(), 3);
        for address in server.addresses() {
            assert_eq!(Peer::connect_to(address).ask(b"here"), b"here");
        }
    });
}

#[test]
fn abandoned_unix_socket_is_replaced() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("socket");
        drop(UnixListener::bind(&path).expect("a free path"));
        assert!(path.exists(), "closing a Unix listener leaves its file");
        check(&format!("unix:{}", path.display()), endpoint);
    });
}

#[test]
fn live_unix_socket_is_refused_and_untouched() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("socket");
        let live = UnixListener::bind(&path).expect("a free path");
        let text = refused(&format!("unix:{}", path.display())).to_string();
        assert!(text.contains("another process listens there"), "{text}");
        drop(std::os::unix::net::UnixStream::connect(&path).expect("the listener lives on"));
        drop(live);
    });
}

/// A listener that stands still with its queue full is in the way, and nobody waits for it.
#[test]
fn unix_socket_of_a_process_that_stands_still_is_refused_in_time() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("socket");
        let kind = socket2::Type::STREAM.nonblocking();
        let address = socket2::SockAddr::unix(&path).expect("short");
        let standing = socket2::Socket::new(socket2::Domain::UNIX, kind, None).expect("a socket");
        standing.bind(&address).expect("a free path");
        standing.listen(0).expect("it is bound");
        let mut waiting = Vec::new();
        loop {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, kind, None).expect("a socket");
            match socket.connect(&address) {
                Ok(()) => waiting.push(socket),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                    break;
                }
            }
        }
        let (text, took) = timed(|| refused(&format!("unix:{}", path.display())).to_string());
        assert!(text.contains("another process listens there"), "{text}");
        assert!(took < PATIENCE / 5, "{took:?}");
    });
}

/// Whoever listens at the path by the time a server ends keeps it.
#[test]
fn unix_socket_of_a_successor_stays() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("socket");
        let server = start(echo().listen(format!("unix:{}", path.display())).reactors(2));
        std::fs::remove_file(&path).expect("the server listens there");
        let successor = UnixListener::bind(&path).expect("a free path");
        drop(server);
        std::os::unix::net::UnixStream::connect(&path).expect("the successor can be reached");
        drop(successor);
    });
}

#[test]
fn file_that_is_no_socket_is_refused_and_untouched() {
    isolated(|| {
        let directory = Directory::new();
        let path = directory.path("notes.txt");
        std::fs::write(&path, "precious").expect("writable");
        let error = refused(&format!("unix:{}", path.display()));
        assert!(matches!(error, SetupError::Listen { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    });
}

#[test]
fn port_in_use_names_the_remedy() {
    isolated(|| {
        let (_taken, endpoint) = plain_listener();
        let text = refused(&endpoint).to_string();
        assert!(text.contains(&endpoint), "{text}");
        assert!(text.contains("ss -ltnp"), "{text}");
        // Its own, too: SO_REUSEPORT would have shared it.
        let server = start(echo());
        let text = refused(&crate::util::endpoint(&server)).to_string();
        assert!(text.contains("another process listens there"), "{text}");
    });
}

#[test]
fn address_of_another_machine_is_refused() {
    isolated(|| {
        let text = refused("192.0.2.1:0").to_string();
        assert!(text.contains("no interface of this machine has that address"), "{text}");
    });
}

#[test]
fn port_nobody_listens_on_is_refused_at_once() {
    isolated(|| {
        let (_keeper, endpoint) = deaf_port();
        let mut client = Client::new(config()).expect("a ring");
        match client.connect(&endpoint) {
            Err(ConnectError::Connect { address, source }) => {
                assert_eq!(address, endpoint);
                assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(client.statistics().closed("socket"), 1);
    });
}

#[test]
fn malformed_endpoint_says_which_part() {
    isolated(|| {
        let mut client = Client::new(config()).expect("a ring");
        for (text, part) in [("host:99999", "99999"), ("[::1:7411", "IPv6"), (":7411", "host")] {
            let error = client.connect(text).expect_err("malformed").to_string();
            assert!(error.contains(part), "{error}");
        }
        // Some name servers know every name there is not.
        if ("no-such-host.invalid", 1).to_socket_addrs().is_err() {
            let error = client.connect("no-such-host.invalid:1").expect_err("no such host");
            assert!(matches!(error, ConnectError::Resolve { .. }), "{error}");
        }
    });
}

/// As of a process that was killed just now, whose ring the kernel is still taking apart.
#[test]
fn port_that_is_about_to_be_free_is_waited_for() {
    isolated(|| {
        let deadline = Nanos::now() + PATIENCE;
        // It is waited for 250 ms. Where the machine stands for longer, owner and server are both
        // late, and who is first is chance: then once more.
        while !waits_for_the_port() {
            assert!(Nanos::now() < deadline, "the machine always stands in between");
        }
    });
}

/// Whether the port was waited for; `false` when that took longer than it is waited for.
fn waits_for_the_port() -> bool {
    let before = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = before.local_addr().expect("bound");
    let (_never, told) = std::sync::mpsc::channel::<()>();
    let owner = std::thread::spawn(move || {
        // Not for the test to wait: it is how long the port stays taken.
        let _ = told.recv_timeout(Duration::from_millis(40));
        drop(before);
        Nanos::now()
    });
    let begun = Nanos::now();
    let server = Server::builder().config(config()).listen(address.to_string()).start();
    let freed = owner.join().expect("it ended");
    match server {
        Ok(server) => {
            assert_eq!(endpoint(&server), address.to_string());
            true
        }
        Err(error) => {
            assert!(freed.since(begun) > Duration::from_millis(150), "not waited for: {error}");
            false
        }
    }
}
