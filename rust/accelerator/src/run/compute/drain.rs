//! Gives the drain's steps values.

use quasar_core::error::{Error, Result};
use quasar_kernels::scalar::{add_residual, attention_output, requant16, requant8};

use super::memory::Memories;
use super::queues::{Item, Scale};
use super::Agent;
use crate::isa::{Attend, Command, Destination, Kind, RowParameters, RowsCommand, ROW_BYTES};
use crate::unit::{Contents, Memory, QueueName, Range, Step};

#[derive(Default)]
pub(super) struct Drain {
    /// The row parameters that were taken last, and the sums of these rows' codes.
    rows: Vec<RowParameters>,
    code_sums: Vec<i32>,
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
            (Command::Attend(c), Step::Requantize { .. }) => attend(&c, memories, agent)?,
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
        let row = self.rows[index];
        let stride = c.stride as usize;
        let word = tile * stride + usize::from(row.column);
        for (lane, sum) in sums.iter().enumerate() {
            let token = tile * memories.shape.tokens + lane;
            let acc = row.bias + sum;
            match c.kind {
                Kind::Residual => {
                    let memory = Memory::Residual(c.frame);
                    let word = word + c.tile as usize * stride;
                    let mut x = memories.get(memory, word, lane)? as i16;
                    if token >= c.skip as usize {
                        x = add_residual(x, requant16(acc, row.shift, row.mult));
                        memories.set(memory, word, lane, x)?;
                    }
                    if self.moments.len() <= token {
                        self.moments.resize(token + 1, (0, 0));
                    }
                    if c.moments {
                        self.moments[token].0 += i32::from(x);
                        self.moments[token].1 += i64::from(x) * i64::from(x);
                    }
                }
                Kind::Logits => {
                    let logit = (i64::from(acc) * i64::from(row.mult) + (1 << 14)) >> 15;
                    agent.given.push_back(Item::Logit(logit as i32));
                }
                Kind::Codes => {
                    let mut code = requant8(acc, row.shift, row.mult, c.zero_point as i8);
                    if c.table {
                        let entry = (i32::from(code) + 128) as usize;
                        code = memories.get(Memory::Table, entry, 0)? as i8;
                    }
                    self.code_sums[index] += i32::from(code);
                    store(c, &row, (token, lane, word), code, memories)?;
                }
            }
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

/// Stores a code at its row's destination.
fn store(
    c: &RowsCommand,
    row: &RowParameters,
    (token, lane, word): (usize, usize, usize),
    code: i8,
    memories: &mut Memories,
) -> Result<()> {
    let (s, column) = (memories.shape, usize::from(row.column));
    let (memory, (word, lane)) = match Destination::of_code(row.destination.into()) {
        Some(Destination::Query) => (Memory::Query, (word, lane)),
        Some(Destination::Hidden) => (Memory::Hidden, (word, lane)),
        Some(Destination::Key) => {
            let at = s.key(token, column, c.stride as usize);
            (Memory::Key, s.word_and_lane(at))
        }
        Some(Destination::Value) => {
            let at = s.value(token, column, c.tokens as usize);
            (Memory::Value, s.word_and_lane(at))
        }
        other => {
            return Err(Error::InvalidValue(format!(
                "a row of codes has destination {other:?}"
            )))
        }
    };
    memories.set(memory, word, lane, code)
}

fn attend(c: &Attend, memories: &mut Memories, agent: &mut Agent) -> Result<()> {
    let (s, tokens) = (memories.shape, c.tokens as usize);
    let scales = agent.taken.drain(..tokens).filter_map(|item| match item {
        Item::Scale(scale) => Some(scale),
        _ => None,
    });
    let scales: Vec<Scale> = scales.collect();
    for row in 0..c.rows as usize {
        let column = c.base as usize + row;
        let mean = memories.get(Memory::Mean, column, 0)?;
        let sums = agent.sums(s.groups(tokens), tokens);
        for (lane, (&sum, &(r, p, residue))) in sums.iter().zip(&scales).enumerate() {
            let code = attention_output(sum, residue, mean, r, p);
            let word = (c.tile * c.stride) as usize + column;
            memories.set(Memory::Query, word, lane, code)?;
        }
    }
    Ok(())
}
