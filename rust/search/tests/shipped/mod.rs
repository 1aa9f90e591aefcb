//! Reads the package's boards and spaces.

#![allow(dead_code)] // each test reads some

use quasar_hardware::Board;
use quasar_search::Space;

pub fn read(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt");
    std::fs::read_to_string(format!("{folder}/{name}.toml")).unwrap()
}

pub fn board(name: &str) -> Board {
    Board::from_toml(&read(&format!("boards/{name}"))).unwrap()
}

pub fn space(name: &str) -> Space {
    Space::from_toml(&read(&format!("spaces/{name}"))).unwrap()
}
