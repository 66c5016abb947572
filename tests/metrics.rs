//! The metrics endpoint over real HTTP: what parsers of both texts make of it, and what slow,
//! senseless and too many clients get.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{OpenMetricsType, OpenMetricsValue};
use prometheus_parse::{Scrape, Value};
use ringwire::{Client, Config, ConfigBuilder, Envelope, Idle, Kind, Nanos, Server};

const PATIENCE: Duration = Duration::from_secs(20);

fn settings() -> ConfigBuilder {
    Config::builder().idle(Idle::Park).connections_max(16).registry(false)
}

fn server() -> Server {
    let config = settings().node_name("cell-7").metrics_address("127.0.0.1:0").build();
    Server::builder()
        .config(config.expect("valid"))
        .listen("127.0.0.1:0")
        .on(Kind::Command, |context, frame| {
            let _ = context.reply(Envelope::status(), frame.payload());
        })
        .start()
        .expect("free ports")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the endpoint listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

fn address(server: &Server) -> SocketAddr {
    server.metrics_address().expect("it serves metrics")
}

/// What comes back for these bytes, until the end.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("it answers and closes");
    response
}

fn get(address: SocketAddr, accept: &str) -> (String, String) {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
    let response = ask(address, &request);
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let length = format!("Content-Length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}");
    (head.to_owned(), body.to_owned())
}

fn scrape(body: &str) -> Scrape {
    Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).expect("Prometheus text")
}

fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    let found = scrape.samples.iter().find(|sample| {
        sample.metric == name
            && labels.iter().all(|&(key, value)| sample.labels.get(key) == Some(value))
    });
    match found.unwrap_or_else(|| panic!("no {name} {labels:?}")).value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        ref other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn prometheus_reads_the_figures() {
    let server = server();
    let config = settings().node_name("feeder").build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("the server listens");
    for _ in 0..200 {
        client.request(Envelope::command(), b"status?", PATIENCE).expect("an answer");
    }
    let deadline = Nanos::now() + PATIENCE;
    let (head, body) = loop {
        let (head, body) = get(address(&server), "text/plain");
        // The row of the session is written within a tenth of a second.
        if body.contains("ringwire_session_info{") && body.contains("state=\"connected\"") {
            break (head, body);
        }
        assert!(Nanos::now() < deadline, "no session in\n{body}");
        std::thread::park_timeout(Duration::from_millis(10));
    };
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let scraped = scrape(&body);
    let reactor = [("reactor", "0")];
    assert_eq!(value(&scraped, "ringwire_messages_received_total", &reactor), 200.0);
    assert_eq!(value(&scraped, "ringwire_messages_sent_total", &reactor), 200.0);
    assert_eq!(value(&scraped, "ringwire_connections_active", &reactor), 1.0);
    assert_eq!(value(&scraped, "ringwire_node_info", &[("node", "cell-7")]), 1.0);
    let drops = [("lane", "critical"), ("reason", "expired")];
    assert_eq!(value(&scraped, "ringwire_drops_total", &drops), 0.0);
    let peer = [("peer", "feeder")];
    assert_eq!(value(&scraped, "ringwire_session_messages_received_total", &peer), 200.0);
    let started = value(&scraped, "ringwire_start_time_seconds", &[]);
    assert!(started > 1.7e9, "{started}");

    let turns = scraped.samples.iter().find(|sample| sample.metric == "ringwire_turn_seconds");
    let Some(Value::Histogram(buckets)) = turns.map(|sample| &sample.value) else {
        panic!("no histogram of turns: {turns:?}")
    };
    assert_eq!(buckets.len(), 23);
    assert!(buckets.is_sorted_by(|a, b| a.less_than < b.less_than && a.count <= b.count));
    let all = buckets.last().expect("just counted");
    assert!(all.less_than.is_infinite() && all.count >= 200.0, "{all:?}");
    assert_eq!(value(&scraped, "ringwire_turn_seconds_count", &reactor), all.count);
}

/// What a peer calls itself can not break out of its label.
#[test]
fn hostile_names_are_escaped() {
    let server = server();
    let config = settings().node_name("a\\b\"} 1\nc").build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("the server listens");
    let expected = r#"peer="a\\b\"} 1\nc""#;
    let deadline = Nanos::now() + PATIENCE;
    while !get(address(&server), "text/plain").1.contains(expected) {
        assert!(Nanos::now() < deadline, "no session with {expected}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// What a Prometheus asks for.
const PREFERS_OPENMETRICS: &str =
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// The text without two things that the standard allows and the parser does not: units of
/// histograms (OpenMetrics 1.0 refuses them for information and sets of states alone), and families
/// without samples (its grammar: `metricfamily = *metric-descriptor *metric`).
/// `openmetrics_follows_its_rules` sees all of it.
fn as_the_parser_likes_it(body: &str) -> String {
    let mut kept = String::new();
    let mut units = 0;
    for family in body.split("# TYPE ").skip(1) {
        let is_histogram = family.lines().next().is_some_and(|line| line.ends_with(" histogram"));
        let has_samples = family.lines().skip(1).any(|line| !line.starts_with('#'));
        for (index, line) in family.lines().enumerate() {
            let is_unit = is_histogram && line.starts_with("# UNIT ");
            units += u32::from(is_unit);
            if line == "# EOF" || (has_samples && !is_unit) {
                kept += if index == 0 { "# TYPE " } else { "" };
                kept += line;
                kept.push('\n');
            }
        }
    }
    assert_eq!(units, 7, "of the histograms");
    kept
}

#[test]
fn openmetrics_parser_reads_the_figures() {
    let server = server();
    let config = settings().node_name("a\\b\"} 1\nc").build().expect("valid");
    let mut client = Client::new(config).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("the server listens");
    for _ in 0..200 {
        client.request(Envelope::command(), b"status?", PATIENCE).expect("an answer");
    }
    let deadline = Nanos::now() + PATIENCE;
    let body = loop {
        let body = get(address(&server), PREFERS_OPENMETRICS).1;
        if body.contains("ringwire_session_info{") && body.contains("state=\"connected\"") {
            break body;
        }
        assert!(Nanos::now() < deadline, "no session in\n{body}");
        std::thread::park_timeout(Duration::from_millis(10));
    };
    let body = as_the_parser_likes_it(&body);
    let parsed = parse_openmetrics(&body).unwrap_or_else(|error| panic!("{error}\n{body}"));
    let family =
        |name: &str| parsed.families.get(name).unwrap_or_else(|| panic!("no {name} in\n{body}"));
    let only = |name: &str| family(name).iter_samples().next().expect("a sample").clone();
    for name in ["ringwire_node", "ringwire_session"] {
        assert!(matches!(family(name).family_type, OpenMetricsType::Info), "{name}");
    }
    let session = only("ringwire_session");
    let labels = session.get_labelset().expect("as many values as names");
    assert_eq!(labels.get_label_value("peer"), Some("a\\b\"} 1\nc"));
    assert_eq!(family("ringwire_received_bytes").unit, "bytes");
    let OpenMetricsValue::Counter(received) = only("ringwire_messages_received").value else {
        panic!("no counter")
    };
    assert_eq!(received.value.as_f64(), 200.0);
    let turns = family("ringwire_turn_seconds");
    assert_eq!(turns.iter_samples().count(), 1, "one reactor");
    let OpenMetricsValue::Histogram(turns) = only("ringwire_turn_seconds").value else {
        panic!("no histogram")
    };
    assert_eq!(turns.buckets.len(), 23);
    assert!(turns.buckets.is_sorted_by(|a, b| a.upper_bound < b.upper_bound));
    assert!(turns.count.is_some_and(|count| count >= 200));
    assert!(turns.sum.is_some_and(|sum| sum.as_f64() > 0.0));

    // That it would say so.
    for (what, damaged) in [
        ("no end", body.replace("# EOF\n", "")),
        ("a counter without _total", body.replace("ringwire_turns_total", "ringwire_turns")),
        (
            "a sample of information without _info",
            body.replace("ringwire_node_info", "ringwire_node"),
        ),
        ("a histogram without its end", body.replace("le=\"+Inf\"", "le=\"20.0\"")),
        ("a family twice", body.replace("# TYPE ringwire_turns ", "# TYPE ringwire_enters ")),
    ] {
        assert_ne!(damaged, body, "{what}");
        assert!(parse_openmetrics(&damaged).is_err(), "{what} is not noticed");
    }
}

#[test]
fn openmetrics_follows_its_rules() {
    let server = server();
    let (head, body) = get(address(&server), PREFERS_OPENMETRICS);
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let mut family = ("", "");
    let mut families = Vec::new();
    let mut units = 0;
    for line in body.lines().filter(|&line| line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').expect("a name and a type");
            assert!(!families.contains(&family.0), "{} twice", family.0);
            families.push(family.0);
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a name and a unit");
            assert_eq!(name, family.0);
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
            assert_ne!(family.1, "info", "information has no unit");
            units += 1;
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.starts_with(&format!("{} ", family.0)), "{line}");
        } else {
            let name = line.split(['{', ' ']).next().expect("a name");
            let suffix = name.strip_prefix(family.0).unwrap_or_else(|| panic!("{line}"));
            let allowed: &[&str] = match family.1 {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line} in {family:?}");
            assert!(!family.0.ends_with("_total"), "{family:?}");
        }
    }
    assert!(families.len() > 60, "{families:?}");
    assert!(units > 10, "{units}");
    assert!(body.contains("# UNIT ringwire_sent_bytes bytes\n"));
}

#[test]
fn what_is_no_question_for_metrics_is_refused() {
    let server = server();
    let check = |request: &str, status: &str| {
        let response = ask(address(&server), request);
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {response}");
    };
    check("GET / HTTP/1.1\r\n\r\n", "404");
    check("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200");
    check("POST /metrics HTTP/1.1\r\n\r\n", "405");
    check("hello\r\n\r\n", "400");
    check("GET /metrics SPDY/3\r\n\r\n", "400");
    check(&format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(9 << 10)), "431");
    check("GET /metrics HTTP/1.1\r\n\r\n", "200");
}

#[test]
fn slow_clients_do_not_keep_others_out_for_long() {
    let server = server();
    let address = address(&server);
    // They say nothing, and take all the places.
    let silent: Vec<_> = (0..20).map(|_| connect(address)).collect();
    let deadline = Nanos::now() + PATIENCE;
    loop {
        let mut stream = connect(address);
        let mut response = String::new();
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
        let answered = asked.and_then(|()| stream.read_to_string(&mut response));
        if answered.is_ok() && response.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(Nanos::now() < deadline, "still no answer");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    drop(silent);
}

#[test]
fn node_ends_at_once_with_clients_of_its_metrics() {
    let server = server();
    let mut half = connect(address(&server));
    half.write_all(b"GET /met").expect("it reads");
    let began = Nanos::now();
    let _ = server.shutdown(Duration::from_secs(2));
    assert!(Nanos::now().since(began) < Duration::from_secs(4), "it waited for them");
    let mut rest = String::new();
    // Closed or reset, but over.
    let _ = half.read_to_string(&mut rest);
    assert_eq!(rest, "");
}

#[test]
fn port_in_use_is_an_error_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let taken = taken.local_addr().expect("bound").to_string();
    let config = settings().metrics_address(&taken).build().expect("valid");
    let started = Server::builder().config(config).listen("127.0.0.1:0").start();
    let error = started.expect_err("in use").to_string();
    assert!(error.contains(&taken), "{error}");
    let error = settings().metrics_address("nowhere").build().expect_err("no address");
    assert!(error.to_string().contains("metrics_address = \"nowhere\""), "{error}");
}

/// The dashboard asks for nothing that is not exported, and shows what matters.
#[test]
fn dashboard_matches_the_names() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/grafana_dashboard.json");
    let text = std::fs::read_to_string(path).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let server = server();
    let mut client = Client::new(settings().build().expect("valid")).expect("a ring");
    client.connect(&server.addresses()[0].to_string()).expect("the server listens");
    client.request(Envelope::command(), b"status?", PATIENCE).expect("an answer");
    let body = get(address(&server), "text/plain").1;
    let exported: Vec<&str> =
        body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let variable = &dashboard["templating"]["list"][1]["query"]["query"];
    let variable = variable.as_str().expect("a query");
    let name = variable.trim_start_matches("label_values(").split(',').next().expect("a name");
    assert!(exported.contains(&name), "{name} of the variable is not exported");
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            // Only some sessions have series of their own: a sum of those looks like one of all.
            let is_of_some = query.contains("ringwire_session_");
            assert!(!is_of_some || query.starts_with("topk("), "{query} is of some sessions");
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            for name in query.split(|c| !is_name(c)).filter(|word| word.starts_with("ringwire_")) {
                asked += 1;
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .unwrap_or(name);
                assert!(exported.contains(&family), "{name} in {query} is not exported");
            }
        }
    }
    assert!(asked >= 15, "only {asked} names in the dashboard");
    for name in [
        "ringwire_drops_total",
        "ringwire_turns_slow_total",
        "ringwire_turn_seconds_bucket",
        "ringwire_lane_queued_bytes",
        "ringwire_lane_oldest_seconds",
        "ringwire_sessions_omitted",
    ] {
        assert!(text.contains(name), "{name} is not on the dashboard");
    }
}
