//! Gives the norm's steps values.

use quasar_core::error::Result;
use quasar_kernels::scalar::Moments;

use super::memory::Memories;
use super::queues::Item;
use super::Agent;
use crate::isa::{Command, LayerNorm, Pooling};
use crate::unit::Step;

#[derive(Default)]
pub(super) struct Norm {
    /// Gain and offset of each column.
    gains: Vec<(i16, i16)>,
    /// The residual of the tokens that were read last: of a tile, or of all that are pooled.
    rows: Vec<Vec<i16>>,
    /// Codes of the tokens that will be stored: of a tile, or of all that are pooled.
    codes: Vec<Vec<i8>>,
}

impl Norm {
    pub(super) fn step(
        &mut self,
        command: Command,
        step: Step,
        memories: &mut Memories,
        agent: &mut Agent,
    ) -> Result<()> {
        let Command::LayerNorm(c) = command else {
            return Ok(());
        };
        let embed = c.embed as usize;
        match step {
            Step::TakeHalf(_) => {
                let gains = agent.beats();
                let gains = gains.as_chunks::<4>().0.iter().take(embed);
                let pair = |&[a, b, c, d]: &[u8; 4]| {
                    (i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d]))
                };
                self.gains = gains.map(pair).collect();
                self.rows.clear();
                self.codes.clear();
            }
            Step::Read(range) => {
                for lane in 0..range.tokens as usize {
                    let row = range
                        .cells()
                        .map(|word| memories.get(range.memory, word, lane));
                    let row = row.map(|x| x.map(|x| x as i16));
                    self.rows.push(row.collect::<Result<_>>()?);
                }
            }
            Step::Normalise { .. } => {
                let moments = agent.taken.drain(..).flat_map(|item| match item {
                    Item::Moments(moments) => moments,
                    _ => Vec::new(),
                });
                let moments: Vec<_> = moments.collect();
                for (i, row) in std::mem::take(&mut self.rows).iter().enumerate() {
                    let moments = if c.pool == Pooling::Before {
                        // The drain has not seen the mean.
                        let sum = row.iter().map(|&x| i32::from(x)).sum();
                        (sum, row.iter().map(|&x| i64::from(x) * i64::from(x)).sum())
                    } else {
                        moments[i]
                    };
                    self.codes.push(self.normalise(&c, row, moments));
                }
            }
            Step::Pool if c.pool == Pooling::Before => {
                agent.taken.clear();
                let mean = means(&self.rows[c.first as usize..], embed);
                self.rows = vec![mean.map(|mean| mean as i16).collect()];
            }
            Step::Pool => {
                let mean = means(&self.codes[c.first as usize..], embed);
                self.codes = vec![mean.map(|mean| mean as i8).collect()];
            }
            Step::Write(range) => {
                for (lane, codes) in std::mem::take(&mut self.codes).iter().enumerate() {
                    for (word, &code) in range.cells().zip(codes) {
                        memories.set(range.memory, word, lane, code)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn normalise(&self, c: &LayerNorm, row: &[i16], (sum, squares): (i32, i64)) -> Vec<i8> {
        let embed = c.embed as usize;
        let moments = Moments::new(sum, squares, embed, c.epsilon as i64);
        (row.iter().zip(&self.gains))
            .map(|(&x, &(gain, offset))| moments.apply(x, embed, gain, offset, c.frac as u8))
            .collect()
    }
}

/// Returns the rounded mean of each column.
fn means<T: Copy + Into<i32>>(rows: &[Vec<T>], columns: usize) -> impl Iterator<Item = i32> + '_ {
    let count = rows.len() as i32;
    (0..columns).map(move |column| {
        let sum: i32 = rows.iter().map(|row| row[column].into()).sum();
        (sum + count / 2).div_euclid(count)
    })
}
