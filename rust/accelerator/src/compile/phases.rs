//! Makes the commands of each phase of a frame, and interleaves the phases of two frames.

use quasar_core::subnet::config::Pool;
use quasar_hardware::packing::{Activation, Pair};
use quasar_hardware::tiling::Band;
use quasar_hardware::Hardware;

use super::numbers::{Head, Numbers};
use super::plan::{BlockPlan, EmbedNormPlan, Matrix, MlpPlan, Outline, PairPlan, Plan};
use crate::arena_layout::Transfer;
use crate::isa::{
    Attend, Command, Context, Fill, Gemm, Kind, LayerNorm, Load, LoadEnd, Pooling, RowsCommand,
    Scores, Softmax, Source, Table, Target,
};
use crate::program::{input_transfers, List, Place, Segment};
use crate::shape::Shape;
use crate::unit::credits;

/// The phases of a frame in one slot, in the making.
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
    /// Transfers of the arena so far, modulo 2^16.
    transfers: u16,
}

impl<'a> Phases<'a> {
    /// Makes the commands of each phase.
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
            transfers: 0,
        };
        phases.embedding();
        if let Some(normed) = &plan.embed_norm {
            phases.embed_norm(normed);
        }
        for (i, block) in plan.blocks.iter().enumerate() {
            phases.attention_half(i, block);
            phases.mlp_half(i, block);
        }
        if let Some(pair) = &plan.pair {
            phases.pair_head(pair);
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
        self.transfers = self.transfers.wrapping_add(1);
        self.push(Load {
            target,
            frame: self.slot.into(),
            beats: transfer.beats,
            address: transfer.address,
            ..Load::default()
        });
    }

    /// Adds a matrix product. `gemm` and `rows` hold the fields that differ from product to
    /// product. Returns the credits that the drain gives the array for it.
    fn product(
        &mut self,
        stage: &'static str,
        matrix: &Matrix,
        gemm: Gemm,
        rows: RowsCommand,
    ) -> u32 {
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
            row_tiles: matrix.tiles.len() as u32,
            ..gemm
        });
        let rows = RowsCommand {
            frame: if rows.kind == Kind::Residual {
                self.slot.into()
            } else {
                0
            },
            rows4: matrix.rows4,
            rows8: matrix.rows8,
            ..rows
        };
        self.push(rows);
        for &(weights, parameters) in &matrix.tiles {
            self.load(Target::Weights, weights);
            self.load(Target::Parameters, parameters);
        }
        credits(rows.into(), self.shape)
    }

    /// Returns the columns of a pass. Passes are equal, and as few as the fields of a product
    /// allow; each begins with a word of C columns.
    fn pass(&self, columns: u32, pair: Pair, activation: Activation) -> u32 {
        let (bound, cascade) = (
            self.hardware.board().dsp_kind.products(pair, activation) as u32,
            self.shape.cascade as u32,
        );
        let passes = columns.div_ceil(bound / cascade * cascade);
        let pass = columns.div_ceil(passes).next_multiple_of(cascade);
        pass.min(columns)
    }

    /// Rounds columns up to whole words of C.
    fn padded(&self, columns: u32) -> u32 {
        self.shape.padded(columns as usize) as u32
    }

    /// Fills the residual of some tokens.
    fn fill(&mut self, stage: &'static str, tokens: u32, transfer: Transfer) {
        self.stage = stage;
        self.push(Fill {
            frame: self.slot.into(),
            words: tokens.div_ceil(self.lanes()) * self.embed(),
        });
        self.load(Target::Residual, transfer);
    }

    /// Adds the norm before the next phase.
    fn norm(&mut self, tokens: u32, pool: Pooling) {
        self.stage = "norm";
        let phase = self.done.len();
        let (frac, epsilon) = self.numbers.norms[phase];
        self.push(LayerNorm {
            frame: self.slot.into(),
            pool,
            frac,
            tokens,
            first: match (pool, self.outline.workload.setting.pool) {
                (Pooling::None | Pooling::Unnormalised, _) => 0,
                // The mean of token 1 alone.
                (_, Pool::TokenPair) => 1,
                _ => self.outline.workload.setting.prefix_tokens as u32,
            },
            embed: self.embed(),
            epsilon,
        });
        self.load(Target::Gains, self.plan.norms[phase]);
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

    /// Returns the tokens of the array.
    fn lanes(&self) -> u32 {
        self.shape.tokens as u32
    }

    fn embedding(&mut self) {
        let plan = self.plan;
        let (tokens, embed) = (self.tokens(), self.embed());
        let setting = self.outline.workload.setting;
        let transfers = input_transfers(
            self.hardware,
            setting.tokens() as usize,
            setting.patch_len as usize,
        );
        for ((band, matrix), (_, patches)) in plan.embed.iter().zip(transfers) {
            self.stage = "patches";
            self.push(Load {
                target: Target::Patches,
                input: true,
                wait_array: true,
                post_array: true,
                begins: band.tile == 0,
                frame: self.slot.into(),
                beats: patches.beats,
                address: patches.address,
                ..Load::default()
            });
            if band.tile == 0 {
                self.fill("position", tokens, plan.residual);
                if let Some((words, transfer)) = plan.angles {
                    self.stage = "angles";
                    self.push(Table { words });
                    self.load(Target::Table, transfer);
                }
            }
            let first = band.tile as u32 * self.lanes();
            self.product(
                "embedding",
                matrix,
                Gemm {
                    source: Source::Input,
                    wait_load: true,
                    post_load: true,
                    tile: band.tile as u32,
                    ..Gemm::default()
                },
                RowsCommand {
                    kind: Kind::Residual,
                    moments: true,
                    tokens: band.tokens as u32,
                    tile: band.tile as u32,
                    skip: (setting.prefix_tokens as u32).saturating_sub(first),
                    stride: embed,
                    ..RowsCommand::default()
                },
            );
            if band.tile == 0 {
                self.norm(tokens, Pooling::None);
            }
        }
        self.end();
    }

    /// Puts the norm of the embedded patches into the residual. A row of zeros, which changes
    /// nothing, waits for the norm of all tokens: so the drain fills the residual anew after the
    /// norm has read it. Prefix tokens come with that.
    fn embed_norm(&mut self, plan: &EmbedNormPlan) {
        let (tokens, embed) = (self.tokens(), self.embed());
        let gemm = Gemm {
            source: Source::Normed,
            frame: self.slot.into(),
            ..Gemm::default()
        };
        let rows = RowsCommand {
            kind: Kind::Residual,
            tokens,
            stride: embed,
            ..RowsCommand::default()
        };
        self.product(
            "zeros",
            &plan.zeros,
            Gemm {
                wait_norm: true,
                ..gemm
            },
            rows,
        );
        self.fill("prefix", tokens, plan.residual);
        self.product(
            "normalised patches",
            &plan.proj,
            gemm,
            RowsCommand {
                moments: true,
                skip: self.outline.workload.setting.prefix_tokens as u32,
                ..rows
            },
        );
        self.norm(tokens, Pooling::None);
        self.end();
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
            stride: self.padded(block.proj.columns),
            reciprocal: ((1 << 20) + tokens / 2) / tokens,
            ..RowsCommand::default()
        };
        let pairs = self.outline.workload.setting.rotated_dim as u32 / 2;
        let [stage, second] = if split {
            ["keys, values", "query"]
        } else {
            ["keys, queries", "values"]
        };
        let first = self.product(
            stage,
            &block.qkv[0],
            Gemm {
                wait_norm: true,
                ..gemm
            },
            RowsCommand { pairs, ..rows },
        );
        let last = self.product(
            second,
            &block.qkv[1],
            gemm,
            RowsCommand {
                tokens: if split { needed } else { tokens },
                ..rows
            },
        );
        // If the query comes last, keys and values are stored before it. Else values may come while
        // scores are made.
        let waits = if split {
            (first + last, 0)
        } else {
            (first, last)
        };
        if let Some(zeros) = block.zeros {
            // Keys and values are stored, so the norm has read the residual.
            self.fill("zeros", needed, zeros);
        }
        self.attention(i, waits);
        self.residual(
            "projection",
            &block.proj,
            Gemm {
                source: Source::Query,
                ..Gemm::default()
            },
            Band {
                tile: 0,
                tokens: needed.into(),
            },
        );
        self.norm(needed, Pooling::None);
        self.end();
    }

    /// Adds the attention tiles: (head, tile of tokens). The array makes the scores of the next
    /// attention tile before the context of this one, so that softmax has time. The first scores
    /// and the first context wait for these credits of the drain.
    fn attention(&mut self, block: usize, (scores_wait, context_wait): (u32, u32)) {
        self.stage = "attention";
        let (needed, lanes) = (self.outline.needed(block), self.lanes());
        let (keys, heads) = (self.tokens(), &self.numbers.heads[block]);
        let rows = self.outline.workload.blocks[block].head_dim as u32;
        let head_stride = self.padded(rows);
        let stride = heads.len() as u32 * head_stride;
        let tiles = needed.div_ceil(lanes);
        let attention_tiles = heads.len() as u32 * tiles;
        let last_head = attention_tiles - tiles;
        let banks = self.shape.value_banks as u32;
        let pass = self.pass(keys, Pair::EightBit, Activation::Unsigned);
        for i in 0..=attention_tiles {
            if i < attention_tiles {
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
                    base: head * head_stride,
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
                let (tokens, base) = (lanes.min(needed - tile * lanes), head * head_stride);
                self.push(Context {
                    parity: i % 2,
                    wait_drain: if i == 0 { context_wait } else { 0 },
                    tile,
                    tokens,
                    keys,
                    rows,
                    block: base / banks,
                    bank: base % banks,
                    pass,
                    turn: pass.div_ceil(self.shape.cascade as u32) % banks,
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

    /// Adds a product of what the drain stored tile by tile; its result is added to the residual.
    fn residual(&mut self, stage: &'static str, matrix: &Matrix, gemm: Gemm, band: Band) {
        let stride = self.embed();
        self.product(
            stage,
            matrix,
            Gemm {
                wait_drain_tiles: true,
                tile: band.tile as u32,
                ..gemm
            },
            RowsCommand {
                kind: Kind::Residual,
                moments: true,
                tokens: band.tokens as u32,
                tile: band.tile as u32,
                stride,
                ..RowsCommand::default()
            },
        );
    }

    fn mlp_half(&mut self, i: usize, block: &BlockPlan) {
        let last = i + 1 == self.plan.blocks.len();
        let setting = self.outline.workload.setting;
        let pool = match setting.pool {
            _ if setting.patch_tokens => Pooling::None,
            Pool::Mean | Pool::TokenPair if last => Pooling::Before,
            Pool::MeanAfterNorm if last => Pooling::After,
            Pool::Attention if last => Pooling::Unnormalised,
            _ => Pooling::None,
        };
        self.stage = "table";
        self.push(Table::default());
        self.load(Target::Table, block.table);
        for (band, MlpPlan { fc1, fc2 }) in &block.mlp {
            self.product(
                "fc1",
                fc1,
                Gemm {
                    source: Source::Normed,
                    frame: self.slot.into(),
                    wait_norm: true,
                    tile: band.tile as u32,
                    ..Gemm::default()
                },
                RowsCommand {
                    kind: Kind::Codes,
                    activation: true,
                    post_tiles: true,
                    tokens: band.tokens as u32,
                    tile: band.tile as u32,
                    zero_point: self.numbers.zero_points[i],
                    stride: self.padded(fc2.columns),
                    ..RowsCommand::default()
                },
            );
            self.residual(
                "fc2",
                fc2,
                Gemm {
                    source: Source::Hidden,
                    ..Gemm::default()
                },
                *band,
            );
            if band.tile == 0 {
                self.norm(self.outline.needed(i), pool);
            }
        }
        self.end();
    }

    /// Adds the head of token 1. The norm has stored token 1 in the place of token 0. Then adds
    /// zeros to token 0: so the norm gets the moments of token 0, whose head comes next.
    fn pair_head(&mut self, pair: &PairPlan) {
        self.logits("head of token 1", &pair.head);
        self.product(
            "zeros",
            &pair.zeros,
            Gemm {
                source: Source::Normed,
                frame: self.slot.into(),
                ..Gemm::default()
            },
            RowsCommand {
                kind: Kind::Residual,
                moments: true,
                tokens: 1,
                stride: self.embed(),
                ..RowsCommand::default()
            },
        );
        self.norm(1, Pooling::None);
        self.end();
    }

    fn head(&mut self) {
        self.logits("head", &self.plan.head);
        self.push(LoadEnd {
            frame: self.slot.into(),
            transfers: u32::from(self.transfers),
        });
        self.end();
    }

    /// Adds a head of the token in the place of token 0, or of all tokens.
    fn logits(&mut self, stage: &'static str, head: &Matrix) {
        self.product(
            stage,
            head,
            Gemm {
                source: Source::Normed,
                frame: self.slot.into(),
                wait_norm: true,
                ..Gemm::default()
            },
            RowsCommand {
                kind: Kind::Logits,
                tokens: self.outline.workload.setting.head_tokens() as u32,
                ..RowsCommand::default()
            },
        );
    }
}

/// Makes all command lists. In a step the frame that begins goes first: its embedding needs no
/// norm, so that the other frame's norm has time, as in every later phase. An odd phase belongs to
/// the first half: then the frames take turns from the first phase to the last, and the array takes
/// the norms' credits in the order in which the norm gives them. A residual is filled after the
/// head of the frame that had it before.
pub(super) fn segments(
    outline: &Outline,
    hardware: &Hardware,
    plan: &Plan,
    numbers: &Numbers,
) -> Vec<List> {
    let frames = hardware.configuration().frames as usize;
    let phases: Vec<_> = (0..frames as u8)
        .map(|slot| Phases::of(outline, hardware, plan, numbers, slot))
        .collect();
    let halves = |slot: u8| {
        let phases = &phases[slot as usize];
        phases.split_at(phases.len().div_ceil(2))
    };
    let list = |&segment: &Segment| {
        let parts: Vec<&Vec<_>> = match segment {
            Segment::Start(slot) => halves(slot).0.iter().collect(),
            Segment::End(slot) => halves(slot).1.iter().collect(),
            Segment::Step(slot) => {
                let (first, second) = (halves(1 - slot).0, halves(slot).1);
                (0..first.len().max(second.len()))
                    .flat_map(|i| [first.get(i), second.get(i)])
                    .flatten()
                    .collect()
            }
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
