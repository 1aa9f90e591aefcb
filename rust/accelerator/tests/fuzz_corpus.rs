//! Replays the fuzz corpus of commands and device answers.

use quasar_accelerator::fuzzing;
use quasar_core::fuzzing::replay;

#[test]
fn command_words() {
    replay("command_words", fuzzing::command_words);
}

#[test]
fn device_output() {
    replay("device_output", fuzzing::device_output);
}
