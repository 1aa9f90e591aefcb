//! Workloads of a space's networks on the accelerator.
//!
//! Depends on [`crate::space`] and [`quasar_hardware::workload`].

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::{
    within, Pool, MAX_COLUMNS, MAX_DEPTH, MAX_EMBED, MAX_HEADS, MAX_HEAD_DIM,
};
use quasar_hardware::workload::{
    source_pixels, BlockWork, RowWidths, Setting, Workload, SMALLEST_RESIZED,
};

use crate::space::{eight_bit_rows, Architecture, BlockShape, Space};

impl Space {
    /// Returns the sizes that all networks of the space share. `classes` is without an embedding's
    /// values, whose number is that of a network.
    pub fn setting(&self) -> Setting {
        let pixels = self.image.height * self.image.width;
        Setting {
            patches: self.patches() as u64,
            prefix_tokens: (self.tokens() - self.patches()) as u64,
            patch_len: self.patch_len() as u64,
            classes: self.classes as u64,
            pool: Pool::Token,
            patch_tokens: false,
            source_pixels: source_pixels(pixels),
            resized: pixels >= SMALLEST_RESIZED,
            rotated_dim: 0,
        }
    }

    /// Returns the rows of the head of networks of this embedding size: those of the classes have 8
    /// bits, those that give the embedding 4.
    pub const fn head_rows(&self, embed: u64) -> RowWidths {
        RowWidths {
            four_bit: if self.embedding { embed } else { 0 },
            eight_bit: self.classes as u64,
        }
    }

    /// Returns the workload of a network with the space's image and classes. The network's sizes
    /// need not be among the space's choices.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] names the size that is beyond the integer model's limits.
    pub fn workload(&self, name: &str, architecture: &Architecture) -> Result<Workload> {
        check(architecture).map_err(|error| match error {
            Error::InvalidConfig { key, problem } => {
                Error::InvalidValue(format!("architecture: {key}: {problem}"))
            }
            other => other,
        })?;
        let embed = architecture.embed;
        let head_rows = self.head_rows(embed as u64);
        let setting = Setting {
            classes: head_rows.total(),
            ..self.setting()
        };
        Ok(Workload {
            name: name.into(),
            setting,
            embed: embed as u64,
            patch_rows: RowWidths::all_eight_bit(embed as u64),
            embed_proj: None,
            blocks: (architecture.blocks.iter())
                .map(|shape| shape.work(embed))
                .collect(),
            head_rows,
            pair_head_rows: None,
        })
    }
}

impl BlockShape {
    /// Returns the work of this block in a network of this embedding size.
    pub fn work(&self, embed: usize) -> BlockWork {
        let (rows, fractions) = (self.rows(embed), self.eight_bit);
        let [query, key, value, proj, fc1, fc2] =
            std::array::from_fn(|m| row_widths(rows[m], fractions[m]));
        BlockWork {
            heads: self.heads as u64,
            head_dim: self.head_dim as u64,
            hidden: self.hidden as u64,
            query,
            key,
            value,
            proj,
            fc1,
            fc2,
        }
    }
}

fn row_widths(rows: usize, fraction: f64) -> RowWidths {
    let eight_bit = eight_bit_rows(rows, fraction) as u64;
    RowWidths {
        four_bit: rows as u64 - eight_bit,
        eight_bit,
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
            within(&key("eight_bit"), fraction, 0.0, 1.0)?;
        }
    }
    Ok(())
}
