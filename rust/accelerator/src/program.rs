//! A compiled subnet: command lists, the arena's image, and the layout of a frame's input and output.
//!
//! [`Program::compile`] makes it ([`crate::compile`]); it is immutable. Depends on [`crate::isa`] and the hardware's configuration.

use std::fmt;

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::Pool;
use quasar_core::Subnet;
use quasar_hardware::Hardware;

use crate::arena_layout;
use crate::isa::{check, sealed, Command, PORT_BYTES};

/// A part of the frames' work that the host starts at once. The number is a frame's slot; with one frame in flight it is 0 and there
/// are no steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// The first half of the phases of the frame in this slot.
    Start(u8),
    /// The second half of the frame in this slot, interleaved with the first half of the one in the other.
    Step(u8),
    /// The second half of the frame in this slot.
    End(u8),
}

impl Segment {
    /// All segments of a configuration with that many frames in flight, 1 or 2.
    pub fn all(frames: usize) -> &'static [Self] {
        const ALL: [Segment; 6] = [
            Segment::Start(0),
            Segment::End(0),
            Segment::Start(1),
            Segment::End(1),
            Segment::Step(0),
            Segment::Step(1),
        ];
        if frames == 1 {
            &ALL[..2]
        } else {
            &ALL
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Start(slot) => write!(f, "start{slot}"),
            Self::Step(slot) => write!(f, "step{slot}"),
            Self::End(slot) => write!(f, "end{slot}"),
        }
    }
}

/// What a command is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frame's slot.
    pub slot: u8,
    /// The frame's phase: 0 the patch embedding, then attention and MLP of each block, then the head.
    pub phase: u16,
    /// The layer or stage.
    pub stage: &'static str,
}

/// One segment's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The segment.
    pub segment: Segment,
    /// Its commands, as fetch reads them.
    pub commands: Vec<Command>,
    /// What each is part of.
    pub places: Vec<Place>,
}

/// Sizes of the network that the program's memory formats and its verification need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) tokens: usize,
    pub(crate) prefix: usize,
    pub(crate) patch_len: usize,
    pub(crate) embed: usize,
    pub(crate) pool: Pool,
    pub(crate) phases: usize,
}

/// A subnet, compiled for a configuration. Immutable.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub(crate) hardware: Hardware,
    pub(crate) name: String,
    pub(crate) sizes: Sizes,
    pub(crate) lists: Vec<List>,
    pub(crate) arena: Vec<u8>,
    /// The class of each logit that leaves, in order.
    pub(crate) logits: Vec<u16>,
}

impl Program {
    /// Compiles a subnet. The same subnet and configuration always give the same program.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a mode that is modelled only, [`Error::InvalidSettings`] for a configuration that the HLS sources
    /// cannot be built for, [`Error::DoesNotFit`] where a buffer or a field of a command cannot hold what the subnet needs.
    pub fn compile(subnet: &Subnet, hardware: &Hardware) -> Result<Self> {
        crate::compile::compile(subnet, hardware)
    }

    /// The configuration that it is compiled for.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The subnet's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Phases of a frame.
    pub fn phases(&self) -> usize {
        self.sizes.phases
    }

    /// All segments with their commands.
    pub fn segments(&self) -> impl Iterator<Item = (Segment, &[Command])> {
        self.lists
            .iter()
            .map(|list| (list.segment, &list.commands[..]))
    }

    /// One segment's commands.
    ///
    /// # Panics
    /// For a segment that a configuration with one frame in flight does not have.
    pub fn commands(&self, segment: Segment) -> &[Command] {
        &self.list(segment).commands
    }

    /// One segment as it stands in memory: its commands with their checks, which go on from a seed that the host then gives fetch.
    ///
    /// # Panics
    /// As [`Self::commands`].
    pub fn command_bytes(&self, segment: Segment, seed: u32) -> Vec<u8> {
        let words = |command: &Command| command.encode().expect("the compiler has encoded it");
        sealed(self.commands(segment).iter().map(words), seed)
            .iter()
            .flatten()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// A segment by its name.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] lists those that there are.
    pub fn segment(&self, name: &str) -> Result<Segment> {
        let names = || self.segments().map(|(segment, _)| segment);
        names()
            .find(|segment| segment.to_string() == name)
            .ok_or_else(|| {
                let names: Vec<_> = names().map(|segment| segment.to_string()).collect();
                Error::InvalidValue(format!(
                    "segment {name:?}; this program has {}",
                    names.join(", ")
                ))
            })
    }

    /// What each command of a segment is part of.
    ///
    /// # Panics
    /// As [`Self::commands`].
    pub fn places(&self, segment: Segment) -> &[Place] {
        &self.list(segment).places
    }

    fn list(&self, segment: Segment) -> &List {
        self.lists
            .iter()
            .find(|list| list.segment == segment)
            .expect("one frame in flight has neither steps nor a slot 1")
    }

    /// The arena: weights, row parameters, gains, tables and the residual's first values, checks included, in whole logical beats.
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// Bytes of a logical beat: 16 from each AXI port.
    pub fn beat_bytes(&self) -> usize {
        PORT_BYTES * self.hardware.configuration().axi_ports as usize
    }

    /// Tokens of the array.
    fn array_tokens(&self) -> usize {
        self.hardware.configuration().array.tokens as usize
    }

    /// Bytes of a frame's patches in `input`'s layout, with their check: whole logical beats.
    pub fn input_bytes(&self) -> usize {
        let Sizes {
            tokens, patch_len, ..
        } = self.sizes;
        let words = tokens.div_ceil(self.array_tokens()) * patch_len;
        (words * arena_layout::word_beats(self.array_tokens(), self.beat_bytes()) + 1)
            * self.beat_bytes()
    }

    /// Patch codes of a frame.
    pub fn patch_codes(&self) -> usize {
        (self.sizes.tokens - self.sizes.prefix) * self.sizes.patch_len
    }

    /// Lays a frame's patch codes out as `input` has them, and adds the check. `patches` is `[grid, patch_len]`.
    ///
    /// # Panics
    /// Where `patches` has not [`Self::patch_codes`] or `out` not [`Self::input_bytes`] elements.
    pub fn pack_input(&self, patches: &[i8], out: &mut [u8]) {
        assert_eq!(patches.len(), self.patch_codes(), "codes of all patches");
        assert_eq!(out.len(), self.input_bytes(), "one frame's input");
        let (lanes, beat) = (self.array_tokens(), self.beat_bytes());
        let Sizes {
            prefix, patch_len, ..
        } = self.sizes;
        let word_bytes = arena_layout::word_beats(lanes, beat) * beat;
        out.fill(0);
        for (patch, codes) in patches.chunks_exact(patch_len).enumerate() {
            let token = prefix + patch;
            let (tile, lane) = (token / lanes, token % lanes);
            let first = tile * patch_len * word_bytes + lane;
            for (word, &code) in out[first..].iter_mut().step_by(word_bytes).zip(codes) {
                *word = code as u8;
            }
        }
        let (data, last) = out.split_at_mut(self.input_bytes() - beat);
        last[..4].copy_from_slice(&arena_layout::check_of(data).to_le_bytes());
    }

    /// Divides whole logical beats among the AXI ports: stripe i has what port i reads, 16 bytes a beat.
    ///
    /// # Panics
    /// Where `logical` does not end with a beat.
    pub fn stripes(&self, logical: &[u8]) -> Vec<Vec<u8>> {
        let beat = self.beat_bytes();
        assert_eq!(logical.len() % beat, 0, "whole beats");
        let port = |i: usize| {
            let beats = logical.chunks_exact(beat);
            beats.flat_map(move |b| &b[PORT_BYTES * i..PORT_BYTES * (i + 1)])
        };
        (0..beat / PORT_BYTES)
            .map(|i| port(i).copied().collect())
            .collect()
    }

    /// Logits of a frame.
    pub fn classes(&self) -> usize {
        self.logits.len()
    }

    /// Bytes of a frame's output: logits, padding, trailer.
    pub fn output_bytes(&self) -> usize {
        (4 * self.classes()).next_multiple_of(PORT_BYTES) + PORT_BYTES
    }

    /// Reads a frame's output: trailer first, then the logits, in the order of the classes.
    ///
    /// # Errors
    /// [`Error::CorruptOutput`] where the tag, the number of logits, their check or a transfer's check is wrong;
    /// [`Error::InvalidValue`] for a wrong size.
    pub fn read_output(&self, bytes: &[u8], tag: u32, logits: &mut [i32]) -> Result<()> {
        let classes = self.classes();
        if bytes.len() != self.output_bytes() || logits.len() != classes {
            return Err(Error::InvalidValue(format!(
                "{} bytes of output for {} logits; this program has {} for {classes}",
                bytes.len(),
                logits.len(),
                self.output_bytes()
            )));
        }
        let words: Vec<u32> = arena_layout::words(bytes).collect();
        let trailer = &words[words.len() - 4..];
        let (found, count, stated, status) = (trailer[0], trailer[1], trailer[2], trailer[3]);
        let wrong = |what: String| Err(Error::CorruptOutput(what));
        if found != tag {
            return wrong(format!(
                "the trailer has tag {found:#x} instead of {tag:#x}; it is another frame's"
            ));
        }
        if count as usize != classes {
            return wrong(format!("{count} logits are stated instead of {classes}"));
        }
        if status & 1 != 0 {
            return wrong("a transfer from memory failed its check".into());
        }
        if status != 0 {
            return wrong(format!("unknown status {status:#x}"));
        }
        let computed = check(words[..classes].iter().copied());
        if computed != stated {
            return wrong(format!(
                "the logits' check is stated as {stated:#010x} but is {computed:#010x}"
            ));
        }
        for (&class, &word) in self.logits.iter().zip(&words) {
            logits[class as usize] = word as i32;
        }
        Ok(())
    }
}
