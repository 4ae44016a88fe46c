//! See `niwaki_fuzz::tflite`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| niwaki_fuzz::tflite::run(data));
