//! `cargo +nightly fuzz run TARGET tests/corpus/TARGET`: every target is this file under its own name.
#![no_main]

mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run(env!("CARGO_BIN_NAME"), data));
