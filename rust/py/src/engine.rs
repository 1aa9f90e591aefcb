//! `_native.Engine`: pixels in, logits out, on the CPU or an accelerator. The GIL is released while the core works.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use numpy::ndarray::Array3;
use numpy::{
    IntoPyArray, PyArray1, PyArray3, PyReadonlyArray1, PyReadonlyArray3, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use quasar_accelerator::device::Device;
use quasar_core::cpu::{softmax, top_k, FrameTime, PerProcess, NEVER};
use quasar_core::network::supported_tiers;
use quasar_core::preprocess::{ImageView, PixelFormat, Preprocessor, YuvMatrix};
use quasar_core::subnet::config::{Image, Preprocess};
use quasar_core::{nibble_check, Error, Executor, Network, Storage, Tier};

use crate::device;
use crate::errors::{invalid_value, to_py};
use crate::hardware::Hardware;
use crate::subnet::Subnet;

/// Frames of more multiply-accumulates are looked after by a second thread, so that Ctrl-C ends them: at least 50 ms on any core, next
/// to which starting a thread costs nothing. The scalar tier is some 32 times slower.
const SLOW_MACS: u64 = 8 << 30;

/// How often work that may take long lets Python look for signals such as Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Integer logits, float logits, the most likely classes with their probabilities.
type Output<'py> = (
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray1<f32>>,
    Vec<(usize, f64)>,
);

/// Integer logits, float logits and classes, then nanoseconds of preprocessing and of the network.
type Timed<'py> = (Output<'py>, u64, u64);

/// What an engine takes for an image.
#[derive(FromPyObject)]
pub enum Input<'py> {
    /// `uint8 [height, width, channels]`, C-contiguous.
    Pixels(PyReadonlyArray3<'py, u8>),
    Prepared(Bound<'py, Prepared>),
    Raw(Raw<'py>),
}

/// A camera's frame: the attributes of `quasar_rt.Frame`, which has checked the sizes for being whole numbers from 1 on.
#[derive(FromPyObject)]
pub struct Raw<'py> {
    data: PyReadonlyArray1<'py, u8>,
    chroma: Option<PyReadonlyArray1<'py, u8>>,
    width: usize,
    height: usize,
    stride: usize,
    format: String,
    matrix: String,
}

impl Input<'_> {
    /// A view of it; `image` is what the engine's network sees.
    fn view(&self, image: Image) -> PyResult<ImageView<'_>> {
        match self {
            Self::Pixels(pixels) => {
                let [height, width, channels] =
                    [pixels.shape()[0], pixels.shape()[1], pixels.shape()[2]];
                ImageView::packed(pixels.as_slice()?, height, width, channels)
            }
            Self::Prepared(prepared) => ImageView::preprocessed(&prepared.get().pixels, image),
            Self::Raw(raw) => {
                let matrix = match raw.matrix.as_str() {
                    "bt601" => YuvMatrix::BT601,
                    "bt709" => YuvMatrix::BT709,
                    other => return Err(invalid_value(format!("there is no matrix {other:?}"))),
                };
                let chroma = raw.chroma.as_ref().map(|chroma| chroma.as_slice());
                let format: PixelFormat = raw.format.parse().map_err(to_py)?;
                ImageView::frame(
                    raw.data.as_slice()?,
                    chroma.transpose()?,
                    (raw.height, raw.width),
                    format,
                    raw.stride,
                )
                .map(|view| view.with_matrix(matrix))
            }
        }
        .map_err(to_py)
    }

    /// The time that it took so far.
    fn spent(&self) -> Duration {
        match self {
            Self::Prepared(prepared) => prepared.get().spent,
            _ => Duration::ZERO,
        }
    }
}

/// An image that was preprocessed ahead of its turn.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Prepared {
    pixels: Vec<u8>,
    spent: Duration,
}

/// Idle memory of preparing, at most.
const MOST_PREPARING: usize = 4;

/// A device with a subnet.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Engine {
    /// `None` only while it is dropped.
    device: Option<Arc<dyn Device>>,
    /// The device, where it is the CPU.
    cpu: Option<Arc<Executor>>,
    subnet: Arc<quasar_core::Subnet>,
    /// Whether a frame may take long.
    slow: bool,
    /// Idle memory of [`Engine::prepare`].
    preparing: PerProcess<Mutex<Vec<Preprocessor>>>,
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
        let limit = match tier {
            Tier::Scalar => SLOW_MACS / 32,
            _ => SLOW_MACS,
        };
        Ok(Self {
            device: Some(Arc::<Executor>::clone(&executor)),
            cpu: Some(executor),
            subnet,
            slow: macs > limit,
            preparing: PerProcess::new(),
        })
    }

    /// A simulated device, from the library of its configuration. `seed` draws the order in which its processes run.
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
        let device = py.detach(|| device::simulated(&subnet, hardware, &library, seed, timeout));
        Ok(Self {
            device: Some(device.map_err(to_py)?),
            cpu: None,
            subnet,
            slow: true,
            preparing: PerProcess::new(),
        })
    }

    /// This machine's FPGA, without PYNQ: see `device::uio`.
    #[cfg(target_os = "linux")]
    #[staticmethod]
    #[pyo3(signature = (subnet, hardware, addresses, bitstream, roots, timeout))]
    fn uio(
        py: Python<'_>,
        subnet: &Subnet,
        hardware: &Hardware,
        addresses: Option<(u64, u64, usize)>,
        bitstream: Option<PathBuf>,
        roots: Option<(PathBuf, PathBuf, PathBuf)>,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        let (subnet, hardware) = (Arc::clone(&subnet.subnet), &hardware.hardware);
        let device = py.detach(|| {
            let bitstream = bitstream.as_deref();
            device::uio(&subnet, hardware, addresses, bitstream, roots, timeout)
        });
        Ok(Self {
            device: Some(device.map_err(to_py)?),
            cpu: None,
            subnet,
            slow: true,
            preparing: PerProcess::new(),
        })
    }

    /// An accelerator that a Python object leads to: see `device::attached`.
    #[staticmethod]
    #[pyo3(signature = (subnet, hardware, transport, timeout))]
    fn attached(
        py: Python<'_>,
        subnet: &Subnet,
        hardware: &Hardware,
        transport: Py<PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        let (subnet, hardware) = (Arc::clone(&subnet.subnet), &hardware.hardware);
        let device = py.detach(|| device::attached(&subnet, hardware, transport, timeout));
        Ok(Self {
            device: Some(device.map_err(to_py)?),
            cpu: None,
            subnet,
            slow: true,
            preparing: PerProcess::new(),
        })
    }

    /// 1 on an accelerator, whose host does little.
    #[getter]
    fn threads(&self) -> usize {
        self.cpu.as_ref().map_or(1, |cpu| cpu.threads())
    }

    /// The CPU's instruction set.
    #[getter]
    fn tier(&self) -> Option<&'static str> {
        self.cpu.as_ref().map(|cpu| cpu.network().tier().name())
    }

    /// How weights lie in the CPU's memory.
    #[getter]
    fn weights(&self) -> Option<&'static str> {
        self.cpu.as_ref().map(|cpu| match cpu.network().storage() {
            Storage::Unpacked => UNPACKED,
            Storage::Packed => PACKED,
        })
    }

    /// Bytes of all weights in the CPU's memory.
    #[getter]
    fn weight_bytes(&self) -> Option<usize> {
        self.cpu.as_ref().map(|cpu| cpu.network().weight_bytes())
    }

    /// One image; also returns nanoseconds of preprocessing and of the network.
    fn infer<'py>(&self, py: Python<'py>, image: Input<'py>, top: usize) -> PyResult<Timed<'py>> {
        let view = self.view(&image)?;
        let mut logits = vec![0; self.classes()];
        let mut time = self.frame(py, |cancel| {
            self.device()?.infer(&view, &mut logits, cancel)
        })?;
        time.preprocess += image.spent();
        Ok(self.timed(py, logits, time, top))
    }

    /// Preprocesses an image, for `infer` later: while another one is being classified, say. The caller may then write to its memory.
    fn prepare(&self, py: Python<'_>, image: Input<'_>) -> PyResult<Prepared> {
        let view = self.view(&image)?;
        py.detach(|| {
            let start = Instant::now();
            let list = self.preparing.get(|| Ok(Mutex::default()))?;
            let idle = || list.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = idle().pop();
            let mut preprocessor = taken.unwrap_or_else(|| Preprocessor::new(self.subnet.config()));
            let mut pixels = Vec::new();
            let result = preprocessor.run(&view, &mut pixels);
            let mut idle = idle();
            if idle.len() < MOST_PREPARING {
                idle.push(preprocessor);
            }
            result.map(|()| Prepared {
                pixels,
                spent: start.elapsed(),
            })
        })
        .map_err(to_py)
    }

    /// Hands an image in; an accelerator has several of them in flight.
    fn begin(slf: Bound<'_, Self>, image: Input<'_>) -> PyResult<Frame> {
        let (py, engine) = (slf.py(), slf.get());
        let image = engine.view(&image)?;
        let frame = py.detach(|| engine.device()?.begin(&image));
        Ok(Frame {
            frame: Mutex::new(Some(frame.map_err(to_py)?)),
            engine: slf.unbind(),
        })
    }

    /// Lets a simulated device misbehave once, in the frame after `after_frames` others.
    fn inject(&self, fault: &str, after_frames: u64) -> PyResult<()> {
        self.device()
            .and_then(|device| device.inject(fault, after_frames))
            .map_err(to_py)
    }

    /// Of an accelerator: frames answered, faults, resets, lost and spurious interrupts.
    fn counters(&self) -> PyResult<Option<[u64; 5]>> {
        self.device()
            .and_then(|device| device.counters())
            .map_err(to_py)
    }

    /// Many images, one thread an image; also returns nanoseconds of all.
    fn infer_batch<'py>(
        &self,
        py: Python<'py>,
        images: Vec<Input<'py>>,
        top: usize,
    ) -> PyResult<(Vec<Output<'py>>, u64)> {
        let images: Vec<ImageView> = images
            .iter()
            .map(|image| self.view(image))
            .collect::<PyResult<_>>()?;
        let classes = self.classes();
        let mut logits = vec![0; images.len() * classes];
        let start = Instant::now();
        py.detach(|| {
            interruptible(|cancel| self.device()?.infer_batch(&images, &mut logits, cancel))
        })?;
        let nanoseconds = start.elapsed().as_nanos() as u64;
        let outputs = logits
            .chunks_exact(classes)
            .map(|logits| self.output(py, logits.to_vec(), top))
            .collect();
        Ok((outputs, nanoseconds))
    }

    /// Every linear layer's outputs by the accelerator's 4-bit atoms against this engine's, for one preprocessed image: layer,
    /// outputs compared, outputs that differ.
    fn check_atoms(
        &self,
        py: Python<'_>,
        subnet: &Subnet,
        image: PyReadonlyArray3<'_, u8>,
    ) -> PyResult<Vec<(String, usize, usize)>> {
        let (subnet, image) = (&subnet.subnet, image.as_slice()?);
        let cpu = self.cpu("4-bit atoms are compared")?;
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

    /// Name and seconds of each stage of one frame.
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
        let device = self.device.take();
        // A driver's thread ends with it, and may need the GIL to do so.
        Python::attach(|py| py.detach(|| drop(device)));
    }
}

/// A frame that was handed in.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Frame {
    frame: Mutex<Option<device::Frame>>,
    engine: Py<Engine>,
}

#[pymethods]
impl Frame {
    /// Its outcome, once.
    fn wait<'py>(&self, py: Python<'py>, top: usize) -> PyResult<Timed<'py>> {
        // The lock is not held while waiting: another thread may ask too.
        let taken = self
            .frame
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let frame =
            taken.ok_or_else(|| invalid_value("the frame's outcome has been taken".into()))?;
        let (logits, time) = py.detach(|| interruptible(|cancel| frame.wait(cancel)))?;
        Ok(self.engine.get().timed(py, logits, time, top))
    }
}

impl Engine {
    fn device(&self) -> quasar_core::Result<&dyn Device> {
        self.device
            .as_deref()
            .ok_or_else(|| Error::InvalidValue("the engine was dropped".into()))
    }

    fn cpu(&self, what: &str) -> PyResult<&Executor> {
        self.cpu
            .as_deref()
            .ok_or_else(|| invalid_value(format!("{what} on the CPU only")))
    }

    fn view<'a>(&self, image: &'a Input<'_>) -> PyResult<ImageView<'a>> {
        image.view(self.subnet.config().image)
    }

    fn classes(&self) -> usize {
        self.subnet.config().classes.len()
    }

    fn timed<'py>(
        &self,
        py: Python<'py>,
        logits: Vec<i32>,
        time: FrameTime,
        top: usize,
    ) -> Timed<'py> {
        let nanoseconds = |d: Duration| d.as_nanos() as u64;
        (
            self.output(py, logits, top),
            nanoseconds(time.preprocess),
            nanoseconds(time.network),
        )
    }

    fn output<'py>(&self, py: Python<'py>, logits: Vec<i32>, top: usize) -> Output<'py> {
        let scale = self.subnet.config().logit_scale;
        let probabilities = softmax(&logits, scale);
        let best = top_k(&logits, top)
            .into_iter()
            .map(|class| (class, probabilities[class]))
            .collect();
        let float: Vec<f32> = logits
            .iter()
            .map(|&logit| (f64::from(logit) * scale) as f32)
            .collect();
        (logits.into_pyarray(py), float.into_pyarray(py), best)
    }

    /// One frame's work: of a subnet that may take long, so that signals end it; of any other without that cost.
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

/// Runs `work` in a thread of its own while this one, which may be Python's main thread, looks for signals and cancels it on one.
fn interruptible<T: Send>(
    work: impl FnOnce(&AtomicBool) -> quasar_core::Result<T> + Send,
) -> PyResult<T> {
    let cancel = AtomicBool::new(false);
    let mut work = Some(work);
    let outcome = thread::scope(|scope| {
        let (done, finished) = mpsc::channel();
        let (work, cancelled) = (&mut work, &cancel);
        let spawned = thread::Builder::new().spawn_scoped(scope, move || {
            if let Some(work) = work.take() {
                // The receiver waits for this message, so sending cannot fail.
                let _ = done.send(work(cancelled));
            }
        });
        let worker = spawned.ok()?;
        let mut signal = Ok(());
        loop {
            match finished.recv_timeout(SIGNAL_INTERVAL) {
                Ok(result) => return Some(signal.and(result.map_err(to_py))),
                Err(RecvTimeoutError::Disconnected) => match worker.join() {
                    Ok(()) => return None,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                Err(RecvTimeoutError::Timeout) if signal.is_ok() => {
                    signal = Python::attach(|py| py.check_signals());
                    cancel.store(signal.is_err(), Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    });
    match (outcome, work) {
        (Some(result), _) => result,
        // There was no thread to be had: signals wait until the work is done.
        (None, Some(work)) => work(&cancel).map_err(to_py),
        (None, None) => unreachable!("work that was begun has an outcome"),
    }
}

/// The tier of that name.
pub fn parse_tier(name: &str) -> quasar_core::Result<Tier> {
    name.parse().map_err(|_| unsupported(name))
}

/// Names of [`Storage`].
const UNPACKED: &str = "unpacked";
const PACKED: &str = "packed";

/// The way of keeping weights that has this name.
fn parse_storage(name: &str) -> quasar_core::Result<Storage> {
    match name {
        UNPACKED => Ok(Storage::Unpacked),
        PACKED => Ok(Storage::Packed),
        _ => Err(Error::InvalidValue(format!(
            "weights is {name:?}; it must be \"{UNPACKED}\" or \"{PACKED}\""
        ))),
    }
}

/// The error for a tier that does not exist or that this CPU lacks.
pub fn unsupported(tier: &str) -> Error {
    Error::UnsupportedTier {
        tier: tier.to_owned(),
        available: supported_tiers()
            .map(Tier::name)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Resizes and crops one image to `size` (height, width, channels) as a `preprocess` document of the subnet file says.
#[pyfunction]
pub fn preprocess<'py>(
    py: Python<'py>,
    image: Input<'py>,
    size: [usize; 3],
    document: &str,
) -> PyResult<Bound<'py, PyArray3<u8>>> {
    let [height, width, channels] = size;
    let seen = Image {
        height,
        width,
        channels,
    };
    let source = image.view(seen)?;
    let result = py.detach(|| {
        let mut out = Vec::new();
        Preprocessor::for_image(seen, &Preprocess::from_json(document, seen)?)
            .run(&source, &mut out)?;
        Ok(out)
    });
    let out = Array3::from_shape_vec(size, result.map_err(to_py)?)
        .map_err(|error| invalid_value(error.to_string()))?;
    Ok(out.into_pyarray(py))
}

/// Each tier's name and whether this CPU has it, slowest first.
#[pyfunction]
pub fn tiers() -> Vec<(&'static str, bool)> {
    Tier::ALL
        .into_iter()
        .map(|tier| (tier.name(), tier.is_supported()))
        .collect()
}

/// How many threads an engine uses unless told otherwise.
#[pyfunction]
pub fn default_threads() -> usize {
    quasar_core::cpu::default_threads()
}
