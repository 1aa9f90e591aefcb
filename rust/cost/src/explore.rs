//! Design-space search: chooses the array and the lanes for a board and its networks.
//!
//! Tries all shapes of the array, cascades included, in the order of an upper bound on the speed
//! (no stalls), so it ends early. The array runs at twice the kernels' clock where the board allows
//! it. For each shape the search starts from one lane for each token and buffers for all tokens. It
//! takes lanes, ports and buffers away until the design fits; each step is the one that costs least
//! for the resources that it frees. Then it exchanges lanes, and takes away those that cost almost
//! nothing. A caller may compare the fastest designs by another model of the cycles. The result is
//! deterministic.
//!
//! Depends on [`crate::cycles`] and [`crate::resources`].

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use quasar_core::error::{Error, Result};
use quasar_hardware::boards::{Amounts, Board};
use quasar_hardware::configuration::{
    hls, Array, Buffers, Configuration, Hardware, Lanes, Margins, Mode, Multipliers, MAX_BANDS,
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
/// Configurations that [`explore_by`] compares.
pub const FINALISTS: usize = 6;
/// Share by which a finalist may be slower than the fastest design by the closed form.
const FORM_ERROR: f64 = 0.05;
/// Resources of the multipliers of the norm and of the softmax that are tried.
const MULTIPLIERS: [[Multipliers; 2]; 4] = [
    [Multipliers::Dsp, Multipliers::Dsp],
    [Multipliers::Fabric, Multipliers::Dsp],
    [Multipliers::Dsp, Multipliers::Fabric],
    [Multipliers::Fabric, Multipliers::Fabric],
];
/// Cascades that are tried. Longer cascades need fewer LUTs a slice, but waste more columns.
const CASCADES: [u64; 4] = [1, 2, 4, 8];

/// Returns the cycles between two frames of a network on a configuration.
pub type Period<'a> = &'a dyn Fn(&Workload, &Hardware) -> Result<u64>;

/// Finds the configuration within the board's usable resources with which one frame of each of
/// `workloads` takes the least time by the closed form. The configuration has counters if they fit,
/// too.
///
/// # Errors
/// [`Error::InvalidValue`] without workloads; [`Error::DoesNotFit`] if no array is small enough for
/// the board's memory to hold the networks; [`Error::InvalidSettings`] for a clock out of range.
pub fn explore(board: &Board, workloads: &[Workload], clock_mhz: f64) -> Result<Hardware> {
    Ok(finalists(board, workloads, clock_mhz, 1)?.swap_remove(0))
}

/// As [`explore`], but of the configurations that are fastest by the closed form, takes the one on
/// which a frame of each of the networks takes the fewest cycles by `period`.
///
/// # Errors
/// As [`explore`], and those of `period`.
pub fn explore_by(
    board: &Board,
    workloads: &[Workload],
    clock_mhz: f64,
    period: Period,
) -> Result<Hardware> {
    fastest(
        finalists(board, workloads, clock_mhz, FINALISTS)?,
        workloads,
        period,
    )
}

/// Returns the one of the configurations on which a frame of each of the networks takes the fewest
/// cycles by `period`.
///
/// # Errors
/// Those of `period`, if it answers for no configuration.
///
/// # Panics
/// If there is no configuration.
pub fn fastest(
    configurations: Vec<Hardware>,
    networks: &[Workload],
    period: Period,
) -> Result<Hardware> {
    let mut best = Err(None);
    for hardware in configurations {
        let cycles = networks.iter().map(|one| period(one, &hardware));
        match (cycles.sum::<Result<u64>>(), &best) {
            (Ok(cycles), Ok((least, _))) if cycles >= *least => {}
            (Ok(cycles), _) => best = Ok((cycles, hardware)),
            (Err(error), Err(None)) => best = Err(Some(error)),
            (Err(_), _) => {}
        }
    }
    best.map(|(_, hardware)| hardware)
        .map_err(|error| error.expect("a configuration"))
}

/// Returns the fastest configurations by the closed form, at most `count`, the best first.
///
/// # Errors
/// As [`explore`].
pub fn finalists(
    board: &Board,
    workloads: &[Workload],
    clock_mhz: f64,
    count: usize,
) -> Result<Vec<Hardware>> {
    if workloads.is_empty() {
        return Err(Error::InvalidValue(
            "the design-space search needs at least one network".into(),
        ));
    }
    let search = Search {
        board: Arc::new(board.clone()),
        networks: workloads.iter().map(Distinct::of).collect(),
        workloads,
        clock_mhz,
        clock_ratio: if 2.0 * clock_mhz <= board.array_clock_mhz() {
            2
        } else {
            1
        },
        usable: board.usable(),
    };
    // Checked first, so that the error of a bad clock names it.
    search.smallest(1, SIXTEENTHS)?;
    let fits = |hardware: &Hardware| Resources::of(hardware).fits(search.usable);
    // Fitting lanes to every shape takes a minute where none can fit.
    if !search.small_designs(SIXTEENTHS).any(|one| fits(&one)) {
        return Err(search.refusal());
    }
    let mut shapes: Vec<(u64, Array)> = search
        .shapes()
        .into_iter()
        .map(|array| (search.ideal(array), array))
        .collect();
    shapes.sort_by_key(|&(bound, array)| (bound, array.slices(), array.tokens, array.cascade));
    let mut found = Finalists {
        count,
        candidates: Vec::new(),
    };
    for (bound, array) in shapes {
        if bound >= found.limit() {
            break;
        }
        for frames in [2, 1] {
            let around = Around::new(&search, array, frames);
            for multipliers in MULTIPLIERS {
                let limit = found.limit();
                if let Some(candidate) = around.fit_lanes(multipliers, limit) {
                    found.add(candidate);
                }
            }
        }
    }
    let mut found: Vec<Hardware> = (found.candidates.into_iter())
        .map(|candidate| candidate.design.hardware.clone())
        .collect();
    if found.is_empty() {
        // Steps from the most lanes end where no single one frees anything.
        let small = search.small_designs(SIXTEENTHS);
        let fastest = small.filter(fits).min_by_key(|one| search.cycles(one));
        found.push(fastest.ok_or_else(|| search.refusal())?);
    }
    let found = found.into_iter();
    found.map(|one| search.with_counters(one)).collect()
}

/// The best candidates so far, the best first: at most `count`, all within [`FORM_ERROR`] of the
/// best. Of designs that differ in their multipliers alone, one is kept.
struct Finalists {
    count: usize,
    candidates: Vec<Candidate>,
}

impl Finalists {
    /// Returns the cycles from which on a candidate is none of these.
    fn limit(&self) -> u64 {
        let Some(best) = self.candidates.first() else {
            return u64::MAX;
        };
        match self.candidates.get(self.count - 1) {
            Some(last) => last.cycles,
            None => (best.cycles as f64 * (1.0 + FORM_ERROR)) as u64,
        }
    }

    fn add(&mut self, candidate: Candidate) {
        // Multipliers do not change the cycles.
        let same = |one: &Candidate| {
            let [one_of, other_of] = [one, &candidate].map(|c| c.design.hardware.configuration());
            one.choice.counts == candidate.choice.counts
                && (one_of.array, one_of.frames) == (other_of.array, other_of.frames)
        };
        if let Some(at) = self.candidates.iter().position(same) {
            if self.candidates[at].rank(&candidate) != Ordering::Greater {
                return;
            }
            self.candidates.remove(at);
        }
        let at = (self.candidates).partition_point(|one| one.rank(&candidate) != Ordering::Greater);
        self.candidates.insert(at, candidate);
        self.candidates.truncate(self.count);
        let most = (self.candidates[0].cycles as f64 * (1.0 + FORM_ERROR)) as u64;
        self.candidates.retain(|one| one.cycles <= most);
    }
}

struct Design {
    hardware: Hardware,
    resources: Resources,
}

#[derive(Clone)]
struct Candidate {
    choice: Choice,
    design: Rc<Design>,
    /// Between two frames, summed over the networks.
    cycles: u64,
    /// Of one frame alone, summed over the networks.
    latency: u64,
}

impl Candidate {
    /// Orders finished designs by speed, then by latency and size.
    fn rank(&self, other: &Self) -> Ordering {
        let key = |c: &Self| (c.cycles, c.latency);
        (key(self).cmp(&key(other))).then_with(|| self.compare(other))
    }

    /// Orders by speed, then by size.
    fn compare(&self, other: &Self) -> Ordering {
        let key = |c: &Self| {
            let total = c.design.resources.total;
            (c.cycles, total.dsp, total.lut)
        };
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
    board: Arc<Board>,
    workloads: &'a [Workload],
    networks: Vec<Distinct>,
    clock_mhz: f64,
    clock_ratio: u64,
    usable: Amounts,
}

impl Search<'_> {
    /// Returns the tokens of the network that has most.
    fn tokens(&self) -> u64 {
        let tokens = self.workloads.iter().map(|w| w.setting.tokens());
        tokens.max().unwrap_or(1)
    }

    /// Lists the array's shapes that the usable slices allow. Of the shapes with equally many tiles
    /// of tokens it lists only the smallest.
    fn shapes(&self) -> Vec<Array> {
        let tokens = self.tokens();
        let slices = self.usable.dsp;
        let mut sizes: Vec<u64> = (1..=tokens).map(|tiles| tokens.div_ceil(tiles)).collect();
        sizes.dedup();
        let mut shapes = Vec::new();
        for tokens in sizes.into_iter().filter(|&t| t <= hls::TOKENS) {
            for cascade in CASCADES {
                for pairs in 1..=(slices / tokens / cascade).min(hls::PAIRS) {
                    shapes.push(Array {
                        tokens,
                        pairs,
                        cascade,
                        clock_ratio: self.clock_ratio,
                    });
                }
            }
        }
        shapes
    }

    /// Returns the cycles of one frame of each network without any stall: no configuration with
    /// this array is faster.
    fn ideal(&self, array: Array) -> u64 {
        let tiles =
            |tokens: u64, slots: u64| tokens.div_ceil(array.tokens) * slots.div_ceil(array.pairs);
        let words = |columns: u64| columns.div_ceil(array.cascade);
        let slots = RowWidths::slots;
        let attention = |rows: u64| rows.div_ceil(array.pairs);
        let mut sum = 0;
        for (workload, network) in self.workloads.iter().zip(&self.networks) {
            let (n, d) = (workload.setting.tokens(), workload.embed);
            sum += tiles(workload.setting.patches, slots(workload.patch_rows))
                * words(workload.setting.patch_len)
                + workload
                    .embed_proj
                    .map_or(0, |rows| tiles(n, slots(rows)) * words(d))
                + tiles(1, slots(workload.head_rows)) * words(d)
                + workload
                    .pair_head_rows
                    .map_or(0, |rows| tiles(1, slots(rows)) * words(d));
            for (block, last, count) in &network.blocks {
                let needed = workload.setting.needed(*last);
                let qkv = if needed == n || workload.setting.rotates() {
                    tiles(n, slots(block.key.plus(block.query))) + tiles(n, slots(block.value))
                } else {
                    tiles(n, slots(block.key.plus(block.value))) + tiles(needed, slots(block.query))
                };
                sum += count
                    * (qkv * words(d)
                        + tiles(needed, slots(block.proj)) * words(block.inner())
                        + tiles(needed, slots(block.fc1)) * words(d)
                        + tiles(needed, slots(block.fc2)) * words(block.hidden)
                        + block.heads
                            * needed.div_ceil(array.tokens)
                            * (attention(n) * words(block.head_dim)
                                + attention(block.head_dim) * words(n)));
            }
        }
        sum / array.clock_ratio
    }

    fn hardware(&self, array: Array, frames: u64, choice: Choice) -> Result<Hardware> {
        let buffers = (self.workloads.iter())
            .map(|workload| {
                let needed = Buffers::needed(workload, array, choice.lanes());
                let tiles = workload.setting.tokens().div_ceil(array.tokens);
                let held = |words: u64, kind: usize| words / tiles * tiles.min(choice.counts[kind]);
                Buffers {
                    input: held(needed.input, INPUT),
                    hidden: held(needed.hidden, HIDDEN),
                    ..needed
                }
            })
            .fold(Buffers::default(), |all, one| all.max(&one));
        self.with_buffers(array, frames, choice, buffers)
    }

    /// Returns the configuration with counters if it still fits, else as it is: no lane is taken
    /// away for counters.
    fn with_counters(&self, hardware: Hardware) -> Result<Hardware> {
        let mut configuration = hardware.configuration().clone();
        configuration.counters = true;
        let counted = Hardware::new(configuration, Arc::clone(&self.board))?;
        let fits = Resources::of(&counted).fits(self.usable);
        Ok(if fits { counted } else { hardware })
    }

    fn with_buffers(
        &self,
        array: Array,
        frames: u64,
        choice: Choice,
        buffers: Buffers,
    ) -> Result<Hardware> {
        Hardware::new(
            Configuration {
                board: self.board.name.clone(),
                clock_mhz: self.clock_mhz,
                mode: Mode::Nibble,
                frames,
                axi_ports: choice.counts[PORTS],
                counters: false,
                array,
                lanes: choice.lanes(),
                buffers,
                margins: Margins::default(),
            },
            Arc::clone(&self.board),
        )
    }

    /// Returns the cycles between frames, and of one frame alone, of all networks together.
    fn cycles(&self, hardware: &Hardware) -> (u64, u64) {
        (self.workloads.iter().zip(&self.networks))
            .map(|(workload, network)| {
                let model = Model::new(hardware, workload.setting);
                let mut sum = model.embedding_totals(workload);
                sum.add(&model.head_totals(workload));
                for (block, last, count) in &network.blocks {
                    let one = model.block_totals(workload.embed, block, *last);
                    sum.add(&Totals {
                        interval: count * one.interval,
                        latency: count * one.latency,
                        transfer: count * one.transfer,
                        transfers: count * one.transfers,
                        slot_macs: count * one.slot_macs,
                    });
                }
                (sum.period(), sum.alone())
            })
            .fold((0, 0), |(period, latency), one| {
                (period + one.0, latency + one.1)
            })
    }

    /// Returns the design of one row pair and lanes for all its tokens, whose RAMs are the fewest,
    /// with buffers for this many sixteenths of the networks' sizes.
    fn smallest(&self, tokens: u64, sixteenths: u64) -> Result<Hardware> {
        let array = Array {
            tokens,
            pairs: 1,
            cascade: 1,
            clock_ratio: self.clock_ratio,
        };
        let choice = Choice {
            counts: [tokens, tokens, tokens, 1, 1, 1],
            tokens,
            tiles: 1,
            multipliers: MULTIPLIERS[0],
        };
        let part = |size: u64| (size * sixteenths).div_ceil(SIXTEENTHS);
        let buffers = (self.workloads.iter())
            .flat_map(|workload| workload.blocks.iter().map(move |block| (workload, block)))
            .map(|(workload, block)| {
                Buffers::of_sizes(
                    &workload.setting,
                    part(workload.embed),
                    part(block.inner()),
                    part(block.hidden),
                    (array, choice.lanes()),
                )
                .least(workload.setting.tokens(), array)
            })
            .fold(Buffers::default(), |all, one| all.max(&one));
        self.with_buffers(array, 1, choice, buffers)
    }

    /// Returns the designs of [`Self::smallest`] whose buffers take least memory.
    fn small_designs(&self, sixteenths: u64) -> impl Iterator<Item = Hardware> + '_ {
        let sizes = SMALL_ARRAYS.into_iter();
        sizes.filter_map(move |tokens| self.smallest(tokens, sixteenths).ok())
    }

    /// Returns the largest embedding that some array holds with the networks' proportions.
    fn largest_embed(&self) -> Option<u64> {
        let embed = self.workloads.iter().map(|workload| workload.embed).max()?;
        let fits = |hardware: Hardware| Resources::of(&hardware).fits(self.usable);
        (1..SIXTEENTHS)
            .rev()
            .find(|&part| self.small_designs(part).any(fits))
            .map(|part| embed * part / SIXTEENTHS)
    }

    /// Returns the reason why nothing fits: the shortage of the array whose buffers take the least
    /// memory, and the largest buffers.
    fn refusal(&self) -> Error {
        let least = self
            .small_designs(SIXTEENTHS)
            .map(|hardware| Resources::of(&hardware))
            .min_by_key(|resources| (resources.total.bram36, resources.total.uram));
        let board = &*self.board;
        let refused = least.and_then(|resources| {
            let error = resources.check(board).err()?;
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
                    "the smallest array for these networks on board {:?} ({}; {}, or take a larger board)",
                    board.name,
                    resources.largest_memories(),
                    self.largest_embed().map_or_else(
                        || "they shrink with tokens, patches, embed and MLP".into(),
                        |embed| format!("networks of these proportions fit up to embed {embed}"),
                    )
                ),
                needed,
                available,
                unit,
            },
            Some((other, _)) => other,
            None => unreachable!("a design that fits is taken"),
        }
    }
}

/// Lanes, ports and buffers around one array. Designs are tried more than once and remembered.
struct Around<'a> {
    search: &'a Search<'a>,
    array: Array,
    frames: u64,
    designs: RefCell<HashMap<Choice, Option<Rc<Design>>>>,
    /// Cycles between frames, and of one frame alone. Multipliers do not change them.
    cycles: RefCell<HashMap<[u64; KINDS], (u64, u64)>>,
}

impl<'a> Around<'a> {
    fn new(search: &'a Search<'a>, array: Array, frames: u64) -> Self {
        Self {
            search,
            array,
            frames,
            designs: RefCell::default(),
            cycles: RefCell::default(),
        }
    }

    fn design(&self, choice: Choice) -> Option<Rc<Design>> {
        let mut designs = self.designs.borrow_mut();
        let new = || {
            let hardware = self.search.hardware(self.array, self.frames, choice).ok()?;
            let resources = Resources::of(&hardware);
            Some(Rc::new(Design {
                hardware,
                resources,
            }))
        };
        designs.entry(choice).or_insert_with(new).clone()
    }

    fn candidate(&self, choice: Choice) -> Option<Candidate> {
        let design = self.design(choice)?;
        let mut known = self.cycles.borrow_mut();
        let known = known.entry(choice.counts);
        let (cycles, latency) = *known.or_insert_with(|| self.search.cycles(&design.hardware));
        Some(Candidate {
            choice,
            design,
            cycles,
            latency,
        })
    }

    /// Returns a candidate if it fits.
    fn fitting(&self, choice: Choice) -> Option<Candidate> {
        let fits = self.design(choice)?.resources.fits(self.search.usable);
        fits.then(|| self.candidate(choice)).flatten()
    }

    /// Finds lanes and ports that fit together with an array, if they make it faster than `limit`.
    fn fit_lanes(&self, multipliers: [Multipliers; 2], limit: u64) -> Option<Candidate> {
        let (array, usable) = (self.array, self.search.usable);
        let of = |choice| self.candidate(choice);
        let most = |limit: u64| array.tokens.div_ceil(array.tokens.div_ceil(limit));
        let ports = self.search.board.axi.ports.min(hls::PORTS);
        let tiles = self.search.tokens().div_ceil(array.tokens);
        let counts = [
            most(hls::REQUANTIZE),
            array.tokens,
            most(hls::EXPONENTIAL),
            ports,
            tiles,
            tiles,
        ];
        let all = Choice {
            counts,
            tokens: array.tokens,
            tiles,
            multipliers,
        };
        if !self.can_fit(all) {
            return None;
        }
        let mut current = of(all)?;
        // Smaller buffers may save this much in the end.
        let enough = limit.saturating_add(limit / 10);
        if current.cycles >= enough {
            return None;
        }
        while !current.design.resources.fits(usable) {
            let excess = current.design.resources.excess(usable);
            let price = |smaller: &Candidate| {
                let freed = excess - smaller.design.resources.excess(usable);
                smaller.cycles.saturating_sub(current.cycles) as f64 / freed
            };
            current = (0..KINDS)
                .filter_map(|kind| of(current.choice.shrink(kind)?))
                .filter(|smaller| smaller.design.resources.excess(usable) < excess)
                .min_by(|a, b| price(a).total_cmp(&price(b)))?;
            if current.cycles >= enough {
                return None;
            }
        }
        Some(self.shorten(self.trim(self.exchange(current))))
    }

    /// Returns true if the steps that free most resources, whatever they cost, end in a design that
    /// fits. Most arrays are ruled out here, without the model of the cycles.
    fn can_fit(&self, mut choice: Choice) -> bool {
        let excess = |choice| {
            let design = self.design(choice)?;
            Some((design.resources.excess(self.search.usable), choice))
        };
        let Some((mut least, _)) = excess(choice) else {
            return false;
        };
        while least > 0.0 {
            let step = (0..KINDS)
                .filter_map(|kind| excess(choice.shrink(kind)?))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .filter(|(smaller, _)| *smaller < least);
            match step {
                Some(step) => (least, choice) = step,
                None => return false,
            }
        }
        true
    }

    /// Adds lanes of one kind, or takes some of another for them, as long as this saves cycles. A
    /// smaller buffer saves cycles where the norm of a band overlaps with the products of the next.
    fn exchange(&self, mut current: Candidate) -> Candidate {
        loop {
            let step = (0..KINDS)
                .filter_map(|kind| Some((kind, current.choice.grow(kind)?)))
                .flat_map(|(kind, more)| {
                    let others = (0..KINDS).filter(move |&other| other != kind);
                    let fewer = others.filter_map(move |other| more.shrink(other));
                    std::iter::once(more).chain(fewer)
                })
                .chain(
                    [INPUT, HIDDEN]
                        .map(|kind| current.choice.shrink(kind))
                        .into_iter()
                        .flatten(),
                )
                .filter_map(|choice| self.fitting(choice))
                .filter(|candidate| candidate.cycles < current.cycles)
                .min_by(Candidate::compare);
            match step {
                Some(better) => current = better,
                None => return current,
            }
        }
    }

    /// Takes away lanes and ports that cost almost nothing.
    fn trim(&self, mut current: Candidate) -> Candidate {
        let most = (current.cycles as f64 * (1.0 + TOLERANCE)) as u64;
        let most_latency = (current.latency as f64 * (1.0 + LATENCY_TOLERANCE)) as u64;
        loop {
            let step = (0..=PORTS)
                .filter_map(|kind| {
                    let fewer = current.choice.shrink(kind)?;
                    self.fitting(fewer)
                })
                .filter(|c| c.cycles <= most && c.latency <= most_latency)
                .min_by(Candidate::compare);
            match step {
                Some(smaller) => current = smaller,
                None => return current,
            }
        }
    }

    /// Adds lanes that fit, slow nothing down and shorten the latency.
    fn shorten(&self, mut current: Candidate) -> Candidate {
        loop {
            let enough = (current.latency as f64 * (1.0 - LATENCY_GAIN)) as u64;
            let step = (0..PORTS)
                .filter_map(|kind| {
                    let more = current.choice.grow(kind)?;
                    self.fitting(more)
                })
                .filter(|c| c.cycles <= current.cycles && c.latency <= enough)
                .min_by_key(|c| (c.latency, c.design.resources.total.lut));
            match step {
                Some(faster) => current = faster,
                None => return current,
            }
        }
    }
}

/// Parts of a network's sizes in which a smaller one is looked for.
const SIXTEENTHS: u64 = 16;
/// Tokens of the arrays that are tried where nothing fits.
const SMALL_ARRAYS: [u64; 5] = [1, 2, 4, 8, 16];

/// Kinds of [`Choice::counts`]: requantizing, `LayerNorm` and exponential lanes, then ports, then
/// the tiles of tokens that `input` and `hidden` hold.
const KINDS: usize = 6;
const PORTS: usize = 3;
const INPUT: usize = 4;
const HIDDEN: usize = 5;

/// Lanes and ports around an array, and its buffers that may hold less than all tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Choice {
    counts: [u64; KINDS],
    /// Tokens of the array.
    tokens: u64,
    /// Tiles of tokens of the network that has most.
    tiles: u64,
    /// Of the norm and of the softmax.
    multipliers: [Multipliers; 2],
}

impl Choice {
    const fn lanes(self) -> Lanes {
        let [requantize, norm, exponential, ..] = self.counts;
        Lanes {
            requantize,
            gelu: requantize,
            norm,
            exponential,
            multipliers: self.multipliers[0],
            exponential_multipliers: self.multipliers[1],
        }
    }

    /// Returns the number that lanes, or tiles of a buffer, divide into passes.
    const fn all(self, kind: usize) -> u64 {
        if kind < PORTS {
            self.tokens
        } else {
            self.tiles
        }
    }

    /// Takes away a port, or lanes or tiles to the next number that makes a difference:
    /// all / (passes + 1), rounded up.
    fn shrink(self, kind: usize) -> Option<Self> {
        let count = self.counts[kind];
        let fewer = if kind == PORTS {
            count.checked_sub(1).filter(|&ports| ports > 0)?
        } else {
            let all = self.all(kind);
            let most = if kind < PORTS {
                all
            } else {
                MAX_BANDS.min(all)
            };
            let passes = all.div_ceil(count);
            (passes + 1..=most)
                .map(|passes| all.div_ceil(passes))
                .find(|&next| next < count)?
        };
        Some(self.with(kind, fewer))
    }

    /// Adds a port, or lanes or tiles to the next larger number: all / (passes - 1), rounded up.
    fn grow(self, kind: usize) -> Option<Self> {
        let (tokens, tiles) = (self.tokens, self.tiles);
        let limits = [
            hls::REQUANTIZE,
            tokens,
            hls::EXPONENTIAL,
            hls::PORTS,
            tiles,
            tiles,
        ];
        let count = self.counts[kind];
        let more = if kind == PORTS {
            count + 1
        } else {
            let all = self.all(kind);
            let passes = all.div_ceil(count);
            all.div_ceil(passes.checked_sub(1).filter(|&passes| passes > 0)?)
        };
        (more <= limits[kind]).then(|| self.with(kind, more))
    }

    const fn with(mut self, kind: usize, count: u64) -> Self {
        self.counts[kind] = count;
        self
    }
}
