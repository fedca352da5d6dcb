//! See `harness.rs`.
#![no_main]

#[path = "../harness.rs"]
#[allow(dead_code, reason = "one target of five")]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    harness::header(data);
});
