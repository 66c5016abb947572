//! Coverage-guided run of `ringwire::fuzzing::recording`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwire::fuzzing::recording(data));
