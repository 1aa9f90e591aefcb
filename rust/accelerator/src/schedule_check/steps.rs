//! Expands commands into the steps of the abstract run.

use std::collections::VecDeque;

use super::ensure;
use super::items::{
    moments, sums, transferred, Memory, Step, Tag, ARRAY_TO_LOAD, CHECKS, DRAIN, DRAIN_TO_ARRAY,
    FREE, GAINS, LOAD_TO_ARRAY, LOGITS, MAXIMA, MOMENTS, NORM_TO_ARRAY, ROWS, SCALES,
    SOFTMAX_TO_ARRAY, SUMS, WEIGHTS,
};
use super::machine::Machine;
use crate::isa::{
    Attend, Command, Context, Destination, Gemm, Kind, LayerNorm, Load, Pooling, RowsCommand,
    Scores, Source, Target,
};

impl Machine<'_> {
    /// Stores a tile of tokens of the rows whose parameters the drain took last.
    pub(super) fn store_rows(
        &mut self,
        c: &RowsCommand,
        tile: usize,
        tokens: u32,
        tag: Tag,
    ) -> Result<(), String> {
        let rows = self.agents[DRAIN].rows.clone();
        let buffers = self.program.hardware.configuration().buffers;
        let (stride, s) = (c.stride as usize, self.shape);
        let last = c.tokens as usize - 1;
        for row in rows {
            let destination = Destination::of_code(row.destination.into())
                .ok_or("a row has a destination that does not exist")?;
            let column = usize::from(row.column);
            let place = usize::from(row.value_block) * s.value_banks + usize::from(row.value_bank);
            ensure(
                place == column && usize::from(row.value_bank) < s.value_banks,
                "a row's block and bank are not its column's",
            )?;
            let cell = if c.kind == Kind::Residual {
                (c.tile as usize + tile) * stride + column
            } else {
                tile * stride + column
            };
            let cascade = s.cascade as u64;
            let within = |words: u64, address: usize| {
                ensure(
                    (address as u64) < words,
                    "a row is stored beyond its memory",
                )
            };
            let layout = |what, layout: u32| tag.of(what, [layout, 0, 0, 0, 0, 0]);
            let expected = match c.kind {
                Kind::Residual => destination == Destination::Residual,
                Kind::Logits => destination == Destination::Logit,
                Kind::Codes if c.table => destination == Destination::Hidden,
                Kind::Codes => destination <= Destination::Value,
            };
            ensure(expected, "a row's destination does not go with its command")?;
            if c.kind != Kind::Logits {
                ensure(column < stride, "a row's column is beyond the stride")?;
            }
            let (memory, cell, tag) = match destination {
                Destination::Query => {
                    within(buffers.query, cell)?;
                    (Memory::Query, cell, layout("queries", c.stride))
                }
                Destination::Key => {
                    within(buffers.key / cascade, s.key(last, column, stride).word)?;
                    (Memory::Key, cell, layout("keys", c.stride))
                }
                Destination::Value => {
                    let place = s.value(last, column, c.tokens as usize);
                    within(buffers.value / cascade, place.word)?;
                    ensure(c.reciprocal > 0, "the reciprocal is missing")?;
                    self.write(
                        DRAIN,
                        Memory::Mean,
                        column..column + 1,
                        tag.of("means", [c.tokens, c.stride, 0, 0, 0, 0]),
                        c.tokens,
                    )?;
                    let cell = self.value_cell(column, tile, c.tokens as usize);
                    (Memory::Value, cell, layout("values", c.tokens))
                }
                Destination::Hidden => {
                    within(buffers.hidden, cell)?;
                    let sizes = [c.stride, c.tile, 0, 0, 0, 0];
                    (Memory::Hidden, cell, tag.of("hidden", sizes))
                }
                Destination::Residual => {
                    within(buffers.residual, cell)?;
                    let memory = Memory::Residual(c.frame);
                    let new = layout("residual", c.stride);
                    // The row of zeros behind the norm of the embedded patches has no moments.
                    let refilled = self.program.sizes.embed_norm && tag.phase == 1 && c.moments;
                    let old = if tag.phase == 0 || refilled {
                        layout("filled", c.stride)
                    } else {
                        new.before()
                    };
                    self.read(DRAIN, memory, cell..cell + 1, old, tokens)?;
                    (memory, cell, new)
                }
                Destination::Logit => continue,
            };
            self.write(DRAIN, memory, cell..cell + 1, tag, tokens)?;
        }
        Ok(())
    }

    /// Returns the steps of the store for a frame.
    pub(super) fn store(&self, tag: Tag) -> VecDeque<Step> {
        let (sizes, logits) = (self.program.sizes, self.program.logits());
        let heads = sizes.pool.heads().len();
        // The head of token 1 comes a phase before that of token 0.
        let of_phase = |back: usize| Tag {
            phase: tag.phase - back as u16,
            ..tag.of("logits", [0; 6])
        };
        let mut steps: VecDeque<_> = (0..heads)
            .rev()
            .map(|back| Step::Take(LOGITS, logits / heads, of_phase(back)))
            .collect();
        steps.push_back(Step::Take(CHECKS, 1, tag.of("check", [0; 6])));
        steps
    }

    /// Returns the steps of a command.
    pub(super) fn steps(&self, command: Command, tag: Tag) -> VecDeque<Step> {
        let s = self.shape;
        let steps = match command {
            Command::Load(c) => self.load(&c, tag),
            Command::LoadEnd(_) => vec![Step::Give(CHECKS, 1, tag.of("check", [0; 6]), 0)],
            Command::Gemm(c) => self.gemm(&c, tag),
            Command::Scores(c) => self.scores(&c, tag),
            Command::Context(c) => self.context(&c, tag),
            Command::Rows(c) => self.rows(&c, tag),
            Command::Attend(c) => self.attend(&c, tag),
            Command::Fill(c) => {
                let (words, embed) = (c.words as usize, self.program.sizes.embed as u32);
                let filled = tag.of("filled", [embed, 0, 0, 0, 0, 0]);
                let tokens = s.tokens as u32;
                vec![
                    transfer(ROWS, tag, Target::Residual, words * s.beats(2 * s.tokens)),
                    Step::Write(Memory::Residual(c.frame), 0, words, filled, tokens),
                ]
            }
            Command::Table(_) => vec![
                transfer(ROWS, tag, Target::Table, s.beats(256)),
                Step::Write(Memory::Table, 0, 1, tag.of("table", [0; 6]), 0),
            ],
            Command::LayerNorm(c) => self.layer_norm(&c, tag),
            Command::Softmax(c) => {
                let layout = tag.of("softmax", [c.tokens, c.keys, 0, 0, 0, 0]);
                vec![Step::AttentionTile(self.exponential_groups, layout)]
            }
        };
        steps.into()
    }

    fn load(&self, c: &Load, tag: Tag) -> Vec<Step> {
        let mut steps = Vec::new();
        if c.wait_array {
            steps.push(Step::Take(ARRAY_TO_LOAD, 1, FREE));
        }
        let (s, beats) = (self.shape, c.beats as usize);
        let to = match c.target {
            Target::Weights => WEIGHTS,
            Target::Gains => GAINS,
            Target::Patches => {
                let words = beats / s.beats(s.tokens);
                let bands = self.program.input_transfers();
                let band = bands.iter().find(|(_, band)| band.address == c.address);
                let tile = band.map_or(u32::MAX, |(band, _)| band.tile as u32);
                let patches = tag.of("patches", [tile, 0, 0, 0, 0, 0]);
                steps.push(Step::Write(
                    Memory::Input,
                    0,
                    words,
                    patches,
                    s.tokens as u32,
                ));
                if c.post_array {
                    steps.push(Step::Give(LOAD_TO_ARRAY, 1, patches, 0));
                }
                return steps;
            }
            _ => ROWS,
        };
        steps.push(Step::Give(
            to,
            beats,
            transferred(tag, c.target, beats),
            c.address,
        ));
        if c.post_array {
            steps.push(Step::Give(LOAD_TO_ARRAY, 1, tag.of("beats", [0; 6]), 0));
        }
        steps
    }

    pub(super) fn gemm(&self, c: &Gemm, tag: Tag) -> Vec<Step> {
        let (s, columns) = (self.shape, c.columns as usize);
        let padded = s.padded(columns);
        let mut steps = Vec::new();
        let patches = tag.of("patches", [c.tile, 0, 0, 0, 0, 0]);
        if c.wait_load {
            steps.push(Step::Take(LOAD_TO_ARRAY, 1, patches));
        }
        wait_drain(&mut steps, c.wait_drain, tag);
        let layout = [padded as u32, 0, 0, 0, 0, 0];
        let of_band = [padded as u32, c.tile, 0, 0, 0, 0];
        let (memory, first, expected) = match c.source {
            Source::Input => (Memory::Input, 0, patches),
            Source::Normed => (
                Memory::Normed(c.frame),
                c.tile as usize,
                // `fields` checks that the columns of several tiles are the embedding's.
                tag.before().of(
                    "normed",
                    [s.padded(self.program.sizes.embed) as u32, 0, 0, 0, 0, 0],
                ),
            ),
            Source::Query => (Memory::Query, 0, tag.of("context", layout)),
            Source::Hidden => (Memory::Hidden, 0, tag.of("hidden", of_band)),
        };
        let row_tiles = s.row_tiles(c.rows4, c.rows8);
        for (row_tile, rows) in row_tiles.enumerate() {
            steps.push(transfer(
                WEIGHTS,
                tag,
                Target::Weights,
                s.weight_beats(columns),
            ));
            for (tile, tokens) in s.token_tiles(c.tokens).enumerate() {
                if row_tile == 0 && c.wait_norm {
                    let normed = tag.before().of("normed", [0; 6]);
                    steps.push(Step::Take(NORM_TO_ARRAY, 1, normed));
                }
                if row_tile == 0 {
                    wait_drain(&mut steps, c.wait_drain_tiles.into(), tag);
                }
                steps.push(Step::Read(
                    memory,
                    (first + tile) * padded,
                    columns,
                    expected,
                    tokens as u32,
                ));
                let count = rows.rows() as usize * s.groups(tokens);
                let tile = c.tile as usize + tile;
                steps.push(Step::Give(SUMS, count, sums(tag, rows, tile, tokens), 0));
            }
        }
        if c.post_load {
            steps.push(Step::Give(ARRAY_TO_LOAD, 1, FREE, 0));
        }
        steps
    }

    pub(super) fn scores(&self, c: &Scores, tag: Tag) -> Vec<Step> {
        let mut steps = Vec::new();
        wait_drain(&mut steps, c.wait_drain, tag);
        let (stride, base, columns) = (c.stride as usize, c.base as usize, c.columns as usize);
        let layout = [c.stride, 0, 0, 0, 0, 0];
        let first = c.tile as usize * stride + base;
        let queries = tag.of("queries", layout);
        steps.push(Step::Read(Memory::Query, first, columns, queries, c.tokens));
        for (tile, tokens) in self.shape.token_tiles(c.keys).enumerate() {
            let (first, keys) = (tile * stride + base, tag.of("keys", layout));
            steps.push(Step::Read(Memory::Key, first, columns, keys, tokens as u32));
        }
        let layout = [c.tokens, c.keys, c.tile, c.base, c.columns, 0];
        let scores = tag.of("scores", layout);
        steps.push(Step::Write(Memory::Score(c.parity), 0, 1, scores, c.tokens));
        let maxima = tag.of("maxima", layout);
        steps.push(Step::Give(MAXIMA, self.exponential_groups, maxima, 0));
        steps
    }

    pub(super) fn context(&self, c: &Context, tag: Tag) -> Vec<Step> {
        let mut steps = Vec::new();
        wait_drain(&mut steps, c.wait_drain, tag);
        let base = self.shape.context_base(c);
        let layout = [c.tokens, c.keys, c.tile, base, c.rows, 0];
        let probabilities = tag.of("probabilities", layout);
        steps.push(Step::Take(SOFTMAX_TO_ARRAY, 1, probabilities));
        steps.push(Step::Read(
            Memory::Probability(c.parity),
            0,
            1,
            probabilities,
            c.tokens,
        ));
        let values = tag.of("values", [c.keys, 0, 0, 0, 0, 0]);
        let tiles = self.shape.token_tiles(c.keys);
        for column in base..base + c.rows {
            for (tile, tokens) in tiles.clone().enumerate() {
                let cell = self.value_cell(column as usize, tile, c.keys as usize);
                steps.push(Step::Read(Memory::Value, cell, 1, values, tokens as u32));
            }
        }
        let sums = tag.of("context", [c.tokens, c.tile, base, c.rows, 0, 0]);
        let count = c.rows as usize * self.shape.groups(c.tokens as usize);
        steps.push(Step::Give(SUMS, count, sums, 0));
        steps
    }

    /// Returns the cell of a column of values in a tile of tokens. `Context` does not know the
    /// stride of `value`, so the index is the check's own.
    pub(super) fn value_cell(&self, column: usize, tile: usize, keys: usize) -> usize {
        column * keys.div_ceil(self.shape.tokens) + tile
    }

    pub(super) fn rows(&self, c: &RowsCommand, tag: Tag) -> Vec<Step> {
        let s = self.shape;
        let mut steps = Vec::new();
        if c.table {
            steps.push(Step::Read(Memory::Table, 0, 1, tag.of("table", [0; 6]), 0));
        }
        let row_tiles = s.row_tiles(c.rows4, c.rows8);
        let last = row_tiles.clone().count() - 1;
        for (row_tile, rows) in row_tiles.enumerate() {
            steps.push(transfer(
                ROWS,
                tag,
                Target::Rows,
                s.row_beats(rows.rows() as usize),
            ));
            steps.push(Step::Parameters(rows.rows() as usize));
            for (tile, tokens) in s.token_tiles(c.tokens).enumerate() {
                let count = rows.rows() as usize * s.groups(tokens);
                let whole = c.tile as usize + tile;
                steps.push(Step::Take(SUMS, count, sums(tag, rows, whole, tokens)));
                steps.push(Step::Store(*c, tile, tokens, tag));
                if c.kind == Kind::Logits {
                    steps.push(Step::Give(
                        LOGITS,
                        rows.rows() as usize * tokens,
                        tag.of("logits", [0; 6]),
                        0,
                    ));
                }
                if row_tile == last && c.moments {
                    let moments = moments(tag, whole, tokens);
                    steps.push(Step::Give(MOMENTS, s.groups(tokens), moments, 0));
                }
                if row_tile == last && c.post_tiles {
                    steps.push(Step::Give(DRAIN_TO_ARRAY, 1, tag.of("stored", [0; 6]), 0));
                }
            }
        }
        if c.post {
            steps.push(Step::Give(DRAIN_TO_ARRAY, 1, tag.of("stored", [0; 6]), 0));
        }
        steps
    }

    pub(super) fn attend(&self, c: &Attend, tag: Tag) -> Vec<Step> {
        let keys = self.program.sizes.tokens as u32;
        let (first, rows) = (
            c.tile as usize * c.stride as usize + c.base as usize,
            c.rows as usize,
        );
        let scales = tag.of("scales", [c.tokens, keys, c.tile, c.base, c.rows, 0]);
        let sums = tag.of("context", [c.tokens, c.tile, c.base, c.rows, 0, 0]);
        let means = tag.of("means", [keys, c.stride, 0, 0, 0, 0]);
        let context = tag.of("context", [c.stride, 0, 0, 0, 0, 0]);
        let mut steps = vec![
            Step::Take(SCALES, c.tokens as usize, scales),
            Step::Take(SUMS, rows * self.shape.groups(c.tokens as usize), sums),
            Step::Read(Memory::Mean, c.base as usize, rows, means, keys),
            // The weights are 0 where a head has only padding, so it may hold anything.
            Step::Write(
                Memory::Query,
                first,
                self.shape.padded(rows),
                context,
                c.tokens,
            ),
        ];
        if c.post {
            steps.push(Step::Give(DRAIN_TO_ARRAY, 1, tag.of("stored", [0; 6]), 0));
        }
        steps
    }

    pub(super) fn layer_norm(&self, c: &LayerNorm, tag: Tag) -> Vec<Step> {
        let (s, embed) = (self.shape, c.embed as usize);
        let mut steps = vec![transfer(GAINS, tag, Target::Gains, s.beats(4 * embed))];
        let layout = |stride: usize| [stride as u32, 0, 0, 0, 0, 0];
        let padded = s.padded(embed);
        let give = |steps: &mut Vec<Step>, tile: usize, tokens: usize| {
            let normed = tag.of("normed", layout(padded));
            steps.push(Step::Write(
                Memory::Normed(c.frame),
                tile * padded,
                embed,
                normed,
                tokens as u32,
            ));
            steps.push(Step::Give(NORM_TO_ARRAY, 1, tag.of("normed", [0; 6]), 0));
        };
        for (tile, tokens) in s.token_tiles(c.tokens).enumerate() {
            steps.push(Step::Take(
                MOMENTS,
                s.groups(tokens),
                moments(tag, tile, tokens),
            ));
            let residual = tag.of("residual", layout(embed));
            steps.push(Step::Read(
                Memory::Residual(c.frame),
                tile * embed,
                embed,
                residual,
                tokens as u32,
            ));
            if c.pool == Pooling::None {
                give(&mut steps, tile, tokens);
            }
        }
        if c.pool != Pooling::None {
            give(&mut steps, 0, 1);
        }
        steps
    }
}

/// Returns the step that takes a transfer.
pub(super) fn transfer(queue: usize, tag: Tag, target: Target, beats: usize) -> Step {
    Step::Take(queue, beats, transferred(tag, target, beats))
}

pub(super) fn wait_drain(steps: &mut Vec<Step>, count: u32, tag: Tag) {
    if count > 0 {
        steps.push(Step::Take(
            DRAIN_TO_ARRAY,
            count as usize,
            tag.of("stored", [0; 6]),
        ));
    }
}
