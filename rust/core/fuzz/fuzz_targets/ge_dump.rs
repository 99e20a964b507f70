#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| llmdbg_fuzz::read("Add.Add.5.3.1700000000000000", data));
