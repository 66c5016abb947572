//! Coverage-guided run of `ringwire::fuzzing::endpoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwire::fuzzing::endpoint(data));
