//! Prints the array's timing by the event model: `docs/array-timing.md`.
//!
//! Standard input lists tile passes. The first line is `T P L beat_bytes`, then optionally the
//! cycles between two beats (1). A line `weights K pairs rows` announces the weights of a tile of
//! row pairs; a line `pass K rows groups scores uses_weights releases pairs` is a pass (flags are 0
//! or 1). The output has a line for each pass: `start end drain_stall weight_stall last_sum`.

use std::io::Read;

use quasar_accelerator::events::{aligned, array_cycles, Work};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut lines = text.lines().map(str::split_whitespace).map(Vec::from_iter);
    let numbers = |words: &[&str]| -> Result<Vec<u64>, std::num::ParseIntError> {
        words.iter().map(|word| word.parse()).collect()
    };
    let sizes = numbers(&lines.next().ok_or("no sizes")?)?;
    let ([tokens, pairs, _, beat_bytes] | [tokens, pairs, _, beat_bytes, _]) = sizes[..] else {
        return Err("the first line is `T P L beat_bytes`".into());
    };
    let beat_interval = sizes.get(4).copied().unwrap_or(1);
    let (mut work, mut drains) = (Vec::new(), Vec::new());
    for line in lines.filter(|line| !line.is_empty()) {
        let values = numbers(&line[1..])?;
        work.push(match (line[0], &values[..]) {
            ("weights", &[columns, ..]) => Work::Weights(columns),
            ("pass", &[columns, rows, groups, scores, uses, releases, row_pairs]) => {
                let drain = if scores == 1 {
                    row_pairs
                } else {
                    rows * groups
                };
                drains.push(drain);
                Work::Pass {
                    columns,
                    drain,
                    uses_weights: uses == 1,
                    releases: releases == 1,
                }
            }
            _ => return Err(format!("neither weights nor a pass: {}", line.join(" ")).into()),
        });
    }
    let issued = array_cycles(pairs, beat_bytes, beat_interval, &work)?;
    for (pass, drain) in issued.iter().zip(drains) {
        let last_sum = aligned(pass.end, tokens, pairs) + drain;
        let (stalls, waits) = (pass.drain_stall, pass.weight_stall);
        println!("{} {} {stalls} {waits} {last_sum}", pass.start, pass.end);
    }
    Ok(())
}
