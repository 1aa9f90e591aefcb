//! Declares the items of the queues from the kernel `drain` to the lanes. `make isa` generates
//! their C++ structs and their `SystemVerilog` package.
//!
//! The first field takes the least significant bits.

/// Bits of a number of tokens, of keys or of a tile of tokens, in commands and items.
pub const TOKEN_BITS: u32 = 11;
/// Bits of a number of columns.
pub const COLUMN_BITS: u32 = 13;
/// Bits of a zero point of codes.
pub const ZERO_POINT_BITS: u32 = 8;
/// Bits of round(2^20/N), N tokens.
pub const RECIPROCAL_BITS: u32 = 21;
/// Bits of the words of a `Fill`.
pub const FILL_BITS: u32 = 20;

/// Bits of a number of pairs of a head's rows.
pub const PAIR_BITS: u32 = 7;

/// Bits of a bank's number.
pub const LANE_BANK_BITS: u32 = 8;
/// Bits of an address of codes in a memory.
pub const LANE_ADDRESS_BITS: u32 = 24;

/// A field of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemField {
    /// Name in C++ and in `SystemVerilog`.
    pub name: &'static str,
    /// Width in bits.
    pub bits: u32,
    /// True for a number in two's complement.
    pub signed: bool,
    /// Meaning.
    pub about: &'static str,
}

impl ItemField {
    /// Declares an unsigned field.
    pub const fn new(name: &'static str, bits: u32, about: &'static str) -> Self {
        Self {
            name,
            bits,
            signed: false,
            about,
        }
    }

    const fn signed(name: &'static str, bits: u32, about: &'static str) -> Self {
        Self {
            signed: true,
            ..Self::new(name, bits, about)
        }
    }
}

/// A command, as the lanes need it.
pub const LANE_JOB: &[ItemField] = &[
    ItemField::new("operation", 2, "code of the command"),
    ItemField::new("residual", 1, "results are added to the residual"),
    ItemField::new("logits", 1, "results are logits"),
    ItemField::new("frame", 1, "frame slot of the residual"),
    ItemField::new("activation", 1, "codes go through the activation's table"),
    ItemField::new("moments", 1, "moments go to the norm"),
    ItemField::new(
        "post_tiles",
        1,
        "the array gets a credit at the end of each tile of tokens",
    ),
    ItemField::new("post", 1, "the array gets a credit at the command's end"),
    ItemField::new("tokens", TOKEN_BITS, "tokens"),
    ItemField::signed("zero_point", ZERO_POINT_BITS, "zero point of the codes"),
    ItemField::new("skip", TOKEN_BITS, "first token whose residual changes"),
    ItemField::new(
        "stride",
        COLUMN_BITS,
        "columns of a tile in the destination",
    ),
    ItemField::new("reciprocal", RECIPROCAL_BITS, "2^20 / tokens, rounded"),
    ItemField::new("words", FILL_BITS, "words of a Fill, or parts of angles"),
];

/// The parameters of a row.
pub const LANE_PARAMETERS: &[ItemField] = &[
    ItemField::signed("bias", 27, "bias"),
    ItemField::signed("mult", 16, "mantissa"),
    ItemField::new("shift", 5, "shift"),
    ItemField::new("destination", 3, "destination of the row"),
    ItemField::new("column", 16, "column in the destination"),
    ItemField::new(
        "value_bank",
        LANE_BANK_BITS,
        "for a value: bank of the column; of a rotated row: pair of the head",
    ),
    ItemField::new(
        "value_block",
        16,
        "for a value: block of words of the column; of a rotated row: address of its angle",
    ),
];

/// A row of a tile of tokens with its addresses, behind its [`LANE_PARAMETERS`].
pub const LANE_ROW: &[ItemField] = &[
    ItemField::new("index", 9, "place of the row in its tile of row pairs"),
    ItemField::new("tile", TOKEN_BITS, "tile of tokens"),
    ItemField::new("first", TOKEN_BITS, "first token of the tile"),
    ItemField::new("tokens", TOKEN_BITS, "tokens of the tile"),
    ItemField::new(
        "address",
        LANE_ADDRESS_BITS,
        "address of the tile's column 0 in the destination",
    ),
    ItemField::new(
        "key_bank",
        LANE_BANK_BITS,
        "for a key: bank of the first token",
    ),
    ItemField::new(
        "key_address",
        LANE_ADDRESS_BITS,
        "for a key: address of the first token's column 0",
    ),
    ItemField::new(
        "tile_value_bank",
        LANE_BANK_BITS,
        "for a value: bank of the first token in column 0",
    ),
    ItemField::new("rotates", 1, "the row is rotated"),
    ItemField::new("one_tile", 1, "the command has one tile of tokens"),
    ItemField::new("begin_tile", 1, "first row of the tile"),
    ItemField::new("end_tile", 1, "last row of the tile"),
    ItemField::new("first_rows", 1, "first tile of row pairs"),
    ItemField::new("last_rows", 1, "last tile of row pairs"),
    ItemField::new("last", 1, "last row of the command"),
];

const fn bits_of(fields: &[ItemField]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < fields.len() {
        bits += fields[at].bits as u64;
        at += 1;
    }
    bits
}

/// Bits of a [`LANE_JOB`].
pub const LANE_JOB_BITS: u64 = bits_of(LANE_JOB);
/// Bits of a row of a tile of tokens.
pub const LANE_ROW_BITS: u64 = bits_of(LANE_PARAMETERS) + bits_of(LANE_ROW);
/// Bits of the moments of a token: sum (27 bits) and sum of squares (41 bits).
pub const MOMENT_BITS: u64 = 27 + 41;
/// Bits of a token's scale: mantissa, shift and rounding residue.
pub const SCALE_BITS: u64 = 15 + 5 + 15;
