//! Holds the on-chip memories.

use quasar_core::error::{Error, Result};
use quasar_hardware::Hardware;

use crate::shape::{Place, Shape};
use crate::unit::Memory;

/// Contents of memories before the first write.
pub(super) const GARBAGE: i8 = 85;

/// A memory whose words hold one value for each token of a tile, or one of each bank of keys or
/// values.
#[derive(Default)]
struct Cells {
    lanes: usize,
    values: Vec<i32>,
}

/// All memories of an accelerator of this shape.
pub(super) struct Memories {
    pub(super) shape: Shape,
    cells: Vec<Cells>,
}

impl Memories {
    pub(super) fn new(hardware: &Hardware) -> Self {
        let (s, b) = (Shape::of(hardware), hardware.configuration().buffers);
        let tokens = |words: u64| (words as usize, s.tokens);
        let banks = |words: u64, banks: usize| (words as usize / s.cascade, banks * s.cascade);
        let sizes = [
            (Memory::Input, tokens(b.input)),
            (Memory::Residual(0), tokens(b.residual)),
            (Memory::Residual(1), tokens(b.residual)),
            (Memory::Normed(0), tokens(b.norm)),
            (Memory::Normed(1), tokens(b.norm)),
            (Memory::Query, tokens(b.query)),
            (Memory::Key, banks(b.key, s.key_banks)),
            (Memory::Value, banks(b.value, s.value_banks)),
            (Memory::Score(0), tokens(b.score)),
            (Memory::Score(1), tokens(b.score)),
            (Memory::Probability(0), tokens(b.score)),
            (Memory::Probability(1), tokens(b.score)),
            (Memory::Hidden, tokens(b.hidden)),
            (Memory::Mean, (b.value as usize * s.value_banks, 1)),
            (Memory::Table, (256, 1)),
        ];
        let mut cells: Vec<_> = (0..Memory::COUNT).map(|_| Cells::default()).collect();
        for (memory, (words, lanes)) in sizes {
            cells[memory.index()] = Cells {
                lanes,
                values: vec![GARBAGE.into(); words * lanes],
            };
        }
        Self { shape: s, cells }
    }

    fn at(&mut self, memory: Memory, word: usize, lane: usize) -> Result<&mut i32> {
        let Cells { lanes, values } = &mut self.cells[memory.index()];
        let (lanes, words) = (*lanes, values.len() / (*lanes).max(1));
        if word >= words || lane >= lanes {
            return Err(Error::InvalidValue(format!(
                "{memory:?}: word {word}, lane {lane} of {words} words of {lanes}"
            )));
        }
        Ok(&mut values[word * lanes + lane])
    }

    pub(super) fn get(&mut self, memory: Memory, word: usize, lane: usize) -> Result<i32> {
        self.at(memory, word, lane).copied()
    }

    pub(super) fn set(
        &mut self,
        memory: Memory,
        word: usize,
        lane: usize,
        value: impl Into<i32>,
    ) -> Result<()> {
        *self.at(memory, word, lane)? = value.into();
        Ok(())
    }
}

impl Shape {
    /// Returns word and lane of a place in keys or values, whose lanes are those of all banks.
    pub(super) const fn word_and_lane(&self, at: Place) -> (usize, usize) {
        (at.word, at.bank * self.cascade + at.byte)
    }
}
