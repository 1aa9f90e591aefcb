//! Describes the commands: the steps that a unit takes for each, in order.
//!
//! | module | commands |
//! |---|---|
//! | `load` | `Load`, `LoadEnd` |
//! | `array` | `Gemm`, `Scores`, `Context` |
//! | `plan` | the passes of a product, as the kernel `plan` makes their descriptors |
//! | `drain` | `Rows`, `Attend`, `Fill`, `Table` |
//! | `norm` | `LayerNorm` |
//! | `softmax` | `Softmax` |
//! | `store` | the end of a frame, which has no command |
//!
//! [`steps`] lists a command's steps. [`crate::run`] walks them three times: one run checks
//! order and places, one clocks them, one computes values. A unit of the chip overlaps steps that
//! stand one after the other here (a kernel is several processes), and so can do more than these
//! steps allow, never less. `fpga/src/` and the testbenches are written independently and tested
//! against these runs. Depends on [`crate::isa`] and [`crate::shape`].

mod array;
mod drain;
mod load;
mod norm;
mod plan;
mod softmax;
mod store;

use quasar_hardware::tiling::RowTile;

pub use self::drain::results;
pub use self::plan::{Leaves, Pass};
pub use self::store::frame_end;
use crate::isa::{same_name, Command, Target, QUEUES, ROW_BYTES};
use crate::shape::Shape;

/// Declares the queues that steps name, each with its name in [`QUEUES`].
macro_rules! queue_names {
    ($( $(#[$doc:meta])* $name:ident $declared:literal, )*) => {
        /// A queue that steps take from or give to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum QueueName { $( $(#[$doc])* $name, )* }

        impl QueueName {
            /// All names.
            pub const ALL: [Self; [$( $declared, )*].len()] = [$( Self::$name, )*];

            /// Returns the queue's index in [`QUEUES`].
            pub const fn index(self) -> usize {
                const INDICES: [usize; QueueName::ALL.len()] = [$( queue_index($declared), )*];
                INDICES[self as usize]
            }
        }
    };
}

queue_names! {
    /// Beats of weights.
    Weights "weights",
    /// Beats of row parameters, of tables and of residuals.
    Rows "rows",
    /// Beats of gains.
    Gains "gains",
    /// L sums.
    Sums "sums",
    /// Moments of L tokens.
    Moments "moments",
    /// Largest scores of E tokens.
    Maxima "maxima",
    /// Scale of a token's attention output.
    Scales "scales",
    /// A logit.
    Logits "logits",
    /// Checks of a frame's transfers.
    Checks "checks",
    /// Credits: the patches are in `input`.
    LoadToArray "load_to_array",
    /// Credits: `input` may be written.
    ArrayToLoad "array_to_load",
    /// Credits: results are stored.
    DrainToArray "drain_to_array",
    /// Credits: normalised tokens are stored.
    NormToArray "norm_to_array",
    /// Credits: probabilities are stored.
    SoftmaxToArray "softmax_to_array",
}

impl QueueName {
    /// Returns true if the items are credits.
    pub const fn holds_credits(self) -> bool {
        matches!(
            self,
            Self::LoadToArray
                | Self::ArrayToLoad
                | Self::DrainToArray
                | Self::NormToArray
                | Self::SoftmaxToArray
        )
    }

    /// Returns true if an item orders memory accesses: the writer's before it come before the
    /// reader's after it.
    pub const fn orders(self) -> bool {
        self.holds_credits() || matches!(self, Self::Sums | Self::Moments | Self::Maxima)
    }
}

/// Returns the index of a queue in [`QUEUES`].
pub(crate) const fn queue_index(name: &str) -> usize {
    let mut at = 0;
    while at < QUEUES.len() {
        if same_name(QUEUES[at].name, name) {
            return at;
        }
        at += 1;
    }
    panic!("no such queue");
}

/// An on-chip memory; the number is the frame's slot or the attention tile's parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Patches.
    Input,
    /// The residual.
    Residual(u32),
    /// Normalised tokens.
    Normed(u32),
    /// Queries, then the attention's output.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Scores.
    Score(u32),
    /// Probabilities.
    Probability(u32),
    /// The MLP's hidden codes.
    Hidden,
    /// Means of the value columns, in the drain.
    Mean,
    /// GELU's table, in the drain.
    Table,
    /// Angles of the rotary positions, in the drain.
    Angles,
}

impl Memory {
    /// Number of memories.
    pub const COUNT: usize = 16;

    /// Returns a number below [`Self::COUNT`].
    pub const fn index(self) -> usize {
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
            Self::Angles => 15,
        }
    }
}

/// Contents of a queue's items or of a memory's cells, with the sizes that writer and reader must
/// agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contents {
    /// Nothing yet.
    #[default]
    Empty,
    /// Beats of a transfer.
    Transfer { target: Target, beats: u32 },
    /// The patches whose transfer begins with this beat of the input.
    PatchesAt { address: u32 },
    /// The patches from this tile of tokens on.
    Patches { tile: u32 },
    /// `input` may be written.
    InputFree,
    /// A transfer of the arena has ended. No unit takes this credit: to give it is a fault.
    Loaded,
    /// Results are stored.
    Stored,
    /// Sums of a tile of row pairs for a tile of tokens.
    Sums {
        rows: RowTile,
        tile: u32,
        tokens: u32,
    },
    /// Sums of an attention tile's output.
    ContextSums(Head),
    /// Moments of a tile of tokens.
    Moments { tile: u32, tokens: u32 },
    /// Largest scores of an attention tile.
    Maxima(Head),
    /// Scores of an attention tile.
    Scores(Head),
    /// Probabilities of an attention tile.
    Probabilities(Head),
    /// Scales of an attention tile's output.
    Scales(Head),
    /// Queries.
    Queries { stride: u32 },
    /// Keys.
    Keys { stride: u32 },
    /// Values of all tokens.
    Values { tokens: u32 },
    /// Means of the value columns.
    Means { stride: u32 },
    /// The attention's output.
    Context { stride: u32 },
    /// Hidden codes of a band of tokens.
    Hidden { stride: u32, tile: u32 },
    /// The residual as a `Fill` leaves it.
    Filled,
    /// The residual of a phase.
    Residual,
    /// Normalised tokens.
    Normed,
    /// GELU's table.
    Table,
    /// Angles, the same for all frames.
    Angles,
    /// Logits of a head; `later`: heads of the same frame that follow.
    Logits { later: u16 },
    /// Checks of a frame's transfers.
    Check,
}

/// An attention tile: a head of a tile of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Tokens in the tile.
    pub tokens: u32,
    /// Keys, or 0 where a command does not state them.
    pub keys: u32,
    /// The tile of tokens, the head's first dimension and its dimensions. `Softmax` does not state
    /// them: it works on the tile whose maxima it takes.
    pub place: Option<[u32; 3]>,
}

/// Cells of a memory. A cell is a column of a tile of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The memory.
    pub memory: Memory,
    /// First cell.
    pub first: usize,
    /// Number of cells.
    pub count: usize,
    /// From one cell to the next.
    pub every: usize,
    /// Tokens of the tile.
    pub tokens: u32,
    /// Contents.
    pub contents: Contents,
}

impl Range {
    pub(crate) fn new(
        memory: Memory,
        first: usize,
        count: usize,
        tokens: u32,
        contents: Contents,
    ) -> Self {
        Self {
            memory,
            first,
            count,
            every: 1,
            tokens,
            contents,
        }
    }

    /// Returns the cells.
    pub fn cells(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |i| self.first + i * self.every)
    }
}

/// The content of one of the two buffers of a double buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferHalf {
    /// The queue that it arrives in.
    pub queue: QueueName,
    /// Beats in which it arrives.
    pub beats: u64,
    /// Words that are written, at most one a cycle.
    pub words: u64,
    /// Bytes of a word.
    pub word_bytes: u64,
}

impl BufferHalf {
    /// Returns the content of `words` words, in beats of `beat` bytes.
    pub const fn new(queue: QueueName, words: u64, word_bytes: u64, beat: u64) -> Self {
        Self {
            queue,
            beats: (words * word_bytes).div_ceil(beat),
            words,
            word_bytes,
        }
    }

    /// Returns the contents of the beats.
    pub const fn contents(&self) -> Contents {
        let target = match self.queue {
            QueueName::Weights => Target::Weights,
            QueueName::Rows => Target::Parameters,
            _ => Target::Gains,
        };
        Contents::Transfer {
            target,
            beats: self.beats as u32,
        }
    }
}

/// A pass of a product, with its place in the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductPass {
    /// The pass, as the array sees it.
    pub pass: Pass,
    /// First row of the tile of row pairs.
    pub row: usize,
    /// First column of the pass, and columns.
    pub columns: (usize, usize),
    /// Tokens of the tile.
    pub tokens: usize,
}

/// A step of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Takes items from a queue.
    Take(QueueName, usize, Contents),
    /// Gives items to a queue.
    Give(QueueName, usize, Contents),
    /// Takes a full buffer of a double buffer.
    TakeHalf(BufferHalf),
    /// Gives back the buffer that was taken last.
    FreeHalf(QueueName),
    /// Moves the beats of a `Load` from memory to a queue, or to `input` (none), then takes the
    /// beat with their check.
    Transfer(Option<QueueName>),
    /// Reads a memory.
    Read(Range),
    /// Writes a memory.
    Write(Range),
    /// Multiplies.
    Pass(ProductPass),
    /// Requantizes the sums that were taken last. Of `Rows`: with the parameters that were taken
    /// last, and stores the results ([`results`]); a logit is given when its sum has been taken.
    Requantize {
        /// Tile of tokens, from the command's first on.
        tile: usize,
        /// Tokens of the tile.
        tokens: usize,
    },
    /// Turns of the lanes that rotate the pair of rows whose sums were taken last: four for each
    /// group of tokens.
    Turns {
        /// Groups of tokens.
        groups: usize,
    },
    /// Normalises tokens of a tile, or their mean.
    Normalise {
        /// Tile of tokens.
        tile: usize,
        /// Tokens of the tile.
        tokens: usize,
    },
    /// Computes the mean of tokens.
    Pool,
    /// Computes the exponentials of some tokens of an attention tile.
    Exponentials {
        /// First token.
        first: usize,
        /// Tokens.
        tokens: usize,
    },
    /// Waits for the bounds of the next loop, which HLS evaluates between two loops: a step of
    /// time alone. Loops whose gap counts as work have none.
    EndLoop,
}

/// The steps of a command, without those that move nothing. A vector: to run through the nested
/// iterators once is faster than to ask them for step after step.
pub type Steps = std::vec::IntoIter<Step>;

/// Lists the steps of a command on its unit.
pub fn steps(command: Command, shape: Shape) -> Steps {
    fn all(steps: impl Iterator<Item = Step>) -> Steps {
        let mut all = Vec::new();
        steps.for_each(|step| {
            if !matches!(step, Step::Take(_, 0, _) | Step::Give(_, 0, _)) {
                all.push(step);
            }
        });
        all.into_iter()
    }
    match command {
        Command::Load(c) => all(load::load(c, shape)),
        Command::LoadEnd(_) => all(load::end()),
        Command::Gemm(c) => all(array::gemm(c, shape)),
        Command::Scores(c) => all(array::scores(c, shape)),
        Command::Context(c) => all(array::context(c, shape)),
        Command::Rows(c) => all(drain::rows(c, shape)),
        Command::Attend(c) => all(drain::attend(c, shape)),
        Command::Fill(c) => all(drain::fill(c, shape)),
        Command::Table(c) => all(drain::table(c, shape)),
        Command::LayerNorm(c) => all(norm::layer_norm(c, shape)),
        Command::Softmax(c) => all(softmax::softmax(c, shape)),
    }
}

/// Counts the credits that a command of the drain gives the array.
pub fn credits(command: Command, shape: Shape) -> u32 {
    let given = steps(command, shape).map(|step| match step {
        Step::Give(QueueName::DrainToArray, count, _) => count as u32,
        _ => 0,
    });
    given.sum()
}

impl Shape {
    /// Divides the rows of a matrix into tiles of row pairs; each comes after its first row.
    pub(crate) fn numbered_row_tiles(
        self,
        rows4: u32,
        rows8: u32,
    ) -> impl Iterator<Item = (usize, RowTile)> {
        self.row_tiles(rows4, rows8).scan(0, |next, rows| {
            let row = *next;
            *next += rows.rows() as usize;
            Some((row, rows))
        })
    }

    /// Returns the buffer's content for the parameters of some rows.
    const fn parameters_half(&self, rows: u64) -> BufferHalf {
        BufferHalf::new(QueueName::Rows, rows, ROW_BYTES as u64, self.beat as u64)
    }
}
