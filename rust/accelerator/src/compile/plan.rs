//! Gives each transfer its place in the arena, from sizes and row widths alone.

use quasar_hardware::tiling::Band;
use quasar_hardware::workload::{BlockWork, RowWidths, Setting};
use quasar_hardware::{Hardware, Workload};

use crate::arena_layout::{Cursor, Transfer};
use crate::program::NetworkSizes;
use crate::shape::Shape;

/// Sizes and row widths of a network.
pub(super) struct Outline {
    pub(super) workload: Workload,
}

impl Outline {
    pub(super) fn sizes(&self) -> NetworkSizes {
        let Setting {
            prefix_tokens,
            patch_len,
            pool,
            patch_tokens,
            ..
        } = self.workload.setting;
        NetworkSizes {
            tokens: self.workload.setting.tokens() as usize,
            prefix: prefix_tokens as usize,
            patch_len: patch_len as usize,
            embed: self.workload.embed as usize,
            pool,
            patch_tokens,
            phases: 2 * self.workload.blocks.len()
                + 1
                + pool.heads().len()
                + usize::from(self.workload.embed_proj.is_some()),
            embed_norm: self.workload.embed_proj.is_some(),
            pairs: self.workload.setting.rotated_dim as u32 / 2,
        }
    }

    /// Returns true if queries and keys are rotated.
    pub(super) fn rotates(&self) -> bool {
        self.workload.setting.rotates()
    }

    /// Returns the tokens that need a block's attention output and MLP.
    pub(super) fn needed(&self, block: usize) -> u32 {
        let last = block + 1 == self.workload.blocks.len();
        self.workload.setting.needed(last) as u32
    }

    /// Returns true for a block that pools all tokens into token 0.
    pub(super) fn pools(&self, block: usize) -> bool {
        let last = block + 1 == self.workload.blocks.len();
        self.workload.setting.pools(last)
    }

    /// Returns true if a block makes the queries of leading tokens alone, after keys and values.
    /// Rows that are rotated have a product of their own.
    pub(super) fn split(&self, block: usize) -> bool {
        u64::from(self.needed(block)) < self.workload.setting.tokens() && !self.rotates()
    }
}

/// A matrix in the arena.
pub(super) struct Matrix {
    pub(super) rows4: u32,
    pub(super) rows8: u32,
    /// Columns; those of a projection include the padding of each head.
    pub(super) columns: u32,
    /// Weights and row parameters of each tile of row pairs.
    pub(super) tiles: Vec<(Transfer, Transfer)>,
}

impl Matrix {
    pub(super) fn new(cursor: &mut Cursor, shape: &Shape, rows: RowWidths, columns: u64) -> Self {
        let tiles = shape.tiling().row_tiles(rows.four_bit, rows.eight_bit);
        let tiles = tiles.map(|tile| {
            let weights = cursor.take(shape.weight_beats(columns as usize));
            (weights, cursor.take(shape.row_beats(tile.rows() as usize)))
        });
        Self {
            tiles: tiles.collect(),
            rows4: rows.four_bit as u32,
            rows8: rows.eight_bit as u32,
            columns: columns as u32,
        }
    }
}

/// Places of a block's transfers.
pub(super) struct BlockPlan {
    /// Keys and queries, then values; or keys and values, then the queries of leading tokens.
    pub(super) qkv: [Matrix; 2],
    /// Zeros for the residual of the token that a block pools into.
    pub(super) zeros: Option<Transfer>,
    pub(super) proj: Matrix,
    pub(super) table: Transfer,
    /// The MLP of each band of tokens.
    pub(super) mlp: Vec<(Band, MlpPlan)>,
}

impl BlockPlan {
    /// Adds the gains of its two norms to `norms`.
    fn new(
        cursor: &mut Cursor,
        hardware: &Hardware,
        outline: &Outline,
        (i, block): (usize, &BlockWork),
        norms: &mut Vec<Transfer>,
    ) -> Self {
        let shape = &Shape::of(hardware);
        let embed = outline.workload.embed;
        let gains = shape.beats(4 * embed as usize);
        let parts = if outline.split(i) {
            [block.key.plus(block.value), block.query]
        } else {
            let first = block.key.plus(block.query);
            let rotated = outline.rotates().then(|| shape.tiling().rotated(first));
            [rotated.unwrap_or(first), block.value]
        };
        let qkv = parts.map(|rows| Matrix::new(cursor, shape, rows, embed));
        let zeros = outline
            .pools(i)
            .then(|| cursor.take(shape.residual_beats(embed, 1)));
        let inner = block.heads * shape.padded(block.head_dim as usize) as u64;
        let proj = Matrix::new(cursor, shape, block.proj, inner);
        norms.push(cursor.take(gains));
        let table = cursor.take(shape.beats(256));
        let needed = u64::from(outline.needed(i));
        let bands = hardware.hidden_bands(needed, block.hidden).map(|band| {
            let fc1 = Matrix::new(cursor, shape, block.fc1, embed);
            let fc2 = Matrix::new(cursor, shape, block.fc2, block.hidden);
            if band.tile == 0 {
                norms.push(cursor.take(gains));
            }
            (band, MlpPlan { fc1, fc2 })
        });
        Self {
            mlp: bands.collect(),
            qkv,
            zeros,
            proj,
            table,
        }
    }
}

/// Places of the transfers of a band's MLP.
pub(super) struct MlpPlan {
    pub(super) fc1: Matrix,
    pub(super) fc2: Matrix,
}

/// Places of the transfers behind the norm of the embedded patches.
pub(super) struct EmbedNormPlan {
    /// A row of zeros that waits until the norm has read all tokens.
    pub(super) zeros: Matrix,
    /// Prefix tokens, and zeros.
    pub(super) residual: Transfer,
    pub(super) proj: Matrix,
}

/// Places of the transfers between the last block and the head of token 0, where each token of a
/// pair has a head.
pub(super) struct PairPlan {
    /// The head of token 1.
    pub(super) head: Matrix,
    /// Zeros that are added to token 0, so that the norm gets its moments once more.
    pub(super) zeros: Matrix,
}

/// Places of a frame's transfers in the arena, in the order in which the frame reads them.
pub(super) struct Plan {
    pub(super) residual: Transfer,
    /// Parts of the angles of rotary positions, and their transfer.
    pub(super) angles: Option<(u32, Transfer)>,
    /// The patch embedding of each band of tokens.
    pub(super) embed: Vec<(Band, Matrix)>,
    pub(super) embed_norm: Option<EmbedNormPlan>,
    pub(super) blocks: Vec<BlockPlan>,
    /// Gains of the norm before each phase except the first. They come after the transfers of the
    /// first band before it, so that the norm need not wait for the others.
    pub(super) norms: Vec<Transfer>,
    pub(super) pair: Option<PairPlan>,
    pub(super) head: Matrix,
    pub(super) beats: usize,
}

impl Plan {
    pub(super) fn new(outline: &Outline, hardware: &Hardware) -> Self {
        let shape = &Shape::of(hardware);
        let Workload {
            setting,
            embed,
            patch_rows,
            embed_proj,
            head_rows,
            pair_head_rows,
            ref blocks,
            ..
        } = outline.workload;
        let mut cursor = Cursor::default();
        let cursor = &mut cursor;
        let gains = shape.beats(4 * embed as usize);
        let filled = shape.residual_beats(embed, setting.tokens());
        let residual = cursor.take(filled);
        let angles = outline.rotates().then(|| {
            let parts = shape.angle_parts(setting.angles(shape.tokens as u64));
            (parts as u32, cursor.take(shape.beats(16 * parts)))
        });
        let (mut embedding, mut norms) = (Vec::new(), Vec::new());
        for band in hardware.input_bands(setting.tokens(), setting.patch_len) {
            let matrix = Matrix::new(cursor, shape, patch_rows, setting.patch_len);
            embedding.push((band, matrix));
            if band.tile == 0 {
                norms.push(cursor.take(gains));
            }
        }
        let embed_norm = embed_proj.map(|rows| {
            let zeros = RowWidths {
                four_bit: 1,
                eight_bit: 0,
            };
            let zeros = Matrix::new(cursor, shape, zeros, embed);
            let residual = cursor.take(filled);
            let proj = Matrix::new(cursor, shape, rows, embed);
            norms.push(cursor.take(gains));
            EmbedNormPlan {
                zeros,
                residual,
                proj,
            }
        });
        let blocks = blocks.iter().enumerate();
        let blocks = blocks
            .map(|(i, block)| BlockPlan::new(cursor, hardware, outline, (i, block), &mut norms))
            .collect();
        let pair = pair_head_rows.map(|rows| {
            let head = Matrix::new(cursor, shape, rows, embed);
            let zeros = RowWidths {
                four_bit: embed,
                eight_bit: 0,
            };
            let zeros = Matrix::new(cursor, shape, zeros, 1);
            norms.push(cursor.take(gains));
            PairPlan { head, zeros }
        });
        Self {
            residual,
            angles,
            embed: embedding,
            embed_norm,
            blocks,
            norms,
            pair,
            head: Matrix::new(cursor, shape, head_rows, embed),
            beats: cursor.beats(),
        }
    }
}
