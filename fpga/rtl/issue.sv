// Issues the columns of tile passes, one a cycle, and spaces them so that no chain register is
// overwritten.

`default_nettype none

module issue
    import array_types::*;
#(
    parameter int TILE_GAP = 0  // cycles without a column where the weights' half changes
) (
    input  wire logic              clk,
    input  wire logic              reset,
    input  wire logic              enable,
    input  wire logic              tile_valid,
    input  wire tile_t             tile,
    output logic                   tile_ready,
    input  wire logic              loaded,        // the reader's half holds its weights
    output logic                   valid,         // a column is issued
    output logic                   first,
    output logic                   last,
    output tile_t                  issued,        // its tile pass
    output logic [COLUMN_BITS-1:0] column
);

    localparam int AGE_BITS = 2 * COUNT_BITS + 2;

    tile_t current;
    logic active;
    logic [COLUMN_BITS-1:0] next;
    logic [AGE_BITS-1:0] age;       // cycles since the last pass's last column, saturating
    logic [AGE_BITS-1:0] draining;  // cycles that its drain takes
    logic changed;                  // the pass before was the last of its weights' half

    // The last column comes at least `draining` cycles after that of the pass before.
    wire spaced = (AGE_BITS + 1)'(age) + (AGE_BITS + 1)'(tile.columns) > (AGE_BITS + 1)'(draining);
    wire rested = !changed || 32'(age) > TILE_GAP;
    wire start = !active && tile_valid && spaced && rested && (loaded || !tile.from_buffer);

    assign issued = active ? current : tile;
    assign column = active ? next : '0;
    assign valid = enable && (active || start);
    assign first = valid && !active;
    assign last = valid && column + 1'b1 == issued.columns;
    assign tile_ready = enable && start;

    always_ff @(posedge clk) begin
        if (valid) begin
            next <= column + 1'b1;
            current <= issued;
        end
        if (reset) begin
            active <= 1'b0;
            age <= '1;
            draining <= '0;
            changed <= 1'b0;
        end else if (enable) begin
            if (valid) active <= !last;
            if (last) begin
                age <= AGE_BITS'(1);
                draining <= drain(issued);
                changed <= issued.from_buffer && issued.release_half;
            end else if (age != '1) begin
                age <= age + 1'b1;
            end
        end
    end

endmodule

`default_nettype wire
