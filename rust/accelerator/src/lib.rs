//! quasar-accelerator: the FPGA accelerator as the host sees it. No Python.
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`isa`] | declares commands and registers | the generated header, [`isa::Command`] |
//! | [`identity`] | hashes a configuration | the hash that a bitstream must report |
//! | [`header`] | generates C++ headers and tables | `fpga/include/isa.hpp`, `config.hpp` |
//! | [`program`] | holds a compiled subnet | command lists, arena, layouts of input and output |
//! | [`compile`] | compiles a subnet | [`Program`] |
//! | [`counts`] | declares what counters count | [`counts::Counts`] |
//! | [`disasm`] | lists commands for people | text |
//! | `unit` | lists the steps of each command | `Step`s |
//! | [`run`] | walks these steps: checks, clocks | [`run::check::Report`], [`run::time::Trace`] |
//! | [`host`] | reaches the accelerator and runs frames on it | [`host::driver::FrameQueue`] |
//! | [`shape`] | holds the sizes of the array and its memories | [`shape::Shape`] |
//!
//! `docs/accelerator.md` describes the commands.

#![deny(unsafe_code)]

mod arena_layout;
pub mod compile;
pub mod counts;
pub mod disasm;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod header;
pub mod host;
pub mod identity;
pub mod isa;
pub mod program;
pub mod run;
pub mod shape;
#[cfg(test)]
mod testing;
mod unit;

pub use program::{Program, Segment};
