//! Models `LayerNorm` after a product, and the waits for it.

use quasar_core::subnet::config::Pool;
use quasar_hardware::declared::{COMMAND_GAP, LOOP_GAP, NORM_DEPTH, NORM_ROOT};
use quasar_hardware::tiling::Band;

use super::product::Product;
use super::{Model, Norm, Phase};

/// A band of tokens, the last product of its residual, and the array's cycles of its products.
pub(super) struct Normed {
    pub(super) band: Band,
    pub(super) product: Product,
    pub(super) cycles: u64,
}

impl Normed {
    /// Returns one band of this many tokens.
    pub(super) fn whole(product: &Product, tokens: u64) -> Self {
        Self {
            band: Band { tile: 0, tokens },
            product: *product,
            cycles: product.stage.cycles(),
        }
    }
}

impl Model<'_> {
    /// Models the `LayerNorm` of some tokens after a product.
    pub(super) fn norm(&self, before: &Product, tokens: u64, embed: u64) -> Norm {
        self.norm_of_bands(&[Normed::whole(before, tokens)], embed)
    }

    /// Models the `LayerNorm` of tokens after products, band by band. The next product takes one
    /// tile after another, `embed` columns each.
    pub(super) fn norm_of_bands(&self, bands: &[Normed], embed: u64) -> Norm {
        let next = self.next_spacing(&bands[bands.len() - 1].product, embed);
        self.norm_until(bands, embed, |tile| tile * next)
    }

    /// Returns the cycles in which a product after a norm takes a tile of tokens. It drains as the
    /// product `before` does.
    pub(super) fn next_spacing(&self, before: &Product, embed: u64) -> u64 {
        self.slow(self.words(embed)).max(before.first_drain)
    }

    /// Models the `LayerNorm` of tokens after products, band by band: each tile of tokens starts as
    /// soon as its residual is stored. The next product takes each tile at `taken`; it waits for
    /// the last band.
    pub(super) fn norm_until(
        &self,
        bands: &[Normed],
        embed: u64,
        taken: impl Fn(u64) -> u64,
    ) -> Norm {
        let mut norm = Norm::default();
        // Cycles from the last residual of the band before until the norm is ready for more.
        let mut behind = 0;
        for Normed {
            band,
            product,
            cycles,
        } in bands
        {
            let last = self.tiling.token_tiles(band.tokens) - 1;
            let spacing = product.last_spacing();
            let stored = self.ready(product);
            // Counted from the first tile's residual.
            let mut free = u64::saturating_sub(behind, cycles.saturating_sub(last * spacing));
            norm.ready = 0;
            for tile in 0..=last {
                let size = self.tiling.tile_tokens(band.tokens, tile);
                let cycles = size.div_ceil(self.lanes().norm) * embed.max(NORM_ROOT) + LOOP_GAP;
                free = (tile * spacing).max(free) + cycles;
                let ready = (stored + free + NORM_DEPTH + COMMAND_GAP)
                    .saturating_sub(last * spacing + taken(band.tile + tile));
                norm.cycles += cycles;
                norm.ready = norm.ready.max(ready);
            }
            behind = free.saturating_sub(last * spacing);
        }
        norm
    }

    /// Returns [`Phase::covers`] of a phase of `needed` tokens. `whole` gives the same phase of all
    /// tokens.
    pub(super) fn covers(&self, needed: u64, whole: impl FnOnce() -> Phase) -> Option<u64> {
        let two = self.hardware.configuration().frames == 2;
        (two && needed < self.setting.tokens()).then(|| {
            let phase = whole();
            // Waits that the wait for the norm hides take no cycles of their own.
            let counted = self.totals(&phase).interval - phase.array + phase.hidden;
            phase.norm.ready.saturating_sub(counted)
        })
    }

    /// Models the last `LayerNorm`, of the head's input.
    pub(super) fn pooled(&self, bands: &[Normed], embed: u64) -> Norm {
        let tokens = self.setting.needed(true);
        let before = &bands[bands.len() - 1].product;
        let after = match self.setting.pool {
            _ if self.setting.patch_tokens => return self.norm_of_bands(bands, embed),
            Pool::Token | Pool::Attention => return self.norm(before, 1, embed),
            Pool::MeanAfterNorm => {
                let mut norm = self.norm_of_bands(bands, embed);
                // The mean follows the last code; no product runs meanwhile.
                let others = self.tiling.token_tiles(tokens) - 1;
                norm.cycles += embed;
                norm.ready += others * self.slow(self.words(embed)) + embed;
                return norm;
            }
            Pool::Mean | Pool::TokenPair => {
                let (full, ragged) = (tokens / self.tiling.tokens, tokens % self.tiling.tokens);
                let groups = |tokens: u64| tokens.div_ceil(self.lanes().norm);
                // One column after another, a group of tokens a cycle.
                embed * (full * groups(self.tiling.tokens) + groups(ragged) + LOOP_GAP)
            }
        };
        let cycles = after + embed.max(NORM_ROOT);
        Norm {
            cycles,
            ready: self.ready(before) + COMMAND_GAP + cycles + NORM_DEPTH,
        }
    }

    /// Returns the cycles that bands of tokens hide of the wait for the norm before them: the first
    /// band needs the norm of its own tokens alone.
    pub(super) fn overlap(&self, before: &[Normed], bands: &[Normed], embed: u64) -> u64 {
        if bands.len() == 1 {
            return 0;
        }
        let next = self.next_spacing(&before[0].product, embed);
        let taken = |tile: u64| {
            let earlier = bands.iter().take_while(|band| band.band.tile <= tile);
            let starts = earlier.clone().map(|band| band.cycles).sum::<u64>();
            let own = earlier.last().expect("the first band begins with tile 0");
            starts - own.cycles + (tile - own.band.tile) * next
        };
        let all = self.norm_of_bands(before, embed);
        all.ready - self.norm_until(before, embed, taken).ready
    }
}
