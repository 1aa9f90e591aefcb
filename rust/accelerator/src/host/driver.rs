//! Runs frames on an accelerator, two at a time. The answer to each frame is its logits or its own
//! error.
//!
//! The host runs *segments*: lists of commands that start a frame, finish one, or do both. The
//! accelerator works without a pause between segments. So it holds up to three frames: one that
//! awaits its output, the next one whose last segment is started, and one that is half done. The
//! input of a fourth may be in memory ([`IN_FLIGHT`]). A fault fails the oldest frame. Then the
//! driver resets the kernels, writes everything in memory again and restarts the other frames.
//!
//! The driver never returns stale or broken data as an answer:
//! - An interrupt of fetch or store is only a hint. The driver reads completion from `AP_CTRL`.
//! - The driver clears the output before each attempt. The output contains a check, and the status
//!   of all transfers from the arena.
//! - Each attempt has its own nonce, the key of the check of the frame's input. Load computes the
//!   nonce from check and data, and store writes it to the output. So the driver recognises the
//!   output of another input, a stale cache line, and a late write from before a reset.
//! - The checks of the arena have keys that differ for each driver and each transfer.
//! - Each command has a check, continued from a seed that differs for each segment. Fetch verifies
//!   it before it sends the command to a unit.
//! - Each command of load contains the arena's seed. Load compares it with the seed in its
//!   register. So after another driver's commands have run, it reports all frames as wrong. If the
//!   other driver's output is written to this driver's memory, its nonce is wrong.
//! - After a reset, load must be idle. Only a reset ends load.
//! - The driver reads the identity with every segment.
//!
//! | file | task |
//! |---|---|
//! | `queue.rs` | the caller's side: submits frames, waits for answers |
//! | `driver.rs` | decides which segment starts next and which frame a fault concerns |
//! | `protocol.rs` | reads and writes registers and memory |
//!
//! A frame has one of three types, depending on where it is:
//!
//! | type | place of the frame |
//! |---|---|
//! | `Job` | in the queue to the driver's thread |
//! | [`Ticket`] | at the caller, who waits for the answer |
//! | `InFlight` | in the accelerator's memory |
//!
//! Depends on [`super::transport`], [`super::watch`], [`crate::program`], [`crate::identity`] and
//! [`crate::isa`].

mod protocol;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quasar_core::error::{Error, Result};

use self::queue::{InjectedFault, Job, Request, SharedCounters};
use crate::host::transport::{register, Buffer, Transport, CACHE_LINE};
use crate::host::watch::{Watch, Watched};
use crate::identity::configuration_hash;
use crate::isa::{COMMAND_BYTES, PORT_BYTES};
use crate::program::{Program, Segment, FINISHING};

pub use self::queue::{Counters, FrameQueue, Ticket};

/// Limits of the driver's waits, in wall-clock time. A [`Watch`] limits each call of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Limit for fetch to read a segment, and for store to write an output.
    pub segment: Duration,
    /// Limit for fetch to report the identity.
    pub identity: Duration,
}

/// Most frames in flight: those that await their output, one that is half done, and one in memory.
pub const IN_FLIGHT: usize = FINISHING + 2;
/// Longest wait for an interrupt before the driver polls. A lost interrupt of store costs this
/// time.
const INTERRUPT_SLICE: Duration = Duration::from_millis(10);
/// Longest wait for an interrupt once fetch may have ended its segment, since units become idle
/// soon after. A lost interrupt of fetch costs this time, and so does each segment on a device
/// without interrupts.
const FETCH_SLICE: Duration = Duration::from_micros(100);

/// A frame whose input is in the accelerator's memory.
#[derive(Debug)]
struct InFlight {
    job: Job,
    /// Index of the frame's input, below [`IN_FLIGHT`].
    input: usize,
    /// Slot of the frame once it is started.
    slot: u8,
    /// Key of the input's check; 0 before the input is in memory.
    nonce: u32,
}

/// The location of a segment's commands in memory.
#[derive(Clone, Copy, Debug)]
struct StoredSegment {
    segment: Segment,
    offset: usize,
    count: u32,
    seed: u32,
    /// The time of fetch's last run; 0 if unknown.
    took: Duration,
}

/// The segment that fetch is reading.
#[derive(Clone, Copy, Debug)]
struct Reading {
    segment: Segment,
    /// True if the segment finishes the youngest frame of [`Driver::finishing`].
    finishes: bool,
    started: Instant,
    /// The time until which fetch is expected to read.
    busy_until: Instant,
}

/// State of the oldest frame's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    /// The output is not complete.
    Running,
    /// The output is complete, but fetch has not confirmed all commands of the frame.
    Held,
    /// The frame was answered.
    Done,
}

/// An accelerator with a program in its memory.
#[derive(Debug)]
pub struct Driver<T> {
    transport: Watched<T>,
    program: Arc<Program>,
    configuration_hash: u64,
    /// Frame slots of the configuration, 1 or 2.
    slots: usize,
    deadlines: Deadlines,
    counters: SharedCounters,
    stored: Vec<StoredSegment>,
    commands: Buffer,
    /// A buffer for each AXI port: its stripe of the arena, then its stripe of each input.
    stripes: Vec<Buffer>,
    output: Buffer,
    /// Bytes of a stripe's arena, in whole cache lines.
    arena_bytes: usize,
    /// Bytes of a stripe's input, in whole cache lines.
    input_bytes: usize,
    /// True if a frame can start without a reset.
    ready: bool,
    /// Seed of the keys of the arena's checks, and key of load's commands.
    arena_seed: u32,
    /// Nonce of the last input written.
    nonce: u32,
    /// Indices of free inputs.
    free: Vec<usize>,
    /// Frames in memory, not started.
    staged: VecDeque<InFlight>,
    /// The frame whose first half is started.
    half: Option<InFlight>,
    /// Frames that await their output, the oldest first. Store is started for the oldest.
    finishing: VecDeque<InFlight>,
    reading: Option<Reading>,
    store_started: Instant,
    /// True if an interrupt ended the last wait and the driver has not found its completion yet.
    interrupted: bool,
}

impl FrameQueue {
    /// Starts a thread that opens the driver and then runs frames. Waits until the driver is open.
    ///
    /// # Errors
    /// [`Error::Threads`] if the thread cannot be started, those of `open`,
    /// [`Error::DeviceTimeout`] if one call of the transport takes longer than its limit, and
    /// [`Error::Interrupted`].
    pub fn start<T: Transport + 'static>(
        watch: &Arc<Watch>,
        cancel: &AtomicBool,
        open: impl FnOnce() -> Result<Driver<T>> + Send + 'static,
    ) -> Result<Self> {
        Self::spawn(watch, cancel, move |opened, requests, injected| {
            // If the caller has stopped waiting, the watch closes the driver.
            let _ = match open() {
                Ok(driver) => {
                    let reported = opened.send(Ok(driver.counters.clone()));
                    driver.serve(requests, injected);
                    reported
                }
                Err(error) => opened.send(Err(error)),
            };
        })
    }
}

#[cfg(test)]
impl FrameQueue {
    /// Runs frames on an open driver.
    pub(crate) fn of<T: Transport + 'static>(driver: Driver<T>) -> Self {
        let watch = Arc::clone(driver.transport.watch());
        Self::start(&watch, &quasar_core::cpu::NEVER, || Ok(driver)).unwrap()
    }
}

impl<T: Transport> Driver<T> {
    /// Checks that the FPGA holds the program's bitstream, and writes the program to memory.
    ///
    /// # Errors
    /// [`Error::WrongBitstream`], [`Error::DoesNotFit`] for too little DMA memory,
    /// [`Error::DeviceTimeout`] and [`Error::DeviceFault`].
    pub fn open(
        mut transport: Watched<T>,
        program: Arc<Program>,
        deadlines: Deadlines,
    ) -> Result<Self> {
        let slots = program.hardware().configuration().frames as usize;
        let ports = program.beat_bytes() / PORT_BYTES;
        let line = |bytes: usize| bytes.next_multiple_of(CACHE_LINE);
        let arena_bytes = line(program.arena().len() / ports);
        let input_bytes = line(program.input_bytes() / ports);
        // Memory may hold another driver's commands and arena. Random seeds are equal once in 2^32.
        let own = getrandom::u32().map_err(|problem| Error::DeviceUnavailable {
            device: transport.name(),
            problem: format!("the operating system gives no random number: {problem}"),
        })?;
        let mut stored = Vec::new();
        let mut offset = 0;
        for (number, &segment) in (0..).zip(Segment::all(slots)) {
            let count = program.commands(segment).len();
            stored.push(StoredSegment {
                segment,
                offset,
                count: count as u32,
                // A segment's checks start from seed XOR count. A count has fewer than 24 bits, so
                // no two segments start from the same value.
                seed: own.wrapping_add(number << 24),
                took: Duration::ZERO,
            });
            offset = line(offset + COMMAND_BYTES * count);
        }
        let commands = transport.allocate(offset.max(CACHE_LINE))?;
        let stripes = (0..ports)
            .map(|_| transport.allocate(arena_bytes + IN_FLIGHT * input_bytes))
            .collect::<Result<_>>()?;
        let output = transport.allocate(line(program.output_bytes()))?;
        let store_started = transport.now();
        let mut driver = Self {
            transport,
            configuration_hash: configuration_hash(program.hardware()),
            program,
            slots,
            deadlines,
            counters: SharedCounters::default(),
            stored,
            commands,
            stripes,
            output,
            arena_bytes,
            input_bytes,
            ready: false,
            // Far from the nonces, which count up from `own`.
            arena_seed: !own,
            nonce: own,
            free: (0..IN_FLIGHT).rev().collect(),
            staged: VecDeque::new(),
            half: None,
            finishing: VecDeque::new(),
            reading: None,
            store_started,
            interrupted: false,
        };
        driver.reset_and_load()?;
        Ok(driver)
    }

    /// Runs frames until the queue is dropped or closed.
    fn serve(mut self, requests: &Receiver<Request>, injected: &Receiver<InjectedFault>) {
        while !self.transport.watch().is_closing() {
            if self.staged.is_empty() {
                let busy = self.half.is_some() || !self.finishing.is_empty();
                let request = if busy {
                    requests.try_recv().ok()
                } else {
                    match requests.recv() {
                        Ok(request) => Some(request),
                        Err(_) => return,
                    }
                };
                self.serve_request(request);
            }
            for (fault, after_frames) in injected.try_iter() {
                if let Err(error) = self.transport.inject(&fault, after_frames) {
                    self.fail(error);
                }
            }
            if let Err(error) = self.advance(requests) {
                self.fail(error);
            }
        }
        self.abandon(requests);
    }

    /// Answers all frames with an error. Resets running kernels, so that they do not write to
    /// memory that this process is about to free.
    fn abandon(&mut self, requests: &Receiver<Request>) {
        let started = self.half.is_some() || !self.finishing.is_empty();
        if !self.ready || self.reading.is_some() || started {
            // Nobody can receive an error; the next driver resets, too.
            let _ = self.transport.stop();
        }
        let started = self.finishing.drain(..).chain(self.half.take());
        let frames: Vec<InFlight> = started.chain(self.staged.drain(..)).collect();
        for frame in frames {
            let closed = self.closed();
            self.answer(frame, Err(closed));
        }
        for request in requests.try_iter() {
            // The caller of a dropped access gets an error.
            if let Request::Frame(job) = request {
                let closed = self.closed();
                let _ = job.answer.send(Err(closed));
            }
        }
    }

    fn closed(&mut self) -> Error {
        self.fault("the driver was closed before the frame was answered".into())
    }

    /// Returns an error once the driver is closing.
    fn check_open(&mut self) -> Result<()> {
        if self.transport.watch().is_closing() {
            return Err(self.closed());
        }
        Ok(())
    }

    /// Answers the oldest frame with the error. The other frames will be restarted.
    fn fail(&mut self, error: Error) {
        self.ready = false;
        self.reading = None;
        let started = self.finishing.drain(..).chain(self.half.take());
        let mut frames: VecDeque<InFlight> = started.chain(self.staged.drain(..)).collect();
        if let Some(frame) = frames.pop_front() {
            self.answer(frame, Err(error));
        }
        self.staged = frames;
    }

    /// Stages a frame, or runs an access.
    fn serve_request(&mut self, request: Option<Request>) {
        match request {
            Some(Request::Frame(job)) => self.stage(job),
            Some(Request::Access(access)) => access(&mut self.transport),
            None => {}
        }
    }

    /// Writes a frame's input to memory, unless its ticket was dropped.
    fn stage(&mut self, job: Job) {
        if job.is_abandoned() {
            return;
        }
        let Some(input) = self.free.pop() else {
            unreachable!("at most {IN_FLIGHT} frames are in flight")
        };
        let mut frame = InFlight {
            job,
            input,
            slot: 0,
            nonce: 0,
        };
        match self.write_input(&mut frame) {
            Ok(()) => self.staged.push_back(frame),
            Err(error) => self.answer(frame, Err(error)),
        }
    }

    /// Starts one segment: it finishes the half-done frame and starts the staged one. If there is
    /// neither, waits for the outputs.
    fn advance(&mut self, requests: &Receiver<Request>) -> Result<()> {
        // After a fault, staged frames may have lost their tickets.
        let free = &mut self.free;
        self.staged.retain(|frame| {
            let abandoned = frame.job.is_abandoned();
            free.extend(abandoned.then_some(frame.input));
            !abandoned
        });
        let finishes = self.half.is_some();
        let starts = !self.staged.is_empty() && (!finishes || self.slots > 1);
        if !finishes {
            // Segments that only start a frame run on an empty accelerator.
            self.wait_for_outputs(0, requests)?;
        }
        if !self.ready && starts {
            self.reset_and_load()?;
        }
        let (segment, slot) = match (self.half.as_ref().map(|frame| frame.slot), starts) {
            (None, true) => (Segment::Start(0), 0),
            (Some(slot), false) => (Segment::End(slot), 0),
            (Some(slot), true) => (Segment::Step(slot), 1 - slot),
            (None, false) => return Ok(()),
        };
        self.wait_for_outputs(FINISHING - 1, requests)?;
        if let Some(frame) = self.half.take() {
            self.finishing.push_back(frame);
            if self.finishing.len() == 1 {
                self.start_store()?;
            }
        }
        if starts {
            self.half = self.staged.pop_front();
        }
        if let Some(frame) = &mut self.half {
            frame.slot = slot;
        }
        self.start_fetch(segment, finishes)?;
        self.wait_for_outputs(FINISHING, requests)
    }

    /// Waits until fetch has read its segment and at most `at_most` frames await their output.
    fn wait_for_outputs(&mut self, at_most: usize, requests: &Receiver<Request>) -> Result<()> {
        while self.reading.is_some() || self.finishing.len() > at_most {
            self.check_open()?;
            if self.reading.is_some() && self.staged.is_empty() {
                // Writes the next frame's input while the accelerator works, so that the next
                // segment can start at once.
                self.serve_request(requests.try_recv().ok());
            }
            // The time before the polls: a thread that slept past a deadline still accepts a
            // completion in time.
            let now = self.transport.now();
            let read = self.poll_fetch(now)?;
            let store = self.poll_store(now)?;
            if read || store == Poll::Done {
                // One interrupt may report both.
                self.interrupted = false;
                continue;
            }
            if store == Poll::Running && std::mem::take(&mut self.interrupted) {
                self.counters
                    .count(|counters| &mut counters.spurious_interrupts);
            }
            let longest = match self.reading {
                Some(Reading { busy_until, .. }) => busy_until
                    .saturating_duration_since(now)
                    .clamp(FETCH_SLICE, INTERRUPT_SLICE),
                None => INTERRUPT_SLICE,
            };
            self.interrupted |= self.transport.wait(longest)?;
        }
        Ok(())
    }

    /// Polls fetch. Returns true if it has finished its segment since the last poll.
    fn poll_fetch(&mut self, now: Instant) -> Result<bool> {
        let Some(Reading {
            segment, started, ..
        }) = self.reading
        else {
            return Ok(false);
        };
        if !self.is_idle(register::FETCH_CTRL)? {
            if now >= started + self.deadlines.segment {
                return Err(self.timeout("reading a segment's commands", started));
            }
            return Ok(false);
        }
        self.reading = None;
        self.take_interrupt(register::FETCH_ISR)?;
        let took = now.saturating_duration_since(started);
        for stored in self.stored.iter_mut().filter(|s| s.segment == segment) {
            stored.took = took;
        }
        // After a broken command, fetch sends neither this command nor any later one.
        match self.transport.read(register::FETCH_ERROR)? {
            0 => self.check_identity()?,
            error => {
                let problem = format!(
                    "command {} of segment {segment} fails its check or has no unit",
                    error - 1
                );
                return Err(self.fault(problem));
            }
        }
        Ok(true)
    }

    /// Polls store. Answers the oldest frame if its output is complete.
    fn poll_store(&mut self, now: Instant) -> Result<Poll> {
        // A frame is answered only after fetch has confirmed all commands of its last segment.
        let commands_read =
            self.finishing.len() > usize::from(self.reading.is_some_and(|r| r.finishes));
        if self.finishing.is_empty() || !self.is_idle(register::STORE_CTRL)? {
            if !self.finishing.is_empty() && now >= self.store_started + self.deadlines.segment {
                return Err(self.timeout("a frame's output", self.store_started));
            }
            return Ok(Poll::Running);
        }
        if !commands_read {
            return Ok(Poll::Held);
        }
        self.take_interrupt(register::STORE_ISR)?;
        let mut bytes = vec![0; self.program.output_bytes()];
        self.transport
            .invalidate(&self.output, 0, self.output.bytes)?;
        self.transport.copy_out(&self.output, 0, &mut bytes)?;
        let mut logits = vec![0; self.program.outputs()];
        let nonce = self.finishing[0].nonce;
        self.program.read_output(&bytes, nonce, &mut logits)?;
        if let Some(frame) = self.finishing.pop_front() {
            self.answer(frame, Ok(logits));
        }
        if !self.finishing.is_empty() {
            self.start_store()?;
        }
        Ok(Poll::Done)
    }

    /// Clears the interrupt of a completed kernel and counts a missing one. The interrupt ended the
    /// last wait or arrived since.
    fn take_interrupt(&mut self, status: u32) -> Result<()> {
        self.interrupted = self.interrupted || self.transport.wait(Duration::ZERO)?;
        if !self.interrupted {
            self.counters
                .count(|counters| &mut counters.lost_interrupts);
        }
        self.clear_interrupt(status)
    }

    /// Sends an answer to a frame's ticket and frees the frame's input.
    fn answer(&mut self, frame: InFlight, answer: Result<Vec<i32>>) {
        self.counters.count(|counters| match answer {
            Ok(_) => &mut counters.frames,
            Err(_) => &mut counters.faults,
        });
        let InFlight { job, input, .. } = frame;
        self.free.push(input);
        // Sending fails if the ticket was dropped.
        let _ = job.answer.send(answer);
    }
}
