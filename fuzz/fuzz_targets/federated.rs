//! See `niwaki_fuzz::federated`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| niwaki_fuzz::federated::run(data));
