#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| llmdbg_fuzz::read("intensor0.bin", data));
