//! Calls Python from threads that Python has not started, such as a driver's: they may be inside
//! Python when it ends.
//!
//! Before 3.14, Python ends a thread that takes the GIL then by `pthread_exit`, which unwinds the
//! stack. `PyO3`'s own calls abort the process if they are unwound; these keep the thread where it
//! is, as 3.14 does (<https://github.com/python/cpython/issues/87135>).

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, process, thread};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

extern "C-unwind" {
    fn PyObject_GetAttr(object: *mut ffi::PyObject, name: *mut ffi::PyObject)
        -> *mut ffi::PyObject;
    fn PyObject_CallObject(
        callable: *mut ffi::PyObject,
        arguments: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// Keeps the thread that drops it: only an unwinding stack does.
struct Hang;

impl Drop for Hang {
    fn drop(&mut self) {
        loop {
            thread::park();
        }
    }
}

/// Calls `function`. If it unwinds, the thread stays here, before anything else is dropped.
fn kept<T>(function: impl FnOnce() -> T) -> T {
    let guard = Hang;
    let result = function();
    mem::forget(guard);
    result
}

/// Calls a method of a Python object. Never returns once Python has ended.
pub fn call_method<'py, A>(
    object: &Bound<'py, PyAny>,
    method: &str,
    arguments: A,
) -> PyResult<Bound<'py, PyAny>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    let py = object.py();
    let arguments = arguments.into_pyobject(py)?;
    let _inside = Inside::enter(object)?;
    call(&get(object, method)?, &arguments)
}

/// Returns an attribute of a Python object, which may be computed. Never returns once Python has
/// ended.
pub fn attribute<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let getattr = py.import("builtins")?.getattr("getattr")?;
    let _inside = Inside::enter(object)?;
    call(&getattr, &(object, name).into_pyobject(py)?)
}

/// Returns the path that an attribute of a Python object stands for. Never returns once Python has
/// ended.
pub fn path(object: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let py = object.py();
    let fspath = py.import("os")?.getattr("fspath")?;
    let _inside = Inside::enter(object)?;
    call(&fspath, &(value,).into_pyobject(py)?)?.extract()
}

fn call<'py>(
    function: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached, and both objects are alive.
    let result = unsafe { kept(|| PyObject_CallObject(function.as_ptr(), arguments.as_ptr())) };
    // SAFETY: PyObject_CallObject returns a new reference, or null and an exception.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }
}

fn get<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let name = PyString::intern(object.py(), name);
    // SAFETY: the thread is attached, and both objects are alive.
    let found = unsafe { kept(|| PyObject_GetAttr(object.as_ptr(), name.as_ptr())) };
    // SAFETY: PyObject_GetAttr returns a new reference, or null and an exception.
    unsafe { Bound::from_owned_ptr_or_err(object.py(), found) }
}

/// A thread in [`call_method`] or [`attribute`].
struct Call {
    process: u32,
    /// Python's name for the thread.
    thread: u64,
    /// Address of the object that is called.
    object: usize,
    since: Instant,
}

/// Threads in these functions. Locked only with the GIL, so a forked process never finds it locked.
static CALLS: Mutex<Vec<Call>> = Mutex::new(Vec::new());

fn calls() -> MutexGuard<'static, Vec<Call>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static THREAD: OnceCell<u64> = const { OnceCell::new() };
}

/// Lists the thread in [`CALLS`] until it is dropped.
struct Inside(u64);

impl Inside {
    fn enter(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let known = THREAD.with(|thread| thread.get().copied());
        let thread = match known {
            Some(thread) => thread,
            None => py.import("_thread")?.call_method0("get_ident")?.extract()?,
        };
        THREAD.with(|cell| cell.set(thread).ok());
        calls().push(Call {
            process: process::id(),
            thread,
            object: object.as_ptr() as usize,
            since: Instant::now(),
        });
        Ok(Self(thread))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut calls = calls();
        if let Some(place) = calls.iter().rposition(|call| call.thread == self.0) {
            calls.swap_remove(place);
        }
    }
}

/// Returns true if a thread has been inside one call of this object for at least `limit`.
pub fn hangs(object: &Bound<'_, PyAny>, limit: Duration) -> bool {
    let (process, object) = (process::id(), object.as_ptr() as usize);
    calls().iter().any(|call| {
        (call.process, call.object) == (process, object) && call.since.elapsed() >= limit
    })
}

/// Returns the threads (`threading.get_ident`) that have been inside one call of a transport's
/// method for at least `seconds`.
#[pyfunction]
pub fn threads_in_python(seconds: f64) -> Vec<u64> {
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let process = process::id();
    calls()
        .iter()
        .filter(|call| call.process == process && call.since.elapsed() >= limit)
        .map(|call| call.thread)
        .collect()
}
