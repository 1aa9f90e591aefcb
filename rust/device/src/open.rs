//! Opens accelerators: simulated ones, and those that Linux shows as devices. Depends on the
//! accelerator's host code.

use std::path::Path;
#[cfg(target_os = "linux")]
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Duration;

use quasar_accelerator::host::driver::Deadlines;
use quasar_accelerator::host::faulty::Faulty;
use quasar_accelerator::host::sim::{Sim, SimLibrary};
#[cfg(target_os = "linux")]
use quasar_accelerator::host::uio::Roots;
use quasar_accelerator::Program;
use quasar_core::error::{Error, Result};
use quasar_core::memory;
use quasar_core::Subnet;
use quasar_hardware::Hardware;

use crate::{Accelerator, Device};

/// Memory of a simulated device, more than any program takes: pages are allocated when they are
/// written.
const SIM_MEMORY: u64 = 1 << 30;
/// Bytes that a simulated device takes besides its memory: mostly its threads' stacks.
const SIM_THREADS: usize = 512 << 20;
/// Multiply-accumulates a second that a simulated device reaches on any machine.
const SIM_MACS_PER_SECOND: f64 = 1e7;

/// Returns the deadlines: `timeout` seconds for a segment, or else `expected` seconds.
///
/// # Errors
/// [`Error::InvalidValue`] for a time that is not above 0.
pub fn deadlines(timeout: Option<f64>, expected: f64) -> Result<Deadlines> {
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

/// Opens a simulated device's library. `seed` determines the order in which its processes run.
///
/// # Errors
/// [`Error::OutOfMemory`]; [`Error::DeviceUnavailable`] if the device does not start.
pub fn open_sim(library: &Arc<SimLibrary>, seed: u64) -> Result<Faulty<Sim>> {
    // The host's view of the memory is a copy.
    memory::check("a simulated device", 2 * SIM_MEMORY as usize + SIM_THREADS)?;
    Sim::open(Arc::clone(library), seed, SIM_MEMORY).map(Faulty::new)
}

/// Opens a simulated device, from the library of its configuration: see [`open_sim`].
///
/// # Errors
/// Those of [`open_sim`], of [`Program::compile`] and of [`Accelerator::new`].
pub fn simulated(
    subnet: &Arc<Subnet>,
    hardware: &Hardware,
    library: &Path,
    seed: u64,
    timeout: Option<f64>,
    cancel: &AtomicBool,
) -> Result<Arc<dyn Device>> {
    let expected = 30.0 + subnet.summary().macs as f64 / SIM_MACS_PER_SECOND;
    let library = Arc::new(SimLibrary::load(library)?);
    let accelerator = Accelerator::new(
        Arc::clone(subnet),
        Arc::new(Program::compile(subnet, hardware)?),
        deadlines(timeout, expected)?,
        cancel,
        move || open_sim(&library, seed),
    )?;
    Ok(Arc::new(accelerator))
}

/// Seconds that an FPGA gets for a segment: a thousand times a segment's duration.
pub const FPGA_SECONDS: f64 = 2.0;

/// The addresses of registers and of reserved memory in `/dev/mem`, then the memory's size.
pub type Addresses = (u64, u64, usize);
/// Folders that stand for `/dev`, `/sys` and the firmware's, in tests.
pub type Folders = (PathBuf, PathBuf, PathBuf);

/// Loads a bitstream, if one is named, after setting the fabric's clock to its own, in Hz. Returns
/// a function that opens this machine's FPGA without PYNQ. With no `addresses`, the registers are
/// the UIO device of the accelerator's name and the memory is u-dma-buf's.
///
/// # Errors
/// [`Error::DeviceUnavailable`] for what is missing; those of loading a bitstream.
#[cfg(target_os = "linux")]
pub fn uio_transport(
    addresses: Option<Addresses>,
    bitstream: Option<&(PathBuf, f64)>,
    roots: Option<Folders>,
) -> Result<impl Fn() -> Result<quasar_accelerator::host::uio::Uio> + Send + Sync> {
    use quasar_accelerator::host::uio::{load_bitstream, Memory, Region, Registers, Uio};
    use quasar_accelerator::identity::NODE;

    let roots = roots.map_or_else(Roots::default, |(dev, sys, firmware)| Roots {
        dev,
        sys,
        firmware,
    });
    if let Some((bitstream, hertz)) = bitstream {
        load_bitstream(&roots, bitstream, *hertz)?;
    }
    let missing = |problem: String| Error::DeviceUnavailable {
        device: "uio".into(),
        problem,
    };
    let (registers, memory) = if let Some((registers, base, bytes)) = addresses {
        let memory = Memory::Reserved(Region { base, bytes });
        (Registers::DevMem(registers), memory)
    } else {
        let registers = Registers::find(&roots).ok_or_else(|| {
            missing(format!(
                "no UIO device is named {NODE}; is the device tree's node there?"
            ))
        })?;
        let memory = Memory::find(&roots).ok_or_else(|| {
            missing("there is no u-dma-buf; load its module, or name a reserved region".into())
        })?;
        (registers, memory)
    };
    Ok(move || Uio::open(&roots, &registers, &memory))
}

/// Opens an accelerator on this machine's FPGA: see [`uio_transport`].
///
/// # Errors
/// Those of [`uio_transport`] and of [`Accelerator::new`].
#[cfg(target_os = "linux")]
pub fn uio(
    subnet: &Arc<Subnet>,
    program: &Arc<Program>,
    addresses: Option<Addresses>,
    bitstream: Option<&(PathBuf, f64)>,
    roots: Option<Folders>,
    timeout: Option<f64>,
    cancel: &AtomicBool,
) -> Result<Arc<dyn Device>> {
    let connect = uio_transport(addresses, bitstream, roots)?;
    let accelerator = Accelerator::new(
        Arc::clone(subnet),
        Arc::clone(program),
        deadlines(timeout, FPGA_SECONDS)?,
        cancel,
        connect,
    )?;
    Ok(Arc::new(accelerator))
}
