//! Measures the peak of the roofline. Depends on the kernels' probe and tiers.

use std::time::Duration;

use pyo3::prelude::*;
use quasar_kernels::Kernels;

use crate::errors::{invalid_value, to_py};
use crate::tiers::{parse_tier, unsupported};

/// Returns the multiply-accumulates a second that one core reaches in registers with the tier's dot
/// product: the best run in `seconds`.
#[pyfunction]
pub fn peak_macs_per_second(py: Python<'_>, tier: &str, seconds: f64) -> PyResult<f64> {
    let duration = Duration::try_from_secs_f64(seconds)
        .map_err(|error| invalid_value(format!("seconds is {seconds}: {error}")))?;
    let tier = parse_tier(tier).map_err(to_py)?;
    let kernels = Kernels::new(tier).ok_or_else(|| to_py(unsupported(tier.name())))?;
    Ok(py.detach(|| kernels.peak_probe(duration)))
}
