//! What a configuration may be, and how it is read and written.

use super::text::Takes;
use super::*;

/// What a client or reactor of its own does not obey is named, and nothing else.
#[test]
fn settings_that_only_nodes_obey_are_known() {
    let keys = |builder: ConfigBuilder| builder.build().expect("valid").only_for_nodes();
    assert!(keys(Config::builder()).is_empty());
    let made = Config::builder().reactors(2).cores([0, 1]).mlockall(true);
    let made = made.scheduler_fifo_priority(10);
    let all = ["reactors", "cores", "mlockall", "scheduler_fifo_priority"];
    assert_eq!(keys(made.clone()), all);
    if cfg!(feature = "metrics") {
        let made = made.metrics_address("127.0.0.1:0");
        assert_eq!(keys(made), [&all[..], &["metrics_address"]].concat());
    }
}

#[test]
fn defaults_are_valid() {
    let config = Config::default();
    assert_eq!(config.frame_bytes_max(), 4 << 20);
}

#[test]
fn out_of_bounds_names_key_value_and_bound() {
    let error = Config::builder().window_bytes(16).build().expect_err("too small");
    assert_eq!(error.to_string(), "window_bytes = 16 is out of bounds: 4096 to 4194304");
}

#[test]
fn metrics_address_is_no_host_name() {
    let error = Config::builder().metrics_address("localhost:9464").build().expect_err("a name");
    let text = error.to_string();
    assert!(text.starts_with("metrics_address = \"localhost:9464\" is invalid: "), "{text}");
    assert!(text.ends_with("host names are not resolved"), "{text}");
}

#[test]
fn too_many_cores_name_count_and_bound() {
    let cores = |count| (0..count).collect::<Vec<_>>();
    let error = Config::builder().cores(cores(257)).build().expect_err("too many");
    assert_eq!(error.to_string(), "number of cores = 257 is out of bounds: 0 to 256");
    assert!(Config::builder().cores(cores(256)).build().is_ok());
}

#[test]
fn relation_names_both_keys() {
    let error = Config::from_toml("inbox_bytes_max = 65536").expect_err("below a frame");
    let text = error.to_string();
    assert!(text.contains("inbox_bytes_max = 65536"), "{text}");
    assert!(text.contains("frame_bytes_max = 4194304"), "{text}");
}

/// What could not be used is not taken for something else.
#[test]
fn delays_to_reconnect_are_in_order() {
    let error = Config::from_toml("reconnect_delay_ms = 30000").expect_err("above the longest");
    let text = error.to_string();
    assert!(text.contains("reconnect_delay_max_ms = 1000"), "{text}");
    assert!(text.contains("reconnect_delay_ms = 30000"), "{text}");
    let config = Config::builder().reconnect_delay_ms(30_000).reconnect_delay_max_ms(30_000);
    assert!(config.build().is_ok());
}

#[test]
fn toml_and_builder_agree() {
    let text = "idle = \"spin\"\ncores = [0, 1]\nring_entries = 100\nchecksum = \"always\"";
    let config = Config::from_toml(text).expect("valid");
    assert_eq!(config.idle(), Idle::Spin);
    assert_eq!(config.cores(), [0, 1]);
    assert_eq!(config.ring_entries(), 128);
    assert_eq!(config.checksum(), Checksum::Always);
}

/// What an error tells its reader to look at is there.
#[test]
fn keys_that_errors_name_exist() {
    let is_of_word = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut named = 0;
    let texts = include_str!("../error.rs")
        .lines()
        .filter(|line| line.contains('"') && !line.contains("serde"));
    for (_, rest) in texts.flat_map(|line| {
        line.match_indices(['(', ',']).map(|(at, mark)| line[at..].split_at(mark.len()))
    }) {
        let word = rest.trim_start().split(|c| !is_of_word(c)).next().unwrap_or_default();
        let follows = rest.trim_start()[word.len()..].chars().next();
        if word.contains('_') && matches!(follows, Some(')' | ',' | ' ')) {
            let is_key = |keys: &[(&str, Takes)]| keys.iter().any(|&(key, _)| key == word);
            assert!(is_key(KEYS) || is_key(pool::KEYS), "no key is called {word}");
            named += 1;
        }
    }
    assert!(named > 10, "they are found: {named}");
}

/// What `text` lets pass is what the fields hold, for every key there is.
#[test]
fn keys_are_the_fields() {
    let settings = Settings {
        tcp_congestion: Some("reno".into()),
        registry_directory: Some("/run/cell".into()),
        metrics_address: Some("[::1]:9464".into()),
        ..Settings::default()
    };
    let written = toml::to_string(&Config { settings });
    let table: toml::Table = written.expect("it can be written").parse().expect("TOML");
    let mut keys: Vec<&str> = KEYS.iter().map(|&(key, _)| key).collect();
    keys.sort_unstable();
    assert_eq!(keys, table.keys().collect::<Vec<_>>());
}

#[test]
fn bounds_are_within_their_types() {
    for &(key, takes) in KEYS {
        let Takes::Whole { min, max } = takes else { continue };
        for value in [min, max] {
            let builder = ConfigBuilder::from_toml(&format!("{key} = {value}"));
            assert!(builder.is_ok(), "{key} = {value}: {builder:?}");
        }
    }
}

#[test]
fn largest_hash_is_written_and_read_back() {
    let config = Config::builder().schema_hash(u64::MAX).build().expect("valid");
    let written = toml::to_string(&config).expect("it can be written");
    let again = Config::from_toml(&written).expect("it reads back");
    assert_eq!(again.schema_hash(), u64::MAX);
}

#[test]
fn core_named_twice_is_refused() {
    let error = Config::builder().cores([2, 0, 2]).build().expect_err("2 twice");
    assert_eq!(error.to_string(), format!("cores = [2, 0, 2] is invalid: {CORES_EXPECTED}"));
    assert!(Config::from_toml("cores = [0, 0]").is_err());
    assert!(Config::from_toml("cores = [1024]").is_err());
    assert!(Config::from_toml("cores = [0, 1023]").is_ok());
}

#[test]
fn reactors_default_to_one_for_each_core() {
    let count = |text| Config::from_toml(text).expect("valid").reactor_count();
    assert_eq!(count(""), 1);
    assert_eq!(count("cores = [0, 1, 2]"), 3);
    assert_eq!(count("reactors = 4\ncores = [0]"), 4);
}

#[test]
fn missing_file_is_named() {
    let error = Config::from_file("/nonexistent/ringwire.toml").expect_err("missing");
    assert!(error.to_string().contains("/nonexistent/ringwire.toml"));
}

#[test]
fn spinning_fifo_thread_must_be_pinned() {
    let builder = Config::builder().idle(Idle::Spin).scheduler_fifo_priority(10);
    assert!(builder.clone().build().is_err());
    let builder = builder.cores([0]);
    assert!(builder.clone().build().is_ok());
    assert!(builder.clone().reactors(2).build().is_err(), "the second would not be pinned");
    // A node may have another number of reactors than its configuration.
    let started = crate::Node::builder().config(builder.build().expect("valid")).reactors(2);
    let error = started.start().expect_err("the second would not be pinned");
    let error = error.to_string();
    assert!(error.contains("a SCHED_FIFO thread that spins for more than 1 ms"), "{error}");
    // To spin until the next message, which comes before the time is over, is to spin.
    let adaptive = Config::builder().scheduler_fifo_priority(10).idle_spin_us(100_000);
    assert!(adaptive.clone().build().is_err());
    assert!(adaptive.clone().cores([0]).build().is_ok());
    assert!(adaptive.idle_spin_us(1_000).build().is_ok());
}
