//! Models one product on the array.

use quasar_hardware::declared::{
    array as timing, requantize_depth, turn_cycles, BURST_BEATS, COMMAND_GAP, OPEN_BURSTS,
    PLAN_INTERVAL, ROW_BYTES, TRANSFERS_AHEAD,
};
use quasar_hardware::packing::{Activation, Pair};
use quasar_hardware::workload::RowWidths;

use super::{Model, Stage};

/// Beats that the queues of weights and row parameters hold.
pub(super) const BEATS_AHEAD: u64 = 64;

/// The destination of a tile's sums.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    /// Through the requantizing lanes.
    Requantize,
    /// Through the requantizing lanes, which rotate all rows.
    Rotate,
    /// Through the requantizing lanes with a GELU table.
    Gelu,
    /// Through one requantizing lane, a token at a time.
    Logit,
    /// To the score buffer, all tokens of a row at once.
    Score,
}

/// One matrix product.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    pub(super) tokens: u64,
    pub(super) rows: RowWidths,
    pub(super) columns: u64,
    pub(super) activation: Activation,
    pub(super) drain: Drain,
    /// True if its rows are weights from memory, false if they are keys or values on chip.
    pub(super) streamed: bool,
}

/// A stage and the figures that the next stage needs.
#[derive(Clone, Copy, Default)]
pub(super) struct Product {
    pub(super) stage: Stage,
    /// Cycles that the lanes take for all its tiles.
    pub(super) drain: u64,
    /// Cycles that the lanes take for its last tile.
    pub(super) last_drain: u64,
    /// Cycles that the lanes take for its first tile.
    pub(super) first_drain: u64,
    /// Cycles in which the array issues a tile.
    pub(super) issue: u64,
    /// Cycles for which the lanes can be behind the array: their work that the queues hold.
    pub(super) queued: u64,
    /// Load cycles of the weights that the ports and queues hold.
    pub(super) ahead: u64,
    /// Cycles in which a half of the weights is filled.
    pub(super) filled: u64,
    /// Cycles in which its passes are planned.
    pub(super) planned: u64,
    /// Cycles for which the array waits for its first weights, which arrived in time.
    pub(super) refill: u64,
    /// Cycles for which the lanes are behind the array at the end.
    pub(super) backlog: u64,
}

impl Product {
    /// Returns the cycles between two tiles of tokens of the first tile of row pairs.
    pub(super) fn first_spacing(&self) -> u64 {
        self.issue.max(self.first_drain)
    }

    /// Returns the cycles between two tiles of tokens of the last tile of row pairs.
    pub(super) fn last_spacing(&self) -> u64 {
        self.issue.max(self.last_drain)
    }

    /// Returns the cycles of the array and its lanes without the waits for weights and results.
    pub(super) fn busy(&self) -> u64 {
        let stage = self.stage;
        (stage.accumulate + stage.drain_stall + stage.gap).max(self.drain)
    }

    /// Adds the wait for lanes that are behind the array by `backlog` cycles at first.
    pub(super) fn hold_up(&mut self, backlog: u64) {
        let (weights, wait) = (self.stage.weight_stall, self.stage.wait);
        let issued = self.stage.cycles() - weights - wait;
        // The lanes catch up while the array waits for weights or for a result.
        let behind = (backlog.saturating_sub(wait) + self.drain).saturating_sub(issued + weights);
        self.backlog = behind.min(self.queued);
        let stall = behind.max(self.drain.saturating_sub(issued));
        self.stage.drain_stall += stall - self.backlog;
    }

    /// Returns the product with the wait for its own lanes.
    pub(super) fn held_up(mut self) -> Self {
        self.hold_up(0);
        self
    }
}

impl Model<'_> {
    /// Returns the cycles from a stage's last product to its last stored result.
    pub(super) fn ready(&self, product: &Product) -> u64 {
        self.hops()
            + product.last_drain
            + product.backlog
            + requantize_depth(self.array.clock_ratio)
    }

    /// Returns the array's wait between a stage and the next one on the same tokens: the first and
    /// the last tile of tokens must be stored before they are read.
    pub(super) fn wait(&self, before: &Product, after: &Product) -> u64 {
        let others = after.stage.token_tiles - 1;
        self.ready(before)
            .saturating_sub(others * before.last_spacing().min(after.first_spacing()))
    }

    /// Returns the number of accumulations into which `columns` are divided.
    pub(super) fn passes(&self, pair: Pair, activation: Activation, columns: u64) -> u64 {
        columns.div_ceil(self.hardware.board().dsp_kind.products(pair, activation))
    }

    /// Models a product with weights, requantized.
    pub(super) fn linear(&self, tokens: u64, rows: RowWidths, columns: u64) -> Product {
        self.gemm(Gemm {
            tokens,
            rows,
            columns,
            activation: Activation::Signed,
            drain: Drain::Requantize,
            streamed: true,
        })
    }

    /// Models the product of keys and queries.
    pub(super) fn keys_and_queries(&self, tokens: u64, rows: RowWidths, columns: u64) -> Product {
        if !self.setting.rotates() {
            return self.linear(tokens, rows, columns);
        }
        self.gemm(Gemm {
            tokens,
            rows: self.tiling.rotated(rows),
            columns,
            activation: Activation::Signed,
            drain: Drain::Rotate,
            streamed: true,
        })
    }

    /// Models a product.
    pub(super) fn gemm(&self, gemm: Gemm) -> Product {
        let lanes = match gemm.drain {
            Drain::Requantize | Drain::Rotate => self.lanes().requantize,
            Drain::Gelu => self.lanes().gelu,
            Drain::Logit => 1,
            Drain::Score => self.tiling.tokens,
        };
        let (full, ragged) = (
            gemm.tokens / self.tiling.tokens,
            gemm.tokens % self.tiling.tokens,
        );
        let token_tiles = full + u64::from(ragged > 0);
        let mut stage = Stage {
            token_tiles,
            macs: gemm.tokens * gemm.rows.total() * gemm.columns,
            ..Stage::default()
        };
        let sizes = [(full, self.tiling.tokens), (u64::from(ragged > 0), ragged)];
        let last = if ragged > 0 {
            ragged
        } else {
            self.tiling.tokens
        };
        let (mut product, mut words, mut issue, mut all_passes) = (Product::default(), 0, 0, 0);
        let kinds = (self.tiling).row_tile_kinds(gemm.rows.four_bit, gemm.rows.eight_bit);
        for (tile, count) in kinds {
            let (slots, outputs) = (tile.pairs(), tile.rows());
            let pair = if tile.rows8 > 0 {
                Pair::EightBit
            } else {
                Pair::FourBit
            };
            let passes = self.passes(pair, gemm.activation, gemm.columns);
            let drain = |tokens: u64| {
                if gemm.drain == Drain::Score {
                    slots
                } else {
                    let groups = tokens.div_ceil(lanes);
                    let turns = if gemm.drain == Drain::Rotate && groups > 0 {
                        tile.rotations() * turn_cycles(groups)
                    } else {
                        0
                    };
                    outputs * groups + turns
                }
            };
            let pass = self.words(gemm.columns.div_ceil(passes));
            let (mut busy, mut lanes_busy) = (0, 0);
            for (tiles, tokens) in sizes {
                busy += tiles * passes * self.spacing(pass, slots, drain(tokens));
                lanes_busy += tiles * passes * drain(tokens);
            }
            words += count * token_tiles * self.words(gemm.columns);
            issue += count * busy;
            product.drain += count * lanes_busy;
            all_passes += count * token_tiles * passes;
            stage.slot_macs += count * slots * gemm.columns * gemm.tokens;
            stage.passes = stage.passes.max(passes);
            if stage.row_tiles == 0 {
                product.first_drain = drain(gemm.tokens.min(self.tiling.tokens));
                // The FIFOs have room for the last pass when it starts; the others wait in them.
                let waiting = timing::FIFO_DEPTH.saturating_sub(slots);
                let most = drain(self.tiling.tokens) * waiting / slots;
                let flight = self.slow(self.depth() + pass);
                product.queued = most.saturating_sub(flight);
            }
            stage.row_tiles += count;
            product.last_drain = drain(last);
            if gemm.streamed {
                let planned = PLAN_INTERVAL * token_tiles * passes;
                let busy = self.slow(busy).max(lanes_busy).max(planned);
                self.stream(
                    &mut product,
                    &mut stage,
                    (gemm.columns, outputs),
                    count,
                    busy,
                );
            }
        }
        stage.accumulate = self.slow(words);
        stage.drain_stall = self.slow(issue) - stage.accumulate;
        // Passes are planned while earlier ones are issued.
        let issued = stage.accumulate + stage.drain_stall;
        product.planned = COMMAND_GAP + PLAN_INTERVAL * all_passes;
        stage.gap = product.planned.saturating_sub(issued);
        product.issue = self.slow(self.words(gemm.columns));
        product.stage = stage;
        product
    }

    /// Adds the transfers of `count` tiles of row pairs, of these columns and rows, for each of
    /// which the array or the lanes are busy for `busy` cycles.
    fn stream(
        &self,
        product: &mut Product,
        stage: &mut Stage,
        (columns, rows): (u64, u64),
        count: u64,
        busy: u64,
    ) {
        // One byte of each column for every row pair of the array, also for those that the tile
        // does not have.
        let bytes = self.weight_bytes() * self.array.padded(columns);
        let mut load = self.side(bytes);
        load.add(self.side(rows * ROW_BYTES));
        stage.bytes += count * load.bytes;
        stage.load += count * load.cycles();
        stage.transfers += count * load.transfers;
        let beats = bytes.max(rows * ROW_BYTES).div_ceil(self.beat_bytes);
        let queued = load.cycles() * BEATS_AHEAD / beats;
        // The ports hold what memory gave, but load takes no more than a beat a cycle.
        let ports = read_ahead(load.cycles()) * load.given.saturating_sub(load.taken) / load.given;
        product.ahead = product.ahead.max(queued + ports);
        // A half is refilled once the last tile that used it has been issued, one beat and one word
        // a cycle.
        let filled = bytes.div_ceil(self.beat_bytes).max(self.words(columns));
        product.filled = filled + self.slow(timing::END_TO_FREED + timing::FILLED_TO_START) + 3;
        let turn = product.filled.midpoint(busy).max(filled);
        stage.turn_stall += count * turn.saturating_sub(load.cycles().max(busy));
    }

    /// Returns the array's cycles between passes of these words and row pairs, which `drain` cycles
    /// take from the queues: the chain moves a row pair a cycle, and the queues must have room.
    pub(super) fn spacing(&self, words: u64, pairs: u64, drain: u64) -> u64 {
        let ratio = self.array.clock_ratio;
        let ahead = (timing::FIFO_DEPTH / pairs).max(1);
        let rest = timing::FIFO_DEPTH % pairs;
        let taken = drain * ratio * pairs.saturating_sub(rest) / pairs;
        let around = words
            + self.depth()
            + ratio * (timing::FIFO_TO_ITEM + 1)
            + taken
            + timing::ROOM_TO_START;
        let room = around.div_ceil(ahead);
        words.max(pairs).max(room)
    }
}

pub(super) const fn eight_bit(rows: u64) -> RowWidths {
    RowWidths {
        four_bit: 0,
        eight_bit: rows,
    }
}

/// Returns the load cycles of the tiles, of `load` cycles each, that the ports hold: a tile is two
/// transfers, each with a last burst of its own.
fn read_ahead(load: u64) -> u64 {
    let bursts = load / BURST_BEATS + 2;
    (OPEN_BURSTS * load / bursts).min(TRANSFERS_AHEAD / 2 * load)
}
