#![no_main]
//! See `tunnels/src/fuzzing.rs`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnels::fuzzing::run("join", bytes));
