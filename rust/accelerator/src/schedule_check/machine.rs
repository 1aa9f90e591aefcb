//! Runs segments abstractly: queues hold counted items with tags, memories hold cells with tags.

use std::collections::VecDeque;
use std::fmt::Write;

use quasar_core::error::Result;

use super::items::{
    Batch, Cell, Clock, Memory, Queue, Step, Tag, AGENTS, COMMANDS, FREE, MAXIMA, MEMORIES, NAMES,
    SCALES, SOFTMAX, SOFTMAX_TO_ARRAY, STORE,
};
use super::wrong;
use crate::isa::{Command, LoadEnd, RowParameters, QUEUES, ROW_BYTES};
use crate::program::{Program, Segment};
use crate::shape::Shape;

/// The outcome of a step.
enum Progress {
    /// Nothing: the agent waits.
    Blocked,
    /// A part; this step is left.
    Partly(Step),
    /// All.
    Done,
}

impl Progress {
    /// Returns the progress of a step that moved `moved` of `count` items.
    fn of(moved: usize, count: usize, rest: impl FnOnce(usize) -> Step) -> Self {
        match moved {
            0 => Self::Blocked,
            _ if moved == count => Self::Done,
            _ => Self::Partly(rest(count - moved)),
        }
    }
}

/// A unit, or the store.
pub(super) struct Agent {
    /// The command that the agent runs, and its steps that are left.
    pub(super) running: Option<(Command, VecDeque<Step>)>,
    pub(super) commands: VecDeque<(Command, Tag)>,
    pub(super) clock: Clock,
    /// First beat of the transfer taken last.
    pub(super) address: u32,
    /// The row parameters taken last.
    pub(super) rows: Vec<RowParameters>,
}

/// The state of the abstract run.
pub(super) struct Machine<'a> {
    pub(super) program: &'a Program,
    pub(super) shape: Shape,
    /// Groups of E tokens in a tile.
    pub(super) exponential_groups: usize,
    pub(super) queues: Vec<Queue>,
    pub(super) agents: Vec<Agent>,
    pub(super) cells: Vec<Vec<Cell>>,
    /// Number of frames that have begun.
    pub(super) begun: u32,
    /// Number of the frame in each slot.
    pub(super) frame_in_slot: [u32; 2],
}

impl<'a> Machine<'a> {
    pub(super) fn new(program: &'a Program) -> Self {
        let shape = Shape::of(&program.hardware);
        let c = program.hardware.configuration();
        let queues = QUEUES.iter().map(|declared| Queue {
            depth: declared.depth_in(&program.hardware),
            held: declared.initial,
            most: declared.initial,
            orders: matches!(declared.name, "sums" | "moments" | "maxima")
                || declared.name.contains("_to_"),
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
            shape,
            exponential_groups: shape.tokens.div_ceil(c.lanes.exponential as usize),
            queues: queues.collect(),
            agents: (0..AGENTS)
                .map(|agent| Agent {
                    running: None,
                    commands: VecDeque::new(),
                    clock: std::array::from_fn(|i| u32::from(i == agent)),
                    address: 0,
                    rows: Vec::new(),
                })
                .collect(),
            cells: vec![Vec::new(); MEMORIES],
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
    pub(super) fn dump(&self) -> String {
        let mut text = String::new();
        for (agent, name) in self.agents.iter().zip(NAMES) {
            if let Some((command, steps)) = &agent.running {
                let _ = writeln!(text, "  {name}: {command:?} at {:?}", steps.front());
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

    /// Does a step of an agent. Returns false if the agent must wait.
    pub(super) fn advance(&mut self, agent: usize) -> Result<bool, String> {
        if self.agents[agent].running.is_none() {
            let Some((command, tag)) = self.agents[agent].commands.pop_front() else {
                return Ok(false);
            };
            let steps = if agent == STORE {
                self.store(tag)
            } else {
                self.queues[COMMANDS[agent]].held -= 1;
                self.steps(command, tag)
            };
            self.agents[agent].running = Some((command, steps));
        }
        let Some((command, steps)) = &self.agents[agent].running else {
            return Ok(false);
        };
        let command = *command;
        let Some(&op) = steps.front() else {
            self.agents[agent].running = None;
            return Ok(true);
        };
        let progress = match op {
            Step::Take(queue, count, tag) => {
                let taken = self.take(agent, queue, count, tag)?;
                Progress::of(taken, count, |left| Step::Take(queue, left, tag))
            }
            Step::Give(queue, count, tag, address) => {
                let given = self.give(agent, queue, count, tag, address);
                Progress::of(given, count, |left| Step::Give(queue, left, tag, address))
            }
            Step::Read(memory, first, count, tag, tokens) => {
                self.read(agent, memory, first..first + count, tag, tokens)?;
                Progress::Done
            }
            Step::Write(memory, first, count, tag, tokens) => {
                self.write(agent, memory, first..first + count, tag, tokens)?;
                Progress::Done
            }
            Step::Parameters(rows) => {
                self.agents[agent].rows = self.parameters(self.agents[agent].address, rows);
                Progress::Done
            }
            Step::Store(rows, tile, tokens, tag) => {
                self.store_rows(&rows, tile, tokens as u32, tag)?;
                Progress::Done
            }
            Step::AttentionTile(count, tag) => {
                let Some(front) = self.queues[MAXIMA].batches.front().copied() else {
                    return Ok(false);
                };
                let [tokens, keys, ..] = tag.sizes;
                let found = front.tag;
                if (found.frame, found.phase, found.sizes[0], found.sizes[1])
                    != (tag.frame, tag.phase, tokens, keys)
                {
                    return Err(format!("{command:?} meets {found:?}"));
                }
                let taken = self.take(agent, MAXIMA, count, found)?;
                if taken == count {
                    self.plan_softmax(command, found);
                    return Ok(true);
                }
                Progress::of(taken, count, |left| Step::AttentionTile(left, tag))
            }
        };
        let Some((_, steps)) = &mut self.agents[agent].running else {
            return Ok(false);
        };
        match progress {
            Progress::Blocked => return Ok(false),
            Progress::Partly(rest) => steps[0] = rest,
            Progress::Done => drop(steps.pop_front()),
        }
        Ok(true)
    }

    /// Plans the steps of a softmax, once the maxima's tag gives the attention tile.
    pub(super) fn plan_softmax(&mut self, command: Command, maxima: Tag) {
        let Command::Softmax(c) = command else { return };
        let scores = maxima.of("scores", maxima.sizes);
        let probabilities = maxima.of("probabilities", maxima.sizes);
        self.agents[SOFTMAX].running = Some((
            command,
            VecDeque::from([
                Step::Read(Memory::Score(c.parity), 0, 1, scores, c.tokens),
                Step::Write(Memory::Probability(c.parity), 0, 1, probabilities, c.tokens),
                Step::Give(
                    SCALES,
                    c.tokens as usize,
                    maxima.of("scales", maxima.sizes),
                    0,
                ),
                Step::Give(SOFTMAX_TO_ARRAY, 1, probabilities, 0),
            ]),
        ));
    }

    /// Takes up to `count` items, which must have this tag.
    pub(super) fn take(
        &mut self,
        agent: usize,
        at: usize,
        count: usize,
        tag: Tag,
    ) -> Result<usize, String> {
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

    /// Returns the rows of a transfer of row parameters.
    pub(super) fn parameters(&self, address: u32, rows: usize) -> Vec<RowParameters> {
        let bytes = &self.program.arena[address as usize * self.shape.beat..];
        (bytes.chunks_exact(ROW_BYTES).take(rows))
            .map(RowParameters::of)
            .collect()
    }

    /// Gives as many of `count` items as there is room for. Returns their number.
    pub(super) fn give(
        &mut self,
        agent: usize,
        at: usize,
        count: usize,
        tag: Tag,
        address: u32,
    ) -> usize {
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

    /// Returns a range of a memory's cells; cells that nothing has written yet are empty.
    pub(super) fn cells(&mut self, memory: Memory, range: &std::ops::Range<usize>) -> &mut [Cell] {
        let cells = &mut self.cells[memory.index()];
        if cells.len() < range.end {
            cells.resize(range.end, Cell::default());
        }
        &mut cells[range.clone()]
    }

    /// Reads cells. Each must hold `tag` for `tokens` tokens or more, and be ordered after its
    /// write.
    pub(super) fn read(
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

    /// Writes cells. Each write must be ordered after all earlier accesses to the cell.
    pub(super) fn write(
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
}
