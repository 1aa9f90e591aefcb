//! Checks each command on its own: fields whose wrong values change no step. Computes them from
//! network and configuration, without the compiler.

use quasar_core::subnet::config::Pool;
use quasar_hardware::packing::{Activation, Pair};

use super::ensure;
use crate::isa::{Command, Gemm, Kind, LayerNorm, Load, Pooling, RowsCommand, Source, Target};
use crate::program::{Place, Program};
use crate::shape::Shape;

/// Checks the fields that follow from the network and the configuration.
pub(super) struct Checker<'a> {
    pub(super) program: &'a Program,
    pub(super) shape: Shape,
}

impl<'a> Checker<'a> {
    pub(super) fn new(program: &'a Program) -> Self {
        Self {
            program,
            shape: Shape::of(&program.hardware),
        }
    }

    /// Returns the columns of equal passes, as few as a slice's fields allow.
    pub(super) fn pass(&self, columns: u32, pair: Pair, activation: Activation) -> u32 {
        let kind = self.program.hardware.board().dsp_kind;
        let cascade = self.shape.cascade as u32;
        let words = columns.div_ceil(cascade);
        let passes = words.div_ceil(kind.products(pair, activation) as u32 / cascade);
        let fewest = columns.div_ceil(passes.max(1)).div_ceil(cascade);
        columns.min(fewest * cascade)
    }

    /// Rounds columns up to whole words of C.
    fn padded(&self, columns: u32) -> u64 {
        self.shape.padded(columns as usize) as u64
    }

    /// Refuses columns of a memory that do not begin with a word.
    fn whole_words(&self, columns: &[u32]) -> Result<(), String> {
        let cascade = self.shape.cascade as u32;
        ensure(
            columns.iter().all(|columns| columns % cascade == 0),
            "a head or a tile does not begin with a word",
        )
    }

    /// Returns the number of tiles of tokens.
    pub(super) fn tiles(&self, tokens: u32) -> u64 {
        self.shape.tiling().token_tiles(tokens.into())
    }

    /// Checks a command.
    pub(super) fn command(&self, command: Command, place: Place) -> Result<(), String> {
        let sizes = self.program.sizes;
        let buffers = self.program.hardware.configuration().buffers;
        let tokens = sizes.tokens as u32;
        let slot = u32::from(place.slot);
        command.encode().map_err(|e| e.to_string())?;
        match command {
            Command::Load(c) => self.load(c, slot),
            Command::LoadEnd(c) => {
                ensure(c.frame == slot, "the frame is not the slot's")?;
                let transfers = self.program.arena_checks.len() as u16;
                ensure(
                    c.transfers == u32::from(transfers),
                    "the number of transfers is not a frame's",
                )
            }
            Command::Gemm(c) => self.gemm(c, slot),
            Command::Scores(c) => {
                ensure(
                    u64::from(c.keys) <= buffers.score && c.keys == tokens,
                    "the keys are not the tokens",
                )?;
                self.whole_words(&[c.base, c.stride])?;
                ensure(
                    c.columns > 0 && c.base + c.columns <= c.stride,
                    "the head is beyond all heads",
                )
            }
            Command::Context(c) => {
                self.whole_words(&[self.shape.context_base(&c)])?;
                let banks = self.shape.value_banks as u32;
                let words = c.pass.div_ceil(self.shape.cascade as u32);
                ensure(
                    c.bank < banks && c.turn == words % banks,
                    "a bank of values is wrong",
                )?;
                ensure(c.keys == tokens, "the keys are not the tokens")?;
                ensure(
                    c.pass == self.pass(c.keys, Pair::EightBit, Activation::Unsigned),
                    "the pass is wrong",
                )
            }
            Command::Rows(c) => self.rows(c, place),
            Command::Attend(c) => {
                self.whole_words(&[c.base, c.stride])?;
                ensure(c.base + c.rows <= c.stride, "the head is beyond all heads")
            }
            Command::Fill(c) => {
                let pools = sizes.pools(place.phase.into());
                let tokens = if pools { 1 } else { tokens };
                let words = self.tiles(tokens) * sizes.embed as u64;
                ensure(
                    u64::from(c.words) == words && words <= buffers.residual,
                    "the residual is not filled",
                )?;
                ensure(c.frame == slot, "the frame is not the slot's")
            }
            Command::Table(c) => {
                let angles = self.tiles(tokens) * u64::from(sizes.pairs);
                ensure(
                    c.words == 0 || c.words as usize == self.shape.angle_parts(angles),
                    "the angles are miscounted",
                )?;
                ensure(
                    c.words == 0 || (angles > 0 && angles <= buffers.angle),
                    "the angles exceed their memory",
                )
            }
            Command::LayerNorm(c) => self.layer_norm(c, place),
            Command::Softmax(c) => {
                let cap = ((1u32 << 31) - (1 << 20)).checked_div(c.mult);
                ensure(cap == Some(c.cap), "cap is not that of mult")
            }
        }
    }

    pub(super) fn load(&self, c: Load, slot: u32) -> Result<(), String> {
        ensure(c.frame == slot, "the frame is not the slot's")?;
        ensure(c.beats > 0, "nothing is loaded")?;
        ensure(c.key == 0, "the key is the host's to write")?;
        ensure(
            c.input == (c.target == Target::Patches),
            "patches alone are the frame's input",
        )?;
        if c.input {
            let transfers = self.program.input_transfers();
            ensure(
                transfers.iter().any(|(_, transfer)| {
                    (c.address, c.beats) == (transfer.address, transfer.beats)
                }),
                "the patches are not those of a band",
            )?;
        }
        ensure(
            c.begins == (c.input && c.address == 0),
            "the first patches begin a frame",
        )
    }

    pub(super) fn gemm(&self, c: Gemm, slot: u32) -> Result<(), String> {
        let buffers = self.program.hardware.configuration().buffers;
        let pair = if c.rows8 > 0 {
            Pair::EightBit
        } else {
            Pair::FourBit
        };
        ensure(
            c.tokens > 0 && c.columns > 0 && c.rows4 + c.rows8 > 0,
            "it is empty",
        )?;
        ensure(
            c.pass == self.pass(c.columns, pair, Activation::Signed),
            "the pass is wrong",
        )?;
        ensure(
            self.padded(c.columns) <= buffers.weight,
            "its columns exceed the weight buffer",
        )?;
        let (words, normed) = match c.source {
            Source::Input => (buffers.input, false),
            Source::Normed => (buffers.norm, true),
            Source::Query => (buffers.query, false),
            Source::Hidden => (buffers.hidden, false),
        };
        let before = if normed { u64::from(c.tile) } else { 0 };
        ensure(
            (before + self.tiles(c.tokens)) * self.padded(c.columns) <= words,
            "it reads beyond its source",
        )?;
        let row_tiles = self.shape.row_tiles(c.rows4, c.rows8).count();
        ensure(
            c.row_tiles as usize == row_tiles,
            "the tiles of row pairs are miscounted",
        )?;
        ensure(
            c.frame == if normed { slot } else { 0 },
            "the frame is not the slot's",
        )?;
        let one_tile = c.tile == 0 && self.tiles(c.tokens) == 1;
        ensure(
            !normed || one_tile || c.columns as usize == self.program.sizes.embed,
            "tiles of normalised tokens are not the embedding's columns apart",
        )?;
        ensure(
            c.source != Source::Input || c.columns as usize == self.program.sizes.patch_len,
            "the columns are not a patch",
        )
    }

    pub(super) fn rows(&self, c: RowsCommand, place: Place) -> Result<(), String> {
        let (sizes, slot, first) = (self.program.sizes, u32::from(place.slot), place.phase == 0);
        let tokens = sizes.tokens as u32;
        let residual = c.kind == Kind::Residual;
        ensure(c.tokens > 0 && c.rows4 + c.rows8 > 0, "it is empty")?;
        ensure(
            c.frame == if residual { slot } else { 0 },
            "the frame is not the slot's",
        )?;
        // Behind the norm of the embedded patches a row of zeros comes first.
        let normed = sizes.embed_norm && place.phase == 1;
        ensure(
            residual == c.moments || (normed && residual && c.rows4 == 1 && c.rows8 == 0),
            "moments go with the residual",
        )?;
        ensure(
            !c.activation || c.kind == Kind::Codes,
            "the activation is for codes",
        )?;
        ensure(
            (c.kind == Kind::Logits) == (c.stride == 0),
            "the stride is wrong",
        )?;
        ensure(
            c.kind != Kind::Logits || c.tokens == if sizes.patch_tokens { tokens } else { 1 },
            "logits are those of other tokens",
        )?;
        ensure(
            c.pairs == 0 || (c.pairs == sizes.pairs && c.zero_point == 0 && !c.post_tiles),
            "the rotated rows are not the network's",
        )?;
        let skip = if residual && (first || (normed && c.moments)) {
            (sizes.prefix).saturating_sub(c.tile as usize * self.shape.tokens)
        } else {
            0
        };
        if c.kind == Kind::Codes {
            self.whole_words(&[c.stride])?;
        }
        ensure(c.skip as usize == skip, "skip is not the prefix")?;
        ensure(
            !residual || c.stride as usize == sizes.embed,
            "the stride is not the embedding's",
        )?;
        ensure(
            !first || c.tile as usize * self.shape.tokens + c.tokens as usize <= sizes.tokens,
            "the embedding has more tokens than the network",
        )?;
        ensure(
            [0, ((1 << 20) + tokens / 2) / tokens].contains(&c.reciprocal),
            "the reciprocal is wrong",
        )
    }

    pub(super) fn layer_norm(&self, c: LayerNorm, place: Place) -> Result<(), String> {
        let (sizes, slot) = (self.program.sizes, u32::from(place.slot));
        let buffers = self.program.hardware.configuration().buffers;
        let heads = sizes.pool.heads().len();
        let last = place.phase as usize + 1 + heads == sizes.phases;
        let expected = match sizes.pool {
            _ if sizes.patch_tokens => Pooling::None,
            Pool::Mean | Pool::TokenPair if last => Pooling::Before,
            Pool::MeanAfterNorm if last => Pooling::After,
            Pool::Attention if last => Pooling::Unnormalised,
            _ => Pooling::None,
        };
        ensure(c.frame == slot, "the frame is not the slot's")?;
        ensure(c.pool == expected, "the pooling is not the network's")?;
        let from = match (expected, sizes.pool) {
            (Pooling::None | Pooling::Unnormalised, _) => 0,
            (_, Pool::TokenPair) => 1,
            _ => sizes.prefix,
        };
        ensure(
            c.first as usize == from,
            "the mean is not that of the pooled tokens",
        )?;
        ensure(
            c.embed as usize == sizes.embed,
            "the size is not the embedding's",
        )?;
        ensure(
            self.tiles(c.tokens) * self.padded(c.embed) <= buffers.norm,
            "it writes beyond its memory",
        )
    }
}
