//! The accelerator's configuration for a whole space of networks.
//!
//! Depends on [`quasar_cost::explore`] and [`crate::space`].

use quasar_core::error::{Error, Result};
use quasar_cost::cycles::Model;
use quasar_cost::estimate::totals;
use quasar_cost::explore::Period;
use quasar_cost::{explore, explore_by};
use quasar_hardware::{Board, Hardware, Workload};

use crate::space::Space;

/// Sampled networks of a space, in addition to the largest and the smallest.
const SAMPLES: u64 = 2;
/// The same where the fastest configurations are compared.
const COMPARED: u64 = 6;

/// Returns networks that represent a space: the largest, the smallest, and a few samples.
///
/// # Errors
/// None for a checked space.
pub fn workloads_of_space(space: &Space) -> Result<Vec<Workload>> {
    sampled(space, SAMPLES)
}

/// Returns the largest network, the smallest, and `samples` more.
fn sampled(space: &Space, samples: u64) -> Result<Vec<Workload>> {
    let mut genomes = vec![space.largest(), space.smallest()];
    genomes.extend((0..samples).map(|k| space.sample(0, &[k])));
    genomes.dedup();
    let workload = |genome: &Vec<u8>| space.workload(&space.name, &space.decode(genome)?);
    genomes.iter().map(workload).collect()
}

/// Finds the configuration for a space by the closed form. It holds the largest network if that
/// costs at most half of the speed of the smallest one. Otherwise its buffers are made for the
/// smallest one, and [`crate::CostTable`] marks the networks that exceed them.
///
/// # Errors
/// As [`explore`], for the smallest network.
pub fn explore_space(board: &Board, space: &Space, clock_mhz: f64) -> Result<Hardware> {
    choose(board, space, clock_mhz, &|workloads| {
        explore(board, workloads, clock_mhz)
    })
}

/// As [`explore_space`], but compares the fastest configurations by `period`, with more networks of
/// the space.
///
/// # Errors
/// As [`explore_by`], for the smallest network.
pub fn explore_space_by(
    board: &Board,
    space: &Space,
    clock_mhz: f64,
    period: Period,
) -> Result<Hardware> {
    let more = sampled(space, COMPARED)?;
    choose(board, space, clock_mhz, &|workloads| {
        // One alone is the smallest, which may be the only one that fits.
        let compared = if workloads.len() == 1 {
            workloads
        } else {
            &more
        };
        explore_by(board, workloads, compared, clock_mhz, period)
    })
}

/// Chooses a space's configuration of those that `find` finds for its networks.
fn choose(
    board: &Board,
    space: &Space,
    clock_mhz: f64,
    find: &dyn Fn(&[Workload]) -> Result<Hardware>,
) -> Result<Hardware> {
    let all = workloads_of_space(space)?;
    let smallest = space.workload(&space.name, &space.decode(&space.smallest())?)?;
    let period =
        |hardware: &Hardware| totals(&smallest, &Model::new(hardware, smallest.setting)).period();
    let least = explore(board, std::slice::from_ref(&smallest), clock_mhz)?;
    // By the closed form: replays of large networks on a small board take a minute.
    match explore(board, &all, clock_mhz) {
        Ok(hardware) if period(&hardware) <= 2 * period(&least) => find(&all),
        Ok(_) | Err(Error::DoesNotFit { .. }) => find(std::slice::from_ref(&smallest)),
        Err(error) => Err(error),
    }
}
