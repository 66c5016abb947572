//! Coverage-guided run of `ringwire::fuzzing::wire_decode`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwire::fuzzing::wire_decode(data));
