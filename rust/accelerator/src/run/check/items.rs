//! Declares the items of queues and the cells of memories of the abstract run.

use std::collections::VecDeque;

use crate::isa::Unit;
use crate::unit::{queue_index, Contents};

/// Numbers of the agents: the units, and the store.
pub(super) const DRAIN: usize = Unit::Drain as usize;
pub(super) const STORE: usize = 5;
pub(super) const AGENTS: usize = 6;
pub(super) const NAMES: [&str; AGENTS] = ["load", "array", "drain", "norm", "softmax", "store"];

/// Indices of the units' queues of commands.
pub(super) const COMMANDS: [usize; STORE] = [
    queue_index("load_commands"),
    queue_index("array_commands"),
    queue_index("drain_commands"),
    queue_index("norm_commands"),
    queue_index("softmax_commands"),
];

pub(super) type Clock = [u32; AGENTS];

/// Identity of an item or of a cell's contents. Tags are compared for equality and shown where they
/// differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tag {
    /// Number of the frame, from 1 on.
    pub(super) frame: u32,
    /// Phase of the frame.
    pub(super) phase: u16,
    /// Contents.
    pub(super) contents: Contents,
}

impl Tag {
    /// Returns the tag with these contents.
    pub(super) fn of(self, contents: Contents) -> Self {
        Self { contents, ..self }
    }

    /// Returns the tag of an earlier phase.
    pub(super) fn earlier(self, phases: u16) -> Self {
        Self {
            phase: self.phase.wrapping_sub(phases),
            ..self
        }
    }
}

/// Tag of the credit: `input` may be written.
pub(super) const FREE: Tag = Tag {
    frame: 0,
    phase: 0,
    contents: Contents::InputFree,
};

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
    pub(super) batches: VecDeque<Batch>,
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
