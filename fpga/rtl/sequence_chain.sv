// Paces a chain: gives the item at its end in each cycle, and the registers that take their
// neighbour's sum.

`default_nettype none

module sequence_chain
    import array_types::*;
#(
    parameter int P = 3
) (
    input  wire logic     clk,
    input  wire logic     reset,
    input  wire logic     enable,
    input  wire logic     start,  // row pair 0 arrives at the end in the next cycle
    input  wire tile_t    tile,
    output leaving_t      leaving,
    output logic [P-1:0]  shift
);

    tile_t current;
    logic active, high;
    logic [COUNT_BITS-1:0] pair, group;

    wire eight = pair >= current.pairs4;
    wire one_row = eight || (current.single && pair + 1'b1 == current.pairs4);
    wire end_group = current.scores || group + 1'b1 == current.groups;
    wire end_pair = end_group && (one_row || high || current.scores);
    wire end_tile = end_pair && pair + 1'b1 == pairs(current);

    always_comb begin
        leaving = '0;
        leaving.valid = active;
        leaving.group = group;
        leaving.high = high;
        leaving.eight = eight;
        leaving.unsigned_low = eight && current.unsigned_a;
        leaving.scores = current.scores;
        leaving.first = pair == '0 && group == '0 && !high;
        leaving.first_pass = current.first_pass;
        leaving.last_pass = current.last_pass;
        // Lower registers hold nothing, or sums of the next tile pass.
        for (int r = 0; r < P; r++)
            shift[r] = active && end_pair && !end_tile && r + 32'(pairs(current)) > P + 32'(pair);
    end

    always_ff @(posedge clk)
        if (reset) begin
            active <= 1'b0;
        end else if (enable) begin
            if (start) begin
                active <= 1'b1;
                current <= tile;
                {pair, group, high} <= '0;
            end else if (active) begin
                active <= !end_tile;
                group <= end_group ? '0 : group + 1'b1;
                high <= end_group ? !high && !one_row : high;
                if (end_pair) pair <= pair + 1'b1;
            end
            assert (!(start && active && !end_tile))
                else $error("a tile pass arrives before the one before has left");
        end

endmodule

`default_nettype wire
