//! The model as tables, for search: a genome costs one look-up for each of its blocks.
//!
//! The totals of a frame are sums over its phases, so a block's share depends on its own genes, the embedding size and whether it is the
//! last one, and on nothing else. Depends on [`super::cycles`], [`super::estimate`] and [`crate::space`].

use sha2::{Digest, Sha256};

use super::configuration::{Buffers, Hardware};
use super::cycles::{Model, Totals};
use super::estimate::{host_estimate, Cost, HostEstimate};
use super::resources::Resources;
use super::workload::{BlockWork, Rows, Setting};
use crate::error::{Error, Result};
use crate::space::{BlockShape, Space};

/// One block's share of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    totals: Totals,
    fits: bool,
}

/// Entries of all blocks of one embedding size, indexed by a block's genes.
#[derive(Clone, Debug)]
struct Embed {
    /// Patch embedding and head.
    ends: Totals,
    inner: Vec<Entry>,
    last: Vec<Entry>,
}

/// Costs of every network of a space on one configuration. Equal to [`super::estimate()`], at millions of genomes a second.
#[derive(Clone, Debug)]
pub struct CostTable {
    space: Space,
    clock_hz: f64,
    embeds: Vec<Embed>,
    depths: Vec<usize>,
    /// Choices of each gene of a block.
    choices: Vec<usize>,
    host: HostEstimate,
}

impl CostTable {
    /// Makes the tables.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] in a mode that the HLS does not have; [`Error::DoesNotFit`] where the configuration needs more than its
    /// board has. Single networks may exceed a buffer: their [`Cost::fits`] is false.
    pub fn new(space: &Space, hardware: &Hardware) -> Result<Self> {
        hardware.check_mode()?;
        let board = hardware.board();
        Resources::of(hardware).check(board, board.resources)?;
        let setting = Setting::of_space(space);
        let model = Model::new(hardware, setting);
        let choices: Vec<usize> = (2..2 + space.block_genes())
            .map(|gene| space.choices_of(gene))
            .collect();
        let embeds = space.choices.embed.iter();
        let embeds = embeds.map(|&embed| Embed::new(space, &model, hardware, &choices, embed));
        Ok(Self {
            embeds: embeds.collect(),
            space: space.clone(),
            clock_hz: hardware.clock_hz(),
            depths: space.choices.depth.clone(),
            choices,
            host: host_estimate(board, &setting),
        })
    }

    /// The space.
    pub const fn space(&self) -> &Space {
        &self.space
    }

    /// The processor's share of a frame: the same for all networks of a space.
    pub const fn host(&self) -> &HostEstimate {
        &self.host
    }

    /// Cost of a genome; genes of unused blocks are ignored.
    ///
    /// The genome must be one of the space ([`Space::check_genome`]); of another the result means nothing.
    ///
    /// # Panics
    /// May panic where the genome is not one of the space.
    pub fn cost(&self, genome: &[u8]) -> Cost {
        let embed = &self.embeds[genome[0] as usize];
        let depth = self.depths[genome[1] as usize];
        let genes = self.choices.len();
        let (inner, last) = genome[2..2 + depth * genes].split_at((depth - 1) * genes);
        let (mut totals, mut fits) = (embed.ends, true);
        for block in inner.chunks_exact(genes) {
            let entry = &embed.inner[self.index(block)];
            totals.add(&entry.totals);
            fits &= entry.fits;
        }
        let entry = &embed.last[self.index(last)];
        totals.add(&entry.totals);
        fits &= entry.fits;
        Cost::new(&totals, self.clock_hz, fits)
    }

    /// Blocks of a genome that the buffers do not hold: 0 where [`Cost::fits`] is true. The genome must be one of the space.
    pub fn misfits(&self, genome: &[u8]) -> usize {
        let embed = &self.embeds[genome[0] as usize];
        let depth = self.depths[genome[1] as usize];
        // A block's sizes, and so whether it fits, do not depend on its being the last one.
        genome[2..]
            .chunks_exact(self.choices.len())
            .take(depth)
            .filter(|block| !embed.inner[self.index(block)].fits)
            .count()
    }

    /// SHA-256 (hex) of all that costs follow from: the tables, the clock and the space.
    pub fn sha256(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(self.space.sha256());
        digest.update(self.clock_hz.to_le_bytes());
        for embed in &self.embeds {
            let ends = Entry {
                totals: embed.ends,
                fits: true,
            };
            let entries = embed.inner.iter().chain(&embed.last);
            for Entry { totals, fits } in std::iter::once(&ends).chain(entries) {
                for cycles in [totals.interval, totals.latency, totals.transfer] {
                    digest.update(cycles.to_le_bytes());
                }
                digest.update([u8::from(*fits)]);
            }
        }
        format!("{:x}", digest.finalize())
    }

    #[inline]
    fn index(&self, block: &[u8]) -> usize {
        block
            .iter()
            .zip(&self.choices)
            .fold(0, |index, (&gene, &choices)| {
                index * choices + gene as usize
            })
    }

    /// The genes of a block with this index.
    fn block_genes(&self, mut index: usize) -> Vec<u8> {
        let mut genes: Vec<u8> = (self.choices.iter().rev())
            .map(|&choices| {
                let gene = (index % choices) as u8;
                index /= choices;
                gene
            })
            .collect();
        genes.reverse();
        genes
    }

    /// The network of most frames a second, exactly: for each embedding size and depth, the sums (interval, transfer) that no other
    /// choice of blocks beats in both are kept, and the period is the larger of the two sums. Of equals the first in the order of genes.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] where no network of the space fits the buffers.
    pub fn fastest(&self) -> Result<(Vec<u8>, Cost)> {
        let mut best: Option<(Vec<u8>, Cost)> = None;
        for (e, embed) in self.embeds.iter().enumerate() {
            let inner = front(candidates(&embed.inner));
            let last = front(candidates(&embed.last));
            let mut sums = vec![(embed.ends, Vec::new())];
            let mut made = 0;
            for (d, &depth) in self.depths.iter().enumerate() {
                while made + 1 < depth {
                    sums = front(extend(&sums, &inner));
                    made += 1;
                }
                let whole = extend(&sums, &last);
                let Some((totals, blocks)) = whole.into_iter().min_by_key(|(t, _)| t.period())
                else {
                    continue;
                };
                let cost = Cost::new(&totals, self.clock_hz, true);
                if best
                    .as_ref()
                    .is_none_or(|(_, b)| cost.period_cycles < b.period_cycles)
                {
                    best = Some((self.genome(e, d, &blocks), cost));
                }
            }
        }
        best.ok_or_else(|| self.nothing_fits())
    }

    /// The network of fewest frames a second that fits, exactly: the larger of two sums is largest where one of them is.
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
                let most = |entries: &[Entry]| {
                    candidates(entries)
                        .into_iter()
                        .rev()
                        .max_by_key(|(totals, _)| key(totals))
                };
                let (Some(inner), Some(last)) = (most(&embed.inner), most(&embed.last)) else {
                    continue;
                };
                for (d, &depth) in self.depths.iter().enumerate() {
                    let mut totals = embed.ends;
                    let mut blocks = Vec::new();
                    for _ in 1..depth {
                        totals.add(&inner.0);
                        blocks.extend(&inner.1);
                    }
                    totals.add(&last.0);
                    blocks.extend(&last.1);
                    let cost = Cost::new(&totals, self.clock_hz, true);
                    if best
                        .as_ref()
                        .is_none_or(|(_, b)| cost.period_cycles > b.period_cycles)
                    {
                        best = Some((self.genome(e, d, &blocks), cost));
                    }
                }
            }
        }
        best.ok_or_else(|| self.nothing_fits())
    }

    fn genome(&self, embed: usize, depth: usize, blocks: &[usize]) -> Vec<u8> {
        let mut genome = vec![embed as u8, depth as u8];
        genome.extend(blocks.iter().flat_map(|&index| self.block_genes(index)));
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

impl Embed {
    fn new(
        space: &Space,
        model: &Model<'_>,
        hardware: &Hardware,
        choices: &[usize],
        embed: usize,
    ) -> Self {
        let (setting, width) = (Setting::of_space(space), embed as u64);
        let configuration = hardware.configuration();
        let (array, lanes) = (configuration.array, configuration.lanes);
        let all_eight_bit = |rows: u64| Rows {
            four_bit: 0,
            eight_bit: rows,
        };
        let mut ends = model.end_totals(&model.embedding(width, all_eight_bit(width)));
        ends.add(&model.end_totals(&model.head(width, all_eight_bit(setting.classes))));
        let within = |needed: Buffers| {
            let have = configuration.buffers.entries();
            (needed.entries().into_iter().zip(have)).all(|((_, n), (_, h))| n <= h)
        };
        let entries = |last: bool| {
            (0..choices.iter().product())
                .map(|mut index: usize| {
                    let mut genes = [0; 6];
                    for (gene, &choices) in genes.iter_mut().zip(choices).rev() {
                        *gene = index % choices;
                        index /= choices;
                    }
                    let fraction =
                        |m: usize| space.choices.eight_bit[genes[2 + m.min(choices.len() - 3)]];
                    let shape = BlockShape {
                        heads: space.choices.heads[genes[0]],
                        head_dim: space.head_dim,
                        hidden: space.hidden(embed, genes[1]),
                        eight_bit: std::array::from_fn(fraction),
                    };
                    let work = BlockWork::of_shape(embed, &shape);
                    Entry {
                        totals: model.block_totals(&model.block(width, &work, last)),
                        fits: within(Buffers::of_sizes(
                            &setting,
                            width,
                            work.inner(),
                            work.hidden,
                            (array, lanes, configuration.frames),
                        )),
                    }
                })
                .collect()
        };
        Self {
            ends,
            inner: entries(false),
            last: entries(true),
        }
    }
}

/// Sums, and the blocks that they are of.
type Sum = (Totals, Vec<usize>);

fn candidates(entries: &[Entry]) -> Vec<Sum> {
    (entries.iter().enumerate())
        .filter(|(_, entry)| entry.fits)
        .map(|(index, entry)| (entry.totals, vec![index]))
        .collect()
}

fn extend(sums: &[Sum], more: &[Sum]) -> Vec<Sum> {
    let pairs = sums.iter().flat_map(|a| more.iter().map(move |b| (a, b)));
    pairs
        .map(|((totals, blocks), (others, more))| {
            let mut totals = *totals;
            totals.add(others);
            (totals, [blocks.as_slice(), more].concat())
        })
        .collect()
}

/// Those that no other beats in interval and transfer; of equals the first.
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
