//! Counts the intervals of the kernels' loops from command lists alone.

use std::collections::BTreeMap;

use quasar_hardware::Hardware;

use crate::isa::{Command, Pooling};
use crate::shape::Shape;
use crate::unit::{steps, Step};

/// Returns the initiation intervals of the kernels' loops under the names that the kernels count
/// them by. Loops whose intervals depend on the timing are left out. `array.issue` counts the words
/// that the array issues.
pub fn intervals(hardware: &Hardware, lists: &[&[Command]]) -> BTreeMap<&'static str, u64> {
    let shape = Shape::of(hardware);
    let mut counts = BTreeMap::new();
    let mut count = |name, times: u64| *counts.entry(name).or_insert(0) += times;
    for &command in lists.iter().copied().flatten() {
        count("fetch.commands", 1);
        for step in steps(command, shape) {
            if let Step::Pass(product) = step {
                count("array.issue", product.pass.words);
            }
        }
        match command {
            Command::Load(load) => count("load.beats", u64::from(load.beats) + 1),
            Command::Rows(rows) => {
                let tiles = shape.token_tiles(rows.tokens);
                let groups: usize = tiles.clone().map(|tokens| shape.groups(tokens)).sum();
                let all = u64::from(rows.rows4 + rows.rows8);
                count("drain.parameters", all);
                count("drain.walk", all * tiles.count() as u64);
                count("drain.rows", all * groups as u64);
            }
            Command::Attend(attend) => {
                let groups = shape.groups(attend.tokens as usize) as u64;
                count("drain.scales", attend.tokens.into());
                count("drain.walk", attend.rows.into());
                count("drain.attend", u64::from(attend.rows) * groups);
            }
            Command::Fill(fill) => {
                let beats = shape.beats(2 * shape.tokens);
                let word = beats.max(shape.groups(shape.tokens)) as u64;
                count("drain.fill", (u64::from(fill.words) + 1) * word);
            }
            Command::Table(_) => count("drain.table", 256),
            Command::LayerNorm(norm) => {
                let tiles = shape.token_tiles(norm.tokens);
                let groups = tiles.map(|tokens| tokens.div_ceil(shape.norm_lanes) as u64);
                let groups = if norm.pool == Pooling::Before {
                    1
                } else {
                    groups.sum()
                };
                count("norm.gains", norm.embed.into());
                // A column of a mean is summed at most every 4 intervals.
                let least = if norm.pool == Pooling::After { 4 } else { 1 };
                count("norm.normalise", groups * u64::from(norm.embed).max(least));
            }
            Command::Softmax(softmax) => {
                let groups = (softmax.tokens as usize).div_ceil(shape.exponential_lanes) as u64;
                count("softmax.exponential", groups * u64::from(softmax.keys));
            }
            _ => {}
        }
    }
    counts
}
