// Items of the queues from `drain` (fpga/src/drain.cpp) to the lanes, as `each_number` of
// fpga/include/kernels.hpp packs them: the first field has the lowest bits.

package lane_types;

    localparam int JOB_BITS = 93;
    localparam int LANE_ROW_BITS = 203;
    localparam int SCALE_BITS = 35;
    localparam int MOMENT_BITS = 68;

    localparam logic [1:0] JOB_ROWS = 0;
    localparam logic [1:0] JOB_ATTEND = 1;
    localparam logic [1:0] JOB_FILL = 2;
    localparam logic [1:0] JOB_TABLE = 3;

    localparam logic [2:0] TO_QUERY = 0;
    localparam logic [2:0] TO_KEY = 1;
    localparam logic [2:0] TO_VALUE = 2;
    localparam logic [2:0] TO_HIDDEN = 3;
    localparam logic [2:0] TO_RESIDUAL = 4;

    // A command.
    typedef struct packed {
        logic [19:0] words;      // of a fill
        logic [20:0] reciprocal; // round(2^20 / tokens)
        logic [12:0] stride;
        logic [10:0] skip;       // first token whose residual changes
        logic [7:0]  zero_point;
        logic [10:0] tokens;
        logic        post;       // at its end the array gets a credit
        logic        post_tiles; // and at the end of each tile of tokens
        logic        moments;    // go to the norm
        logic        gelu;       // codes go through GELU's table
        logic        frame;
        logic        logits;
        logic        residual;   // results are added to the residual
        logic [1:0]  operation;
    } lane_job_t;

    // A row of a tile of tokens.
    typedef struct packed {
        logic        last;        // of the command
        logic        last_rows;   // last tile of row pairs
        logic        first_rows;
        logic        end_tile;    // last row of the tile
        logic        begin_tile;
        logic        one_tile;    // the command has one tile of tokens
        logic [7:0]  tile_value_bank;
        logic [23:0] key_address;
        logic [7:0]  key_bank;    // of the first token
        logic [23:0] address;     // of column 0 of the tile in the destination
        logic [10:0] tokens;
        logic [10:0] first;       // token
        logic [10:0] tile;
        logic [8:0]  index;       // in its tile of row pairs
        logic [15:0] value_block; // for a value: block of words and bank of the column
        logic [7:0]  value_bank;
        logic [15:0] column;
        logic [2:0]  destination;
        logic [4:0]  shift;
        logic [15:0] mult;
        logic [26:0] bias;
    } lane_row_t;

endpackage
