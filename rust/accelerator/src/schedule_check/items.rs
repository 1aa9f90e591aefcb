//! Declares the steps of the abstract run, and what queues and memories hold in it.

use std::collections::VecDeque;

use quasar_hardware::tiling::RowTile;

use crate::isa::{same_name, RowsCommand, Target, Unit, QUEUES};

/// Numbers of the agents: the units, and the store.
pub(super) const DRAIN: usize = Unit::Drain as usize;
pub(super) const SOFTMAX: usize = Unit::Softmax as usize;
pub(super) const STORE: usize = 5;
pub(super) const AGENTS: usize = 6;
pub(super) const NAMES: [&str; AGENTS] = ["load", "array", "drain", "norm", "softmax", "store"];

pub(super) type Clock = [u32; AGENTS];

/// Identity of an item or of a cell's contents. Tags are compared for equality and shown where they
/// differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tag {
    /// Number of the frame, from 1 on.
    pub(super) frame: u32,
    /// Phase of the frame.
    pub(super) phase: u16,
    /// Name of the contents.
    pub(super) what: &'static str,
    /// Sizes that writer and reader must agree on.
    pub(super) sizes: [u32; 6],
}

impl Tag {
    /// Returns the tag with these contents.
    pub(super) fn of(self, what: &'static str, sizes: [u32; 6]) -> Self {
        Self {
            what,
            sizes,
            ..self
        }
    }

    /// Returns the tag with the phase before.
    pub(super) fn before(self) -> Self {
        Self {
            phase: self.phase.wrapping_sub(1),
            ..self
        }
    }
}

/// Successive items of a queue that have the same tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) count: usize,
    pub(super) tag: Tag,
    pub(super) clock: Clock,
    /// First beat of a transfer.
    pub(super) address: u32,
}

/// A bounded queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) depth: usize,
    pub(super) held: usize,
    pub(super) most: usize,
    /// The writer's memory accesses before a write are ordered before the reader's after the read.
    pub(super) orders: bool,
    pub(super) batches: VecDeque<Batch>,
}

/// Returns the index of a queue in [`QUEUES`].
pub(super) const fn queue(name: &str) -> usize {
    let mut at = 0;
    while at < QUEUES.len() {
        if same_name(QUEUES[at].name, name) {
            return at;
        }
        at += 1;
    }
    panic!("no such queue");
}

pub(super) const COMMANDS: [usize; STORE] = [
    queue("load_commands"),
    queue("array_commands"),
    queue("drain_commands"),
    queue("norm_commands"),
    queue("softmax_commands"),
];
pub(super) const WEIGHTS: usize = queue("weights");
pub(super) const ROWS: usize = queue("rows");
pub(super) const GAINS: usize = queue("gains");
pub(super) const SUMS: usize = queue("sums");
pub(super) const MOMENTS: usize = queue("moments");
pub(super) const MAXIMA: usize = queue("maxima");
pub(super) const SCALES: usize = queue("scales");
pub(super) const LOGITS: usize = queue("logits");
pub(super) const CHECKS: usize = queue("checks");
pub(super) const LOAD_TO_ARRAY: usize = queue("load_to_array");
pub(super) const ARRAY_TO_LOAD: usize = queue("array_to_load");
pub(super) const DRAIN_TO_ARRAY: usize = queue("drain_to_array");
pub(super) const NORM_TO_ARRAY: usize = queue("norm_to_array");
pub(super) const SOFTMAX_TO_ARRAY: usize = queue("softmax_to_array");

/// A memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Input,
    Residual(u32),
    Normed(u32),
    Query,
    Key,
    Value,
    Score(u32),
    Probability(u32),
    Hidden,
    Mean,
    Table,
}

pub(super) const MEMORIES: usize = 15;

impl Memory {
    pub(super) fn index(self) -> usize {
        match self {
            Self::Input => 0,
            Self::Residual(slot) => 1 + slot as usize,
            Self::Normed(slot) => 3 + slot as usize,
            Self::Query => 5,
            Self::Key => 6,
            Self::Value => 7,
            Self::Score(parity) => 8 + parity as usize,
            Self::Probability(parity) => 10 + parity as usize,
            Self::Hidden => 12,
            Self::Mean => 13,
            Self::Table => 14,
        }
    }
}

/// A cell of a memory: a column of a tile of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    pub(super) tag: Tag,
    pub(super) tokens: u32,
    pub(super) writer: usize,
    pub(super) written: u32,
    pub(super) read: Clock,
}

/// Tag of the credit: `input` may be written.
pub(super) const FREE: Tag = Tag {
    frame: 0,
    phase: 0,
    what: "input is free",
    sizes: [0; 6],
};

/// A step of a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Takes items: queue, count, tag.
    Take(usize, usize, Tag),
    /// Gives items: queue, count, tag, first beat of a transfer.
    Give(usize, usize, Tag, u32),
    /// Reads cells: memory, first cell, count, tag, tokens.
    Read(Memory, usize, usize, Tag, u32),
    /// Writes cells: memory, first cell, count, tag, tokens.
    Write(Memory, usize, usize, Tag, u32),
    /// Reads the parameters of this number of rows.
    Parameters(usize),
    /// Stores the rows whose parameters were taken last: command, tile of tokens, its tokens, tag.
    Store(RowsCommand, usize, usize, Tag),
    /// Takes the maxima of an attention tile: count, tag. The tag of the maxima states what the
    /// scores must be.
    AttentionTile(usize, Tag),
}

/// Returns the tag of a transfer's beats.
pub(super) fn transferred(tag: Tag, target: Target, beats: usize) -> Tag {
    tag.of("transfer", [target as u32, beats as u32, 0, 0, 0, 0])
}

/// Returns the tag of the sums of a tile.
pub(super) fn sums(tag: Tag, rows: RowTile, tile: usize, tokens: usize) -> Tag {
    let sizes = [rows.rows4, rows.rows8, tile as u64, tokens as u64, 0, 0];
    tag.of("sums", sizes.map(|size| size as u32))
}

/// Returns the tag of the moments of a tile of tokens.
pub(super) fn moments(tag: Tag, tile: usize, tokens: usize) -> Tag {
    tag.of("moments", [tile as u32, tokens as u32, 0, 0, 0, 0])
}
