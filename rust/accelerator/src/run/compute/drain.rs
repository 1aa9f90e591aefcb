//! Gives the drain's steps values.

use quasar_core::error::Result;
use quasar_kernels::scalar::{add_residual, attention_output, requant16, requant8};

use super::memory::Memories;
use super::queues::{Item, Scale};
use super::Agent;
use crate::isa::{Attend, Command, Destination, Kind, RowParameters, RowsCommand, ROW_BYTES};
use crate::unit::{results, Contents, Memory, QueueName, Range, Step};

#[derive(Default)]
pub(super) struct Drain {
    /// The row parameters that were taken last, and the sums of these rows' codes.
    rows: Vec<RowParameters>,
    code_sums: Vec<i32>,
    /// The codes of the attention tile that was requantized last.
    attended: Vec<Vec<i8>>,
    /// Sums and squares of the tokens' residuals.
    moments: Vec<(i32, i64)>,
}

impl Drain {
    pub(super) fn step(
        &mut self,
        command: Command,
        step: Step,
        memories: &mut Memories,
        agent: &mut Agent,
    ) -> Result<()> {
        let s = memories.shape;
        match (command, step) {
            (_, Step::TakeHalf(half)) => {
                let bytes = agent.beats();
                let rows = bytes.chunks_exact(ROW_BYTES).take(half.words as usize);
                self.rows = rows.map(RowParameters::of).collect();
                self.code_sums = vec![0; self.rows.len()];
            }
            (Command::Rows(c), Step::Requantize { tile, tokens }) => {
                for row in 0..self.rows.len() {
                    let sums = agent.sums(s.groups(tokens), tokens);
                    self.requantize(&c, row, tile, &sums, memories, agent)?;
                }
            }
            (Command::Rows(c), Step::Give(QueueName::Moments, _, contents)) => {
                let Contents::Moments { tile, tokens } = contents else {
                    return Ok(());
                };
                let first = (tile - c.tile) as usize * s.tokens;
                let moments = &mut self.moments[first..first + tokens as usize];
                let groups = moments.chunks(s.lanes);
                (agent.given).extend(groups.map(|group| Item::Moments(group.to_vec())));
                moments.fill((0, 0));
            }
            (Command::Rows(c), Step::FreeHalf(_)) => self.store_means(&c, memories)?,
            (Command::Attend(c), Step::Requantize { .. }) => {
                self.attended = attend(&c, memories, agent)?;
            }
            (Command::Attend(_), Step::Write(Range { memory, first, .. })) => {
                for (column, codes) in self.attended.iter().enumerate() {
                    for (lane, &code) in codes.iter().enumerate() {
                        memories.set(memory, first + column, lane, code)?;
                    }
                }
            }
            (Command::Fill(_), Step::Write(Range { memory, first, .. })) => {
                let bytes = agent.beats();
                let values = bytes.as_chunks::<2>().0.iter().take(s.tokens);
                for (lane, value) in values.enumerate() {
                    memories.set(memory, first, lane, i16::from_le_bytes(*value))?;
                }
            }
            (Command::Table(_), Step::Write(_)) => {
                for (entry, byte) in agent.beats().into_iter().take(256).enumerate() {
                    memories.set(Memory::Table, entry, 0, byte as i8)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Requantizes a row's sums of a tile of tokens.
    fn requantize(
        &mut self,
        c: &RowsCommand,
        index: usize,
        tile: usize,
        sums: &[i32],
        memories: &mut Memories,
        agent: &mut Agent,
    ) -> Result<()> {
        let (s, row) = (memories.shape, self.rows[index]);
        let Some(Range { memory, first, .. }) = results(c, &row, (tile, sums.len()), s) else {
            for sum in sums {
                let acc = i64::from(row.bias + sum);
                let logit = (acc * i64::from(row.mult) + (1 << 14)) >> 15;
                agent.given.push_back(Item::Logit(logit as i32));
            }
            return Ok(());
        };
        let (column, stride) = (usize::from(row.column), c.stride as usize);
        for (lane, sum) in sums.iter().enumerate() {
            let token = tile * s.tokens + lane;
            let acc = row.bias + sum;
            if c.kind == Kind::Residual {
                let x = memories.get(memory, first, lane)? as i16;
                let changed = add_residual(x, requant16(acc, row.shift, row.mult));
                let x = if token < c.skip as usize { x } else { changed };
                memories.set(memory, first, lane, x)?;
                if c.moments {
                    let new_length = self.moments.len().max(token + 1);
                    self.moments.resize(new_length, (0, 0));
                    self.moments[token].0 += i32::from(x);
                    self.moments[token].1 += i64::from(x) * i64::from(x);
                }
                continue;
            }
            let mut code = requant8(acc, row.shift, row.mult, c.zero_point as i8);
            if c.table {
                let entry = (i32::from(code) + 128) as usize;
                code = memories.get(Memory::Table, entry, 0)? as i8;
            }
            self.code_sums[index] += i32::from(code);
            let (word, lane) = match memory {
                Memory::Key => s.word_and_lane(s.key(token, column, stride)),
                Memory::Value => s.word_and_lane(s.value(token, column, c.tokens as usize)),
                _ => (first, lane),
            };
            memories.set(memory, word, lane, code)?;
        }
        Ok(())
    }

    /// Stores the means of the value columns.
    fn store_means(&self, c: &RowsCommand, memories: &mut Memories) -> Result<()> {
        for (row, sum) in self.rows.iter().zip(&self.code_sums) {
            if row.destination == Destination::Value as u8 {
                let mean = (sum * c.reciprocal as i32 + (1 << 15)) >> 16;
                memories.set(Memory::Mean, row.column.into(), 0, mean)?;
            }
        }
        Ok(())
    }
}

/// Returns the codes of an attention tile's output, a row of tokens for each dimension.
fn attend(c: &Attend, memories: &mut Memories, agent: &mut Agent) -> Result<Vec<Vec<i8>>> {
    let (s, tokens) = (memories.shape, c.tokens as usize);
    let scales = agent.taken.drain(..tokens).filter_map(|item| match item {
        Item::Scale(scale) => Some(scale),
        _ => None,
    });
    let scales: Vec<Scale> = scales.collect();
    let columns = (c.base..c.base + c.rows).map(|column| column as usize);
    columns
        .map(|column| {
            let mean = memories.get(Memory::Mean, column, 0)?;
            let sums = agent.sums(s.groups(tokens), tokens);
            let codes = sums.iter().zip(&scales);
            let code = |(&sum, &(r, p, residue))| attention_output(sum, residue, mean, r, p);
            Ok(codes.map(code).collect())
        })
        .collect()
}
