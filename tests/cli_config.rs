//! `ringwire config` as a user sees it: a file that is read back, and what is wrong with one.
//!
//! Runs the built binary. Not here: what stands at each key (`src/config/listing.rs`).

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ringwire::Config;

#[path = "support/guard.rs"]
mod guard;
#[path = "support/output.rs"]
mod output;

/// Files of this build, and registries, of which this command makes none.
const RUNTIME: &str = env!("CARGO_TARGET_TMPDIR");

fn config(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.arg("config").args(arguments).stdin(Stdio::null());
    output::output(command.env_remove("RUST_LOG").env("XDG_RUNTIME_DIR", RUNTIME))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command writes UTF-8")
}

/// A file of this build, of this name.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(RUNTIME).join(name);
    std::fs::write(&path, text).expect("a folder of this build");
    path
}

/// What the command prints, which it must do with nothing to complain of.
fn printed(arguments: &[&str]) -> String {
    let output = config(arguments);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    text(&output.stdout)
}

#[test]
fn defaults_are_printed_as_a_file_that_reads_back() {
    let printed = printed(&[]);
    // Nothing is set by an empty file.
    assert_eq!(Config::from_toml(&printed), Config::from_toml(""), "{printed}");
    let expected = "\n# bytes, 1024 to 268435456\nframe_bytes_max = 4194304\n";
    assert!(printed.contains(expected), "{printed}");
}

#[test]
fn settings_in_force_are_printed() {
    let path = file("in-force.toml", "idle = \"park\"\nring_entries = 100\n");
    let path = path.to_str().expect("UTF-8");
    let printed = printed(&["--config", path]);
    // Rounded up, as it is in force.
    assert!(printed.contains("\n# 8 to 4096; default 512\nring_entries = 128\n"), "{printed}");
    assert_eq!(Config::from_toml(&printed), Config::from_file(path), "{printed}");
}

#[test]
fn invalid_file_is_named_with_what_is_wrong() {
    let check = |name: &str, content: &str, expected: &str| {
        let path = file(name, content);
        let output = config(&["--config", path.to_str().expect("UTF-8")]);
        let said = text(&output.stderr);
        assert_eq!(said, format!("error: {}: {expected}\n", path.display()));
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stdout), "");
    };
    let near = "unknown key frame_max_bytes in line 2: did you mean frame_bytes_max?";
    check("unknown.toml", "idle = \"park\"\nframe_max_bytes = 1\n", near);
    let bounds = "idle_spin_us = 9000000 is out of bounds: 0 to 1000000";
    check("bounds.toml", "idle_spin_us = 9_000_000\n", bounds);
    let relation = "reconnect_delay_max_ms = 1 must be at least reconnect_delay_ms = 2";
    check("relation.toml", "reconnect_delay_max_ms = 1\n", relation);
}
