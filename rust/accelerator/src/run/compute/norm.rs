//! Gives the norm's steps values.

use quasar_core::error::Result;
use quasar_kernels::scalar::Moments;

use super::memory::Memories;
use super::queues::Item;
use super::Agent;
use crate::isa::{Command, LayerNorm, Pooling};
use crate::unit::{Memory, Step};

#[derive(Default)]
pub(super) struct Norm {
    /// Gain and offset of each column.
    gains: Vec<(i16, i16)>,
    /// The mean of the pooled tokens.
    mean: Vec<i16>,
    /// Codes of all tokens, for their mean.
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
        let (s, embed) = (memories.shape, c.embed as usize);
        match step {
            Step::TakeHalf(_) => {
                let gains = agent.beats();
                let gains = gains.as_chunks::<4>().0.iter().take(embed);
                let pair = |&[a, b, c, d]: &[u8; 4]| {
                    (i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d]))
                };
                self.gains = gains.map(pair).collect();
                self.codes.clear();
            }
            Step::Normalise { .. } if c.pool == Pooling::Before => {
                let sum = self.mean.iter().map(|&x| i32::from(x)).sum();
                let squares = self.mean.iter().map(|&x| i64::from(x) * i64::from(x));
                let codes = self.normalise(&c, &self.mean, (sum, squares.sum()));
                store(&c, 0, &codes, memories)?;
            }
            Step::Normalise { tile, tokens } => {
                let moments: Vec<_> = (agent.taken.drain(..))
                    .flat_map(|item| match item {
                        Item::Moments(moments) => moments,
                        _ => Vec::new(),
                    })
                    .collect();
                for (lane, &moments) in moments.iter().take(tokens).enumerate() {
                    let token = tile * s.tokens + lane;
                    let codes = self.normalise(&c, &residual(&c, token, memories)?, moments);
                    if c.pool == Pooling::After {
                        self.codes.push(codes);
                    } else {
                        store(&c, token, &codes, memories)?;
                    }
                }
            }
            Step::Pool if c.pool == Pooling::Before => {
                agent.taken.clear();
                let tokens = c.first as usize..c.tokens as usize;
                let rows: Result<Vec<_>> =
                    tokens.map(|token| residual(&c, token, memories)).collect();
                self.mean = means(&rows?, embed).map(|mean| mean as i16).collect();
            }
            Step::Pool => {
                let codes = &self.codes[c.first as usize..];
                let codes: Vec<_> = means(codes, embed).map(|mean| mean as i8).collect();
                store(&c, 0, &codes, memories)?;
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

fn residual(c: &LayerNorm, token: usize, memories: &mut Memories) -> Result<Vec<i16>> {
    let s = memories.shape;
    let embed = c.embed as usize;
    let (tile, lane) = (token / s.tokens, token % s.tokens);
    (0..embed)
        .map(|d| {
            let x = memories.get(Memory::Residual(c.frame), tile * embed + d, lane)?;
            Ok(x as i16)
        })
        .collect()
}

fn store(c: &LayerNorm, token: usize, codes: &[i8], memories: &mut Memories) -> Result<()> {
    let s = memories.shape;
    let (tile, lane) = (token / s.tokens, token % s.tokens);
    for (d, &code) in codes.iter().enumerate() {
        let word = tile * s.padded(c.embed as usize) + d;
        memories.set(Memory::Normed(c.frame), word, lane, code)?;
    }
    Ok(())
}
