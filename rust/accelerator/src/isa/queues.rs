//! Declares the queues between the kernels.

use quasar_hardware::Hardware;

/// A queue between two units, or between a unit and memory's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Name in the sources.
    pub name: &'static str,
    /// Kernel that writes.
    pub from: &'static str,
    /// Kernel that reads.
    pub to: &'static str,
    /// Items that the queue holds; 0 where the configuration sets it ([`moments_depth`]).
    pub depth: usize,
    /// Contents of an item.
    pub item: &'static str,
    /// Items that the queue holds after a reset.
    pub initial: usize,
}

impl Queue {
    /// Returns the number of items that the queue holds in a configuration.
    pub fn depth_in(&self, hardware: &Hardware) -> usize {
        match self.depth {
            0 => moments_depth(hardware),
            depth => depth,
        }
    }
}

/// All queues. The schedule check and the simulation hold command lists to these depths, and the
/// block design builds them.
pub const QUEUES: &[Queue] = &[
    queue("load_commands", "fetch", "load", 64, "command"),
    queue("array_commands", "fetch", "array", 64, "command"),
    queue("drain_commands", "fetch", "drain", 64, "command"),
    queue("norm_commands", "fetch", "norm", 16, "command"),
    queue("softmax_commands", "fetch", "softmax", 64, "command"),
    queue("weights", "load", "array", 64, "beat"),
    queue("rows", "load", "drain", 64, "beat"),
    queue("gains", "load", "norm", 256, "beat"),
    queue("sums", "array", "drain", 32, "L s27"),
    queue("moments", "drain", "norm", 0, "L (s27, u41)"),
    queue("maxima", "array", "softmax", 512, "E s24"),
    queue("scales", "softmax", "drain", 1024, "(r, p, residue)"),
    queue("logits", "drain", "store", 64, "s32"),
    queue("checks", "load", "store", 4, "bit"),
    queue("load_to_array", "load", "array", 2, "credit"),
    // After a reset `input` is free.
    Queue {
        initial: 1,
        ..queue("array_to_load", "array", "load", 2, "credit")
    },
    queue("drain_to_array", "drain", "array", 1024, "credit"),
    queue("norm_to_array", "norm", "array", 2048, "credit"),
    queue("softmax_to_array", "softmax", "array", 4, "credit"),
];

/// Returns the depth of `moments`: room for all groups of a frame, so that the drain never waits
/// for a norm. The words of a score bank bound the tokens of a network.
pub fn moments_depth(hardware: &Hardware) -> usize {
    let c = hardware.configuration();
    let tiles = c.buffers.score.div_ceil(c.array.tokens);
    let groups = c.array.tokens.div_ceil(c.lanes.requantize);
    (tiles * groups).next_power_of_two() as usize
}

const fn queue(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    depth: usize,
    item: &'static str,
) -> Queue {
    Queue {
        name,
        from,
        to,
        depth,
        item,
        initial: 0,
    }
}
