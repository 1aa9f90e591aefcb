//! Names of tiers and of ways to keep weights; what this CPU offers.

use pyo3::prelude::*;
use quasar_core::memory;
use quasar_core::network::supported_tiers;
use quasar_core::{Error, Storage, Tier};

use crate::errors::to_py;

/// Returns the tier of that name.
pub fn parse_tier(name: &str) -> quasar_core::Result<Tier> {
    name.parse().map_err(|_| unsupported(name))
}

const UNPACKED: &str = "unpacked";
const PACKED: &str = "packed";

/// Returns the name of a way of keeping weights.
pub fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::Unpacked => UNPACKED,
        Storage::Packed => PACKED,
    }
}

/// Returns the way of keeping weights that has this name.
pub fn parse_storage(name: &str) -> quasar_core::Result<Storage> {
    match name {
        UNPACKED => Ok(Storage::Unpacked),
        PACKED => Ok(Storage::Packed),
        _ => Err(Error::InvalidValue(format!(
            "weights is {name:?}; it must be \"{UNPACKED}\" or \"{PACKED}\""
        ))),
    }
}

/// Returns the error for a tier that does not exist or that this CPU lacks.
pub fn unsupported(tier: &str) -> Error {
    Error::UnsupportedTier {
        tier: tier.to_owned(),
        available: supported_tiers()
            .map(Tier::name)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Lists the tiers' names and whether this CPU has them, slowest first.
#[pyfunction]
pub fn tiers() -> Vec<(&'static str, bool)> {
    Tier::ALL
        .into_iter()
        .map(|tier| (tier.name(), tier.is_supported()))
        .collect()
}

/// Returns the number of threads of an engine for which none was given.
#[pyfunction]
pub fn default_threads() -> usize {
    quasar_core::pool::default_threads()
}

/// Checks that the process can have memory for another thread.
#[pyfunction]
pub fn check_thread_memory() -> PyResult<()> {
    memory::check_thread().map_err(to_py)
}
