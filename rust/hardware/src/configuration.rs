//! The accelerator's configuration: array, lanes, buffers, clock, mode. One TOML file; the board is
//! named in it.
//!
//! Depends on [`crate::array_timing`], [`crate::boards`], [`crate::settings`] and
//! [`crate::workload`]. `crate::checked` makes checked hardware of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::{within, MAX_COLUMNS, MAX_TOKENS};
use serde::{Deserialize, Serialize};

use crate::boards::{Board, MAX_CLOCK_MHZ};
use crate::settings;
use crate::workload::{Setting, Workload};

/// The kernels of Vitis HLS: name in the block design, and of the top function.
pub const KERNELS: [&str; 8] = [
    "fetch", "load", "plan", "scores", "drain", "norm", "softmax", "store",
];

/// The packing of weights into the array: a slice holds two 4-bit rows or one 8-bit row. The
/// configuration file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Two 4-bit rows or both nibbles of one 8-bit row share a slice.
    Nibble,
}

/// The resource of lanes' multipliers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Multipliers {
    /// DSP slices.
    #[default]
    Dsp,
    /// LUTs (`BIND_OP ... impl=fabric`).
    Fabric,
}

impl Multipliers {
    /// Returns true for DSP slices.
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
    pub const fn are_slices(&self) -> bool {
        matches!(self, Self::Dsp)
    }
}

/// The GEMM array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// Tokens T at a time.
    pub tokens: u64,
    /// Row pairs P at a time.
    pub pairs: u64,
    /// Slices C in the cascade of a token and row pair: columns at a time. A power of two.
    #[serde(default = "one")]
    pub cascade: u64,
    /// Cycles R of the array in a cycle of the other kernels, 1 or 2.
    #[serde(default = "one")]
    pub clock_ratio: u64,
}

const fn one() -> u64 {
    1
}

const fn yes() -> bool {
    true
}

impl Array {
    /// Returns the columns of a memory that hold `columns` columns: whole words of C.
    pub const fn padded(self, columns: u64) -> u64 {
        columns.div_ceil(self.cascade) * self.cascade
    }

    /// Returns the slices that multiply.
    pub const fn slices(self) -> u64 {
        self.tokens * self.pairs * self.cascade
    }
}

/// Lanes after the array and of the vector unit: values (or tokens) at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lanes {
    /// Requantizing lanes: outputs of the array that are requantized, added to the residual and
    /// stored, a cycle.
    pub requantize: u64,
    /// Requantizing lanes with a GELU table: fc1's outputs a cycle.
    pub gelu: u64,
    /// `LayerNorm` lanes: tokens that are normalised at a time, one element each a cycle.
    pub norm: u64,
    /// Exponential lanes: query rows at a time, one key each a cycle.
    pub exponential: u64,
    /// The resource of the `LayerNorm` lanes' multipliers. Those of requantizing lanes are slices.
    pub multipliers: Multipliers,
    /// The resource of the exponential lanes' multipliers.
    #[serde(default, skip_serializing_if = "Multipliers::are_slices")]
    pub exponential_multipliers: Multipliers,
}

/// On-chip buffers, each in words for one of the lanes that read it in parallel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffers {
    /// Patch codes (s8), words a token lane: token tiles * patch length, or fewer tiles (a band).
    pub input: u64,
    /// Residual stream (int16), words a token lane: token tiles * embed. One for each frame in
    /// flight.
    pub residual: u64,
    /// `LayerNorm`'s output (s8), words a token lane: token tiles * embed. One for each frame in
    /// flight.
    pub norm: u64,
    /// Queries (s8), words a token lane: token tiles * heads * `head_dim`. Attention's output
    /// overwrites the queries of its head.
    pub query: u64,
    /// Keys (s8), words a key bank: key banks divide the tokens.
    pub key: u64,
    /// Values (s8), words a value bank: value banks divide heads * `head_dim`.
    pub value: u64,
    /// Scores (24 bits) and probabilities (u8) of one token tile of one head, words a token lane:
    /// keys. Two of each.
    pub score: u64,
    /// fc1's output (s8), words a token lane: token tiles * hidden, or fewer tiles (a band).
    pub hidden: u64,
    /// Weights, columns of one tile of row pairs. Two tiles: one is loaded while the other is used.
    pub weight: u64,
    /// Cosines and sines of rotary positions, words a token lane: token tiles * `head_dim` / 2.
    /// 0: no network has rotary positions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub angle: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
const fn is_zero(words: &u64) -> bool {
    *words == 0
}

impl Buffers {
    /// Returns each buffer's key and words.
    pub const fn entries(&self) -> [(&'static str, u64); 10] {
        [
            ("input", self.input),
            ("residual", self.residual),
            ("norm", self.norm),
            ("query", self.query),
            ("key", self.key),
            ("value", self.value),
            ("score", self.score),
            ("hidden", self.hidden),
            ("weight", self.weight),
            ("angle", self.angle),
        ]
    }

    /// Returns the larger of both, buffer by buffer.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        Self {
            input: self.input.max(other.input),
            residual: self.residual.max(other.residual),
            norm: self.norm.max(other.norm),
            query: self.query.max(other.query),
            key: self.key.max(other.key),
            value: self.value.max(other.value),
            score: self.score.max(other.score),
            hidden: self.hidden.max(other.hidden),
            weight: self.weight.max(other.weight),
            angle: self.angle.max(other.angle),
        }
    }

    /// Returns the buffers that a network of this many tokens needs at least, where these hold all
    /// of it: `input` and `hidden` may hold the tiles of a band.
    #[must_use]
    pub fn least(&self, tokens: u64, array: Array) -> Self {
        let tiles = tokens.div_ceil(array.tokens);
        let band = |words: u64| words / tiles * tiles.div_ceil(MAX_BANDS);
        Self {
            input: band(self.input),
            hidden: band(self.hidden),
            ..*self
        }
    }

    /// Returns the buffers that hold all of a network.
    pub fn needed(workload: &Workload, array: Array, lanes: Lanes) -> Self {
        let blocks = workload.blocks.iter();
        blocks
            .map(|block| {
                let sizes = Self::of_sizes(
                    &workload.setting,
                    workload.embed,
                    block.heads * array.padded(block.head_dim),
                    block.hidden,
                    (array, lanes),
                );
                Self {
                    angle: workload.setting.angles(array.tokens),
                    ..sizes
                }
            })
            .fold(Self::default(), |all, one| all.max(&one))
    }

    /// Returns the buffers for a network whose blocks have these sizes. `inner` is the sum of the
    /// heads' dimensions, each padded.
    pub fn of_sizes(
        setting: &Setting,
        embed: u64,
        inner: u64,
        hidden: u64,
        (array, lanes): (Array, Lanes),
    ) -> Self {
        let tokens = setting.tokens();
        let tiles = tokens.div_ceil(array.tokens);
        let padded = |columns| array.padded(columns);
        Self {
            input: tiles * padded(setting.patch_len),
            residual: tiles * embed,
            norm: tiles * padded(embed),
            query: tiles * inner,
            key: tokens.div_ceil(key_banks(array, lanes)) * inner,
            value: inner.div_ceil(value_banks(array, lanes)) * padded(tokens),
            score: tokens,
            hidden: tiles * padded(hidden),
            weight: padded(embed.max(inner).max(hidden).max(setting.patch_len)),
            angle: 0,
        }
    }
}

/// Words of angles, at most: an address has 16 bits.
const MAX_ANGLES: u64 = 1 << 16;

/// Bands of tokens into which a product may be divided, at most. Each band has its own copy of the
/// weights in memory.
pub const MAX_BANDS: u64 = 16;

/// Limits of the tools and of the sources; [`crate::design`] checks them.
pub mod hls {
    /// Bits of an AXI4-Stream's data: 512 bytes in an `axis_data_fifo` (PG085), and the widest
    /// `ap_uint` of an `axis` port (UG1399).
    pub const STREAM_BITS: u64 = 4096;
    /// Items of an `axis_data_fifo` (PG085).
    pub const STREAM_ITEMS: usize = 32_768;
    /// Tokens of the array: their scores, 24 bits each, are one item of a stream.
    pub const TOKENS: u64 = STREAM_BITS / 24;
    /// Row pairs of the array: a token's FIFO holds those of a pass.
    pub const PAIRS: u64 = crate::array_timing::FIFO_DEPTH;
    /// Slices in a cascade.
    pub const CASCADE: u64 = 16;
    /// Requantizing lanes: their moments, 68 bits each, are one item of a stream.
    pub const REQUANTIZE: u64 = STREAM_BITS / 68;
    /// Exponential lanes: their maxima, 24 bits each, are one item of a stream.
    pub const EXPONENTIAL: u64 = STREAM_BITS / 24;
    /// AXI ports: `load` has as many masters.
    pub const PORTS: u64 = 4;
}

/// Returns the banks of the key buffer: a multiple of the row pairs that read it, and at least the
/// lanes that write it.
pub const fn key_banks(array: Array, lanes: Lanes) -> u64 {
    lanes.requantize.div_ceil(array.pairs) * array.pairs
}

/// Returns the banks of the value buffer; a bank's word holds C neighbouring tokens.
///
/// Element (token t, dimension d) is in bank (t div C + d) mod banks. So the lanes, which write one
/// dimension of neighbouring tokens, and the row pairs, which read neighbouring dimensions of one
/// word of tokens, both access each bank once.
pub const fn value_banks(array: Array, lanes: Lanes) -> u64 {
    let words = (lanes.requantize + array.cascade - 1).div_ceil(array.cascade);
    if words > array.pairs {
        words
    } else {
        array.pairs
    }
}

/// The configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The board's name.
    pub board: String,
    /// Clock of the fabric.
    pub clock_mhz: f64,
    /// The packing of weights into slices.
    pub mode: Mode,
    /// Frames in flight, 1 or 2. Two take turns on the array, half a block each: the `LayerNorm` of
    /// one overlaps with the GEMMs of the other.
    pub frames: u64,
    /// AXI ports in use.
    pub axi_ports: u64,
    /// True if the units' work is counted on the chip.
    #[serde(default = "yes")]
    pub counters: bool,
    /// The GEMM array.
    pub array: Array,
    /// Lanes after the array.
    pub lanes: Lanes,
    /// On-chip buffers.
    pub buffers: Buffers,
    /// Kernels whose logic a report of synthesis gives. What is built does not depend on them.
    #[serde(default, skip_serializing_if = "Margins::is_empty")]
    pub margins: Margins,
}

/// Margins by kernel.
pub type Margins = BTreeMap<String, Margin>;

/// Percent that a kernel's logic is above its count, or below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Margin {
    pub lut: i64,
    pub ff: i64,
}

/// A board and a configuration for it, checked on construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardware {
    pub(crate) board: Arc<Board>,
    configuration: Configuration,
}

impl Hardware {
    /// Joins a board and a configuration that nothing has checked yet.
    pub(crate) const fn unchecked(configuration: Configuration, board: Arc<Board>) -> Self {
        Self {
            board,
            configuration,
        }
    }

    /// Returns the board's name in a configuration file.
    ///
    /// # Errors
    /// As [`Self::from_toml`].
    pub fn board_name(text: &str) -> Result<String> {
        Ok(settings::parse::<Configuration>(DOCUMENT, text)?.board)
    }

    /// Writes the configuration as TOML, for [`Self::from_toml`].
    ///
    /// # Panics
    /// Never: every value has a TOML form.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.configuration).expect("numbers and strings")
    }

    /// Writes what is built: the configuration without margins, as TOML.
    pub fn built_toml(&self) -> String {
        let mut built = self.clone();
        built.configuration.margins.clear();
        built.to_toml()
    }

    /// Returns the board.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Returns the configuration.
    pub const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Returns the clock in Hz.
    pub fn clock_hz(&self) -> f64 {
        self.configuration.clock_mhz * 1e6
    }

    /// Returns the slices of the array that multiply.
    pub const fn slices(&self) -> u64 {
        self.configuration.array.slices()
    }

    /// Refuses a network that does not fit the buffers.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] names the first such buffer, the words it needs and those it has, and
    /// the largest size that it holds.
    pub fn check_fit(&self, workload: &Workload) -> Result<()> {
        let Configuration {
            array,
            lanes,
            buffers,
            ..
        } = &self.configuration;
        let tokens = workload.setting.tokens();
        let needed = Buffers::needed(workload, *array, *lanes).least(tokens, *array);
        for ((key, needed), (_, available)) in needed.entries().into_iter().zip(buffers.entries()) {
            if needed > available {
                let tiles = tokens.div_ceil(array.tokens);
                let band = tiles.div_ceil(MAX_BANDS);
                let whole = |columns: u64| columns / array.cascade * array.cascade;
                let (size, most) = match key {
                    "input" => ("values of a patch", whole(available / band)),
                    "residual" => ("embed", available / tiles),
                    "norm" => ("embed", whole(available / tiles)),
                    "hidden" => ("hidden size", whole(available / band)),
                    "query" => ("heads * head_dim", whole(available / tiles)),
                    "key" => (
                        "heads * head_dim",
                        whole(available / tokens.div_ceil(key_banks(*array, *lanes))),
                    ),
                    "value" => (
                        "heads * head_dim",
                        available / array.padded(tokens) * value_banks(*array, *lanes),
                    ),
                    "score" => ("number of tokens", available),
                    "angle" => ("size of heads with rotary positions", available / tiles * 2),
                    _ => ("number of columns", whole(available)),
                };
                return Err(Error::DoesNotFit {
                    what: format!(
                        "network {:?} (the largest {size} that fits is {most}): the {key} buffer",
                        workload.name
                    ),
                    needed,
                    available,
                    unit: "words a lane",
                });
            }
        }
        Ok(())
    }
}

pub(crate) const DOCUMENT: &str = "hardware configuration";

impl Configuration {
    pub(crate) fn check(&self, board: &Board) -> Result<()> {
        if self.board != board.name {
            return Err(Error::config(
                "board",
                format!("{:?} is not the given board {:?}", self.board, board.name),
            ));
        }
        within("clock_mhz", self.clock_mhz, 1.0, MAX_CLOCK_MHZ)?;
        let Array {
            tokens,
            pairs,
            cascade,
            clock_ratio,
        } = self.array;
        let Lanes {
            requantize,
            gelu,
            norm,
            exponential,
            ..
        } = self.lanes;
        for (key, value, least, most) in [
            ("frames", self.frames, 1, 2),
            ("axi_ports", self.axi_ports, 1, board.axi.ports),
            ("array.tokens", tokens, 1, MAX_TOKENS as u64),
            ("array.pairs", pairs, 1, MAX_COLUMNS as u64),
            ("array.cascade", cascade, 1, hls::CASCADE),
            ("array.clock_ratio", clock_ratio, 1, 2),
            // A lane serves one token of a tile at a time.
            ("lanes.requantize", requantize, 1, tokens),
            ("lanes.gelu", gelu, 1, requantize),
            ("lanes.norm", norm, 1, tokens),
            ("lanes.exponential", exponential, 1, tokens),
        ] {
            within(key, value, least, most)?;
        }
        for (kernel, margin) in &self.margins {
            if !KERNELS.contains(&kernel.as_str()) {
                return Err(Error::config(
                    format!("margins.{kernel}"),
                    format!("no such kernel; known: {}", KERNELS.join(", ")),
                ));
            }
            for (resource, percent) in [("lut", margin.lut), ("ff", margin.ff)] {
                let key = format!("margins.{kernel}.{resource}");
                within(&key, percent, -100, MAX_MARGIN)?;
            }
        }
        if !cascade.is_power_of_two() {
            return Err(Error::config(
                "array.cascade",
                format!("{cascade} is not a power of two"),
            ));
        }
        for (key, words) in self.buffers.entries() {
            within(
                &format!("buffers.{key}"),
                usize::try_from(words).unwrap_or(usize::MAX),
                usize::from(key != "angle"),
                MAX_BUFFER_WORDS,
            )?;
        }
        if self.buffers.angle > MAX_ANGLES || (self.buffers.angle > 0 && self.array.pairs < 2) {
            let problem =
                format!("angles need at least two array.pairs and at most {MAX_ANGLES} words");
            return Err(Error::config("buffers.angle", problem));
        }
        Ok(())
    }
}

/// Percent of a margin, at most.
const MAX_MARGIN: i64 = 1000;
/// Words of a buffer, at most: those of the largest network for one lane.
const MAX_BUFFER_WORDS: usize = MAX_TOKENS * MAX_COLUMNS;
