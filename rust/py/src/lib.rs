//! `quasar_rt._native`: the Rust core as Python sees it. Only bindings: the work is `quasar-core`'s, the API that users read is
//! `python/quasar_rt`'s, and `_native.pyi` there has the types (stubtest compares them with this module).

// PyO3 hands arguments over by value; `Python::attach` needs a closure, a method's path has too narrow a lifetime.
#![allow(
    clippy::needless_pass_by_value,
    clippy::redundant_closure_for_method_calls
)]

mod accelerator;
mod device;
mod engine;
mod errors;
mod hardware;
mod peak;
mod rows;
mod search;
mod space;
mod subnet;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    /// Threads of one engine, at most.
    #[pymodule_export]
    const MAX_THREADS: usize = quasar_core::cpu::MAX_THREADS;

    #[pymodule_export]
    use crate::accelerator::{replay, Program};
    #[pymodule_export]
    use crate::device::sim_configuration;
    #[pymodule_export]
    use crate::engine::{default_threads, preprocess, tiers, Engine, Frame, Prepared};
    #[pymodule_export]
    use crate::errors::error_classes;
    #[pymodule_export]
    use crate::hardware::{estimate, Board, CostTable, Hardware, Workload};
    #[pymodule_export]
    use crate::peak::peak_macs_per_second;
    #[pymodule_export]
    use crate::rows::{pack_rows, quantize_rows, row_pairs, unpack_rows};
    #[pymodule_export]
    use crate::search::{
        hypervolume, kendall_tau, knapsack, knapsack_front, proxy_scores, Predictor, Search,
    };
    #[pymodule_export]
    use crate::space::{eight_bit_rows, Space};
    #[pymodule_export]
    use crate::subnet::Subnet;
}
