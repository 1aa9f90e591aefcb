// Types that the parts of the array exchange.

package array_types;

    localparam int COLUMN_BITS = 13;
    localparam int COUNT_BITS = 10;

    // A tile pass: one tile of tokens, one tile of row pairs, the columns of one pass.
    typedef struct packed {
        logic [COLUMN_BITS-1:0] columns;
        logic [COLUMN_BITS-1:0] base;         // its first column in the weights' half
        logic [COUNT_BITS-1:0]  pairs4;       // pairs of 4-bit rows; they come first
        logic                   single;       // the last of them has one row
        logic [COUNT_BITS-1:0]  pairs8;       // 8-bit rows
        logic [COUNT_BITS-1:0]  groups;       // of L tokens
        logic                   unsigned_a;   // activations are probabilities
        logic                   scores;       // all tokens of a row leave at once
        logic                   from_buffer;  // row operands are weights, from the double buffer
        logic                   release_half; // nothing after this pass reads this half
        logic                   first_pass;
        logic                   last_pass;
    } tile_t;

    // Rows of a tile pass.
    function automatic logic [COUNT_BITS+1:0] rows(tile_t tile);
        return 2 * (COUNT_BITS + 2)'(tile.pairs4) - (COUNT_BITS + 2)'(tile.single)
            + (COUNT_BITS + 2)'(tile.pairs8);
    endfunction

    function automatic logic [COUNT_BITS-1:0] pairs(tile_t tile);
        return tile.pairs4 + tile.pairs8;
    endfunction

    // Cycles that the chain takes for a tile pass.
    function automatic logic [2*COUNT_BITS+1:0] drain(tile_t tile);
        if (tile.scores) return (2 * COUNT_BITS + 2)'(pairs(tile));
        return (2 * COUNT_BITS + 2)'(rows(tile)) * (2 * COUNT_BITS + 2)'(tile.groups);
    endfunction

    // An item that leaves the chain in a cycle.
    typedef struct packed {
        logic                  valid;
        logic [COUNT_BITS-1:0] group;
        logic                  high;         // the second of two 4-bit rows
        logic                  eight;        // an 8-bit row
        logic                  unsigned_low; // of unsigned activations
        logic                  scores;
        logic                  first;        // of its tile pass
        logic                  first_pass;
        logic                  last_pass;
    } leaving_t;

endpackage
