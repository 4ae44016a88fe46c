//! See `niwaki_fuzz::data`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| niwaki_fuzz::data::run(data));
