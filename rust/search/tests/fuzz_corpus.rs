//! Replays the fuzz corpus of the settings files and of saved searches.

use quasar_core::fuzzing::replay;
use quasar_search::fuzzing;

#[test]
fn search_state() {
    replay("search_state", fuzzing::search_state);
}

#[test]
fn space_toml() {
    replay("space_toml", fuzzing::space_toml);
}

#[test]
fn hardware_toml() {
    replay("hardware_toml", fuzzing::hardware_toml);
}
