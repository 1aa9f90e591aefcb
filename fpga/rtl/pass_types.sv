// Generated from rust/accelerator/src/isa.rs; do not edit.

package pass_types;

    localparam int PASS_BITS = 128;

    // Memories of a pass's activations.
    localparam logic [2:0] SOURCE_INPUT = 0;
    localparam logic [2:0] SOURCE_NORMED = 1;
    localparam logic [2:0] SOURCE_QUERY = 2;
    localparam logic [2:0] SOURCE_HIDDEN = 3;
    localparam logic [2:0] SOURCE_PROBABILITY = 4;

    // Memories of a pass's row operands.
    localparam logic [1:0] OPERAND_WEIGHTS = 0;
    localparam logic [1:0] OPERAND_KEY = 1;
    localparam logic [1:0] OPERAND_VALUE = 2;

    // A pass of the array.
    typedef struct packed {
        // Zero.
        logic [1:0] unused;
        // At its end load gets a credit: `input` may be written.
        logic post_load;
        // At its end the half of the weights is free.
        logic frees;
        // Last pass of its tile.
        logic last;
        // First pass of its tile.
        logic first;
        // The sums are scores: all tokens of a pair leave at once.
        logic scores;
        // Activations are unsigned.
        logic unsigned_a;
        // Groups of L tokens.
        logic [7:0] groups;
        // The last 4-bit pair has one row.
        logic single;
        // 4-bit pairs among them; they come first.
        logic [7:0] pairs4;
        // Row pairs.
        logic [7:0] pairs;
        // `value`: words between the blocks of dimensions, ceil(N/C).
        logic [10:0] next_block;
        // `value`: bank of the first dimension in the first word.
        logic [7:0] rotation;
        // `key`: bank of the first key, a multiple of P; `value`: first dimension mod banks.
        logic [7:0] row_bank;
        // Word of the first columns' row operands; `value`: of the first dimension's block.
        logic [21:0] row_address;
        // Word of the first columns' activations.
        logic [21:0] address;
        // Columns in the last word, 1 to C.
        logic [4:0] tail;
        // Words of C columns.
        logic [12:0] words;
        // Frame slot of `normed`, or parity of `probability`.
        logic bank;
        // Memory of the row operands.
        logic [1:0] operand;
        // Memory of the activations.
        logic [2:0] source;
    } pass_t;

endpackage
