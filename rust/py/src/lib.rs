//! `quasar_rt._native`: the Rust crates as Python sees them. This crate holds bindings only. The
//! API for users is `python/quasar_rt`; `_native.pyi` there declares this module's types, and
//! stubtest compares the two.

// PyO3 hands arguments over by value; `Python::attach` needs a closure, a method's path has too
// narrow a lifetime.
#![allow(
    clippy::needless_pass_by_value,
    clippy::redundant_closure_for_method_calls
)]

mod accelerator;
mod device;
mod engine;
mod errors;
mod foreign;
mod hardware;
mod image;
mod interrupt;
mod output;
mod peak;
mod rows;
mod search;
mod space;
mod subnet;
mod tiers;

use pyo3::prelude::*;

// Nothing was tested without the GIL: a free-threaded interpreter turns it on, and says so.
#[pymodule(gil_used = true)]
mod _native {
    /// Threads of one engine, at most.
    #[pymodule_export]
    const MAX_THREADS: usize = quasar_core::pool::MAX_THREADS;

    /// Seconds that a driver has to end when Python does.
    #[pymodule_export]
    const CLOSE_SECONDS: f64 = quasar_accelerator::host::watch::CLOSE_LIMIT.as_secs_f64();

    /// The accelerator's name in the device tree.
    #[pymodule_export]
    const UIO_NODE: &str = quasar_accelerator::identity::NODE;

    /// The version of the interface to the accelerator, which a bitstream reports.
    #[pymodule_export]
    const ABI: u32 = quasar_accelerator::isa::ABI;

    /// Bytes of the accelerator's registers.
    #[pymodule_export]
    const REGISTER_BYTES: u32 = quasar_accelerator::isa::REGISTER_BYTES;

    #[pymodule_export]
    use crate::accelerator::{periods, replay, replay_periods, Program};
    #[cfg(target_os = "linux")]
    #[pymodule_export]
    use crate::device::OwnedFpga;
    #[pymodule_export]
    use crate::device::{shut_down_devices, sim_configuration, Counters, Survey, Trials};
    #[pymodule_export]
    use crate::engine::{unit_vector, Closer, Engine, FrameHandle};
    #[pymodule_export]
    use crate::errors::error_classes;
    #[pymodule_export]
    use crate::foreign::threads_in_python;
    #[pymodule_export]
    use crate::hardware::{estimate, Board, CostTable, Designs, Hardware, WidthChoices, Workload};
    #[pymodule_export]
    use crate::image::{check_frame, is_decoded, preprocess, Prepared};
    #[pymodule_export]
    use crate::output::Output;
    #[pymodule_export]
    use crate::peak::peak_macs_per_second;
    #[pymodule_export]
    use crate::rows::{pack_rows, quantize_rows, row_pairs, unpack_rows};
    #[pymodule_export]
    use crate::search::{
        hypervolume, kendall_tau, knapsack, knapsack_front, proxy_front, proxy_scores, Search,
    };
    #[pymodule_export]
    use crate::space::{eight_bit_rows, Space};
    #[pymodule_export]
    use crate::subnet::Subnet;
    #[pymodule_export]
    use crate::tiers::{check_thread_memory, default_threads, tiers};
}
