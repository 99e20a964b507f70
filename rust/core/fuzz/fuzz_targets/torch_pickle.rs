//! The pickle inside a torch file, wrapped in a valid archive: mutated bytes rarely get past a zip directory.
#![no_main]

use llmdbg_fuzz::archive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    llmdbg_fuzz::read("a.pt", &archive(&[("archive/data.pkl", data), ("archive/data/0", &[7; 64])]));
});
