// Splits packed sums into rows, L tokens a cycle (all tokens for scores), and adds up the passes of
// a tile.

`default_nettype none

module unpack_lanes
    import array_types::*;
#(
    parameter int T = 5,
    parameter int P = 3,
    parameter int L = 2,
    parameter int S = 23,
    localparam int SUM_BITS = 27
) (
    input  wire logic                  clk,
    input  wire logic                  reset,
    input  wire logic                  enable,
    input  wire leaving_t              leaving,
    input  wire logic [T-1:0][47:0]    packed_sums,
    output logic                       sums_valid,
    output logic [L-1:0][SUM_BITS-1:0] sums,
    output logic                       scores_valid,
    output logic [T-1:0][SUM_BITS-1:0] scores
);

    localparam int GROUPS = (T + L - 1) / L;
    localparam int ITEMS = 2 * P * GROUPS;  // of a tile

    function automatic logic [SUM_BITS-1:0] row(logic [47:0] p, leaving_t of);
        logic signed [47:0] low, high;
        low = of.unsigned_low ? 48'(p[S-1:0]) : {{48 - S{p[S-1]}}, p[S-1:0]};
        high = $signed(p - low) >>> S;
        return SUM_BITS'(of.eight ? (high <<< 4) + low : of.high ? high : low);
    endfunction

    logic [$clog2(ITEMS)-1:0] item, next_item;
    logic [L-1:0][SUM_BITS-1:0] earlier, total;
    logic [L-1:0][SUM_BITS-1:0] partial[ITEMS];

    assign item = leaving.first ? '0 : next_item;
    assign earlier = partial[item];

    always_comb
        for (int l = 0; l < L; l++) begin
            automatic int t = 32'(leaving.group) * L + l;
            total[l] = (leaving.first_pass ? '0 : earlier[l])
                + (t < T ? row(packed_sums[t], leaving) : '0);
        end

    always_ff @(posedge clk) begin
        if (enable) begin
            sums <= total;
            for (int t = 0; t < T; t++) scores[t] <= row(packed_sums[t], leaving);
            if (leaving.valid) begin
                partial[item] <= total;
                next_item <= item + 1'b1;
            end
        end
        if (reset) begin
            {sums_valid, scores_valid} <= '0;
        end else if (enable) begin
            sums_valid <= leaving.valid && leaving.last_pass && !leaving.scores;
            scores_valid <= leaving.valid && leaving.scores;
        end
    end

endmodule

`default_nettype wire
