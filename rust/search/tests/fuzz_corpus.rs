//! Replays the fuzz corpus of the settings files.

use quasar_core::fuzzing::replay;
use quasar_search::fuzzing;

#[test]
fn space_toml() {
    replay("space_toml", fuzzing::space_toml);
}

#[test]
fn hardware_toml() {
    replay("hardware_toml", fuzzing::hardware_toml);
}
