//! See `quasar_core::fuzzing::preprocess`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_core::fuzzing::preprocess(bytes));
