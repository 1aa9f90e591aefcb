//! How an engine comes to an accelerator.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
pub use quasar_accelerator::device::Frame;
use quasar_accelerator::device::{Accelerator, Device};
use quasar_accelerator::driver::Deadlines;
use quasar_accelerator::sim::{Sim, SimLibrary};
use quasar_accelerator::Program;
use quasar_core::error::{Error, Result};
use quasar_core::hardware::Hardware;
use quasar_core::Subnet;

use crate::errors::to_py;

/// Memory of a simulated device beyond what the program takes: pages are made when they are written.
const SIM_MEMORY: u64 = 1 << 30;
/// Multiply-accumulates a second that a simulated device does at least, on any machine.
const SIM_MACS_PER_SECOND: f64 = 5e5;

/// Deadlines: `timeout` seconds for a segment, or what the device can be expected to keep.
fn deadlines(timeout: Option<f64>, expected: f64) -> Result<Deadlines> {
    let seconds = timeout.unwrap_or(expected);
    let segment = Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|&segment| !segment.is_zero())
        .ok_or_else(|| Error::InvalidValue(format!("timeout is {seconds}; it must be above 0")))?;
    Ok(Deadlines {
        segment,
        identity: segment.max(Duration::from_secs(5)),
    })
}

/// A simulated device.
pub fn simulated(
    subnet: &Arc<Subnet>,
    hardware: &Hardware,
    library: &Path,
    seed: u64,
    timeout: Option<f64>,
) -> Result<Arc<dyn Device>> {
    let expected = 30.0 + subnet.summary().macs as f64 / SIM_MACS_PER_SECOND;
    let library = Arc::new(SimLibrary::load(library)?);
    let accelerator = Accelerator::new(
        Arc::clone(subnet),
        Arc::new(Program::compile(subnet, hardware)?),
        deadlines(timeout, expected)?,
        move || Sim::open(Arc::clone(&library), seed, SIM_MEMORY),
    )?;
    Ok(Arc::new(accelerator))
}

/// The hardware configuration (TOML) that a simulated device's library was built from.
#[pyfunction]
pub fn sim_configuration(py: Python<'_>, library: PathBuf) -> PyResult<String> {
    py.detach(|| SimLibrary::load(&library).map(|library| library.configuration().to_owned()))
        .map_err(to_py)
}
