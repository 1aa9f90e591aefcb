//! Replays the fuzz corpus: every input that was ever interesting, on the ordinary build.

use std::path::Path;
use std::time::{Duration, Instant};

use quasar_core::fuzzing;
use quasar_core::Subnet;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files =
        std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let read =
        |path: std::path::PathBuf| (path.display().to_string(), std::fs::read(&path).unwrap());
    files.map(|entry| read(entry.unwrap().path())).collect()
}

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() > 5, "the corpus of {target} is missing");
    for (name, bytes) in corpus {
        let start = Instant::now();
        run(&bytes);
        assert!(start.elapsed() < Duration::from_secs(20), "{name} hangs");
    }
}

#[test]
fn subnet_bytes() {
    replay("subnet_bytes", fuzzing::subnet_bytes);
}

#[test]
fn preprocess() {
    replay("preprocess", fuzzing::preprocess);
}

#[test]
fn rows() {
    replay("rows", fuzzing::rows);
}

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

#[test]
fn only_the_golden_subnets_of_the_corpus_are_accepted() {
    let mut accepted: Vec<_> = corpus("subnet_bytes")
        .into_iter()
        .filter(|(_, bytes)| Subnet::from_bytes(bytes).is_ok())
        .map(|(name, _)| name.rsplit('/').next().unwrap().to_owned())
        .collect();
    accepted.sort();
    assert_eq!(accepted, ["all-4", "mean-after-norm", "overlap"]);
}
