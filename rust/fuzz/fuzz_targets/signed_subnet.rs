//! See `quasar_accelerator::fuzzing::signed_subnet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_accelerator::fuzzing::signed_subnet(bytes));
