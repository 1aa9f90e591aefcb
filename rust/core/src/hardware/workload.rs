//! What a network asks of the accelerator: sizes and row widths, without weights.
//!
//! Depends on [`crate::subnet`] and [`crate::space`].

use serde::Serialize;

use super::boards::number;
use crate::error::{Error, Result};
use crate::space::{eight_bit_rows, Architecture, BlockShape, Space};
use crate::subnet::config::{
    within, Pool, ResizeMode, MAX_COLUMNS, MAX_DEPTH, MAX_EMBED, MAX_HEADS, MAX_HEAD_DIM,
};
use crate::subnet::Subnet;

/// Rows of a matrix by width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Rows {
    /// 4-bit rows.
    pub four_bit: u64,
    /// 8-bit rows.
    pub eight_bit: u64,
}

impl Rows {
    /// Rows of both widths.
    pub const fn total(self) -> u64 {
        self.four_bit + self.eight_bit
    }

    /// Row pairs of the array: two 4-bit rows or one 8-bit row each.
    pub const fn slots(self) -> u64 {
        self.four_bit.div_ceil(2) + self.eight_bit
    }

    const fn all_eight_bit(rows: u64) -> Self {
        Self {
            four_bit: 0,
            eight_bit: rows,
        }
    }

    fn of_fraction(rows: usize, fraction: f64) -> Self {
        let eight_bit = eight_bit_rows(rows, fraction) as u64;
        Self {
            four_bit: rows as u64 - eight_bit,
            eight_bit,
        }
    }

    /// Rows of two matrices as one.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            four_bit: self.four_bit + other.four_bit,
            eight_bit: self.eight_bit + other.eight_bit,
        }
    }
}

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct BlockWork {
    /// Attention heads.
    pub heads: u64,
    /// Size of each.
    pub head_dim: u64,
    /// Rows of fc1.
    pub hidden: u64,
    /// Rows of qkv that make queries.
    pub query: Rows,
    /// Rows of qkv that make keys.
    pub key: Rows,
    /// Rows of qkv that make values.
    pub value: Rows,
    /// Rows of the projection.
    pub proj: Rows,
    /// Rows of fc1.
    pub fc1: Rows,
    /// Rows of fc2.
    pub fc2: Rows,
}

impl BlockWork {
    /// `heads * head_dim`.
    pub const fn inner(&self) -> u64 {
        self.heads * self.head_dim
    }

    /// All rows of qkv.
    pub const fn qkv(&self) -> Rows {
        self.query.plus(self.key).plus(self.value)
    }

    /// A block of a network with this embedding size. Where the shape alone is known, queries, keys and values have their proportional
    /// parts of qkv's 8-bit rows.
    pub fn of_shape(embed: usize, shape: &BlockShape) -> Self {
        let inner = (shape.heads * shape.head_dim) as u64;
        let [qkv, proj, fc1, fc2] = shape.eight_bit;
        let whole = Rows::of_fraction(3 * inner as usize, qkv);
        let query = (Rows::of_fraction(inner as usize, qkv).eight_bit).clamp(
            whole.eight_bit.saturating_sub(2 * inner),
            whole.eight_bit.min(inner),
        );
        let part = |eight_bit: u64| Rows {
            four_bit: inner - eight_bit,
            eight_bit,
        };
        let others = whole.eight_bit - query;
        Self {
            heads: shape.heads as u64,
            head_dim: shape.head_dim as u64,
            hidden: shape.hidden as u64,
            query: part(query),
            key: part(others.div_ceil(2)),
            value: part(others / 2),
            proj: Rows::of_fraction(embed, proj),
            fc1: Rows::of_fraction(shape.hidden, fc1),
            fc2: Rows::of_fraction(embed, fc2),
        }
    }
}

/// What does not change within a space: image, tokens, classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Patches.
    pub patches: u64,
    /// Class token and other tokens before the patches.
    pub prefix_tokens: u64,
    /// Values of a patch, the patch embedding's columns.
    pub patch_len: u64,
    /// Rows of the head.
    pub classes: u64,
    /// What the head sees.
    pub pool: Pool,
    /// Pixels of the picture that the host decodes.
    pub source_pixels: u64,
    /// Whether the host resizes it.
    pub resized: bool,
}

/// Pixels of a picture that stands for `ImageNet`'s, whose usual size is 500x375 (assumed), where the network's input is of such a size.
pub const SOURCE_PIXELS: u64 = 500 * 375;
/// Images smaller than this are data sets' own sizes and are taken as they are.
const SMALLEST_RESIZED: usize = 128 * 128;

impl Setting {
    /// Tokens N.
    pub const fn tokens(&self) -> u64 {
        self.prefix_tokens + self.patches
    }

    /// What all networks of a space share.
    pub fn of_space(space: &Space) -> Self {
        let pixels = space.image.height * space.image.width;
        Self {
            patches: space.patches() as u64,
            prefix_tokens: (space.tokens() - space.patches()) as u64,
            patch_len: space.patch_len() as u64,
            classes: space.classes as u64,
            pool: Pool::Token,
            source_pixels: source_pixels(pixels),
            resized: pixels >= SMALLEST_RESIZED,
        }
    }
}

fn source_pixels(pixels: usize) -> u64 {
    if pixels >= SMALLEST_RESIZED {
        SOURCE_PIXELS
    } else {
        pixels as u64
    }
}

fn check(architecture: &Architecture) -> Result<()> {
    within("embed", architecture.embed, 1, MAX_EMBED)?;
    within(
        "blocks (their number)",
        architecture.blocks.len(),
        1,
        MAX_DEPTH,
    )?;
    for (i, block) in architecture.blocks.iter().enumerate() {
        let key = |part: &str| format!("blocks.{i}.{part}");
        within(&key("heads"), block.heads, 1, MAX_HEADS)?;
        within(&key("head_dim"), block.head_dim, 1, MAX_HEAD_DIM)?;
        let inner = block.heads * block.head_dim;
        within(&key("heads * head_dim"), inner, 1, MAX_COLUMNS)?;
        within(&key("hidden"), block.hidden, 1, MAX_COLUMNS)?;
        for fraction in block.eight_bit {
            number(&key("eight_bit"), fraction, 0.0, 1.0)?;
        }
    }
    Ok(())
}

/// A network's sizes and row widths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// Image, tokens, classes.
    pub setting: Setting,
    /// Embedding size D.
    pub embed: u64,
    /// Rows of the patch embedding.
    pub patch_rows: Rows,
    /// The blocks, in order.
    pub blocks: Vec<BlockWork>,
    /// Rows of the head.
    pub head_rows: Rows,
}

impl Workload {
    /// That of a network of a space, or of its image and classes: the sizes need not be among its choices.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] names the size that is beyond the integer model's limits.
    pub fn of_architecture(name: &str, space: &Space, architecture: &Architecture) -> Result<Self> {
        check(architecture).map_err(|error| match error {
            Error::InvalidConfig { key, problem } => {
                Error::InvalidValue(format!("architecture: {key}: {problem}"))
            }
            other => other,
        })?;
        let setting = Setting::of_space(space);
        Ok(Self {
            name: name.into(),
            setting,
            embed: architecture.embed as u64,
            patch_rows: Rows::all_eight_bit(architecture.embed as u64),
            blocks: (architecture.blocks.iter())
                .map(|shape| BlockWork::of_shape(architecture.embed, shape))
                .collect(),
            head_rows: Rows::all_eight_bit(setting.classes),
        })
    }

    /// That of a subnet: the widths of its own rows.
    pub fn of_subnet(subnet: &Subnet) -> Self {
        let config = subnet.config();
        let rows = |layer: &str, first: usize, last: usize| {
            let bits = &subnet.expect(&format!("{layer}.bits")).data()[first..last];
            let eight_bit: usize = bits.iter().map(|&b| usize::from(b == 8)).sum();
            Rows {
                four_bit: (last - first - eight_bit) as u64,
                eight_bit: eight_bit as u64,
            }
        };
        let blocks = config.blocks.iter().enumerate().map(|(i, block)| {
            let (inner, name) = (block.inner(), |part: &str| format!("blocks.{i}.{part}"));
            BlockWork {
                heads: block.heads as u64,
                head_dim: block.head_dim as u64,
                hidden: block.hidden as u64,
                query: rows(&name("qkv"), 0, inner),
                key: rows(&name("qkv"), inner, 2 * inner),
                value: rows(&name("qkv"), 2 * inner, 3 * inner),
                proj: rows(&name("proj"), 0, config.embed),
                fc1: rows(&name("fc1"), 0, block.hidden),
                fc2: rows(&name("fc2"), 0, config.embed),
            }
        });
        let pixels = config.image.height * config.image.width;
        let resized = config.preprocess.resize.mode != ResizeMode::None;
        Self {
            name: config.name.clone(),
            setting: Setting {
                patches: config.patches() as u64,
                prefix_tokens: config.prefix_tokens as u64,
                patch_len: config.patch_len() as u64,
                classes: config.classes.len() as u64,
                pool: config.pool,
                source_pixels: if resized {
                    source_pixels(pixels)
                } else {
                    pixels as u64
                },
                resized,
            },
            embed: config.embed as u64,
            patch_rows: rows("embed", 0, config.embed),
            blocks: blocks.collect(),
            head_rows: rows("head", 0, config.classes.len()),
        }
    }

    /// Multiply-accumulates that the logits depend on.
    pub fn macs(&self) -> u64 {
        let Setting {
            patches,
            patch_len,
            classes,
            pool,
            ..
        } = self.setting;
        let (n, d) = (self.setting.tokens(), self.embed);
        let blocks = self.blocks.iter().enumerate().map(|(i, block)| {
            let needed = if pool == Pool::Token && i + 1 == self.blocks.len() {
                1
            } else {
                n
            };
            let inner = block.inner();
            (2 * n + needed) * inner * d
                + 2 * needed * n * inner
                + needed * (inner * d + 2 * block.hidden * d)
        });
        patches * patch_len * d + blocks.sum::<u64>() + classes * d
    }
}
