//! quasar-accelerator: the FPGA accelerator as the host sees it. No Python.
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`isa`] | declares commands, queues, registers | the generated header, [`isa::Command`] |
//! | [`identity`] | hashes a configuration | what a bitstream must report |
//! | [`header`] | generates C++ headers and tables | `fpga/include/isa.hpp`, `config.hpp` |
//!
//! `docs/accelerator.md` describes what the commands tell the hardware to do.

pub mod driver;
pub mod header;
pub mod identity;
pub mod isa;
#[cfg(test)]
mod mock;
pub mod program;
pub mod transport;
