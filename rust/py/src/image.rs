//! Images that come from Python, and preprocessing without an engine.

use std::time::Duration;

use numpy::ndarray::Array3;
use numpy::{IntoPyArray, PyArray3, PyReadonlyArray1, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::prelude::*;
use quasar_core::preprocess::{ImageView, PixelFormat, Preprocessor, YuvMatrix};
use quasar_core::subnet::config::{Image, Preprocess};

use crate::errors::{invalid_value, to_py};

/// An image in one of the forms that an engine takes.
#[derive(FromPyObject)]
pub enum Input<'py> {
    /// `uint8 [height, width, channels]`, C-contiguous.
    Pixels(PyReadonlyArray3<'py, u8>),
    /// The result of `Engine.prepare`.
    Prepared(Bound<'py, Prepared>),
    Camera(CameraFrame<'py>),
}

/// A camera's frame: the attributes of `quasar_rt.Frame`, which has checked that the sizes are
/// whole numbers from 1 on.
#[derive(FromPyObject)]
pub struct CameraFrame<'py> {
    data: PyReadonlyArray1<'py, u8>,
    chroma: Option<PyReadonlyArray1<'py, u8>>,
    width: usize,
    height: usize,
    stride: usize,
    format: String,
    matrix: String,
}

impl Input<'_> {
    /// Borrows the pixels; `image` is the size that the engine's network takes.
    pub fn view(&self, image: Image) -> PyResult<ImageView<'_>> {
        match self {
            Self::Pixels(pixels) => {
                let [height, width, channels] =
                    [pixels.shape()[0], pixels.shape()[1], pixels.shape()[2]];
                ImageView::packed(pixels.as_slice()?, height, width, channels)
            }
            Self::Prepared(prepared) => ImageView::preprocessed(&prepared.get().pixels, image),
            Self::Camera(frame) => {
                let matrix = match frame.matrix.as_str() {
                    "bt601" => YuvMatrix::BT601,
                    "bt709" => YuvMatrix::BT709,
                    other => return Err(invalid_value(format!("there is no matrix {other:?}"))),
                };
                let chroma = frame.chroma.as_ref().map(|chroma| chroma.as_slice());
                let format: PixelFormat = frame.format.parse().map_err(to_py)?;
                ImageView::frame(
                    frame.data.as_slice()?,
                    chroma.transpose()?,
                    (frame.height, frame.width),
                    format,
                    frame.stride,
                )
                .map(|view| view.with_matrix(matrix))
            }
        }
        .map_err(to_py)
    }

    /// Returns the time that preprocessing has taken so far.
    pub fn spent(&self) -> Duration {
        match self {
            Self::Prepared(prepared) => prepared.get().spent,
            _ => Duration::ZERO,
        }
    }
}

/// An image that was preprocessed before its turn.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Prepared {
    pub pixels: Vec<u8>,
    pub spent: Duration,
}

/// Resizes and crops one image to `size` (height, width, channels), by a `preprocess` document of
/// the subnet file.
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
