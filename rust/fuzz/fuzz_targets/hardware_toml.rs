//! See `quasar_search::fuzzing::hardware_toml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_search::fuzzing::hardware_toml(bytes));
