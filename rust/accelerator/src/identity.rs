//! Names the accelerator, and computes the identity of a bitstream.
//!
//! Depends on the hardware's configuration.

use quasar_hardware::Hardware;
use sha2::{Digest, Sha256};

/// The accelerator's name in the device tree: `/sys/class/uio/uioN/name`.
pub const NODE: &str = "quasar";

/// Returns the hash that the bitstream of a configuration reports: the first 64 bits of the SHA-256
/// of the configuration's TOML form, without margins.
///
/// # Panics
/// Never: a digest has 32 bytes.
pub fn configuration_hash(hardware: &Hardware) -> u64 {
    let digest = Sha256::digest(hardware.built_toml());
    u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
}
