//! Prints the array's timing by the event model: `docs/array-timing.md`.
//!
//! Standard input starts with the line `T P C R fifo dsp48e1 beat_bytes`: tokens, row pairs, slices
//! of a cascade, clock ratio, packed sums that a token's FIFO holds, 1 for slices of a DSP48E1,
//! bytes of a beat. Then each line is one of
//!
//! - `weights words tiles taken`: weights of tiles of row pairs for the passes that follow, and the
//!   slow cycle in which the demand for them is taken;
//! - `pass words rows4 rows8 groups offered scores last uses_weights releases`: a pass, its words
//!   and rows, its groups of L tokens, the first slow cycle in which its descriptor can be taken,
//!   and flags (0 or 1);
//! - `beats ...`, `sums ...`, `scores ...`: the first slow cycle in which each beat of the weights
//!   can be taken, and in which each item of `sums` and `scores` is taken if it is visible.
//!
//! The output has a line for each pass: `taken start end chain room weights descriptor items...`.
//! Its descriptor is taken in slow cycle `taken`; the next six are fast cycles, the last four of
//! them the first cycles in which the pass could start by that rule alone. Then follow the first
//! slow cycles in which its sums or scores are visible.

use std::io::Read;

use quasar_accelerator::run::time::{array_cycles, CoreSizes, Leaves, Pass, Surroundings, Work};
use quasar_hardware::packing::DspKind;
use quasar_hardware::tiling::RowTile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut lines = text.lines().map(str::split_whitespace).map(Vec::from_iter);
    let numbers = |words: &[&str]| -> Result<Vec<u64>, std::num::ParseIntError> {
        words.iter().map(|word| word.parse()).collect()
    };
    let first = numbers(&lines.next().ok_or("no sizes")?)?;
    let [tokens, pairs, cascade, ratio, fifo, dsp48e1, beat_bytes] = first[..] else {
        return Err("the first line is `T P C R fifo dsp48e1 beat_bytes`".into());
    };
    let sizes = CoreSizes {
        tokens,
        pairs,
        cascade,
        ratio,
        fifo,
        dsp_kind: if dsp48e1 == 1 {
            DspKind::Dsp48e1
        } else {
            DspKind::Dsp48e2
        },
    };
    let (mut work, mut around) = (Vec::new(), Surroundings::default());
    for line in lines.filter(|line| !line.is_empty()) {
        let values = numbers(&line[1..])?;
        match (line[0], &values[..]) {
            ("weights", &[words, tiles, taken]) => work.push(Work::Weights {
                words,
                tiles,
                taken,
            }),
            ("pass", &[words, rows4, rows8, groups, offered, scores, last, uses, releases]) => {
                let pass = Pass {
                    words,
                    rows: RowTile { rows4, rows8 },
                    groups,
                    leaves: match (scores, last) {
                        (1, _) => Leaves::Scores,
                        (_, 1) => Leaves::Sums,
                        _ => Leaves::Stay,
                    },
                };
                work.push(Work::Pass {
                    pass,
                    offered,
                    uses_weights: uses == 1,
                    releases: releases == 1,
                });
            }
            ("beats", _) => around.beats = values,
            ("sums", _) => around.sums = values,
            ("scores", _) => around.scores = values,
            _ => return Err(format!("no line of a listing: {}", line.join(" ")).into()),
        }
    }
    for cycles in array_cycles(sizes, beat_bytes, &around, &work)? {
        let (taken, issued, bounds) = (cycles.taken, cycles.issued, cycles.issued.bounds);
        let (start, end) = (issued.start, issued.end);
        let [chain, room] = [bounds.chain, bounds.room];
        let [weights, descriptor] = [bounds.weights, bounds.descriptor];
        let items: Vec<_> = cycles.items.iter().map(u64::to_string).collect();
        let items = items.join(" ");
        println!("{taken} {start} {end} {chain} {room} {weights} {descriptor} {items}");
    }
    Ok(())
}
