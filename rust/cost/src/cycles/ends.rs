//! Models the first and the last phase of a frame: patch embedding and head.

use quasar_hardware::declared::{requantize_depth, COMMAND_GAP, MEMORY_LATENCY};
use quasar_hardware::packing::Activation;
use quasar_hardware::workload::{RowWidths, Setting};

use super::norm::Normed;
use super::product::{Drain, Gemm, Product, BEATS_AHEAD};
use super::weights::{Lead, Reserve};
use super::{End, Model, Norm, Side, Stage};

impl Model<'_> {
    /// Models the patch embedding of all tokens; prefix tokens are rows of zeros.
    pub fn embedding(&self, embed: u64, rows: RowWidths) -> End {
        let Setting {
            patches, patch_len, ..
        } = self.setting;
        let tokens = self.setting.tokens();
        // Each word of all tokens of a tile starts on a beat: patches, then the first values of the
        // residual.
        let word = |bytes: u64| self.padded(bytes * self.tiling.tokens);
        let fill = self.fill(embed, tokens);
        // With two frames in flight, load reads ahead while the other frame's phase works, until
        // the residual's first values fill the drain's queue: the drain takes them once it is done
        // with the phase before.
        let two = self.hardware.configuration().frames == 2;
        let beats = fill.bytes / self.beat_bytes;
        let blocked = beats.saturating_sub(BEATS_AHEAD);
        let (mut stage, mut side, mut exposed, mut exposed_alone) =
            (Stage::default(), Side::default(), 0, 0);
        let mut bands = Vec::new();
        for band in self.hardware.input_bands(tokens, patch_len) {
            let mut product = self.linear(band.tokens, rows, patch_len);
            let first = product.stage.load / product.stage.row_tiles;
            let early = two && band.tile == 0 && blocked == 0;
            let there = if early {
                2 * first + product.ahead
            } else {
                first
            };
            Self::supply(&mut Reserve::idle(there).into(), &mut product, 0);
            let tiles = self.tiling.token_tiles(band.tokens);
            let mut transfers = self.side(tiles * patch_len * word(1));
            let mut angles = 0;
            if band.tile == 0 {
                transfers.add(fill);
                angles = self.angle_parts();
                if angles > 0 {
                    transfers.add(self.side(16 * angles));
                }
            }
            // The lanes take the angles, a part a cycle: as they come, or from what is read ahead.
            let came = (16 * angles).div_ceil(self.beat_bytes);
            let alone = MEMORY_LATENCY + transfers.cycles() + first + angles - came;
            exposed_alone += alone;
            exposed += if two && band.tile == 0 {
                let drain = if blocked > 0 {
                    self.hops()
                        + COMMAND_GAP
                        + requantize_depth(self.array.clock_ratio)
                        + fill.cycles() * blocked / beats
                        + first
                } else {
                    0
                };
                angles
                    + drain.max(
                        (transfers.cycles() + first).saturating_sub(self.lead_after_head(embed)),
                    )
            } else {
                alone
            };
            side.add(transfers);
            stage.add(&product.stage);
            bands.push(Normed {
                band,
                product,
                cycles: product.stage.cycles(),
            });
        }
        if two && blocked > 0 {
            exposed += self.lost_lead(embed);
        }
        stage.macs = patches * rows.total() * patch_len;
        stage.slot_macs = stage.slot_macs / tokens * patches;
        End {
            norm: self.norm_of_bands(&bands, embed),
            stage,
            side,
            commands: 3 + 3 * bands.len() as u64,
            exposed,
            exposed_alone,
            tail: 0,
        }
    }

    /// Models the product that writes the norm of the embedded patches to the residual: a row of
    /// zeros, the residual's first values once more, then the product itself.
    pub fn embed_proj(&self, embed: u64, rows: RowWidths) -> End {
        let tokens = self.setting.tokens();
        let zeros = RowWidths {
            four_bit: 1,
            eight_bit: 0,
        };
        let mut end = End {
            commands: 6,
            ..End::default()
        };
        for (rows, macs) in [
            (zeros, 0),
            (rows, self.setting.patches * rows.total() * embed),
        ] {
            let mut product = self.linear(tokens, rows, embed);
            let first = product.stage.load / product.stage.row_tiles;
            Self::supply(&mut Reserve::idle(first).into(), &mut product, 0);
            product.stage.macs = macs;
            end.stage.add(&product.stage);
            end.norm = self.norm(&product, tokens, embed);
        }
        let fill = self.fill(embed, tokens);
        end.side = fill;
        end.side.add(self.side(4 * embed));
        // The product's sums wait until the residual is filled.
        end.exposed = fill.cycles();
        end.exposed_alone = end.exposed;
        end
    }

    /// Models the transfer that fills the residual of some tokens.
    pub(super) fn fill(&self, embed: u64, tokens: u64) -> Side {
        // Each word of all tokens of a tile starts on a beat. The drain stores it a group of tokens
        // at a time.
        let words = self.tiling.token_tiles(tokens) * embed;
        let fill = self.side(words * self.padded(2 * self.tiling.tokens));
        let stored = words * self.tiling.tokens.div_ceil(self.lanes().requantize);
        Side {
            taken: fill.taken.max(stored),
            ..fill
        }
    }

    /// Models the head of token 1 of a pair, and the norm of token 0 behind it.
    pub fn pair_head(&self, embed: u64, rows: RowWidths) -> End {
        let mut end = self.head(embed, rows);
        let zeros = RowWidths {
            four_bit: embed,
            eight_bit: 0,
        };
        let mut product = self.linear(1, zeros, 1);
        let first = product.stage.load / product.stage.row_tiles;
        Self::supply(&mut Reserve::idle(first).into(), &mut product, 0);
        product.stage.macs = 0;
        end.stage.add(&product.stage);
        end.norm = self.norm(&product, 1, embed);
        end.commands += 4;
        end.tail = 0;
        end
    }

    /// Returns the cycles for which load is ahead of the array at the end of a head.
    fn lead_after_head(&self, embed: u64) -> u64 {
        let rows = RowWidths {
            four_bit: self.setting.classes,
            eight_bit: 0,
        };
        let product = self.head_product(embed, rows);
        let first = product.stage.load / product.stage.row_tiles;
        (2 * first + product.ahead + product.busy()).saturating_sub(product.stage.load)
    }

    /// Returns the waits for weights of a product of `embed` columns and three times as many rows
    /// whose weights do not arrive early.
    fn lost_lead(&self, embed: u64) -> u64 {
        let rows = RowWidths {
            four_bit: 3 * embed,
            eight_bit: 0,
        };
        let product = self.linear(self.setting.tokens(), rows, embed);
        let first = product.stage.load / product.stage.row_tiles;
        let stall = |lead: u64| {
            let mut product = product;
            Self::supply(&mut Reserve::busy(lead).into(), &mut product, 0);
            product.stage.weight_stall
        };
        stall(0).saturating_sub(stall(first + product.ahead))
    }

    /// Models the product of a head.
    fn head_product(&self, embed: u64, rows: RowWidths) -> Product {
        if !self.setting.patch_tokens {
            return self.linear(1, rows, embed);
        }
        let product = self.gemm(Gemm {
            tokens: self.setting.tokens(),
            rows,
            columns: embed,
            activation: Activation::Signed,
            drain: Drain::Logit,
            streamed: true,
        });
        // The next frame's first product waits for all logits that the queues hold.
        Product {
            queued: 0,
            ..product
        }
    }

    /// Models the head.
    pub fn head(&self, embed: u64, rows: RowWidths) -> End {
        let mut product = self.head_product(embed, rows);
        // Weights arrive while the last block and its norm work. With two frames in flight, the
        // other frame's products take some of that time.
        let tile = product.stage.load / product.stage.row_tiles;
        let alone = Reserve::idle(2 * tile + product.ahead);
        let all = if self.hardware.configuration().frames == 2 {
            Reserve::idle(tile + product.ahead / 2)
        } else {
            alone
        };
        Self::supply(&mut Lead { all, alone }, &mut product, 0);
        End {
            norm: Norm::default(),
            stage: product.stage,
            side: self.side(4 * embed),
            commands: 5,
            exposed: 0,
            exposed_alone: 0,
            tail: self.ready(&product),
        }
    }
}
