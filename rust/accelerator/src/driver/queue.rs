//! The queue in front of the driver: frames go in, each caller waits for the answer to its own
//! frame.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quasar_core::cpu::NEVER;
use quasar_core::error::{Error, Result};

use crate::counters::{self, Counts};
use crate::transport::Transport;

/// The interval at which a waiting caller checks whether it is cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(20);

/// Longest wait for the driver's thread to end when the queue is closed. A transport in Python may
/// hang.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Part of [`CLOSE_LIMIT`] in which the thread may still finish its frames.
const FINISH_LIMIT: Duration = Duration::from_secs(4);
/// The interval at which a closed queue checks whether the thread has ended.
const CLOSE_INTERVAL: Duration = Duration::from_millis(1);

/// Counts of what happened since the driver was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that got their logits.
    pub frames: u64,
    /// Frames that got an error.
    pub faults: u64,
    /// Resets, the first one included.
    pub resets: u64,
    /// Segments and outputs that were done without an interrupt. One interrupt may announce both.
    pub lost_interrupts: u64,
    /// Interrupts without a completion.
    pub spurious_interrupts: u64,
}

/// Counters that the driver's thread writes and any thread reads.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedCounters(Arc<Mutex<Counters>>);

impl SharedCounters {
    pub(super) fn get(&self) -> Counters {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one to the counter that `counter` selects.
    pub(super) fn count(&self, counter: impl FnOnce(&mut Counters) -> &mut u64) {
        *counter(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)) += 1;
    }
}

/// A frame on its way to the driver.
#[derive(Debug)]
pub(super) struct Job {
    /// The packed input: whole logical beats.
    pub(super) input: Vec<u8>,
    pub(super) answer: Sender<Result<Vec<i32>>>,
    abandoned: Arc<AtomicBool>,
}

impl Job {
    /// Returns true if the ticket was dropped: nobody waits for the frame.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// An access to the device in the driver's thread.
pub(super) type Access = Box<dyn FnOnce(&mut dyn Transport) + Send>;

/// A caller's request to the driver.
pub(super) enum Request {
    /// Runs a frame.
    Frame(Job),
    /// Accesses the device at once, between other accesses.
    Access(Access),
}

/// The caller's handle to a frame. The driver skips a frame whose ticket is dropped before the
/// frame starts.
#[derive(Debug)]
pub struct Ticket {
    answer: Receiver<Result<Vec<i32>>>,
    abandoned: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
}

impl Ticket {
    /// Waits for the frame's logits, by class. If the queue is closed and its thread hangs, waits
    /// for [`CLOSE_LIMIT`].
    ///
    /// # Errors
    /// The fault that hit this frame, or [`Error::Interrupted`].
    pub fn wait(self, cancel: &AtomicBool) -> Result<Vec<i32>> {
        let mut limit = None;
        loop {
            match self.answer.recv_timeout(CANCEL_INTERVAL) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if cancel.load(Ordering::Relaxed) => {
                    return Err(Error::Interrupted)
                }
                Err(RecvTimeoutError::Timeout) if self.closing.load(Ordering::Relaxed) => {
                    let now = Instant::now();
                    if now >= *limit.get_or_insert(now + CLOSE_LIMIT) {
                        return Err(ended());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// A fault for [`Transport::inject`](crate::transport::Transport::inject) and the number of frames
/// before it.
pub(super) type InjectedFault = (String, u64);

/// A queue of frames, which the driver runs in order in a thread of its own. Dropping the queue
/// ends the thread as [`Self::finish`] does.
#[derive(Debug)]
pub struct FrameQueue {
    /// `None` once the queue is closed.
    requests: Mutex<Option<Sender<Request>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
    closing: Arc<AtomicBool>,
    counters: SharedCounters,
    faults: Sender<InjectedFault>,
}

fn ended() -> Error {
    Error::DeviceFault {
        device: "accelerator".into(),
        problem: "the driver's thread has ended".into(),
    }
}

/// Locks a value that no panic leaves half written.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FrameQueue {
    /// Runs `serve` in a thread of its own, with the receivers of frames and of injected faults.
    /// `serve` ends soon once `closing` is set.
    pub(super) fn spawn(
        counters: SharedCounters,
        closing: Arc<AtomicBool>,
        serve: impl FnOnce(&Receiver<Request>, &Receiver<InjectedFault>) + Send + 'static,
    ) -> Result<Self> {
        let (requests, source) = mpsc::channel();
        let (faults, injected) = mpsc::channel();
        let worker = thread::Builder::new()
            .name("quasar-driver".into())
            .spawn(move || serve(&source, &injected))
            .map_err(|error| Error::Threads {
                threads: 1,
                problem: error.to_string(),
            })?;
        Ok(Self {
            requests: Mutex::new(Some(requests)),
            worker: Mutex::new(Some(worker)),
            closing,
            counters,
            faults,
        })
    }

    /// Adds a frame, as its packed input.
    pub fn submit(&self, input: Vec<u8>) -> Ticket {
        let (answer, ticket) = mpsc::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let job = Job {
            input,
            answer,
            abandoned: Arc::clone(&abandoned),
        };
        // If the thread has ended, the ticket loses its sender here, and its wait returns the
        // error.
        self.send(Request::Frame(job));
        Ticket {
            answer: ticket,
            abandoned,
            closing: Arc::clone(&self.closing),
        }
    }

    fn send(&self, request: Request) {
        if let Some(requests) = lock(&self.requests).as_ref() {
            let _ = requests.send(request);
        }
    }

    /// Clears the counters on the chip and lets them run. The driver does so between two accesses
    /// of its own, so frames in flight are counted from there on.
    ///
    /// # Errors
    /// As [`counters::start`].
    pub fn start_counters(&self) -> Result<()> {
        self.access(|transport| counters::start(transport))
    }

    /// Holds the counters on the chip and reads them.
    ///
    /// # Errors
    /// As [`counters::stop`].
    pub fn stop_counters(&self) -> Result<Counts> {
        self.access(|transport| counters::stop(transport))
    }

    /// Accesses the device in the driver's thread.
    fn access<T: Send + 'static>(
        &self,
        access: impl FnOnce(&mut dyn Transport) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, result) = mpsc::channel();
        self.send(Request::Access(Box::new(move |transport| {
            let _ = answer.send(access(transport));
        })));
        result.recv().unwrap_or_else(|_| Err(ended()))
    }

    /// Returns the counts so far.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// Injects a fault into a simulated device before the next frame starts: see
    /// [`Transport::inject`](crate::transport::Transport::inject).
    pub fn inject(&self, fault: &str, after_frames: u64) {
        let _ = self.faults.send((fault.to_owned(), after_frames));
    }

    /// Ends the thread without finishing the frames: they get an error, as do later ones. Returns
    /// false if the thread has not ended by `limit`; it is then left alone.
    pub fn close(&self, limit: Instant) -> bool {
        self.closing.store(true, Ordering::Relaxed);
        self.end(limit, &NEVER)
    }

    /// Ends the thread after the frames in the queue; closes the queue if they take too long, or
    /// once `cancel` is set. Returns false if the thread has not ended within [`CLOSE_LIMIT`], or
    /// by the cancellation; it is then left alone.
    pub fn finish(&self, cancel: &AtomicBool) -> bool {
        let start = Instant::now();
        if self.closing.load(Ordering::Relaxed) {
            return self.end(start, cancel);
        }
        let ended = self.end(start + FINISH_LIMIT, cancel);
        if !ended {
            self.closing.store(true, Ordering::Relaxed);
        }
        ended || self.end(start + CLOSE_LIMIT, cancel)
    }

    /// Takes no more requests and waits for the thread's end.
    fn end(&self, limit: Instant, cancel: &AtomicBool) -> bool {
        drop(lock(&self.requests).take());
        let own = thread::current().id();
        loop {
            let ended = lock(&self.worker)
                .as_ref()
                .is_none_or(|worker| worker.is_finished() || worker.thread().id() == own);
            if ended || Instant::now() >= limit || cancel.load(Ordering::Relaxed) {
                return ended;
            }
            thread::sleep(CLOSE_INTERVAL);
        }
    }

    /// Takes the thread's handle, but not in the thread itself, which cannot wait for its own end.
    /// (The garbage collector may drop an engine while the driver calls Python.)
    fn worker(&self) -> Option<JoinHandle<()>> {
        let worker = lock(&self.worker).take()?;
        (worker.thread().id() != thread::current().id()).then_some(worker)
    }
}

impl Drop for FrameQueue {
    fn drop(&mut self) {
        // A thread that has not ended may never end.
        if self.finish(&NEVER) {
            if let Some(worker) = self.worker() {
                // A panic of the thread has already reached the callers as an error.
                let _ = worker.join();
            }
        }
    }
}
