//! Runs frames on an accelerator, two at a time; each frame gets its logits or its own error.
//!
//! The host starts the accelerator with *segments*: lists of commands that start a frame, finish
//! one, or do both. The accelerator goes from one segment to the next without a pause. So up to
//! three frames are on it: one that awaits its output, one behind it whose last segment is started,
//! and one that is half done. A fourth may be in memory ([`IN_FLIGHT`]). A fault concerns the
//! oldest frame, which gets the error; then the driver resets the kernels, writes everything in
//! memory again and runs the other frames anew.
//!
//! The driver never takes stale or broken data for an answer:
//! - An interrupt is a hint only, of fetch or of store. Completion is read from `AP_CTRL`.
//! - The output is cleared before each attempt. It carries a check, and says whether all transfers
//!   from the arena were sound.
//! - Each attempt has its own nonce, in the check of the frame's input. Load finds it there, and it
//!   ends up in the output. So an answer to another input, a stale cache line and a late write from
//!   before a reset are recognised.
//! - The checks of the arena have keys that another driver's arena lacks, and that distinguish its
//!   transfers.
//! - Each command carries a check, from a seed that no other segment has. Fetch compares it before
//!   any unit gets the command.
//! - Each command of load carries the arena's seed. Load compares it with the seed that it was
//!   started with, so that no frame of this driver is right once another driver's commands have
//!   run. Another driver's frame that is stored in this driver's memory has another nonce.
//! - After a reset, load must be idle: it never ends otherwise.
//! - The identity is read with every segment.
//!
//! | file | what it does |
//! |---|---|
//! | `queue.rs` | the caller's side: submits frames, waits for answers |
//! | `driver.rs` | decides which segment starts next and which frame a fault concerns |
//! | `protocol.rs` | reads and writes registers and memory |
//!
//! A frame has three types on its way:
//!
//! | type | where the frame is |
//! |---|---|
//! | `Job` | in the queue, on its way to the driver's thread |
//! | [`Ticket`] | with the caller, who waits for the answer |
//! | `InFlight` | in the accelerator's memory |
//!
//! Depends on [`crate::transport`], [`crate::watch`], [`crate::program`], [`crate::identity`] and
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
use crate::identity::configuration_hash;
use crate::isa::{COMMAND_BYTES, PORT_BYTES};
use crate::program::{Program, Segment};
use crate::transport::{register, Buffer, Transport, CACHE_LINE};
use crate::watch::{Watch, Watched};

pub use self::queue::{Counters, FrameQueue, Ticket};

/// Limits of the driver's waits, in wall-clock time. A [`Watch`] limits each call of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Limit for fetch to read a segment, and for store to write an output.
    pub segment: Duration,
    /// Limit for fetch to report the identity.
    pub identity: Duration,
}

/// Frames whose last segment is started and that await their output, at most.
pub(crate) const FINISHING: usize = 2;
/// Frames in flight, at most: those that await their output, one that is half done, and one in
/// memory.
pub const IN_FLIGHT: usize = FINISHING + 2;
/// Longest wait for an interrupt; after it, completion is polled. A lost interrupt of store costs
/// this time.
const INTERRUPT_SLICE: Duration = Duration::from_millis(10);
/// Longest wait for an interrupt once fetch may end its segment: units stand still soon after. A
/// lost interrupt of fetch costs this time, as does a segment where there are no interrupts.
const FETCH_SLICE: Duration = Duration::from_micros(100);

/// A frame whose input is in the accelerator's memory.
#[derive(Debug)]
struct InFlight {
    job: Job,
    /// Index of the frame's input, below [`IN_FLIGHT`].
    input: usize,
    /// Slot that the frame runs in, once the frame is started.
    slot: u8,
    /// Key of the input's check; 0 until the input is in memory.
    nonce: u32,
}

/// The place of a segment's commands in memory.
#[derive(Clone, Copy, Debug)]
struct StoredSegment {
    segment: Segment,
    offset: usize,
    count: u32,
    seed: u32,
    /// The time that fetch took to read it last; 0 if not known.
    took: Duration,
}

/// A segment that fetch reads.
#[derive(Clone, Copy, Debug)]
struct Reading {
    segment: Segment,
    /// True if the segment finishes the youngest frame of [`Driver::finishing`].
    finishes: bool,
    started: Instant,
    /// Before this time fetch hardly ends.
    busy_until: Instant,
}

/// State of the oldest frame's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    /// The output is not there.
    Running,
    /// The output is there, but not all commands of the frame are known to be right.
    Held,
    /// The frame has just got its answer.
    Done,
}

/// An accelerator with a program in its memory.
#[derive(Debug)]
pub struct Driver<T> {
    transport: Watched<T>,
    program: Arc<Program>,
    configuration_hash: u64,
    /// Frames that the configuration runs at a time, 1 or 2.
    slots: usize,
    deadlines: Deadlines,
    counters: SharedCounters,
    stored: Vec<StoredSegment>,
    commands: Buffer,
    /// One for each AXI port: its stripe of the arena, then of each input.
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
    /// Nonce of the last input that was written.
    nonce: u32,
    /// Indices of the inputs that no frame occupies.
    free: Vec<usize>,
    /// Frames in memory, not started.
    staged: VecDeque<InFlight>,
    /// The frame whose first half is started.
    half: Option<InFlight>,
    /// Frames that await their output, the oldest first; store is started for that one.
    finishing: VecDeque<InFlight>,
    reading: Option<Reading>,
    store_started: Instant,
    /// True if the last wait ended by an interrupt that no completion has explained yet.
    interrupted: bool,
}

impl FrameQueue {
    /// Starts a thread, which opens the driver and then runs frames. Waits until it is open.
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
            // Where nobody waits any more, the watch closes the driver.
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
    /// Runs frames on a driver that is open.
    pub(crate) fn of<T: Transport + 'static>(driver: Driver<T>) -> Self {
        let watch = Arc::clone(driver.transport.watch());
        Self::start(&watch, &quasar_core::cpu::NEVER, || Ok(driver)).unwrap()
    }
}

impl<T: Transport> Driver<T> {
    /// Checks that the FPGA holds the bitstream that the program is for, and writes the program to
    /// memory.
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
        // Memory may hold another driver's commands and arena: one in 2^32 has the same seeds.
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
                // Above all bits of a count, so that no two segments' checks start alike.
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
            // Apart from the nonces, which count up from `own`.
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

    /// Gives all frames an error. Kernels that run are reset, so that they write to no memory that
    /// the process no longer has.
    fn abandon(&mut self, requests: &Receiver<Request>) {
        let started = self.half.is_some() || !self.finishing.is_empty();
        if !self.ready || self.reading.is_some() || started {
            // Nobody is left to hear of an error; the next driver resets, too.
            let _ = self.transport.reset();
        }
        let started = self.finishing.drain(..).chain(self.half.take());
        let frames: Vec<InFlight> = started.chain(self.staged.drain(..)).collect();
        for frame in frames {
            let closed = self.closed();
            self.answer(frame, Err(closed));
        }
        for request in requests.try_iter() {
            // Dropping an access lets its caller know.
            if let Request::Frame(job) = request {
                let closed = self.closed();
                let _ = job.answer.send(Err(closed));
            }
        }
    }

    fn closed(&mut self) -> Error {
        self.fault("the driver was closed before the frame was answered".into())
    }

    /// Fails once the driver is to end.
    fn check_open(&mut self) -> Result<()> {
        if self.transport.watch().is_closing() {
            return Err(self.closed());
        }
        Ok(())
    }

    /// Gives the oldest frame the error; the others will be started anew.
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

    /// Stages a frame, or makes an access.
    fn serve_request(&mut self, request: Option<Request>) {
        match request {
            Some(Request::Frame(job)) => self.stage(job),
            Some(Request::Access(access)) => access(&mut self.transport),
            None => {}
        }
    }

    /// Writes a frame's input to memory, unless nobody waits for the frame any more.
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

    /// Starts one segment, which finishes the frame that is half done and starts the one that is
    /// staged. If there is neither, waits for the frames that await their output.
    fn advance(&mut self, requests: &Receiver<Request>) -> Result<()> {
        // After a fault, frames wait in memory whose tickets may be gone by now.
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
                // The next frame's input is written while the accelerator works, so that the next
                // segment can start at once.
                self.serve_request(requests.try_recv().ok());
            }
            // Taken before the polls: a thread that slept past a deadline still sees what was done
            // in time.
            let now = self.transport.now();
            let read = self.poll_fetch(now)?;
            let store = self.poll_store(now)?;
            if read || store == Poll::Done {
                // One interrupt may announce both.
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

    /// Returns whether fetch has just finished reading its segment.
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
        // Fetch passes on neither a broken command nor any behind it.
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

    /// Answers the oldest frame if its output is there.
    fn poll_store(&mut self, now: Instant) -> Result<Poll> {
        // A frame is not answered before its last segment is known to be read as it was written.
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

    /// Takes and clears the interrupt of a kernel that is done: the one that ended the last wait,
    /// or one that came since.
    fn take_interrupt(&mut self, status: u32) -> Result<()> {
        self.interrupted = self.interrupted || self.transport.wait(Duration::ZERO)?;
        if !self.interrupted {
            self.counters
                .count(|counters| &mut counters.lost_interrupts);
        }
        self.clear_interrupt(status)
    }

    /// Sends a frame's answer to its ticket, and frees the frame's input.
    fn answer(&mut self, frame: InFlight, answer: Result<Vec<i32>>) {
        self.counters.count(|counters| match answer {
            Ok(_) => &mut counters.frames,
            Err(_) => &mut counters.faults,
        });
        let InFlight { job, input, .. } = frame;
        self.free.push(input);
        // An error here means that nobody waits for the frame any more.
        let _ = job.answer.send(answer);
    }
}
