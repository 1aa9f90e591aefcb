//! Gives the softmax's steps values.

use quasar_core::error::Result;
use quasar_kernels::scalar::{attention_scale, exp12, exp8};

use super::memory::Memories;
use super::queues::Item;
use super::Agent;
use crate::isa::Command;
use crate::unit::{Memory, Step};

#[derive(Default)]
pub(super) struct Exponentials {
    /// The largest scores that were taken last, of E tokens.
    maxima: Vec<i32>,
}

impl Exponentials {
    pub(super) fn step(
        &mut self,
        command: Command,
        step: Step,
        memories: &mut Memories,
        agent: &mut Agent,
    ) -> Result<()> {
        let Command::Softmax(c) = command else {
            return Ok(());
        };
        if let Some(Item::Maxima(maxima)) = agent.taken.pop_front() {
            self.maxima = maxima;
        }
        let Step::Exponentials { first, tokens } = step else {
            return Ok(());
        };
        for (lane, &most) in (first..first + tokens).zip(&self.maxima) {
            let (mut sum12, mut sum8) = (0, 0);
            for key in 0..c.keys as usize {
                let difference = most - memories.get(Memory::Score(c.parity), key, lane)?;
                let e12 = exp12(difference.min(c.cap as i32), c.mult as i32);
                let e8 = exp8(e12);
                memories.set(Memory::Probability(c.parity), key, lane, e8)?;
                sum12 += i32::from(e12);
                sum8 += i32::from(e8);
            }
            let (r, p) = attention_scale(sum12 as u32, c.out_mult as i16, c.out_shift as u8);
            let scale = Item::Scale((r, p, sum12 - 16 * sum8));
            agent.given.push_back(scale);
        }
        Ok(())
    }
}
