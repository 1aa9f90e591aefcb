//! Commands, registers, queues and limits of the accelerator: the one declaration.
//!
//! The C++ header, the tables of `docs/accelerator.md` and the disassembly come from here. A command is eight 32-bit words: the unit (3 bits),
//! the operation (3 bits), then its fields in order, each within one word (a field that would cross a word's end starts the
//! next; a field of more than 32 bits starts a word and takes two); the eighth is its check in memory ([`sealed`]). Depends on
//! [`quasar_core::error`].

use quasar_core::error::{Error, Result};

/// Version of commands, registers and memory formats. A bitstream of another version is refused.
pub const ABI: u32 = 2;
/// 32-bit words of a command.
pub const COMMAND_WORDS: usize = 8;
/// Bytes of a command.
pub const COMMAND_BYTES: usize = 4 * COMMAND_WORDS;
/// The word of a command that has its check; no field reaches it.
pub const CHECK_WORD: usize = COMMAND_WORDS - 1;
/// What an identity begins with ("QVIT").
pub const MAGIC: u32 = 0x5156_4954;
/// Bytes that one AXI port gives a beat.
pub const PORT_BYTES: usize = 16;
/// Bytes of a row's parameters.
pub const ROW_BYTES: usize = 16;

/// A unit of the accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Unit {
    /// Reads memory.
    Load = 0,
    /// Multiplies.
    Array = 1,
    /// Requantizes and stores.
    Drain = 2,
    /// Normalises.
    Norm = 3,
    /// Exponentials.
    Softmax = 4,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 5] = [
        Self::Load,
        Self::Array,
        Self::Drain,
        Self::Norm,
        Self::Softmax,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Array => "array",
            Self::Drain => "drain",
            Self::Norm => "norm",
            Self::Softmax => "softmax",
        }
    }
}

/// A field of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its bits.
    pub bits: u32,
    /// Whether it is in two's complement.
    pub signed: bool,
    /// What it says.
    pub about: &'static str,
}

/// Where a field stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first word.
    pub word: usize,
    /// The lowest bit.
    pub lsb: u32,
}

/// A command's declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name.
    pub name: &'static str,
    /// The unit that runs it.
    pub unit: Unit,
    /// Its code among the unit's operations.
    pub code: u32,
    /// What it does.
    pub about: &'static str,
    /// Its fields, in order.
    pub fields: &'static [Field],
}

/// Bits of the unit and of the operation, each.
pub const HEAD_BITS: u32 = 3;

impl Operation {
    /// Where each field stands.
    ///
    /// # Panics
    /// Where the fields exceed a command.
    pub fn places(&self) -> Vec<Place> {
        let (mut word, mut lsb) = (0, 2 * HEAD_BITS);
        let places: Vec<Place> = self
            .fields
            .iter()
            .map(|field| {
                if lsb + field.bits > 32 {
                    (word, lsb) = (word + usize::from(lsb > 0), 0);
                }
                let place = Place { word, lsb };
                let end = lsb + field.bits;
                (word, lsb) = (word + (end / 32) as usize, end % 32);
                place
            })
            .collect();
        assert!(word < CHECK_WORD || (word == CHECK_WORD && lsb == 0));
        places
    }
}

/// Declares the commands: for each a struct with its fields, and the list of their declarations.
macro_rules! commands {
    ($(
        #[doc = $about:literal]
        $unit:ident $code:literal $name:ident {
            $( #[doc = $doc:literal] $field:ident : $type:ident $bits:literal, )*
        }
    )*) => {
        $(
            #[doc = $about]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct $name { $( #[doc = $doc] pub $field: $type, )* }

            #[allow(clippy::unnecessary_cast, clippy::cast_lossless, unused_mut, unused_variables)]
            impl $name {
                fn get(self) -> Vec<i64> {
                    vec![$( self.$field as i64, )*]
                }
                fn set(values: &[i64]) -> Self {
                    let mut values = values.iter();
                    Self { $( $field: values.next().copied().unwrap_or_default() as $type, )* }
                }
            }

            impl From<$name> for Command {
                fn from(command: $name) -> Self { Self::$name(command) }
            }
        )*

        /// A command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Command { $( #[doc = $about] $name($name), )* }

        /// All commands, declared.
        pub const OPERATIONS: &[Operation] = &[$(
            Operation {
                name: stringify!($name),
                unit: Unit::$unit,
                code: $code,
                about: $about,
                fields: &[$( Field {
                    name: stringify!($field),
                    bits: $bits,
                    signed: stringify!($type).as_bytes()[0] == b'i',
                    about: $doc,
                }, )*],
            },
        )*];

        impl Command {
            fn parts(self) -> (&'static str, Vec<i64>) {
                match self { $( Self::$name(command) => (stringify!($name), command.get()), )* }
            }
            fn build(name: &str, values: &[i64]) -> Option<Self> {
                match name { $( stringify!($name) => Some(Self::$name($name::set(values))), )* _ => None }
            }
        }
    };
}

commands! {
    /// Moves beats of memory, and one for the check, to a unit.
    Load 0 Load {
        /// Where they go: 0 weights, 1 row parameters, 2 gains, 3 GELU table, 4 residual, 5 patches.
        target: u32 3,
        /// 1: `address` counts from the frame's input, 0: from the arena.
        input: u32 1,
        /// 1: take a token of the array first (the memory of patches is free).
        wait_array: u32 1,
        /// 1: give the array a token afterwards.
        post_array: u32 1,
        /// Frame slot that a failed check is charged to.
        frame: u32 1,
        /// Beats, without the check.
        beats: u32 24,
        /// First beat.
        address: u32 32,
    }
    /// Ends a frame's transfers: tells the store whether all were sound.
    Load 1 LoadEnd {
        /// Frame slot.
        frame: u32 1,
    }
    /// Multiplies activations by weights.
    Array 0 Gemm {
        /// Activations: 0 `input`, 1 `normed`, 2 `query`, 3 `hidden`.
        source: u32 2,
        /// Frame slot of `normed`.
        frame: u32 1,
        /// 1: take a token of load first.
        wait_load: u32 1,
        /// 1: take a norm token before each tile of tokens of the first tile of row pairs.
        wait_norm: u32 1,
        /// 1: the same with the drain's.
        wait_drain_tiles: u32 1,
        /// Drain tokens to take first.
        wait_drain: u32 8,
        /// 1: give load a token at the end.
        post_load: u32 1,
        /// Tokens, from 0 on.
        tokens: u32 11,
        /// Columns K; words between two tiles of tokens.
        columns: u32 13,
        /// Columns of a pass.
        pass: u32 13,
        /// 4-bit rows.
        rows4: u32 16,
        /// 8-bit rows.
        rows8: u32 16,
    }
    /// Scores of a unit: queries by keys.
    Array 1 Scores {
        /// Score buffer.
        parity: u32 1,
        /// Drain tokens to take first.
        wait_drain: u32 8,
        /// Tile of tokens.
        tile: u32 11,
        /// Tokens in the tile.
        tokens: u32 11,
        /// Keys N.
        keys: u32 11,
        /// Dimensions of the head.
        columns: u32 8,
        /// First dimension of the head.
        base: u32 13,
        /// Dimensions of all heads I.
        stride: u32 13,
    }
    /// Context of a unit: probabilities by values.
    Array 2 Context {
        /// Probability buffer.
        parity: u32 1,
        /// Drain tokens to take first.
        wait_drain: u32 8,
        /// Tile of tokens.
        tile: u32 11,
        /// Tokens in the tile.
        tokens: u32 11,
        /// Keys N.
        keys: u32 11,
        /// Dimensions of the head.
        rows: u32 8,
        /// First dimension of the head.
        base: u32 13,
        /// Columns of a pass.
        pass: u32 11,
    }
    /// Stores a `Gemm`'s rows.
    Drain 0 Rows {
        /// 0 codes, 1 residual, 2 logits.
        kind: u32 2,
        /// Frame slot of the residual.
        frame: u32 1,
        /// 1: codes go through GELU's table.
        table: u32 1,
        /// 1: send the moments.
        moments: u32 1,
        /// 1: a token to the array for each tile of tokens of the last tile of row pairs.
        post_tiles: u32 1,
        /// 1: a token to the array at the end.
        post: u32 1,
        /// Tokens, from 0 on.
        tokens: u32 11,
        /// Zero point of codes.
        zero_point: i32 8,
        /// Tokens below it keep their residual.
        skip: u32 11,
        /// Words between two tiles of tokens in the destination.
        stride: u32 13,
        /// 4-bit rows.
        rows4: u32 16,
        /// 8-bit rows.
        rows8: u32 16,
        /// round(2^20/N), for the means of value columns.
        reciprocal: u32 21,
    }
    /// Stores a `Context`'s rows in `query`.
    Drain 1 Attend {
        /// 1: a token to the array at the end.
        post: u32 1,
        /// Tile of tokens.
        tile: u32 11,
        /// Tokens in the tile.
        tokens: u32 11,
        /// Dimensions of the head.
        rows: u32 8,
        /// First dimension of the head.
        base: u32 13,
        /// Dimensions of all heads I.
        stride: u32 13,
    }
    /// Fills the residual from memory.
    Drain 2 Fill {
        /// Frame slot.
        frame: u32 1,
        /// Words.
        words: u32 20,
    }
    /// Takes GELU's table from memory.
    Drain 3 Table {
    }
    /// `LayerNorm`, with pooling for the head.
    Norm 0 LayerNorm {
        /// Frame slot.
        frame: u32 1,
        /// 0 none, 1 mean before, 2 mean after.
        pool: u32 2,
        /// Output shift f.
        frac: u32 4,
        /// Tokens, from 0 on.
        tokens: u32 11,
        /// First token of the mean.
        first: u32 11,
        /// Embedding size D.
        embed: u32 11,
        /// E.
        epsilon: u64 50,
    }
    /// Probabilities of a unit.
    Softmax 0 Softmax {
        /// Score and probability buffer.
        parity: u32 1,
        /// Tokens.
        tokens: u32 11,
        /// Keys N.
        keys: u32 11,
        /// po.
        out_shift: u32 5,
        /// Mo.
        out_mult: u32 15,
        /// Multiplier of logits.
        mult: u32 25,
        /// Largest difference of logits.
        cap: u32 31,
    }
}

impl Command {
    /// Its declaration.
    ///
    /// # Panics
    /// Never: each has one.
    pub fn operation(self) -> &'static Operation {
        let (name, _) = self.parts();
        OPERATIONS
            .iter()
            .find(|o| o.name == name)
            .expect("each command is declared")
    }

    /// The unit that runs it.
    pub fn unit(self) -> Unit {
        self.operation().unit
    }

    /// Its fields' values, in order.
    pub fn values(self) -> Vec<i64> {
        self.parts().1
    }

    /// As words, without a check.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] names a value that its field does not hold.
    pub fn encode(self) -> Result<[u32; COMMAND_WORDS]> {
        let (operation, values) = (self.operation(), self.values());
        let mut words = [0; COMMAND_WORDS];
        words[0] = operation.unit as u32 | operation.code << HEAD_BITS;
        for ((field, place), value) in operation.fields.iter().zip(operation.places()).zip(values) {
            let least = if field.signed {
                -(1 << (field.bits - 1))
            } else {
                0
            };
            let most = (1i64 << (field.bits - u32::from(field.signed))) - 1;
            if !(least..=most).contains(&value) {
                return Err(Error::DoesNotFit {
                    what: format!("command {}: field {}", operation.name, field.name),
                    needed: value.unsigned_abs(),
                    available: most as u64,
                    unit: "as its largest value",
                });
            }
            let bits = (value as u64 & ((1u64 << field.bits) - 1)) << place.lsb;
            words[place.word] |= bits as u32;
            if field.bits > 32 {
                words[place.word + 1] |= (bits >> 32) as u32;
            }
        }
        Ok(words)
    }

    /// From words without a check; bits that no field takes must be 0.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for an operation that does not exist, or stray bits.
    ///
    /// # Panics
    /// Never: every operation of the list can be built.
    pub fn decode(words: &[u32; COMMAND_WORDS]) -> Result<Self> {
        let mask = (1 << HEAD_BITS) - 1;
        let (unit, code) = (words[0] & mask, words[0] >> HEAD_BITS & mask);
        let operation = OPERATIONS
            .iter()
            .find(|o| o.unit as u32 == unit && o.code == code)
            .ok_or_else(|| {
                Error::InvalidValue(format!(
                    "command word 0x{:08x}: unit {unit} has no operation {code}",
                    words[0]
                ))
            })?;
        let values: Vec<i64> = operation
            .fields
            .iter()
            .zip(operation.places())
            .map(|(field, Place { word, lsb })| {
                let high = if field.bits > 32 {
                    u64::from(words[word + 1]) << 32
                } else {
                    0
                };
                let raw = (high | u64::from(words[word])) >> lsb & ((1 << field.bits) - 1);
                let unused = 64 - field.bits;
                if field.signed {
                    (raw << unused) as i64 >> unused
                } else {
                    raw as i64
                }
            })
            .collect();
        let command = Self::build(operation.name, &values).expect("declared above");
        if command.encode()? != *words {
            return Err(Error::InvalidValue(format!(
                "command {}: bits are set that no field takes",
                operation.name
            )));
        }
        Ok(command)
    }
}

/// A queue between two units, or from one to memory's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name in the sources.
    pub name: &'static str,
    /// Who writes.
    pub from: &'static str,
    /// Who reads.
    pub to: &'static str,
    /// Items that it holds; 0: as many as the configuration's largest network has groups of tokens ([`moments_depth`]).
    pub depth: usize,
    /// What an item is.
    pub item: &'static str,
}

/// All queues. Depths are what the verifier and the simulation hold lists to, and what the block design builds.
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
    queue("scales", "softmax", "drain", 1024, "(r, p, lost)"),
    queue("logits", "drain", "store", 64, "s32"),
    queue("checks", "load", "store", 4, "bit"),
    queue("load_to_array", "load", "array", 2, "token"),
    queue("array_to_load", "array", "load", 2, "token"),
    queue("drain_to_array", "drain", "array", 1024, "token"),
    queue("norm_to_array", "norm", "array", 2048, "token"),
    queue("softmax_to_array", "softmax", "array", 4, "token"),
];

/// Depth of `moments`: all groups of a frame, so that the drain never waits for a norm. `score` words are the most tokens that a
/// configuration runs.
pub const fn moments_depth(tokens: usize, lanes: usize, score: usize) -> usize {
    (score.div_ceil(tokens) * tokens.div_ceil(lanes)).next_power_of_two()
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
    }
}

/// A register of a control interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// `block_NAME`.
    pub name: &'static str,
    /// Offset from the accelerator's base.
    pub offset: u32,
    /// Whether the host writes it.
    pub writable: bool,
    /// What it holds.
    pub about: &'static str,
}

/// Bytes between two blocks of registers: `fetch`, `store`, `load`, `reset`.
pub const BLOCK_BYTES: u32 = 0x1_0000;
/// Bytes of all registers.
pub const REGISTER_BYTES: u32 = 4 * BLOCK_BYTES;
/// AXI ports of load, at most.
pub const MAX_PORTS: usize = 4;
/// `AP_CTRL`: start.
pub const AP_START: u32 = 1;
/// `AP_CTRL`: done, cleared by reading.
pub const AP_DONE: u32 = 2;
/// `AP_CTRL`: idle.
pub const AP_IDLE: u32 = 4;
/// `AP_CTRL`: ready for the next start.
pub const AP_READY: u32 = 8;

/// All registers. Offsets within a block are those that the HLS pragmas state.
pub const REGISTERS: &[Register] = &[
    register(
        "fetch_CTRL",
        0x0_0000,
        true,
        "AP_CTRL: start 1, done 2, idle 4, ready 8",
    ),
    register("fetch_GIE", 0x0_0004, true, "global interrupt enable"),
    register(
        "fetch_IER",
        0x0_0008,
        true,
        "interrupt enable: done 1, ready 2",
    ),
    register(
        "fetch_ISR",
        0x0_000c,
        true,
        "interrupt status; writing 1 toggles",
    ),
    register(
        "fetch_COMMANDS",
        0x0_0010,
        true,
        "address of the segment's commands, 64 bits",
    ),
    register(
        "fetch_COUNT",
        0x0_001c,
        true,
        "its commands; 0 only reports the identity",
    ),
    register(
        "fetch_INPUT",
        0x0_0024,
        true,
        "first beat of the frame's patches",
    ),
    register(
        "fetch_SEED",
        0x0_002c,
        true,
        "what the check of the segment's first command goes on from",
    ),
    register("fetch_MAGIC", 0x0_0040, false, "\"QVIT\""),
    register("fetch_ABI", 0x0_0050, false, "version of this table"),
    register(
        "fetch_HASH_LOW",
        0x0_0060,
        false,
        "configuration hash, low word",
    ),
    register(
        "fetch_HASH_HIGH",
        0x0_0070,
        false,
        "configuration hash, high word",
    ),
    register(
        "fetch_ERROR",
        0x0_0080,
        false,
        "1 + index of the first command of the segment that fails its check or has no unit; 0: none",
    ),
    register(
        "store_CTRL",
        0x1_0000,
        true,
        "AP_CTRL: start 1, done 2, idle 4, ready 8",
    ),
    register("store_GIE", 0x1_0004, true, "global interrupt enable"),
    register(
        "store_IER",
        0x1_0008,
        true,
        "interrupt enable: done 1, ready 2",
    ),
    register(
        "store_ISR",
        0x1_000c,
        true,
        "interrupt status; writing 1 toggles",
    ),
    register(
        "store_OUTPUT",
        0x1_0010,
        true,
        "address of the output slot, 64 bits",
    ),
    register("store_COUNT", 0x1_001c, true, "logits"),
    register("store_TAG", 0x1_0024, true, "what the trailer repeats"),
    register(
        "load_CTRL",
        0x2_0000,
        true,
        "AP_CTRL: start 1; once after each reset, when the arena's addresses are there",
    ),
    register(
        "load_ARENA0",
        0x2_0010,
        true,
        "address of stripe 0 of the arena, 64 bits",
    ),
    register(
        "load_ARENA1",
        0x2_001c,
        true,
        "stripe 1, where there are two AXI ports or more",
    ),
    register("load_ARENA2", 0x2_0028, true, "stripe 2"),
    register("load_ARENA3", 0x2_0034, true, "stripe 3"),
    register("reset", 0x3_0000, true, "bit 0: hold all kernels in reset"),
];

const fn register(
    name: &'static str,
    offset: u32,
    writable: bool,
    about: &'static str,
) -> Register {
    Register {
        name,
        offset,
        writable,
        about,
    }
}

/// The check of a transfer: the sum of its 32-bit words, each rotated left by its index mod 31.
pub fn check(words: impl IntoIterator<Item = u32>) -> u32 {
    words
        .into_iter()
        .zip((0..31).cycle())
        .fold(0, |sum: u32, (word, turn)| {
            sum.wrapping_add(word.rotate_left(turn))
        })
}

/// A segment's commands as they stand in memory. Each has in [`CHECK_WORD`] the [`check`] of the eighth word of the command before it (of
/// the first command: `seed`) and of its own seven others. So fetch knows before it hands a command on that the command is the one that was
/// written for this place behind those that it has handed on; a seed of its own tells a segment from every other.
pub fn sealed(
    commands: impl IntoIterator<Item = [u32; COMMAND_WORDS]>,
    seed: u32,
) -> Vec<[u32; COMMAND_WORDS]> {
    let mut before = seed;
    commands
        .into_iter()
        .map(|mut words| {
            before = check(std::iter::once(before).chain(words[..CHECK_WORD].iter().copied()));
            words[CHECK_WORD] = before;
            words
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_their_words() {
        for operation in OPERATIONS {
            for extreme in [0, 1] {
                let values: Vec<i64> = operation
                    .fields
                    .iter()
                    .map(|f| match (f.signed, extreme) {
                        (true, 0) => -(1 << (f.bits - 1)),
                        (false, 0) => 0,
                        (signed, _) => (1 << (f.bits - u32::from(signed))) - 1,
                    })
                    .collect();
                let command = Command::build(operation.name, &values).unwrap();
                assert_eq!(command.values(), values, "{}", operation.name);
                let words = command.encode().unwrap();
                assert_eq!(Command::decode(&words).unwrap(), command);
            }
        }
    }

    #[test]
    fn what_no_command_says_is_refused() {
        assert!(Command::decode(&[7; COMMAND_WORDS]).is_err());
        let mut words = Command::from(LoadEnd::default()).encode().unwrap();
        words[7] = 1;
        assert!(Command::decode(&words).is_err());
        let command = Command::from(Fill { frame: 2, words: 1 });
        assert!(command
            .encode()
            .unwrap_err()
            .to_string()
            .contains("field frame"));
    }

    #[test]
    fn a_command_has_the_check_of_all_that_stands_before_it() {
        let commands: Vec<_> = (0..6u32)
            .map(|i| {
                let fill = Fill {
                    frame: i % 2,
                    words: 77 * i,
                };
                Command::from(fill).encode().unwrap()
            })
            .collect();
        let found = sealed(commands.iter().copied(), 0x1234);
        let mut before = 0x1234_u32;
        for (command, found) in commands.iter().zip(&found) {
            assert_eq!(found[..CHECK_WORD], command[..CHECK_WORD]);
            let turned = (1..).zip(&command[..CHECK_WORD]);
            before = turned.fold(before, |sum, (turn, word)| {
                sum.wrapping_add(word.rotate_left(turn))
            });
            assert_eq!(found[CHECK_WORD], before);
        }
        let checks = |list: Vec<[u32; COMMAND_WORDS]>| list.iter().map(|c| c[CHECK_WORD]).collect();
        let checks: Vec<Vec<u32>> = [0x1234, 0x1235]
            .map(|s| checks(sealed(commands.clone(), s)))
            .into();
        assert!(checks[0].iter().zip(&checks[1]).all(|(a, b)| a != b));
    }

    #[test]
    fn units_operations_and_registers_are_distinct() {
        let mut codes: Vec<_> = OPERATIONS.iter().map(|o| (o.unit, o.code)).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), OPERATIONS.len());
        let mut offsets: Vec<_> = REGISTERS.iter().map(|r| r.offset).collect();
        offsets.dedup();
        assert_eq!(offsets.len(), REGISTERS.len());
    }

    #[test]
    fn a_check_notices_exchanged_and_missing_words() {
        let words: Vec<u32> = (0..100u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let mut swapped = words.clone();
        swapped.swap(3, 4);
        assert_ne!(check(words.iter().copied()), check(swapped));
        assert_ne!(
            check(words.iter().copied()),
            check(words[..99].iter().copied())
        );
    }
}
