//! Images that come from Python, and preprocessing without an engine.

use std::time::Duration;

use numpy::ndarray::Array3;
use numpy::{
    IntoPyArray, PyArray1, PyArray3, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray3,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};
use quasar_core::error::excerpt;
use quasar_core::preprocess::{ImageView, PixelFormat, Preprocessor, YuvMatrix};
use quasar_core::subnet::config::{Image, Preprocess};

use crate::errors::{invalid_image, invalid_value, to_py};

/// Loads the C interface of `NumPy`, which `numpy` does at its first use: an engine may be used
/// first when Python ends and imports nothing any more.
pub fn load_numpy(py: Python<'_>) {
    let _ = PyArray1::<u8>::zeros(py, 0, false).try_readonly();
}

/// An image in one of the forms that an engine takes.
pub enum Input<'py> {
    /// `uint8 [height, width, channels]`, C-contiguous.
    Pixels(PyReadonlyArray3<'py, u8>),
    /// The result of `Engine.prepare`.
    Prepared(Bound<'py, Prepared>),
    Camera(CameraFrame<'py>),
}

impl<'py> FromPyObject<'_, 'py> for Input<'py> {
    type Error = PyErr;

    fn extract(image: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(pixels) = image.extract() {
            Ok(Self::Pixels(pixels))
        } else if let Ok(prepared) = image.cast() {
            Ok(Self::Prepared(prepared.to_owned()))
        } else {
            Ok(Self::Camera(CameraFrame::extract(&image)?))
        }
    }
}

/// A camera's frame: the attributes of `quasar_rt.Frame`. The class checks what it is made of, but
/// its attributes may have been overwritten since.
pub struct CameraFrame<'py> {
    data: PyReadonlyArray1<'py, u8>,
    chroma: Option<PyReadonlyArray1<'py, u8>>,
    width: usize,
    height: usize,
    stride: usize,
    format: PixelFormat,
    matrix: YuvMatrix,
}

impl<'py> CameraFrame<'py> {
    fn extract(frame: &Bound<'py, PyAny>) -> PyResult<Self> {
        let chroma = frame.getattr_opt("chroma")?;
        Ok(Self {
            data: attribute(frame, "data", BYTES, bytes)?,
            chroma: match chroma.filter(|chroma| !chroma.is_none()) {
                Some(_) => Some(attribute(frame, "chroma", BYTES_OR_NONE, bytes)?),
                None => None,
            },
            width: attribute(frame, "width", SIZE, size)?,
            height: attribute(frame, "height", SIZE, size)?,
            stride: attribute(frame, "stride", SIZE, size)?,
            format: attribute(frame, "format", &formats(), |name| {
                name.extract::<String>().ok()?.parse().ok()
            })?,
            matrix: attribute(frame, "matrix", MATRICES, |name| {
                match name.extract::<String>().ok()?.as_str() {
                    "bt601" => Some(YuvMatrix::BT601),
                    "bt709" => Some(YuvMatrix::BT709),
                    _ => None,
                }
            })?,
        })
    }
}

impl CameraFrame<'_> {
    /// Borrows the pixels.
    fn view(&self) -> PyResult<ImageView<'_>> {
        let chroma = self.chroma.as_ref().map(|chroma| chroma.as_slice());
        let view = ImageView::frame(
            self.data.as_slice()?,
            chroma.transpose()?,
            (self.height, self.width),
            self.format,
            self.stride,
        );
        Ok(view.map_err(to_py)?.with_matrix(self.matrix))
    }
}

/// Checks that a `quasar_rt.Frame` holds its rows.
///
/// # Errors
/// `ImageError`.
#[pyfunction]
pub fn check_frame(frame: &Bound<'_, PyAny>) -> PyResult<()> {
    CameraFrame::extract(frame)?.view().map(drop)
}

const BYTES: &str = "a contiguous uint8 array of one dimension (numpy.frombuffer makes one)";
const BYTES_OR_NONE: &str =
    "None or a contiguous uint8 array of one dimension (numpy.frombuffer makes one)";
const SIZE: &str = "a whole number from 1 to 2147483647";
const MATRICES: &str = "bt601 or bt709";

fn formats() -> String {
    format!(
        "one of {}",
        PixelFormat::ALL.map(PixelFormat::name).join(", ")
    )
}

fn bytes<'py>(value: &Bound<'py, PyAny>) -> Option<PyReadonlyArray1<'py, u8>> {
    let array: PyReadonlyArray1<'py, u8> = value.extract().ok()?;
    array.as_slice().is_ok().then_some(array)
}

fn size(value: &Bound<'_, PyAny>) -> Option<usize> {
    let size: i32 = value.extract().ok()?;
    if value.is_instance_of::<PyBool>() {
        return None;
    }
    usize::try_from(size).ok().filter(|&size| size > 0)
}

/// Reads an attribute of a frame.
///
/// # Errors
/// `ImageError` if there is none, or `read` returns nothing: names the attribute, what it holds and
/// what it must be.
fn attribute<'py, T>(
    frame: &Bound<'py, PyAny>,
    name: &str,
    must_be: &str,
    read: impl FnOnce(&Bound<'py, PyAny>) -> Option<T>,
) -> PyResult<T> {
    let Some(value) = frame.getattr_opt(name)? else {
        let class = frame.get_type().name()?;
        return Err(invalid_image(format!(
            "the {class} has no {name}; it must be {must_be}"
        )));
    };
    read(&value).ok_or_else(|| {
        invalid_image(format!(
            "the frame's {name} is {}; it must be {must_be}",
            shown(&value)
        ))
    })
}

/// Shows a value in a message: a text, a number or `None` as Python writes it, an array by its type
/// and shape, anything else by its class, since bytes may be private.
fn shown(value: &Bound<'_, PyAny>) -> String {
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        let apart = if array.is_contiguous() {
            ""
        } else {
            ", not contiguous"
        };
        return format!("an array of {} {:?}{apart}", array.dtype(), array.shape());
    }
    let plain = value.is_none()
        || value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>();
    // The representation of an enormous integer is an error.
    match value.repr() {
        Ok(text) if plain => excerpt(&text.to_string_lossy()),
        _ => {
            let class = value.get_type().name();
            class.map_or_else(
                |_| "a value".to_owned(),
                |class| format!("of class {class}"),
            )
        }
    }
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
            Self::Camera(frame) => return frame.view(),
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

/// Returns true for an array that is an engine's input as it is: `uint8 [height, width, 1 or 3]`,
/// C-contiguous and not empty. An instance of a subclass is none: its views may have other shapes.
/// Nor is a single row, which may be a file's bytes.
#[pyfunction]
pub fn is_decoded(image: &Bound<'_, PyAny>) -> bool {
    let is_array = image.get_type().is(PyUntypedArray::type_object(image.py()));
    image.cast::<PyArray3<u8>>().is_ok_and(|pixels| {
        let (rows, channels) = (pixels.shape()[0], pixels.shape()[2]);
        let is_picture = rows > 1 && !pixels.is_empty() && matches!(channels, 1 | 3);
        is_array && pixels.is_c_contiguous() && is_picture
    })
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
