//! See `quasar_accelerator::fuzzing::command_words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quasar_accelerator::fuzzing::command_words(bytes));
