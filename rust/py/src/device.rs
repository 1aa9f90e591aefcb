//! Opens accelerators: simulated, through Linux devices, through a Python object. `_native.Trials`
//! is for a board seen for the first time; `python/quasar_rt/bringup` uses it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyAttributeError, PyException};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};
use quasar_accelerator::host::bringup;
use quasar_accelerator::host::driver;
#[cfg(target_os = "linux")]
use quasar_accelerator::host::ownership::Ownership;
use quasar_accelerator::host::sim::SimLibrary;
use quasar_accelerator::host::transport::{Buffer, Transport};
#[cfg(target_os = "linux")]
use quasar_accelerator::host::uio::gpio::StatusLines;
#[cfg(target_os = "linux")]
use quasar_accelerator::host::uio::{lock_file, Roots};
use quasar_accelerator::host::watch::CLOSE_LIMIT;
use quasar_accelerator::Program;
use quasar_core::cpu::NEVER;
use quasar_core::error::{Error, Result};
use quasar_core::Subnet;
pub use quasar_device::open::simulated;
#[cfg(target_os = "linux")]
pub use quasar_device::open::uio;
use quasar_device::open::{deadlines, open_sim, FPGA_SECONDS};
#[cfg(target_os = "linux")]
use quasar_device::open::{uio_transport, Addresses, Folders};
use quasar_device::{Accelerator, Device};

use crate::errors::{interrupt, invalid_value, to_py};
use crate::foreign::{attribute, call_method, hangs, path};
use crate::interrupt::interruptible;

/// Holds what Linux shows of an accelerator: `quasar_accelerator::host::uio::Survey`.
#[pyclass(frozen, get_all, module = "quasar_rt._native")]
#[derive(Default)]
pub struct Survey {
    uio: Option<String>,
    uio_bytes: Option<u64>,
    memory: Option<String>,
    memory_bytes: Option<u64>,
    nodes: Vec<PathBuf>,
    attributes: Vec<PathBuf>,
    state: Option<String>,
    not_operating: Option<String>,
    not_loading: Option<String>,
    no_clocks: Option<String>,
    loading: Vec<PathBuf>,
}

#[pymethods]
impl Survey {
    /// Looks at the folders that stand for `/dev`, `/sys` and the firmware's. Accesses no register.
    #[new]
    fn new(dev: PathBuf, sys: PathBuf, firmware: PathBuf) -> Self {
        #[cfg(target_os = "linux")]
        {
            use quasar_accelerator::host::uio;

            let found = uio::Survey::new(&uio::Roots { dev, sys, firmware });
            Self {
                uio: found.uio,
                uio_bytes: found.uio_bytes,
                memory: found.memory,
                memory_bytes: found.memory_bytes,
                nodes: found.nodes,
                attributes: found.attributes,
                state: found.state,
                not_operating: found.not_operating,
                not_loading: found.not_loading,
                no_clocks: found.no_clocks,
                loading: found.loading,
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            drop((dev, sys, firmware));
            Self::default()
        }
    }
}

/// The right to use an accelerator: a lock that all processes know, or an entry of this process.
enum Right {
    #[cfg(target_os = "linux")]
    Locked(#[expect(dead_code, reason = "dropping it unlocks")] Ownership),
    Attached(usize),
}

/// Addresses of the transports that drivers of this process have. Locked as [`OPENED`] is.
static ATTACHED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

impl Right {
    /// Locks the file that a transport names in `lock_file`; without one, keeps the transport to
    /// one engine of this process.
    fn take(device: &str, object: &Bound<'_, PyAny>) -> Result<Self> {
        #[cfg(target_os = "linux")]
        match attribute(object, "lock_file").and_then(|file| path(object, &file)) {
            Ok(file) => {
                let taken = object.py().detach(|| Ownership::take(device, &file));
                return taken.map(Self::Locked);
            }
            Err(error) if error.is_instance_of::<PyAttributeError>(object.py()) => {}
            Err(error) => {
                return Err(Error::DeviceUnavailable {
                    device: device.into(),
                    problem: format!("lock_file: {error}"),
                })
            }
        }
        let address = object.as_ptr() as usize;
        let mut attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        if attached.insert(address) {
            return Ok(Self::Attached(address));
        }
        Err(Error::DeviceBusy {
            device: device.into(),
            owner: "another engine of this process".into(),
        })
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        if let Self::Attached(address) = self {
            Python::try_attach(|_| {
                let mut attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
                attached.remove(address);
            });
        }
    }
}

/// This machine's FPGA, which no other engine or process uses until it is released.
#[cfg(target_os = "linux")]
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct OwnedFpga(Mutex<Option<Ownership>>);

#[cfg(target_os = "linux")]
#[pymethods]
impl OwnedFpga {
    /// Takes the FPGA: see [`when_free`].
    #[new]
    #[pyo3(signature = (wait=0.0))]
    fn new(py: Python<'_>, wait: f64) -> PyResult<Self> {
        let file = lock_file(&Roots::default());
        let owned = py.detach(|| when_free(wait, |_| Ownership::take("FPGA", &file)))?;
        Ok(Self(Mutex::new(Some(owned))))
    }

    /// Returns the status of the accelerator's clocks, which the processing system's GPIO shows.
    #[staticmethod]
    fn clocks(py: Python<'_>) -> PyResult<u32> {
        let read = || StatusLines::open(&Roots::default().sys)?.read();
        let word = py.detach(read);
        word.map_err(|problem| {
            to_py(Error::DeviceUnavailable {
                device: "FPGA".into(),
                problem,
            })
        })
    }

    /// Returns the file whose lock is the FPGA's.
    #[staticmethod]
    fn lock_file() -> PathBuf {
        lock_file(&Roots::default())
    }

    fn release(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Opens an accelerator through a Python object with the methods of `quasar_rt.pynq.Transport`.
pub fn attached(
    subnet: &Arc<Subnet>,
    program: &Arc<Program>,
    object: &Arc<Py<PyAny>>,
    timeout: Option<f64>,
    cancel: &AtomicBool,
) -> Result<Arc<dyn Device>> {
    let (object, process) = (Arc::clone(object), std::process::id());
    let accelerator = Accelerator::new(
        Arc::clone(subnet),
        Arc::clone(program),
        deadlines(timeout, FPGA_SECONDS)?,
        cancel,
        move || Callback::new(&object, process),
    )?;
    Ok(Arc::new(accelerator))
}

/// A transport that calls a Python object.
struct Callback {
    /// The one reference that Rust holds, which the engine shows to the garbage collector.
    object: Arc<Py<PyAny>>,
    name: String,
    /// True if the object has the method `clocks`.
    has_clocks: bool,
    buffers: usize,
    _right: Right,
}

impl Callback {
    fn new(object: &Arc<Py<PyAny>>, process: u32) -> Result<Self> {
        let unavailable = |problem: String| Error::DeviceUnavailable {
            device: "pynq".into(),
            problem,
        };
        if std::process::id() != process {
            return Err(unavailable(
                "the FPGA belongs to the process that this one was forked from; make an engine there, or only here".into(),
            ));
        }
        let taken = Python::try_attach(|py| {
            let object = object.bind(py);
            if hangs(object, CLOSE_LIMIT) {
                return Err(unavailable(
                    "a call of this transport has not returned; end this process or the call, and restart the device".into(),
                ));
            }
            let name = attribute(object, "name").and_then(|name| name.extract());
            let name: String = name.map_err(|error| unavailable(error.to_string()))?;
            let has_clocks = match attribute(object, "clocks") {
                Ok(_) => true,
                Err(error) if error.is_instance_of::<PyAttributeError>(py) => false,
                Err(error) => return Err(unavailable(format!("clocks: {error}"))),
            };
            Ok((Right::take(&name, object)?, name, has_clocks))
        });
        let (right, name, has_clocks) =
            taken.unwrap_or_else(|| Err(unavailable("Python has ended".into())))?;
        Ok(Self {
            name,
            object: Arc::clone(object),
            has_clocks,
            buffers: 0,
            _right: right,
        })
    }

    fn fault(&self, problem: String) -> Error {
        Error::DeviceFault {
            device: self.name.clone(),
            problem,
        }
    }

    fn call<T>(
        &self,
        method: &str,
        arguments: impl for<'py> IntoPyObject<
            'py,
            Target = PyTuple,
            Output = Bound<'py, PyTuple>,
            Error = PyErr,
        >,
        extract: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Result<T> {
        let called = Python::try_attach(|py| {
            let result = call_method(self.object.bind(py), method, arguments);
            result.and_then(|value| extract(&value)).map_err(|error| {
                if error.is_instance_of::<PyException>(py) {
                    self.fault(format!("{method}: {error}"))
                } else {
                    interrupt(&self.name, error)
                }
            })
        });
        called.unwrap_or_else(|| Err(self.fault(format!("{method}: Python has ended"))))
    }
}

/// The arguments of a call without any: `()` has another error than [`Callback::call`] expects.
struct NoArguments;

impl<'py> IntoPyObject<'py> for NoArguments {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        Ok(PyTuple::empty(py))
    }
}

impl Transport for Callback {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn clocks(&mut self) -> Result<Option<u32>> {
        if !self.has_clocks {
            return Ok(None);
        }
        self.call("clocks", NoArguments, |value| value.extract().map(Some))
    }

    fn read(&mut self, register: u32) -> Result<u32> {
        self.call("read", (register,), |value| value.extract())
    }

    fn write(&mut self, register: u32, value: u32) -> Result<()> {
        self.call("write", (register, value), |_| Ok(()))
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
        let physical = self.call("allocate", (bytes,), |value| value.extract())?;
        self.buffers += 1;
        Ok(Buffer {
            index: self.buffers - 1,
            physical,
            bytes,
        })
    }

    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        buffer.range(offset, data.len())?;
        self.call("copy_in", (buffer.index, offset, data), |_| Ok(()))
    }

    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        buffer.range(offset, out.len())?;
        self.call("copy_out", (buffer.index, offset, out.len()), |value| {
            let bytes: &[u8] = value.extract()?;
            if bytes.len() == out.len() {
                out.copy_from_slice(bytes);
                Ok(())
            } else {
                Err(invalid_value(format!("it returned {} bytes", bytes.len())))
            }
        })
    }

    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        buffer.range(offset, bytes)?;
        self.call("flush", (buffer.index, offset, bytes), |_| Ok(()))
    }

    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        buffer.range(offset, bytes)?;
        self.call("invalidate", (buffer.index, offset, bytes), |_| Ok(()))
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        self.call("wait", (timeout.as_secs_f64(),), |value| value.extract())
    }
}

/// Accelerators that engines have opened. Locked only with the GIL, so a forked process never finds
/// it locked.
static OPENED: Mutex<Vec<Weak<dyn Device>>> = Mutex::new(Vec::new());
/// Accelerators that no engine has any more but whose drivers have not ended, because their
/// transports hang. Locked as [`OPENED`] is.
static LEFT: Mutex<Vec<Arc<dyn Device>>> = Mutex::new(Vec::new());
/// The interval at which an accelerator that is in use is tried again.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);
/// True once [`shut_down_devices`] was called.
static ENDING: AtomicBool = AtomicBool::new(false);

fn check_running() -> Result<()> {
    if ENDING.load(Ordering::Relaxed) {
        return Err(Error::DeviceUnavailable {
            device: "accelerator".into(),
            problem: "Python is ending; open accelerators earlier, or use the CPU".into(),
        });
    }
    Ok(())
}

/// Runs `take`, and repeats it for `wait` seconds while another engine or process has the
/// accelerator. Ctrl-C ends the wait.
fn when_free<T: Send>(
    wait: f64,
    take: impl Fn(&AtomicBool) -> Result<T> + Send + Sync,
) -> PyResult<T> {
    let start = Instant::now();
    let mut collected = false;
    interruptible(move |cancel| loop {
        match take(cancel) {
            Err(Error::DeviceBusy { .. }) if !collected => {
                // An engine in a cycle of references has its accelerator until it is collected.
                collected = true;
                Python::try_attach(|py| py.import("gc")?.call_method0("collect").map(drop));
            }
            Err(Error::DeviceBusy { .. }) if start.elapsed().as_secs_f64() < wait => {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                thread::sleep(BUSY_INTERVAL);
            }
            taken => return taken,
        }
    })
}

/// Opens an accelerator, as [`when_free`] does, and registers it for [`shut_down_devices`].
pub fn open(
    py: Python<'_>,
    wait: f64,
    open: impl Fn(&AtomicBool) -> Result<Arc<dyn Device>> + Send + Sync,
) -> PyResult<Arc<dyn Device>> {
    check_running().map_err(to_py)?;
    let device = py.detach(|| when_free(wait, open))?;
    if let Err(error) = check_running() {
        py.detach(|| device.shut_down(Instant::now() + CLOSE_LIMIT));
        return Err(to_py(error));
    }
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.retain(|device| device.strong_count() > 0);
    opened.push(Arc::downgrade(&device));
    drop(opened);
    release_left(py);
    Ok(device)
}

/// Ends a device that only the caller has; returns false if its driver has not ended. Such a device
/// is kept, so that its driver gets another chance at the end of the process. Ctrl-C ends the wait
/// if `signals` is true.
pub fn end(py: Python<'_>, device: Arc<dyn Device>, signals: bool) -> PyResult<bool> {
    let finish = |cancel: &AtomicBool| Ok(device.finish(cancel));
    let ended = py.detach(|| {
        if signals {
            interruptible(finish)
        } else {
            Ok(device.finish(&NEVER))
        }
    });
    match ended {
        Ok(true) => py.detach(|| drop(device)),
        _ => LEFT
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(device),
    }
    ended
}

/// Frees the accelerators of [`LEFT`] whose drivers have ended since.
fn release_left(py: Python<'_>) {
    let ended: Vec<_> = {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (ended, hanging) = left.drain(..).partition(|device| device.shut_down(now));
        *left = hanging;
        ended
    };
    // Unlocked: a transport that is freed may run anything.
    py.detach(|| drop(ended));
}

/// Ends the drivers of all accelerators, for the end of the process: a driver's thread must not
/// call Python once Python has ended. From then on, none can be opened. Returns false if some
/// driver has not ended after `seconds`; a later call waits for it again.
#[pyfunction]
pub fn shut_down_devices(py: Python<'_>, seconds: f64) -> bool {
    ENDING.store(true, Ordering::Relaxed);
    let opened: Vec<_> = {
        let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().filter_map(Weak::upgrade).collect()
    };
    py.detach(move || {
        let start = Instant::now();
        let limit = start + Duration::try_from_secs_f64(seconds).unwrap_or_default();
        for device in &opened {
            device.shut_down(start);
        }
        opened.iter().all(|device| device.shut_down(limit))
    })
}

/// Counts of what happened since the driver was opened.
#[pyclass(frozen, get_all, module = "quasar_rt._native")]
pub struct Counters {
    frames: u64,
    faults: u64,
    resets: u64,
    lost_interrupts: u64,
    spurious_interrupts: u64,
}

impl From<driver::Counters> for Counters {
    fn from(counters: driver::Counters) -> Self {
        let driver::Counters {
            frames,
            faults,
            resets,
            lost_interrupts,
            spurious_interrupts,
        } = counters;
        Self {
            frames,
            faults,
            resets,
            lost_interrupts,
            spurious_interrupts,
        }
    }
}

/// Returns the hardware configuration (TOML) that a simulated device's library was built from.
#[pyfunction]
pub fn sim_configuration(py: Python<'_>, library: PathBuf) -> PyResult<String> {
    py.detach(|| SimLibrary::load(&library).map(|library| library.configuration().to_owned()))
        .map_err(to_py)
}

/// The trials of a board's identity, registers, memory and transfers, without a subnet.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Trials {
    trials: bringup::TrialThread,
    /// The Python object behind the device, for the garbage collector.
    object: Option<Arc<Py<PyAny>>>,
}

impl Drop for Trials {
    fn drop(&mut self) {
        // Without the GIL, which the thread may need to end.
        Python::try_attach(|py| py.detach(|| self.trials.close()));
    }
}

impl Trials {
    fn new<T: Transport + 'static>(
        py: Python<'_>,
        hardware: &crate::hardware::Hardware,
        limit: f64,
        connect: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> PyResult<Self> {
        let hardware = hardware.hardware.clone();
        let trials = py.detach(|| {
            interruptible(|cancel| {
                let limit = deadlines(Some(limit), limit)?.segment;
                bringup::TrialThread::open(hardware, limit, cancel, connect)
            })
        })?;
        Ok(Self {
            trials,
            object: None,
        })
    }

    /// Makes one trial, without the GIL. Ctrl-C ends the wait.
    fn make<T: Send + 'static>(
        &self,
        py: Python<'_>,
        trial: impl FnOnce(&mut bringup::Trials) -> Result<T> + Send + 'static,
    ) -> PyResult<T> {
        py.detach(|| interruptible(|cancel| self.trials.make(cancel, trial)))
    }
}

/// Place, value written, value read.
type Difference = (String, u32, u32);

/// Transfers, interrupts, and the suspected kernel and the problem of each failure.
type TransferReport = (usize, usize, Vec<(&'static str, String)>);

fn listed(differences: Vec<bringup::Difference>) -> Vec<Difference> {
    let parts = |difference: bringup::Difference| {
        let bringup::Difference {
            place,
            written,
            read,
        } = difference;
        (place, written, read)
    };
    differences.into_iter().map(parts).collect()
}

#[pymethods]
impl Trials {
    /// Opens a simulated device, from the library of its configuration.
    #[staticmethod]
    #[pyo3(signature = (hardware, library, seed, limit))]
    fn simulated(
        py: Python<'_>,
        hardware: &crate::hardware::Hardware,
        library: PathBuf,
        seed: u64,
        limit: f64,
    ) -> PyResult<Self> {
        Self::new(py, hardware, limit, move || {
            open_sim(&Arc::new(SimLibrary::load(&library)?), seed)
        })
    }

    /// Opens this machine's FPGA without PYNQ.
    #[cfg(target_os = "linux")]
    #[staticmethod]
    #[pyo3(signature = (hardware, addresses, bitstream, roots, limit))]
    fn uio(
        py: Python<'_>,
        hardware: &crate::hardware::Hardware,
        addresses: Option<Addresses>,
        bitstream: Option<(PathBuf, f64)>,
        roots: Option<Folders>,
        limit: f64,
    ) -> PyResult<Self> {
        Self::new(py, hardware, limit, move || {
            uio_transport(addresses, bitstream.as_ref(), roots)?()
        })
    }

    /// Opens an accelerator through a Python object.
    #[staticmethod]
    #[pyo3(signature = (hardware, transport, limit))]
    fn attached(
        py: Python<'_>,
        hardware: &crate::hardware::Hardware,
        transport: Py<PyAny>,
        limit: f64,
    ) -> PyResult<Self> {
        let transport = Arc::new(transport);
        let object = Arc::clone(&transport);
        let connect = move || Callback::new(&object, std::process::id());
        let mut trials = Self::new(py, hardware, limit, connect)?;
        trials.object = Some(transport);
        Ok(trials)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        self.object
            .as_ref()
            .map_or(Ok(()), |object| visit.call(object.as_ref()))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.close(py);
    }

    /// Waits until the accelerator has its clocks, without an access to a register. Returns false
    /// if nothing shows its clocks.
    fn clocks(&self, py: Python<'_>) -> PyResult<bool> {
        self.make(py, bringup::Trials::clocks)
    }

    /// Returns name, found and expected value of each part of the identity.
    fn identity(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, u64, u64)>> {
        let parts = self.make(py, bringup::Trials::identity)?;
        let parts = parts.into_iter();
        Ok(parts
            .map(|part| (part.what, part.found, part.expected))
            .collect())
    }

    /// Returns the registers that did not keep what was written.
    fn registers(&self, py: Python<'_>) -> PyResult<Vec<Difference>> {
        self.make(py, bringup::Trials::registers).map(listed)
    }

    /// Returns the places of memory that did not keep what was written.
    fn memory(&self, py: Python<'_>) -> PyResult<Vec<Difference>> {
        self.make(py, bringup::Trials::memory).map(listed)
    }

    /// Returns the number of transfers, of store's interrupts, and the suspected kernel and the
    /// problem of each failure.
    fn transfers(&self, py: Python<'_>) -> PyResult<TransferReport> {
        let found = self.make(py, bringup::Trials::transfers)?;
        Ok((found.runs, found.interrupts, found.problems))
    }

    /// Returns the number of runs of fetch alone, and of the interrupts that came for them.
    fn fetch_interrupts(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        self.make(py, bringup::Trials::fetch_interrupts)
    }

    /// Makes a simulated device fail once.
    fn inject(&self, py: Python<'_>, fault: String, after: u64) -> PyResult<()> {
        self.make(py, move |trials| trials.inject(&fault, after))
    }

    /// Closes the device. Returns false if a call of its transport hangs.
    fn close(&self, py: Python<'_>) -> bool {
        py.detach(|| self.trials.close())
    }
}
