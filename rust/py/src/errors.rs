//! The one place where the core's errors become Python exceptions.
//!
//! The classes themselves are Python's (`quasar_rt/errors.py`), where they have their documentation
//! and can share bases such as `ValueError`. May depend on the core's `Error` only.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use quasar_core::Error;

/// Each kind of [`Error`] and its class in `quasar_rt.errors`.
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
    ("DeviceUnavailable", "DeviceUnavailableError"),
    ("DeviceTimeout", "DeviceTimeoutError"),
    ("DeviceFault", "DeviceFaultError"),
    ("CorruptOutput", "CorruptOutputError"),
    ("WrongBitstream", "WrongBitstreamError"),
    ("Interrupted", "CancelledError"),
];

fn class<'py>(py: Python<'py>, kind: &str) -> PyResult<Bound<'py, PyType>> {
    // A kind that the table lacks still is a QuasarError; the test over all kinds then fails.
    let name = CLASSES
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or("QuasarError", |(_, name)| name);
    Ok(py
        .import("quasar_rt.errors")?
        .getattr(name)?
        .cast_into::<PyType>()?)
}

/// The exception for `error`. Takes the GIL, so it is called after work that ran without it.
pub fn to_py(error: Error) -> PyErr {
    Python::attach(|py| match class(py, error.kind()) {
        Ok(class) => PyErr::from_type(class, error.to_string()),
        Err(failure) => failure,
    })
}

/// The exception for an argument that the binding itself refuses.
pub fn invalid_value(message: String) -> PyErr {
    to_py(Error::InvalidValue(message))
}

/// Each kind of error of the core and the exception class that stands for it.
#[pyfunction]
pub fn error_classes(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let classes = PyDict::new(py);
    for kind in Error::KINDS {
        classes.set_item(kind, class(py, kind)?)?;
    }
    Ok(classes)
}
