//! quasar-accelerator: the FPGA accelerator as the host sees it. No Python.
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`isa`] | declares commands, queues, registers | the generated header, [`isa::Command`] |
//! | [`identity`] | hashes a configuration | the hash that a bitstream must report |
//! | [`header`] | generates C++ headers and tables | `fpga/include/isa.hpp`, `config.hpp` |
//! | [`program`] | holds a compiled subnet | command lists, arena, layouts of input and output |
//! | [`compile`] | compiles a subnet | [`Program`] |
//! | [`disasm`] | lists commands for people | text |
//! | `unit` | lists the steps of each command | `Step`s |
//! | [`run`] | walks these steps: checks, clocks, computes | [`run::check::Report`], [`run::time::Trace`] |
//! | [`shape`] | holds the sizes of the array and its memories | [`shape::Shape`] |
//! | [`transport`] | declares access to registers, memory and interrupt | [`transport::Transport`] |
//! | [`sim`] | implements [`transport::Transport`] for the simulated device | [`sim::Sim`] |
//! | [`uio`] | implements [`transport::Transport`] for this machine's FPGA | [`uio::Uio`] |
//! | [`faulty`] | spoils single accesses of a transport, for tests | [`faulty::Faulty`] |
//! | [`watch`] | notices calls of a transport that do not return | an error for each caller |
//! | [`driver`] | runs frames, two at a time | logits, or each frame's error |
//! | [`counters`] | reads the counters on the chip | each unit's counts |
//! | [`device`] | declares what an engine runs frames on: CPU or accelerator | [`device::Device`] |
//! | [`bringup`] | tries identity, registers, memory and transfers of a new board | what differs |
//!
//! `docs/accelerator.md` describes the commands.

#![deny(unsafe_code)]

mod arena_layout;
pub mod bringup;
pub mod compile;
pub mod counters;
pub mod device;
pub mod disasm;
pub mod driver;
pub mod faulty;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod header;
mod host_memory;
pub mod identity;
pub mod isa;
#[cfg(test)]
mod mock;
#[cfg(target_os = "linux")]
pub mod ownership;
pub mod program;
pub mod run;
pub mod shape;
pub mod sim;
#[cfg(test)]
mod testing;
pub mod transport;
#[cfg(target_os = "linux")]
pub mod uio;
mod uncached;
mod unit;
pub mod watch;

pub use program::{Program, Segment};
