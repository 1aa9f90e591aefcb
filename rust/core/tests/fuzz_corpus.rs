//! Replays the fuzz corpus: every input that was ever interesting, on the ordinary build.

use quasar_core::fuzzing::{self, corpus, replay};
use quasar_core::Subnet;

#[test]
fn subnet_bytes() {
    replay("subnet_bytes", fuzzing::subnet_bytes);
}

#[test]
fn preprocess() {
    replay("preprocess", fuzzing::preprocess);
}

#[test]
fn camera_frame() {
    replay("camera_frame", fuzzing::camera_frame);
}

#[test]
fn only_the_golden_subnets_of_the_corpus_are_accepted() {
    let mut accepted: Vec<_> = corpus("subnet_bytes")
        .into_iter()
        .filter(|(_, bytes)| Subnet::from_bytes(bytes).is_ok())
        .map(|(name, _)| name)
        .collect();
    accepted.sort();
    assert_eq!(accepted, ["all-4", "mean-after-norm", "overlap"]);
}
