//! The event-driven model: command lists, replayed on the units with their queues, cycle by declared cycle.
//!
//! Every process of the kernels is a state machine with a clock of its own. Queues carry the times at which their items can be taken, and
//! remember when slots became free, so what comes out does not depend on the order in which the processes are run (a Kahn network).
//! The array's rules are those of `docs/array-timing.md`; trip counts are those of the loops in `fpga/src/`, depths and gaps those of
//! [`quasar_hardware::declared`]. Everything here is modelled. Depends on [`crate::isa`] and
//! [`crate::program`].

use std::collections::{BTreeMap, VecDeque};

use quasar_core::error::{Error, Result};
use quasar_hardware::declared::{self, bytes_per_cycle};
use quasar_hardware::Hardware;

use crate::isa::{
    moments_depth, Attend, Command, Context, Fill, Gemm, Kind, LayerNorm, Pooling, RowsCommand,
    Scores, Softmax, Target, Unit, PORT_BYTES, QUEUES, ROW_BYTES,
};
use crate::program::{List, Segment};

/// Why a unit stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// No command has come.
    Command,
    /// A loop ends and the next one's bounds are taken.
    Gap,
    /// Weights, row parameters or gains have not come.
    Memory,
    /// Patches have not come, or the memory that takes them is in use.
    Patches,
    /// Results that it reads are not stored.
    Result,
    /// Normalised tokens are not there.
    Norm,
    /// Probabilities, or what scales them, are not there.
    Softmax,
    /// The lanes have not taken the tile before.
    Lanes,
    /// The queue that it writes is full.
    Full,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 9] = [
        Self::Command,
        Self::Gap,
        Self::Memory,
        Self::Patches,
        Self::Result,
        Self::Norm,
        Self::Softmax,
        Self::Lanes,
        Self::Full,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Gap => "gap",
            Self::Memory => "memory",
            Self::Patches => "patches",
            Self::Result => "result",
            Self::Norm => "norm",
            Self::Softmax => "softmax",
            Self::Lanes => "lanes",
            Self::Full => "full",
        }
    }
}

/// Stalled cycles by [`Cause`], in the order of [`Cause::ALL`].
pub type Stalls = [u64; Cause::ALL.len()];

/// One command on its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Segment, counted from 0.
    pub segment: usize,
    /// Command of the segment.
    pub index: usize,
    /// The command.
    pub command: Command,
    /// First cycle after the command was taken.
    pub start: u64,
    /// First cycle that is the next command's.
    pub end: u64,
    /// Cycles in which the unit worked.
    pub busy: u64,
    /// The others, by cause; with those between the command before and `start`.
    pub stalls: Stalls,
}

impl Span {
    /// Stalled cycles of one cause.
    pub const fn stall(&self, cause: Cause) -> u64 {
        self.stalls[cause as usize]
    }
}

/// What a replay gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Every command, unit by unit, in the order in which each unit takes them.
    pub spans: Vec<Span>,
    /// When each frame's logits and trailer are in memory.
    pub frames: Vec<u64>,
}

impl Trace {
    /// Commands of a unit, in its order.
    pub fn unit(&self, unit: Unit) -> impl Iterator<Item = &Span> {
        self.spans
            .iter()
            .filter(move |span| span.command.unit() == unit)
    }

    /// The last cycle of all.
    pub fn end(&self) -> u64 {
        let spans = self.spans.iter().map(|span| span.end);
        spans
            .chain(self.frames.iter().copied())
            .max()
            .unwrap_or_default()
    }
}

/// A bounded queue of which only times are kept.
#[derive(Debug)]
struct Fifo<V = ()> {
    depth: usize,
    /// Items not yet taken: when they can be.
    items: VecDeque<(u64, V)>,
    /// When items were taken whose slots are not yet written again.
    taken: VecDeque<u64>,
    written: usize,
}

impl<V> Fifo<V> {
    fn new(depth: usize) -> Self {
        Self {
            depth,
            items: VecDeque::new(),
            taken: VecDeque::new(),
            written: 0,
        }
    }

    /// Writes an item at `at` or when there is room; the time, if that is known yet.
    fn put(&mut self, at: u64, value: V) -> Option<u64> {
        if self.items.len() == self.depth {
            return None;
        }
        let room = if self.written >= self.depth {
            self.taken.pop_front().expect("read before it is reused") + 1
        } else {
            0
        };
        self.written += 1;
        let at = at.max(room);
        self.items.push_back((at, value));
        Some(at)
    }

    /// When the next item can be taken.
    fn next(&self) -> Option<u64> {
        self.items.front().map(|&(at, _)| at)
    }

    /// Takes an item at `at` or when it comes.
    fn take(&mut self, at: u64) -> Option<(u64, V)> {
        let (there, value) = self.items.pop_front()?;
        let at = at.max(there);
        self.taken.push_back(at);
        Some((at, value))
    }
}

/// What the loops need of a configuration.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    tokens: u64,
    pairs: u64,
    lanes: u64,
    norm_lanes: u64,
    exponential_lanes: u64,
    beat_bytes: u64,
    /// Between two beats from memory, in [`TICKS`] of a cycle.
    beat_ticks: u64,
    moments_depth: usize,
}

/// Parts that a cycle is divided into where the times of beats add up.
const TICKS: u64 = 1 << 14;

impl Sizes {
    fn of(hardware: &Hardware) -> Self {
        let c = hardware.configuration();
        let beat_bytes = c.axi_ports * PORT_BYTES as u64;
        let beat_cycles = beat_bytes as f64 / bytes_per_cycle(hardware);
        Self {
            tokens: c.array.tokens,
            pairs: c.array.pairs,
            lanes: c.lanes.requantize,
            norm_lanes: c.lanes.norm,
            exponential_lanes: c.lanes.exponential,
            beat_bytes,
            beat_ticks: (beat_cycles * TICKS as f64).ceil() as u64,
            moments_depth: moments_depth(
                c.array.tokens as usize,
                c.lanes.requantize as usize,
                c.buffers.score as usize,
            ),
        }
    }

    /// Tokens of each tile.
    fn tiles(self, tokens: u32) -> impl Iterator<Item = u64> {
        let tokens = u64::from(tokens);
        (0..tokens.div_ceil(self.tokens))
            .map(move |tile| self.tokens.min(tokens - tile * self.tokens))
    }

    /// Groups of a tile's tokens, as the drain takes them.
    fn groups(self, tokens: u64) -> u64 {
        tokens.div_ceil(self.lanes)
    }

    /// Row pairs and rows of each tile of row pairs.
    fn row_tiles(self, rows4: u32, rows8: u32) -> impl Iterator<Item = (u64, u64)> {
        let (rows4, rows8, size) = (u64::from(rows4), u64::from(rows8), self.pairs);
        let fours = rows4.div_ceil(2);
        let pairs = fours + rows8;
        let rows = move |pairs: u64| (2 * pairs).min(rows4) + pairs.saturating_sub(fours);
        (0..pairs.div_ceil(size)).map(move |tile| {
            let (first, last) = (tile * size, pairs.min((tile + 1) * size));
            (last - first, rows(last) - rows(first))
        })
    }
}

/// The clock of a process, and what it did with its cycles.
#[derive(Clone, Debug, Default)]
struct Clock {
    now: u64,
    busy: u64,
    stalls: Stalls,
}

impl Clock {
    fn wait(&mut self, cause: Cause, until: u64) {
        if until > self.now {
            self.stalls[cause as usize] += until - self.now;
            self.now = until;
        }
    }

    fn work(&mut self, cycles: u64) {
        self.busy += cycles;
        self.now += cycles;
    }
}

/// A command and where it stands: segment, index.
type Entry = (usize, usize, Command);

/// The queues between the kernels.
struct Wires {
    commands: [Fifo<Entry>; Unit::ALL.len()],
    weights: Fifo,
    rows: Fifo,
    gains: Fifo,
    sums: Fifo,
    moments: Fifo,
    maxima: Fifo,
    scales: Fifo,
    logits: Fifo,
    checks: Fifo,
    load_to_array: Fifo,
    array_to_load: Fifo,
    drain_to_array: Fifo,
    norm_to_array: Fifo,
    softmax_to_array: Fifo,
}

impl Wires {
    fn new(sizes: &Sizes) -> Self {
        let depth = |name: &str| {
            let queue = QUEUES.iter().find(|queue| queue.name == name);
            match queue.expect("isa.rs declares it").depth {
                0 => sizes.moments_depth,
                depth => depth,
            }
        };
        let wire = |name: &str| Fifo::new(depth(name));
        let mut wires = Self {
            commands: Unit::ALL.map(|unit| Fifo::new(depth(&format!("{}_commands", unit.name())))),
            weights: wire("weights"),
            rows: wire("rows"),
            gains: wire("gains"),
            sums: wire("sums"),
            moments: wire("moments"),
            maxima: wire("maxima"),
            scales: wire("scales"),
            logits: wire("logits"),
            checks: wire("checks"),
            load_to_array: wire("load_to_array"),
            array_to_load: wire("array_to_load"),
            drain_to_array: wire("drain_to_array"),
            norm_to_array: wire("norm_to_array"),
            softmax_to_array: wire("softmax_to_array"),
        };
        // The array gives `input` to load once, when it starts.
        wires.array_to_load.put(0, ());
        wires
    }

    /// The tokens that the array takes for a cause.
    fn tokens(&mut self, cause: Cause) -> &mut Fifo {
        match cause {
            Cause::Patches => &mut self.load_to_array,
            Cause::Norm => &mut self.norm_to_array,
            Cause::Softmax => &mut self.softmax_to_array,
            _ => &mut self.drain_to_array,
        }
    }
}

/// What every unit has: a clock, the command that it runs, and what is left of it as steps and how often each is to be done.
struct Worker<S> {
    clock: Clock,
    running: Option<(Entry, u64)>,
    /// When its command came.
    came: u64,
    steps: VecDeque<(S, u64)>,
    /// The clock when the last command ended.
    reported: Clock,
}

impl<S> Worker<S> {
    const fn new() -> Self {
        Self {
            clock: Clock {
                now: 0,
                busy: 0,
                stalls: [0; Cause::ALL.len()],
            },
            running: None,
            came: 0,
            steps: VecDeque::new(),
            reported: Clock {
                now: 0,
                busy: 0,
                stalls: [0; Cause::ALL.len()],
            },
        }
    }

    /// Takes an item; false where none is known yet.
    fn take(&mut self, queue: &mut Fifo, cause: Cause) -> bool {
        queue.take(self.clock.now).is_some_and(|(at, ())| {
            self.clock.wait(cause, at);
            true
        })
    }

    /// Writes an item, visible `depth` cycles from now; false where it is not known yet when there is room.
    fn put(&mut self, queue: &mut Fifo, depth: u64) -> bool {
        queue.put(self.clock.now + depth, ()).is_some_and(|at| {
            self.clock.wait(Cause::Full, at - depth);
            true
        })
    }

    fn report(&mut self, trace: &mut Trace) {
        let ((segment, index, command), start) = self.running.take().expect("a command ends once");
        let mut stalls = self.clock.stalls;
        for (stall, before) in stalls.iter_mut().zip(self.reported.stalls) {
            *stall -= before;
        }
        trace.spans.push(Span {
            segment,
            index,
            command,
            start,
            end: self.clock.now,
            busy: self.clock.busy - self.reported.busy,
            stalls,
        });
        self.reported = self.clock.clone();
    }
}

/// A unit: what its commands mean, step by step.
trait Process {
    /// One of its steps.
    type Step: Copy;
    const UNIT: Unit;
    /// Cycles before a command's first step.
    const GAP: u64 = declared::COMMAND_GAP;

    fn worker(&mut self) -> &mut Worker<Self::Step>;

    /// A command's steps, and how often each is done.
    fn expand(command: Command, sizes: &Sizes) -> Vec<(Self::Step, u64)>;

    /// Does a step once; false where something that it needs is not known yet.
    fn once(&mut self, step: Self::Step, sizes: &Sizes, wires: &mut Wires) -> bool;

    /// Goes on by one step; false where it cannot.
    fn advance(&mut self, sizes: &Sizes, wires: &mut Wires, trace: &mut Trace) -> bool {
        let worker = self.worker();
        if worker.running.is_none() {
            let commands = &mut wires.commands[Self::UNIT as usize];
            let came = commands.next();
            let Some((at, entry)) = commands.take(worker.clock.now) else {
                return false;
            };
            worker.came = came.unwrap_or_default();
            worker.clock.wait(Cause::Command, at);
            worker.running = Some((entry, worker.clock.now));
            let gap = worker.clock.now + Self::GAP;
            worker.clock.wait(Cause::Gap, gap);
            let steps = Self::expand(entry.2, sizes).into_iter();
            worker.steps = steps.filter(|&(_, times)| times > 0).collect();
        } else if let Some(&(step, _)) = worker.steps.front() {
            if !self.once(step, sizes, wires) {
                return false;
            }
            let steps = &mut self.worker().steps;
            steps[0].1 -= 1;
            if steps[0].1 == 0 {
                steps.pop_front();
            }
        } else {
            worker.report(trace);
        }
        true
    }
}

/// Reads commands and hands them out.
struct Fetch {
    list: VecDeque<Entry>,
    now: u64,
}

impl Fetch {
    /// Hands out one command; the processes that fill halves see it before its unit comes to it.
    fn advance(&mut self, sizes: &Sizes, wires: &mut Wires, fillers: [&mut Filler; 3]) -> bool {
        let Some(&entry) = self.list.front() else {
            return false;
        };
        let command = entry.2;
        let Some(at) = wires.commands[command.unit() as usize].put(self.now, entry) else {
            return false;
        };
        for filler in fillers {
            filler.expect(at, command, sizes);
        }
        self.list.pop_front();
        self.now = at + declared::FETCH_INTERVAL;
        true
    }
}

/// Two halves: one is filled while the other is used.
struct Halves {
    free: Fifo,
    full: Fifo,
}

impl Halves {
    fn new() -> Self {
        let (mut free, full) = (Fifo::new(2), Fifo::new(2));
        free.put(0, ());
        free.put(0, ());
        Self { free, full }
    }
}

/// What a half is filled with.
#[derive(Clone, Copy, Debug)]
struct Content {
    /// Beats that it comes in.
    beats: u64,
    /// Words that it is written in, at most one a cycle.
    words: u64,
    /// Bytes of a word.
    word_bytes: u64,
}

impl Content {
    /// Weights of a tile of row pairs.
    const fn weights(columns: u64, pairs: u64, beat_bytes: u64) -> Self {
        Self {
            beats: (columns * pairs).div_ceil(beat_bytes),
            words: columns,
            word_bytes: pairs,
        }
    }

    const fn rows(rows: u64, beat_bytes: u64) -> Self {
        Self {
            beats: (rows * ROW_BYTES as u64).div_ceil(beat_bytes),
            words: rows,
            word_bytes: ROW_BYTES as u64,
        }
    }

    const fn gains(embed: u64, beat_bytes: u64) -> Self {
        Self {
            beats: (embed * 4).div_ceil(beat_bytes),
            words: embed,
            word_bytes: 4,
        }
    }
}

/// Fills halves from a queue of beats: a beat and a word a cycle at most, and a beat only where less than a word is left.
struct Filler {
    halves: Halves,
    /// First cycle in which a beat may be taken.
    now: u64,
    /// When the last word was written.
    word: u64,
    /// Beats of the present half that were taken.
    taken: Option<u64>,
    /// What comes, and since when that is known.
    contents: VecDeque<(u64, Content)>,
    contents_of: fn(Command, &Sizes) -> Vec<Content>,
}

impl Filler {
    fn new(contents_of: fn(Command, &Sizes) -> Vec<Content>) -> Self {
        Self {
            halves: Halves::new(),
            now: 0,
            word: 0,
            taken: None,
            contents: VecDeque::new(),
            contents_of,
        }
    }

    fn expect(&mut self, at: u64, command: Command, sizes: &Sizes) {
        let contents = (self.contents_of)(command, sizes);
        self.contents
            .extend(contents.into_iter().map(|content| (at, content)));
    }

    /// Goes on by one beat; false where it cannot.
    fn advance(&mut self, beat_bytes: u64, beats: &mut Fifo) -> bool {
        let Some(&(known, content)) = self.contents.front() else {
            return false;
        };
        let Some(taken) = self.taken else {
            let Some((free, ())) = self.halves.free.take(self.now.max(known)) else {
                return false;
            };
            (self.now, self.taken) = (free, Some(0));
            return true;
        };
        if taken == content.beats {
            let ready = self.word + declared::FILL_DEPTH - 1;
            if self.halves.full.put(ready, ()).is_none() {
                return false;
            }
            self.contents.pop_front();
            self.taken = None;
            return true;
        }
        let Some((at, ())) = beats.take(self.now.max(self.word)) else {
            return false;
        };
        let words = |beats: u64| {
            if beats == content.beats {
                content.words
            } else {
                beats * beat_bytes / content.word_bytes
            }
        };
        let whole = words(taken + 1) - words(taken);
        if whole > 0 {
            self.word = self.word.max(at) + whole;
        }
        (self.now, self.taken) = (at + 1, Some(taken + 1));
        true
    }
}

/// A pass of a tile through the array.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its columns.
    pub columns: u64,
    /// Cycles in which its sums leave the chain.
    pub drain: u64,
    /// No column is issued before.
    pub ready: u64,
}

/// When a pass was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Cycle of its first column.
    pub start: u64,
    /// Cycle of its last column.
    pub end: u64,
    /// Cycles that it waited for the chain.
    pub drain_stall: u64,
    /// Cycles that it then waited for [`Pass::ready`].
    pub weight_stall: u64,
}

/// The issue stage, in cycles in which the array does not stand still: the rules of `docs/array-timing.md`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Issue {
    /// First cycle in which a column can be issued.
    pub now: u64,
    /// First cycle in which a last column can be.
    pub chain: u64,
}

impl Issue {
    /// Issues a pass.
    pub fn pass(&mut self, pass: Pass) -> Issued {
        let chained = self.now.max((self.chain + 1).saturating_sub(pass.columns));
        let start = chained.max(pass.ready);
        let end = start + pass.columns - 1;
        let issued = Issued {
            start,
            end,
            drain_stall: chained - self.now,
            weight_stall: start - chained,
        };
        (self.now, self.chain) = (end + 1, end + pass.drain);
        issued
    }
}

/// The cycle in which the first of a tile's sums leaves the chain, for one whose last column was issued in cycle `end`.
pub const fn joined(end: u64, tokens: u64, pairs: u64) -> u64 {
    end + tokens + pairs + declared::SLICE_DEPTH
}

/// What the array is asked for by [`array_cycles`].
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Weights of a tile of row pairs with so many columns, for the passes that follow.
    Weights(u64),
    /// A pass of a tile.
    Pass {
        /// Its columns.
        columns: u64,
        /// Cycles in which its sums leave the chain.
        drain: u64,
        /// Whether it uses the weights announced last.
        uses_weights: bool,
        /// Whether it is the last to use them.
        releases: bool,
    },
}

/// When an array of `pairs` row pairs issues passes whose weights come in beats of `beat_bytes`, `beat_interval` cycles apart.
///
/// # Errors
/// [`Error::InvalidValue`] where a pass waits for weights that never come or for a half that is never given back.
pub fn array_cycles(
    pairs: u64,
    beat_bytes: u64,
    beat_interval: u64,
    work: &[Work],
) -> Result<Vec<Issued>> {
    let mut weights = Filler::new(|_, _| Vec::new());
    weights.contents = work
        .iter()
        .filter_map(|work| match work {
            Work::Weights(columns) => Some((0, Content::weights(*columns, pairs, beat_bytes))),
            Work::Pass { .. } => None,
        })
        .collect();
    let (mut beats, mut issue, mut issued) = (Fifo::new(1), Issue::default(), Vec::new());
    let (mut ready, mut wanted) = (0, 0);
    for work in work {
        let Work::Pass {
            columns,
            drain,
            uses_weights,
            releases,
        } = *work
        else {
            wanted += 1;
            continue;
        };
        if uses_weights {
            while wanted > 0 {
                if let Some((at, ())) = weights.halves.full.take(0) {
                    (ready, wanted) = (at, wanted - 1);
                    continue;
                }
                if beats.next().is_none() {
                    let taken = weights.now.saturating_sub(1);
                    beats.put(taken + beat_interval, ());
                }
                if !weights.advance(beat_bytes, &mut beats) {
                    return Err(Error::InvalidValue(
                        "a pass waits for ever: no half of the weights is given back".into(),
                    ));
                }
            }
        }
        let pass = issue.pass(Pass {
            columns,
            drain,
            ready: if uses_weights { ready } else { 0 },
        });
        if releases {
            weights.halves.free.put(pass.end + 1, ());
        }
        issued.push(pass);
    }
    Ok(issued)
}

#[derive(Clone, Copy)]
enum LoadStep {
    /// Where it begins, in items of a port, and its beats.
    Request(u64, u64),
    TakeInput,
    Beat(Target),
    /// The check's.
    Check,
    GiveInput,
    Sound,
}

/// Reads memory. When a transfer begins, the [`declared::TRANSFERS_AHEAD`] that follow are requested if their commands are there by then,
/// and the ports hold [`declared::OPEN_BURSTS`] bursts: so memory goes on while a command ends or a queue is full.
struct Loader {
    worker: Worker<LoadStep>,
    /// When memory gave its last beat, in [`TICKS`] of a cycle.
    ticks: u64,
    /// When this transfer was requested.
    requested: u64,
    /// When the commands before it began that could request it.
    began: VecDeque<u64>,
    /// Where its next burst begins, and the beats from there on.
    address: u64,
    left: u64,
    /// Beats not read of the burst before, when that was issued, and when the last beats of earlier ones were taken that could be open.
    burst: u64,
    issued: u64,
    read: VecDeque<u64>,
}

impl Loader {
    const fn new() -> Self {
        Self {
            worker: Worker::new(),
            ticks: 0,
            requested: 0,
            began: VecDeque::new(),
            address: 0,
            left: 0,
            burst: 0,
            issued: 0,
            read: VecDeque::new(),
        }
    }

    /// Begins the next burst: it is issued when the transfer is requested and one of those before it is read to its end.
    fn begin_burst(&mut self) {
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
    type Step = LoadStep;
    const UNIT: Unit = Unit::Load;

    fn worker(&mut self) -> &mut Worker<LoadStep> {
        &mut self.worker
    }

    fn expand(command: Command, _: &Sizes) -> Vec<(LoadStep, u64)> {
        match command {
            Command::Load(load) => vec![
                (
                    LoadStep::Request(load.address.into(), u64::from(load.beats) + 1),
                    1,
                ),
                (LoadStep::TakeInput, load.wait_array.into()),
                (LoadStep::Beat(load.target), load.beats.into()),
                (LoadStep::Check, 1),
                (LoadStep::GiveInput, load.post_array.into()),
            ],
            _ => vec![(LoadStep::Request(0, 0), 1), (LoadStep::Sound, 1)],
        }
    }

    fn once(&mut self, step: LoadStep, sizes: &Sizes, wires: &mut Wires) -> bool {
        let worker = &mut self.worker;
        let queue = match step {
            LoadStep::TakeInput => return worker.take(&mut wires.array_to_load, Cause::Patches),
            LoadStep::GiveInput => return worker.put(&mut wires.load_to_array, 1),
            LoadStep::Sound => return worker.put(&mut wires.checks, 1),
            LoadStep::Request(address, beats) => {
                let (came, now) = (worker.came, worker.clock.now);
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
                (self.address, self.left) = (address, beats);
                return true;
            }
            LoadStep::Beat(Target::Weights) => Some(&mut wires.weights),
            LoadStep::Beat(Target::Rows | Target::Table | Target::Residual) => {
                Some(&mut wires.rows)
            }
            LoadStep::Beat(Target::Gains) => Some(&mut wires.gains),
            LoadStep::Beat(Target::Patches) | LoadStep::Check => None,
        };
        if self.burst == 0 {
            self.begin_burst();
        }
        let there = (self.issued + declared::MEMORY_LATENCY) * TICKS;
        let comes = (self.ticks + sizes.beat_ticks).max(there);
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
        if self.burst == 0 {
            self.read.push_back(at);
        }
        worker.clock.work(1);
        worker.clock.wait(Cause::Memory, natural);
        worker.clock.wait(Cause::Full, at);
        true
    }
}

#[derive(Clone, Copy)]
enum ArrayStep {
    /// Takes the command.
    Begin,
    /// Takes a token.
    Wait(Cause),
    /// Takes a full half of the weights.
    Weights,
    Pass {
        columns: u64,
        drain: u64,
        leaves: Leaves,
    },
    /// Gives the half of the weights back.
    Release,
    /// Gives `input` back.
    GiveInput,
}

#[derive(Clone, Copy)]
enum Leaves {
    /// Sums that the next pass's are added to, or scores, to their buffer.
    Nothing,
    Sums,
    /// Scores, and their maxima when the last is stored.
    Maxima,
}

/// What leaves the array: `count` items, one a cycle, the first in cycle `at` of the array.
struct Leaving {
    at: u64,
    count: u64,
    maxima: bool,
}

/// Passes that are planned before they are issued.
const PLANNED: usize = 4;

/// What goes through a command's passes ahead of issue, and takes the tokens that they wait for.
#[derive(Default)]
struct Plan {
    now: u64,
    /// What it waited for last.
    cause: Option<Cause>,
    /// When the last passes were issued.
    issued: VecDeque<u64>,
}

impl Plan {
    fn wait(&mut self, cause: Cause, until: u64) {
        if until > self.now {
            (self.now, self.cause) = (until, Some(cause));
        }
    }

    /// When the next pass is planned.
    fn pass(&mut self) -> u64 {
        if self.issued.len() == PLANNED {
            self.now = self.now.max(self.issued[0] + 1);
        }
        self.now += declared::PLAN_INTERVAL;
        self.now
    }
}

/// Plan, issue, array and join. The latter three stand still as a whole while a queue is full that they write.
struct Array {
    worker: Worker<ArrayStep>,
    plan: Plan,
    issue: Issue,
    weights: Filler,
    leaving: VecDeque<Leaving>,
    /// Cycles of the array from which on it is late, as it stood still, and how late.
    late: Vec<(u64, u64)>,
}

impl Process for Array {
    type Step = ArrayStep;
    const UNIT: Unit = Unit::Array;
    // Plan's.
    const GAP: u64 = 0;

    fn worker(&mut self) -> &mut Worker<ArrayStep> {
        &mut self.worker
    }

    fn expand(command: Command, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let steps = match command {
            Command::Gemm(gemm) => Self::gemm(gemm, sizes),
            Command::Scores(scores) => Self::scores(scores, sizes),
            Command::Context(context) => Self::context(context, sizes),
            _ => Vec::new(),
        };
        std::iter::once((ArrayStep::Begin, 1))
            .chain(steps)
            .collect()
    }

    fn once(&mut self, step: ArrayStep, sizes: &Sizes, wires: &mut Wires) -> bool {
        match step {
            ArrayStep::Wait(cause) => {
                let Some(at) = self.arrival(wires.tokens(cause).next(), wires) else {
                    return false;
                };
                wires.tokens(cause).take(at);
                self.plan.wait(cause, at);
            }
            ArrayStep::Weights => {
                let Some(at) = self.arrival(self.weights.halves.full.next(), wires) else {
                    return false;
                };
                self.weights.halves.full.take(at);
                self.plan.wait(Cause::Memory, at);
            }
            ArrayStep::Begin => {
                let came = self.worker.came;
                self.plan.wait(Cause::Command, came);
                let begun = self.plan.now + declared::COMMAND_GAP;
                self.plan.wait(Cause::Gap, begun);
            }
            ArrayStep::Pass {
                columns,
                drain,
                leaves,
            } => {
                let mut issue = self.issue;
                issue.now = issue.now.max(self.cycle(self.worker.clock.now));
                let plan = Plan {
                    issued: self.plan.issued.clone(),
                    ..self.plan
                }
                .pass();
                if !self.settle(wires, |_, wall| wall <= plan) {
                    return false;
                }
                let issued = issue.pass(Pass {
                    columns,
                    drain,
                    ready: self.cycle(plan),
                });
                if !self.settle(wires, |cycle, _| cycle <= issued.end) {
                    return false;
                }
                self.issue = issue;
                self.plan.pass();
                self.plan.issued.push_back(self.wall(issued.start));
                if self.plan.issued.len() > PLANNED {
                    self.plan.issued.pop_front();
                }
                let cause = self.plan.cause.take().unwrap_or(Cause::Gap);
                let end = self.wall(issued.end);
                let clock = &mut self.worker.clock;
                clock.wait(Cause::Lanes, clock.now + issued.drain_stall);
                clock.wait(cause, clock.now + issued.weight_stall);
                clock.work(columns);
                clock.wait(Cause::Full, end + 1);
                let joined = joined(issued.end, sizes.tokens, sizes.pairs);
                let (at, count, maxima) = match leaves {
                    Leaves::Nothing => return true,
                    Leaves::Sums => (joined + 1, drain, false),
                    Leaves::Maxima => {
                        let groups = sizes.tokens.div_ceil(sizes.exponential_lanes);
                        (joined + drain + declared::SCORE_DEPTH, groups, true)
                    }
                };
                self.leaving.push_back(Leaving { at, count, maxima });
            }
            ArrayStep::Release => {
                return self.worker.put(&mut self.weights.halves.free, 0);
            }
            ArrayStep::GiveInput => return self.worker.put(&mut wires.array_to_load, 1),
        }
        true
    }
}

impl Array {
    fn new() -> Self {
        Self {
            worker: Worker::new(),
            issue: Issue::default(),
            plan: Plan::default(),
            weights: Filler::new(|command, sizes| match command {
                Command::Gemm(gemm) => {
                    let columns = gemm.columns.into();
                    let weights = Content::weights(columns, sizes.pairs, sizes.beat_bytes);
                    vec![weights; sizes.row_tiles(gemm.rows4, gemm.rows8).count()]
                }
                _ => Vec::new(),
            }),
            leaving: VecDeque::new(),
            late: Vec::new(),
        }
    }

    fn gemm(gemm: Gemm, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![
            (ArrayStep::Wait(Cause::Patches), gemm.wait_load.into()),
            (ArrayStep::Wait(Cause::Result), gemm.wait_drain.into()),
        ];
        for (tile, (_, rows)) in sizes.row_tiles(gemm.rows4, gemm.rows8).enumerate() {
            steps.push((ArrayStep::Weights, 1));
            for tokens in sizes.tiles(gemm.tokens) {
                if tile == 0 {
                    steps.push((ArrayStep::Wait(Cause::Norm), gemm.wait_norm.into()));
                    let stored = gemm.wait_drain_tiles.into();
                    steps.push((ArrayStep::Wait(Cause::Result), stored));
                }
                steps.extend(passes(gemm.columns, gemm.pass, rows * sizes.groups(tokens)));
            }
            steps.push((ArrayStep::Release, 1));
        }
        steps.push((ArrayStep::GiveInput, gemm.post_load.into()));
        steps
    }

    fn scores(scores: Scores, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![(ArrayStep::Wait(Cause::Result), scores.wait_drain.into())];
        let mut tiles = sizes.row_tiles(0, scores.keys).peekable();
        while let Some((pairs, _)) = tiles.next() {
            let leaves = if tiles.peek().is_some() {
                Leaves::Nothing
            } else {
                Leaves::Maxima
            };
            let columns = scores.columns.into();
            let pass = ArrayStep::Pass {
                columns,
                drain: pairs,
                leaves,
            };
            steps.push((pass, 1));
        }
        steps
    }

    fn context(context: Context, sizes: &Sizes) -> Vec<(ArrayStep, u64)> {
        let mut steps = vec![
            (ArrayStep::Wait(Cause::Result), context.wait_drain.into()),
            (ArrayStep::Wait(Cause::Softmax), 1),
        ];
        let groups = sizes.groups(context.tokens.into());
        for (_, rows) in sizes.row_tiles(0, context.rows) {
            steps.extend(passes(context.keys, context.pass, rows * groups));
        }
        steps
    }

    /// When an item can be taken that is there at `there`; none where that is not known yet. Sums leave meanwhile.
    fn arrival(&mut self, there: Option<u64>, wires: &mut Wires) -> Option<u64> {
        let at = there.map(|there| there.max(self.plan.now));
        let settled = self.settle(wires, |_, wall| wall <= at.unwrap_or(u64::MAX));
        at.filter(|_| settled)
    }

    /// The cycle of all clocks that a cycle of the array is.
    fn wall(&self, cycle: u64) -> u64 {
        let late = self.late.iter().rev().find(|&&(from, _)| from <= cycle);
        cycle + late.map_or(0, |&(_, late)| late)
    }

    /// The first cycle of the array that is not before `wall`.
    fn cycle(&self, wall: u64) -> u64 {
        let mut later = u64::MAX;
        for &(from, late) in self.late.iter().rev() {
            if wall >= from + late {
                return later.min(wall - late);
            }
            later = from;
        }
        later.min(wall)
    }

    /// Lets leave what does so in the cycles (of the array, of all clocks) that are `within` a limit; false where it is not known yet
    /// when there is room.
    fn settle(&mut self, wires: &mut Wires, within: impl Fn(u64, u64) -> bool) -> bool {
        while let Some(leaving) = self.leaving.front() {
            let (cycle, maxima) = (leaving.at, leaving.maxima);
            let natural = self.wall(cycle);
            if !within(cycle, natural) {
                break;
            }
            let queue = if maxima {
                &mut wires.maxima
            } else {
                &mut wires.sums
            };
            let Some(at) = queue.put(natural, ()) else {
                return false;
            };
            if at > natural {
                let late = self.late.last().map_or(0, |&(_, late)| late);
                self.late.push((cycle, late + at - natural));
            }
            let leaving = &mut self.leaving[0];
            leaving.at += 1;
            leaving.count -= 1;
            if leaving.count == 0 {
                self.leaving.pop_front();
            }
        }
        true
    }
}

/// The passes of a tile: as many columns each as its fields hold.
fn passes(columns: u32, pass: u32, drain: u64) -> impl Iterator<Item = (ArrayStep, u64)> {
    (0..columns).step_by(pass as usize).map(move |first| {
        let left = columns - first;
        let leaves = if left > pass {
            Leaves::Nothing
        } else {
            Leaves::Sums
        };
        let columns = left.min(pass).into();
        let step = ArrayStep::Pass {
            columns,
            drain,
            leaves,
        };
        (step, 1)
    })
}

#[derive(Clone, Copy)]
enum DrainStep {
    /// Takes a full half of row parameters.
    Rows,
    /// Gives it back.
    Release,
    /// Takes what scales L tokens.
    Scales,
    /// Takes L sums and stores their results.
    Sums,
    /// Takes a sum and sends the logit.
    Logit,
    /// Takes a beat of a table or of the residual.
    Beat,
    /// Stores of it what takes longer.
    Work,
    /// Sends the moments of L tokens.
    Moments,
    /// Tells the array that results are stored.
    Post,
}

/// Gathers what scales the tokens of a unit, one a cycle, a group of lanes at a time.
struct Gather {
    now: u64,
    units: VecDeque<u64>,
    gathered: u64,
    words: Fifo,
}

impl Gather {
    fn advance(&mut self, lanes: u64, scales: &mut Fifo) -> bool {
        let Some(&tokens) = self.units.front() else {
            return false;
        };
        if self.words.items.len() == self.words.depth {
            return false;
        }
        let Some((at, ())) = scales.take(self.now) else {
            return false;
        };
        self.now = at + 1;
        self.gathered += 1;
        let last = self.gathered == tokens;
        if last || self.gathered.is_multiple_of(lanes) {
            self.words.put(self.now, ());
        }
        if last {
            self.units.pop_front();
            self.gathered = 0;
        }
        true
    }
}

/// Requantizes and stores.
struct Drain {
    worker: Worker<DrainStep>,
    rows: Filler,
    scales: Gather,
}

impl Process for Drain {
    type Step = DrainStep;
    const UNIT: Unit = Unit::Drain;

    fn worker(&mut self) -> &mut Worker<DrainStep> {
        &mut self.worker
    }

    fn expand(command: Command, sizes: &Sizes) -> Vec<(DrainStep, u64)> {
        match command {
            Command::Rows(rows) => Self::rows(rows, sizes),
            Command::Attend(Attend {
                tokens, rows, post, ..
            }) => {
                let groups = sizes.groups(tokens.into());
                vec![
                    (DrainStep::Scales, groups),
                    (DrainStep::Sums, u64::from(rows) * groups),
                    (DrainStep::Post, post.into()),
                ]
            }
            Command::Fill(Fill { words, .. }) => {
                // A word's groups are stored while the next word comes.
                let beats = (2 * sizes.tokens).div_ceil(sizes.beat_bytes);
                let word = [
                    (DrainStep::Beat, beats),
                    (
                        DrainStep::Work,
                        sizes.groups(sizes.tokens).saturating_sub(beats),
                    ),
                ];
                let mut steps = word.repeat(words as usize);
                steps.push((DrainStep::Work, sizes.groups(sizes.tokens)));
                steps
            }
            Command::Table(_) => {
                // An entry a cycle, to every lane.
                let beats = 256u64.div_ceil(sizes.beat_bytes);
                vec![(DrainStep::Beat, beats), (DrainStep::Work, 256 - beats)]
            }
            _ => Vec::new(),
        }
    }

    fn once(&mut self, step: DrainStep, _: &Sizes, wires: &mut Wires) -> bool {
        let worker = &mut self.worker;
        let (queue, cause) = match step {
            DrainStep::Rows => return worker.take(&mut self.rows.halves.full, Cause::Memory),
            DrainStep::Release => return worker.put(&mut self.rows.halves.free, 0),
            DrainStep::Moments => {
                return worker.put(&mut wires.moments, declared::REQUANTIZE_DEPTH);
            }
            DrainStep::Post => {
                return worker.put(&mut wires.drain_to_array, declared::REQUANTIZE_DEPTH);
            }
            DrainStep::Logit => {
                // Logits leave in time: the store takes one a cycle.
                if !worker.take(&mut wires.sums, Cause::Result) {
                    return false;
                }
                worker.clock.work(1);
                return worker.put(&mut wires.logits, declared::REQUANTIZE_DEPTH);
            }
            DrainStep::Work => {
                worker.clock.work(1);
                return true;
            }
            DrainStep::Scales => return worker.take(&mut self.scales.words, Cause::Softmax),
            DrainStep::Sums => (&mut wires.sums, Cause::Result),
            DrainStep::Beat => (&mut wires.rows, Cause::Memory),
        };
        let taken = worker.take(queue, cause);
        if taken {
            worker.clock.work(1);
        }
        taken
    }
}

impl Drain {
    fn new(sizes: &Sizes, units: VecDeque<u64>) -> Self {
        Self {
            worker: Worker::new(),
            scales: Gather {
                now: 0,
                units,
                gathered: 0,
                words: Fifo::new(2 * sizes.groups(sizes.tokens) as usize),
            },
            rows: Filler::new(|command, sizes| match command {
                Command::Rows(rows) => {
                    let tiles = sizes.row_tiles(rows.rows4, rows.rows8);
                    tiles
                        .map(|(_, rows)| Content::rows(rows, sizes.beat_bytes))
                        .collect()
                }
                _ => Vec::new(),
            }),
        }
    }

    fn rows(rows: RowsCommand, sizes: &Sizes) -> Vec<(DrainStep, u64)> {
        let mut steps = Vec::new();
        let mut tiles = sizes.row_tiles(rows.rows4, rows.rows8).peekable();
        let step = if rows.kind == Kind::Logits {
            DrainStep::Logit
        } else {
            DrainStep::Sums
        };
        while let Some((_, outputs)) = tiles.next() {
            let last = tiles.peek().is_none();
            steps.push((DrainStep::Rows, 1));
            for tokens in sizes.tiles(rows.tokens) {
                let groups = sizes.groups(tokens);
                steps.push((step, outputs * groups));
                if last {
                    steps.push((DrainStep::Moments, u64::from(rows.moments) * groups));
                    steps.push((DrainStep::Post, rows.post_tiles.into()));
                }
            }
            steps.push((DrainStep::Release, 1));
        }
        steps.push((DrainStep::Post, rows.post.into()));
        steps
    }
}

#[derive(Clone, Copy)]
enum NormStep {
    /// Takes a full half of gains.
    Gains,
    /// Gives it back.
    Release,
    /// Takes the moments of L tokens.
    Moments,
    /// Adds up the means of the tokens, before or after.
    Mean(u64),
    /// Normalises M tokens.
    Group { embed: u64 },
    /// An inner loop ends.
    Gap,
    /// Tells the array that a tile is stored.
    Post,
}

/// `LayerNorm`.
struct Norm {
    worker: Worker<NormStep>,
    gains: Filler,
}

impl Process for Norm {
    type Step = NormStep;
    const UNIT: Unit = Unit::Norm;

    fn worker(&mut self) -> &mut Worker<NormStep> {
        &mut self.worker
    }

    fn expand(command: Command, sizes: &Sizes) -> Vec<(NormStep, u64)> {
        let Command::LayerNorm(LayerNorm {
            pool,
            tokens,
            embed,
            ..
        }) = command
        else {
            return Vec::new();
        };
        let embed = u64::from(embed);
        let groups = |tokens: u64| tokens.div_ceil(sizes.norm_lanes);
        let all: u64 = sizes.tiles(tokens).map(groups).sum();
        let mut steps = vec![(NormStep::Gains, 1)];
        for tokens in sizes.tiles(tokens) {
            steps.push((NormStep::Moments, sizes.groups(tokens)));
            if pool != Pooling::Before {
                steps.push((NormStep::Group { embed }, groups(tokens)));
                steps.push((NormStep::Gap, 1));
                steps.push((NormStep::Post, u64::from(pool == Pooling::None)));
            }
        }
        match pool {
            Pooling::Before => steps.extend([
                // A column after the other, a group of tokens a cycle.
                (NormStep::Mean(embed * (all + declared::LOOP_GAP)), 1),
                (NormStep::Group { embed }, 1),
                (NormStep::Post, 1),
            ]),
            Pooling::After => steps.extend([(NormStep::Mean(embed), 1), (NormStep::Post, 1)]),
            Pooling::None => {}
        }
        steps.push((NormStep::Release, 1));
        steps
    }

    fn once(&mut self, step: NormStep, _: &Sizes, wires: &mut Wires) -> bool {
        let worker = &mut self.worker;
        match step {
            NormStep::Gains => return worker.take(&mut self.gains.halves.full, Cause::Memory),
            NormStep::Release => return worker.put(&mut self.gains.halves.free, 0),
            NormStep::Moments => return worker.take(&mut wires.moments, Cause::Result),
            NormStep::Post => return worker.put(&mut wires.norm_to_array, declared::NORM_DEPTH),
            NormStep::Mean(cycles) => worker.clock.work(cycles),
            NormStep::Gap => {
                let now = worker.clock.now;
                worker.clock.wait(Cause::Gap, now + declared::LOOP_GAP);
            }
            NormStep::Group { embed } => worker.clock.work(embed.max(declared::NORM_ROOT)),
        }
        true
    }
}

impl Norm {
    fn new() -> Self {
        Self {
            worker: Worker::new(),
            gains: Filler::new(|command, sizes| match command {
                Command::LayerNorm(norm) => {
                    vec![Content::gains(norm.embed.into(), sizes.beat_bytes)]
                }
                _ => Vec::new(),
            }),
        }
    }
}

#[derive(Clone, Copy)]
enum SoftmaxStep {
    /// Takes the largest scores of E tokens.
    Maxima,
    /// Exponentials of E tokens.
    Group { keys: u64 },
    /// An inner loop ends.
    Gap,
    /// Sends what scales a token.
    Scale,
    /// Tells the array that probabilities are stored.
    Post,
}

/// Exponentials, their sums, reciprocals.
struct Exponential {
    worker: Worker<SoftmaxStep>,
}

impl Process for Exponential {
    type Step = SoftmaxStep;
    const UNIT: Unit = Unit::Softmax;

    fn worker(&mut self) -> &mut Worker<SoftmaxStep> {
        &mut self.worker
    }

    fn expand(command: Command, sizes: &Sizes) -> Vec<(SoftmaxStep, u64)> {
        let Command::Softmax(Softmax { tokens, keys, .. }) = command else {
            return Vec::new();
        };
        let (lanes, keys) = (sizes.exponential_lanes, u64::from(keys));
        let tokens = u64::from(tokens);
        let mut steps = Vec::new();
        for group in 0..sizes.tokens.div_ceil(lanes) {
            steps.push((SoftmaxStep::Maxima, 1));
            let size = lanes.min(tokens.saturating_sub(group * lanes));
            if size > 0 {
                steps.push((SoftmaxStep::Group { keys }, 1));
                steps.push((SoftmaxStep::Scale, size));
                let last = (group + 1) * lanes >= tokens;
                steps.push((SoftmaxStep::Post, last.into()));
                steps.push((SoftmaxStep::Gap, 1));
            }
        }
        steps
    }

    fn once(&mut self, step: SoftmaxStep, _: &Sizes, wires: &mut Wires) -> bool {
        let worker = &mut self.worker;
        match step {
            SoftmaxStep::Maxima => return worker.take(&mut wires.maxima, Cause::Result),
            SoftmaxStep::Group { keys } => worker.clock.work(keys),
            SoftmaxStep::Gap => {
                let now = worker.clock.now;
                worker.clock.wait(Cause::Gap, now + declared::LOOP_GAP);
            }
            SoftmaxStep::Post => {
                return worker.put(&mut wires.softmax_to_array, declared::EXPONENTIAL_DEPTH);
            }
            SoftmaxStep::Scale => {
                return worker.put(&mut wires.scales, declared::EXPONENTIAL_DEPTH);
            }
        }
        true
    }
}

/// Writes logits to memory.
struct Store {
    now: u64,
    /// Logits of each frame.
    frames: VecDeque<u64>,
    taken: u64,
}

impl Store {
    fn advance(&mut self, wires: &mut Wires, trace: &mut Trace) -> bool {
        let Some(&logits) = self.frames.front() else {
            return false;
        };
        if self.taken == logits {
            let Some((at, ())) = wires.checks.take(self.now) else {
                return false;
            };
            // The trailer's beat.
            self.now = at + 1;
            trace.frames.push(self.now);
            self.frames.pop_front();
            self.taken = 0;
            return true;
        }
        let Some((at, ())) = wires.logits.take(self.now) else {
            return false;
        };
        self.now = at + 1;
        self.taken += 1;
        true
    }
}

/// Everything that moves.
struct Device {
    sizes: Sizes,
    wires: Wires,
    trace: Trace,
    fetch: Fetch,
    loader: Loader,
    array: Array,
    drain: Drain,
    norm: Norm,
    exponential: Exponential,
    store: Store,
}

impl Device {
    fn new(hardware: &Hardware, lists: &[&[Command]]) -> Self {
        let sizes = Sizes::of(hardware);
        let list = lists.iter().enumerate().flat_map(|(segment, commands)| {
            let commands = commands.iter().enumerate();
            commands.map(move |(index, &command)| (segment, index, command))
        });
        let list: VecDeque<Entry> = list.collect();
        let logits = list.iter().filter_map(|(_, _, command)| match command {
            Command::Rows(rows) if rows.kind == Kind::Logits => {
                Some(u64::from(rows.rows4 + rows.rows8))
            }
            _ => None,
        });
        let units = list.iter().filter_map(|(_, _, command)| match command {
            Command::Attend(attend) => Some(u64::from(attend.tokens)),
            _ => None,
        });
        Self {
            sizes,
            wires: Wires::new(&sizes),
            trace: Trace::default(),
            store: Store {
                now: 0,
                frames: logits.collect(),
                taken: 0,
            },
            drain: Drain::new(&sizes, units.collect()),
            fetch: Fetch { list, now: 0 },
            loader: Loader::new(),
            array: Array::new(),
            norm: Norm::new(),
            exponential: Exponential {
                worker: Worker::new(),
            },
        }
    }

    /// Lets each process go on as far as it can; false where none could.
    fn advance(&mut self) -> bool {
        let Self {
            sizes,
            wires,
            trace,
            fetch,
            loader,
            array,
            drain,
            norm,
            exponential,
            store,
        } = self;
        let mut moved = 0;
        let mut run = |step: &mut dyn FnMut() -> bool| {
            while step() {
                moved += 1;
            }
        };
        run(&mut || {
            let fillers = [&mut array.weights, &mut drain.rows, &mut norm.gains];
            fetch.advance(sizes, wires, fillers)
        });
        run(&mut || loader.advance(sizes, wires, trace));
        run(&mut || array.weights.advance(sizes.beat_bytes, &mut wires.weights));
        run(&mut || array.advance(sizes, wires, trace));
        // Where issue waits, what is in the array leaves.
        array.settle(wires, |_, _| true);
        run(&mut || drain.rows.advance(sizes.beat_bytes, &mut wires.rows));
        run(&mut || drain.scales.advance(sizes.lanes, &mut wires.scales));
        run(&mut || drain.advance(sizes, wires, trace));
        run(&mut || norm.gains.advance(sizes.beat_bytes, &mut wires.gains));
        run(&mut || norm.advance(sizes, wires, trace));
        run(&mut || exponential.advance(sizes, wires, trace));
        run(&mut || store.advance(wires, trace));
        moved > 0
    }
}

/// Replays command lists, one behind the other, on an accelerator that starts in cycle 0.
///
/// # Errors
/// [`Error::InvalidValue`] where the lists leave a unit waiting for ever.
pub fn replay(hardware: &Hardware, lists: &[&[Command]]) -> Result<Trace> {
    let commands: usize = lists.iter().map(|list| list.len()).sum();
    let mut device = Device::new(hardware, lists);
    while device.advance() {}
    let ended = device.trace.spans.len();
    if ended < commands {
        return Err(Error::InvalidValue(format!(
            "{} of {commands} commands never end: a token is missing, or a queue is too short",
            commands - ended
        )));
    }
    Ok(device.trace)
}

/// What two frames in flight (or one after the other) come to when nothing changes any more from frame to frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steady {
    /// Cycles between two frames.
    pub period: u64,
    /// The replay.
    pub trace: Trace,
    /// Segments that were replayed, of which [`Span::segment`] counts.
    pub segments: Vec<Segment>,
    /// Those of them that stand for the steady state.
    pub window: std::ops::Range<usize>,
    /// Frames that the window takes.
    pub frames: u64,
}

fn commands(lists: &[List], segment: Segment) -> Result<&[Command]> {
    let list = lists.iter().find(|list| list.segment == segment);
    list.map(|list| &list.commands[..])
        .ok_or_else(|| Error::InvalidValue(format!("the lists have no segment {segment}")))
}

/// Replays segments by their names.
///
/// # Errors
/// As [`replay`]; [`Error::InvalidValue`] for a segment that the lists lack.
pub fn replay_segments(hardware: &Hardware, lists: &[List], segments: &[Segment]) -> Result<Trace> {
    let lists: Result<Vec<_>> = segments.iter().map(|&s| commands(lists, s)).collect();
    replay(hardware, &lists?)
}

/// One frame alone.
///
/// # Errors
/// As [`replay`].
pub fn frame_alone(hardware: &Hardware, lists: &[List]) -> Result<Trace> {
    replay_segments(hardware, lists, &[Segment::Start(0), Segment::End(0)])
}

/// Frame after frame, as many in flight as the configuration has.
///
/// # Errors
/// As [`replay`].
pub fn steady(hardware: &Hardware, lists: &[List]) -> Result<Steady> {
    let two = hardware.configuration().frames == 2;
    let (segments, window, frames) = if two {
        let steps = [Segment::Step(0), Segment::Step(1)].repeat(2);
        let ends = ([Segment::Start(0)], [Segment::End(0)]);
        ([&ends.0[..], &steps, &ends.1].concat(), 2..4, 2)
    } else {
        ([Segment::Start(0), Segment::End(0)].repeat(4), 4..6, 1)
    };
    let trace = replay_segments(hardware, lists, &segments)?;
    let ends = &trace.frames;
    let period = if two {
        (ends[3] - ends[1]) / 2
    } else {
        ends[3] - ends[2]
    };
    Ok(Steady {
        period,
        trace,
        segments,
        window,
        frames,
    })
}

/// Initiation intervals of the kernels' loops, by the names under which they count them: those that depend on the lists alone.
/// `array.issue` counts one more where it waits for the next pass.
pub fn intervals(hardware: &Hardware, lists: &[&[Command]]) -> BTreeMap<&'static str, u64> {
    let sizes = Sizes::of(hardware);
    let mut counts = BTreeMap::new();
    let mut count = |name, times: u64| *counts.entry(name).or_insert(0) += times;
    let mut owed: u64 = 0;
    for &command in lists.iter().copied().flatten() {
        count("fetch.commands", 1);
        for (step, times) in Array::expand(command, &sizes) {
            if let ArrayStep::Pass { columns, drain, .. } = step {
                count(
                    "array.issue",
                    times * (columns + owed.saturating_sub(columns)),
                );
                owed = drain;
            }
        }
        match command {
            Command::Load(load) => count("load.beats", u64::from(load.beats) + 1),
            Command::Rows(rows) => {
                let tokens = sizes.tiles(rows.tokens).collect::<Vec<_>>();
                let groups: u64 = tokens.iter().map(|&tokens| sizes.groups(tokens)).sum();
                let all = u64::from(rows.rows4 + rows.rows8);
                count("drain.parameters", all);
                count("drain.walk", all * tokens.len() as u64);
                count("drain.rows", all * groups);
            }
            Command::Attend(attend) => {
                let tokens = u64::from(attend.tokens);
                count("drain.scales", tokens);
                count(
                    "drain.attend",
                    u64::from(attend.rows) * sizes.groups(tokens),
                );
            }
            Command::Fill(fill) => {
                let beats = (2 * sizes.tokens).div_ceil(sizes.beat_bytes);
                let word = beats.max(sizes.groups(sizes.tokens));
                count("drain.fill", (u64::from(fill.words) + 1) * word);
            }
            Command::Table(_) => count("drain.table", 256),
            Command::LayerNorm(norm) => {
                let groups = sizes
                    .tiles(norm.tokens)
                    .map(|tokens| tokens.div_ceil(sizes.norm_lanes));
                let groups = if norm.pool == Pooling::Before {
                    1
                } else {
                    groups.sum()
                };
                count("norm.gains", norm.embed.into());
                // A mean's column comes again 4 intervals later, at least.
                let least = if norm.pool == Pooling::After { 4 } else { 1 };
                count("norm.normalise", groups * u64::from(norm.embed).max(least));
            }
            Command::Softmax(softmax) => {
                let groups = u64::from(softmax.tokens).div_ceil(sizes.exponential_lanes);
                count("softmax.exponential", groups * u64::from(softmax.keys));
            }
            _ => {}
        }
    }
    counts
}
