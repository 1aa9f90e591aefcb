//! Counts the intervals of the kernels' loops from command lists alone.

use std::collections::BTreeMap;

use quasar_hardware::Hardware;

use crate::isa::{Command, Pooling};
use crate::shape::Shape;
use crate::unit::{steps, QueueName, Step};

/// Returns the initiation intervals of the kernels' loops under the names that the kernels count
/// them by. Loops whose intervals depend on the timing are left out. `array.issue` counts the words
/// that the array issues.
pub fn intervals(hardware: &Hardware, lists: &[&[Command]]) -> BTreeMap<&'static str, u64> {
    let shape = Shape::of(hardware);
    let mut counts = BTreeMap::new();
    let mut count = |name, times: u64| *counts.entry(name).or_insert(0) += times;
    for &command in lists.iter().copied().flatten() {
        count("fetch.commands", 1);
        // Rows whose parameters were taken last, or dimensions of a head.
        let mut rows = 0;
        for step in steps(command, shape) {
            match (command, step) {
                (_, Step::Pass(product)) => count("array.issue", product.pass.words),
                (Command::Load(c), Step::Transfer(_)) => {
                    count("load.beats", u64::from(c.beats) + 1);
                }
                (Command::Rows(_), Step::TakeHalf(half)) => {
                    rows = half.words;
                    count("drain.parameters", rows);
                }
                (Command::Rows(_), Step::Take(QueueName::Sums, groups, _)) => {
                    count("drain.rows", groups as u64);
                    count("drain.walk", rows);
                }
                (Command::Attend(c), Step::Take(QueueName::Scales, tokens, _)) => {
                    count("drain.scales", tokens as u64);
                    count("drain.walk", c.rows.into());
                }
                (Command::Attend(_), Step::Take(QueueName::Sums, groups, _)) => {
                    count("drain.attend", groups as u64);
                }
                (Command::Fill(c), Step::Write(range)) => {
                    let beats = shape.beats(2 * shape.tokens);
                    let word = beats.max(shape.groups(shape.tokens)) as u64;
                    // The last word is stored while no other comes.
                    let last = range.first + 1 == c.words as usize;
                    count("drain.fill", (1 + u64::from(last)) * word);
                }
                (Command::Table(c), Step::Write(_)) if c.words == 0 => count("drain.table", 256),
                (Command::Table(c), Step::Write(_)) => count("drain.angles", c.words.into()),
                (Command::Rows(_), Step::Turns { groups }) => {
                    count("drain.turns", 2 * groups as u64);
                }
                (Command::LayerNorm(_), Step::TakeHalf(half)) => count("norm.gains", half.words),
                (Command::LayerNorm(c), Step::Normalise { tokens, .. }) => {
                    let groups = tokens.div_ceil(shape.norm_lanes) as u64;
                    // A column of a mean is summed at most every 4 intervals.
                    let least = if c.pool == Pooling::After { 4 } else { 1 };
                    count("norm.normalise", groups * u64::from(c.embed).max(least));
                }
                (Command::Softmax(c), Step::Exponentials { .. }) => {
                    count("softmax.exponential", c.keys.into());
                }
                // These have no loop of their own, or one whose intervals depend on the timing.
                (
                    _,
                    Step::Take(..)
                    | Step::Give(..)
                    | Step::TakeHalf(_)
                    | Step::FreeHalf(_)
                    | Step::Transfer(_)
                    | Step::Read(_)
                    | Step::Write(_)
                    | Step::Requantize { .. }
                    | Step::Turns { .. }
                    | Step::Normalise { .. }
                    | Step::Pool
                    | Step::Exponentials { .. }
                    | Step::EndLoop,
                ) => {}
            }
        }
    }
    counts
}
