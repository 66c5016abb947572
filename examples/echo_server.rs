//! An echo server: what a service starts from.
//!
//! ```text
//! cargo run --release --example echo_server                      talks to itself, and ends
//! cargo run --release --example echo_server -- 127.0.0.1:7411    serves for a minute
//! cargo run --release --example echo_server -- unix:/tmp/echo 5  serves for five seconds
//! ```
//!
//! Beside a server that waits, try `ringwire send 127.0.0.1:7411 hello`.

use std::error::Error;
use std::time::Duration;

use ringwire::{Client, Config, Envelope, Event, EventKind, Incoming, Kind, Nanos, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let seconds = arguments.next().map_or(Ok(60), |text| text.parse())?;

    // Every limit and every choice is in the configuration: idle strategy, cores, memory. It can
    // also be read from a TOML file: `Config::from_file`.
    let config = Config::builder().node_name("echo").build()?;
    let server = Server::builder()
        .config(config)
        // Port 0 takes a free port: `server.addresses()` says which.
        .listen(address.as_deref().unwrap_or("127.0.0.1:0"))
        // Runs on the reactor's thread, between the socket and nothing. The payload is borrowed
        // from the memory the kernel received it into. A handler must not block.
        .on(Kind::Command, |context, frame| {
            if let Err(error) = context.reply(Envelope::status(), frame.payload()) {
                // The client reads slower than it asks: its lane is full. Nothing was queued.
                eprintln!("{}: {error}", context.connection());
            }
        })
        .start()?;
    println!("listening on {}", server.addresses()[0]);

    match address {
        Some(_) => serve_for(&server, Duration::from_secs(seconds)),
        None => talk_to(&server.addresses()[0].to_string())?,
    }

    // What is queued still leaves, and the clients are told; at most for a second.
    let statistics = server.statistics();
    let report = server.shutdown(Duration::from_secs(1));
    println!(
        "{} messages received, {} sent on {} connection(s), of which {} were open at the end",
        statistics.messages_received,
        statistics.messages_sent,
        statistics.connections_established,
        report.connections,
    );
    if report.flushed < report.connections {
        println!("{} did not close in time", report.connections - report.flushed);
    }
    Ok(())
}

/// The thread that started the server is free for other work. Here it prints who comes and leaves,
/// and every message that no handler takes.
fn serve_for(server: &Server, time: Duration) {
    let end = Nanos::now() + time;
    while let Ok(incoming) = server.wait(end.since(Nanos::now())) {
        match incoming {
            Incoming::Event(Event { connection, address, kind, .. }) => match kind {
                EventKind::Connected => println!("{connection} connected from {address}"),
                EventKind::Disconnected { reason, .. } => println!("{connection} left: {reason}"),
                _ => {}
            },
            Incoming::Message(message) => {
                let (kind, bytes) = (message.kind(), message.payload().len());
                println!("{} sent {bytes} bytes of kind {kind:?}", message.connection());
            }
            _ => {}
        }
    }
}

/// A client has no thread of its own: everything happens inside its calls.
fn talk_to(address: &str) -> Result<(), Box<dyn Error>> {
    let mut client = Client::new(Config::default())?;
    client.connect(address)?;
    for text in ["one", "two", "three"] {
        let asked = Nanos::now();
        let answer = client.request(Envelope::command(), text, Duration::from_secs(5))?;
        let round_trip = Nanos::now().since(asked);
        println!("{text:?} came back as {:?} after {round_trip:?}", answer.payload());
    }
    let report = client.disconnect(Duration::from_secs(5));
    assert_eq!(report.flushed, 1, "the server closed in order");
    Ok(())
}
