//! The team of `quasar-kernels` under loom: `make loom`. The tests are in `team/model.rs` there.

#[path = "../../kernels/src/team/mod.rs"]
pub mod team;
