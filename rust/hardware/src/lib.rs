//! quasar-hardware: the accelerator's boards, configurations and workloads. The compiler, the cost
//! model and the search share them.
//!
//! | module | what it does |
//! |---|---|
//! | [`settings`] | reads settings files in TOML |
//! | [`boards`] | reads boards: resources, memory, processor |
//! | [`configuration`] | describes array, lanes, buffers and clock |
//! | `checked` | makes checked hardware of a board and a configuration |
//! | [`workload`] | holds a network's sizes and row widths |
//! | [`packing`] | packs two products into one DSP slice |
//! | [`tiling`] | divides a product into the tiles that the array works on |
//! | [`design`] | lists memories and queues, as they are built and counted |
//! | [`array_timing`] | declares the cycles between the events of the array in RTL |
//! | [`declared`] | declares intervals, depths and sizes of the accelerator's loops |

#![forbid(unsafe_code)]

pub mod array_timing;
pub mod boards;
mod checked;
pub mod configuration;
pub mod declared;
pub mod design;
pub mod packing;
pub mod settings;
pub mod tiling;
pub mod workload;

pub use boards::Board;
pub use configuration::{Configuration, Hardware, Mode};
pub use workload::Workload;
