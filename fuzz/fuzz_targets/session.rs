//! Coverage-guided run of `ringwire::fuzzing::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwire::fuzzing::session(data));
