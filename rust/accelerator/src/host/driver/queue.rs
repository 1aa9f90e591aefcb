//! Queues frames for the driver. Each caller waits for the answer to its own frame.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quasar_core::cpu::NEVER;
use quasar_core::error::Result;

use crate::counts::Counts;
use crate::host::counters;
use crate::host::transport::Transport;
use crate::host::watch::{lock, Watch, Worker, CLOSE_LIMIT};

/// Part of [`CLOSE_LIMIT`] in which the thread may still finish its frames.
const FINISH_LIMIT: Duration = Duration::from_secs(4);

/// Counts since the driver was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames answered with logits.
    pub frames: u64,
    /// Frames answered with an error.
    pub faults: u64,
    /// Resets, the first one included.
    pub resets: u64,
    /// Segments and outputs completed without an interrupt. One interrupt may report both.
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

/// A frame in the queue to the driver.
#[derive(Debug)]
pub(super) struct Job {
    /// The packed input: whole logical beats.
    pub(super) input: Vec<u8>,
    pub(super) answer: Sender<Result<Vec<i32>>>,
    abandoned: Arc<AtomicBool>,
}

impl Job {
    /// Returns true if the frame's ticket was dropped.
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
    /// Runs an access between the driver's own accesses.
    Access(Access),
}

/// The caller's handle to a frame. The driver skips a frame whose ticket is dropped before the
/// frame starts.
#[derive(Debug)]
pub struct Ticket {
    answer: Receiver<Result<Vec<i32>>>,
    abandoned: Arc<AtomicBool>,
    watch: Arc<Watch>,
}

impl Ticket {
    /// Waits for the frame's logits, by class.
    ///
    /// # Errors
    /// The fault of this frame; [`Error::DeviceTimeout`] if one call of the transport takes longer
    /// than its limit (see [`Watch`]); [`Error::Interrupted`].
    ///
    /// [`Error::DeviceTimeout`]: quasar_core::Error::DeviceTimeout
    /// [`Error::Interrupted`]: quasar_core::Error::Interrupted
    pub fn wait(self, cancel: &AtomicBool) -> Result<Vec<i32>> {
        self.watch.receive(&self.answer, cancel)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// A fault for [`Transport::inject`](crate::host::transport::Transport::inject) and the number of
/// frames before it.
pub(super) type InjectedFault = (String, u64);

/// A queue of frames, which the driver runs in order in its own thread. Dropping the queue ends the
/// thread as [`Self::finish`] does.
#[derive(Debug)]
pub struct FrameQueue {
    /// `None` once the queue is closed.
    requests: Mutex<Option<Sender<Request>>>,
    worker: Worker,
    watch: Arc<Watch>,
    counters: SharedCounters,
    faults: Sender<InjectedFault>,
}

/// Sends the result of opening the driver to the caller.
pub(super) type Opened = Sender<Result<SharedCounters>>;

impl FrameQueue {
    /// Runs `serve` in a new thread with the receivers of frames and of injected faults, and waits
    /// until `serve` reports that the driver is open. `serve` must end soon after the watch closes.
    pub(super) fn spawn(
        watch: &Arc<Watch>,
        cancel: &AtomicBool,
        serve: impl FnOnce(&Opened, &Receiver<Request>, &Receiver<InjectedFault>) + Send + 'static,
    ) -> Result<Self> {
        let (requests, source) = mpsc::channel();
        let (faults, injected) = mpsc::channel();
        let (opened, counters) = mpsc::channel();
        let worker = Worker::spawn(move || serve(&opened, &source, &injected))?;
        Ok(Self {
            counters: watch.receive_or_give_up(&counters, cancel)?,
            requests: Mutex::new(Some(requests)),
            worker,
            watch: Arc::clone(watch),
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
        // If the thread has ended, this drops the ticket's sender, and its wait returns the error.
        match self.watch.check() {
            Ok(()) => self.send(Request::Frame(job)),
            Err(error) => drop(job.answer.send(Err(error))),
        }
        Ticket {
            answer: ticket,
            abandoned,
            watch: Arc::clone(&self.watch),
        }
    }

    fn send(&self, request: Request) {
        if let Some(requests) = lock(&self.requests).as_ref() {
            let _ = requests.send(request);
        }
    }

    /// Clears and starts the counters on the chip. This happens between two accesses of the driver,
    /// so the rest of frames in flight is counted.
    ///
    /// # Errors
    /// As [`counters::start`].
    pub fn start_counters(&self, cancel: &AtomicBool) -> Result<()> {
        self.access(|transport| counters::start(transport), cancel)
    }

    /// Stops the counters on the chip and reads them.
    ///
    /// # Errors
    /// As [`counters::stop`].
    pub fn stop_counters(&self, cancel: &AtomicBool) -> Result<Counts> {
        self.access(|transport| counters::stop(transport), cancel)
    }

    /// Accesses the device in the driver's thread.
    fn access<T: Send + 'static>(
        &self,
        access: impl FnOnce(&mut dyn Transport) -> Result<T> + Send + 'static,
        cancel: &AtomicBool,
    ) -> Result<T> {
        self.watch.check()?;
        let (answer, result) = mpsc::channel();
        self.send(Request::Access(Box::new(move |transport| {
            let _ = answer.send(access(transport));
        })));
        self.watch.receive(&result, cancel)
    }

    /// Returns the counts so far.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// Injects a fault into a simulated device before the next frame starts: see
    /// [`Transport::inject`](crate::host::transport::Transport::inject).
    pub fn inject(&self, fault: &str, after_frames: u64) {
        let _ = self.faults.send((fault.to_owned(), after_frames));
    }

    /// Limits each call of the transport to [`CLOSE_LIMIT`] from now on, because the queue will
    /// close after the frames in progress.
    pub fn close_soon(&self) {
        self.watch.close_soon();
    }

    /// Ends the thread without finishing its frames: these and later frames fail. Returns false if
    /// the thread has not ended by `limit`; the thread is then abandoned.
    pub fn close(&self, limit: Instant) -> bool {
        self.watch.close();
        self.end(limit, &NEVER)
    }

    /// Ends the thread after the frames in the queue. Closes the queue if they take too long or
    /// once `cancel` is set. Returns false if the thread has not ended within [`CLOSE_LIMIT`] or by
    /// the cancellation, or if the device was given up; the thread is then abandoned.
    pub fn finish(&self, cancel: &AtomicBool) -> bool {
        let start = Instant::now();
        if self.watch.is_closing() {
            return self.end(start, cancel);
        }
        let ended = self.end(start + FINISH_LIMIT, cancel);
        if !ended {
            self.watch.close();
        }
        ended || self.end(start + CLOSE_LIMIT, cancel)
    }

    /// Refuses further requests and waits for the thread's end.
    fn end(&self, limit: Instant, cancel: &AtomicBool) -> bool {
        drop(lock(&self.requests).take());
        self.worker.end(limit, cancel)
    }
}

impl Drop for FrameQueue {
    fn drop(&mut self) {
        // A thread that has not ended may never end.
        if self.finish(&NEVER) {
            self.worker.join();
        }
    }
}
