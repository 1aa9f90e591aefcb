//! Counts the intervals of the kernels' loops from command lists alone.

use std::collections::BTreeMap;

use quasar_hardware::Hardware;

use super::array::{Array, ArrayStep};
use super::process::{Process, Sizes};
use crate::isa::{Command, Pooling};

/// Returns the initiation intervals of the kernels' loops under the names that the kernels count
/// them by. Loops whose intervals depend on the timing are left out. `array.issue` counts the words
/// that the array issues.
pub fn intervals(hardware: &Hardware, lists: &[&[Command]]) -> BTreeMap<&'static str, u64> {
    let sizes = Sizes::of(hardware);
    let mut counts = BTreeMap::new();
    let mut count = |name, times: u64| *counts.entry(name).or_insert(0) += times;
    for &command in lists.iter().copied().flatten() {
        count("fetch.commands", 1);
        for (step, times) in Array::expand(command, &sizes) {
            if let ArrayStep::Pass(pass) = step {
                count("array.issue", times * pass.words);
            }
        }
        match command {
            Command::Load(load) => count("load.beats", u64::from(load.beats) + 1),
            Command::Rows(rows) => {
                let groups: Vec<_> = sizes.tile_groups(rows.tokens).collect();
                let all = u64::from(rows.rows4 + rows.rows8);
                count("drain.parameters", all);
                count("drain.walk", all * groups.len() as u64);
                count("drain.rows", all * groups.iter().sum::<u64>());
            }
            Command::Attend(attend) => {
                let tokens = u64::from(attend.tokens);
                count("drain.scales", tokens);
                count("drain.walk", attend.rows.into());
                count(
                    "drain.attend",
                    u64::from(attend.rows) * sizes.groups(tokens),
                );
            }
            Command::Fill(fill) => {
                let beats = (2 * sizes.tiling.tokens).div_ceil(sizes.beat_bytes);
                let word = beats.max(sizes.groups(sizes.tiling.tokens));
                count("drain.fill", (u64::from(fill.words) + 1) * word);
            }
            Command::Table(_) => count("drain.table", 256),
            Command::LayerNorm(norm) => {
                let tiles = sizes.tiling.token_sizes(norm.tokens.into());
                let groups = tiles.map(|tokens| tokens.div_ceil(sizes.norm_lanes));
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
                let groups = u64::from(softmax.tokens).div_ceil(sizes.exponential_lanes);
                count("softmax.exponential", groups * u64::from(softmax.keys));
            }
            _ => {}
        }
    }
    counts
}
