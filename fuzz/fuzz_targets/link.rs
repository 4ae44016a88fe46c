//! See `niwaki_fuzz::link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| niwaki_fuzz::link::run(data));
