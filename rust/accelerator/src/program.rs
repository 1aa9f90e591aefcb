//! Holds a compiled subnet: command lists, the arena's image, and the layouts of a frame's input
//! and output.
//!
//! The compiler builds a program; afterwards it is immutable. Depends on [`crate::isa`],
//! [`crate::shape`], `arena_layout` and the hardware's configuration.

use std::fmt;

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::{Image, Patch, Pool};
use quasar_core::Kernels;
use quasar_hardware::tiling::Band;
use quasar_hardware::Hardware;

use crate::arena_layout::{self, Cursor, Transfer};
use crate::isa::{change_key, check, sealed, trailer, Command, PORT_BYTES};
use crate::shape::Shape;

/// Bytes of patches: each patch is `number` lines of bytes, `distance` apart.
struct Lines<'a> {
    data: &'a [u8],
    number: usize,
    distance: usize,
    /// A code is its byte XOR this.
    flip: u8,
    /// The word of each byte of a first line. The next line's are `words_each` further.
    words: Vec<usize>,
    words_each: usize,
}

/// Returns an image with its border.
fn with_border(image: &[u8], size: Image, patch: Patch) -> Vec<u8> {
    let (row, border) = (size.width * size.channels, patch.pad * size.channels);
    let wide = row + 2 * border;
    let mut padded = vec![patch.pad_value; (size.height + 2 * patch.pad) * wide];
    let inside = padded[patch.pad * wide..].chunks_exact_mut(wide);
    for (out, pixels) in inside.zip(image.chunks_exact(row)) {
        out[border..][..row].copy_from_slice(pixels);
    }
    padded
}

/// Most frames whose last segment is started and that await their output.
pub(crate) const FINISHING: usize = 2;

/// A list of commands that one start of fetch runs. The number is the frame's slot. With one frame
/// in flight the slot is 0 and there is no [`Self::Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// The first half of the phases of the frame in this slot.
    Start(u8),
    /// The second half of the frame in this slot, interleaved with the first half of the frame in
    /// the other slot.
    Step(u8),
    /// The second half of the frame in this slot.
    End(u8),
}

impl Segment {
    /// Returns all segments of a configuration with 1 or 2 frames in flight.
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

/// The part of the network that a command belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frame's slot.
    pub slot: u8,
    /// Phase of the frame. Phase 0 is the patch embedding; attention and MLP of each block follow,
    /// then the head.
    pub phase: u16,
    /// The layer or stage.
    pub stage: &'static str,
}

/// The commands of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The segment.
    pub segment: Segment,
    /// Commands, in the order in which fetch reads them.
    pub commands: Vec<Command>,
    /// Place of each command in the network.
    pub places: Vec<Place>,
}

/// Sizes of the network for the memory formats and the schedule check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetworkSizes {
    pub(crate) tokens: usize,
    pub(crate) prefix: usize,
    pub(crate) patch_len: usize,
    pub(crate) embed: usize,
    pub(crate) pool: Pool,
    pub(crate) patch_tokens: bool,
    pub(crate) embed_norm: bool,
    pub(crate) phases: usize,
    /// Pairs of rows of a head that are rotated; 0: none are.
    pub(crate) pairs: u32,
}

impl NetworkSizes {
    /// Returns true for the attention of a block that pools by attention.
    pub(crate) fn pools(&self, phase: usize) -> bool {
        // The block's MLP and the head follow.
        self.pool == Pool::Attention && phase + 3 == self.phases
    }
}

/// Returns the transfer of each band of a frame's patches. Addresses count from the frame's input.
pub(crate) fn input_transfers(
    hardware: &Hardware,
    tokens: usize,
    patch_len: usize,
) -> Vec<(Band, Transfer)> {
    let shape = Shape::of(hardware);
    let word = shape.padded(patch_len) * arena_layout::word_beats(shape.tokens, shape.beat);
    let mut cursor = Cursor::default();
    hardware
        .input_bands(tokens as u64, patch_len as u64)
        .map(|band| {
            let tiles = shape.tiling().token_tiles(band.tokens) as usize;
            (band, cursor.take(tiles * word))
        })
        .collect()
}

/// A subnet, compiled for a configuration. Immutable.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub(crate) hardware: Hardware,
    pub(crate) name: String,
    pub(crate) sizes: NetworkSizes,
    pub(crate) lists: Vec<List>,
    pub(crate) arena: Vec<u8>,
    /// Offset of each transfer's check in the arena, in the order in which a frame reads them.
    pub(crate) arena_checks: Vec<usize>,
    /// Index of the head's output for each logit, in the order in which store writes logits. With a
    /// pair of heads each output is the sum of two logits. With patch tokens these are the outputs
    /// of all tokens, `[tokens, rows]`.
    pub(crate) output_of_logit: Vec<u32>,
    /// Outputs of a frame, in the order of [`quasar_core::subnet::config::Config::outputs`].
    pub(crate) outputs: usize,
    /// Rows of each head: classes, then the values of an embedding.
    pub(crate) head_rows: usize,
    /// Rows of a head before those that repeat codes.
    pub(crate) first_code: usize,
}

impl Program {
    /// Returns the configuration of the program.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// Returns the subnet's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of phases of a frame.
    pub fn phases(&self) -> usize {
        self.sizes.phases
    }

    /// Returns all command lists.
    pub fn lists(&self) -> &[List] {
        &self.lists
    }

    /// Returns all segments with their commands.
    pub fn segments(&self) -> impl Iterator<Item = (Segment, &[Command])> {
        self.lists
            .iter()
            .map(|list| (list.segment, &list.commands[..]))
    }

    /// Returns the commands of a segment.
    ///
    /// # Panics
    /// For a segment that a configuration with one frame in flight does not have.
    pub fn commands(&self, segment: Segment) -> &[Command] {
        &self.list(segment).commands
    }

    /// Returns a segment in memory format: its commands with checks and with the arena's key. The
    /// host must write `seed` to fetch's register and `key` to load's seed register.
    ///
    /// # Panics
    /// As [`Self::commands`].
    pub fn command_bytes(&self, segment: Segment, seed: u32, key: u32) -> Vec<u8> {
        let words = |command: &Command| {
            let command = command.with_key(key);
            command.encode().expect("the compiler has encoded it")
        };
        let commands: Vec<_> = self.commands(segment).iter().map(words).collect();
        sealed(&commands, seed)
            .iter()
            .flatten()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// Returns the segment with this name.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] lists the names of all segments.
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

    /// Returns the place of each command of a segment.
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

    /// Returns the arena: weights, row parameters, gains, tables and the initial values of the
    /// residual, in whole logical beats. Its checks have no key.
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// Returns the arena in memory format. The key of a check is `seed`, which the host also writes
    /// to load's register, XOR the transfer's number modulo 2^16.
    pub fn keyed_arena(&self, seed: u32) -> Vec<u8> {
        let mut arena = self.arena.clone();
        for (number, &check) in self.arena_checks.iter().enumerate() {
            change_key(&mut arena[check..], seed ^ u32::from(number as u16));
        }
        arena
    }

    /// Returns the bytes of a logical beat: 16 from each AXI port.
    pub fn beat_bytes(&self) -> usize {
        Shape::of(&self.hardware).beat
    }

    /// Returns the number of the array's tokens.
    fn array_tokens(&self) -> usize {
        Shape::of(&self.hardware).tokens
    }

    /// Returns the transfer of each band of a frame's patches, in the layout of the memory `input`.
    pub(crate) fn input_transfers(&self) -> Vec<(Band, Transfer)> {
        input_transfers(&self.hardware, self.sizes.tokens, self.sizes.patch_len)
    }

    /// Returns the bytes of a packed input: a frame's patches in the layout of the memory `input`,
    /// with a check for each band, in whole logical beats.
    pub fn input_bytes(&self) -> usize {
        let beats = |(_, transfer): &(_, Transfer)| transfer.beats as usize + 1;
        self.input_transfers().iter().map(beats).sum::<usize>() * self.beat_bytes()
    }

    /// Returns the number of a frame's patch codes.
    pub fn patch_codes(&self) -> usize {
        (self.sizes.tokens - self.sizes.prefix) * self.sizes.patch_len
    }

    /// XORs `difference` to the keys of the checks in a frame's input.
    pub(crate) fn change_input_key(&self, input: &mut [u8], difference: u32) {
        for (_, transfer) in self.input_transfers() {
            let check = (transfer.address + transfer.beats) as usize * self.beat_bytes();
            change_key(&mut input[check..], difference);
        }
    }

    /// Packs a frame's patch codes, `[grid, patch_len]`, into the layout of the memory `input`,
    /// with checks without a key.
    ///
    /// # Panics
    /// If `patches` does not have [`Self::patch_codes`] elements or `out` does not have
    /// [`Self::input_bytes`].
    pub fn pack_input(&self, patches: &[i8], out: &mut [u8]) {
        assert_eq!(patches.len(), self.patch_codes(), "codes of all patches");
        let patch_len = self.sizes.patch_len;
        let codes: Vec<u8> = patches.iter().map(|&code| code as u8).collect();
        let lines = Lines {
            data: &codes,
            number: 1,
            distance: 0,
            flip: 0,
            words: (0..patch_len).collect(),
            words_each: patch_len,
        };
        self.pack(Kernels::best(), &lines, |patch| patch * patch_len, out);
    }

    /// Packs the patches of a preprocessed image as [`Self::pack_input`] does, without their codes
    /// in between. `columns` is the width of the grid.
    ///
    /// # Panics
    /// If the image is not of the program's network, or `out` does not have [`Self::input_bytes`].
    pub fn pack_image(
        &self,
        kernels: Kernels,
        image: &[u8],
        size: Image,
        patch: Patch,
        columns: usize,
        out: &mut [u8],
    ) {
        let Image {
            channels, width, ..
        } = size;
        let Patch {
            kernel,
            stride,
            pad,
            ..
        } = patch;
        let row = (width + 2 * pad) * channels;
        let padded;
        let data = if pad == 0 {
            image
        } else {
            padded = with_border(image, size, patch);
            &padded
        };
        let pixels = kernel * kernel;
        let lines = Lines {
            data,
            number: kernel,
            distance: row,
            // A code is the pixel - 128.
            flip: 0x80,
            words: (0..kernel)
                .flat_map(|kx| (0..channels).map(move |channel| channel * pixels + kx))
                .collect(),
            words_each: kernel,
        };
        let start = |patch| patch / columns * stride * row + patch % columns * stride * channels;
        self.pack(kernels, &lines, start, out);
    }

    /// Packs patches, the first lines of which begin at `start(patch)`.
    fn pack(
        &self,
        kernels: Kernels,
        lines: &Lines,
        start: impl Fn(usize) -> usize,
        out: &mut [u8],
    ) {
        assert_eq!(out.len(), self.input_bytes(), "one frame's input");
        let (lanes, beat) = (self.array_tokens(), self.beat_bytes());
        let NetworkSizes {
            prefix, patch_len, ..
        } = self.sizes;
        let word_bytes = arena_layout::word_beats(lanes, beat) * beat;
        let tile_bytes = Shape::of(&self.hardware).padded(patch_len) * word_bytes;
        let places: Vec<_> = lines.words.iter().map(|word| word * word_bytes).collect();
        let mut starts = Vec::with_capacity(lanes);
        out.fill(0);
        for (band, transfer) in self.input_transfers() {
            let (_, out) = out.split_at_mut(transfer.address as usize * beat);
            let (data, last) = out.split_at_mut(transfer.beats as usize * beat);
            let first = band.tile as usize * lanes;
            let tiles = (first..first + band.tokens as usize).step_by(lanes);
            for (tile, out) in tiles.zip(data.chunks_mut(tile_bytes)) {
                // Tokens before the patches keep their lanes.
                let tokens = tile.max(prefix)..(tile + lanes).min(first + band.tokens as usize);
                let lane = tokens.start.min(tokens.end) - tile;
                starts.clear();
                starts.extend(tokens.map(|token| start(token - prefix)));
                for line in 0..lines.number {
                    let from = &lines.data[line * lines.distance..];
                    let out = &mut out[line * lines.words_each * word_bytes + lane..];
                    kernels.interleave(from, &starts, lines.flip, &places, out);
                }
            }
            last[..4].copy_from_slice(&check(data).to_le_bytes());
        }
    }

    /// Returns the number of a frame's outputs: classes, and values of an embedding; with patch
    /// tokens as many more for each patch.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the number of logits in a frame's output: one for each output of each head.
    pub fn logits(&self) -> usize {
        self.output_of_logit.len()
    }

    /// Returns the bytes of a frame's output: logits, padding, trailer.
    pub fn output_bytes(&self) -> usize {
        (4 * self.logits()).next_multiple_of(PORT_BYTES) + PORT_BYTES
    }

    /// Checks a frame's output and reads it into logits in the order of the classes. Adds the
    /// logits of a pair of heads.
    ///
    /// # Errors
    /// [`Error::CorruptOutput`] if the output's check, the nonce, the number of logits, a
    /// transfer's check or the number of transfers is wrong, or if a value of the embedding is not
    /// an 8-bit code; [`Error::InvalidValue`] for a wrong size.
    pub fn read_output(&self, bytes: &[u8], nonce: u32, logits: &mut [i32]) -> Result<()> {
        let (classes, outputs) = (self.logits(), self.outputs);
        if bytes.len() != self.output_bytes() || logits.len() != outputs {
            return Err(Error::InvalidValue(format!(
                "{} bytes of output for {} logits; this program has {} for {outputs}",
                bytes.len(),
                logits.len(),
                self.output_bytes()
            )));
        }
        let words: Vec<u32> = arena_layout::words(bytes).collect();
        let last = &words[words.len() - PORT_BYTES / 4..];
        let (found, count) = (last[trailer::NONCE], last[trailer::COUNT]);
        let (stated, status) = (last[trailer::CHECK], last[trailer::STATUS]);
        let wrong = |what: String| Err(Error::CorruptOutput(what));
        let computed = check(&bytes[..bytes.len() - PORT_BYTES + 4 * trailer::CHECK]);
        if computed != stated {
            return wrong(format!(
                "the output's check is stated as {stated:#010x} but is {computed:#010x}"
            ));
        }
        if found != nonce {
            return wrong(format!(
                "the nonce is {found:#x} instead of {nonce:#x}: the answer is another frame's, or \
                 the input failed its check"
            ));
        }
        if count as usize != classes {
            return wrong(format!("{count} logits are stated instead of {classes}"));
        }
        if status & 1 != 0 {
            return wrong(
                "a transfer from memory failed its check, or was read twice or not at all, or \
                 commands of another driver ran"
                    .into(),
            );
        }
        if status != 0 {
            return wrong(format!("unknown status {status:#x}"));
        }
        if self.sizes.patch_tokens {
            let mut tokens = vec![0; self.logits()];
            self.put_in_order(&words, &mut tokens);
            let NetworkSizes { prefix, pool, .. } = self.sizes;
            quasar_core::logits::of_tokens(pool, prefix, self.head_rows, &tokens, logits);
        } else {
            self.put_in_order(&words, logits);
        }
        for outputs in logits.chunks_exact(self.head_rows) {
            for (i, &value) in outputs[self.first_code..].iter().enumerate() {
                if i8::try_from(value).is_err() {
                    return wrong(format!(
                        "value {i} of the embedding is {value}, which is no 8-bit code"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Adds the logits that store has written to the head's outputs.
    fn put_in_order(&self, words: &[u32], outputs: &mut [i32]) {
        outputs.fill(0);
        for (&place, &word) in self.output_of_logit.iter().zip(words) {
            // A head's logits have 27 bits, so more bits come from another subnet's device: the sum
            // must not overflow.
            let output = &mut outputs[place as usize];
            *output = output.wrapping_add(word as i32);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use quasar_core::preprocess::patches_channels_first;
    use quasar_core::Tier;

    use super::*;
    use crate::host::mock;
    use crate::testing::{cascade, cascaded, design, golden, hardware, shape, Random};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_tier_packs_an_image_as_its_codes(
            design in design(), (board, shape) in shape(), cascade in cascade(), seed: u64,
        ) {
            let subnet = design.subnet();
            let hardware = cascaded(&subnet, board, shape, cascade);
            let program = Program::compile(&subnet, &hardware).unwrap();
            let (config, mut random) = (subnet.config(), Random::new(seed));
            let (size, patch, columns) = (config.image, config.patch, config.grid().1);
            let pixels = (0..size.bytes()).map(|_| random.within(0, 255) as u8);
            let image: Vec<u8> = pixels.collect();
            let mut codes = vec![0; program.patch_codes()];
            patches_channels_first(&image, size, patch, columns, 0, &mut codes);
            let mut expected = vec![0; program.input_bytes()];
            program.pack_input(&codes, &mut expected);
            for kernels in Tier::ALL.into_iter().filter_map(Kernels::new) {
                let mut packed = vec![1; expected.len()];
                program.pack_image(kernels, &image, size, patch, columns, &mut packed);
                prop_assert!(packed == expected, "{}", kernels.tier());
            }
        }
    }

    /// Load recognises another driver's segment by its key, so every segment must have a command
    /// for load.
    #[test]
    fn every_segment_has_a_transfer_of_each_of_its_frames() {
        for name in ["token", "mean", "heads", "overlap", "embedding"] {
            let subnet = golden(name);
            let hardware = hardware(&subnet, "zcu102", [7, 8, 4, 3, 3, 1, 2]);
            let program = Program::compile(&subnet, &hardware).unwrap();
            for (segment, commands) in program.segments() {
                for place in program.places(segment) {
                    let slot = u32::from(place.slot);
                    let transfer =
                        |c: &Command| matches!(c, Command::Load(load) if load.frame == slot);
                    assert!(commands.iter().any(transfer), "{name} {segment} {slot}");
                }
            }
        }
    }

    /// Returns a sound output of three logits.
    fn output(nonce: u32, status: u32) -> Vec<u8> {
        let words = [7, -8_i32 as u32, 9, 0, nonce, 3, status];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(check(&bytes).to_le_bytes());
        bytes
    }

    #[test]
    fn every_flipped_bit_of_an_output_is_noticed() {
        let program = mock::program(1, 1);
        let mut logits = [0; 3];
        for status in [0, 1] {
            let sound = output(5, status);
            let read = program.read_output(&sound, 5, &mut logits);
            assert_eq!(read.is_ok(), status == 0);
            for bit in 0..8 * sound.len() {
                let mut flipped = sound.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let error = program.read_output(&flipped, 5, &mut logits).unwrap_err();
                assert!(
                    error.to_string().contains("output's check"),
                    "{bit}: {error}"
                );
            }
        }
        assert_eq!(logits, [7, -8, 9]);
    }

    #[test]
    fn a_sound_output_of_something_else_is_refused() {
        let program = mock::program(1, 1);
        let refused = |bytes: &[u8], what: &str| {
            let error = program.read_output(bytes, 5, &mut [0; 3]).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        };
        refused(&output(4, 0), "the nonce is 0x4 instead of 0x5");
        refused(&output(5, 1), "failed its check, or was read twice");
        refused(&output(5, 2), "unknown status 0x2");
        let mut shorter = output(5, 0);
        shorter[20] = 2;
        let stated = check(&shorter[..28]).to_le_bytes();
        shorter[28..].copy_from_slice(&stated);
        refused(&shorter, "2 logits are stated instead of 3");
    }

    #[test]
    fn a_value_of_the_embedding_that_is_no_code_is_refused() {
        let mut program = Arc::into_inner(mock::program(1, 1)).unwrap();
        program.first_code = 1;
        let mut logits = [0; 3];
        program.read_output(&output(5, 0), 5, &mut logits).unwrap();
        let mut wide = output(5, 0);
        wide[9] = 1;
        let stated = check(&wide[..28]).to_le_bytes();
        wide[28..].copy_from_slice(&stated);
        let error = program.read_output(&wide, 5, &mut logits).unwrap_err();
        assert!(error
            .to_string()
            .contains("value 1 of the embedding is 265"));
    }
}
