//! Models the queues between the kernels: bounded, with times in place of data.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

use quasar_hardware::{declared, Hardware};

use super::counts::CycleSet;
use crate::isa::{Command, Unit, QUEUES};
use crate::unit::{queue_index, QueueName, Steps};

/// A command, after the index of its segment and its index in the segment.
pub(super) type Entry = (usize, usize, Command);

/// A bounded queue that holds the times at which its items can be taken.
///
/// The queue also remembers when slots became free. So the result does not depend on the order in
/// which the processes run.
#[derive(Debug)]
pub(super) struct Fifo<V = ()> {
    pub(super) depth: usize,
    /// Items that are not taken yet, with the times from which on they can be.
    pub(super) items: VecDeque<(u64, V)>,
    /// Times at which slots became free, of the slots that are not written again yet.
    pub(super) taken: VecDeque<u64>,
    pub(super) written: usize,
    /// Cycles in which there was an item, if they are recorded.
    pub(super) fed: Option<CycleSet>,
}

impl<V> Fifo<V> {
    pub(super) fn new(depth: usize) -> Self {
        Self {
            depth,
            items: VecDeque::new(),
            taken: VecDeque::new(),
            written: 0,
            fed: None,
        }
    }

    /// Records the cycles in which there is an item.
    pub(super) fn recorded(mut self) -> Self {
        self.fed = Some(CycleSet::default());
        self
    }

    /// Returns true if no item can be written before one is taken.
    pub(super) fn full(&self) -> bool {
        self.items.len() == self.depth
    }

    /// Writes an item at `at`, or later, as soon as the queue has room. Returns the time of the
    /// write, or none if it is not known yet.
    pub(super) fn put(&mut self, at: u64, value: V) -> Option<u64> {
        if self.full() {
            return None;
        }
        let room = if self.written >= self.depth {
            self.taken
                .pop_front()
                .expect("an item is taken before its slot is written again")
                + 1
        } else {
            0
        };
        self.written += 1;
        let at = at.max(room);
        self.items.push_back((at, value));
        Some(at)
    }

    /// Returns the time from which on the next item can be taken.
    pub(super) fn next(&self) -> Option<u64> {
        self.items.front().map(|&(at, _)| at)
    }

    /// Takes an item at `at`, or later when it arrives.
    pub(super) fn take(&mut self, at: u64) -> Option<(u64, V)> {
        let (arrives, value) = self.items.pop_front()?;
        let at = at.max(arrives);
        if let Some(fed) = &mut self.fed {
            fed.add(arrives, at + 1);
        }
        self.taken.push_back(at);
        Some((at, value))
    }
}

/// Returns the commands that a unit takes before the one that it begins with.
const fn taken_ahead(unit: Unit) -> usize {
    let jobs = match unit {
        Unit::Load => return declared::TRANSFERS_AHEAD as usize,
        Unit::Softmax => return 0,
        Unit::Array => declared::PLAN_JOBS,
        Unit::Drain => declared::DRAIN_JOBS,
        Unit::Norm => declared::NORM_JOBS,
    };
    // The process that hands them on within the kernel holds one more.
    jobs as usize + 1
}

/// All queues between the kernels.
pub(super) struct Queues {
    pub(super) commands: [Fifo<(Entry, Steps)>; Unit::ALL.len()],
    /// The queues that steps name.
    named: [Fifo; QueueName::ALL.len()],
    pub(super) scores: Fifo,
    pub(super) passes: Fifo,
    /// Cycles in which the commands come that `plan` sends to `scores`.
    pub(super) score_commands: VecDeque<u64>,
}

impl Index<QueueName> for Queues {
    type Output = Fifo;

    fn index(&self, name: QueueName) -> &Fifo {
        &self.named[name as usize]
    }
}

impl IndexMut<QueueName> for Queues {
    fn index_mut(&mut self, name: QueueName) -> &mut Fifo {
        &mut self.named[name as usize]
    }
}

impl Queues {
    pub(super) fn new(hardware: &Hardware) -> Self {
        let queue = |index: usize| {
            let declared = &QUEUES[index];
            let mut fifo = Fifo::new(declared.depth_in(hardware));
            for _ in 0..declared.initial {
                fifo.put(0, ());
            }
            fifo
        };
        let commands = |unit: Unit| {
            let name = format!("{}_commands", unit.name());
            QUEUES[queue_index(&name)].depth_in(hardware)
        };
        // Those whose readers count the cycles without an item.
        let named = |name: QueueName| match name {
            QueueName::Sums | QueueName::Moments | QueueName::Maxima | QueueName::Logits => {
                queue(name.index()).recorded()
            }
            _ => queue(name.index()),
        };
        Self {
            commands: Unit::ALL.map(|unit| Fifo::new(commands(unit) + taken_ahead(unit))),
            named: QueueName::ALL.map(named),
            scores: queue(queue_index("scores")).recorded(),
            passes: queue(queue_index("passes")),
            score_commands: VecDeque::new(),
        }
    }
}
