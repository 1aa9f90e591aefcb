//! Replays the fuzz corpus of signed subnets, commands and device answers.

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

#[test]
fn signed_subnet() {
    replay("signed_subnet", fuzzing::signed_subnet);
}
