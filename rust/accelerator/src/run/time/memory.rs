//! Models the kernels that access memory: fetch, load and store.

use std::collections::VecDeque;

use quasar_hardware::declared::{self, TICKS};

use super::buffer::BufferLoader;
use super::counts::{Activity, CycleSet};
use super::process::{Process, Sizes, Worker};
use super::queues::{Entry, Fifo, Queues};
use super::trace::{Cause, Trace};
use crate::isa::{Command, Unit, COMMAND_BYTES, PORT_BYTES};
use crate::unit::{steps, BufferHalf, QueueName, Step};

/// The host's delays between two segments.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Cycles from the event that the host waits for to the start of the next segment.
    pub(super) gap: u64,
    /// For each segment, the frames whose outputs the host takes before it starts the segment.
    pub(super) answered: Vec<usize>,
}

/// The kernel `fetch`: reads commands and hands them out.
pub(super) struct Fetch {
    pub(super) list: VecDeque<Entry>,
    pub(super) now: u64,
    /// Segment that is read, once the first is started.
    pub(super) segment: Option<usize>,
    /// `None`: segments follow each other without a gap.
    pub(super) host: Option<Host>,
    /// Cycles in which the segments were started.
    pub(super) started: Vec<u64>,
    pub(super) activity: Activity,
    /// Cycles from a request to memory's first beat.
    pub(super) waiting: CycleSet,
    /// Cycles in which the segment's bursts were read to their ends.
    pub(super) read: Vec<u64>,
}

impl Fetch {
    /// Hands out one command. The loaders of the double buffers see the command before its unit
    /// runs it.
    pub(super) fn advance(
        &mut self,
        sizes: &Sizes,
        queues: &mut Queues,
        trace: &Trace,
        loaders: [&mut BufferLoader; 3],
    ) -> bool {
        let Some(&entry) = self.list.front() else {
            return false;
        };
        if self.segment != Some(entry.0) && !self.start(entry.0, trace) {
            return false;
        }
        let command = entry.2;
        let commands = &mut queues.commands[command.unit() as usize];
        if commands.full() {
            return false;
        }
        let steps = steps(command, sizes.shape);
        let halves = steps.as_slice().iter().filter_map(|step| match step {
            Step::TakeHalf(half) => Some(*half),
            _ => None,
        });
        let halves: Vec<BufferHalf> = halves.collect();
        let Some(at) = commands.put(self.now, (entry, steps)) else {
            return false;
        };
        for loader in loaders {
            loader.expect(at, &halves);
        }
        self.activity.blocked.add(self.now, at);
        self.read_burst(entry.1, at);
        self.list.pop_front();
        self.now = at + declared::FETCH_INTERVAL;
        if self.list.front().map(|entry| entry.0) != self.segment {
            let started = self.started.last().copied().unwrap_or_default();
            self.activity.command(started, self.now);
        }
        true
    }

    /// Records when a burst is read, by the index of a command that is handed out in cycle `at`. A
    /// burst that follows is requested then, [`declared::OPEN_BURSTS`] later in the list: memory
    /// answers it long before it is read.
    fn read_burst(&mut self, command: usize, at: u64) {
        let burst_commands = (declared::BURST_BEATS as usize * PORT_BYTES) / COMMAND_BYTES;
        let (burst, place) = (command / burst_commands, command % burst_commands);
        if place + 1 == burst_commands {
            self.read.push(at);
        }
        let before = burst.checked_sub(declared::OPEN_BURSTS as usize);
        if let Some(&issued) = before.filter(|_| place == 0).and_then(|b| self.read.get(b)) {
            self.waiting.add(issued, issued + declared::MEMORY_LATENCY);
        }
    }

    /// Lets the host start the next segment. Returns false if it is not known yet when.
    fn start(&mut self, segment: usize, trace: &Trace) -> bool {
        if let Some(host) = &self.host {
            let answered = match host.answered[segment] {
                0 => 0,
                frames if frames > trace.frames.len() => return false,
                frames => trace.frames[frames - 1],
            };
            if self.segment.is_some() {
                self.now = self.now.max(answered) + host.gap;
            }
            self.started.push(self.now);
            self.now += declared::MEMORY_LATENCY;
            self.waiting
                .add(self.now - declared::MEMORY_LATENCY, self.now);
        } else {
            self.started.push(self.now);
        }
        self.segment = Some(segment);
        self.read.clear();
        true
    }
}

/// The kernel `load`: reads memory.
///
/// When a transfer begins, load requests the next [`declared::TRANSFERS_AHEAD`] transfers whose
/// commands have arrived, and the ports hold [`declared::OPEN_BURSTS`] bursts. So memory goes on
/// while a command ends or a queue is full.
pub(super) struct Loader {
    pub(super) worker: Worker,
    /// Time at which memory gave its last beat, in [`TICKS`] of a cycle.
    pub(super) ticks: u64,
    /// Cycle in which this transfer was requested.
    pub(super) requested: u64,
    /// Cycles in which the commands began that could request this transfer.
    pub(super) began: VecDeque<u64>,
    /// Beats that have yet to come, the check's included.
    beats_left: u64,
    /// First beat of the next burst, and the beats that are left from there on.
    pub(super) address: u64,
    pub(super) left: u64,
    /// Beats of the present burst that are not read, the cycle in which the burst was issued, and
    /// the cycles in which the last beats of earlier bursts were taken.
    pub(super) burst: u64,
    pub(super) issued: u64,
    pub(super) read: VecDeque<u64>,
    /// Cycles with a burst that is not read from memory to its end, and cycles with a beat.
    pub(super) reading: CycleSet,
    pub(super) beats: CycleSet,
}

impl Loader {
    pub(super) fn new() -> Self {
        Self {
            worker: Worker::new(),
            ticks: 0,
            requested: 0,
            began: VecDeque::new(),
            beats_left: 0,
            address: 0,
            left: 0,
            burst: 0,
            issued: 0,
            read: VecDeque::new(),
            reading: CycleSet::default(),
            beats: CycleSet::default(),
        }
    }

    /// Begins the next burst. A burst is issued when its transfer is requested and fewer than
    /// [`declared::OPEN_BURSTS`] bursts are open.
    pub(super) fn begin_burst(&mut self) {
        let section = declared::SECTION_BEATS - self.address % declared::SECTION_BEATS;
        self.burst = self.left.min(section).min(declared::BURST_BEATS);
        self.address += self.burst;
        self.left -= self.burst;
        let room = match self.read.len() as u64 {
            declared::OPEN_BURSTS.. => self.read.pop_front(),
            _ => None,
        };
        self.issued = self.requested.max(room.unwrap_or_default());
    }
}

impl Process for Loader {
    const UNIT: Unit = Unit::Load;

    fn depth(_: &Sizes) -> u64 {
        1
    }

    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn taken(&mut self) -> u64 {
        let began = self.worker.running.map_or(0, |(_, start)| start);
        self.requested.min(began)
    }

    fn begin(&mut self, command: Command) {
        let (came, now) = (self.worker.came, self.worker.clock.now);
        self.requested = self
            .began
            .iter()
            .copied()
            .find(|&at| at >= came)
            .unwrap_or(now);
        if self.began.len() as u64 == declared::TRANSFERS_AHEAD {
            self.began.pop_front();
        }
        self.began.push_back(now);
        (self.address, self.left) = match command {
            // With the check's beat.
            Command::Load(load) => (load.address.into(), u64::from(load.beats) + 1),
            _ => (0, 0),
        };
        self.beats_left = self.left;
    }

    fn once(&mut self, step: Step, sizes: &Sizes, queues: &mut Queues) -> bool {
        let worker = &mut self.worker;
        match step {
            Step::Take(queue, ..) => worker.take(&mut queues[queue], Cause::of(queue)),
            Step::Give(queue, ..) => worker.put(&mut queues[queue], 1),
            Step::Transfer(queue) => {
                while self.beats_left > 0 {
                    let queue = queue.filter(|_| self.beats_left > 1);
                    if !self.beat(queue.map(|queue| &mut queues[queue]), sizes) {
                        return false;
                    }
                    self.beats_left -= 1;
                }
                true
            }
            _ => true,
        }
    }
}

impl Loader {
    /// Moves a beat to a queue, or the check's beat. Returns false if that is not possible yet.
    fn beat(&mut self, queue: Option<&mut Fifo>, sizes: &Sizes) -> bool {
        if self.burst == 0 {
            self.begin_burst();
        }
        let arrives = (self.issued + declared::MEMORY_LATENCY) * TICKS;
        let comes = (self.ticks + sizes.beat_ticks).max(arrives);
        let worker = &mut self.worker;
        let natural = comes.div_ceil(TICKS).max(worker.clock.now + 1);
        let at = match queue {
            Some(queue) => queue.put(natural, ()),
            None => Some(natural),
        };
        let Some(at) = at else {
            return false;
        };
        self.ticks = comes;
        self.burst -= 1;
        let beat = comes / TICKS;
        self.beats.add(beat, beat + 1);
        if self.burst == 0 {
            self.reading.add(self.issued, beat + 1);
            self.read.push_back(at);
        }
        worker.clock.work(1);
        worker.clock.wait(Cause::Memory, natural);
        worker.activity.blocked.add(natural, at);
        worker.clock.wait(Cause::Full, at);
        true
    }
}

/// The kernel `store`: writes logits to memory.
pub(super) struct Store {
    pub(super) now: u64,
    /// Logits of each frame.
    pub(super) frames: VecDeque<u64>,
    /// Logits of the present frame that were taken.
    pub(super) taken: u64,
    pub(super) activity: Activity,
}

impl Store {
    pub(super) fn new(frames: VecDeque<u64>) -> Self {
        Self {
            now: 0,
            frames,
            taken: 0,
            activity: Activity::default(),
        }
    }

    /// Takes the next logit, or the check of the frame. Returns false if that is not possible yet.
    pub(super) fn advance(&mut self, queues: &mut Queues, trace: &mut Trace) -> bool {
        let Some(&logits) = self.frames.front() else {
            return false;
        };
        if self.taken == logits {
            let words = (PORT_BYTES / 4) as u64;
            let padding = logits.next_multiple_of(words) - logits;
            let Some((at, ())) = queues[QueueName::Checks].take(self.now + padding) else {
                return false;
            };
            // The trailer's words.
            self.now = at + words;
            trace.frames.push(self.now);
            self.frames.pop_front();
            self.taken = 0;
            return true;
        }
        let Some((at, ())) = queues[QueueName::Logits].take(self.now) else {
            return false;
        };
        self.now = at + 1;
        self.taken += 1;
        true
    }
}
