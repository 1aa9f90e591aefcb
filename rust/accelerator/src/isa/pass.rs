//! Declares the descriptor of a pass: one item of the queue `passes`, from the kernel `plan` to the
//! array.
//!
//! The first field takes the least significant bits; unused bits above the last field are 0.

use quasar_hardware::design::ItemField;

/// Bits of a descriptor.
pub const PASS_BITS: u32 = 128;

/// Memories of activations, indexed by the field `source`.
pub const ACTIVATIONS: [&str; 5] = ["input", "normed", "query", "hidden", "probability"];
/// Memories of row operands, indexed by the field `operand`.
pub const OPERANDS: [&str; 3] = ["weights", "key", "value"];

/// The fields of a descriptor.
pub const PASS_FIELDS: &[ItemField] = &[
    ItemField::new("source", 3, "memory of the activations"),
    ItemField::new("operand", 2, "memory of the row operands"),
    ItemField::new(
        "bank",
        1,
        "frame slot of `normed`, or parity of `probability`",
    ),
    ItemField::new("words", 13, "words of C columns"),
    ItemField::new("tail", 5, "columns in the last word, 1 to C"),
    ItemField::new("address", 22, "word of the first columns' activations"),
    ItemField::new(
        "row_address",
        22,
        "word of the first columns' row operands; `value`: of the first dimension's block",
    ),
    ItemField::new(
        "row_bank",
        8,
        "`key`: bank of the first key, a multiple of P; `value`: first dimension mod banks",
    ),
    ItemField::new(
        "rotation",
        8,
        "`value`: bank of the first dimension in the first word",
    ),
    ItemField::new(
        "next_block",
        11,
        "`value`: words between the blocks of dimensions, ceil(N/C)",
    ),
    ItemField::new("pairs", 8, "row pairs"),
    ItemField::new("pairs4", 8, "4-bit pairs among them; they come first"),
    ItemField::new("single", 1, "the last 4-bit pair has one row"),
    ItemField::new("groups", 8, "groups of L tokens"),
    ItemField::new("unsigned_a", 1, "activations are unsigned"),
    ItemField::new(
        "scores",
        1,
        "the sums are scores: all tokens of a pair leave at once",
    ),
    ItemField::new("first", 1, "first pass of its tile"),
    ItemField::new("last", 1, "last pass of its tile"),
    ItemField::new("frees", 1, "at its end the half of the weights is free"),
    ItemField::new(
        "post_load",
        1,
        "at its end load gets a credit: `input` may be written",
    ),
];

/// Returns the lowest bit of a field.
///
/// # Panics
/// If there is no such field.
pub fn pass_lsb(name: &str) -> u32 {
    let at = PASS_FIELDS.iter().position(|field| field.name == name);
    let before = &PASS_FIELDS[..at.expect("the field is declared")];
    before.iter().map(|field| field.bits).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_fit_the_descriptor() {
        let used: u32 = PASS_FIELDS.iter().map(|field| field.bits).sum();
        assert!(used <= PASS_BITS, "{used} bits");
        assert!(ACTIVATIONS.len() <= 1 << PASS_FIELDS[0].bits);
        assert!(OPERANDS.len() <= 1 << PASS_FIELDS[1].bits);
    }
}
