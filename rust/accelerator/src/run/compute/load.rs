//! Gives load's steps values.

use quasar_core::error::{Error, Result};

use super::memory::Memories;
use super::queues::Item;
use super::Agent;
use crate::arena_layout::words;
use crate::isa::{check, Command, Load, LoadEnd, Target};
use crate::program::Program;
use crate::unit::{Memory, Step};

/// Seed of the arena: a program's commands have no key yet.
const SEED: u32 = 0;

pub(super) struct Loader {
    /// The arena with [`SEED`].
    arena: Vec<u8>,
    /// All transfers from the arena of each slot's frame were sound.
    sound: [bool; 2],
    /// A command had another key, which stays until a reset.
    foreign: bool,
    /// Transfers from the arena so far, by slot, modulo 2^16.
    number: [u16; 2],
    /// Nonce of the input of each slot's frame.
    nonce: [u32; 2],
}

impl Loader {
    pub(super) fn new(program: &Program) -> Self {
        Self {
            arena: program.keyed_arena(SEED),
            sound: [true; 2],
            foreign: false,
            number: [0; 2],
            nonce: [0; 2],
        }
    }

    pub(super) fn step(
        &mut self,
        command: Command,
        step: Step,
        input: &[u8],
        memories: &mut Memories,
        agent: &mut Agent,
    ) -> Result<()> {
        let s = memories.shape;
        match (command, step) {
            (Command::Load(c), Step::Transfer(queue)) => {
                let data = self.transfer(&c, input, s.beat)?;
                if queue.is_some() {
                    let beats = data.chunks_exact(s.beat);
                    (agent.given).extend(beats.map(|beat| Item::Beat(beat.to_vec())));
                    return Ok(());
                }
                let word = s.beats(s.tokens) * s.beat;
                for (address, codes) in data.chunks_exact(word).enumerate() {
                    for (lane, &code) in codes.iter().take(s.tokens).enumerate() {
                        memories.set(Memory::Input, address, lane, code as i8)?;
                    }
                }
            }
            (Command::LoadEnd(c), Step::Give(..)) => agent.given.push_back(self.end(c)),
            _ => {}
        }
        Ok(())
    }

    /// Checks a transfer and returns its data.
    fn transfer<'a>(&'a mut self, c: &Load, input: &'a [u8], beat: usize) -> Result<&'a [u8]> {
        let memory = if c.input { input } else { &self.arena };
        let (first, bytes) = (c.address as usize * beat, c.beats as usize * beat);
        let Some(data) = memory.get(first..first + bytes + beat) else {
            return Err(Error::InvalidValue(format!(
                "{c:?} is beyond the {} bytes of its memory",
                memory.len()
            )));
        };
        let (data, last) = data.split_at(bytes);
        let key = words(last).next().map(|stated| stated ^ check(data));
        let frame = c.frame as usize;
        self.foreign |= c.key != SEED;
        if c.begins {
            self.nonce[frame] = key.unwrap_or_default();
        } else if c.target == Target::Patches {
            self.sound[frame] &= key == Some(self.nonce[frame]);
        } else {
            let number = &mut self.number[frame];
            self.sound[frame] &= key == Some(SEED ^ u32::from(*number));
            *number = number.wrapping_add(1);
        }
        Ok(data)
    }

    fn end(&mut self, c: LoadEnd) -> Item {
        let frame = c.frame as usize;
        let number = std::mem::take(&mut self.number[frame]);
        let sound = std::mem::replace(&mut self.sound[frame], true);
        Item::Checks {
            sound: sound && u32::from(number) == c.transfers && !self.foreign,
            nonce: std::mem::take(&mut self.nonce[frame]),
        }
    }
}
