//! Runs segments abstractly: queues hold counted items with tags, memories hold cells with tags.

use std::collections::VecDeque;
use std::fmt::Write;

use quasar_core::error::Result;
use quasar_hardware::configuration::Buffers;

use super::items::{Batch, Cell, Clock, Queue, Tag, AGENTS, COMMANDS, DRAIN, FREE, NAMES, STORE};
use super::{ensure, wrong};
use crate::isa::{
    Command, Destination, Kind, LoadEnd, RowParameters, RowsCommand, QUEUES, ROW_BYTES,
};
use crate::program::{Program, Segment};
use crate::shape::Shape;
use crate::unit::{
    frame_end, results, steps, Contents, Head, Memory, QueueName, Range, Step, Steps,
};

/// A command in progress.
struct Running {
    command: Command,
    /// Frame and phase.
    tag: Tag,
    steps: Steps,
    /// The items that the present step has yet to move.
    moving: Option<Moving>,
}

/// Items on their way to or from a queue.
#[derive(Clone, Copy, Debug)]
struct Moving {
    queue: QueueName,
    gives: bool,
    left: usize,
    tag: Tag,
    /// First beat of the transfer that is given.
    address: u32,
}

/// A unit, or the store.
struct Agent {
    running: Option<Running>,
    commands: VecDeque<(Command, Tag)>,
    clock: Clock,
    /// First beat of the row parameters taken last, and their rows.
    rows: (u32, usize),
    /// Place of the attention tile whose maxima the present command takes.
    place: Option<[u32; 3]>,
}

/// The state of the abstract run.
pub(super) struct Machine<'a> {
    program: &'a Program,
    shape: Shape,
    pub(super) queues: Vec<Queue>,
    agents: Vec<Agent>,
    cells: Vec<Vec<Cell>>,
    /// Number of frames that have begun.
    begun: u32,
    /// Number of the frame in each slot.
    frame_in_slot: [u32; 2],
}

impl<'a> Machine<'a> {
    pub(super) fn new(program: &'a Program) -> Self {
        let queues = QUEUES.iter().map(|declared| Queue {
            depth: declared.depth_in(&program.hardware),
            held: declared.initial,
            most: declared.initial,
            batches: (declared.initial > 0)
                .then_some(Batch {
                    count: declared.initial,
                    tag: FREE,
                    clock: [0; AGENTS],
                    address: 0,
                })
                .into_iter()
                .collect(),
        });
        Self {
            program,
            shape: Shape::of(&program.hardware),
            queues: queues.collect(),
            agents: (0..AGENTS)
                .map(|agent| Agent {
                    running: None,
                    commands: VecDeque::new(),
                    clock: std::array::from_fn(|i| u32::from(i == agent)),
                    rows: (0, 0),
                    place: None,
                })
                .collect(),
            cells: vec![Vec::new(); Memory::COUNT],
            begun: 0,
            frame_in_slot: [0; 2],
        }
    }

    /// Returns the number of frames in flight.
    pub(super) const fn frames_in_flight(&self) -> usize {
        self.shape.frames
    }

    /// Returns the items in each queue.
    pub(super) fn held(&self) -> Vec<usize> {
        self.queues.iter().map(|queue| queue.held).collect()
    }

    /// Runs a segment until nothing moves.
    pub(super) fn run(&mut self, segment: Segment) -> Result<()> {
        let begins = match segment {
            Segment::Start(slot) => Some(slot),
            Segment::Step(slot) => Some(1 - slot),
            Segment::End(_) => None,
        };
        if let Some(slot) = begins {
            self.begun += 1;
            self.frame_in_slot[slot as usize] = self.begun;
        }
        // The host starts the store for each frame that ends. `LoadEnd` only stands for the store's
        // command, which has no form of its own.
        if let Segment::Step(slot) | Segment::End(slot) = segment {
            let tag = Tag {
                frame: self.frame_in_slot[slot as usize],
                phase: self.program.sizes.phases as u16 - 1,
                ..Tag::default()
            };
            let end = LoadEnd {
                frame: slot.into(),
                ..LoadEnd::default()
            };
            self.agents[STORE].commands.push_back((end.into(), tag));
        }
        let program = self.program;
        let places = program.places(segment);
        let mut list: VecDeque<_> = (program.commands(segment).iter().zip(places))
            .map(|(&command, place)| {
                let tag = Tag {
                    frame: self.frame_in_slot[place.slot as usize],
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
        let busy = |agent: &Agent| agent.running.is_some() || !agent.commands.is_empty();
        if !list.is_empty() || self.agents.iter().any(busy) {
            return Err(fail(self, "deadlock: nothing can proceed".into()));
        }
        Ok(())
    }

    /// Describes the state of all agents and queues.
    fn dump(&self) -> String {
        let mut text = String::new();
        for (agent, name) in self.agents.iter().zip(NAMES) {
            if let Some(running) = &agent.running {
                let Running {
                    command, moving, ..
                } = running;
                let _ = writeln!(text, "  {name}: {command:?} at {moving:?}");
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

    /// Begins a command, does a step of it or ends it. Returns false if the agent must wait.
    fn advance(&mut self, agent: usize) -> Result<bool, String> {
        let Some(running) = &mut self.agents[agent].running else {
            return Ok(self.begin(agent));
        };
        let (command, tag) = (running.command, running.tag);
        if let Some(moving) = running.moving {
            let moved = if moving.gives {
                self.give(agent, moving)
            } else {
                self.take(agent, moving)?
            };
            let left = moving.left - moved;
            if let Some(running) = &mut self.agents[agent].running {
                running.moving = (left > 0).then_some(Moving { left, ..moving });
            }
            return Ok(moved > 0);
        }
        let Some(step) = running.steps.next() else {
            self.agents[agent].running = None;
            return Ok(true);
        };
        let moving = self.step(agent, command, tag, step)?;
        if let Some(running) = &mut self.agents[agent].running {
            running.moving = moving;
        }
        Ok(true)
    }

    /// Begins the next command. Returns false if there is none.
    fn begin(&mut self, agent: usize) -> bool {
        let Some((command, tag)) = self.agents[agent].commands.pop_front() else {
            return false;
        };
        let steps = if agent == STORE {
            let heads = self.program.sizes.pool.heads().len();
            frame_end(self.program.logits(), heads)
        } else {
            self.queues[COMMANDS[agent]].held -= 1;
            steps(command, self.shape)
        };
        self.agents[agent].place = None;
        self.agents[agent].running = Some(Running {
            command,
            tag,
            steps,
            moving: None,
        });
        true
    }

    /// Accesses the memory that a step accesses, or returns the items that it moves.
    fn step(
        &mut self,
        agent: usize,
        command: Command,
        tag: Tag,
        step: Step,
    ) -> Result<Option<Moving>, String> {
        let moving = |gives, queue, left, tag, address| {
            Ok(Some(Moving {
                queue,
                gives,
                left,
                tag,
                address,
            }))
        };
        match step {
            Step::Take(queue, count, contents) => {
                let tag = self.tag(agent, tag, contents, true);
                return moving(false, queue, count, tag, 0);
            }
            Step::Give(queue, count, contents) => {
                let tag = self.tag(agent, tag, contents, false);
                return moving(true, queue, count, tag, 0);
            }
            Step::TakeHalf(half) => {
                self.agents[agent].rows.1 = half.words as usize;
                let tag = tag.of(half.contents());
                return moving(false, half.queue, half.beats as usize, tag, 0);
            }
            Step::Transfer(Some(queue)) => {
                if let Command::Load(c) = command {
                    let (target, beats) = (c.target, c.beats);
                    let tag = tag.of(Contents::Transfer { target, beats });
                    return moving(true, queue, beats as usize, tag, c.address);
                }
            }
            Step::Read(range) => {
                let tag = self.tag(agent, tag, range.contents, true);
                self.read(agent, range, tag)?;
            }
            Step::Write(range) => {
                let tag = self.tag(agent, tag, range.contents, false);
                self.write(agent, range, tag)?;
            }
            Step::Requantize { tile, tokens } => {
                if let Command::Rows(c) = command {
                    self.store_rows(&c, tile, tokens as u32, tag)?;
                }
            }
            Step::Transfer(None)
            | Step::FreeHalf(_)
            | Step::Turns { .. }
            | Step::Pass(_)
            | Step::Normalise { .. }
            | Step::Pool
            | Step::Exponentials { .. }
            | Step::EndLoop => {}
        }
        Ok(None)
    }

    /// Returns the tag of contents that a command reads (or takes) or writes (or gives).
    fn tag(&self, agent: usize, tag: Tag, contents: Contents, reads: bool) -> Tag {
        let place = self.agents[agent].place;
        let placed = |head: Head| Head {
            place: head.place.or(place),
            ..head
        };
        match contents {
            Contents::InputFree => FREE,
            Contents::Angles => Tag::default().of(contents),
            // The norm of a phase is for the next one.
            Contents::Normed if reads => tag.earlier(1).of(contents),
            // The head of token 1 comes a phase before that of token 0.
            Contents::Logits { later } => tag.earlier(later).of(Contents::Logits { later: 0 }),
            Contents::PatchesAt { address } => {
                let bands = self.program.input_transfers();
                let band = bands.iter().find(|(_, band)| band.address == address);
                let tile = band.map_or(u32::MAX, |(band, _)| band.tile as u32);
                tag.of(Contents::Patches { tile })
            }
            Contents::Maxima(head) => tag.of(Contents::Maxima(placed(head))),
            Contents::Scores(head) => tag.of(Contents::Scores(placed(head))),
            Contents::Probabilities(head) => tag.of(Contents::Probabilities(placed(head))),
            Contents::Scales(head) => tag.of(Contents::Scales(placed(head))),
            _ => tag.of(contents),
        }
    }

    /// Takes as many of the items as there are; they must have the tag. Returns their number.
    fn take(&mut self, agent: usize, moving: Moving) -> Result<usize, String> {
        let mut tag = moving.tag;
        let queue = &mut self.queues[moving.queue.index()];
        let agent_state = &mut self.agents[agent];
        let mut taken = 0;
        while taken < moving.left {
            let Some(front) = queue.batches.front_mut() else {
                break;
            };
            // Softmax works on the attention tile whose maxima come.
            if let (Contents::Maxima(head), Contents::Maxima(found)) =
                (&mut tag.contents, front.tag.contents)
            {
                head.place = head.place.or(found.place);
                agent_state.place = head.place;
            }
            if front.tag != tag {
                return Err(format!(
                    "{} takes {tag:?} from {} and finds {:?}",
                    NAMES[agent],
                    QUEUES[moving.queue.index()].name,
                    front.tag
                ));
            }
            let some = front.count.min(moving.left - taken);
            front.count -= some;
            taken += some;
            queue.held -= some;
            let clock = front.clock;
            if moving.queue == QueueName::Rows {
                agent_state.rows.0 = front.address;
            }
            if front.count == 0 {
                queue.batches.pop_front();
            }
            if moving.queue.orders() {
                for (mine, theirs) in agent_state.clock.iter_mut().zip(clock) {
                    *mine = (*mine).max(theirs);
                }
            }
        }
        Ok(taken)
    }

    /// Gives as many of the items as there is room for. Returns their number.
    fn give(&mut self, agent: usize, moving: Moving) -> usize {
        let queue = &mut self.queues[moving.queue.index()];
        let some = moving.left.min(queue.depth - queue.held);
        if some == 0 {
            return 0;
        }
        queue.held += some;
        queue.most = queue.most.max(queue.held);
        let clock = &mut self.agents[agent].clock;
        queue.batches.push_back(Batch {
            count: some,
            tag: moving.tag,
            clock: *clock,
            address: moving.address,
        });
        clock[agent] += 1;
        some
    }

    /// Returns a cell, which is empty if nothing has written it yet.
    fn cell(&mut self, memory: Memory, at: usize) -> &mut Cell {
        let cells = &mut self.cells[memory.index()];
        if cells.len() <= at {
            cells.resize(at + 1, Cell::default());
        }
        &mut cells[at]
    }

    /// Reads cells. Each must hold `tag` for the range's tokens or more, and be ordered after its
    /// write.
    fn read(&mut self, agent: usize, range: Range, tag: Tag) -> Result<(), String> {
        let clock = self.agents[agent].clock;
        let Range { memory, tokens, .. } = range;
        for at in range.cells() {
            let cell = self.cell(memory, at);
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

    /// Writes cells. Each write must be ordered after all earlier accesses to the cell.
    fn write(&mut self, agent: usize, range: Range, tag: Tag) -> Result<(), String> {
        let clock = self.agents[agent].clock;
        let Range { memory, tokens, .. } = range;
        for at in range.cells() {
            let cell = self.cell(memory, at);
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

    /// Stores a tile of tokens of the rows whose parameters the drain took last.
    fn store_rows(
        &mut self,
        c: &RowsCommand,
        tile: usize,
        tokens: u32,
        tag: Tag,
    ) -> Result<(), String> {
        let (first, rows) = self.agents[DRAIN].rows;
        let parameters = &self.program.arena[first as usize * self.shape.beat..];
        let rows: Vec<_> = (parameters.chunks_exact(ROW_BYTES).take(rows))
            .map(RowParameters::of)
            .collect();
        for row in &rows {
            self.store_row(c, *row, tile, tokens, tag)?;
        }
        // Rows of zeros alone follow no pair.
        for pair in rows.chunks(2).filter(|_| c.pairs > 0) {
            let zeros = pair[0].destination == Destination::Logit as u8;
            let follows = pair.len() == 2
                && pair[0].column % 2 == 0
                && (pair[0].destination, pair[0].column + 1)
                    == (pair[1].destination, pair[1].column);
            ensure(zeros && pair.len() == 1 || follows, "a pair is not whole")?;
        }
        Ok(())
    }

    fn store_row(
        &mut self,
        c: &RowsCommand,
        row: RowParameters,
        tile: usize,
        tokens: u32,
        tag: Tag,
    ) -> Result<(), String> {
        self.fits(c, &row)?;
        let Some(range) = results(c, &row, (tile, tokens as usize), self.shape) else {
            return Ok(());
        };
        let Range {
            memory, contents, ..
        } = range;
        let limit = match memory {
            Memory::Query => self.buffers().query,
            Memory::Hidden => self.buffers().hidden,
            Memory::Residual(_) => self.buffers().residual,
            // In words of C codes: `fits`.
            _ => u64::MAX,
        };
        ensure(
            (range.first as u64) < limit,
            "a row is stored beyond its memory",
        )?;
        if memory == Memory::Value {
            let (column, stride) = (usize::from(row.column), c.stride);
            let means = Contents::Means { stride };
            let mean = Range::new(Memory::Mean, column, 1, c.tokens, means);
            self.write(DRAIN, mean, tag.of(means))?;
        }
        if contents == Contents::Residual {
            let sizes = self.program.sizes;
            // The row of zeros behind the norm of the embedded patches has no moments.
            let refilled =
                sizes.embed_norm && tag.phase == 1 && c.moments || sizes.pools(tag.phase.into());
            let old = if tag.phase == 0 || refilled {
                tag.of(Contents::Filled)
            } else {
                tag.earlier(1).of(Contents::Residual)
            };
            self.read(DRAIN, range, old)?;
        }
        self.write(DRAIN, range, tag.of(contents))
    }

    /// Checks that a row's destination is its command's, and that keys and values have room.
    fn fits(&self, c: &RowsCommand, row: &RowParameters) -> Result<(), String> {
        let (s, column) = (self.shape, usize::from(row.column));
        let destination = Destination::of_code(row.destination.into())
            .ok_or("a row has a destination that does not exist")?;
        let rotates = c.pairs > 0 && destination != Destination::Logit;
        ensure(
            rotates == (self.program.sizes.pairs > 0 && destination <= Destination::Key),
            "queries and keys are rotated, and nothing else",
        )?;
        let (block, bank) = if rotates {
            let head = s.padded(2 * c.pairs as usize);
            (0, column % head / 2)
        } else {
            (column / s.value_banks, column % s.value_banks)
        };
        ensure(
            (usize::from(row.value_block), usize::from(row.value_bank)) == (block, bank),
            "a row's block and bank are not its column's",
        )?;
        let expected = match c.kind {
            Kind::Residual => destination == Destination::Residual,
            Kind::Logits => destination == Destination::Logit,
            Kind::Codes if c.activation => destination == Destination::Hidden,
            Kind::Codes if c.pairs > 0 && destination == Destination::Logit => return Ok(()),
            Kind::Codes => destination <= Destination::Value,
        };
        ensure(expected, "a row's destination does not go with its command")?;
        if c.kind == Kind::Logits {
            return Ok(());
        }
        let (stride, tokens) = (c.stride as usize, c.tokens as usize);
        ensure(column < stride, "a row's column is beyond the stride")?;
        let (codes, word) = match destination {
            Destination::Key => (self.buffers().key, s.key(tokens - 1, column, stride).word),
            Destination::Value => {
                ensure(c.reciprocal > 0, "the reciprocal is missing")?;
                let place = s.value(tokens - 1, column, tokens);
                (self.buffers().value, place.word)
            }
            _ => return Ok(()),
        };
        ensure(
            word < codes as usize / s.cascade,
            "a row is stored beyond its memory",
        )
    }

    fn buffers(&self) -> Buffers {
        self.program.hardware.configuration().buffers
    }
}
