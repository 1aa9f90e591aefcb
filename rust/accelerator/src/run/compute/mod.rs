//! Runs command lists on plain arrays, untimed: an oracle for the compiler's tests.
//!
//! Each unit walks the steps of [`crate::unit`] and waits where an item has not arrived; queues
//! have no bounds. The run models what the compiler must get right: memory formats, addresses,
//! orders of sums and tokens, and two products in one slice's 48-bit accumulator. Depends on
//! [`crate::program`], [`crate::shape`], `unit` and the arithmetic of `quasar_kernels::scalar`.
//!
//! | module | what it does |
//! |---|---|
//! | `queues` | holds items on their way between units |
//! | `memory` | holds the on-chip memories |
//! | `load`, `array`, `drain`, `norm`, `softmax` | give the steps of their unit values |
//! | `slice` | computes as a DSP slice does |

mod array;
mod drain;
mod load;
mod memory;
mod norm;
mod queues;
mod slice;
mod softmax;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use quasar_core::error::{Error, Result};

use self::array::Array;
use self::drain::Drain;
use self::load::Loader;
use self::memory::Memories;
use self::norm::Norm;
use self::queues::{Item, Queues};
use self::softmax::Exponentials;
use crate::isa::{check, Command, Unit, PORT_BYTES};
use crate::program::{Program, Segment};
use crate::unit::{steps, QueueName, Step, Steps};

/// A unit: its commands, and the items that its present command has taken and will give.
#[derive(Default)]
struct Agent {
    commands: VecDeque<Command>,
    running: Option<(Command, Steps)>,
    /// A step whose items have not arrived.
    waiting: Option<Step>,
    taken: VecDeque<Item>,
    given: VecDeque<Item>,
}

impl Agent {
    /// Removes the bytes of the beats that were taken.
    fn beats(&mut self) -> Vec<u8> {
        let beats = self.taken.drain(..).filter_map(|item| match item {
            Item::Beat(bytes) => Some(bytes),
            _ => None,
        });
        beats.flatten().collect()
    }

    /// Removes the sums of a row: `groups` items, `tokens` sums.
    fn sums(&mut self, groups: usize, tokens: usize) -> Vec<i32> {
        let groups = self.taken.drain(..groups.min(self.taken.len()));
        let sums = groups.flat_map(|item| match item {
            Item::Sums(sums) => sums,
            _ => Vec::new(),
        });
        sums.take(tokens).collect()
    }
}

/// The accelerator's state between segments.
pub struct Interpreter<'a> {
    program: &'a Program,
    queues: Queues,
    memories: Memories,
    agents: [Agent; Unit::ALL.len()],
    loader: Loader,
    array: Array,
    drain: Drain,
    norm: Norm,
    exponentials: Exponentials,
}

impl<'a> Interpreter<'a> {
    /// Returns the accelerator after a reset.
    pub fn new(program: &'a Program) -> Self {
        Self {
            program,
            queues: Queues::new(),
            memories: Memories::new(program.hardware()),
            agents: Default::default(),
            loader: Loader::new(program),
            array: Array::new(program.hardware()),
            drain: Drain::default(),
            norm: Norm::default(),
            exponentials: Exponentials::default(),
        }
    }

    /// Runs a segment. `input`: patches of the frame that begins.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if a command waits for ever, or leaves its memory.
    pub fn run(&mut self, segment: Segment, input: &[u8]) -> Result<()> {
        for &command in self.program.commands(segment) {
            // As the hardware sees them.
            let command = Command::decode(&command.encode()?)?;
            let agent = &mut self.agents[command.unit() as usize];
            agent.commands.push_back(command);
        }
        loop {
            let mut progress = false;
            for unit in Unit::ALL {
                while self.advance(unit, input)? {
                    progress = true;
                }
            }
            if !progress {
                break;
            }
        }
        let waiting = self.agents.iter().find_map(|agent| agent.running.as_ref());
        match waiting {
            Some((command, _)) => Err(Error::InvalidValue(format!(
                "{segment} ends while {command:?} still waits"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the output of a frame whose head has run, as `store` writes it.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if logits or the frame's check are missing.
    pub fn output(&mut self) -> Result<Vec<u8>> {
        let classes = self.program.logits();
        let Some(Item::Checks { sound, nonce }) = self.queues[QueueName::Checks].pop_front() else {
            return Err(Error::InvalidValue("no frame has ended".into()));
        };
        let logits = &mut self.queues[QueueName::Logits];
        if logits.len() < classes {
            return Err(Error::InvalidValue("logits are missing".into()));
        }
        let logits = logits.drain(..classes).filter_map(|item| match item {
            Item::Logit(logit) => Some(logit.to_le_bytes()),
            _ => None,
        });
        let mut bytes: Vec<u8> = logits.flatten().collect();
        bytes.resize(bytes.len().next_multiple_of(PORT_BYTES), 0);
        for word in [nonce, classes as u32, u32::from(!sound)] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(check(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Returns true if the queues hold nothing except the credit for `input`.
    pub fn idle(&self) -> bool {
        self.queues.idle()
    }

    /// Begins a command of a unit, does a step of it or ends it. Returns false if the unit waits.
    fn advance(&mut self, unit: Unit, input: &[u8]) -> Result<bool> {
        let agent = &mut self.agents[unit as usize];
        let Some((command, steps)) = &mut agent.running else {
            let Some(command) = agent.commands.pop_front() else {
                return Ok(false);
            };
            agent.running = Some((command, steps(command, self.memories.shape)));
            return Ok(true);
        };
        let command = *command;
        let Some(step) = agent.waiting.take().or_else(|| steps.next()) else {
            agent.running = None;
            return Ok(true);
        };
        let (queue, count) = match step {
            Step::Take(queue, count, _) => (Some(queue), count),
            Step::TakeHalf(half) => (Some(half.queue), half.beats as usize),
            _ => (None, 0),
        };
        if let Some(queue) = queue {
            let items = &mut self.queues[queue];
            if items.len() < count {
                agent.waiting = Some(step);
                return Ok(false);
            }
            let items = items.drain(..count);
            (agent.taken).extend(items.filter(|item| !matches!(item, Item::Credit)));
        }
        let memories = &mut self.memories;
        match unit {
            Unit::Load => (self.loader).step(command, step, input, memories, agent)?,
            Unit::Array => (self.array).step(command, step, memories, agent)?,
            Unit::Drain => (self.drain).step(command, step, memories, agent)?,
            Unit::Norm => (self.norm).step(command, step, memories, agent)?,
            Unit::Softmax => (self.exponentials).step(command, step, memories, agent)?,
        }
        match step {
            Step::Give(queue, count, _) => self.queues.give(queue, count, &mut agent.given)?,
            Step::Transfer(Some(queue)) => self.queues[queue].extend(agent.given.drain(..)),
            _ => {}
        }
        Ok(true)
    }
}
