//! Converts the core's errors to Python exceptions; no other file does.
//!
//! `quasar_rt/errors.py` defines the classes, so that they have their documentation there and can
//! share bases such as `ValueError`. May depend on the core's `Error` only.

use std::io;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use quasar_core::Error;

/// The kinds of [`Error`] and their classes in `quasar_rt.errors`.
const CLASSES: &[(&str, &str)] = &[
    ("Io", "FileError"),
    ("Truncated", "TruncatedError"),
    ("TooLarge", "TooLargeError"),
    ("NotASubnet", "NotASubnetError"),
    ("UnsupportedVersion", "UnsupportedVersionError"),
    ("ChecksumMismatch", "ChecksumError"),
    ("InvalidConfig", "ConfigError"),
    ("InvalidSettings", "SettingsError"),
    ("DoesNotFit", "DoesNotFitError"),
    ("InvalidTensor", "TensorError"),
    ("AccumulatorOverflow", "AccumulatorOverflowError"),
    ("InvalidImage", "ImageError"),
    ("InvalidValue", "InvalidValueError"),
    ("Infeasible", "InfeasibleError"),
    ("UnsupportedTier", "UnsupportedTierError"),
    ("Threads", "ThreadsError"),
    ("OutOfMemory", "OutOfMemoryError"),
    ("DeviceUnavailable", "DeviceUnavailableError"),
    ("DeviceBusy", "DeviceBusyError"),
    ("DeviceTimeout", "DeviceTimeoutError"),
    ("DeviceFault", "DeviceFaultError"),
    ("CorruptOutput", "CorruptOutputError"),
    ("WrongBitstream", "WrongBitstreamError"),
    ("Interrupted", "CancelledError"),
];

fn class<'py>(py: Python<'py>, kind: &str) -> PyResult<Bound<'py, PyType>> {
    // A kind that is not in the table becomes a QuasarError, and the test over all kinds fails.
    let name = CLASSES
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or("QuasarError", |(_, name)| name);
    Ok(py
        .import("quasar_rt.errors")?
        .getattr(name)?
        .cast_into::<PyType>()?)
}

/// Returns an error from which [`to_py`] makes `exception` again. A transport's method may raise
/// what is no fault of the device, such as `KeyboardInterrupt`: it goes through the driver to the
/// caller.
pub fn interrupt(device: &str, exception: PyErr) -> Error {
    Error::Io {
        path: device.into(),
        source: io::Error::other(exception),
    }
}

/// Returns the exception for `error`. Takes the GIL, so callers use it after work without the GIL.
pub fn to_py(error: Error) -> PyErr {
    let error = match error {
        Error::Io { path, source } => match source.downcast::<PyErr>() {
            Ok(exception) => return exception,
            Err(source) => Error::Io { path, source },
        },
        error => error,
    };
    let found = Python::try_attach(|py| match class(py, error.kind()) {
        Ok(class) => PyErr::from_type(class, error.to_string()),
        Err(failure) => failure,
    });
    // At the interpreter's end a daemon thread still gets its cancelled frame's error; nobody sees
    // the exception.
    found.unwrap_or_else(|| PyRuntimeError::new_err(error.to_string()))
}

/// Returns the exception for an argument that the binding itself refuses.
pub fn invalid_value(message: String) -> PyErr {
    to_py(Error::InvalidValue(message))
}

/// Returns the exception for an image that the binding itself refuses.
pub fn invalid_image(message: String) -> PyErr {
    to_py(Error::InvalidImage(message))
}

/// Returns the exception class of each kind of error.
#[pyfunction]
pub fn error_classes(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let classes = PyDict::new(py);
    for kind in Error::KINDS {
        classes.set_item(kind, class(py, kind)?)?;
    }
    Ok(classes)
}
