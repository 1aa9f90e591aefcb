//! See `quasar_search::fuzzing::search_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_search::fuzzing::search_state(bytes));
