// unpack_lanes with any passes that have room in the tokens' FIFOs, and any back-pressure: no pair
// is overwritten or taken early, no result is without a place or given twice.

`default_nettype none

module unpack_lanes_proof #(
    parameter int R = 2,
    parameter int T = 2,
    parameter int P = 2,
    parameter int L = 1
) (
    input wire logic             fast,
    input wire logic             pushes,
    input wire logic [4:0]       kind,   // of a pair's rows, and of its pass
    input wire logic [7:0]       given,  // groups of a pass
    input wire logic             begins, // a pass
    input wire logic             sums_ready,
    input wire logic             scores_ready,
    input wire logic [T*47-1:0]  packed_sums
);

    localparam int DEPTH = 2;
    localparam int GROUPS = (T + L - 1) / L;

    logic clk, reset;
    two_clocks #(.R(R)) clocks (.fast, .clk, .reset);
    always_comb assume (given != '0 && 32'(given) <= GROUPS);

    // A pass has at most P pairs, all with as many groups; its first pair says that it is first.
    // A tile is a pass or more.
    logic [1:0] pushed = '0, popped;
    logic [7:0] pairs = '0, groups_now;
    wire [1:0] inside = pushed - popped;
    wire starts = begins || pairs == '0 || 32'(pairs) == P;
    wire [7:0] groups = starts ? given : groups_now;
    wire push = !reset && pushes && 32'(inside) < DEPTH;
    always_ff @(posedge fast)
        if (push) begin
            pushed <= pushed + 1'b1;
            pairs <= starts ? 8'd1 : pairs + 1'b1;
            groups_now <= groups;
        end

    logic [T-1:0] skip;
    logic pop_slot, sums_valid, scores_valid;
    logic [L*27-1:0] sums;
    logic [T*24-1:0] scores;
    unpack_lanes #(.T(T), .P(P), .L(L), .DEPTH(DEPTH), .OUTPUTS(2)) dut (
        .clk, .clk_array(fast), .reset, .pushed, .describe(push), .describe_slot(pushed[0]),
        .description({kind[4:1], starts, starts, kind[0], groups}), .popped, .pop_slot, .skip,
        .packed_sums, .sums_valid, .sums_ready, .sums, .scores_valid, .scores_ready, .scores
    );

endmodule

`default_nettype wire
