//! quasar-accelerator: the FPGA accelerator as the host sees it. No Python.
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`isa`] | declares commands, queues, registers | the generated header, [`isa::Command`] |
//! | [`identity`] | hashes a configuration | what a bitstream must report |
//! | [`header`] | generates C++ headers and tables | `fpga/include/isa.hpp`, `config.hpp` |
//! | [`program`] | holds a compiled subnet | command lists, arena, layouts of input and output |
//! | [`compile`] | compiles a subnet | [`Program`] |
//! | [`shape`] | divides products into tiles and groups | [`shape::Shape`] |
//! | [`interpret`] | runs command lists on plain arrays, untimed | logits |
//!
//! `docs/accelerator.md` describes what the commands tell the hardware to do.

pub mod compile;
pub mod header;
pub mod identity;
mod image;
pub mod interpret;
pub mod isa;
pub mod program;
pub mod shape;

pub use program::{Program, Segment};
