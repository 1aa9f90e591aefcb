//! See `quasar_core::fuzzing::rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_core::fuzzing::rows(bytes));
