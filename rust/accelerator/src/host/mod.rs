//! The host's side of the accelerator: its driver, and the ways to its registers and memory.
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`transport`] | declares access to registers, memory and interrupt | [`transport::Transport`] |
//! | [`sim`] | implements [`transport::Transport`] for the simulated device | [`sim::Sim`] |
//! | [`uio`] | implements [`transport::Transport`] for this machine's FPGA | [`uio::Uio`] |
//! | [`ownership`] | lets one process at a time use the FPGA | [`ownership::Ownership`] |
//! | [`faulty`] | spoils single accesses of a transport, for tests | [`faulty::Faulty`] |
//! | [`watch`] | notices calls of a transport that do not return | an error for each caller |
//! | [`driver`] | runs frames, two at a time | logits, or each frame's error |
//! | [`counters`] | reads the counters on the chip | each unit's counts |
//! | [`bringup`] | tries identity, registers, memory and transfers of a new board | what differs |

pub mod bringup;
pub mod counters;
pub mod driver;
pub mod faulty;
mod memory;
#[cfg(test)]
pub(crate) mod mock;
#[cfg(target_os = "linux")]
pub mod ownership;
pub mod sim;
pub mod transport;
#[cfg(target_os = "linux")]
pub mod uio;
mod uncached;
pub mod watch;
