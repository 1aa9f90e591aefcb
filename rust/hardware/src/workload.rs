//! The workload of the accelerator: a network's sizes and row widths, without weights.
//!
//! Depends on [`quasar_core::subnet`] and its errors.

use quasar_core::error::Result;
use quasar_core::subnet::config::{Pool, ResizeMode};
use quasar_core::subnet::Subnet;
use serde::Serialize;

/// Rows of a matrix by width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct RowWidths {
    /// 4-bit rows.
    pub four_bit: u64,
    /// 8-bit rows.
    pub eight_bit: u64,
}

impl RowWidths {
    /// Returns the number of rows.
    pub const fn total(self) -> u64 {
        self.four_bit + self.eight_bit
    }

    /// Returns the row pairs of the array: two 4-bit rows or one 8-bit row each.
    pub const fn slots(self) -> u64 {
        self.four_bit.div_ceil(2) + self.eight_bit
    }

    /// Returns the widths of a matrix whose rows all have 8 bits.
    pub const fn all_eight_bit(rows: u64) -> Self {
        Self {
            four_bit: 0,
            eight_bit: rows,
        }
    }

    /// Adds the rows of two matrices.
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
    pub query: RowWidths,
    /// Rows of qkv that make keys.
    pub key: RowWidths,
    /// Rows of qkv that make values.
    pub value: RowWidths,
    /// Rows of the projection.
    pub proj: RowWidths,
    /// Rows of fc1.
    pub fc1: RowWidths,
    /// Rows of fc2.
    pub fc2: RowWidths,
}

impl BlockWork {
    /// Returns `heads * head_dim`.
    pub const fn inner(&self) -> u64 {
        self.heads * self.head_dim
    }

    /// Returns the rows of qkv.
    pub const fn qkv(&self) -> RowWidths {
        self.query.plus(self.key).plus(self.value)
    }
}

/// Sizes that are fixed within a space: image, tokens, classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Patches.
    pub patches: u64,
    /// Class token and other tokens before the patches.
    pub prefix_tokens: u64,
    /// Values of a patch, the patch embedding's columns.
    pub patch_len: u64,
    /// Rows of each head: classes, and an embedding's values.
    pub classes: u64,
    /// Pooling before the head.
    pub pool: Pool,
    /// True if the head runs on every token.
    pub patch_tokens: bool,
    /// Pixels of the picture that the host decodes.
    pub source_pixels: u64,
    /// True if the host resizes the picture.
    pub resized: bool,
    /// Dimensions of each head, if queries and keys are rotated by the positions of the patches;
    /// else 0.
    pub rotated_dim: u64,
}

/// Pixels of a picture of `ImageNet`, 500x375 (assumed): for networks whose input is of such a
/// size.
pub const SOURCE_PIXELS: u64 = 500 * 375;
/// Pixels of a camera's frame, 640x480 (assumed).
pub const CAMERA_PIXELS: u64 = 640 * 480;
/// Inputs with fewer pixels than this have the size of their data set's pictures.
pub const SMALLEST_RESIZED: usize = 128 * 128;

impl Setting {
    /// Returns the number of tokens N.
    pub const fn tokens(&self) -> u64 {
        self.prefix_tokens + self.patches
    }

    /// Returns the tokens for which a block's attention output and MLP are needed: in the network's
    /// `last` block those that the heads read.
    pub const fn needed(&self, last: bool) -> u64 {
        match self.pool.leading() {
            Some(leading) if last && !self.patch_tokens => leading as u64,
            _ => self.tokens(),
        }
    }

    /// Returns true if a block, the network's `last` or not, pools all tokens into token 0.
    pub const fn pools(&self, last: bool) -> bool {
        last && matches!(self.pool, Pool::Attention)
    }

    /// Returns the angles of a token's lane, if the array has `lanes` tokens: those of each pair of
    /// rows of a head and of each tile of tokens.
    pub const fn angles(&self, lanes: u64) -> u64 {
        self.tokens().div_ceil(lanes) * self.rotated_dim / 2
    }

    /// Returns true if queries and keys are rotated.
    pub const fn rotates(&self) -> bool {
        self.rotated_dim > 0
    }

    /// Returns the number of tokens that a head runs on.
    pub const fn head_tokens(&self) -> u64 {
        if self.patch_tokens {
            self.tokens()
        } else {
            1
        }
    }
}

/// Returns the pixels of the picture that the host decodes for a network input of this size.
pub fn source_pixels(pixels: usize) -> u64 {
    if pixels >= SMALLEST_RESIZED {
        SOURCE_PIXELS
    } else {
        pixels as u64
    }
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
    pub patch_rows: RowWidths,
    /// Rows of the layer behind the norm of the embedded patches, where there is such a norm.
    pub embed_proj: Option<RowWidths>,
    /// The blocks, in order.
    pub blocks: Vec<BlockWork>,
    /// Rows of the head of token 0, or of the pooled tokens.
    pub head_rows: RowWidths,
    /// Rows of the head of token 1, where the pooling is of a pair of tokens.
    pub pair_head_rows: Option<RowWidths>,
}

impl Workload {
    /// Returns the workload of a subnet, with the widths of its own rows.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a subnet that no accelerator runs.
    pub fn of_subnet(subnet: &Subnet) -> Result<Self> {
        let config = subnet.config();
        let rows = |layer: &str, first: usize, last: usize| {
            let bits = &subnet.expect(&format!("{layer}.bits")).data()[first..last];
            let eight_bit: usize = bits.iter().map(|&b| usize::from(b == 8)).sum();
            RowWidths {
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
        // Smaller pictures count as the network's own size, and are copied.
        let resized =
            config.preprocess.resize.mode != ResizeMode::None && pixels >= SMALLEST_RESIZED;
        Ok(Self {
            name: config.name.clone(),
            setting: Setting {
                patches: config.patches() as u64,
                prefix_tokens: config.prefix_tokens as u64,
                patch_len: config.patch_len() as u64,
                classes: config.head_rows() as u64,
                pool: config.pool,
                patch_tokens: config.patch_tokens,
                source_pixels: if resized {
                    SOURCE_PIXELS
                } else {
                    pixels as u64
                },
                resized,
                rotated_dim: if config.rotary {
                    config.blocks[0].head_dim as u64
                } else {
                    0
                },
            },
            embed: config.embed as u64,
            patch_rows: rows("embed", 0, config.embed),
            embed_proj: (config.embed_norm).then(|| rows("embed_proj", 0, config.embed)),
            blocks: blocks.collect(),
            head_rows: rows("head", 0, config.head_rows()),
            pair_head_rows: (config.pool.heads().get(1))
                .map(|head| rows(head, 0, config.head_rows())),
        })
    }

    /// Returns the multiply-accumulates that the logits depend on.
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
            let needed = self.setting.needed(i + 1 == self.blocks.len());
            let inner = block.inner();
            (2 * n + needed) * inner * d
                + 2 * needed * n * inner
                + needed * (inner * d + 2 * block.hidden * d)
        });
        let heads = pool.heads().len() as u64 * self.setting.head_tokens();
        let normed = if self.embed_proj.is_some() { d } else { 0 };
        patches * (patch_len + normed) * d + blocks.sum::<u64>() + heads * classes * d
    }
}
