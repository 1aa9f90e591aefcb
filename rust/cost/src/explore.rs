//! Design-space search: chooses the array and the lanes for a board and its networks.
//!
//! The search over the array's shape is exhaustive. It goes in the order of an upper bound on the
//! speed (no stalls), so it ends early and never misses the best shape. For each shape the number
//! of lanes shrinks greedily: from one lane for each token to a number that fits, then to one that
//! costs almost nothing. It grows again if that shortens the latency. Deterministic.
//!
//! Depends on [`crate::cycles`] and [`crate::resources`].

use std::cmp::Ordering;
use std::collections::HashMap;

use quasar_core::error::{Error, Result};
use quasar_hardware::boards::Board;
use quasar_hardware::configuration::{
    hls, Array, Buffers, Configuration, Hardware, Lanes, Mode, Multipliers,
};
use quasar_hardware::workload::{BlockWork, RowWidths, Workload};

use crate::cycles::{Model, Totals};
use crate::resources::Resources;

/// Throughput that a smaller number of lanes or ports may cost, as a share.
const TOLERANCE: f64 = 5e-4;
/// Latency that all reductions of lanes together may cost, although more would fit, as a share.
const LATENCY_TOLERANCE: f64 = 0.05;
/// Latency that one larger number of lanes must save to be taken, as a share.
const LATENCY_GAIN: f64 = 0.01;

/// Finds the configuration within the board's usable resources with which one frame of each of
/// `workloads` takes the least time.
///
/// # Errors
/// [`Error::InvalidValue`] without workloads; [`Error::DoesNotFit`] if no array is small enough for
/// the board's memory to hold the networks; [`Error::InvalidSettings`] for a clock out of range.
pub fn explore(board: &Board, workloads: &[Workload], clock_mhz: f64) -> Result<Hardware> {
    if workloads.is_empty() {
        return Err(Error::InvalidValue(
            "the design-space search needs at least one network".into(),
        ));
    }
    let search = Search {
        board,
        networks: workloads.iter().map(Distinct::of).collect(),
        workloads,
        clock_mhz,
    };
    // Checked first, so that the error of a bad clock names it.
    search.smallest(1)?;
    let mut shapes: Vec<(u64, Array)> = search
        .shapes()
        .into_iter()
        .map(|array| (search.ideal(array), array))
        .collect();
    shapes.sort_by_key(|&(bound, array)| (bound, array.tokens * array.pairs, array.tokens));
    let mut best: Option<Candidate> = None;
    for (bound, array) in shapes {
        if best.as_ref().is_some_and(|best| bound >= best.cycles) {
            break;
        }
        for frames in [2, 1] {
            for multipliers in [Multipliers::Dsp, Multipliers::Fabric] {
                let limit = best.as_ref().map_or(u64::MAX, |best| best.cycles);
                let Some(candidate) = search.fit_lanes(array, frames, multipliers, limit) else {
                    continue;
                };
                if best
                    .as_ref()
                    .is_none_or(|best| candidate.compare(best) == Ordering::Less)
                {
                    best = Some(candidate);
                }
            }
        }
    }
    best.map_or_else(|| Err(search.refusal()), |best| Ok(best.hardware))
}

struct Candidate {
    hardware: Hardware,
    /// Between two frames, summed over the networks.
    cycles: u64,
    /// Of one frame alone, summed over the networks.
    latency: u64,
    resources: Resources,
}

impl Candidate {
    /// Orders by speed, then by size.
    fn compare(&self, other: &Self) -> Ordering {
        let key = |c: &Self| (c.cycles, c.resources.total.dsp, c.resources.total.lut);
        key(self).cmp(&key(other))
    }
}

/// Lists a network's blocks, each kind once.
struct Distinct {
    blocks: Vec<(BlockWork, bool, u64)>,
}

impl Distinct {
    fn of(workload: &Workload) -> Self {
        let mut counts: HashMap<(BlockWork, bool), u64> = HashMap::new();
        let mut order = Vec::new();
        for (i, block) in workload.blocks.iter().enumerate() {
            let key = (*block, i + 1 == workload.blocks.len());
            let count = counts.entry(key).or_insert_with(|| {
                order.push(key);
                0
            });
            *count += 1;
        }
        let blocks = order.into_iter();
        Self {
            blocks: blocks
                .map(|(block, last)| (block, last, counts[&(block, last)]))
                .collect(),
        }
    }
}

struct Search<'a> {
    board: &'a Board,
    workloads: &'a [Workload],
    networks: Vec<Distinct>,
    clock_mhz: f64,
}

impl Search<'_> {
    /// Lists the array's shapes that the usable slices allow. Of the shapes with equally many tiles
    /// of tokens it lists only the smallest.
    fn shapes(&self) -> Vec<Array> {
        let tokens = (self.workloads.iter().map(|w| w.setting.tokens()))
            .max()
            .unwrap_or(1);
        let slices = self.board.usable().dsp;
        let mut sizes: Vec<u64> = (1..=tokens).map(|tiles| tokens.div_ceil(tiles)).collect();
        sizes.dedup();
        let mut shapes = Vec::new();
        for tokens in sizes.into_iter().filter(|&t| t <= hls::TOKENS) {
            for pairs in 1..=(slices / tokens).min(hls::PAIRS) {
                shapes.push(Array {
                    tokens,
                    pairs,
                    cascade: 1,
                    clock_ratio: 1,
                });
            }
        }
        shapes
    }

    /// Returns the cycles of one frame of each network without any stall: no configuration with
    /// this array is faster.
    fn ideal(&self, array: Array) -> u64 {
        let tiles =
            |tokens: u64, slots: u64| tokens.div_ceil(array.tokens) * slots.div_ceil(array.pairs);
        let slots = RowWidths::slots;
        let attention = |rows: u64| rows.div_ceil(array.pairs);
        let mut sum = 0;
        for (workload, network) in self.workloads.iter().zip(&self.networks) {
            let (n, d) = (workload.setting.tokens(), workload.embed);
            sum += tiles(workload.setting.patches, slots(workload.patch_rows))
                * workload.setting.patch_len
                + tiles(1, slots(workload.head_rows)) * d;
            for (block, last, count) in &network.blocks {
                let needed =
                    if *last && workload.setting.pool == quasar_core::subnet::config::Pool::Token {
                        1
                    } else {
                        n
                    };
                let qkv = if needed == n {
                    tiles(n, slots(block.key.plus(block.query))) + tiles(n, slots(block.value))
                } else {
                    tiles(n, slots(block.key.plus(block.value))) + tiles(1, slots(block.query))
                };
                sum += count
                    * (qkv * d
                        + tiles(needed, slots(block.proj)) * block.inner()
                        + tiles(needed, slots(block.fc1)) * d
                        + tiles(needed, slots(block.fc2)) * block.hidden
                        + block.heads
                            * needed.div_ceil(array.tokens)
                            * (attention(n) * block.head_dim + attention(block.head_dim) * n));
            }
        }
        sum
    }

    fn hardware(
        &self,
        array: Array,
        lanes: Lanes,
        frames: u64,
        axi_ports: u64,
    ) -> Result<Hardware> {
        let buffers = (self.workloads.iter())
            .map(|workload| Buffers::needed(workload, array, lanes))
            .fold(Buffers::default(), |all, one| all.max(&one));
        Hardware::new(
            Configuration {
                board: self.board.name.clone(),
                clock_mhz: self.clock_mhz,
                mode: Mode::Nibble,
                frames,
                axi_ports,
                array,
                lanes,
                buffers,
            },
            self.board.clone(),
        )
    }

    /// Returns the cycles between frames, and of one frame alone, of all networks together.
    fn cycles(&self, hardware: &Hardware) -> (u64, u64) {
        (self.workloads.iter().zip(&self.networks))
            .map(|(workload, network)| {
                let model = Model::new(hardware, workload.setting);
                let mut sum =
                    model.end_totals(&model.embedding(workload.embed, workload.patch_rows));
                sum.add(&model.end_totals(&model.head(workload.embed, workload.head_rows)));
                for (block, last, count) in &network.blocks {
                    let one = model.block_totals(workload.embed, block, *last);
                    sum.add(&Totals {
                        interval: count * one.interval,
                        latency: count * one.latency,
                        transfer: count * one.transfer,
                    });
                }
                (sum.period(), sum.alone())
            })
            .fold((0, 0), |(period, latency), one| {
                (period + one.0, latency + one.1)
            })
    }

    fn candidate(&self, array: Array, lanes: Lanes, frames: u64, ports: u64) -> Option<Candidate> {
        let hardware = self.hardware(array, lanes, frames, ports).ok()?;
        let (cycles, latency) = self.cycles(&hardware);
        Some(Candidate {
            cycles,
            latency,
            resources: Resources::of(&hardware),
            hardware,
        })
    }

    /// Finds the fastest lanes that fit together with an array, if they make it faster than
    /// `limit`.
    fn fit_lanes(
        &self,
        array: Array,
        frames: u64,
        multipliers: Multipliers,
        limit: u64,
    ) -> Option<Candidate> {
        let usable = self.board.usable();
        // An array that does not fit with one lane of each kind does not fit at all.
        let least = self.hardware(array, lanes_of(1, 1, 1, multipliers), frames, 1);
        if !Resources::of(&least.ok()?).fits(usable) {
            return None;
        }
        let most = |limit: u64| array.tokens.div_ceil(array.tokens.div_ceil(limit));
        let all = lanes_of(
            most(hls::REQUANTIZE),
            array.tokens,
            most(hls::EXPONENTIAL),
            multipliers,
        );
        let mut ports = self.board.axi.ports.min(hls::PORTS);
        let mut lanes = all;
        let mut current = self.candidate(array, lanes, frames, ports)?;
        if current.cycles >= limit {
            return None;
        }
        let most = (current.cycles as f64 * (1.0 + TOLERANCE)) as u64;
        let most_latency = (current.latency as f64 * (1.0 + LATENCY_TOLERANCE)) as u64;
        while ports > 1 {
            let fewer = self.candidate(array, lanes, frames, ports - 1)?;
            if fewer.cycles > most {
                break;
            }
            (ports, current) = (ports - 1, fewer);
        }
        // Until the design fits, takes the step that costs least; then only steps that cost almost
        // nothing.
        loop {
            let fits = current.resources.fits(usable);
            let allowed = (current.cycles as f64 * (1.0 + TOLERANCE)) as u64;
            let step = (0..3)
                .filter_map(|kind| {
                    let fewer = shrink(lanes, kind, array.tokens)?;
                    Some((fewer, self.candidate(array, fewer, frames, ports)?))
                })
                .filter(|(_, candidate)| {
                    !fits
                        || candidate.cycles <= allowed.min(most)
                            && candidate.latency <= most_latency
                })
                .min_by(|(_, a), (_, b)| a.compare(b));
            match step {
                Some((fewer, candidate)) if candidate.cycles < limit => {
                    (lanes, current) = (fewer, candidate);
                }
                _ if fits => break,
                _ => return None,
            }
        }
        Some(self.shorten(current, lanes, (array, frames, ports)))
    }

    /// Adds lanes that fit, slow nothing down and shorten the latency.
    fn shorten(
        &self,
        mut current: Candidate,
        mut lanes: Lanes,
        (array, frames, ports): (Array, u64, u64),
    ) -> Candidate {
        let usable = self.board.usable();
        loop {
            let enough = (current.latency as f64 * (1.0 - LATENCY_GAIN)) as u64;
            let step = (0..3)
                .filter_map(|kind| {
                    let more = grow(lanes, kind, array.tokens)?;
                    Some((more, self.candidate(array, more, frames, ports)?))
                })
                .filter(|(_, c)| c.resources.fits(usable))
                .filter(|(_, c)| c.cycles <= current.cycles && c.latency <= enough)
                .min_by_key(|(_, c)| (c.latency, c.resources.total.lut));
            let Some((more, candidate)) = step else {
                return current;
            };
            (lanes, current) = (more, candidate);
        }
    }

    fn smallest(&self, tokens: u64) -> Result<Hardware> {
        let array = Array {
            tokens,
            pairs: 1,
            cascade: 1,
            clock_ratio: 1,
        };
        self.hardware(array, lanes_of(1, 1, 1, Multipliers::Dsp), 1, 1)
    }

    /// Returns the reason why nothing fits: the shortage of the array whose buffers take the least
    /// memory, and the largest buffers.
    fn refusal(&self) -> Error {
        let least = [1, 2, 4, 8, 16]
            .into_iter()
            .filter_map(|tokens| self.smallest(tokens).ok())
            .map(|hardware| Resources::of(&hardware))
            .min_by_key(|resources| (resources.total.bram36, resources.total.uram));
        let board = self.board;
        let refused = least.and_then(|resources| {
            let error = resources.check(board, board.usable()).err()?;
            Some((error, resources))
        });
        match refused {
            Some((
                Error::DoesNotFit {
                    needed,
                    available,
                    unit,
                    ..
                },
                resources,
            )) => Error::DoesNotFit {
                what: format!(
                    "the smallest array for these networks on board {:?} ({}; they shrink with tokens, patches, embed and \
                     MLP, or take a larger board)",
                    board.name,
                    resources.largest_memories()
                ),
                needed,
                available,
                unit,
            },
            Some((other, _)) => other,
            None => Error::InvalidValue(format!(
                "no array on board {:?} can hold these networks",
                board.name
            )),
        }
    }
}

const fn lanes_of(requantize: u64, norm: u64, exponential: u64, multipliers: Multipliers) -> Lanes {
    Lanes {
        requantize,
        gelu: requantize,
        norm,
        exponential,
        multipliers,
    }
}

/// Returns the next smaller number of lanes that makes a difference: tokens / (passes + 1), rounded
/// up.
fn shrink(lanes: Lanes, kind: usize, tokens: u64) -> Option<Lanes> {
    change(lanes, kind, |count| {
        let passes = tokens.div_ceil(count);
        let next = (passes + 1..=tokens)
            .map(|passes| tokens.div_ceil(passes))
            .find(|&next| next < count);
        (count > 1).then(|| next.unwrap_or(1))
    })
}

/// Returns the next larger number of lanes: tokens / (passes - 1), rounded up.
fn grow(lanes: Lanes, kind: usize, tokens: u64) -> Option<Lanes> {
    change(lanes, kind, |count| {
        let passes = tokens.div_ceil(count);
        (passes > 1).then(|| tokens.div_ceil(passes - 1))
    })
    .filter(|more| more.requantize <= hls::REQUANTIZE && more.exponential <= hls::EXPONENTIAL)
}

fn change(lanes: Lanes, kind: usize, to: impl Fn(u64) -> Option<u64>) -> Option<Lanes> {
    let Lanes {
        requantize,
        norm,
        exponential,
        multipliers,
        ..
    } = lanes;
    Some(match kind {
        0 => lanes_of(to(requantize)?, norm, exponential, multipliers),
        1 => lanes_of(requantize, to(norm)?, exponential, multipliers),
        _ => lanes_of(requantize, norm, to(exponential)?, multipliers),
    })
}
