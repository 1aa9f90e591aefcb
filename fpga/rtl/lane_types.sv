// Generated from rust/hardware/src/design/lane_items.rs; do not edit.

package lane_types;

    localparam int LANE_JOB_BITS = 93;
    localparam int LANE_ROW_BITS = 204;
    localparam int SCALE_BITS = 35;
    localparam int MOMENT_BITS = 68;
    localparam int TOKEN_BITS = 11;
    localparam int COLUMN_BITS = 13;
    localparam int ZERO_POINT_BITS = 8;
    localparam int RECIPROCAL_BITS = 21;
    localparam int FILL_BITS = 20;
    localparam int LANE_BANK_BITS = 8;
    localparam int LANE_ADDRESS_BITS = 24;

    // Commands.
    localparam logic [1:0] JOB_ROWS = 0;
    localparam logic [1:0] JOB_ATTEND = 1;
    localparam logic [1:0] JOB_FILL = 2;
    localparam logic [1:0] JOB_TABLE = 3;

    // Destinations of a row.
    localparam logic [2:0] TO_QUERY = 0;
    localparam logic [2:0] TO_KEY = 1;
    localparam logic [2:0] TO_VALUE = 2;
    localparam logic [2:0] TO_HIDDEN = 3;
    localparam logic [2:0] TO_RESIDUAL = 4;
    localparam logic [2:0] TO_LOGIT = 5;

    // A command, as the lanes need it.
    typedef struct packed {
        // Words of a Fill, or parts of angles.
        logic [19:0] words;
        // 2^20 / tokens, rounded.
        logic [20:0] reciprocal;
        // Columns of a tile in the destination.
        logic [12:0] stride;
        // First token whose residual changes.
        logic [10:0] skip;
        // Zero point of the codes.
        logic [7:0] zero_point;
        // Tokens.
        logic [10:0] tokens;
        // The array gets a credit at the command's end.
        logic post;
        // The array gets a credit at the end of each tile of tokens.
        logic post_tiles;
        // Moments go to the norm.
        logic moments;
        // Codes go through the activation's table.
        logic activation;
        // Frame slot of the residual.
        logic frame;
        // Results are logits.
        logic logits;
        // Results are added to the residual.
        logic residual;
        // Code of the command.
        logic [1:0] operation;
    } lane_job_t;

    // A row of a tile of tokens, with its addresses.
    typedef struct packed {
        // Last row of the command.
        logic last;
        // Last tile of row pairs.
        logic last_rows;
        // First tile of row pairs.
        logic first_rows;
        // Last row of the tile.
        logic end_tile;
        // First row of the tile.
        logic begin_tile;
        // The command has one tile of tokens.
        logic one_tile;
        // The row is rotated.
        logic rotates;
        // For a value: bank of the first token in column 0.
        logic [7:0] tile_value_bank;
        // For a key: address of the first token's column 0.
        logic [23:0] key_address;
        // For a key: bank of the first token.
        logic [7:0] key_bank;
        // Address of the tile's column 0 in the destination.
        logic [23:0] address;
        // Tokens of the tile.
        logic [10:0] tokens;
        // First token of the tile.
        logic [10:0] first;
        // Tile of tokens.
        logic [10:0] tile;
        // Place of the row in its tile of row pairs.
        logic [8:0] index;
        // For a value: block of words of the column; of a rotated row: address of its angle.
        logic [15:0] value_block;
        // For a value: bank of the column; of a rotated row: pair of the head.
        logic [7:0] value_bank;
        // Column in the destination.
        logic [15:0] column;
        // Destination of the row.
        logic [2:0] destination;
        // Shift.
        logic [4:0] shift;
        // Mantissa.
        logic [15:0] mult;
        // Bias.
        logic [26:0] bias;
    } lane_row_t;

endpackage
