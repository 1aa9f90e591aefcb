//! Runs segments abstractly: queues hold counted items with tags, memories hold cells with tags.

use std::collections::VecDeque;
use std::fmt::Write;

use quasar_core::error::Result;

use super::items::{
    Batch, Cell, Clock, Memory, Queue, Tag, AGENTS, ARRAY_TO_LOAD, COMMANDS, FREE, MAXIMA,
    MEMORIES, NAMES, SCALES, SOFTMAX, SOFTMAX_TO_ARRAY, STORE,
};
use super::steps::Step;
use super::wrong;
use crate::isa::{moments_depth, Command, LoadEnd, QUEUES, ROW_BYTES};
use crate::program::{Program, Segment};
use crate::shape::Shape;

pub(super) struct Agent {
    pub(super) current: Option<(Command, VecDeque<Step>)>,
    pub(super) commands: VecDeque<(Command, Tag)>,
    pub(super) clock: Clock,
    /// First beat of the transfer taken last.
    pub(super) address: u32,
    /// Destinations and columns of the row parameters taken last.
    pub(super) rows: Vec<(u8, u16)>,
}

pub(super) struct Machine<'a> {
    pub(super) program: &'a Program,
    pub(super) shape: Shape,
    /// Groups of E tokens in a tile.
    pub(super) exponential_groups: usize,
    pub(super) queues: Vec<Queue>,
    pub(super) agents: Vec<Agent>,
    pub(super) cells: Vec<Vec<Cell>>,
    pub(super) frames: u32,
    pub(super) current: [u32; 2],
}

impl<'a> Machine<'a> {
    pub(super) fn new(program: &'a Program) -> Self {
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

    /// Returns the number of frames in flight.
    pub(super) const fn frames(&self) -> usize {
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

    /// Describes the state of all agents and queues.
    pub(super) fn dump(&self) -> String {
        let mut text = String::new();
        for (agent, name) in self.agents.iter().zip(NAMES) {
            if let Some((command, steps)) = &agent.current {
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
        if self.agents[agent].current.is_none() {
            let Some((command, tag)) = self.agents[agent].commands.pop_front() else {
                return Ok(false);
            };
            let steps = if agent == STORE {
                self.store(tag)
            } else {
                self.queues[COMMANDS[agent]].held -= 1;
                self.steps(command, tag)
            };
            self.agents[agent].current = Some((command, steps));
        }
        let Some((command, steps)) = &self.agents[agent].current else {
            return Ok(false);
        };
        let command = *command;
        let Some(&op) = steps.front() else {
            self.agents[agent].current = None;
            return Ok(true);
        };
        let next = match op {
            Step::Take(queue, count, tag) => match self.take(agent, queue, count, tag)? {
                0 => None,
                taken if taken == count => Some(None),
                taken => Some(Some(Step::Take(queue, count - taken, tag))),
            },
            Step::Give(queue, count, tag, address) => {
                match self.give(agent, queue, count, tag, address) {
                    0 => None,
                    given if given == count => Some(None),
                    given => Some(Some(Step::Give(queue, count - given, tag, address))),
                }
            }
            Step::Read(memory, first, count, tag, tokens) => {
                self.read(agent, memory, first..first + count, tag, tokens)?;
                Some(None)
            }
            Step::Write(memory, first, count, tag, tokens) => {
                self.write(agent, memory, first..first + count, tag, tokens)?;
                Some(None)
            }
            Step::Parameters(rows) => {
                self.agents[agent].rows = self.parameters(self.agents[agent].address, rows);
                Some(None)
            }
            Step::Store(rows, tile, tokens, tag) => {
                self.store_rows(&rows, tile, tokens as u32, tag)?;
                Some(None)
            }
            Step::Unit(count, tag) => {
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
                (taken > 0).then_some(Some(Step::Unit(count - taken, tag)))
            }
        };
        let Some(rest) = next else { return Ok(false) };
        if let Some((_, steps)) = &mut self.agents[agent].current {
            steps.pop_front();
            if let Some(rest) = rest {
                steps.push_front(rest);
            }
        }
        Ok(true)
    }

    /// Plans the steps of a softmax, once the tag of the maxima tells the unit of attention.
    pub(super) fn unit(&mut self, command: Command, unit: Tag) {
        let Command::Softmax(c) = command else { return };
        let scores = unit.of("scores", unit.sizes);
        let probabilities = unit.of("probabilities", unit.sizes);
        self.agents[SOFTMAX].current = Some((
            command,
            VecDeque::from([
                Step::Read(Memory::Score(c.parity), 0, 1, scores, c.tokens),
                Step::Write(Memory::Probability(c.parity), 0, 1, probabilities, c.tokens),
                Step::Give(SCALES, c.tokens as usize, unit.of("scales", unit.sizes), 0),
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

    pub(super) fn parameters(&self, address: u32, rows: usize) -> Vec<(u8, u16)> {
        let bytes = &self.program.arena[address as usize * self.shape.beat..];
        (bytes.chunks_exact(ROW_BYTES).take(rows))
            .map(|row| (row[7], u16::from_le_bytes([row[8], row[9]])))
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

    pub(super) fn cells(&mut self, memory: Memory, range: &std::ops::Range<usize>) -> &mut [Cell] {
        let cells = &mut self.cells[memory.index()];
        if cells.len() < range.end {
            cells.resize(range.end, Cell::default());
        }
        &mut cells[range.clone()]
    }

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
