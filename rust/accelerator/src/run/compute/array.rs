//! Gives the array's steps values.

use quasar_core::error::{Error, Result};
use quasar_hardware::Hardware;

use super::memory::Memories;
use super::queues::Item;
use super::slice::Slice;
use super::Agent;
use crate::isa::Command;
use crate::shape::Shape;
use crate::unit::{Leaves, Memory, ProductPass, Range, Step};

pub(super) struct Array {
    /// S, the bits of a slice's low field.
    shift: u32,
    /// The half of the weights that was taken last.
    weights: Vec<u8>,
    /// The activations that were read last.
    activations: Option<Range>,
    /// Low and high sums of the passes so far, of each row pair and token.
    sums: Vec<(i64, i64)>,
    /// The largest scores of the present attention tile.
    maxima: Vec<i32>,
}

impl Array {
    pub(super) fn new(hardware: &Hardware) -> Self {
        Self {
            shift: hardware.board().dsp_kind.shift(),
            weights: Vec::new(),
            activations: None,
            sums: Vec::new(),
            maxima: Vec::new(),
        }
    }

    pub(super) fn step(
        &mut self,
        command: Command,
        step: Step,
        memories: &mut Memories,
        agent: &mut Agent,
    ) -> Result<()> {
        match step {
            Step::TakeHalf(_) => self.weights = agent.beats(),
            // These are row operands, whose places depend on the row.
            Step::Read(range) if matches!(range.memory, Memory::Key | Memory::Value) => {}
            Step::Read(range) => self.activations = Some(range),
            Step::Pass(product) => {
                self.multiply(command, product, memories)?;
                match product.pass.leaves {
                    Leaves::Stay => {}
                    Leaves::Sums => self.send(command, product, memories.shape, agent),
                    Leaves::Scores => self.score(command, product, memories)?,
                }
            }
            Step::Write(_) => {
                // Without a token a lane's maximum is the least number.
                let s = memories.shape;
                let mut maxima = std::mem::take(&mut self.maxima);
                maxima.resize(s.exponential_groups() * s.exponential_lanes, i32::MIN);
                let groups = maxima.chunks(s.exponential_lanes);
                (agent.given).extend(groups.map(|group| Item::Maxima(group.to_vec())));
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds a pass to the sums of all row pairs and tokens.
    fn multiply(
        &mut self,
        command: Command,
        product: ProductPass,
        memories: &mut Memories,
    ) -> Result<()> {
        let rows = product.pass.rows;
        let probabilities = matches!(command, Command::Context(_));
        let (first, columns) = product.columns;
        let Some(read) = self.activations else {
            return Err(Error::InvalidValue("a pass reads no activations".into()));
        };
        let all = rows.pairs() as usize * product.tokens;
        self.sums.resize(all, (0, 0));
        for at in 0..all {
            let (pair, lane) = (at / product.tokens, at % product.tokens);
            let eight_bit = pair >= rows.rows4.div_ceil(2) as usize;
            let mut slice = Slice::new(self.shift, eight_bit, probabilities);
            for k in first..first + columns {
                let weight = self.weight(command, product.row + pair, pair, k, memories)?;
                let activation = memories.get(read.memory, read.first + k, lane)?;
                slice.add(weight, activation.into());
            }
            let (low, high) = slice.finish();
            self.sums[at].0 += low;
            self.sums[at].1 += high;
        }
        Ok(())
    }

    /// Returns the row operand of a column.
    fn weight(
        &self,
        command: Command,
        row: usize,
        pair: usize,
        k: usize,
        memories: &mut Memories,
    ) -> Result<u8> {
        let s = memories.shape;
        let (memory, place) = match command {
            Command::Scores(c) => {
                let column = c.base as usize + k;
                (Memory::Key, s.key(row, column, c.stride as usize))
            }
            Command::Context(c) => {
                let column = s.context_base(&c) as usize + row;
                (Memory::Value, s.value(k, column, c.keys as usize))
            }
            _ => {
                let at = k * s.pairs + s.pairs - 1 - pair;
                return Ok(self.weights.get(at).copied().unwrap_or_default());
            }
        };
        let (word, lane) = s.word_and_lane(place);
        Ok(memories.get(memory, word, lane)? as u8)
    }

    /// Sends the sums of all rows, L tokens at a time.
    fn send(&mut self, command: Command, product: ProductPass, s: Shape, agent: &mut Agent) {
        let rows4 = match command {
            Command::Gemm(_) => product.pass.rows.rows4 as usize,
            _ => 0,
        };
        let mut row = |sums: &mut dyn Iterator<Item = i64>| {
            let sums: Vec<i32> = sums.map(|sum| sum as i32).collect();
            for group in sums.chunks(s.lanes) {
                let mut item = group.to_vec();
                item.resize(s.lanes, i32::MIN);
                agent.given.push_back(Item::Sums(item));
            }
        };
        let sums = std::mem::take(&mut self.sums);
        for (pair, sums) in sums.chunks(product.tokens).enumerate() {
            if 2 * pair >= rows4 {
                row(&mut sums.iter().map(|(low, high)| 16 * high + low));
                continue;
            }
            row(&mut sums.iter().map(|(low, _)| *low));
            if 2 * pair + 1 < rows4 {
                row(&mut sums.iter().map(|(_, high)| *high));
            }
        }
    }

    /// Stores the scores of some keys.
    fn score(
        &mut self,
        command: Command,
        product: ProductPass,
        memories: &mut Memories,
    ) -> Result<()> {
        let Command::Scores(c) = command else {
            return Ok(());
        };
        self.maxima.resize(memories.shape.tokens, i32::MIN);
        let sums = std::mem::take(&mut self.sums);
        for (at, (low, high)) in sums.into_iter().enumerate() {
            let (key, lane) = (product.row + at / product.tokens, at % product.tokens);
            let score = (16 * high + low) as i32;
            memories.set(Memory::Score(c.parity), key, lane, score)?;
            self.maxima[lane] = score.max(self.maxima[lane]);
        }
        Ok(())
    }
}
