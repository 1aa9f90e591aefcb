//! Declares the commands, registers and limits of the accelerator, once for all users.
//!
//! `make isa` generates the C++ header and the tables of `docs/accelerator.md` from this module;
//! the disassembly uses the same declarations. A command is eight 32-bit words: the unit (3 bits),
//! the operation (3 bits), then the fields in order. A field does not cross a word's end: it starts
//! the next word instead. A field of more than 32 bits starts a word and takes two. The first four
//! words hold all fields; units receive only these. In memory the eighth word is the command's
//! check ([`sealed`]). Depends on [`quasar_core::error`] and [`quasar_hardware`].

pub mod clocks;
mod pass;
mod registers;
mod rows;
mod values;

pub use pass::{pass_lsb, ACTIVATIONS, OPERANDS, PASS_BITS, PASS_FIELDS};
pub use quasar_hardware::design::{CountedUnit, Counter, Queue, COMMAND_BITS, QUEUES};
pub use registers::{
    counter_offset, Register, AP_DONE, AP_IDLE, AP_START, BLOCK_BYTES, COUNTERS_IDENTITY,
    COUNTERS_RUN, FIRST_COUNTER, MAX_PORTS, REGISTERS, REGISTER_BYTES, UNIT_COUNTERS_BYTES,
};
pub use rows::{RowField, RowParameters, ROW_FIELDS};
pub use values::{Destination, Form, Kind, Pooling, Source, Target, Value, Values, VALUES};

use quasar_core::error::{Error, Result};
use quasar_hardware::declared;
use quasar_hardware::design::{
    COLUMN_BITS, FILL_BITS, PAIR_BITS, RECIPROCAL_BITS, TOKEN_BITS, ZERO_POINT_BITS,
};
use values::FieldType;

/// Version of commands, registers and memory formats. The driver refuses a bitstream of another
/// version.
pub const ABI: u32 = 9;
/// Bytes of a command.
pub const COMMAND_BYTES: usize = declared::COMMAND_BYTES as usize;
/// 32-bit words of a command.
pub const COMMAND_WORDS: usize = COMMAND_BYTES / 4;
/// Words of a command that hold fields. Its unit receives only these.
pub const FIELD_WORDS: usize = (COMMAND_BITS / 32) as usize;
/// Word of a command that holds its check.
pub const CHECK_WORD: usize = COMMAND_WORDS - 1;
/// Magic number of the identity ("QVIT").
pub const MAGIC: u32 = 0x5156_4954;
/// Bytes of one AXI port's beat.
pub const PORT_BYTES: usize = 16;
/// Bytes of a row's parameters.
pub const ROW_BYTES: usize = declared::ROW_BYTES as usize;
/// Bits of the unit and of the operation, each.
pub const HEAD_BITS: u32 = 3;
/// The polynomial of a [`check`], reflected: the lowest bit is the term of degree 31, and the term
/// of degree 32 is left out.
pub const CHECK_POLYNOMIAL: u32 = 0xedb8_8320;

/// Indices of the 32-bit words of an output's trailer, its last [`PORT_BYTES`].
pub mod trailer {
    /// Nonce of the input that load read for this frame.
    pub const NONCE: usize = 0;
    /// Number of logits.
    pub const COUNT: usize = 1;
    /// Bit 0: a transfer's check failed, the number of transfers is wrong, or a command has another
    /// key.
    pub const STATUS: usize = 2;
    /// Check of all bytes before it.
    pub const CHECK: usize = 3;
}

/// Compares two names at compile time.
pub(crate) const fn same_name(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

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
    /// Computes exponentials.
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

    /// Returns the unit's name.
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
    /// Name.
    pub name: &'static str,
    /// Width in bits.
    pub bits: u32,
    /// Reading of the bits.
    pub form: Form,
    /// Meaning.
    pub about: &'static str,
}

impl Field {
    /// Returns the least and the largest number that the field holds.
    const fn range(&self) -> (i64, i64) {
        match self.form {
            Form::Signed => (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
            _ => (0, (1 << self.bits) - 1),
        }
    }
}

/// Position of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// First word.
    pub word: usize,
    /// Lowest bit.
    pub lsb: u32,
}

/// Declaration of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Name.
    pub name: &'static str,
    /// Unit that runs the command.
    pub unit: Unit,
    /// Number among the unit's operations.
    pub code: u32,
    /// Meaning.
    pub about: &'static str,
    /// Fields, in order.
    pub fields: &'static [Field],
}

/// Returns the place of a field's bits behind those up to `at`, and the place behind the field.
const fn place(at: Position, bits: u32) -> (Position, Position) {
    let mut field = at;
    if at.lsb + bits > 32 && at.lsb > 0 {
        field = Position {
            word: at.word + 1,
            lsb: 0,
        };
    }
    let end = field.lsb + bits;
    let behind = Position {
        word: field.word + (end / 32) as usize,
        lsb: end % 32,
    };
    (field, behind)
}

/// The place of a command's first field.
const FIRST_FIELD: Position = Position {
    word: 0,
    lsb: 2 * HEAD_BITS,
};

impl Operation {
    /// Returns the fields with their positions.
    pub fn fields(&self) -> Vec<(&'static Field, Position)> {
        let mut at = FIRST_FIELD;
        let fields = self.fields.iter().map(|field| {
            let (position, behind) = place(at, field.bits);
            at = behind;
            (field, position)
        });
        fields.collect()
    }

    /// Fails the build if a field has no place. The error names the command and the field, and
    /// states the spare bits of each word.
    const fn assert_places(&self) {
        let (mut at, mut number) = (FIRST_FIELD, 0);
        let mut spare = [0; FIELD_WORDS];
        while number < self.fields.len() {
            let field = &self.fields[number];
            let (position, behind) = place(at, field.bits);
            if position.word > at.word {
                spare[at.word] = 32 - at.lsb;
            }
            if behind.word * 32 + behind.lsb as usize > FIELD_WORDS * 32 {
                let mut text = Text::new();
                text.push(self.name);
                text.push(": the field ");
                text.push(field.name);
                text.push(" has no place for its bits: ");
                text.push_number(field.bits);
                text.push(". Spare bits of the words:");
                let mut word = 0;
                while word < FIELD_WORDS {
                    text.push(" ");
                    text.push_number(spare[word]);
                    word += 1;
                }
                panic!("{}", text.as_str());
            }
            at = behind;
            number += 1;
        }
    }
}

/// A message that is put together at compile time.
struct Text {
    bytes: [u8; 256],
    len: usize,
}

impl Text {
    const fn new() -> Self {
        Self {
            bytes: [0; 256],
            len: 0,
        }
    }

    const fn push(&mut self, text: &str) {
        let mut at = 0;
        while at < text.len() {
            self.bytes[self.len] = text.as_bytes()[at];
            (self.len, at) = (self.len + 1, at + 1);
        }
    }

    /// Appends a number below 100.
    const fn push_number(&mut self, number: u32) {
        if number > 9 {
            self.push_number(number / 10);
        }
        self.bytes[self.len] = b'0' + (number % 10) as u8;
        self.len += 1;
    }

    const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => "a name is no UTF-8",
        }
    }
}

const _: () = {
    let mut number = 0;
    while number < OPERATIONS.len() {
        OPERATIONS[number].assert_places();
        number += 1;
    }
};

/// Declares the commands: a struct with the fields of each, and the list of their declarations.
macro_rules! commands {
    ($(
        #[doc = $about:literal]
        $unit:ident $code:literal $name:ident($fields:ident) {
            $( #[doc = $doc:literal] $field:ident : $type:ident $bits:expr, )*
        }
    )*) => {
        $(
            #[doc = $about]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct $fields { $( #[doc = $doc] pub $field: $type, )* }

            #[allow(unused_mut, unused_variables)]
            impl $fields {
                fn codes(self) -> Vec<i64> {
                    vec![$( FieldType::code(self.$field), )*]
                }
                fn of_codes(codes: &[i64]) -> Option<Self> {
                    let mut codes = codes.iter();
                    Some(Self { $( $field: FieldType::from_code(*codes.next()?)?, )* })
                }
            }

            impl From<$fields> for Command {
                fn from(command: $fields) -> Self { Self::$name(command) }
            }
        )*

        /// A command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Command { $( #[doc = $about] $name($fields), )* }

        /// Declarations of all commands.
        pub const OPERATIONS: &[Operation] = &[$(
            Operation {
                name: stringify!($name),
                unit: Unit::$unit,
                code: $code,
                about: $about,
                fields: &[$( Field {
                    name: stringify!($field),
                    bits: $bits,
                    form: <$type as FieldType>::FORM,
                    about: $doc,
                }, )*],
            },
        )*];

        impl Command {
            fn parts(self) -> (&'static str, Vec<i64>) {
                match self { $( Self::$name(command) => (stringify!($name), command.codes()), )* }
            }
            fn build(name: &str, codes: &[i64]) -> Option<Self> {
                match name {
                    $( stringify!($name) => $fields::of_codes(codes).map(Self::$name), )*
                    _ => None,
                }
            }
        }
    };
}

commands! {
    /// Reads beats from memory, and one more with their check, and sends the beats to a unit.
    Load 0 Load(Load) {
        /// Receiver of the beats.
        target: Target 3,
        /// `address` counts from the frame's input instead of the arena's begin.
        input: bool 1,
        /// Waits for a credit of the array first: `input` may be written.
        wait_array: bool 1,
        /// At the end gives the array a credit.
        post_array: bool 1,
        /// Frame slot whose report includes the check.
        frame: u32 1,
        /// First patches of a frame: their check's key is the nonce, as for all its patches.
        begins: bool 1,
        /// Beats, without the check.
        beats: u32 24,
        /// First beat.
        address: u32 32,
        /// Seed of the arena. After a different seed, all frames are wrong until a reset.
        key: u32 32,
    }
    /// Ends a frame's transfers: reports whether their number, keys and checks were right.
    Load 1 LoadEnd(LoadEnd) {
        /// Frame slot.
        frame: u32 1,
        /// Transfers of the arena since the slot's last `LoadEnd`, modulo 2^16.
        transfers: u32 16,
    }
    /// Multiplies activations by weights.
    Array 0 Gemm(Gemm) {
        /// Memory of the activations.
        source: Source 2,
        /// Frame slot of `normed`.
        frame: u32 1,
        /// Waits for a credit of load first.
        wait_load: bool 1,
        /// Takes a credit of the norm before each tile of tokens of the first tile of row pairs.
        wait_norm: bool 1,
        /// Takes a credit of the drain before each tile of tokens of the first tile of row pairs.
        wait_drain_tiles: bool 1,
        /// Number of credits of the drain to wait for first.
        wait_drain: u32 8,
        /// At the end gives load a credit: `input` may be written.
        post_load: bool 1,
        /// Tokens, from the first of `tile` on.
        tokens: u32 TOKEN_BITS,
        /// Columns K. A tile of tokens takes ceil(K/C) words.
        columns: u32 COLUMN_BITS,
        /// Columns of a pass; more than one pass: a multiple of C.
        pass: u32 COLUMN_BITS,
        /// 4-bit rows.
        rows4: u32 16,
        /// 8-bit rows.
        rows8: u32 16,
        /// Tiles of row pairs.
        row_tiles: u32 16,
        /// First tile of tokens. `input`, `query` and `hidden` hold no earlier tiles.
        tile: u32 TOKEN_BITS,
    }
    /// Computes the scores of an attention tile: queries by keys.
    Array 1 Scores(Scores) {
        /// Score buffer.
        parity: u32 1,
        /// Number of credits of the drain to wait for first.
        wait_drain: u32 8,
        /// Tile of tokens.
        tile: u32 TOKEN_BITS,
        /// Tokens in the tile.
        tokens: u32 TOKEN_BITS,
        /// Keys N.
        keys: u32 TOKEN_BITS,
        /// Dimensions of the head.
        columns: u32 8,
        /// First dimension of the head, a multiple of C.
        base: u32 COLUMN_BITS,
        /// Dimensions of all heads, each padded to a multiple of C.
        stride: u32 COLUMN_BITS,
    }
    /// Computes the context of an attention tile: probabilities by values.
    Array 2 Context(Context) {
        /// Probability buffer.
        parity: u32 1,
        /// Number of credits of the drain to wait for first.
        wait_drain: u32 8,
        /// Tile of tokens.
        tile: u32 TOKEN_BITS,
        /// Tokens in the tile.
        tokens: u32 TOKEN_BITS,
        /// Keys N.
        keys: u32 TOKEN_BITS,
        /// Dimensions of the head.
        rows: u32 8,
        /// First dimension of the head div B'; it is a multiple of C.
        block: u32 13,
        /// The same mod B'.
        bank: u32 8,
        /// Columns of a pass; more than one pass: a multiple of C.
        pass: u32 TOKEN_BITS,
        /// Words of a pass mod B'.
        turn: u32 8,
    }
    /// Requantizes and stores the rows of a `Gemm`.
    Drain 0 Rows(RowsCommand) {
        /// Kind of the results.
        kind: Kind 2,
        /// Frame slot of the residual.
        frame: u32 1,
        /// Codes go through the activation's table.
        activation: bool 1,
        /// Sends the moments to the norm.
        moments: bool 1,
        /// Gives the array a credit after each tile of tokens in the last tile of row pairs.
        post_tiles: bool 1,
        /// At the end gives the array a credit.
        post: bool 1,
        /// Tokens, from the first of `tile` on.
        tokens: u32 TOKEN_BITS,
        /// Zero point of codes.
        zero_point: i32 ZERO_POINT_BITS,
        /// First token, of these, whose residual changes.
        skip: u32 TOKEN_BITS,
        /// Columns from one tile of tokens to the next in the destination.
        stride: u32 COLUMN_BITS,
        /// Pairs of rows of a head, if rows are rotated: all but those for `logit`.
        pairs: u32 PAIR_BITS,
        /// 4-bit rows.
        rows4: u32 16,
        /// 8-bit rows.
        rows8: u32 16,
        /// round(2^20/N), for the means of value columns.
        reciprocal: u32 RECIPROCAL_BITS,
        /// First tile of tokens. Memories of codes hold no earlier tiles.
        tile: u32 TOKEN_BITS,
    }
    /// Requantizes the rows of a `Context` and stores them in `query`.
    Drain 1 Attend(Attend) {
        /// At the end gives the array a credit.
        post: bool 1,
        /// Tile of tokens.
        tile: u32 TOKEN_BITS,
        /// Tokens in the tile.
        tokens: u32 TOKEN_BITS,
        /// Dimensions of the head.
        rows: u32 8,
        /// First dimension of the head, a multiple of C.
        base: u32 COLUMN_BITS,
        /// Dimensions of all heads, each padded to a multiple of C.
        stride: u32 COLUMN_BITS,
    }
    /// Fills the residual from memory.
    Drain 2 Fill(Fill) {
        /// Frame slot.
        frame: u32 1,
        /// Words.
        words: u32 FILL_BITS,
    }
    /// Loads the table of an activation, or angles, from memory.
    Drain 3 Table(Table) {
        /// Parts of angles, 16 bytes each; 0: the table of an activation.
        words: u32 FILL_BITS,
    }
    /// Normalises the residual; before the head, also pools.
    Norm 0 LayerNorm(LayerNorm) {
        /// Frame slot.
        frame: u32 1,
        /// Pooling.
        pool: Pooling 2,
        /// Output shift f.
        frac: u32 4,
        /// Tokens, from token 0 on.
        tokens: u32 TOKEN_BITS,
        /// First token of the mean.
        first: u32 TOKEN_BITS,
        /// Embedding size D.
        embed: u32 11,
        /// Epsilon E of the integer model.
        epsilon: u64 50,
    }
    /// Computes the probabilities of an attention tile.
    Softmax 0 Softmax(Softmax) {
        /// Score and probability buffer.
        parity: u32 1,
        /// Tokens.
        tokens: u32 TOKEN_BITS,
        /// Keys N.
        keys: u32 TOKEN_BITS,
        /// Shift po of the scale.
        out_shift: u32 5,
        /// Mantissa Mo of the scale.
        out_mult: u32 15,
        /// Multiplier of score differences.
        mult: u32 25,
        /// Largest score difference; larger ones are clamped.
        cap: u32 31,
    }
}

impl Command {
    /// Returns the declaration.
    ///
    /// # Panics
    /// Never: each command is declared.
    pub fn operation(self) -> &'static Operation {
        let (name, _) = self.parts();
        OPERATIONS
            .iter()
            .find(|o| o.name == name)
            .expect("each command is declared")
    }

    /// Returns the unit that runs the command.
    pub fn unit(self) -> Unit {
        self.operation().unit
    }

    /// Returns the numbers in the fields, in order.
    pub fn codes(self) -> Vec<i64> {
        self.parts().1
    }

    /// Returns the command as stored next to an arena with this seed. Load compares the key of each
    /// `Load` with the seed in its register.
    #[must_use]
    pub fn with_key(self, seed: u32) -> Self {
        match self {
            Self::Load(load) => Self::Load(Load { key: seed, ..load }),
            other => other,
        }
    }

    /// Encodes the command as words, without a check.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] names a value that exceeds its field.
    pub fn encode(self) -> Result<[u32; COMMAND_WORDS]> {
        let (operation, codes) = (self.operation(), self.codes());
        let mut words = [0; COMMAND_WORDS];
        words[0] = operation.unit as u32 | operation.code << HEAD_BITS;
        for ((field, Position { word, lsb }), code) in operation.fields().into_iter().zip(codes) {
            let (least, most) = field.range();
            if !(least..=most).contains(&code) {
                return Err(Error::DoesNotFit {
                    what: format!("command {}: field {}", operation.name, field.name),
                    needed: code.unsigned_abs(),
                    available: most as u64,
                    unit: "as its largest value",
                });
            }
            let bits = (code as u64 & ((1u64 << field.bits) - 1)) << lsb;
            words[word] |= bits as u32;
            if field.bits > 32 {
                words[word + 1] |= (bits >> 32) as u32;
            }
        }
        Ok(words)
    }

    /// Decodes words without a check. Bits outside the fields must be 0.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for an unknown operation or named value, or bits outside the fields.
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
        let codes: Vec<i64> = operation
            .fields()
            .into_iter()
            .map(|(field, Position { word, lsb })| {
                let high = if field.bits > 32 {
                    u64::from(words[word + 1]) << 32
                } else {
                    0
                };
                let raw = (high | u64::from(words[word])) >> lsb & ((1 << field.bits) - 1);
                let unused = 64 - field.bits;
                if field.form == Form::Signed {
                    (raw << unused) as i64 >> unused
                } else {
                    raw as i64
                }
            })
            .collect();
        let invalid =
            |problem: &str| Error::InvalidValue(format!("command {}: {problem}", operation.name));
        let command = Self::build(operation.name, &codes)
            .ok_or_else(|| invalid("a field has a value without a meaning"))?;
        if command.encode()? != *words {
            return Err(invalid("bits are set that no field takes"));
        }
        Ok(command)
    }
}

/// Returns the check of `bytes`: the CRC-32 of Ethernet and zlib.
///
/// In up to half a gigabyte it detects every change within 32 successive bits, every one or two
/// flipped bits and every swap of two words. It misses one in 2^32 of the other changes.
pub fn check(bytes: &[u8]) -> u32 {
    check_after(0, bytes)
}

/// Changes the key of a stored check. Memory holds the check XOR a key.
///
/// The key of an arena transfer is the arena's seed XOR the transfer's number in the frame. So load
/// recognises an earlier arena and exchanged transfers. The key of a frame's input is the frame's
/// nonce, which is never 0. So the host recognises the output of another input.
///
/// `by`: the old key (0: none) XOR the new key.
pub fn change_key(check: &mut [u8], by: u32) {
    for (byte, by) in check.iter_mut().zip(by.to_le_bytes()) {
        *byte ^= by;
    }
}

/// Continues the check `before` with `bytes`.
pub fn check_after(before: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(bytes);
    hasher.finalize()
}

/// Continues the check `before` of the previous command with a command's fields.
pub fn command_check(before: u32, command: &[u32; COMMAND_WORDS]) -> u32 {
    command[..FIELD_WORDS].iter().fold(before, |before, word| {
        check_after(before, &word.to_le_bytes())
    })
}

/// Adds the checks to a segment's commands, in memory format.
///
/// [`CHECK_WORD`] of a command is its [`command_check`], continued from the previous command; the
/// first command continues from `seed` XOR the number of commands. So fetch verifies, before it
/// sends a command to a unit, that the command belongs to this place in this segment and that the
/// segment has this length.
pub fn sealed(commands: &[[u32; COMMAND_WORDS]], seed: u32) -> Vec<[u32; COMMAND_WORDS]> {
    let mut before = seed ^ commands.len() as u32;
    let seal = |command: &[u32; COMMAND_WORDS]| {
        before = command_check(before, command);
        let mut command = *command;
        command[CHECK_WORD] = before;
        command
    };
    commands.iter().map(seal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_their_words() {
        for operation in OPERATIONS {
            for most in [false, true] {
                let extreme = |f: &Field| match f.form {
                    Form::Named(named) if most => i64::from(named.values.last().unwrap().code),
                    _ if most => f.range().1,
                    _ => f.range().0,
                };
                let codes: Vec<i64> = operation.fields.iter().map(extreme).collect();
                let command = Command::build(operation.name, &codes).unwrap();
                assert_eq!(command.codes(), codes, "{}", operation.name);
                let words = command.encode().unwrap();
                assert_eq!(Command::decode(&words).unwrap(), command);
            }
        }
    }

    #[test]
    fn words_that_are_no_command_are_refused() {
        assert!(Command::decode(&[7; COMMAND_WORDS]).is_err());
        let mut words = Command::from(LoadEnd::default()).encode().unwrap();
        words[7] = 1;
        assert!(Command::decode(&words).is_err());
        let mut words = Command::from(Load::default()).encode().unwrap();
        words[0] |= 6 << (2 * HEAD_BITS);
        let error = Command::decode(&words).unwrap_err().to_string();
        assert!(error.contains("without a meaning"), "{error}");
        let command = Command::from(Fill { frame: 2, words: 1 });
        assert!(command
            .encode()
            .unwrap_err()
            .to_string()
            .contains("field frame"));
    }

    /// Computes CRC-32 bit by bit.
    fn bitwise(before: u32, bytes: &[u8]) -> u32 {
        let bit = |state: u32, bit: u8| {
            let state = state ^ u32::from(bit);
            state >> 1 ^ if state & 1 == 1 { CHECK_POLYNOMIAL } else { 0 }
        };
        let bits = bytes
            .iter()
            .flat_map(|&byte| (0..8).map(move |i| byte >> i & 1));
        !bits.fold(!before, bit)
    }

    #[test]
    fn a_check_is_the_crc_of_ethernet() {
        assert_eq!(check(b"123456789"), 0xcbf4_3926);
        let bytes: Vec<u8> = (0..5000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        for length in [0, 1, 3, 16, 255, 256, 4999] {
            assert_eq!(check(&bytes[..length]), bitwise(0, &bytes[..length]));
            assert_eq!(
                check_after(77, &bytes[..length]),
                bitwise(77, &bytes[..length])
            );
        }
    }

    #[test]
    fn a_check_notices_any_three_flipped_bits() {
        // A flipped bit changes the same bits of the check, whatever the other bits are.
        let zeros = [0; 128];
        let flips: Vec<u32> = (0..8 * zeros.len())
            .map(|bit| {
                let mut bytes = zeros;
                bytes[bit / 8] ^= 1 << (bit % 8);
                check(&bytes) ^ check(&zeros)
            })
            .collect();
        let all: std::collections::HashSet<u32> = flips.iter().copied().collect();
        assert!(all.len() == flips.len() && !all.contains(&0));
        for (i, a) in flips.iter().enumerate() {
            assert!(flips[..i].iter().all(|b| !all.contains(&(a ^ b))));
        }
    }

    #[test]
    fn a_check_notices_exchanged_words_at_every_distance() {
        let words: Vec<u32> = (1..=1024u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let check_of = |words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            check(&bytes)
        };
        let sound = check_of(&words);
        for distance in 1..words.len() {
            for first in [0, (words.len() - distance) / 2, words.len() - 1 - distance] {
                let mut swapped = words.clone();
                swapped.swap(first, first + distance);
                assert_ne!(check_of(&swapped), sound, "{first}, {distance} apart");
            }
        }
        assert_ne!(check_of(&words[..1023]), sound);
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
        let found = sealed(&commands, 0x1234);
        let mut bytes = Vec::new();
        for (command, found) in commands.iter().zip(&found) {
            assert_eq!(found[..CHECK_WORD], command[..CHECK_WORD]);
            bytes.extend(
                command[..FIELD_WORDS]
                    .iter()
                    .flat_map(|word| word.to_le_bytes()),
            );
            assert_eq!(found[CHECK_WORD], bitwise(0x1234 ^ 6, &bytes));
        }
        // A different seed, then a different number of commands.
        for other in [sealed(&commands, 0x1235), sealed(&commands[..5], 0x1234)] {
            let differ = |(a, b): (&[u32; 8], &[u32; 8])| a[CHECK_WORD] != b[CHECK_WORD];
            assert!(found.iter().zip(&other).all(differ));
        }
    }

    #[test]
    fn named_values_are_numbered_in_order_and_fit_their_fields() {
        for values in VALUES {
            let codes: Vec<_> = values.values.iter().map(|v| v.code as usize).collect();
            assert_eq!(
                codes,
                (0..codes.len()).collect::<Vec<_>>(),
                "{}",
                values.name
            );
        }
        for field in OPERATIONS.iter().flat_map(|o| o.fields) {
            match field.form {
                Form::Named(named) => assert!(named.values.len() <= 1 << field.bits),
                Form::Flag => assert_eq!(field.bits, 1),
                _ => {}
            }
        }
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
    fn counters_follow_one_another_behind_the_block_s_registers() {
        let counters = CountedUnit::ALL
            .into_iter()
            .flat_map(|unit| Counter::ALL.map(|counter| counter_offset(unit, counter)));
        assert!(REGISTERS.iter().all(|r| r.offset < FIRST_COUNTER));
        let offsets: Vec<_> = counters.collect();
        let expected = (FIRST_COUNTER..).step_by(4);
        assert_eq!(offsets, expected.take(36).collect::<Vec<_>>());
        assert!(offsets[35] < REGISTER_BYTES);
    }
}
