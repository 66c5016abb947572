//! Notes the compiler and the build profile for the machine line of `ringwire bench`: a result
//! that does not say what it was compiled with cannot be compared. Does nothing else, and a
//! compiler that does not answer is no error.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CLI").is_none() {
        return;
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Ok(output) = Command::new(rustc).arg("--version").output() {
        let version = String::from_utf8_lossy(&output.stdout);
        println!("cargo:rustc-env=RINGWIRE_RUSTC={}", version.trim());
    }
    if let Ok(profile) = env::var("PROFILE") {
        println!("cargo:rustc-env=RINGWIRE_PROFILE={profile}");
    }
}
