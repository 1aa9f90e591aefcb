//! See `quasar_core::fuzzing::camera_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_core::fuzzing::camera_frame(bytes));
