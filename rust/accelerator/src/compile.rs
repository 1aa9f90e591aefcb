//! The compiler: a subnet and a configuration become segments of commands and the arena's image.
//!
//! | step | what it does |
//! |---|---|
//! | [`check`] | refuses what the configuration cannot be built for or does not hold |
//! | [`Plan`] | gives every transfer its place in the arena, from sizes and row widths alone |
//! | [`Phases`] | makes the commands of each phase of a frame in one slot |
//! | [`segments`] | interleaves the phases of two frames |
//! | [`write`] | fills the arena |
//!
//! Commands stand in the order of one sequential program. A matrix's transfers follow the commands that take them, tile by tile in the order
//! in which they are taken: however many there are, load's consumers have their commands. A frame's transfers stand in the arena in the order
//! in which it reads them. Depends on [`crate::arena_layout`], [`crate::isa`] and [`crate::program`].

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::Pool;
use quasar_core::subnet::schema::{self, LinearSpec};
use quasar_core::subnet::LinearTensors;
use quasar_core::Subnet;
use quasar_hardware::configuration::hls;
use quasar_hardware::packing::{Activation, Pair};
use quasar_hardware::workload::{RowWidths, Setting};
use quasar_hardware::{Hardware, Workload};

use crate::arena_layout::{self, Arena, Cursor, Row, RowPair, Transfer};
use crate::isa::{
    Attend, Command, Context, Destination, Fill, Gemm, Kind, LayerNorm, Load, LoadEnd, Pooling,
    RowsCommand, Scores, Softmax, Source, Table, Target,
};
use crate::program::{List, Place, Program, Segment, Sizes};
use crate::shape::Shape;

pub(crate) fn compile(subnet: &Subnet, hardware: &Hardware) -> Result<Program> {
    let outline = Outline {
        workload: Workload::of_subnet(subnet),
    };
    check(&outline.workload, hardware)?;
    let shape = Shape::of(hardware);
    let plan = Plan::new(&outline, &shape);
    let numbers = Numbers::of(subnet);
    let lists = segments(&outline, hardware, &plan, &numbers);
    encodable(&lists)?;
    let (arena, logits) = write(subnet, &outline, &plan, &shape);
    Ok(Program {
        hardware: hardware.clone(),
        name: outline.workload.name.clone(),
        sizes: outline.sizes(),
        lists,
        arena,
        logits,
    })
}

/// The command lists of a network of which only sizes and row widths are known: all of [`Program::compile`]'s but numbers that do not matter
/// for time (norms', attention's, zero points), which are 0.
///
/// # Errors
/// As [`Program::compile`].
pub fn schedule(workload: &Workload, hardware: &Hardware) -> Result<Vec<List>> {
    let outline = Outline {
        workload: workload.clone(),
    };
    check(workload, hardware)?;
    let plan = Plan::new(&outline, &Shape::of(hardware));
    let lists = segments(&outline, hardware, &plan, &Numbers::unknown(workload));
    encodable(&lists)?;
    Ok(lists)
}

/// Refuses values that a command's field cannot hold.
fn encodable(lists: &[List]) -> Result<()> {
    lists
        .iter()
        .flat_map(|list| &list.commands)
        .try_for_each(|command| command.encode().map(|_| ()))
}

/// Refuses configurations that the HLS sources cannot be built for, and subnets that the buffers do not hold.
fn check(workload: &Workload, hardware: &Hardware) -> Result<()> {
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
    hardware.check_fit(workload)
}

/// Sizes and row widths of a network.
struct Outline {
    workload: Workload,
}

impl Outline {
    fn sizes(&self) -> Sizes {
        let Setting {
            prefix_tokens,
            patch_len,
            pool,
            ..
        } = self.workload.setting;
        Sizes {
            tokens: self.workload.setting.tokens() as usize,
            prefix: prefix_tokens as usize,
            patch_len: patch_len as usize,
            embed: self.workload.embed as usize,
            pool,
            phases: 2 * self.workload.blocks.len() + 2,
        }
    }

    /// Tokens that a block's attention output and MLP are needed for.
    fn needed(&self, block: usize) -> u32 {
        let setting = self.workload.setting;
        if setting.pool == Pool::Token && block + 1 == self.workload.blocks.len() {
            1
        } else {
            setting.tokens() as u32
        }
    }

    /// Whether a block makes the query of token 0 alone, behind keys and values.
    fn split(&self, block: usize) -> bool {
        u64::from(self.needed(block)) < self.workload.setting.tokens()
    }
}

/// A matrix in the arena.
struct Matrix {
    rows4: u32,
    rows8: u32,
    columns: u32,
    /// Weights and row parameters of each tile of row pairs.
    tiles: Vec<(Transfer, Transfer)>,
}

impl Matrix {
    fn new(cursor: &mut Cursor, shape: &Shape, rows: RowWidths, columns: u64) -> Self {
        let tiles = shape.row_tiles(rows.four_bit as usize, rows.eight_bit as usize);
        let tiles = tiles.into_iter().map(|tile| {
            let weights = cursor.take(shape.weight_beats(columns as usize));
            (weights, cursor.take(shape.row_beats(tile.rows())))
        });
        Self {
            tiles: tiles.collect(),
            rows4: rows.four_bit as u32,
            rows8: rows.eight_bit as u32,
            columns: columns as u32,
        }
    }
}

struct BlockPlan {
    /// Keys and queries, then values; or keys and values, then the query of token 0.
    qkv: [Matrix; 2],
    proj: Matrix,
    table: Transfer,
    fc1: Matrix,
    fc2: Matrix,
}

/// Where everything that a frame reads stands in the arena, in the order in which it is read.
struct Plan {
    residual: Transfer,
    embed: Matrix,
    blocks: Vec<BlockPlan>,
    /// Gains of the norm before each phase but the first.
    norms: Vec<Transfer>,
    head: Matrix,
    beats: usize,
}

impl Plan {
    fn new(outline: &Outline, shape: &Shape) -> Self {
        let Workload {
            setting,
            embed,
            patch_rows,
            head_rows,
            ref blocks,
            ..
        } = outline.workload;
        let mut cursor = Cursor::default();
        let cursor = &mut cursor;
        let gains = shape.beats(4 * embed as usize);
        let words = (setting.tokens() as usize).div_ceil(shape.tokens) * embed as usize;
        let residual = cursor.take(words * shape.beats(2 * shape.tokens));
        let first = Matrix::new(cursor, shape, patch_rows, setting.patch_len);
        let mut norms = vec![cursor.take(gains)];
        let blocks = blocks.iter().enumerate().map(|(i, block)| {
            let parts = if outline.split(i) {
                [block.key.plus(block.value), block.query]
            } else {
                [block.key.plus(block.query), block.value]
            };
            let qkv = parts.map(|rows| Matrix::new(cursor, shape, rows, embed));
            let proj = Matrix::new(cursor, shape, block.proj, block.inner());
            norms.push(cursor.take(gains));
            let table = cursor.take(shape.beats(256));
            let fc1 = Matrix::new(cursor, shape, block.fc1, embed);
            let fc2 = Matrix::new(cursor, shape, block.fc2, block.hidden);
            norms.push(cursor.take(gains));
            BlockPlan {
                qkv,
                proj,
                table,
                fc1,
                fc2,
            }
        });
        let blocks = blocks.collect();
        Self {
            residual,
            embed: first,
            blocks,
            norms,
            head: Matrix::new(cursor, shape, head_rows, embed),
            beats: cursor.beats(),
        }
    }
}

/// Parameters of one head.
#[derive(Clone, Copy, Default)]
struct Head {
    mult: u32,
    out_mult: u32,
    out_shift: u32,
}

/// What commands say beside sizes.
struct Numbers {
    /// f and E of the norm before each phase but the first.
    norms: Vec<(u32, u64)>,
    /// Of each block.
    heads: Vec<Vec<Head>>,
    zero_points: Vec<i32>,
}

impl Numbers {
    fn of(subnet: &Subnet) -> Self {
        let config = subnet.config();
        let norm = |name: String| {
            let part = |part: &str| value(subnet, &format!("{name}.{part}"), 0);
            (part("frac") as u32, part("epsilon") as u64)
        };
        let blocks = || config.blocks.iter().enumerate();
        let norms = blocks().flat_map(|(i, _)| [1, 2].map(|n| format!("blocks.{i}.norm{n}")));
        let heads = |(i, block): (usize, &quasar_core::subnet::config::Block)| {
            let part = |part: &str, head| value(subnet, &format!("blocks.{i}.attn.{part}"), head);
            (0..block.heads)
                .map(|head| Head {
                    mult: part("mult", head) as u32,
                    out_mult: part("out_mult", head) as u32,
                    out_shift: part("out_shift", head) as u32,
                })
                .collect()
        };
        Self {
            norms: norms.chain(["norm".into()]).map(norm).collect(),
            heads: blocks().map(heads).collect(),
            zero_points: blocks().map(|(_, b)| b.fc1_zero_point.into()).collect(),
        }
    }

    fn unknown(workload: &Workload) -> Self {
        let blocks = &workload.blocks;
        let heads = |heads: u64| vec![Head::default(); heads as usize];
        Self {
            norms: vec![(0, 0); 2 * blocks.len() + 1],
            heads: blocks.iter().map(|block| heads(block.heads)).collect(),
            zero_points: vec![0; blocks.len()],
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

/// The arena's image, and the class of each logit in the order in which they leave.
fn write(subnet: &Subnet, outline: &Outline, plan: &Plan, shape: &Shape) -> (Vec<u8>, Vec<u16>) {
    let config = subnet.config();
    let mut arena = Arena::new(plan.beats, shape.beat);
    let layers = schema::linears(config);
    let mut layers = layers.iter();
    let mut next = || {
        let spec = layers.next().expect("the schema lists every layer");
        (spec, subnet.linear(spec))
    };
    let i16s = |name: &str| -> Vec<i16> {
        let tensor = subnet.tensor(name);
        tensor.map_or(Vec::new(), |t| t.values().map(|v| v as i16).collect())
    };
    let norm = |arena: &mut Arena, at: usize, name: &str| {
        let [gains, offsets] = ["gain", "bias"].map(|part| i16s(&format!("{name}.{part}")));
        arena.put(plan.norms[at], &arena_layout::gains(&gains, &offsets));
    };
    let whole = |arena: &mut Arena,
                 matrix: &Matrix,
                 (spec, tensors): &(&LinearSpec, LinearTensors),
                 to: Destination| {
        let rows = (0..spec.rows).map(|row| (row, to, row as u16));
        write_matrix(arena, matrix, tensors, rows, shape.pairs)
    };

    let mut residual = i16s("prefix");
    residual.extend(i16s("position"));
    let residual = arena_layout::residual(&residual, config.embed, shape.tokens, shape.beat);
    arena.put(plan.residual, &residual);
    whole(&mut arena, &plan.embed, &next(), Destination::Residual);
    for (i, (block, sizes)) in plan.blocks.iter().zip(&config.blocks).enumerate() {
        let name = |part: &str| format!("blocks.{i}.{part}");
        norm(&mut arena, 2 * i, &name("norm1"));
        let (_, qkv) = next();
        let inner = sizes.inner();
        // Keys first: then scores may begin while values are made.
        let parts = if outline.split(i) {
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
        for (matrix, part) in block.qkv.iter().zip(parts) {
            let rows = part.into_iter().flat_map(|to| {
                (0..inner).map(move |column| (to as usize * inner + column, to, column as u16))
            });
            write_matrix(&mut arena, matrix, &qkv, rows, shape.pairs);
        }
        whole(&mut arena, &block.proj, &next(), Destination::Residual);
        norm(&mut arena, 2 * i + 1, &name("norm2"));
        let table = subnet.tensor(&name("gelu")).map_or(&[][..], |t| t.data());
        arena.put(block.table, table);
        whole(&mut arena, &block.fc1, &next(), Destination::Hidden);
        whole(&mut arena, &block.fc2, &next(), Destination::Residual);
    }
    norm(&mut arena, 2 * plan.blocks.len(), "norm");
    let logits = whole(&mut arena, &plan.head, &next(), Destination::Logit);
    (arena.into_bytes(), logits)
}

/// Writes some rows of a layer. `rows`: row of the layer, where its results go, column there. Returns these columns in the order of sums.
fn write_matrix(
    arena: &mut Arena,
    matrix: &Matrix,
    tensors: &LinearTensors,
    rows: impl Iterator<Item = (usize, Destination, u16)>,
    positions: usize,
) -> Vec<u16> {
    let columns = matrix.columns as usize;
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
    for (tile, &(weights, rows)) in pairs.chunks(positions).zip(&matrix.tiles) {
        arena.put(weights, &arena_layout::weights(tile, columns, positions));
        arena.put(rows, &arena_layout::rows(tile));
    }
    let all = four_bit.iter().chain(&eight_bit);
    all.map(|row| row.column).collect()
}

/// The phases of a frame in one slot, as they are made.
struct Phases<'a> {
    outline: &'a Outline,
    hardware: &'a Hardware,
    shape: Shape,
    plan: &'a Plan,
    numbers: &'a Numbers,
    slot: u8,
    done: Vec<Vec<(Command, Place)>>,
    current: Vec<(Command, Place)>,
    stage: &'static str,
}

impl<'a> Phases<'a> {
    fn of(
        outline: &'a Outline,
        hardware: &'a Hardware,
        plan: &'a Plan,
        numbers: &'a Numbers,
        slot: u8,
    ) -> Vec<Vec<(Command, Place)>> {
        let mut phases = Self {
            outline,
            hardware,
            shape: Shape::of(hardware),
            plan,
            numbers,
            slot,
            done: Vec::new(),
            current: Vec::new(),
            stage: "",
        };
        phases.embedding();
        for (i, block) in plan.blocks.iter().enumerate() {
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

    fn load(&mut self, target: Target, transfer: Transfer) {
        self.push(Load {
            target,
            frame: self.slot.into(),
            beats: transfer.beats,
            address: transfer.address,
            ..Load::default()
        });
    }

    /// A matrix product: `gemm` and `rows` say what is particular about it.
    fn product(&mut self, stage: &'static str, matrix: &Matrix, gemm: Gemm, rows: RowsCommand) {
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
        self.push(RowsCommand {
            frame: if rows.kind == Kind::Residual {
                self.slot.into()
            } else {
                0
            },
            rows4: matrix.rows4,
            rows8: matrix.rows8,
            ..rows
        });
        for &(weights, rows) in &matrix.tiles {
            self.load(Target::Weights, weights);
            self.load(Target::Rows, rows);
        }
    }

    /// Columns of a pass: equal passes, as few as the fields of a product allow.
    fn pass(&self, columns: u32, pair: Pair, activation: Activation) -> u32 {
        let bound = self.hardware.board().dsp_kind.products(pair, activation);
        columns.div_ceil(columns.div_ceil(bound as u32))
    }

    /// The norm before the next phase, which ends this one.
    fn norm(&mut self, tokens: u32, pool: Pooling) {
        self.stage = "norm";
        let phase = self.done.len();
        let (frac, epsilon) = self.numbers.norms[phase];
        self.push(LayerNorm {
            frame: self.slot.into(),
            pool,
            frac,
            tokens,
            first: if pool == Pooling::None {
                0
            } else {
                self.outline.workload.setting.prefix_tokens as u32
            },
            embed: self.embed(),
            epsilon,
        });
        self.load(Target::Gains, self.plan.norms[phase]);
        self.end();
    }

    fn end(&mut self) {
        self.done.push(std::mem::take(&mut self.current));
    }

    fn tokens(&self) -> u32 {
        self.outline.workload.setting.tokens() as u32
    }

    fn embed(&self) -> u32 {
        self.outline.workload.embed as u32
    }

    /// Tokens of the array.
    fn lanes(&self) -> u32 {
        self.shape.tokens as u32
    }

    fn embedding(&mut self) {
        let plan = self.plan;
        let (tokens, embed) = (self.tokens(), self.embed());
        let tiles = tokens.div_ceil(self.lanes());
        let word = self.shape.beats(self.shape.tokens) as u32;
        self.stage = "patches";
        self.push(Load {
            target: Target::Patches,
            input: true,
            wait_array: true,
            post_array: true,
            frame: self.slot.into(),
            beats: tiles * plan.embed.columns * word,
            address: 0,
        });
        self.stage = "position";
        self.push(Fill {
            frame: self.slot.into(),
            words: tiles * embed,
        });
        self.load(Target::Residual, plan.residual);
        self.product(
            "embedding",
            &plan.embed,
            Gemm {
                source: Source::Input,
                wait_load: true,
                post_load: true,
                ..Gemm::default()
            },
            RowsCommand {
                kind: Kind::Residual,
                moments: true,
                tokens,
                skip: self.outline.workload.setting.prefix_tokens as u32,
                stride: embed,
                ..RowsCommand::default()
            },
        );
        self.norm(tokens, Pooling::None);
    }

    fn attention_half(&mut self, i: usize, block: &BlockPlan) {
        let tokens = self.tokens();
        let (needed, split) = (self.outline.needed(i), self.outline.split(i));
        let gemm = Gemm {
            source: Source::Normed,
            frame: self.slot.into(),
            ..Gemm::default()
        };
        let rows = RowsCommand {
            kind: Kind::Codes,
            post: true,
            tokens,
            stride: block.proj.columns,
            reciprocal: ((1 << 20) + tokens / 2) / tokens,
            ..RowsCommand::default()
        };
        let [stage, second] = if split {
            ["keys, values", "query"]
        } else {
            ["keys, queries", "values"]
        };
        self.product(
            stage,
            &block.qkv[0],
            Gemm {
                wait_norm: true,
                ..gemm
            },
            rows,
        );
        self.product(
            second,
            &block.qkv[1],
            gemm,
            RowsCommand {
                tokens: if split { needed } else { tokens },
                ..rows
            },
        );
        self.attention(i);
        self.residual(
            "projection",
            &block.proj,
            Gemm {
                source: Source::Query,
                ..Gemm::default()
            },
            needed,
        );
        self.norm(needed, Pooling::None);
    }

    /// Units of (head, tile of tokens). The array makes the scores of the next unit before the context of one, so that softmax has time.
    fn attention(&mut self, block: usize) {
        self.stage = "attention";
        let (needed, lanes) = (self.outline.needed(block), self.lanes());
        let (keys, heads) = (self.tokens(), &self.numbers.heads[block]);
        let rows = self.outline.workload.blocks[block].head_dim as u32;
        let stride = heads.len() as u32 * rows;
        let tiles = needed.div_ceil(lanes);
        let units = heads.len() as u32 * tiles;
        // Where queries come last they stand behind keys and values; else values may come while scores are made.
        let (scores_wait, context_wait) = if self.outline.split(block) {
            (2, 0)
        } else {
            (1, 1)
        };
        let last_head = units - tiles;
        for i in 0..=units {
            if i < units {
                let (head, tile) = (i / tiles, i % tiles);
                let tokens = lanes.min(needed - tile * lanes);
                let Head {
                    mult,
                    out_mult,
                    out_shift,
                } = heads[head as usize];
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
                    cap: ((1u32 << 31) - (1 << 20)).checked_div(mult).unwrap_or(0),
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
                    post: i >= last_head,
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
                wait_drain_tiles: true,
                ..gemm
            },
            RowsCommand {
                kind: Kind::Residual,
                moments: true,
                tokens,
                stride,
                ..RowsCommand::default()
            },
        );
    }

    fn mlp_half(&mut self, i: usize, block: &BlockPlan) {
        let tokens = self.outline.needed(i);
        self.stage = "table";
        self.push(Table {});
        self.load(Target::Table, block.table);
        self.product(
            "fc1",
            &block.fc1,
            Gemm {
                source: Source::Normed,
                frame: self.slot.into(),
                wait_norm: true,
                ..Gemm::default()
            },
            RowsCommand {
                kind: Kind::Codes,
                table: true,
                post_tiles: true,
                tokens,
                zero_point: self.numbers.zero_points[i],
                stride: block.fc2.columns,
                ..RowsCommand::default()
            },
        );
        let last = i + 1 == self.plan.blocks.len();
        self.residual(
            "fc2",
            &block.fc2,
            Gemm {
                source: Source::Hidden,
                ..Gemm::default()
            },
            tokens,
        );
        let pool = match self.outline.workload.setting.pool {
            Pool::Mean if last => Pooling::Before,
            Pool::MeanAfterNorm if last => Pooling::After,
            _ => Pooling::None,
        };
        self.norm(tokens, pool);
    }

    fn head(&mut self) {
        let plan = self.plan;
        self.product(
            "head",
            &plan.head,
            Gemm {
                source: Source::Normed,
                frame: self.slot.into(),
                wait_norm: true,
                ..Gemm::default()
            },
            RowsCommand {
                kind: Kind::Logits,
                tokens: 1,
                ..RowsCommand::default()
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
fn segments(outline: &Outline, hardware: &Hardware, plan: &Plan, numbers: &Numbers) -> Vec<List> {
    let frames = hardware.configuration().frames as usize;
    let phases: Vec<_> = (0..frames as u8)
        .map(|slot| Phases::of(outline, hardware, plan, numbers, slot))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{golden, hardware, GOLDEN};
    use quasar_hardware::Hardware;

    /// Without the numbers that only weights have.
    fn without_numbers(command: Command) -> Command {
        match command {
            Command::LayerNorm(c) => LayerNorm {
                frac: 0,
                epsilon: 0,
                ..c
            }
            .into(),
            Command::Softmax(c) => Softmax {
                out_shift: 0,
                out_mult: 0,
                mult: 0,
                cap: 0,
                ..c
            }
            .into(),
            Command::Rows(c) => RowsCommand { zero_point: 0, ..c }.into(),
            other => other,
        }
    }

    #[test]
    fn a_schedule_is_the_programs_but_for_its_numbers() {
        for name in GOLDEN {
            let subnet = golden(name);
            let hardware = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 2]);
            let program = Program::compile(&subnet, &hardware).unwrap();
            let lists = schedule(&Workload::of_subnet(&subnet), &hardware).unwrap();
            for list in lists {
                let commands = program.commands(list.segment).iter();
                let commands: Vec<_> = commands.map(|&c| without_numbers(c)).collect();
                assert_eq!(commands, list.commands, "{name} {}", list.segment);
                assert_eq!(program.places(list.segment), list.places);
            }
        }
    }

    #[test]
    fn what_cannot_be_built_or_held_is_refused_by_name() {
        let subnet = golden("token");
        let good = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 2]);
        let error = |change: fn(&mut quasar_hardware::Configuration)| {
            let mut configuration = good.configuration().clone();
            change(&mut configuration);
            let hardware = Hardware::new(configuration, good.board().clone()).unwrap();
            Program::compile(&subnet, &hardware)
                .unwrap_err()
                .to_string()
        };
        for (message, expected) in [
            (error(|c| c.lanes.gelu = 1), "lanes.gelu: is 1"),
            (error(|c| c.array.pairs = 129), "array.pairs: is 129"),
            (
                error(|c| {
                    c.array.tokens = 300;
                    (c.lanes.requantize, c.lanes.gelu) = (61, 61);
                }),
                "array.tokens: is 300",
            ),
            (
                error(|c| {
                    c.array.tokens = 200;
                    (c.lanes.requantize, c.lanes.gelu) = (61, 61);
                }),
                "lanes.requantize: is 61",
            ),
            (
                error(|c| {
                    c.array.tokens = 200;
                    c.lanes.exponential = 171;
                }),
                "lanes.exponential: is 171",
            ),
            (
                error(|c| c.buffers.input -= 1),
                "the input buffer needs 64 words a lane, 1 more than the 63",
            ),
            (error(|c| c.buffers.hidden = 1), "the hidden buffer needs"),
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }
}
