//! See `quasar_core::fuzzing::subnet_bytes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_core::fuzzing::subnet_bytes(bytes));
