//! `_native.Engine`: images in, logits out, on the CPU or an accelerator. The GIL is released while
//! Rust works.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray3};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use quasar_accelerator::counts;
use quasar_accelerator::isa::CountedUnit;
use quasar_accelerator::Program;
use quasar_core::cpu::{FrameTime, NEVER};
use quasar_core::embedding;
use quasar_core::pool::{IdlePool, PerProcess};
use quasar_core::preprocess::{ImageView, Preprocessor};
use quasar_core::{nibble_check, Error, Executor, Network, Tier};
use quasar_device::{Device, PendingFrame, Profile};

use crate::device;
use crate::errors::{invalid_value, to_py};
use crate::hardware::Hardware;
use crate::image::{load_numpy, Input, Prepared};
use crate::interrupt::interruptible;
use crate::output::Output;
use crate::subnet::Subnet;
use crate::tiers::{parse_storage, parse_tier, storage_name};

/// Limit in multiply-accumulates. Ctrl-C can end a larger frame, at the cost of starting a thread.
/// Such a frame takes at least 50 ms on any core; the scalar tier is some 32 times slower.
const SLOW_MACS: u64 = 8 << 30;

/// The time for which Ctrl-C waits in a batch, about, if no image takes longer.
const PART_OF_A_BATCH: Duration = Duration::from_millis(100);

/// Commands, busy, blocked and starved cycles; `None` where a unit's lack of input does not show.
type Counts = (u64, u64, u64, Option<u64>);
/// Cycles of all frames by the device and of one by the event model; then each unit's name and
/// counts, likewise.
type UnitCounts = (u64, u64, Vec<(&'static str, Counts, Counts)>);

fn unit_counts(profile: &Profile) -> UnitCounts {
    let units = CountedUnit::ALL.map(|unit| {
        let counts = |counts: &counts::Counts| {
            let counts = counts.unit(unit);
            let starved = unit.main_input().map(|_| counts.starved);
            (counts.commands, counts.busy, counts.blocked, starved)
        };
        (
            unit.name(),
            counts(&profile.counted),
            counts(&profile.modelled),
        )
    });
    let cycles = |counts: &counts::Counts| counts.cycles;
    (
        cycles(&profile.counted),
        cycles(&profile.modelled),
        units.into(),
    )
}

/// Largest number of preprocessors that are kept idle.
const MOST_PREPARING: usize = 4;

/// A device with a subnet.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Engine {
    /// `None` once the engine is dropped.
    device: Mutex<Option<Arc<dyn Device>>>,
    /// The Python object behind the device, for the garbage collector.
    transport: Option<Arc<Py<PyAny>>>,
    /// The same device if it is the CPU.
    cpu: Option<Arc<Executor>>,
    subnet: Arc<quasar_core::Subnet>,
    /// True if a frame may take so long that Ctrl-C should end it.
    slow: bool,
    /// Nanoseconds of one image on each thread, in a batch's last part; 0 before the first one.
    round_ns: AtomicU64,
    /// Idle preprocessors of [`Engine::prepare`].
    preparing: PerProcess<IdlePool<Preprocessor>>,
}

/// Compiles a subnet for an accelerator, without the GIL.
fn compiled(
    py: Python<'_>,
    subnet: &Subnet,
    hardware: &Hardware,
) -> PyResult<(Arc<quasar_core::Subnet>, Arc<Program>)> {
    let (subnet, hardware) = (Arc::clone(&subnet.subnet), &hardware.hardware);
    let program = py.detach(|| Program::compile(&subnet, hardware));
    Ok((subnet, Arc::new(program.map_err(to_py)?)))
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (subnet, threads, tier, weights))]
    fn new(
        py: Python<'_>,
        subnet: &Subnet,
        threads: Option<usize>,
        tier: Option<&str>,
        weights: Option<&str>,
    ) -> PyResult<Self> {
        let tier = tier.map_or(Ok(Tier::best()), parse_tier).map_err(to_py)?;
        let storage = weights.map(parse_storage).transpose().map_err(to_py)?;
        let subnet = Arc::clone(&subnet.subnet);
        let macs = subnet.summary().macs;
        let executor = py
            .detach(|| {
                let network = match storage {
                    None => Network::new(&subnet, tier),
                    Some(storage) => Network::with_storage(&subnet, tier, storage),
                };
                Executor::new(Arc::new(network?), threads)
            })
            .map_err(to_py)?;
        let executor = Arc::new(executor);
        load_numpy(py);
        let limit = match tier {
            Tier::Scalar => SLOW_MACS / 32,
            _ => SLOW_MACS,
        };
        Ok(Self {
            device: Mutex::new(Some(Arc::<Executor>::clone(&executor))),
            transport: None,
            cpu: Some(executor),
            subnet,
            slow: macs > limit,
            round_ns: AtomicU64::new(0),
            preparing: PerProcess::new(),
        })
    }

    /// Opens a simulated device, from the library of its configuration. `seed` determines the order
    /// in which its processes run.
    #[staticmethod]
    #[pyo3(signature = (subnet, hardware, library, seed, timeout))]
    fn simulated(
        py: Python<'_>,
        subnet: &Subnet,
        hardware: &Hardware,
        library: PathBuf,
        seed: u64,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        let (subnet, hardware) = (Arc::clone(&subnet.subnet), &hardware.hardware);
        let device = device::open(py, 0.0, |cancel| {
            device::simulated(&subnet, hardware, &library, seed, timeout, cancel)
        })?;
        Ok(Self::accelerated(py, subnet, device))
    }

    /// Opens this machine's FPGA without PYNQ: see `device::uio`.
    #[cfg(target_os = "linux")]
    #[staticmethod]
    #[pyo3(signature = (subnet, hardware, addresses, bitstream, roots, timeout, wait=0.0))]
    #[expect(clippy::too_many_arguments, reason = "Python names the arguments")]
    fn uio(
        py: Python<'_>,
        subnet: &Subnet,
        hardware: &Hardware,
        addresses: Option<(u64, u64, usize)>,
        bitstream: Option<(PathBuf, f64)>,
        roots: Option<(PathBuf, PathBuf, PathBuf)>,
        timeout: Option<f64>,
        wait: f64,
    ) -> PyResult<Self> {
        let (subnet, program) = compiled(py, subnet, hardware)?;
        let device = device::open(py, wait, |cancel| {
            let (bitstream, roots) = (bitstream.as_ref(), roots.clone());
            device::uio(
                &subnet, &program, addresses, bitstream, roots, timeout, cancel,
            )
        })?;
        Ok(Self::accelerated(py, subnet, device))
    }

    /// Opens an accelerator through a Python object: see `device::attached`.
    #[staticmethod]
    #[pyo3(signature = (subnet, hardware, transport, timeout, wait=0.0))]
    fn attached(
        py: Python<'_>,
        subnet: &Subnet,
        hardware: &Hardware,
        transport: Py<PyAny>,
        timeout: Option<f64>,
        wait: f64,
    ) -> PyResult<Self> {
        let (subnet, program) = compiled(py, subnet, hardware)?;
        let transport = Arc::new(transport);
        let device = device::open(py, wait, |cancel| {
            device::attached(&subnet, &program, &transport, timeout, cancel)
        })?;
        let mut engine = Self::accelerated(py, subnet, device);
        engine.transport = Some(transport);
        Ok(engine)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.transport
            .as_ref()
            .map_or(Ok(()), |transport| visit.call(transport.as_ref()))
    }

    fn __clear__(&self) {
        self.release();
    }

    /// Returns the number of threads: 1 on an accelerator.
    #[getter]
    fn threads(&self) -> usize {
        self.cpu.as_ref().map_or(1, |cpu| cpu.threads())
    }

    /// Returns the CPU's instruction set.
    #[getter]
    fn tier(&self) -> Option<&'static str> {
        self.cpu.as_ref().map(|cpu| cpu.network().tier().name())
    }

    /// Returns the name of the way in which the CPU keeps weights.
    #[getter]
    fn weights(&self) -> Option<&'static str> {
        let cpu = self.cpu.as_ref();
        cpu.map(|cpu| storage_name(cpu.network().storage()))
    }

    /// Returns the bytes of all weights in the CPU's memory.
    #[getter]
    fn weight_bytes(&self) -> Option<usize> {
        self.cpu.as_ref().map(|cpu| cpu.network().weight_bytes())
    }

    /// Returns the bytes of weights that each thread of the CPU reads in a frame.
    #[getter]
    fn weight_traffic(&self) -> PyResult<Option<Vec<usize>>> {
        let traffic = self.cpu.as_ref().map(|cpu| cpu.weight_traffic());
        traffic.transpose().map_err(to_py)
    }

    /// Returns what closes the device once this engine is gone.
    fn closer(&self) -> PyResult<Closer> {
        let device = self.device().map_err(to_py)?;
        Ok(Closer(Mutex::new(Some(device))))
    }

    /// Runs one image.
    fn infer(&self, py: Python<'_>, image: Input<'_>) -> PyResult<Output> {
        let view = self.view(&image)?;
        let mut logits = vec![0; self.outputs()];
        let mut time = self.frame(py, |cancel| {
            self.device()?.infer(&view, &mut logits, cancel)
        })?;
        time.preprocess += image.spent();
        Ok(self.output(logits, time))
    }

    /// Preprocesses an image for a later `infer`. Afterwards the caller may write to the image's
    /// memory.
    fn prepare(&self, py: Python<'_>, image: Input<'_>) -> PyResult<Prepared> {
        let view = self.view(&image)?;
        py.detach(|| {
            let start = Instant::now();
            let pool = self.preparing.get(|| Ok(IdlePool::new(MOST_PREPARING)))?;
            let mut pixels = Vec::new();
            let result = pool.with(
                || {
                    Ok(match &self.cpu {
                        Some(cpu) => cpu.network().preprocessor(),
                        None => Preprocessor::new(self.subnet.config()),
                    })
                },
                |preprocessor| match &self.cpu {
                    Some(cpu) => cpu.prepare(preprocessor, &view, &mut pixels),
                    None => preprocessor.run(&view, &mut pixels),
                },
            );
            result.map(|()| Prepared {
                pixels,
                spent: start.elapsed(),
            })
        })
        .map_err(to_py)
    }

    /// Returns true if `prepare` takes all cores for an image: see
    /// `Executor::prepares_on_all_cores`.
    fn prepares_on_all_cores(&self, image: Input<'_>) -> PyResult<bool> {
        let view = self.view(&image)?;
        let cpu = self.cpu.as_ref();
        cpu.map_or(Ok(false), |cpu| cpu.prepares_on_all_cores(&view))
            .map_err(to_py)
    }

    /// Returns how many frames keep the device busy: see `Device::in_flight`.
    #[getter]
    fn in_flight(&self) -> PyResult<usize> {
        Ok(self.device().map_err(to_py)?.in_flight())
    }

    /// Begins a frame; `wait` of the handle returns its output.
    fn begin(slf: Bound<'_, Self>, image: Input<'_>) -> PyResult<FrameHandle> {
        let (py, engine) = (slf.py(), slf.get());
        let image = engine.view(&image)?;
        let frame = py.detach(|| engine.device()?.begin(&image));
        Ok(FrameHandle {
            frame: Mutex::new(Some(frame.map_err(to_py)?)),
            engine: slf.unbind(),
        })
    }

    /// Makes a simulated device fail once, in the frame after `after_frames` others.
    fn inject(&self, fault: &str, after_frames: u64) -> PyResult<()> {
        self.device()
            .and_then(|device| device.inject(fault, after_frames))
            .map_err(to_py)
    }

    /// Returns the counts of an accelerator's driver; `None` for the CPU.
    fn counters(&self) -> PyResult<Option<device::Counters>> {
        let counters = self.device().and_then(|device| device.counters());
        Ok(counters.map_err(to_py)?.map(device::Counters::from))
    }

    /// Returns true if the device has counters of its units.
    #[getter]
    fn has_counters(&self) -> PyResult<bool> {
        Ok(self.device().map_err(to_py)?.has_counters())
    }

    /// Runs an image `frames` times, one frame after the other, and returns what an accelerator's
    /// units did, as its counters count it and as the event model has it.
    fn unit_counts(&self, py: Python<'_>, image: Input<'_>, frames: u64) -> PyResult<UnitCounts> {
        let view = self.view(&image)?;
        let profile = self.frame(py, |cancel| self.device()?.profile(&view, frames, cancel))?;
        Ok(unit_counts(&profile))
    }

    /// Runs many images on the CPU, one thread an image. The network's time of each is its share of
    /// the time of all.
    fn infer_batch(&self, py: Python<'_>, images: Vec<Input<'_>>) -> PyResult<Vec<Output>> {
        let views: Vec<ImageView> = images
            .iter()
            .map(|image| self.view(image))
            .collect::<PyResult<_>>()?;
        let outputs = self.outputs();
        let cpu = self.cpu("batches run")?;
        let mut logits = vec![0; views.len() * outputs];
        let start = Instant::now();
        let mut done = 0;
        while done < views.len() {
            let part = self.images_at_a_time(cpu.threads()).min(views.len() - done);
            let (images, logits) = (&views[done..][..part], &mut logits[outputs * done..]);
            let logits = &mut logits[..outputs * part];
            let begun = Instant::now();
            self.frame(py, |cancel| cpu.infer_batch(images, logits, cancel))?;
            // The threads' images, one after the other.
            let rounds = part.div_ceil(cpu.threads());
            let round = begun.elapsed().as_nanos() as u64 / rounds as u64;
            self.round_ns.store(round.max(1), Ordering::Relaxed);
            py.check_signals()?;
            done += part;
        }
        let share = start.elapsed() / views.len().max(1) as u32;
        let outputs = images.iter().zip(logits.chunks_exact(outputs));
        Ok(outputs
            .map(|(image, logits)| {
                let time = FrameTime {
                    preprocess: image.spent(),
                    network: share,
                };
                self.output(logits.to_vec(), time)
            })
            .collect())
    }

    /// Compares every linear layer's outputs, computed from the accelerator's 4-bit nibbles, with
    /// this engine's, for one preprocessed image. Returns for each layer its name, the outputs
    /// compared and those that differ.
    fn check_nibbles(
        &self,
        py: Python<'_>,
        subnet: &Subnet,
        image: PyReadonlyArray3<'_, u8>,
    ) -> PyResult<Vec<(String, usize, usize)>> {
        let (subnet, image) = (&subnet.subnet, image.as_slice()?);
        let cpu = self.cpu("nibbles are compared")?;
        let checks = py.detach(|| {
            interruptible(|cancel| {
                nibble_check::check(subnet, image, &cpu.trace(image, cancel)?, cancel)
            })
        })?;
        Ok(checks
            .into_iter()
            .map(|check| (check.layer, check.values, check.differing))
            .collect())
    }

    /// Returns for each block whether threads would share its attention out by heads.
    fn by_heads(&self, threads: usize) -> PyResult<Vec<bool>> {
        let cpu = self.cpu("threads share a frame out")?;
        cpu.by_heads(threads).map_err(to_py)
    }

    /// Measures one frame; returns the name and the seconds of each stage.
    fn profile(&self, py: Python<'_>, image: Input<'_>) -> PyResult<Vec<(String, f64)>> {
        let image = self.view(&image)?;
        let cpu = self.cpu("stages are measured")?;
        let stages = self.frame(py, |cancel| cpu.profile(&image, cancel))?;
        Ok(stages
            .into_iter()
            .map(|stage| (stage.name, stage.seconds))
            .collect())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.release();
    }
}

/// Returns the vector of length 1 of an embedding's codes.
#[pyfunction]
pub fn unit_vector<'py>(
    py: Python<'py>,
    codes: PyReadonlyArray1<'_, i8>,
    zero_point: i8,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    Ok(embedding::unit_vector(codes.as_slice()?, zero_point).into_pyarray(py))
}

/// A frame that was begun.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct FrameHandle {
    /// `None` once its output has been taken.
    frame: Mutex<Option<PendingFrame>>,
    engine: Py<Engine>,
}

/// A second owner of an engine's device. Unlike the engine's end, `close` can be interrupted and
/// report what happened.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Closer(Mutex<Option<Arc<dyn Device>>>);

#[pymethods]
impl Closer {
    /// Announces the end: from now on, frames in progress get an error as soon as one call of the
    /// device's transport takes longer than `CLOSE_SECONDS`.
    fn close_soon(&self) {
        let device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = &*device {
            device.close_soon();
        }
    }

    /// Ends the device if no engine has it any more, but leaves a driver that hangs alone: then
    /// returns false. Where calls are in progress, the last one ends the device.
    fn close(&self, py: Python<'_>) -> PyResult<bool> {
        let device = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        device.map_or(Ok(true), |device| let_go(py, device, true))
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let device = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = device.take() {
            Python::attach(|py| let_go(py, device, false).ok());
        }
    }
}

/// Lets go of a device; whoever is the last to have it ends it. Returns false if its driver hangs.
/// Ctrl-C ends the wait if `signals` is true.
fn let_go(py: Python<'_>, device: Arc<dyn Device>, signals: bool) -> PyResult<bool> {
    if Arc::strong_count(&device) == 1 {
        device::end(py, device, signals)
    } else {
        py.detach(|| drop(device));
        Ok(true)
    }
}

#[pymethods]
impl FrameHandle {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)
    }

    /// Waits for the frame and returns its output, once.
    fn wait(&self, py: Python<'_>) -> PyResult<Output> {
        // The lock is not held during the wait: another thread may call too.
        let taken = self
            .frame
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let frame =
            taken.ok_or_else(|| invalid_value("the frame's outcome has been taken".into()))?;
        let (logits, time) = py.detach(|| interruptible(|cancel| frame.wait(cancel)))?;
        Ok(self.engine.get().output(logits, time))
    }
}

impl Engine {
    fn accelerated(
        py: Python<'_>,
        subnet: Arc<quasar_core::Subnet>,
        device: Arc<dyn Device>,
    ) -> Self {
        load_numpy(py);
        Self {
            device: Mutex::new(Some(device)),
            transport: None,
            cpu: None,
            subnet,
            slow: true,
            round_ns: AtomicU64::new(0),
            preparing: PerProcess::new(),
        }
    }

    fn device(&self) -> quasar_core::Result<Arc<dyn Device>> {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device
            .clone()
            .ok_or_else(|| Error::InvalidValue("the engine was dropped".into()))
    }

    fn release(&self) {
        // Unlocked before the device ends: its transport may run anything.
        let device = {
            let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
            device.take()
        };
        if let Some(device) = device {
            // Nobody is there to be told that the driver hangs.
            Python::attach(|py| let_go(py, device, false).ok());
        }
    }

    fn cpu(&self, what: &str) -> PyResult<&Executor> {
        self.cpu
            .as_deref()
            .ok_or_else(|| invalid_value(format!("{what} on the CPU only")))
    }

    fn view<'a>(&self, image: &'a Input<'_>) -> PyResult<ImageView<'a>> {
        image.view(self.subnet.config().image)
    }

    fn outputs(&self) -> usize {
        self.subnet.config().outputs()
    }

    fn output(&self, logits: Vec<i32>, time: FrameTime) -> Output {
        Output::new(self.subnet.config(), logits, time)
    }

    /// Returns how many images of a batch run until signals are looked at: as many as take
    /// [`PART_OF_A_BATCH`], or one for each thread.
    ///
    /// A thread that waits for signals meanwhile would cost more: a new thread may get the core of
    /// another one, and wait there for milliseconds.
    fn images_at_a_time(&self, threads: usize) -> usize {
        let part = PART_OF_A_BATCH.as_nanos() as u64;
        let rounds = part.checked_div(self.round_ns.load(Ordering::Relaxed));
        threads * rounds.unwrap_or(1).max(1) as usize
    }

    /// Runs the work of one frame. Signals can end it if the frame may be slow.
    fn frame<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&AtomicBool) -> quasar_core::Result<T> + Send,
    ) -> PyResult<T> {
        if self.slow {
            py.detach(|| interruptible(work))
        } else {
            py.detach(|| work(&NEVER)).map_err(to_py)
        }
    }
}
