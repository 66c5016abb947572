//! Coverage-guided run of `ringwire::fuzzing::config_toml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwire::fuzzing::config_toml(data));
