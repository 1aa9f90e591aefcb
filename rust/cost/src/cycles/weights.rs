//! Models the waits for weights: how far their transfers are ahead of the array.

use super::product::Product;
use super::{Model, Norm, Side};

/// Weights that arrived before they were needed.
#[derive(Clone, Copy)]
pub(super) struct Reserve {
    /// Load cycles done before the array needs the weights.
    pub(super) cycles: u64,
    /// Halves that can hold them, in addition to the ports.
    pub(super) halves: u64,
}

impl Reserve {
    /// Creates a reserve while both halves are free.
    pub(super) const fn idle(cycles: u64) -> Self {
        Self { cycles, halves: 2 }
    }

    /// Creates a reserve while one half is in use.
    pub(super) const fn busy(cycles: u64) -> Self {
        Self { cycles, halves: 1 }
    }
}

/// The reserve with the configured frames in flight, and with one.
#[derive(Clone, Copy)]
pub(super) struct Lead {
    pub(super) all: Reserve,
    pub(super) alone: Reserve,
}

impl From<Reserve> for Lead {
    fn from(reserve: Reserve) -> Self {
        Self {
            all: reserve,
            alone: reserve,
        }
    }
}

impl Model<'_> {
    /// Returns the cycles for which the lanes are behind the array when a phase begins. With two
    /// frames in flight the phase follows another one, which the model takes to end with product
    /// `last`, too.
    pub(super) fn carried(&self, last: &Product) -> u64 {
        if self.hardware.configuration().frames == 2 {
            last.held_up().backlog
        } else {
            0
        }
    }

    /// Sets the wait for a product's first weights, which are written while the last tile of the
    /// product `before` is used.
    pub(super) fn refill(product: &mut Product, before: &Product) {
        let used = before.busy() / before.stage.row_tiles.max(1) + product.stage.wait;
        product.refill = product.filled.saturating_sub(used);
    }

    /// Sets the wait of [`Self::refill`] for the first product of a phase. With two frames in
    /// flight the phase follows another one, which the model takes to end with product `last`, too.
    pub(super) fn refill_first(&self, product: &mut Product, last: &Product) {
        if self.hardware.configuration().frames == 2 {
            Self::refill(product, last);
        }
    }

    /// Adds a product's waits for its weights, and for lanes that are behind the array by `backlog`
    /// cycles at first. On entry `lead` describes this product's weights that arrived early; on
    /// return, the next one's. The other half of the weights and the capacity of the ports bound
    /// the lead.
    pub(super) fn supply(lead: &mut Lead, product: &mut Product, backlog: u64) {
        let (busy, ahead) = (product.busy(), product.ahead);
        let stage = &mut product.stage;
        let tiles = stage.row_tiles.max(1);
        let (load, busy) = (stage.load / tiles, busy / tiles);
        let stalls = |lead: &mut Reserve| {
            if stage.wait > 0 {
                *lead = Reserve::idle(lead.cycles + stage.wait);
            }
            (0..stage.row_tiles)
                .map(|_| {
                    let there = lead.cycles.min(lead.halves * load + ahead);
                    *lead = Reserve::busy(there.saturating_sub(load) + busy);
                    load.saturating_sub(there)
                })
                .sum::<u64>()
        };
        let (stall, alone) = (stalls(&mut lead.all), stalls(&mut lead.alone));
        stage.weight_stall += stall.max(product.refill) + stage.turn_stall;
        stage.hidden = stall.saturating_sub(alone);
        product.hold_up(backlog);
    }

    /// Returns the lead with which a phase begins. Its first weights have arrived, unless its
    /// weights take longer than its products. With one frame in flight they arrive while the norm
    /// works and, for the MLP, while attention works. With two, every other phase follows another
    /// phase's attention.
    pub(super) fn lead(&self, products: &[Product], side: Side, norm: Norm, mlp: bool) -> Lead {
        let first = products[0].stage.load / products[0].stage.row_tiles.max(1);
        let busy: u64 = products.iter().map(Product::busy).sum();
        let load: u64 = products.iter().map(|product| product.stage.load).sum();
        let before = (busy + first).saturating_sub(load + side.cycles());
        match (self.hardware.configuration().frames, mlp) {
            (1, true) => Lead::from(Reserve::idle(
                before.max(norm.ready + first + products[0].ahead),
            )),
            (1, false) => Lead::from(Reserve::idle(before.max(norm.ready))),
            _ => Lead {
                all: Reserve::busy(before.max(first.midpoint(products[0].ahead))),
                alone: Reserve::idle(before + norm.ready),
            },
        }
    }
}
