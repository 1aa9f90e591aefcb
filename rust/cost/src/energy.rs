//! Estimates a frame's energy from the powers in a board's `[power]` and the work that the closed
//! form counts.
//!
//! The coefficients are assumed unless somebody measured them, so energies rank networks and
//! configurations on a board; they are no measurement. Depends on [`crate::Cost`].

use quasar_hardware::boards::Power;
use quasar_hardware::configuration::Hardware;
use quasar_hardware::declared::bytes_per_cycle;

use crate::candidate::Cost;

/// The energies of a configuration's cycles, products and transfers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnergyModel {
    clock_hz: f64,
    /// Joules of a cycle of the kernels in which nothing is multiplied.
    cycle_j: f64,
    /// Joules of a slice's cycle with a product, minus those of a cycle without.
    product_j: f64,
    /// Joules of a cycle in which memory delivers at its full rate.
    transfer_j: f64,
}

impl EnergyModel {
    /// Returns the energies of a configuration; `None` if its board's file has no `[power]`.
    pub fn of(hardware: &Hardware) -> Option<Self> {
        const PICO: f64 = 1e-12;
        let Power {
            idle_w,
            product_pj,
            waiting_pj,
            byte_pj,
        } = hardware.board().power?;
        let array = hardware.configuration().array;
        let slice_cycles = (array.slices() * array.clock_ratio) as f64;
        Some(Self {
            clock_hz: hardware.clock_hz(),
            cycle_j: idle_w / hardware.clock_hz() + slice_cycles * waiting_pj * PICO,
            product_j: (product_pj - waiting_pj) * PICO,
            transfer_j: bytes_per_cycle(hardware) * byte_pj * PICO,
        })
    }

    /// Returns the watts that the configuration takes without frames, its clocks running.
    pub const fn standing_w(&self) -> f64 {
        self.cycle_j * self.clock_hz
    }

    /// Returns the joules of a frame where frames follow one another at the full rate.
    ///
    /// The model takes memory to deliver in every cycle of a transfer. On networks of 224x224
    /// images it so counts up to half as many bytes again.
    pub fn joules(&self, cost: &Cost) -> f64 {
        self.joules_of(cost.period_cycles, cost.slot_macs, cost.transfer_cycles)
    }

    /// Returns the joules of a frame by the cycles between two frames, the row-pair products and
    /// the cycles of the transfers. The sum is linear, so it holds for a part of a frame, too.
    pub fn joules_of(&self, period_cycles: u64, slot_macs: u64, transfer_cycles: u64) -> f64 {
        self.cycle_j * period_cycles as f64
            + self.product_j * slot_macs as f64
            + self.transfer_j * transfer_cycles as f64
    }
}
