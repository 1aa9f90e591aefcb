//! The results of a frame, as Python asks for them.

use numpy::{IntoPyArray, PyArray1, PyArray3, PyArrayMethods};
use pyo3::prelude::*;
use quasar_core::cpu::FrameTime;
use quasar_core::subnet::config::Config;
use quasar_core::{embedding, logits};

/// The outputs and times of one frame. A frame displaces Python from the caches, so code behind it
/// is slow: each result is computed when it is asked for.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Output {
    /// A logit for each class, then the codes of the embedding if the subnet has one. With patch
    /// tokens as much again for each patch.
    outputs: Vec<i32>,
    classes: usize,
    shift: u8,
    /// Outputs of the image, or of a patch.
    rows: usize,
    /// Rows and columns of patches.
    grid: (usize, usize),
    logit_scale: f64,
    time: FrameTime,
}

impl Output {
    pub fn new(config: &Config, outputs: Vec<i32>, time: FrameTime) -> Self {
        Self {
            outputs,
            classes: config.classes.len(),
            shift: config.embedding_shift(),
            rows: config.head_rows(),
            grid: config.grid(),
            logit_scale: config.logit_scale,
            time,
        }
    }

    fn classes(&self) -> &[i32] {
        &self.outputs[..self.classes]
    }

    fn embedding(&self, outputs: &[i32]) -> Vec<i8> {
        embedding::codes(outputs, self.classes, self.shift)
    }

    fn real(&self, logit: i32) -> f32 {
        (f64::from(logit) * self.logit_scale) as f32
    }

    /// Returns values of each patch, `[rows, columns, values]`.
    fn of_patches<'py, T: numpy::Element>(
        &self,
        py: Python<'py>,
        values: impl FnMut(&[i32]) -> Vec<T>,
    ) -> PyResult<Bound<'py, PyArray3<T>>> {
        let patches = self.outputs[self.rows..].chunks_exact(self.rows);
        let values: Vec<T> = patches.flat_map(values).collect();
        let (rows, columns) = self.grid;
        let size = values.len() / (rows * columns);
        values.into_pyarray(py).reshape([rows, columns, size])
    }
}

#[pymethods]
impl Output {
    /// Returns the milliseconds of preprocessing.
    #[getter]
    fn preprocess_ms(&self) -> f64 {
        1e3 * self.time.preprocess.as_secs_f64()
    }

    /// Returns the milliseconds of the network.
    #[getter]
    fn compute_ms(&self) -> f64 {
        1e3 * self.time.network.as_secs_f64()
    }

    /// Returns all outputs: the logits, then the embedding's codes, and those of each patch.
    fn outputs<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        PyArray1::from_slice(py, &self.outputs)
    }

    fn integer_logits<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        PyArray1::from_slice(py, self.classes())
    }

    fn logits<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        let logits = self.classes().iter().map(|&logit| self.real(logit));
        logits.collect::<Vec<f32>>().into_pyarray(py)
    }

    /// Returns the codes of the embedding; none if the subnet gives no embedding.
    fn codes<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i8>> {
        self.embedding(&self.outputs[..self.rows]).into_pyarray(py)
    }

    /// Returns the logits of each patch, `[rows, columns, classes]`.
    fn patch_logits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<f32>>> {
        self.of_patches(py, |outputs| {
            let logits = &outputs[..self.classes];
            logits.iter().map(|&logit| self.real(logit)).collect()
        })
    }

    /// Returns the embedding's codes of each patch, `[rows, columns, embed]`.
    fn patch_codes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<i8>>> {
        self.of_patches(py, |outputs| self.embedding(outputs))
    }

    /// Returns the most likely class, or `None` if there are no classes.
    #[getter]
    fn first(&self) -> Option<usize> {
        logits::first(self.classes())
    }

    /// Returns the `top` most likely classes, best first, and their probabilities.
    fn best(&self, top: usize) -> Vec<(usize, f64)> {
        logits::best(self.classes(), self.logit_scale, top)
    }
}
