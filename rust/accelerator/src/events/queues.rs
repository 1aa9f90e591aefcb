//! Models the queues between the kernels: bounded, with times in place of data.

use std::collections::VecDeque;

use quasar_hardware::{declared, Hardware};

use super::counts::CycleSet;
use super::trace::Cause;
use crate::isa::{Command, Unit, QUEUES};

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

    /// Writes an item at `at`, or later, as soon as the queue has room. Returns the time of the
    /// write, or none if it is not known yet.
    pub(super) fn put(&mut self, at: u64, value: V) -> Option<u64> {
        if self.items.len() == self.depth {
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
    pub(super) commands: [Fifo<Entry>; Unit::ALL.len()],
    pub(super) weights: Fifo,
    pub(super) rows: Fifo,
    pub(super) gains: Fifo,
    pub(super) sums: Fifo,
    pub(super) scores: Fifo,
    pub(super) passes: Fifo,
    /// Cycles in which the commands come that `plan` sends to `scores`.
    pub(super) score_commands: VecDeque<u64>,
    pub(super) moments: Fifo,
    pub(super) maxima: Fifo,
    pub(super) scales: Fifo,
    pub(super) logits: Fifo,
    pub(super) checks: Fifo,
    pub(super) load_to_array: Fifo,
    pub(super) array_to_load: Fifo,
    pub(super) drain_to_array: Fifo,
    pub(super) norm_to_array: Fifo,
    pub(super) softmax_to_array: Fifo,
}

impl Queues {
    pub(super) fn new(hardware: &Hardware) -> Self {
        let declared = |name: &str| {
            let queue = QUEUES.iter().find(|queue| queue.name == name);
            queue.expect("isa.rs declares it")
        };
        let queue = |name: &str| {
            let declared = declared(name);
            let mut fifo = Fifo::new(declared.depth_in(hardware));
            for _ in 0..declared.initial {
                fifo.put(0, ());
            }
            fifo
        };
        let commands = |unit: Unit| declared(&format!("{}_commands", unit.name()));
        Self {
            commands: Unit::ALL.map(|unit| {
                let depth = commands(unit).depth_in(hardware);
                Fifo::new(depth + taken_ahead(unit))
            }),
            weights: queue("weights"),
            rows: queue("rows"),
            gains: queue("gains"),
            sums: queue("sums").recorded(),
            scores: queue("scores").recorded(),
            passes: queue("passes"),
            score_commands: VecDeque::new(),
            moments: queue("moments").recorded(),
            maxima: queue("maxima").recorded(),
            scales: queue("scales"),
            logits: queue("logits").recorded(),
            checks: queue("checks"),
            load_to_array: queue("load_to_array"),
            array_to_load: queue("array_to_load"),
            drain_to_array: queue("drain_to_array"),
            norm_to_array: queue("norm_to_array"),
            softmax_to_array: queue("softmax_to_array"),
        }
    }

    /// Returns the queue of the credits that the array waits for.
    pub(super) fn credits(&mut self, cause: Cause) -> &mut Fifo {
        match cause {
            Cause::Patches => &mut self.load_to_array,
            Cause::Norm => &mut self.norm_to_array,
            Cause::Softmax => &mut self.softmax_to_array,
            _ => &mut self.drain_to_array,
        }
    }
}
