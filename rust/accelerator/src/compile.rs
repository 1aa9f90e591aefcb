//! The compiler: a subnet and a configuration become segments of commands and the arena's image.
//!
//! | step | what it does |
//! |---|---|
//! | [`check`] | refuses what the configuration cannot be built for or does not hold |
//! | [`Placed`] | writes every transfer to the arena, once |
//! | [`Phases`] | makes the commands of each phase of a frame in one slot |
//! | [`segments`] | interleaves the phases of two frames |
//!
//! Commands stand in the order of one sequential program. A matrix's transfers follow the commands that take them, tile by tile in the order
//! in which they are taken: however many there are, load's consumers have their commands. Depends on [`crate::image`], [`crate::isa`] and
//! [`crate::program`].

use quasar_core::error::{Error, Result};
use quasar_core::hardware::configuration::hls;
use quasar_core::hardware::packing::{Activation, Pair};
use quasar_core::hardware::{Hardware, Workload};
use quasar_core::subnet::config::{Config, Pool};
use quasar_core::subnet::schema::{self, LinearSpec};
use quasar_core::subnet::LinearTensors;
use quasar_core::Subnet;

use crate::image::{Arena, Destination, Row, RowPair, Transfer};
use crate::isa::{
    Attend, Command, Context, Fill, Gemm, LayerNorm, Load, LoadEnd, Rows, Scores, Softmax, Table,
    PORT_BYTES,
};
use crate::program::{List, Place, Program, Segment, Sizes};

/// `Load.target`.
pub(crate) mod target {
    pub(crate) const WEIGHTS: u32 = 0;
    pub(crate) const ROWS: u32 = 1;
    pub(crate) const GAINS: u32 = 2;
    pub(crate) const TABLE: u32 = 3;
    pub(crate) const RESIDUAL: u32 = 4;
    pub(crate) const PATCHES: u32 = 5;
}

/// `Gemm.source`.
pub(crate) mod source {
    pub(crate) const INPUT: u32 = 0;
    pub(crate) const NORMED: u32 = 1;
    pub(crate) const QUERY: u32 = 2;
    pub(crate) const HIDDEN: u32 = 3;
}

/// `Rows.kind`.
pub(crate) mod kind {
    pub(crate) const CODES: u32 = 0;
    pub(crate) const RESIDUAL: u32 = 1;
    pub(crate) const LOGITS: u32 = 2;
}

/// `LayerNorm.pool`.
pub(crate) mod pool {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const BEFORE: u32 = 1;
    pub(crate) const AFTER: u32 = 2;
}

pub(crate) fn compile(subnet: &Subnet, hardware: &Hardware) -> Result<Program> {
    let config = subnet.config();
    check(subnet, hardware)?;
    let ports = hardware.configuration().axi_ports as usize;
    let mut arena = Arena::new(PORT_BYTES * ports);
    let placed = Placed::new(subnet, hardware, &mut arena);
    let phases = 2 * config.blocks.len() + 2;
    let program = Program {
        hardware: hardware.clone(),
        name: config.name.clone(),
        sizes: Sizes {
            tokens: config.tokens(),
            prefix: config.prefix_tokens,
            patch_len: config.patch_len(),
            phases,
        },
        lists: segments(config, hardware, &placed),
        arena: arena.into_bytes(),
        logits: placed.head.columns_in_order,
    };
    for command in program.lists.iter().flat_map(|list| &list.commands) {
        command.encode()?;
    }
    Ok(program)
}

/// Refuses configurations that the HLS sources cannot be built for, and subnets that the buffers do not hold.
fn check(subnet: &Subnet, hardware: &Hardware) -> Result<()> {
    hardware.check_mode()?;
    let c = hardware.configuration();
    let invalid = |key: &str, problem: String| {
        Err(Error::InvalidSettings {
            document: "hardware configuration".into(),
            key: key.into(),
            problem,
        })
    };
    if c.lanes.gelu != c.lanes.requantize {
        return invalid(
            "lanes.gelu",
            format!(
                "is {}; the accelerator's lanes all have a table, so it must be lanes.requantize ({})",
                c.lanes.gelu, c.lanes.requantize
            ),
        );
    }
    for (key, value, most) in [
        ("array.tokens", c.array.tokens, hls::TOKENS),
        ("array.pairs", c.array.pairs, hls::PAIRS),
        ("lanes.requantize", c.lanes.requantize, hls::REQUANTIZE),
        ("lanes.exponential", c.lanes.exponential, hls::EXPONENTIAL),
        ("axi_ports", c.axi_ports, hls::PORTS),
    ] {
        if value > most {
            return invalid(
                key,
                format!("is {value}; the accelerator is built for at most {most}"),
            );
        }
    }
    hardware.check_fit(&Workload::of_subnet(subnet))
}

/// A `LayerNorm`'s parameters.
#[derive(Clone, Copy)]
struct Norm {
    gains: Transfer,
    frac: u32,
    epsilon: u64,
}

/// Rows of a matrix in the arena.
struct Matrix {
    rows4: u32,
    rows8: u32,
    columns: u32,
    /// Weights and row parameters of each tile of row pairs.
    tiles: Vec<(Transfer, Transfer)>,
    /// Each row's column in its destination, in the order of sums.
    columns_in_order: Vec<u16>,
}

/// Parameters of one head.
#[derive(Clone, Copy)]
struct Head {
    mult: u32,
    out_mult: u32,
    out_shift: u32,
}

struct Block {
    /// Whether the second part of qkv is the queries of token 0 alone, instead of the values.
    split: bool,
    qkv: [Matrix; 2],
    heads: Vec<Head>,
    head_dim: u32,
    proj: Matrix,
    table: Transfer,
    fc1: Matrix,
    zero_point: i32,
    fc2: Matrix,
}

/// All that a frame reads from the arena.
struct Placed {
    residual: Transfer,
    embed: Matrix,
    blocks: Vec<Block>,
    /// The norm before each phase but the first.
    norms: Vec<Norm>,
    head: Matrix,
}

impl Placed {
    fn new(subnet: &Subnet, hardware: &Hardware, arena: &mut Arena) -> Self {
        let config = subnet.config();
        let array = hardware.configuration().array;
        let pairs = array.pairs as usize;
        let layers = schema::linears(config);
        let mut layers = layers.iter();
        let mut next = || {
            let spec = layers.next().expect("the schema lists every layer");
            (spec, subnet.linear(spec))
        };
        let whole = |arena: &mut Arena, (spec, tensors): &(&LinearSpec, LinearTensors), to| {
            let rows = (0..spec.rows).map(|row| (row, to, row as u16));
            Matrix::new(arena, tensors, spec.k, rows, pairs)
        };
        let i16s = |name: &str| -> Vec<i16> {
            let tensor = subnet.tensor(name);
            tensor.map_or(Vec::new(), |t| t.values().map(|v| v as i16).collect())
        };
        let first = |name: &str| value(subnet, name, 0);
        let norm = |arena: &mut Arena, name: &str| Norm {
            gains: arena.add_gains(
                &i16s(&format!("{name}.gain")),
                &i16s(&format!("{name}.bias")),
            ),
            frac: first(&format!("{name}.frac")) as u32,
            epsilon: first(&format!("{name}.epsilon")) as u64,
        };

        let mut residual = i16s("prefix");
        residual.extend(i16s("position"));
        let residual = arena.add_residual(&residual, config.embed, array.tokens as usize);
        let embed = whole(arena, &next(), Destination::Residual);
        let (mut blocks, mut norms) = (Vec::new(), Vec::new());
        for (i, block) in config.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{i}.{part}");
            let inner = block.inner();
            let split = needed(config, i) < config.tokens();
            norms.push(norm(arena, &name("norm1")));
            let (spec, qkv) = next();
            // Keys first: then queries and keys may be waited for while values are made.
            let parts = if split {
                [
                    vec![Destination::Key, Destination::Value],
                    vec![Destination::Query],
                ]
            } else {
                [
                    vec![Destination::Key, Destination::Query],
                    vec![Destination::Value],
                ]
            };
            let qkv = parts.map(|part| {
                let rows = part.into_iter().flat_map(|to| {
                    (0..inner).map(move |column| (to as usize * inner + column, to, column as u16))
                });
                Matrix::new(arena, &qkv, spec.k, rows, pairs)
            });
            let heads = (0..block.heads).map(|head| Head {
                mult: value(subnet, &name("attn.mult"), head) as u32,
                out_mult: value(subnet, &name("attn.out_mult"), head) as u32,
                out_shift: value(subnet, &name("attn.out_shift"), head) as u32,
            });
            let heads = heads.collect();
            let proj = whole(arena, &next(), Destination::Residual);
            norms.push(norm(arena, &name("norm2")));
            let table = subnet.tensor(&name("gelu")).map_or(&[][..], |t| t.data());
            blocks.push(Block {
                split,
                qkv,
                heads,
                head_dim: block.head_dim as u32,
                proj,
                table: arena.add(table.iter().copied()),
                fc1: whole(arena, &next(), Destination::Hidden),
                zero_point: block.fc1_zero_point.into(),
                fc2: whole(arena, &next(), Destination::Residual),
            });
        }
        norms.push(norm(arena, "norm"));
        Self {
            residual,
            embed,
            blocks,
            norms,
            head: whole(arena, &next(), Destination::Logit),
        }
    }
}

/// An element of a tensor that the config calls for.
fn value(subnet: &Subnet, name: &str, at: usize) -> i64 {
    subnet
        .tensor(name)
        .and_then(|tensor| tensor.values().nth(at))
        .expect("the set of tensors is checked when the subnet is made")
}

/// Tokens that a block's attention output and MLP are needed for.
fn needed(config: &Config, block: usize) -> usize {
    if config.pool == Pool::Token && block + 1 == config.blocks.len() {
        1
    } else {
        config.tokens()
    }
}

impl Matrix {
    /// Writes some rows of a layer to the arena. `rows`: row of the layer, where its results go, column there.
    fn new(
        arena: &mut Arena,
        tensors: &LinearTensors,
        columns: usize,
        rows: impl Iterator<Item = (usize, Destination, u16)>,
        positions: usize,
    ) -> Self {
        let (mut four_bit, mut eight_bit) = (Vec::new(), Vec::new());
        for (row, destination, column) in rows {
            let bits = tensors.bits[row];
            (if bits == 4 {
                &mut four_bit
            } else {
                &mut eight_bit
            })
            .push(Row {
                codes: &tensors.codes[row * columns..(row + 1) * columns],
                bias: tensors.bias[row],
                mult: tensors.mult[row],
                // The head has mantissas alone.
                shift: tensors.shift.get(row).copied().unwrap_or_default(),
                destination,
                column,
            });
        }
        let pairs: Vec<RowPair> = four_bit
            .chunks(2)
            .map(|pair| RowPair::FourBit(pair[0], pair.get(1).copied()))
            .chain(eight_bit.iter().map(|&row| RowPair::EightBit(row)))
            .collect();
        let tiles = pairs.chunks(positions).map(|tile| {
            (
                arena.add_weights(tile, columns, positions),
                arena.add_rows(tile),
            )
        });
        Self {
            tiles: tiles.collect(),
            rows4: four_bit.len() as u32,
            rows8: eight_bit.len() as u32,
            columns: columns as u32,
            columns_in_order: four_bit
                .iter()
                .chain(&eight_bit)
                .map(|r| r.column)
                .collect(),
        }
    }
}

/// The phases of a frame in one slot, as they are made.
struct Phases<'a> {
    config: &'a Config,
    hardware: &'a Hardware,
    placed: &'a Placed,
    slot: u8,
    done: Vec<Vec<(Command, Place)>>,
    current: Vec<(Command, Place)>,
    stage: &'static str,
}

impl<'a> Phases<'a> {
    fn of(
        config: &'a Config,
        hardware: &'a Hardware,
        placed: &'a Placed,
        slot: u8,
    ) -> Vec<Vec<(Command, Place)>> {
        let mut phases = Self {
            config,
            hardware,
            placed,
            slot,
            done: Vec::new(),
            current: Vec::new(),
            stage: "",
        };
        phases.embedding();
        for (i, block) in placed.blocks.iter().enumerate() {
            phases.attention_half(i, block);
            phases.mlp_half(i, block);
        }
        phases.head();
        phases.done
    }

    fn push(&mut self, command: impl Into<Command>) {
        let place = Place {
            slot: self.slot,
            phase: self.done.len() as u16,
            stage: self.stage,
        };
        self.current.push((command.into(), place));
    }

    fn load(&mut self, target: u32, transfer: Transfer) {
        self.push(Load {
            target,
            frame: self.slot.into(),
            beats: transfer.beats,
            address: transfer.address,
            ..Load::default()
        });
    }

    /// A matrix product: `gemm` and `rows` say what is particular about it.
    fn product(&mut self, stage: &'static str, matrix: &Matrix, gemm: Gemm, rows: Rows) {
        self.stage = stage;
        let pair = if matrix.rows8 > 0 {
            Pair::EightBit
        } else {
            Pair::FourBit
        };
        self.push(Gemm {
            tokens: rows.tokens,
            columns: matrix.columns,
            pass: self.pass(matrix.columns, pair, Activation::Signed),
            rows4: matrix.rows4,
            rows8: matrix.rows8,
            ..gemm
        });
        self.push(Rows {
            frame: if rows.kind == kind::RESIDUAL {
                self.slot.into()
            } else {
                0
            },
            rows4: matrix.rows4,
            rows8: matrix.rows8,
            ..rows
        });
        for &(weights, rows) in &matrix.tiles {
            self.load(target::WEIGHTS, weights);
            self.load(target::ROWS, rows);
        }
    }

    /// Columns of a pass: equal passes, as few as the fields of a product allow.
    fn pass(&self, columns: u32, pair: Pair, activation: Activation) -> u32 {
        let bound = self.hardware.board().dsp_kind.products(pair, activation);
        columns.div_ceil(columns.div_ceil(bound as u32))
    }

    /// The norm before the next phase, which ends this one.
    fn norm(&mut self, tokens: u32, pool: u32) {
        self.stage = "norm";
        let Norm {
            gains,
            frac,
            epsilon,
        } = self.placed.norms[self.done.len()];
        self.push(LayerNorm {
            frame: self.slot.into(),
            pool,
            frac,
            tokens,
            first: if pool == pool::NONE {
                0
            } else {
                self.config.prefix_tokens as u32
            },
            embed: self.embed(),
            epsilon,
        });
        self.load(target::GAINS, gains);
        self.end();
    }

    fn end(&mut self) {
        self.done.push(std::mem::take(&mut self.current));
    }

    fn tokens(&self) -> u32 {
        self.config.tokens() as u32
    }

    fn embed(&self) -> u32 {
        self.config.embed as u32
    }

    /// Tokens of the array.
    fn lanes(&self) -> u32 {
        self.hardware.configuration().array.tokens as u32
    }

    fn embedding(&mut self) {
        let placed = self.placed;
        let (tokens, embed) = (self.tokens(), self.embed());
        let (words, columns) = (
            tokens.div_ceil(self.lanes()),
            self.config.patch_len() as u32,
        );
        let beat = PORT_BYTES * self.hardware.configuration().axi_ports as usize;
        let word = (self.lanes() as usize).div_ceil(beat) as u32;
        self.stage = "patches";
        self.push(Load {
            target: target::PATCHES,
            input: 1,
            wait_array: 1,
            post_array: 1,
            frame: self.slot.into(),
            beats: words * columns * word,
            address: 0,
        });
        self.stage = "position";
        self.push(Fill {
            frame: self.slot.into(),
            words: words * embed,
        });
        self.load(target::RESIDUAL, placed.residual);
        self.product(
            "embedding",
            &placed.embed,
            Gemm {
                source: source::INPUT,
                wait_load: 1,
                post_load: 1,
                ..Gemm::default()
            },
            Rows {
                kind: kind::RESIDUAL,
                moments: 1,
                tokens,
                skip: self.config.prefix_tokens as u32,
                stride: embed,
                ..Rows::default()
            },
        );
        self.norm(tokens, pool::NONE);
    }

    fn attention_half(&mut self, i: usize, block: &Block) {
        let tokens = self.tokens();
        let needed = needed(self.config, i) as u32;
        let inner = block.heads.len() as u32 * block.head_dim;
        let gemm = Gemm {
            source: source::NORMED,
            frame: self.slot.into(),
            ..Gemm::default()
        };
        let rows = Rows {
            kind: kind::CODES,
            post: 1,
            tokens,
            stride: inner,
            reciprocal: ((1 << 20) + tokens / 2) / tokens,
            ..Rows::default()
        };
        let [stage, second] = if block.split {
            ["keys, values", "query"]
        } else {
            ["keys, queries", "values"]
        };
        self.product(
            stage,
            &block.qkv[0],
            Gemm {
                wait_norm: 1,
                ..gemm
            },
            rows,
        );
        self.product(
            second,
            &block.qkv[1],
            gemm,
            Rows {
                tokens: if block.split { needed } else { tokens },
                ..rows
            },
        );
        self.attention(block, needed);
        self.residual(
            "projection",
            &block.proj,
            Gemm {
                source: source::QUERY,
                ..Gemm::default()
            },
            needed,
        );
        self.norm(needed, pool::NONE);
    }

    /// Units of (head, tile of tokens). The array makes the scores of the next unit before the context of one, so that softmax has time.
    fn attention(&mut self, block: &Block, needed: u32) {
        self.stage = "attention";
        let (keys, rows, lanes) = (self.tokens(), block.head_dim, self.lanes());
        let stride = block.heads.len() as u32 * rows;
        let tiles = needed.div_ceil(lanes);
        let units = block.heads.len() as u32 * tiles;
        // Where queries come last they stand behind keys and values; else values may come while scores are made.
        let (scores_wait, context_wait) = if block.split { (2, 0) } else { (1, 1) };
        let last_head = units - tiles;
        for i in 0..=units {
            if i < units {
                let (head, tile) = (i / tiles, i % tiles);
                let tokens = lanes.min(needed - tile * lanes);
                let Head {
                    mult,
                    out_mult,
                    out_shift,
                } = block.heads[head as usize];
                self.push(Scores {
                    parity: i % 2,
                    wait_drain: if i == 0 { scores_wait } else { 0 },
                    tile,
                    tokens,
                    keys,
                    columns: rows,
                    base: head * rows,
                    stride,
                });
                self.push(Softmax {
                    parity: i % 2,
                    tokens,
                    keys,
                    out_shift,
                    out_mult,
                    mult,
                    cap: ((1 << 31) - (1 << 20)) / mult,
                });
            }
            if let Some(i) = i.checked_sub(1) {
                let (head, tile) = (i / tiles, i % tiles);
                let (tokens, base) = (lanes.min(needed - tile * lanes), head * rows);
                self.push(Context {
                    parity: i % 2,
                    wait_drain: if i == 0 { context_wait } else { 0 },
                    tile,
                    tokens,
                    keys,
                    rows,
                    base,
                    pass: self.pass(keys, Pair::EightBit, Activation::Unsigned),
                });
                self.push(Attend {
                    post: u32::from(i >= last_head),
                    tile,
                    tokens,
                    rows,
                    base,
                    stride,
                });
            }
        }
    }

    /// A product of what the drain stored tile by tile, added to the residual.
    fn residual(&mut self, stage: &'static str, matrix: &Matrix, gemm: Gemm, tokens: u32) {
        let stride = self.embed();
        self.product(
            stage,
            matrix,
            Gemm {
                wait_drain_tiles: 1,
                ..gemm
            },
            Rows {
                kind: kind::RESIDUAL,
                moments: 1,
                tokens,
                stride,
                ..Rows::default()
            },
        );
    }

    fn mlp_half(&mut self, i: usize, block: &Block) {
        let tokens = needed(self.config, i) as u32;
        self.stage = "table";
        self.push(Table {});
        self.load(target::TABLE, block.table);
        self.product(
            "fc1",
            &block.fc1,
            Gemm {
                source: source::NORMED,
                frame: self.slot.into(),
                wait_norm: 1,
                ..Gemm::default()
            },
            Rows {
                kind: kind::CODES,
                table: 1,
                post_tiles: 1,
                tokens,
                zero_point: block.zero_point,
                stride: block.fc2.columns,
                ..Rows::default()
            },
        );
        let last = i + 1 == self.config.blocks.len();
        self.residual(
            "fc2",
            &block.fc2,
            Gemm {
                source: source::HIDDEN,
                ..Gemm::default()
            },
            tokens,
        );
        let pool = match self.config.pool {
            Pool::Mean if last => pool::BEFORE,
            Pool::MeanAfterNorm if last => pool::AFTER,
            _ => pool::NONE,
        };
        self.norm(tokens, pool);
    }

    fn head(&mut self) {
        let placed = self.placed;
        self.product(
            "head",
            &placed.head,
            Gemm {
                source: source::NORMED,
                frame: self.slot.into(),
                wait_norm: 1,
                ..Gemm::default()
            },
            Rows {
                kind: kind::LOGITS,
                tokens: 1,
                ..Rows::default()
            },
        );
        self.push(LoadEnd {
            frame: self.slot.into(),
        });
        self.end();
    }
}

/// All command lists. In a step the frame that begins goes first: its embedding needs no norm, so that the other's has time, as in every
/// later phase. A residual is filled behind the head of the frame that had it before.
fn segments(config: &Config, hardware: &Hardware, placed: &Placed) -> Vec<List> {
    let frames = hardware.configuration().frames as usize;
    let phases: Vec<_> = (0..frames as u8)
        .map(|slot| Phases::of(config, hardware, placed, slot))
        .collect();
    let halves = |slot: u8| {
        let phases = &phases[slot as usize];
        phases.split_at(phases.len() / 2)
    };
    let list = |&segment: &Segment| {
        let parts: Vec<&Vec<_>> = match segment {
            Segment::Start(slot) => halves(slot).0.iter().collect(),
            Segment::End(slot) => halves(slot).1.iter().collect(),
            Segment::Step(slot) => (halves(1 - slot).0.iter())
                .zip(halves(slot).1)
                .flat_map(|(first, second)| [first, second])
                .collect(),
        };
        let (commands, places) = parts.into_iter().flatten().copied().unzip();
        List {
            segment,
            commands,
            places,
        }
    };
    Segment::all(frames).iter().map(list).collect()
}
