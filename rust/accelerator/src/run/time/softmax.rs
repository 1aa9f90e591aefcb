//! Models the softmax.

use quasar_hardware::declared;

use super::process::{Process, Sizes, Worker};
use super::queues::Queues;
use super::trace::Cause;
use crate::isa::{Command, Unit};
use crate::unit::Step;

/// The softmax: exponentials, their sums, reciprocals.
pub(super) struct Exponential {
    pub(super) worker: Worker,
    /// Keys of the present command.
    keys: u64,
}

impl Process for Exponential {
    const UNIT: Unit = Unit::Softmax;

    fn depth(_: &Sizes) -> u64 {
        declared::EXPONENTIAL_DEPTH
    }

    fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    fn begin(&mut self, command: Command) {
        if let Command::Softmax(softmax) = command {
            self.keys = softmax.keys.into();
        }
    }

    fn once(&mut self, step: Step, _: &Sizes, queues: &mut Queues) -> bool {
        let worker = &mut self.worker;
        match step {
            Step::Take(queue, ..) => return worker.take(&mut queues[queue], Cause::of(queue)),
            Step::Give(queue, ..) => {
                return worker.put(&mut queues[queue], declared::EXPONENTIAL_DEPTH);
            }
            Step::Exponentials { .. } => worker.clock.work(self.keys),
            Step::EndLoop => worker.clock.end_loop(),
            // Memories are read and written in the cycles of the exponentials.
            Step::Read(_)
            | Step::Write(_)
            | Step::TakeHalf(_)
            | Step::FreeHalf(_)
            | Step::Transfer(_)
            | Step::Pass(_)
            | Step::Requantize { .. }
            | Step::Turns { .. }
            | Step::Normalise { .. }
            | Step::Pool => {}
        }
        true
    }
}

impl Exponential {
    pub(super) fn new() -> Self {
        Self {
            worker: Worker::new(),
            keys: 0,
        }
    }
}
