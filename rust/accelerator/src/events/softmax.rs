//! Models the softmax.

use quasar_hardware::declared;

use super::process::{Process, Sizes, Worker};
use super::queues::Queues;
use super::trace::Cause;
use crate::isa::{Command, Softmax, Unit};

#[derive(Clone, Copy)]
pub(super) enum SoftmaxStep {
    /// Takes the largest scores of E tokens.
    Maxima,
    /// Computes the exponentials of E tokens.
    Group { keys: u64 },
    /// An inner loop ends.
    Gap,
    /// Sends the scale of a token.
    Scale,
    /// Gives the array a credit: probabilities are stored.
    Post,
}

/// The softmax: exponentials, their sums, reciprocals.
pub(super) struct Exponential {
    pub(super) worker: Worker<SoftmaxStep>,
}

impl Process for Exponential {
    type Step = SoftmaxStep;
    const UNIT: Unit = Unit::Softmax;
    const DEPTH: u64 = declared::EXPONENTIAL_DEPTH;

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
        for group in 0..sizes.tiling.tokens.div_ceil(lanes) {
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

    fn once(&mut self, step: SoftmaxStep, _: &Sizes, queues: &mut Queues) -> bool {
        let worker = &mut self.worker;
        match step {
            SoftmaxStep::Maxima => return worker.take(&mut queues.maxima, Cause::Result),
            SoftmaxStep::Group { keys } => worker.clock.work(keys),
            SoftmaxStep::Gap => {
                let now = worker.clock.now;
                worker.clock.wait(Cause::Gap, now + declared::LOOP_GAP);
            }
            SoftmaxStep::Post => {
                return worker.put(&mut queues.softmax_to_array, declared::EXPONENTIAL_DEPTH);
            }
            SoftmaxStep::Scale => {
                return worker.put(&mut queues.scales, declared::EXPONENTIAL_DEPTH);
            }
        }
        true
    }
}

impl Exponential {
    pub(super) fn new() -> Self {
        Self {
            worker: Worker::new(),
        }
    }
}
