//! The hardware model for a search. Depends on [`crate::tables`] and [`quasar_cost`].

use quasar_core::error::Result;

use super::nsga2::{Cost, CostModel};
use crate::additive::CostShares;
use crate::CostTable;

impl CostModel for CostTable {
    /// Returns the FPS and the violation: the number of blocks that the buffers do not hold.
    fn cost(&self, genome: &[u8]) -> Cost {
        let cost = CostTable::cost(self, genome);
        let violation = if cost.fits {
            0.0
        } else {
            self.misfits(genome) as f64
        };
        Cost {
            fps: cost.fps,
            violation,
        }
    }

    fn fastest(&self) -> Result<(Vec<u8>, f64)> {
        CostTable::fastest(self).map(|(genome, cost)| (genome, cost.fps))
    }

    fn shares(&self) -> Option<CostShares> {
        Some(CostTable::shares(self))
    }
}
