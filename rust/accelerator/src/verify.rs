//! Static verification of a program: no deadlock, no race, nothing left over, nothing out of place, for every schedule of the units.
//!
//! Units that take from and give to bounded queues, and wait where they cannot, form a Kahn network: whether it stops does not depend on who
//! runs first, so one run decides. The run here is abstract: commands take and give counted items that say what they are, and touch
//! memory cells, a cell being a column of a tile of tokens. Units have no room within them; the hardware's double buffers only add some.
//! Two accesses to a cell of which one writes must be ordered by tokens or by sums, moments and maxima, which the hardware sends behind
//! its memory accesses: vector clocks tell. Every read must find what was written for it: frame, phase, layout, as many tokens.
//! Depends on [`crate::program`] and [`crate::shape`].

use std::collections::VecDeque;
use std::fmt::Write;

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::Pool;
use quasar_hardware::packing::{Activation, Pair};

use crate::arena_layout::{check_of, words};
use crate::isa::{
    moments_depth, Attend, Command, Context, Destination, Gemm, Kind, LayerNorm, Load, LoadEnd,
    Pooling, RowsCommand, Scores, Source, Target, Unit, QUEUES, ROW_BYTES,
};
use crate::program::{Place, Program, Segment};
use crate::shape::{RowTile, Shape};

/// What a verified program needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Each queue: its name, the most items that the run had in it, its depth.
    pub queues: Vec<(&'static str, usize, usize)>,
    /// Commands of each segment.
    pub commands: Vec<(Segment, usize)>,
    /// Beats that a frame reads, its patches and all checks included.
    pub beats: usize,
}

/// Verifies a program: each command on its own, each frame's transfers, each segment against the two halves that it interleaves, and runs
/// of segments that have every pair of successive ones.
///
/// # Errors
/// [`Error::InvalidValue`] says what is wrong and where.
pub fn verify(program: &Program) -> Result<Report> {
    let checker = Checker::new(program);
    for list in &program.lists {
        for (at, (command, place)) in list.commands.iter().zip(&list.places).enumerate() {
            checker
                .command(*command, *place)
                .map_err(|e| wrong(format!("{} {at}, {command:?}: {e}", list.segment)))?;
        }
    }
    checker.interleavings()?;
    let beats = checker.transfers()?;
    let mut machine = Machine::new(program);
    let mut states = [None, None, None];
    for &segment in tour(machine.shape.frames) {
        machine.run(segment)?;
        // Between two segments the queues hold the same whatever was before: so every row of segments is like these.
        let state = match segment {
            Segment::Start(slot) => 1 + slot as usize,
            Segment::Step(slot) => 2 - slot as usize,
            Segment::End(_) => 0,
        };
        let held = machine.held();
        if *states[state].get_or_insert_with(|| held.clone()) != held {
            return Err(wrong(format!(
                "after {segment} the queues hold {held:?}, which differs from before"
            )));
        }
    }
    if let Some(held) = &states[0] {
        let rest: Vec<_> = QUEUES.iter().zip(held).filter(|(_, &n)| n > 0).collect();
        if rest.len() != 1 || rest[0].0.name != "array_to_load" || *rest[0].1 != 1 {
            return Err(wrong(format!(
                "when all frames have ended the queues hold {held:?}"
            )));
        }
    }
    Ok(Report {
        queues: machine
            .queues
            .iter()
            .zip(QUEUES)
            .map(|(queue, declared)| (declared.name, queue.most, queue.depth))
            .collect(),
        commands: program.segments().map(|(s, c)| (s, c.len())).collect(),
        beats,
    })
}

/// Segments in a row that have every pair of successive ones.
fn tour(frames: usize) -> &'static [Segment] {
    use Segment::{End, Start, Step};
    const SINGLE: [Segment; 4] = [Start(0), End(0), Start(0), End(0)];
    const DOUBLE: [Segment; 20] = [
        Start(0),
        Step(0),
        Step(1),
        Step(0),
        Step(1),
        End(0),
        Start(0),
        End(0),
        Start(1),
        End(1),
        Start(1),
        Step(1),
        Step(0),
        End(1),
        Start(0),
        Step(0),
        End(1),
        Start(1),
        Step(1),
        End(0),
    ];
    if frames == 1 {
        &SINGLE
    } else {
        &DOUBLE
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::InvalidValue(format!("program: {}", what.into()))
}

fn ensure(condition: bool, what: &str) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err(what.into())
    }
}

/// What needs no run.
struct Checker<'a> {
    program: &'a Program,
    shape: Shape,
}

impl<'a> Checker<'a> {
    fn new(program: &'a Program) -> Self {
        Self {
            program,
            shape: Shape::of(&program.hardware),
        }
    }

    /// Columns of equal passes, as few as a slice's fields allow.
    fn pass(&self, columns: u32, pair: Pair, activation: Activation) -> u32 {
        let kind = self.program.hardware.board().dsp_kind;
        let passes = columns.div_ceil(kind.products(pair, activation) as u32);
        columns.div_ceil(passes.max(1))
    }

    /// Tiles of tokens.
    fn tiles(&self, tokens: u32) -> u64 {
        u64::from(tokens.div_ceil(self.shape.tokens as u32))
    }

    /// Fields that follow from the network and the configuration.
    fn command(&self, command: Command, place: Place) -> Result<(), String> {
        let sizes = self.program.sizes;
        let buffers = self.program.hardware.configuration().buffers;
        let tokens = sizes.tokens as u32;
        let slot = u32::from(place.slot);
        command.encode().map_err(|e| e.to_string())?;
        match command {
            Command::Load(c) => self.load(c, slot),
            Command::LoadEnd(c) => ensure(c.frame == slot, "the frame is not the slot's"),
            Command::Gemm(c) => self.gemm(c, slot),
            Command::Scores(c) => {
                ensure(
                    u64::from(c.keys) <= buffers.score && c.keys == tokens,
                    "the keys are not the tokens",
                )?;
                ensure(
                    c.columns > 0 && c.base + c.columns <= c.stride,
                    "the head is beyond all heads",
                )
            }
            Command::Context(c) => {
                ensure(c.keys == tokens, "the keys are not the tokens")?;
                ensure(
                    c.pass == self.pass(c.keys, Pair::EightBit, Activation::Unsigned),
                    "the pass is wrong",
                )
            }
            Command::Rows(c) => self.rows(c, place),
            Command::Attend(c) => {
                ensure(c.base + c.rows <= c.stride, "the head is beyond all heads")
            }
            Command::Fill(c) => {
                let words = self.tiles(tokens) * sizes.embed as u64;
                ensure(
                    u64::from(c.words) == words && words <= buffers.residual,
                    "the residual is not filled",
                )?;
                ensure(c.frame == slot, "the frame is not the slot's")
            }
            Command::Table(_) => Ok(()),
            Command::LayerNorm(c) => self.layer_norm(c, place),
            Command::Softmax(c) => {
                let cap = ((1u32 << 31) - (1 << 20)).checked_div(c.mult);
                ensure(cap == Some(c.cap), "cap is not that of mult")
            }
        }
    }

    fn load(&self, c: Load, slot: u32) -> Result<(), String> {
        ensure(c.frame == slot, "the frame is not the slot's")?;
        ensure(c.beats > 0, "nothing is loaded")?;
        ensure(
            c.input == (c.target == Target::Patches),
            "patches alone are the frame's input",
        )?;
        if c.input {
            let beats = self.program.input_bytes() / self.shape.beat - 1;
            ensure(
                (c.address, c.beats as usize) == (0, beats),
                "the patches are not all",
            )?;
        }
        Ok(())
    }

    fn gemm(&self, c: Gemm, slot: u32) -> Result<(), String> {
        let buffers = self.program.hardware.configuration().buffers;
        let pair = if c.rows8 > 0 {
            Pair::EightBit
        } else {
            Pair::FourBit
        };
        ensure(
            c.tokens > 0 && c.columns > 0 && c.rows4 + c.rows8 > 0,
            "it is empty",
        )?;
        ensure(
            c.pass == self.pass(c.columns, pair, Activation::Signed),
            "the pass is wrong",
        )?;
        ensure(
            u64::from(c.columns) <= buffers.weight,
            "its columns exceed the weight buffer",
        )?;
        let (words, normed) = match c.source {
            Source::Input => (buffers.input, false),
            Source::Normed => (buffers.norm, true),
            Source::Query => (buffers.query, false),
            _ => (buffers.hidden, false),
        };
        ensure(
            self.tiles(c.tokens) * u64::from(c.columns) <= words,
            "it reads beyond its source",
        )?;
        ensure(
            c.frame == if normed { slot } else { 0 },
            "the frame is not the slot's",
        )?;
        ensure(
            c.source != Source::Input || c.columns as usize == self.program.sizes.patch_len,
            "the columns are not a patch",
        )
    }

    fn rows(&self, c: RowsCommand, place: Place) -> Result<(), String> {
        let (sizes, slot, first) = (self.program.sizes, u32::from(place.slot), place.phase == 0);
        let tokens = sizes.tokens as u32;
        let residual = c.kind == Kind::Residual;
        ensure(c.tokens > 0 && c.rows4 + c.rows8 > 0, "it is empty")?;
        ensure(
            c.frame == if residual { slot } else { 0 },
            "the frame is not the slot's",
        )?;
        ensure(residual == c.moments, "moments go with the residual")?;
        ensure(!c.table || c.kind == Kind::Codes, "the table is for codes")?;
        ensure(
            (c.kind == Kind::Logits) == (c.stride == 0),
            "the stride is wrong",
        )?;
        let skip = if residual && first { sizes.prefix } else { 0 };
        ensure(c.skip as usize == skip, "skip is not the prefix")?;
        ensure(
            !residual || c.stride as usize == sizes.embed,
            "the stride is not the embedding's",
        )?;
        ensure(!first || c.tokens == tokens, "the embedding has all tokens")?;
        ensure(
            [0, ((1 << 20) + tokens / 2) / tokens].contains(&c.reciprocal),
            "the reciprocal is wrong",
        )
    }

    fn layer_norm(&self, c: LayerNorm, place: Place) -> Result<(), String> {
        let (sizes, slot) = (self.program.sizes, u32::from(place.slot));
        let buffers = self.program.hardware.configuration().buffers;
        let last = place.phase as usize + 2 == sizes.phases;
        let expected = match sizes.pool {
            Pool::Mean if last => Pooling::Before,
            Pool::MeanAfterNorm if last => Pooling::After,
            _ => Pooling::None,
        };
        ensure(c.frame == slot, "the frame is not the slot's")?;
        ensure(c.pool == expected, "the pooling is not the network's")?;
        let from = if expected == Pooling::None {
            0
        } else {
            sizes.prefix
        };
        ensure(
            c.first as usize == from,
            "the mean is not that of the patches",
        )?;
        ensure(
            c.embed as usize == sizes.embed,
            "the size is not the embedding's",
        )?;
        ensure(
            self.tiles(c.tokens) * u64::from(c.embed) <= buffers.norm,
            "it writes beyond its memory",
        )
    }

    /// A step is an interleaving of the two halves; both slots' halves are the same but for the slot.
    fn interleavings(&self) -> Result<()> {
        if self.shape.frames == 1 {
            return Ok(());
        }
        let part = |segment: Segment, slot: u8| -> Vec<(Command, u16)> {
            let all = self
                .program
                .commands(segment)
                .iter()
                .zip(self.program.places(segment));
            all.filter(|(_, place)| place.slot == slot)
                .map(|(&command, place)| (command, place.phase))
                .collect()
        };
        for slot in 0..2 {
            let other = 1 - slot;
            let step = Segment::Step(slot);
            if part(step, slot) != part(Segment::End(slot), slot)
                || part(step, other) != part(Segment::Start(other), other)
            {
                return Err(wrong(format!(
                    "{step} is not the two halves that it interleaves"
                )));
            }
        }
        Ok(())
    }

    /// A frame reads the arena once, from its first to its last beat, and all checks are right. Returns its beats.
    fn transfers(&self) -> Result<usize> {
        let (arena, beat) = (&self.program.arena, self.shape.beat);
        let mut all = 0;
        for slot in 0..self.shape.frames as u8 {
            let mut next = 0;
            for segment in [Segment::Start(slot), Segment::End(slot)] {
                for command in self.program.commands(segment) {
                    let Command::Load(c) = command else { continue };
                    if c.input {
                        continue;
                    }
                    let first = c.address as usize;
                    let end = first + c.beats as usize;
                    if first != next || (end + 1) * beat > arena.len() {
                        return Err(wrong(format!(
                            "{segment}: {c:?} does not follow beat {next} of the arena"
                        )));
                    }
                    next = end + 1;
                    let check = check_of(&arena[first * beat..end * beat]);
                    if words(&arena[end * beat..]).next() != Some(check) {
                        return Err(wrong(format!("{segment}: the check of {c:?} is wrong")));
                    }
                }
            }
            if next * beat != arena.len() {
                return Err(wrong(format!(
                    "slot {slot} leaves the arena from beat {next} on unread"
                )));
            }
            all = next;
        }
        Ok(all + self.program.input_bytes() / beat)
    }
}

/// Who runs: the units, and the store.
const DRAIN: usize = Unit::Drain as usize;
const SOFTMAX: usize = Unit::Softmax as usize;
const STORE: usize = 5;
const AGENTS: usize = 6;
const NAMES: [&str; AGENTS] = ["load", "array", "drain", "norm", "softmax", "store"];

type Clock = [u32; AGENTS];

/// What an item is, or what a cell holds: compared for equality, shown where it differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tag {
    /// Which of all frames, from 1 on.
    frame: u32,
    phase: u16,
    /// What it is.
    what: &'static str,
    /// Sizes that producer and consumer must agree on.
    sizes: [u32; 6],
}

impl Tag {
    fn of(self, what: &'static str, sizes: [u32; 6]) -> Self {
        Self {
            what,
            sizes,
            ..self
        }
    }

    fn before(self) -> Self {
        Self {
            phase: self.phase.wrapping_sub(1),
            ..self
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    count: usize,
    tag: Tag,
    clock: Clock,
    /// First beat of a transfer.
    address: u32,
}

#[derive(Clone, Debug)]
struct Queue {
    depth: usize,
    held: usize,
    most: usize,
    /// Whether what was done before an item was sent is seen to be done by who takes it.
    orders: bool,
    batches: VecDeque<Batch>,
}

/// A queue, by its place in [`QUEUES`].
const fn queue(name: &str) -> usize {
    let mut at = 0;
    while at < QUEUES.len() {
        let (a, b) = (QUEUES[at].name.as_bytes(), name.as_bytes());
        let mut same = a.len() == b.len();
        let mut i = 0;
        while same && i < a.len() {
            same = a[i] == b[i];
            i += 1;
        }
        if same {
            return at;
        }
        at += 1;
    }
    panic!("no such queue");
}

const COMMANDS: [usize; STORE] = [
    queue("load_commands"),
    queue("array_commands"),
    queue("drain_commands"),
    queue("norm_commands"),
    queue("softmax_commands"),
];
const WEIGHTS: usize = queue("weights");
const ROWS: usize = queue("rows");
const GAINS: usize = queue("gains");
const SUMS: usize = queue("sums");
const MOMENTS: usize = queue("moments");
const MAXIMA: usize = queue("maxima");
const SCALES: usize = queue("scales");
const LOGITS: usize = queue("logits");
const CHECKS: usize = queue("checks");
const LOAD_TO_ARRAY: usize = queue("load_to_array");
const ARRAY_TO_LOAD: usize = queue("array_to_load");
const DRAIN_TO_ARRAY: usize = queue("drain_to_array");
const NORM_TO_ARRAY: usize = queue("norm_to_array");
const SOFTMAX_TO_ARRAY: usize = queue("softmax_to_array");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Input,
    Residual(u32),
    Normed(u32),
    Query,
    Key,
    Value,
    Score(u32),
    Probability(u32),
    Hidden,
    Mean,
    Table,
}

const MEMORIES: usize = 15;

impl Memory {
    fn index(self) -> usize {
        match self {
            Self::Input => 0,
            Self::Residual(slot) => 1 + slot as usize,
            Self::Normed(slot) => 3 + slot as usize,
            Self::Query => 5,
            Self::Key => 6,
            Self::Value => 7,
            Self::Score(parity) => 8 + parity as usize,
            Self::Probability(parity) => 10 + parity as usize,
            Self::Hidden => 12,
            Self::Mean => 13,
            Self::Table => 14,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    tag: Tag,
    tokens: u32,
    writer: usize,
    written: u32,
    read: Clock,
}

/// A step of a command.
#[derive(Clone, Copy, Debug)]
enum Op {
    Take(usize, usize, Tag),
    Give(usize, usize, Tag, u32),
    /// Memory, first cell, cells, what they must hold, tokens.
    Read(Memory, usize, usize, Tag, u32),
    Write(Memory, usize, usize, Tag, u32),
    /// Looks at the parameters of so many rows.
    Parameters(usize),
    /// Stores a tile of tokens of the rows whose parameters were taken last: command, tile, its tokens.
    Store(RowsCommand, usize, usize, Tag),
    /// Takes a unit's maxima; what they are of is what its scores and probabilities must be.
    Unit(usize, Tag),
}

struct Agent {
    current: Option<(Command, VecDeque<Op>)>,
    commands: VecDeque<(Command, Tag)>,
    clock: Clock,
    /// First beat of the transfer taken last.
    address: u32,
    /// Destinations and columns of the row parameters there.
    rows: Vec<(u8, u16)>,
}

struct Machine<'a> {
    program: &'a Program,
    shape: Shape,
    /// Groups of E tokens in a tile.
    exponential_groups: usize,
    queues: Vec<Queue>,
    agents: Vec<Agent>,
    cells: Vec<Vec<Cell>>,
    frames: u32,
    current: [u32; 2],
}

impl<'a> Machine<'a> {
    fn new(program: &'a Program) -> Self {
        let shape = Shape::of(&program.hardware);
        let c = program.hardware.configuration();
        let queues = QUEUES.iter().map(|declared| Queue {
            depth: if declared.depth == 0 {
                moments_depth(shape.tokens, shape.lanes, c.buffers.score as usize)
            } else {
                declared.depth
            },
            held: 0,
            most: 0,
            orders: matches!(declared.name, "sums" | "moments" | "maxima")
                || declared.name.contains("_to_"),
            batches: VecDeque::new(),
        });
        let mut machine = Self {
            program,
            shape,
            exponential_groups: shape.tokens.div_ceil(c.lanes.exponential as usize),
            queues: queues.collect(),
            agents: (0..AGENTS)
                .map(|agent| Agent {
                    current: None,
                    commands: VecDeque::new(),
                    clock: std::array::from_fn(|i| u32::from(i == agent)),
                    address: 0,
                    rows: Vec::new(),
                })
                .collect(),
            cells: vec![Vec::new(); MEMORIES],
            frames: 0,
            current: [0; 2],
        };
        let free = &mut machine.queues[ARRAY_TO_LOAD];
        (free.held, free.most) = (1, 1);
        free.batches.push_back(Batch {
            count: 1,
            tag: FREE,
            clock: [0; AGENTS],
            address: 0,
        });
        machine
    }

    /// Items in each queue.
    fn held(&self) -> Vec<usize> {
        self.queues.iter().map(|queue| queue.held).collect()
    }

    /// Runs a segment until nothing moves.
    fn run(&mut self, segment: Segment) -> Result<()> {
        let begins = match segment {
            Segment::Start(slot) => Some(slot),
            Segment::Step(slot) => Some(1 - slot),
            Segment::End(_) => None,
        };
        if let Some(slot) = begins {
            self.frames += 1;
            self.current[slot as usize] = self.frames;
        }
        // The host starts the store for each frame that ends, whatever the units do.
        if let Segment::Step(slot) | Segment::End(slot) = segment {
            let tag = Tag {
                frame: self.current[slot as usize],
                phase: self.program.sizes.phases as u16 - 1,
                ..Tag::default()
            };
            let end = LoadEnd { frame: slot.into() };
            self.agents[STORE].commands.push_back((end.into(), tag));
        }
        let program = self.program;
        let places = program.places(segment);
        let mut list: VecDeque<_> = (program.commands(segment).iter().zip(places))
            .map(|(&command, place)| {
                let tag = Tag {
                    frame: self.current[place.slot as usize],
                    phase: place.phase,
                    ..Tag::default()
                };
                (command, tag)
            })
            .collect();
        let fail =
            |machine: &Self, what: String| wrong(format!("{segment}: {what}\n{}", machine.dump()));
        loop {
            let mut moved = false;
            // Fetch: in order, each to its unit's queue.
            while let Some(&(command, tag)) = list.front() {
                let unit = command.unit() as usize;
                let queue = &mut self.queues[COMMANDS[unit]];
                if queue.held == queue.depth {
                    break;
                }
                queue.held += 1;
                queue.most = queue.most.max(queue.held);
                self.agents[unit].commands.push_back((command, tag));
                list.pop_front();
                moved = true;
            }
            for agent in 0..AGENTS {
                while self.advance(agent).map_err(|what| fail(self, what))? {
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let busy = |agent: &Agent| agent.current.is_some() || !agent.commands.is_empty();
        if !list.is_empty() || self.agents.iter().any(busy) {
            return Err(fail(self, "deadlock: nothing can proceed".into()));
        }
        Ok(())
    }

    /// Where everybody stands.
    fn dump(&self) -> String {
        let mut text = String::new();
        for (agent, name) in self.agents.iter().zip(NAMES) {
            if let Some((command, ops)) = &agent.current {
                let _ = writeln!(text, "  {name}: {command:?} at {:?}", ops.front());
            }
        }
        for (queue, declared) in self.queues.iter().zip(QUEUES) {
            if queue.held > 0 {
                let _ = writeln!(
                    text,
                    "  {}: {} of {}",
                    declared.name, queue.held, queue.depth
                );
            }
        }
        text
    }

    /// One step of one agent; false where it must wait.
    fn advance(&mut self, agent: usize) -> Result<bool, String> {
        if self.agents[agent].current.is_none() {
            let Some((command, tag)) = self.agents[agent].commands.pop_front() else {
                return Ok(false);
            };
            let ops = if agent == STORE {
                self.store(tag)
            } else {
                self.queues[COMMANDS[agent]].held -= 1;
                self.ops(command, tag)
            };
            self.agents[agent].current = Some((command, ops));
        }
        let Some((command, ops)) = &self.agents[agent].current else {
            return Ok(false);
        };
        let command = *command;
        let Some(&op) = ops.front() else {
            self.agents[agent].current = None;
            return Ok(true);
        };
        let next = match op {
            Op::Take(queue, count, tag) => match self.take(agent, queue, count, tag)? {
                0 => None,
                taken if taken == count => Some(None),
                taken => Some(Some(Op::Take(queue, count - taken, tag))),
            },
            Op::Give(queue, count, tag, address) => {
                match self.give(agent, queue, count, tag, address) {
                    0 => None,
                    given if given == count => Some(None),
                    given => Some(Some(Op::Give(queue, count - given, tag, address))),
                }
            }
            Op::Read(memory, first, count, tag, tokens) => {
                self.read(agent, memory, first..first + count, tag, tokens)?;
                Some(None)
            }
            Op::Write(memory, first, count, tag, tokens) => {
                self.write(agent, memory, first..first + count, tag, tokens)?;
                Some(None)
            }
            Op::Parameters(rows) => {
                self.agents[agent].rows = self.parameters(self.agents[agent].address, rows);
                Some(None)
            }
            Op::Store(rows, tile, tokens, tag) => {
                self.store_rows(&rows, tile, tokens as u32, tag)?;
                Some(None)
            }
            Op::Unit(count, tag) => {
                let Some(front) = self.queues[MAXIMA].batches.front().copied() else {
                    return Ok(false);
                };
                let [tokens, keys, ..] = tag.sizes;
                let unit = front.tag;
                if (unit.frame, unit.phase, unit.sizes[0], unit.sizes[1])
                    != (tag.frame, tag.phase, tokens, keys)
                {
                    return Err(format!("{command:?} meets {unit:?}"));
                }
                let taken = self.take(agent, MAXIMA, count, unit)?;
                if taken == count {
                    self.unit(command, unit);
                    return Ok(true);
                }
                (taken > 0).then_some(Some(Op::Unit(count - taken, tag)))
            }
        };
        let Some(rest) = next else { return Ok(false) };
        if let Some((_, ops)) = &mut self.agents[agent].current {
            ops.pop_front();
            if let Some(rest) = rest {
                ops.push_front(rest);
            }
        }
        Ok(true)
    }

    /// Softmax, once it knows of what unit the maxima are.
    fn unit(&mut self, command: Command, unit: Tag) {
        let Command::Softmax(c) = command else { return };
        let scores = unit.of("scores", unit.sizes);
        let probabilities = unit.of("probabilities", unit.sizes);
        self.agents[SOFTMAX].current = Some((
            command,
            VecDeque::from([
                Op::Read(Memory::Score(c.parity), 0, 1, scores, c.tokens),
                Op::Write(Memory::Probability(c.parity), 0, 1, probabilities, c.tokens),
                Op::Give(SCALES, c.tokens as usize, unit.of("scales", unit.sizes), 0),
                Op::Give(SOFTMAX_TO_ARRAY, 1, probabilities, 0),
            ]),
        ));
    }

    /// Takes up to `count` items that must be what the tag says.
    fn take(&mut self, agent: usize, at: usize, count: usize, tag: Tag) -> Result<usize, String> {
        let queue = &mut self.queues[at];
        let mut taken = 0;
        while taken < count {
            let Some(front) = queue.batches.front_mut() else {
                break;
            };
            if front.tag != tag {
                return Err(format!(
                    "{} takes {tag:?} from {} and finds {:?}",
                    NAMES[agent], QUEUES[at].name, front.tag
                ));
            }
            let some = front.count.min(count - taken);
            front.count -= some;
            taken += some;
            queue.held -= some;
            let clock = front.clock;
            self.agents[agent].address = front.address;
            if front.count == 0 {
                queue.batches.pop_front();
            }
            if queue.orders {
                for (mine, theirs) in self.agents[agent].clock.iter_mut().zip(clock) {
                    *mine = (*mine).max(theirs);
                }
            }
        }
        Ok(taken)
    }

    fn parameters(&self, address: u32, rows: usize) -> Vec<(u8, u16)> {
        let bytes = &self.program.arena[address as usize * self.shape.beat..];
        (bytes.chunks_exact(ROW_BYTES).take(rows))
            .map(|row| (row[7], u16::from_le_bytes([row[8], row[9]])))
            .collect()
    }

    /// Gives as many items as there is room for.
    fn give(&mut self, agent: usize, at: usize, count: usize, tag: Tag, address: u32) -> usize {
        let queue = &mut self.queues[at];
        let some = count.min(queue.depth - queue.held);
        if some == 0 {
            return 0;
        }
        queue.held += some;
        queue.most = queue.most.max(queue.held);
        let clock = &mut self.agents[agent].clock;
        queue.batches.push_back(Batch {
            count: some,
            tag,
            clock: *clock,
            address,
        });
        clock[agent] += 1;
        some
    }

    fn cells(&mut self, memory: Memory, range: &std::ops::Range<usize>) -> &mut [Cell] {
        let cells = &mut self.cells[memory.index()];
        if cells.len() < range.end {
            cells.resize(range.end, Cell::default());
        }
        &mut cells[range.clone()]
    }

    fn read(
        &mut self,
        agent: usize,
        memory: Memory,
        range: std::ops::Range<usize>,
        tag: Tag,
        tokens: u32,
    ) -> Result<(), String> {
        let clock = self.agents[agent].clock;
        for (at, cell) in range.clone().zip(self.cells(memory, &range)) {
            if cell.tag != tag || cell.tokens < tokens {
                return Err(format!(
                    "{} reads {tag:?} of {tokens} tokens from {memory:?}, cell {at}, and finds {:?} of {}",
                    NAMES[agent], cell.tag, cell.tokens
                ));
            }
            if cell.written > clock[cell.writer] {
                return Err(format!(
                    "race: {} reads {memory:?}, cell {at}, without knowing that {} has written it",
                    NAMES[agent], NAMES[cell.writer]
                ));
            }
            cell.read[agent] = clock[agent];
        }
        Ok(())
    }

    fn write(
        &mut self,
        agent: usize,
        memory: Memory,
        range: std::ops::Range<usize>,
        tag: Tag,
        tokens: u32,
    ) -> Result<(), String> {
        let clock = self.agents[agent].clock;
        for (at, cell) in range.clone().zip(self.cells(memory, &range)) {
            let before = (0..AGENTS).find(|&reader| cell.read[reader] > clock[reader]);
            let before = before.or((cell.written > clock[cell.writer]).then_some(cell.writer));
            if let Some(other) = before {
                return Err(format!(
                    "race: {} writes {memory:?}, cell {at}, without knowing that {} is done with it",
                    NAMES[agent], NAMES[other]
                ));
            }
            *cell = Cell {
                tag,
                tokens,
                writer: agent,
                written: clock[agent],
                read: cell.read,
            };
        }
        Ok(())
    }

    /// The drain stores a tile of tokens of the rows whose parameters it took last.
    fn store_rows(
        &mut self,
        c: &RowsCommand,
        tile: usize,
        tokens: u32,
        tag: Tag,
    ) -> Result<(), String> {
        let rows = self.agents[DRAIN].rows.clone();
        let buffers = self.program.hardware.configuration().buffers;
        let (stride, s) = (c.stride as usize, self.shape);
        let last = c.tokens as usize - 1;
        for (destination, column) in rows {
            let destination = Destination::of_code(destination.into())
                .ok_or("a row has a destination that does not exist")?;
            let column = column as usize;
            let cell = tile * stride + column;
            let within = |words: u64, address: usize| {
                ensure(
                    (address as u64) < words,
                    "a row is stored beyond its memory",
                )
            };
            let layout = |what, layout: u32| tag.of(what, [layout, 0, 0, 0, 0, 0]);
            let expected = match c.kind {
                Kind::Residual => destination == Destination::Residual,
                Kind::Logits => destination == Destination::Logit,
                Kind::Codes if c.table => destination == Destination::Hidden,
                Kind::Codes => destination <= Destination::Value,
            };
            ensure(expected, "a row's destination does not go with its command")?;
            if c.kind != Kind::Logits {
                ensure(column < stride, "a row's column is beyond the stride")?;
            }
            let (memory, cell, tag) = match destination {
                Destination::Query => {
                    within(buffers.query, cell)?;
                    (Memory::Query, cell, layout("queries", c.stride))
                }
                Destination::Key => {
                    within(buffers.key, s.key(last, column, stride).1)?;
                    (Memory::Key, cell, layout("keys", c.stride))
                }
                Destination::Value => {
                    within(buffers.value, s.value(last, column, c.tokens as usize).1)?;
                    ensure(c.reciprocal > 0, "the reciprocal is missing")?;
                    self.write(
                        DRAIN,
                        Memory::Mean,
                        column..column + 1,
                        layout("means", c.tokens),
                        c.tokens,
                    )?;
                    let cell = self.value_cell(column, tile, c.tokens as usize);
                    (Memory::Value, cell, layout("values", c.tokens))
                }
                Destination::Hidden => {
                    within(buffers.hidden, cell)?;
                    (Memory::Hidden, cell, layout("hidden", c.stride))
                }
                Destination::Residual => {
                    within(buffers.residual, cell)?;
                    let memory = Memory::Residual(c.frame);
                    let new = layout("residual", c.stride);
                    let old = if tag.phase == 0 {
                        layout("filled", c.stride)
                    } else {
                        new.before()
                    };
                    self.read(DRAIN, memory, cell..cell + 1, old, tokens)?;
                    (memory, cell, new)
                }
                Destination::Logit => continue,
            };
            self.write(DRAIN, memory, cell..cell + 1, tag, tokens)?;
        }
        Ok(())
    }

    fn store(&self, tag: Tag) -> VecDeque<Op> {
        VecDeque::from([
            Op::Take(LOGITS, self.program.classes(), tag.of("logits", [0; 6])),
            Op::Take(CHECKS, 1, tag.of("check", [0; 6])),
        ])
    }

    /// A command's steps.
    fn ops(&self, command: Command, tag: Tag) -> VecDeque<Op> {
        let s = self.shape;
        let ops = match command {
            Command::Load(c) => self.load(&c, tag),
            Command::LoadEnd(_) => vec![Op::Give(CHECKS, 1, tag.of("check", [0; 6]), 0)],
            Command::Gemm(c) => self.gemm(&c, tag),
            Command::Scores(c) => self.scores(&c, tag),
            Command::Context(c) => self.context(&c, tag),
            Command::Rows(c) => self.rows(&c, tag),
            Command::Attend(c) => self.attend(&c, tag),
            Command::Fill(c) => {
                let (words, embed) = (c.words as usize, self.program.sizes.embed as u32);
                let filled = tag.of("filled", [embed, 0, 0, 0, 0, 0]);
                let tokens = s.tokens as u32;
                vec![
                    transfer(ROWS, tag, Target::Residual, words * s.beats(2 * s.tokens)),
                    Op::Write(Memory::Residual(c.frame), 0, words, filled, tokens),
                ]
            }
            Command::Table(_) => vec![
                transfer(ROWS, tag, Target::Table, s.beats(256)),
                Op::Write(Memory::Table, 0, 1, tag.of("table", [0; 6]), 0),
            ],
            Command::LayerNorm(c) => self.layer_norm(&c, tag),
            Command::Softmax(c) => {
                let unit = tag.of("softmax", [c.tokens, c.keys, 0, 0, 0, 0]);
                vec![Op::Unit(self.exponential_groups, unit)]
            }
        };
        ops.into()
    }

    fn load(&self, c: &Load, tag: Tag) -> Vec<Op> {
        let mut ops = Vec::new();
        if c.wait_array {
            ops.push(Op::Take(ARRAY_TO_LOAD, 1, FREE));
        }
        let (s, beats) = (self.shape, c.beats as usize);
        let to = match c.target {
            Target::Weights => WEIGHTS,
            Target::Gains => GAINS,
            Target::Patches => {
                let words = beats / s.beats(s.tokens);
                let patches = tag.of("patches", [0; 6]);
                ops.push(Op::Write(Memory::Input, 0, words, patches, s.tokens as u32));
                if c.post_array {
                    ops.push(Op::Give(LOAD_TO_ARRAY, 1, patches, 0));
                }
                return ops;
            }
            _ => ROWS,
        };
        ops.push(Op::Give(
            to,
            beats,
            transferred(tag, c.target, beats),
            c.address,
        ));
        if c.post_array {
            ops.push(Op::Give(LOAD_TO_ARRAY, 1, tag.of("beats", [0; 6]), 0));
        }
        ops
    }

    fn gemm(&self, c: &Gemm, tag: Tag) -> Vec<Op> {
        let (s, columns) = (self.shape, c.columns as usize);
        let mut ops = Vec::new();
        if c.wait_load {
            ops.push(Op::Take(LOAD_TO_ARRAY, 1, tag.of("patches", [0; 6])));
        }
        wait_drain(&mut ops, c.wait_drain, tag);
        let layout = [c.columns, 0, 0, 0, 0, 0];
        let (memory, expected) = match c.source {
            Source::Input => (Memory::Input, tag.of("patches", [0; 6])),
            Source::Normed => (Memory::Normed(c.frame), tag.before().of("normed", layout)),
            Source::Query => (Memory::Query, tag.of("context", layout)),
            _ => (Memory::Hidden, tag.of("hidden", layout)),
        };
        let row_tiles = s.row_tiles(c.rows4 as usize, c.rows8 as usize);
        for (row_tile, rows) in row_tiles.into_iter().enumerate() {
            ops.push(transfer(
                WEIGHTS,
                tag,
                Target::Weights,
                s.weight_beats(columns),
            ));
            for (tile, tokens) in s.token_tiles(c.tokens as usize).enumerate() {
                if row_tile == 0 && c.wait_norm {
                    let normed = tag.before().of("normed", [0; 6]);
                    ops.push(Op::Take(NORM_TO_ARRAY, 1, normed));
                }
                if row_tile == 0 {
                    wait_drain(&mut ops, c.wait_drain_tiles.into(), tag);
                }
                ops.push(Op::Read(
                    memory,
                    tile * columns,
                    columns,
                    expected,
                    tokens as u32,
                ));
                let count = rows.rows() * s.groups(tokens);
                ops.push(Op::Give(SUMS, count, sums(tag, rows, tile, tokens), 0));
            }
        }
        if c.post_load {
            ops.push(Op::Give(ARRAY_TO_LOAD, 1, FREE, 0));
        }
        ops
    }

    fn scores(&self, c: &Scores, tag: Tag) -> Vec<Op> {
        let mut ops = Vec::new();
        wait_drain(&mut ops, c.wait_drain, tag);
        let (stride, base, columns) = (c.stride as usize, c.base as usize, c.columns as usize);
        let layout = [c.stride, 0, 0, 0, 0, 0];
        let first = c.tile as usize * stride + base;
        let queries = tag.of("queries", layout);
        ops.push(Op::Read(Memory::Query, first, columns, queries, c.tokens));
        for (tile, tokens) in self.shape.token_tiles(c.keys as usize).enumerate() {
            let (first, keys) = (tile * stride + base, tag.of("keys", layout));
            ops.push(Op::Read(Memory::Key, first, columns, keys, tokens as u32));
        }
        let unit = [c.tokens, c.keys, c.tile, c.base, c.columns, 0];
        let scores = tag.of("scores", unit);
        ops.push(Op::Write(Memory::Score(c.parity), 0, 1, scores, c.tokens));
        let maxima = tag.of("maxima", unit);
        ops.push(Op::Give(MAXIMA, self.exponential_groups, maxima, 0));
        ops
    }

    fn context(&self, c: &Context, tag: Tag) -> Vec<Op> {
        let mut ops = Vec::new();
        wait_drain(&mut ops, c.wait_drain, tag);
        let unit = [c.tokens, c.keys, c.tile, c.base, c.rows, 0];
        let probabilities = tag.of("probabilities", unit);
        ops.push(Op::Take(SOFTMAX_TO_ARRAY, 1, probabilities));
        ops.push(Op::Read(
            Memory::Probability(c.parity),
            0,
            1,
            probabilities,
            c.tokens,
        ));
        let values = tag.of("values", [c.keys, 0, 0, 0, 0, 0]);
        let tiles = self.shape.token_tiles(c.keys as usize);
        for column in c.base..c.base + c.rows {
            for (tile, tokens) in tiles.clone().enumerate() {
                let cell = self.value_cell(column as usize, tile, c.keys as usize);
                ops.push(Op::Read(Memory::Value, cell, 1, values, tokens as u32));
            }
        }
        let sums = tag.of("context", [c.tokens, c.tile, c.base, c.rows, 0, 0]);
        let count = c.rows as usize * self.shape.groups(c.tokens as usize);
        ops.push(Op::Give(SUMS, count, sums, 0));
        ops
    }

    /// A column of values of a tile of tokens: `Context` does not know the stride.
    fn value_cell(&self, column: usize, tile: usize, keys: usize) -> usize {
        column * keys.div_ceil(self.shape.tokens) + tile
    }

    fn rows(&self, c: &RowsCommand, tag: Tag) -> Vec<Op> {
        let s = self.shape;
        let mut ops = Vec::new();
        if c.table {
            ops.push(Op::Read(Memory::Table, 0, 1, tag.of("table", [0; 6]), 0));
        }
        let row_tiles = s.row_tiles(c.rows4 as usize, c.rows8 as usize);
        let last = row_tiles.len() - 1;
        for (row_tile, rows) in row_tiles.into_iter().enumerate() {
            ops.push(transfer(ROWS, tag, Target::Rows, s.row_beats(rows.rows())));
            ops.push(Op::Parameters(rows.rows()));
            for (tile, tokens) in s.token_tiles(c.tokens as usize).enumerate() {
                let count = rows.rows() * s.groups(tokens);
                ops.push(Op::Take(SUMS, count, sums(tag, rows, tile, tokens)));
                ops.push(Op::Store(*c, tile, tokens, tag));
                if c.kind == Kind::Logits {
                    ops.push(Op::Give(
                        LOGITS,
                        rows.rows() * tokens,
                        tag.of("logits", [0; 6]),
                        0,
                    ));
                }
                if row_tile == last && c.moments {
                    let moments = moments(tag, tile, tokens);
                    ops.push(Op::Give(MOMENTS, s.groups(tokens), moments, 0));
                }
                if row_tile == last && c.post_tiles {
                    ops.push(Op::Give(DRAIN_TO_ARRAY, 1, tag.of("stored", [0; 6]), 0));
                }
            }
        }
        if c.post {
            ops.push(Op::Give(DRAIN_TO_ARRAY, 1, tag.of("stored", [0; 6]), 0));
        }
        ops
    }

    fn attend(&self, c: &Attend, tag: Tag) -> Vec<Op> {
        let keys = self.program.sizes.tokens as u32;
        let (first, rows) = (
            c.tile as usize * c.stride as usize + c.base as usize,
            c.rows as usize,
        );
        let scales = tag.of("scales", [c.tokens, keys, c.tile, c.base, c.rows, 0]);
        let sums = tag.of("context", [c.tokens, c.tile, c.base, c.rows, 0, 0]);
        let means = tag.of("means", [keys, 0, 0, 0, 0, 0]);
        let context = tag.of("context", [c.stride, 0, 0, 0, 0, 0]);
        let mut ops = vec![
            Op::Take(SCALES, c.tokens as usize, scales),
            Op::Take(SUMS, rows * self.shape.groups(c.tokens as usize), sums),
            Op::Read(Memory::Mean, c.base as usize, rows, means, keys),
            Op::Write(Memory::Query, first, rows, context, c.tokens),
        ];
        if c.post {
            ops.push(Op::Give(DRAIN_TO_ARRAY, 1, tag.of("stored", [0; 6]), 0));
        }
        ops
    }

    fn layer_norm(&self, c: &LayerNorm, tag: Tag) -> Vec<Op> {
        let (s, embed) = (self.shape, c.embed as usize);
        let mut ops = vec![transfer(GAINS, tag, Target::Gains, s.beats(4 * embed))];
        let layout = [c.embed, 0, 0, 0, 0, 0];
        let give = |ops: &mut Vec<Op>, tile: usize, tokens: usize| {
            let normed = tag.of("normed", layout);
            ops.push(Op::Write(
                Memory::Normed(c.frame),
                tile * embed,
                embed,
                normed,
                tokens as u32,
            ));
            ops.push(Op::Give(NORM_TO_ARRAY, 1, tag.of("normed", [0; 6]), 0));
        };
        for (tile, tokens) in s.token_tiles(c.tokens as usize).enumerate() {
            ops.push(Op::Take(
                MOMENTS,
                s.groups(tokens),
                moments(tag, tile, tokens),
            ));
            let residual = tag.of("residual", layout);
            ops.push(Op::Read(
                Memory::Residual(c.frame),
                tile * embed,
                embed,
                residual,
                tokens as u32,
            ));
            if c.pool == Pooling::None {
                give(&mut ops, tile, tokens);
            }
        }
        if c.pool != Pooling::None {
            give(&mut ops, 0, 1);
        }
        ops
    }
}

/// The token that `input` may be written.
const FREE: Tag = Tag {
    frame: 0,
    phase: 0,
    what: "input is free",
    sizes: [0; 6],
};

/// What a transfer's beats are.
fn transferred(tag: Tag, target: Target, beats: usize) -> Tag {
    tag.of("transfer", [target as u32, beats as u32, 0, 0, 0, 0])
}

/// Takes a transfer.
fn transfer(queue: usize, tag: Tag, target: Target, beats: usize) -> Op {
    Op::Take(queue, beats, transferred(tag, target, beats))
}

fn sums(tag: Tag, rows: RowTile, tile: usize, tokens: usize) -> Tag {
    let sizes = [rows.rows4, rows.rows8, tile, tokens, 0, 0];
    tag.of("sums", sizes.map(|size| size as u32))
}

fn moments(tag: Tag, tile: usize, tokens: usize) -> Tag {
    tag.of("moments", [tile as u32, tokens as u32, 0, 0, 0, 0])
}

fn wait_drain(ops: &mut Vec<Op>, count: u32, tag: Tag) {
    if count > 0 {
        ops.push(Op::Take(
            DRAIN_TO_ARRAY,
            count as usize,
            tag.of("stored", [0; 6]),
        ));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::isa::COMMAND_WORDS;
    use crate::testing::{design, golden, hardware, shape, Design, Random, GOLDEN};

    const SHAPES: [(&str, [u64; 7]); 4] = [
        ("zcu102", [5, 3, 2, 2, 2, 1, 2]),
        ("zcu102", [5, 3, 2, 2, 2, 1, 1]),
        ("pynq-z2", [7, 4, 3, 3, 5, 2, 2]),
        ("zcu102", [32, 128, 32, 8, 8, 4, 2]),
    ];

    #[test]
    fn golden_subnets_verify() {
        for name in GOLDEN {
            let subnet = golden(name);
            for (board, shape) in SHAPES {
                let program = Program::compile(&subnet, &hardware(&subnet, board, shape)).unwrap();
                let report = verify(&program).unwrap();
                assert!(report.queues.iter().all(|(_, most, depth)| most <= depth));
                assert_eq!(report.commands.len(), if shape[6] == 1 { 2 } else { 6 });
            }
        }
    }

    #[test]
    fn the_same_subnet_gives_the_same_program() {
        let subnet = golden("mean");
        for (board, shape) in SHAPES {
            let hardware = hardware(&subnet, board, shape);
            let [a, b] = [0, 1].map(|_| Program::compile(&subnet, &hardware).unwrap());
            assert_eq!(a, b);
        }
    }

    /// Numbers that do not matter for order and places.
    const NUMBERS: [&str; 7] = [
        "epsilon",
        "frac",
        "mult",
        "out_mult",
        "out_shift",
        "cap",
        "zero_point",
    ];

    /// Applies a change to every list, as a compiler's mistake would: lists stay interleavings of each other.
    fn change_alike(
        program: &mut Program,
        which: Command,
        slot: u8,
        phase: u16,
        to: &[Command],
    ) -> usize {
        let mut changed = 0;
        for list in &mut program.lists {
            let mut at = 0;
            while at < list.commands.len() {
                let place = list.places[at];
                if list.commands[at] == which && (place.slot, place.phase) == (slot, phase) {
                    list.commands.splice(at..=at, to.iter().copied());
                    list.places.splice(at..=at, to.iter().map(|_| place));
                    changed += 1;
                    at += to.len();
                } else {
                    at += 1;
                }
            }
        }
        changed
    }

    /// Commands that differ from one in one field.
    fn altered(command: Command) -> Vec<Command> {
        let operation = command.operation();
        let words = command.encode().unwrap();
        let mut all = Vec::new();
        for (field, position) in operation.fields() {
            if NUMBERS.contains(&field.name) {
                continue;
            }
            // Of the field: flip its lowest bit.
            let mut other: [u32; COMMAND_WORDS] = words;
            other[position.word] ^= 1 << position.lsb;
            all.extend(Command::decode(&other));
        }
        all
    }

    fn mutants(program: &Program) -> Vec<(String, Program)> {
        let mut all = Vec::new();
        let list = program.lists.last().unwrap();
        let mut seen = Vec::new();
        for (&command, place) in list.commands.iter().zip(&list.places) {
            if seen.contains(&(command, place.slot, place.phase)) {
                continue;
            }
            seen.push((command, place.slot, place.phase));
            let mut mutant = |what: &str, to: &[Command]| {
                let mut changed = program.clone();
                assert!(change_alike(&mut changed, command, place.slot, place.phase, to) > 0);
                all.push((format!("{what} {command:?} in {place:?}: {to:?}"), changed));
            };
            mutant("drop", &[]);
            mutant("duplicate", &[command, command]);
            for other in altered(command) {
                mutant("alter", &[other]);
            }
        }
        all
    }

    #[test]
    fn every_dropped_duplicated_or_altered_command_is_noticed() {
        let subnet = golden("overlap");
        for (board, shape) in SHAPES {
            let program = Program::compile(&subnet, &hardware(&subnet, board, shape)).unwrap();
            let all = mutants(&program);
            assert!(all.len() > 300, "{}", all.len());
            let missed: Vec<_> = all
                .iter()
                .filter(|(_, mutant)| verify(mutant).is_ok())
                .map(|(what, _)| what)
                .collect();
            assert!(
                missed.is_empty(),
                "{} of {}: {missed:#?}",
                missed.len(),
                all.len()
            );
        }
    }

    #[test]
    fn two_commands_of_a_unit_that_change_places_are_noticed() {
        let subnet = golden("token");
        let program = Program::compile(&subnet, &hardware(&subnet, "zcu102", SHAPES[0].1)).unwrap();
        let list = program
            .lists
            .iter()
            .position(|l| l.segment == Segment::Step(0))
            .unwrap();
        let mut tried = 0;
        for unit in Unit::ALL {
            let commands = &program.lists[list].commands;
            let of_unit: Vec<usize> = (0..commands.len())
                .filter(|&i| commands[i].unit() == unit)
                .collect();
            for pair in of_unit.windows(2) {
                let mut mutant = program.clone();
                mutant.lists[list].commands.swap(pair[0], pair[1]);
                mutant.lists[list].places.swap(pair[0], pair[1]);
                assert!(
                    verify(&mutant).is_err(),
                    "{:?} and {:?}",
                    commands[pair[0]],
                    commands[pair[1]]
                );
                tried += 1;
            }
        }
        assert!(tried > 100);
    }

    #[test]
    fn a_matrix_of_more_transfers_than_the_load_queue_holds_needs_its_commands_first() {
        let subnet = Design {
            side: 2,
            kernel: 1,
            channels: 1,
            embed: 6,
            prefix: 1,
            blocks: vec![(1, 3, 5)],
            pool: "token",
            classes: 300,
            eight_bit: 8,
            seed: 1,
        }
        .subnet();
        let hardware = hardware(&subnet, "zcu102", [3, 2, 2, 1, 1, 1, 2]);
        let program = Program::compile(&subnet, &hardware).unwrap();
        verify(&program).unwrap();
        let mut late = program.clone();
        for list in &mut late.lists {
            let rows = |c: &Command| matches!(c, Command::Rows(c) if c.kind == Kind::Logits);
            let Some(at) = list.commands.iter().position(rows) else {
                continue;
            };
            let end = list.commands[at..]
                .iter()
                .position(|c| matches!(c, Command::LoadEnd(_)))
                .unwrap();
            // RowsCommand, then the transfers, becomes the transfers, then rows.
            list.commands[at..at + end].rotate_left(1);
            list.places[at..at + end].rotate_left(1);
        }
        let error = verify(&late).unwrap_err().to_string();
        assert!(error.contains("deadlock"), "{error}");
    }

    #[test]
    fn a_changed_arena_is_noticed() {
        let subnet = golden("token");
        let program = Program::compile(&subnet, &hardware(&subnet, "zcu102", SHAPES[0].1)).unwrap();
        let mut random = Random::new(5);
        let beat = program.beat_bytes();
        for _ in 0..50 {
            let at = random.within(0, program.arena.len() as i64 - 1) as usize;
            let mut mutant = program.clone();
            mutant.arena[at] ^= 4;
            // Only the rest of a check's beat says nothing.
            let padding = at % beat >= 4
                && program.arena[at - at % beat + 4..][..beat - 4]
                    .iter()
                    .all(|&b| b == 0);
            assert!(verify(&mutant).is_err() || padding, "byte {at}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_program_verifies(design in design(), (board, shape) in shape()) {
            let subnet = design.subnet();
            let program = Program::compile(&subnet, &hardware(&subnet, board, shape)).unwrap();
            verify(&program).unwrap();
        }

        #[test]
        fn any_mutant_is_noticed(design in design(), (board, shape) in shape(), pick in any::<prop::sample::Index>()) {
            let subnet = design.subnet();
            let program = Program::compile(&subnet, &hardware(&subnet, board, shape)).unwrap();
            let all = mutants(&program);
            let (what, mutant) = &all[pick.index(all.len())];
            prop_assert!(verify(mutant).is_err(), "{}", what);
        }
    }
}
