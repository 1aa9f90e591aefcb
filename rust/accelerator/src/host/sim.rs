//! Runs a simulated device: a shared library of the HLS sources. `fpga/sim/quasar_sim.h` declares
//! its functions.
//!
//! The device has an MMCM in front of it: after the fault [`LOST_LOCK`], a register access fails as
//! one that would hang, until the MMCM is locked again.
//!
//! All `unsafe` blocks call that library. Depends on [`crate::host::transport`], `host_memory` and
//! [`crate::isa`].
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, CStr, CString};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use libloading::{Library, Symbol};
use quasar_core::error::{Error, Result};

use crate::host::memory::{Caching, HostMemory};
use crate::host::transport::{Buffer, Transport};
use crate::isa::clocks::ClockStatus;
use crate::isa::ABI;

/// The fault of a clock that changes under the MMCM.
const LOST_LOCK: &str = "lost_lock";

/// The library's type of a device.
#[repr(C)]
struct Opaque {
    _private: [u8; 0],
}

type Handle = *mut Opaque;

/// The library's functions, as `quasar_sim.h` declares them.
struct Functions {
    open: unsafe extern "C" fn(u64, u64, *mut c_char, u64) -> Handle,
    close: unsafe extern "C" fn(Handle),
    read: unsafe extern "C" fn(Handle, u32) -> u32,
    write: unsafe extern "C" fn(Handle, u32, u32),
    alloc: unsafe extern "C" fn(Handle, u64, *mut u64) -> *mut u8,
    flush: unsafe extern "C" fn(Handle, u64, u64) -> c_int,
    invalidate: unsafe extern "C" fn(Handle, u64, u64) -> c_int,
    wait: unsafe extern "C" fn(Handle, u32) -> c_int,
    fault: unsafe extern "C" fn(Handle, *const c_char, u64) -> c_int,
    trap: unsafe extern "C" fn(Handle) -> *const c_char,
}

/// The loaded library of one hardware configuration.
pub struct SimLibrary {
    functions: Functions,
    name: String,
    configuration: String,
    /// Keeps the code loaded that `functions` points to.
    _library: Library,
}

fn unavailable(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::DeviceUnavailable {
        device: format!("sim:{}", path.display()),
        problem: problem.to_string(),
    }
}

impl SimLibrary {
    /// Loads a library.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] if the file is not a simulated device or has another version.
    pub fn load(path: &Path) -> Result<Self> {
        // SAFETY: loading runs the library's initialisers. `make sim` builds the library from this
        // repository's sources; a user who names another file asks for its code to be run.
        let library = unsafe { Library::new(path) }.map_err(|e| unavailable(path, e))?;
        macro_rules! symbol {
            ($name:literal) => {{
                // SAFETY: the type is the one that `quasar_sim.h` declares for the name.
                let symbol: Symbol<_> = unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|e| unavailable(path, e))?;
                *symbol
            }};
        }
        let abi: unsafe extern "C" fn() -> u32 = symbol!("qsim_abi");
        // SAFETY: the function takes nothing and has no preconditions.
        let found = unsafe { abi() };
        if found != ABI {
            return Err(unavailable(
                path,
                format!("it has interface version {found}, not {ABI}; build it again (make sim)"),
            ));
        }
        let configuration: unsafe extern "C" fn() -> *const c_char = symbol!("qsim_configuration");
        // SAFETY: it returns a string of static lifetime, ended by 0.
        let configuration = unsafe { CStr::from_ptr(configuration()) };
        Ok(Self {
            functions: Functions {
                open: symbol!("qsim_open"),
                close: symbol!("qsim_close"),
                read: symbol!("qsim_read"),
                write: symbol!("qsim_write"),
                alloc: symbol!("qsim_alloc"),
                flush: symbol!("qsim_flush"),
                invalidate: symbol!("qsim_invalidate"),
                wait: symbol!("qsim_wait"),
                fault: symbol!("qsim_fault"),
                trap: symbol!("qsim_trap"),
            },
            name: path
                .file_stem()
                .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
            configuration: configuration.to_string_lossy().into_owned(),
            _library: library,
        })
    }

    /// Returns the hardware configuration (TOML) that the library was built from.
    pub fn configuration(&self) -> &str {
        &self.configuration
    }
}

/// A simulated device. A seed determines the order in which its processes run.
pub struct Sim {
    library: Arc<SimLibrary>,
    device: NonNull<Opaque>,
    /// The host's copy of each buffer.
    memory: HostMemory,
    /// Looks at the clocks' status until the MMCM is locked.
    unlocked: u64,
}

// SAFETY: the library's functions may be called from any thread, one at a time (`quasar_sim.h`);
// all calls go through `&mut self`.
unsafe impl Send for Sim {}

impl Sim {
    /// Opens a device with `memory_bytes` of memory. With `seed` 0 its processes run round robin.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`].
    pub fn open(library: Arc<SimLibrary>, seed: u64, memory_bytes: u64) -> Result<Self> {
        let mut message = [0_u8; 512];
        // SAFETY: the message's buffer is writable for the length that is given.
        let device = unsafe {
            (library.functions.open)(
                seed,
                memory_bytes,
                message.as_mut_ptr().cast(),
                message.len() as u64,
            )
        };
        match NonNull::new(device) {
            Some(device) => Ok(Self {
                library,
                device,
                memory: HostMemory::default(),
                unlocked: 0,
            }),
            None => Err(Error::DeviceUnavailable {
                device: format!("sim:{}", library.name),
                problem: CStr::from_bytes_until_nul(&message)
                    .map_or_else(|_| "unknown".into(), |m| m.to_string_lossy().into_owned()),
            }),
        }
    }

    /// Fails an access to a register that would never end.
    fn expect_lock(&self, register: u32) -> Result<()> {
        if self.unlocked == 0 {
            return Ok(());
        }
        Err(Error::DeviceFault {
            device: self.name(),
            problem: format!("register {register:#x} has no clock: the bus would hang"),
        })
    }

    fn sync(
        &mut self,
        function: unsafe extern "C" fn(Handle, u64, u64) -> c_int,
        buffer: &Buffer,
        offset: usize,
        bytes: usize,
    ) -> Result<()> {
        let range = buffer.range(offset, bytes)?;
        // SAFETY: the device is open; the library checks the range.
        let result = unsafe {
            function(
                self.device.as_ptr(),
                buffer.physical + range.start as u64,
                bytes as u64,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::DeviceFault {
                device: self.name(),
                problem: format!("no memory at {:#x}", buffer.physical + offset as u64),
            })
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // SAFETY: the device is open, and nothing uses it or its memory afterwards.
        unsafe { (self.library.functions.close)(self.device.as_ptr()) }
    }
}

impl Transport for Sim {
    fn name(&self) -> String {
        format!("sim:{}", self.library.name)
    }

    fn clocks(&mut self) -> Result<Option<u32>> {
        let running = ClockStatus::running(2);
        let locked = self.unlocked == 0;
        self.unlocked = self.unlocked.saturating_sub(1);
        let found = if locked {
            running
        } else {
            ClockStatus {
                locked,
                array: 0,
                kernels: 0,
                ..running
            }
        };
        Ok(Some(found.word()))
    }

    fn read(&mut self, register: u32) -> Result<u32> {
        self.expect_lock(register)?;
        // SAFETY: the device is open; the library checks the offset.
        Ok(unsafe { (self.library.functions.read)(self.device.as_ptr(), register) })
    }

    fn write(&mut self, register: u32, value: u32) -> Result<()> {
        self.expect_lock(register)?;
        // SAFETY: the device is open; the library checks the offset.
        unsafe { (self.library.functions.write)(self.device.as_ptr(), register, value) }
        Ok(())
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
        let mut physical = 0;
        // SAFETY: the device is open, and `physical` is writable.
        let start = unsafe {
            (self.library.functions.alloc)(self.device.as_ptr(), bytes as u64, &raw mut physical)
        };
        let start = NonNull::new(start).ok_or(Error::DoesNotFit {
            what: format!("the memory of {}", self.name()),
            needed: bytes as u64,
            available: 0,
            unit: "bytes",
        })?;
        let index = self.memory.next_index();
        // SAFETY: the device's own memory, which lives until the device is closed. The device's
        // thread touches the host's copy only within `flush` and `invalidate`.
        unsafe { self.memory.add(start, bytes, Caching::Cached) }
        Ok(Buffer {
            index,
            physical,
            bytes,
        })
    }

    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        self.memory.copy_in(buffer, offset, data)
    }

    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        self.memory.copy_out(buffer, offset, out)
    }

    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.sync(self.library.functions.flush, buffer, offset, bytes)
    }

    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.sync(self.library.functions.invalidate, buffer, offset, bytes)
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let milliseconds = timeout.as_micros().div_ceil(1000).min(u32::MAX.into()) as u32;
        // SAFETY: the device is open.
        if unsafe { (self.library.functions.wait)(self.device.as_ptr(), milliseconds) } == 1 {
            return Ok(true);
        }
        // A trapped or deadlocked device raises no interrupt, but reports a diagnosis.
        let problem = self.diagnosis();
        if problem.is_empty() {
            return Ok(false);
        }
        Err(Error::DeviceFault {
            device: self.name(),
            problem,
        })
    }

    fn diagnosis(&mut self) -> String {
        // SAFETY: the device is open; the string is valid until the next call.
        let trap = unsafe { CStr::from_ptr((self.library.functions.trap)(self.device.as_ptr())) };
        trap.to_string_lossy().into_owned()
    }

    /// Injects a fault of `quasar_sim.h`, or [`LOST_LOCK`]: at once, until the status was read
    /// `after_frames` times.
    fn inject(&mut self, fault: &str, after_frames: u64) -> Result<()> {
        if fault == LOST_LOCK {
            self.unlocked = after_frames;
            return Ok(());
        }
        let unknown = || Error::InvalidValue(format!("{}: no fault {fault:?}", self.name()));
        let kind = CString::new(fault).map_err(|_| unknown())?;
        // SAFETY: the device is open, and `kind` is a string ended by 0.
        match unsafe {
            (self.library.functions.fault)(self.device.as_ptr(), kind.as_ptr(), after_frames)
        } {
            0 => Ok(()),
            _ => Err(unknown()),
        }
    }
}
