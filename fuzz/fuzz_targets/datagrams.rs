#![no_main]
//! See `tunnels/src/wireguard/fuzzing.rs`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnels::wireguard::fuzzing::run("datagrams", bytes));
