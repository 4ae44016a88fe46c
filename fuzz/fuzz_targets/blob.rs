//! See `niwaki_fuzz::blob`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| niwaki_fuzz::blob::run(data));
