//! See `quasar_accelerator::fuzzing::device_output`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_accelerator::fuzzing::device_output(bytes));
