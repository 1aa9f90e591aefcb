//! The model as tables, for search: a genome costs two look-ups for each of its blocks.
//!
//! The totals of a frame are sums over its phases. So the share of attention's half of a block
//! depends only on its own genes, the embedding size and whether the block is the last one; the
//! same holds for the MLP's half. Depends on [`quasar_cost`] and [`crate::space`].

use quasar_core::error::{Error, Result};
use quasar_cost::cycles::{Model, Totals};
use quasar_cost::energy::EnergyModel;
use quasar_cost::estimate::{host_estimate, HostEstimate};
use quasar_cost::{Cost, Resources};
use quasar_hardware::configuration::{Buffers, Hardware};
use quasar_hardware::workload::{BlockWork, RowWidths, Setting};

use crate::additive::{Choice, CostShares, Objective};
use crate::space::{BlockShape, Granularity, Space};

/// Matrices of attention's half of a block, and of the MLP's, in the order of
/// [`MATRICES`](crate::space::MATRICES).
const IN_ATTENTION: usize = 4;
const IN_MLP: usize = 2;
/// Joules of a unit of the shares of an energy.
const ENERGY_UNIT_J: f64 = 1e-12;
/// Entries of all tables together, at most.
const MAX_ENTRIES: u64 = 1 << 18;

/// One half-block's share of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    totals: Totals,
    fits: bool,
}

/// Both halves of a block, indexed by their genes: (heads, q, k, v, proj) and (MLP ratio, fc1,
/// fc2); if one fraction counts for the block, (heads, fraction) and (MLP ratio, fraction).
#[derive(Clone, Debug)]
struct Halves {
    attention: Vec<Entry>,
    mlp: Vec<Entry>,
}

/// Tables of one embedding size.
#[derive(Clone, Debug)]
struct Embed {
    /// Patch embedding and head.
    ends: Totals,
    inner: Halves,
    last: Halves,
}

/// Costs of every network of a space on one configuration. Equal to [`quasar_cost::estimate()`], at
/// millions of genomes a second.
#[derive(Clone, Debug)]
pub struct CostTable {
    space: Space,
    clock_hz: f64,
    embeds: Vec<Embed>,
    depths: Vec<usize>,
    /// Choices of an 8-bit gene.
    fractions: usize,
    /// Choices of each gene of a genome.
    choices: Vec<u8>,
    host: HostEstimate,
    energy: Option<EnergyModel>,
}

impl CostTable {
    /// Makes the tables.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] where the configuration needs more than the usable part of its board;
    /// [`Error::TooLarge`] where a space has more than 262,144 different half-blocks. Single
    /// networks may exceed a buffer: their [`Cost::fits`] is false.
    pub fn new(space: &Space, hardware: &Hardware) -> Result<Self> {
        let board = hardware.board();
        Resources::of(hardware).check(board)?;
        let choices = &space.choices;
        let fractions = choices.eight_bit.len();
        let mixes = match space.eight_bit_per {
            Granularity::Block => [fractions; 2],
            Granularity::Matrix => {
                [IN_ATTENTION, IN_MLP].map(|matrices| fractions.pow(matrices as u32))
            }
        };
        let halves = choices.heads.len() * mixes[0] + choices.mlp_ratio.len() * mixes[1];
        let size = (2 * choices.embed.len() * halves) as u64;
        if size > MAX_ENTRIES {
            return Err(Error::TooLarge {
                what: format!("the cost table of space {:?}", space.name),
                size,
                limit: MAX_ENTRIES,
                unit: "half-blocks",
            });
        }
        let setting = space.setting();
        let builder = Builder {
            space,
            setting,
            hardware,
            model: Model::new(hardware, setting),
            mixes,
        };
        let embeds = choices.embed.iter().map(|&embed| builder.embed(embed));
        Ok(Self {
            embeds: embeds.collect(),
            space: space.clone(),
            clock_hz: hardware.clock_hz(),
            depths: choices.depth.clone(),
            fractions,
            choices: (0..space.genes())
                .map(|gene| space.choices_of(gene) as u8)
                .collect(),
            host: host_estimate(hardware, &setting),
            energy: EnergyModel::of(hardware),
        })
    }

    /// Returns the space.
    pub const fn space(&self) -> &Space {
        &self.space
    }

    /// Returns the processor's share of a frame: the same for all networks of a space.
    pub const fn host(&self) -> &HostEstimate {
        &self.host
    }

    /// Returns whether the board's file has powers.
    pub const fn has_energy(&self) -> bool {
        self.energy.is_some()
    }

    /// Returns the watts that the configuration takes without frames, if the board's file has
    /// powers.
    pub fn standing_w(&self) -> Option<f64> {
        self.energy.map(|model| model.standing_w())
    }

    /// Returns the joules of a frame, if the board's file has powers.
    pub fn energy_j(&self, cost: &Cost) -> Option<f64> {
        self.energy.map(|model| model.joules(cost))
    }

    /// Checks a genome as [`Space::check_genome`] does, but much faster if the genome is valid.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] names the gene.
    pub fn check(&self, genome: &[u8]) -> Result<()> {
        let pairs = genome.iter().zip(&self.choices);
        // No early exit: the loop becomes a few vector comparisons.
        let wrong = pairs.filter(|(gene, choices)| gene >= choices).count();
        if wrong == 0 && genome.len() == self.choices.len() {
            return Ok(());
        }
        self.space.check_genome(genome)
    }

    /// Looks up the cost of a genome; ignores genes of unused blocks.
    ///
    /// The genome must be one of the space ([`Space::check_genome`]); otherwise the result means
    /// nothing.
    ///
    /// # Panics
    /// May panic if the genome is not one of the space.
    pub fn cost(&self, genome: &[u8]) -> Cost {
        let embed = &self.embeds[genome[0] as usize];
        let depth = self.depths[genome[1] as usize];
        let (totals, fits) = match self.space.eight_bit_per {
            Granularity::Block => self.sum::<3>(embed, &genome[2..2 + 3 * depth]),
            Granularity::Matrix => self.sum::<8>(embed, &genome[2..2 + 8 * depth]),
        };
        Cost::new(&totals, self.clock_hz, fits)
    }

    /// Counts the blocks of a genome that the buffers do not hold: 0 if [`Cost::fits`] is true. The
    /// genome must be one of the space.
    pub fn misfits(&self, genome: &[u8]) -> usize {
        let embed = &self.embeds[genome[0] as usize];
        let depth = self.depths[genome[1] as usize];
        // Whether a block fits does not depend on its position.
        genome[2..]
            .chunks_exact(self.space.block_genes())
            .take(depth)
            .filter(|block| {
                let (attention, mlp) = self.indices(block);
                !(embed.inner.attention[attention].fits && embed.inner.mlp[mlp].fits)
            })
            .count()
    }

    fn sum<const GENES: usize>(&self, embed: &Embed, genes: &[u8]) -> (Totals, bool) {
        let (mut totals, mut fits) = (embed.ends, true);
        let mut add = |halves: &Halves, block: &[u8]| {
            let (attention, mlp) = self.indices(block);
            for entry in [&halves.attention[attention], &halves.mlp[mlp]] {
                totals.add(&entry.totals);
                fits &= entry.fits;
            }
        };
        let (inner, last) = genes.split_at(genes.len() - GENES);
        for block in inner.chunks_exact(GENES) {
            add(&embed.inner, block);
        }
        add(&embed.last, last);
        (totals, fits)
    }

    /// Returns the indices of a block's halves.
    #[inline]
    fn indices(&self, block: &[u8]) -> (usize, usize) {
        let index = |size: u8, fractions: &[u8]| {
            fractions.iter().fold(size as usize, |index, &fraction| {
                index * self.fractions + fraction as usize
            })
        };
        let (sizes, fractions) = block.split_at(2);
        let (attention, mlp) = match self.space.eight_bit_per {
            Granularity::Block => (fractions, fractions),
            Granularity::Matrix => fractions.split_at(IN_ATTENTION),
        };
        (index(sizes[0], attention), index(sizes[1], mlp))
    }

    /// Checks that the costs of an objective are known.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for energies where the board's file has no powers.
    pub fn check_objective(&self, objective: Objective) -> Result<()> {
        if objective == Objective::Energy && !self.has_energy() {
            return Err(Error::InvalidValue(
                "energies are not known: the board's file has no [power]".into(),
            ));
        }
        Ok(())
    }

    /// Returns the shares of the two sums whose larger one is the cost.
    ///
    /// The energy of a frame is one sum if the interval is the period, and another one if the
    /// transfers are: a longer period takes more energy, so the larger one holds.
    fn sums(&self, totals: &Totals, objective: Objective) -> [u64; 2] {
        match (objective, &self.energy) {
            (Objective::Latency, _) => [totals.latency, totals.transfer],
            (Objective::Energy, Some(model)) => [totals.interval, totals.transfer].map(|period| {
                let joules = model.joules_of(period, totals.slot_macs, totals.transfer);
                (joules / ENERGY_UNIT_J).round() as u64
            }),
            _ => [totals.interval, totals.transfer],
        }
    }

    /// Returns what the choices of each part of a block add to a frame's cost, those that fit. The
    /// objective must be known ([`Self::check_objective`]).
    pub fn shares(&self, objective: Objective) -> CostShares {
        let n = self.fractions;
        let choice = |entry: &Entry, genes: Vec<u8>| Choice {
            genes,
            shares: self.sums(&entry.totals, objective),
        };
        let half = |entries: &[Entry], fractions: usize| -> Vec<Choice> {
            let fitting = entries.iter().enumerate().filter(|(_, entry)| entry.fits);
            fitting
                .map(|(index, entry)| choice(entry, digits(index, n, fractions)))
                .collect()
        };
        let parts = |halves: &Halves| -> Vec<Vec<Choice>> {
            match self.space.eight_bit_per {
                Granularity::Matrix => vec![
                    half(&halves.attention, IN_ATTENTION),
                    half(&halves.mlp, IN_MLP),
                ],
                Granularity::Block => {
                    let pairs = halves
                        .attention
                        .iter()
                        .enumerate()
                        .flat_map(|(i, attention)| {
                            let same = halves.mlp.iter().enumerate().skip(i % n).step_by(n);
                            same.filter(move |(_, mlp)| attention.fits && mlp.fits).map(
                                move |(j, mlp)| {
                                    let mut both = *attention;
                                    both.totals.add(&mlp.totals);
                                    choice(&both, [i / n, j / n, i % n].map(|g| g as u8).to_vec())
                                },
                            )
                        });
                    vec![pairs.collect()]
                }
            }
        };
        CostShares {
            rate_of_one: match objective {
                Objective::Period | Objective::Latency => self.clock_hz,
                Objective::Energy => 1.0 / ENERGY_UNIT_J,
            },
            ends: (self.embeds.iter())
                .map(|embed| self.sums(&embed.ends, objective))
                .collect(),
            inner: self
                .embeds
                .iter()
                .map(|embed| parts(&embed.inner))
                .collect(),
            last: self.embeds.iter().map(|embed| parts(&embed.last)).collect(),
        }
    }

    /// Finds the network of most frames a second, exactly. For each embedding size and depth it
    /// keeps the sums (interval, transfer) that no other choice of blocks beats in both; the period
    /// is the larger of the two sums. Of equals the first in the order of genes counts.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if no network of the space fits the buffers.
    pub fn fastest(&self) -> Result<(Vec<u8>, Cost)> {
        let mut best: Option<(Vec<u8>, Cost)> = None;
        for (e, embed) in self.embeds.iter().enumerate() {
            let inner = front(self.blocks(&embed.inner));
            let last = front(self.blocks(&embed.last));
            let mut sums = vec![(embed.ends, Vec::new())];
            let mut made = 0;
            for (d, &depth) in self.depths.iter().enumerate() {
                while made + 1 < depth {
                    sums = front(extend(&sums, &inner));
                    made += 1;
                }
                let whole = extend(&sums, &last).into_iter();
                if let Some((totals, genes)) = whole.min_by_key(|(t, _)| t.period()) {
                    let cost = Cost::new(&totals, self.clock_hz, true);
                    let better = |b: &(Vec<u8>, Cost)| cost.period_cycles < b.1.period_cycles;
                    if best.as_ref().is_none_or(better) {
                        best = Some((self.genome(e, d, genes), cost));
                    }
                }
            }
        }
        best.ok_or_else(|| self.nothing_fits())
    }

    /// Finds the network of fewest frames a second that fits, exactly: the larger of two sums is
    /// largest where one of them is.
    ///
    /// # Errors
    /// As [`Self::fastest`].
    pub fn slowest(&self) -> Result<(Vec<u8>, Cost)> {
        let mut best: Option<(Vec<u8>, Cost)> = None;
        for (e, embed) in self.embeds.iter().enumerate() {
            for key in [
                |totals: &Totals| totals.interval,
                |totals: &Totals| totals.transfer,
            ] {
                let most = |halves: &Halves| {
                    let blocks = self.blocks(halves).into_iter().rev();
                    blocks.max_by_key(|(totals, _)| key(totals))
                };
                let (Some(inner), Some(last)) = (most(&embed.inner), most(&embed.last)) else {
                    continue;
                };
                for (d, &depth) in self.depths.iter().enumerate() {
                    let mut totals = embed.ends;
                    (1..depth).for_each(|_| totals.add(&inner.0));
                    totals.add(&last.0);
                    let cost = Cost::new(&totals, self.clock_hz, true);
                    let worse = |b: &(Vec<u8>, Cost)| cost.period_cycles > b.1.period_cycles;
                    if best.as_ref().is_none_or(worse) {
                        let mut genes = inner.1.repeat(depth - 1);
                        genes.extend(&last.1);
                        best = Some((self.genome(e, d, genes), cost));
                    }
                }
            }
        }
        best.ok_or_else(|| self.nothing_fits())
    }

    /// Lists the blocks that fit and that no other beats within their group (all of one fraction,
    /// if that counts for the block).
    fn blocks(&self, halves: &Halves) -> Vec<Sum> {
        let n = self.fractions;
        // Each half's genes: heads or MLP ratio, then its fractions (one if one counts for the
        // block).
        let fitting = |entries: &[Entry], fractions: usize, keep: &dyn Fn(usize) -> bool| {
            let entries = entries.iter().enumerate();
            entries
                .filter(|(index, entry)| entry.fits && keep(*index))
                .map(|(index, entry)| (entry.totals, digits(index, n, fractions)))
                .collect::<Vec<Sum>>()
        };
        let mut blocks = Vec::new();
        match self.space.eight_bit_per {
            Granularity::Block => {
                for fraction in 0..n {
                    let same = |i: usize| i % n == fraction;
                    let pairs = extend(
                        &fitting(&halves.attention, 1, &same),
                        &fitting(&halves.mlp, 1, &same),
                    );
                    blocks.extend(
                        pairs
                            .into_iter()
                            .map(|(totals, genes)| (totals, vec![genes[0], genes[2], genes[1]])),
                    );
                }
            }
            Granularity::Matrix => {
                // Extremes of a sum are sums of extremes: the front, and the largest of either
                // kind.
                let extremes = |entries: &[Entry], fractions: usize| {
                    let all = fitting(entries, fractions, &|_| true);
                    let mut kept = front(all.clone());
                    for key in [
                        |totals: &Totals| totals.interval,
                        |totals: &Totals| totals.transfer,
                    ] {
                        kept.extend(all.iter().rev().max_by_key(|(t, _)| key(t)).cloned());
                    }
                    kept
                };
                let pairs = extend(
                    &extremes(&halves.attention, IN_ATTENTION),
                    &extremes(&halves.mlp, IN_MLP),
                );
                blocks.extend(pairs.into_iter().map(|(totals, mut genes)| {
                    let mlp_ratio = genes.remove(1 + IN_ATTENTION);
                    genes.insert(1, mlp_ratio);
                    (totals, genes)
                }));
            }
        }
        blocks
    }

    fn genome(&self, embed: usize, depth: usize, blocks: Vec<u8>) -> Vec<u8> {
        let mut genome = vec![embed as u8, depth as u8];
        genome.extend(blocks);
        genome.resize(self.space.genes(), 0);
        genome
    }

    fn nothing_fits(&self) -> Error {
        Error::InvalidValue(format!(
            "no network of space {:?} fits the configuration's buffers; let the design-space search size them for this space",
            self.space.name
        ))
    }
}

struct Builder<'a> {
    space: &'a Space,
    setting: Setting,
    hardware: &'a Hardware,
    model: Model<'a>,
    /// The number of choices of all 8-bit genes of attention's half together, and of the MLP's.
    mixes: [usize; 2],
}

impl Builder<'_> {
    fn embed(&self, embed: usize) -> Embed {
        let width = embed as u64;
        let all_eight_bit = RowWidths::all_eight_bit;
        let model = &self.model;
        let mut ends = model.end_totals(&model.embedding(width, all_eight_bit(width)));
        ends.add(&model.end_totals(&model.head(width, self.space.head_rows(width))));
        let [inner, last] = [false, true].map(|last| self.halves(embed, last));
        Embed { ends, inner, last }
    }

    fn halves(&self, embed: usize, last: bool) -> Halves {
        let (width, model, choices) = (embed as u64, &self.model, &self.space.choices);
        let entry = |inner: u64, hidden: u64, totals: Totals| Entry {
            totals,
            fits: self.fits(width, inner, hidden),
        };
        let [mixes, of_mlp] = self.mixes;
        let attention = (0..choices.heads.len() * mixes).map(|index| {
            let work = self.work(embed, [index / mixes, 0], [index % mixes, 0]);
            let totals = model.attention_totals(&model.attention_half(width, &work, last));
            entry(work.inner(), 0, totals)
        });
        let mlp = (0..choices.mlp_ratio.len() * of_mlp).map(|index| {
            let work = self.work(embed, [0, index / of_mlp], [0, index % of_mlp]);
            let totals = model.mlp_totals(&model.mlp_half(width, &work, last));
            entry(0, work.hidden, totals)
        });
        Halves {
            attention: attention.collect(),
            mlp: mlp.collect(),
        }
    }

    /// Returns a block with these choices: heads and MLP ratio, and the fractions of attention's
    /// matrices and of the MLP's, the digits of a number each.
    fn work(&self, embed: usize, sizes: [usize; 2], mixes: [usize; 2]) -> BlockWork {
        let choices = &self.space.choices;
        let n = choices.eight_bit.len();
        let fractions = match self.space.eight_bit_per {
            Granularity::Block => [
                [mixes[0] as u8; IN_ATTENTION].to_vec(),
                [mixes[1] as u8; IN_MLP].to_vec(),
            ],
            Granularity::Matrix => [
                digits(mixes[0], n, IN_ATTENTION - 1),
                digits(mixes[1], n, IN_MLP - 1),
            ],
        }
        .concat();
        let shape = BlockShape {
            heads: choices.heads[sizes[0]],
            head_dim: self.space.head_dim,
            hidden: self.space.hidden(embed, sizes[1]),
            eight_bit: std::array::from_fn(|m| choices.eight_bit[fractions[m] as usize]),
        };
        shape.work(embed)
    }

    fn fits(&self, embed: u64, inner: u64, hidden: u64) -> bool {
        let configuration = self.hardware.configuration();
        let shape = (configuration.array, configuration.lanes);
        let needed = Buffers::of_sizes(&self.setting, embed, inner, hidden, shape)
            .least(self.setting.tokens(), configuration.array);
        let have = configuration.buffers.entries();
        (needed.entries().into_iter().zip(have)).all(|((_, n), (_, h))| n <= h)
    }
}

/// Returns the last `last` digits of a number to the base `base`, after the rest of the number.
fn digits(mut number: usize, base: usize, last: usize) -> Vec<u8> {
    let mut found = vec![0; last + 1];
    for digit in found[1..].iter_mut().rev() {
        *digit = (number % base) as u8;
        number /= base;
    }
    found[0] = number as u8;
    found
}

/// Totals and their genes.
type Sum = (Totals, Vec<u8>);

fn extend(sums: &[Sum], more: &[Sum]) -> Vec<Sum> {
    let pairs = sums.iter().flat_map(|a| more.iter().map(move |b| (a, b)));
    pairs
        .map(|((totals, genes), (others, more))| {
            let mut totals = *totals;
            totals.add(others);
            (totals, [genes.as_slice(), more].concat())
        })
        .collect()
}

/// Returns the totals that no other beats in interval and transfer; of equals the first.
fn front(mut sums: Vec<Sum>) -> Vec<Sum> {
    sums.sort_by_key(|(totals, _)| (totals.interval, totals.transfer));
    let mut least = u64::MAX;
    sums.retain(|(totals, _)| {
        let kept = totals.transfer < least;
        least = least.min(totals.transfer);
        kept
    });
    sums
}
