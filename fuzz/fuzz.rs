//! `cargo +nightly fuzz run TARGET tests/corpus/TARGET`: every target is this file under its own name.
#![no_main]

mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let name = env!("CARGO_BIN_NAME");
    let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    target(data);
});
