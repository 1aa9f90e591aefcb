//! The accelerator's configuration for a whole space of networks.
//!
//! Depends on [`quasar_cost::explore`] and [`crate::space`].

use quasar_core::error::{Error, Result};
use quasar_cost::cycles::Model;
use quasar_cost::estimate::totals;
use quasar_cost::explore::{fastest, finalists, Period, FINALISTS};
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
    let (_, mut found) = choose(board, space, clock_mhz, 1)?;
    Ok(found.swap_remove(0))
}

/// As [`explore_space`], but compares the fastest configurations by `period`, with more networks of
/// the space.
///
/// # Errors
/// As [`explore_space`], and those of `period`.
pub fn explore_space_by(
    board: &Board,
    space: &Space,
    clock_mhz: f64,
    period: Period,
) -> Result<Hardware> {
    let (held, found) = choose(board, space, clock_mhz, FINALISTS)?;
    let compared = match held {
        Held::All => sampled(space, COMPARED)?,
        Held::Smallest => vec![smallest(space)?],
    };
    fastest(found, &compared, period)
}

/// The networks of a space that a configuration is made for.
enum Held {
    All,
    Smallest,
}

fn smallest(space: &Space) -> Result<Workload> {
    space.workload(&space.name, &space.decode(&space.smallest())?)
}

/// Returns a space's fastest configurations by the closed form, at most `count`.
fn choose(
    board: &Board,
    space: &Space,
    clock_mhz: f64,
    count: usize,
) -> Result<(Held, Vec<Hardware>)> {
    let one = smallest(space)?;
    let period = |hardware: &Hardware| totals(&one, &Model::new(hardware, one.setting)).period();
    let alone = |count| finalists(board, std::slice::from_ref(&one), clock_mhz, count);
    let least = period(&alone(1)?[0]);
    // By the closed form: replays of large networks on a small board take a minute.
    match finalists(board, &workloads_of_space(space)?, clock_mhz, count) {
        Ok(found) if period(&found[0]) <= 2 * least => Ok((Held::All, found)),
        Ok(_) | Err(Error::DoesNotFit { .. }) => Ok((Held::Smallest, alone(count)?)),
        Err(error) => Err(error),
    }
}
