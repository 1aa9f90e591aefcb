//! Watches the thread that calls a transport, since a call may never return and cannot be
//! cancelled.
//!
//! The thread counts its calls in a [`Watch`], and everyone who waits for the thread reads that
//! count. A caller who has seen the same call for the whole limit gives the device up: all waits
//! fail, later ones fail at once, and the thread is abandoned. If the call does return, the thread
//! resets the kernels, makes no other access, and ends. The limit applies to a call, so frames
//! behind a long queue do not time out.
//!
//! Depends on [`crate::host::transport`] and the core's error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quasar_core::error::{Error, Result};

use crate::host::transport::{Buffer, Transport};

/// Time that a call of a transport may take beyond the limit of a segment.
pub const CALL_SLACK: Duration = Duration::from_secs(5);
/// Limit of the wait for the thread when its device is closed, and of each call of the transport
/// from then on.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// The interval at which a waiting caller reads the watch and its cancellation.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time between two reads that counts as waiting, since the process may have been stopped.
const LONGEST_LOOK: Duration = Duration::from_millis(200);
/// The interval at which a closed queue checks whether the thread has ended.
const CLOSE_INTERVAL: Duration = Duration::from_millis(1);

/// Locks a value, also after a panic: no panic leaves it half written.
pub(crate) fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Declares the watched calls, with their names in messages.
macro_rules! calls {
    ($($call:ident $words:literal)*) => {
        /// A call of a transport.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Call {
            $($call),*
        }

        impl Call {
            const WORDS: &'static [&'static str] = &[$($words),*];
        }
    };
}

calls! {
    Connect "the connection to the device"
    Clocks "the transport's call of `clocks`"
    Read "the transport's call of `read`"
    Write "the transport's call of `write`"
    Allocate "the transport's call of `allocate`"
    CopyIn "the transport's call of `copy_in`"
    CopyOut "the transport's call of `copy_out`"
    Flush "the transport's call of `flush`"
    Invalidate "the transport's call of `invalidate`"
    Wait "the transport's call of `wait`"
    Reset "the reset"
    Diagnosis "the transport's call of `diagnosis`"
    Inject "the transport's call of `inject`"
}

/// Bits of [`Watch::calls`] that name the call.
const CALL_BITS: u32 = 8;

/// State shared by the thread that calls a transport and the callers who wait for it.
#[derive(Debug)]
pub struct Watch {
    /// Limit of one call.
    limit: Duration,
    /// The number of calls so far; in the low bits, 1 + the kind of the call in progress, or 0.
    calls: AtomicU64,
    /// True if the thread must end without finishing its work.
    closing: AtomicBool,
    /// True if the device is about to close.
    closes_soon: AtomicBool,
    /// Set once the device was given up: the call that did not return, or `None` if a caller was
    /// interrupted.
    given_up: OnceLock<Option<&'static str>>,
    name: OnceLock<String>,
}

impl Watch {
    /// Creates a watch for a device whose segments may take up to `segment`.
    pub fn new(segment: Duration) -> Arc<Self> {
        Self::with_limit(segment.saturating_add(CALL_SLACK))
    }

    /// Creates a watch with the limit of one call.
    pub(crate) fn with_limit(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            calls: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            closes_soon: AtomicBool::new(false),
            given_up: OnceLock::new(),
            name: OnceLock::new(),
        })
    }

    /// Requests that the thread ends without finishing its work.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Returns true once the thread must end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Shortens the limit of a call to [`CLOSE_LIMIT`], because the device will close.
    pub(crate) fn close_soon(&self) {
        self.closes_soon.store(true, Ordering::Relaxed);
    }

    /// Returns true once the device was given up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.get().is_some()
    }

    /// Forbids the thread all accesses except a reset, and requests its end.
    fn give_up(&self, call: Option<&'static str>) {
        self.close();
        let _ = self.given_up.set(call);
    }

    /// Returns an error once the device was given up.
    pub(crate) fn check(&self) -> Result<()> {
        match self.given_up.get() {
            Some(Some(call)) => Err(Error::DeviceUnavailable {
                device: self.name(),
                problem: format!("{call} has not returned; {REMEDY}"),
            }),
            Some(None) => Err(Error::DeviceUnavailable {
                device: self.name(),
                problem: "it was closed".into(),
            }),
            None => Ok(()),
        }
    }

    /// Waits for an answer from the thread.
    ///
    /// # Errors
    /// The error in the answer; [`Error::DeviceTimeout`] if the thread hangs in a call of the
    /// transport, [`Error::DeviceFault`] if it has ended, [`Error::Interrupted`].
    pub(crate) fn receive<T>(
        &self,
        answer: &Receiver<Result<T>>,
        cancel: &AtomicBool,
    ) -> Result<T> {
        let mut patience = Patience::new(self);
        loop {
            match answer.recv_timeout(LOOK_INTERVAL) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            patience.look()?;
        }
    }

    /// Like [`Self::receive`], and gives the device up if there is no answer.
    pub(crate) fn receive_or_give_up<T>(
        &self,
        answer: &Receiver<Result<T>>,
        cancel: &AtomicBool,
    ) -> Result<T> {
        self.receive(answer, cancel).inspect_err(|error| {
            if matches!(error, Error::Interrupted) {
                self.give_up(None);
            }
        })
    }

    fn name(&self) -> String {
        let name = self.name.get().map_or("accelerator", String::as_str);
        name.to_owned()
    }

    fn ended(&self) -> Error {
        Error::DeviceFault {
            device: self.name(),
            problem: "the driver's thread has ended".into(),
        }
    }

    fn timeout(&self, call: &'static str, waited: Duration) -> Error {
        Error::DeviceTimeout {
            device: self.name(),
            what: call,
            waited,
            details: format!("; {REMEDY}"),
        }
    }

    fn call<T>(&self, call: Call, function: impl FnOnce() -> T) -> T {
        let number = (self.calls.load(Ordering::Relaxed) >> CALL_BITS) + 1;
        let inside = number << CALL_BITS | (call as u64 + 1);
        self.calls.store(inside, Ordering::Relaxed);
        let result = function();
        self.calls.store(number << CALL_BITS, Ordering::Relaxed);
        result
    }
}

/// The remedy for a device that was given up.
const REMEDY: &str = "its thread is left behind and keeps the device: \
                      end this process, restart the device and make a new engine";

/// One caller's observation of a watch.
struct Patience<'a> {
    watch: &'a Watch,
    /// The call seen last, and the time spent waiting for it and for the thread's end.
    calls: u64,
    inside: Duration,
    closing: Duration,
    last: Instant,
}

impl<'a> Patience<'a> {
    fn new(watch: &'a Watch) -> Self {
        Self {
            watch,
            calls: watch.calls.load(Ordering::Relaxed),
            inside: Duration::ZERO,
            closing: Duration::ZERO,
            last: Instant::now(),
        }
    }

    /// Reads the watch. Returns an error if one call of the transport takes too long or the thread
    /// does not end.
    fn look(&mut self) -> Result<()> {
        let now = Instant::now();
        let passed = (now - self.last).min(LONGEST_LOOK);
        self.last = now;
        let watch = self.watch;
        let calls = watch.calls.load(Ordering::Relaxed);
        let call = (calls as usize & ((1 << CALL_BITS) - 1)).checked_sub(1);
        if calls != std::mem::replace(&mut self.calls, calls) {
            self.inside = Duration::ZERO;
        } else if call.is_some() {
            self.inside += passed;
        }
        if watch.is_closing() {
            self.closing += passed;
        }
        let words = call.map_or("the driver's work", |call| Call::WORDS[call]);
        if watch.is_given_up() {
            return Err(watch.timeout(words, self.inside));
        }
        let hurry = watch.closes_soon.load(Ordering::Relaxed) || watch.is_closing();
        let limit = if hurry {
            watch.limit.min(CLOSE_LIMIT)
        } else {
            watch.limit
        };
        let waited = self.inside.max(self.closing);
        if self.inside >= limit || self.closing >= CLOSE_LIMIT {
            watch.give_up(Some(words));
            return Err(watch.timeout(words, waited));
        }
        Ok(())
    }
}

/// A transport that counts its calls in a [`Watch`]. Once the device is given up, all calls except
/// resets fail.
#[derive(Debug)]
pub struct Watched<T> {
    transport: T,
    watch: Arc<Watch>,
}

impl<T: Transport> Watched<T> {
    /// Connects to a device.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(watch: &Arc<Watch>, connect: impl FnOnce() -> Result<T>) -> Result<Self> {
        let transport = watch.call(Call::Connect, connect)?;
        let _ = watch.name.set(transport.name());
        Ok(Self {
            transport,
            watch: Arc::clone(watch),
        })
    }

    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    fn call<R>(&mut self, call: Call, function: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        self.watch.check()?;
        let transport = &mut self.transport;
        self.watch.call(call, || function(transport))
    }
}

impl<T: Transport> Transport for Watched<T> {
    fn name(&self) -> String {
        self.transport.name()
    }

    fn clocks(&mut self) -> Result<Option<u32>> {
        self.call(Call::Clocks, Transport::clocks)
    }

    fn read(&mut self, register: u32) -> Result<u32> {
        self.call(Call::Read, |transport| transport.read(register))
    }

    fn write(&mut self, register: u32, value: u32) -> Result<()> {
        self.call(Call::Write, |transport| transport.write(register, value))
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
        self.call(Call::Allocate, |transport| transport.allocate(bytes))
    }

    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        self.call(Call::CopyIn, |transport| {
            transport.copy_in(buffer, offset, data)
        })
    }

    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        self.call(Call::CopyOut, |transport| {
            transport.copy_out(buffer, offset, out)
        })
    }

    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.call(Call::Flush, |transport| {
            transport.flush(buffer, offset, bytes)
        })
    }

    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.call(Call::Invalidate, |transport| {
            transport.invalidate(buffer, offset, bytes)
        })
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        self.call(Call::Wait, |transport| transport.wait(timeout))
    }

    fn now(&self) -> Instant {
        self.transport.now()
    }

    fn sleep(&mut self, time: Duration) {
        self.transport.sleep(time);
    }

    fn reset(&mut self) -> Result<()> {
        let transport = &mut self.transport;
        self.watch.call(Call::Reset, || transport.reset())
    }

    fn stop(&mut self) -> Result<()> {
        // Always allowed: running kernels write to memory that is about to be freed.
        let transport = &mut self.transport;
        self.watch.call(Call::Reset, || transport.stop())
    }

    fn diagnosis(&mut self) -> String {
        if self.watch.is_given_up() {
            return String::new();
        }
        let transport = &mut self.transport;
        self.watch.call(Call::Diagnosis, || transport.diagnosis())
    }

    fn inject(&mut self, fault: &str, after: u64) -> Result<()> {
        self.call(Call::Inject, |transport| transport.inject(fault, after))
    }
}

#[cfg(test)]
impl<T: Transport> Watched<T> {
    /// Wraps a transport whose calls always return.
    pub(crate) fn of(transport: T) -> Self {
        let watch = Watch::new(Duration::from_secs(60));
        Self::connect(&watch, || Ok(transport)).unwrap()
    }

    pub(crate) fn inner(&mut self) -> &mut T {
        &mut self.transport
    }
}

/// A thread that is abandoned if it hangs.
#[derive(Debug)]
pub(crate) struct Worker(Mutex<Option<JoinHandle<()>>>);

impl Worker {
    /// Runs `work` in a thread.
    ///
    /// # Errors
    /// [`Error::Threads`].
    pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) -> Result<Self> {
        let worker = thread::Builder::new()
            .name("quasar-driver".into())
            .spawn(work)
            .map_err(|error| Error::Threads {
                threads: 1,
                problem: error.to_string(),
            })?;
        Ok(Self(Mutex::new(Some(worker))))
    }

    /// Waits for the thread's end until `limit` or until `cancel` is set. Returns true if the
    /// thread has ended or is the calling thread.
    pub(crate) fn end(&self, limit: Instant, cancel: &AtomicBool) -> bool {
        let own = thread::current().id();
        loop {
            let ended = lock(&self.0)
                .as_ref()
                .is_none_or(|worker| worker.is_finished() || worker.thread().id() == own);
            if ended || Instant::now() >= limit || cancel.load(Ordering::Relaxed) {
                return ended;
            }
            thread::sleep(CLOSE_INTERVAL);
        }
    }

    /// Joins the thread, unless it is the calling thread. (The garbage collector may drop an engine
    /// while the driver calls Python.)
    pub(crate) fn join(&self) {
        let worker = lock(&self.0).take();
        if let Some(worker) = worker.filter(|worker| worker.thread().id() != thread::current().id())
        {
            // Callers have already received a panic of the thread as an error.
            let _ = worker.join();
        }
    }
}
