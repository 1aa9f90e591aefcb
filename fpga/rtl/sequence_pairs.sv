// Counts the pairs of a pass as they leave the chain of token 0, and describes each pair for
// unpack_lanes.

`default_nettype none

module sequence_pairs #(
    parameter int SLOT_BITS = 6, // of a slot in the tokens' FIFOs, at least 1
    localparam int INFO_BITS = 29,
    localparam int PAIR_BITS = 15
) (
    input  wire logic                 clk,
    input  wire logic                 reset,
    input  wire logic                 arrives, // the next cycle has a pass's first pair
    input  wire logic [INFO_BITS-1:0] info,
    output logic                      push,
    output logic [SLOT_BITS-1:0]      slot,
    output logic [PAIR_BITS-1:0]      description
);

    if (SLOT_BITS < 1) begin : gen_refused
        $error("sequence_pairs: SLOT_BITS must be at least 1");
    end

    logic pass_last, pass_first, pass_scores, pass_unsigned, pass_single;
    logic [7:0] pass_groups, pass_pairs4, pass_pairs;
    logic last, first, scores, unsigned_a, single, starts, four_bit, two;
    logic [7:0] groups, left, left4;

    assign {pass_last, pass_first, pass_scores, pass_unsigned, pass_groups, pass_single,
            pass_pairs4, pass_pairs} = info;
    assign description = {four_bit, two, unsigned_a, scores, starts, first, last, groups};

    always_ff @(posedge clk) begin
        starts <= arrives;
        if (arrives) begin
            {last, first, scores, unsigned_a, single, groups} <=
                {pass_last, pass_first, pass_scores, pass_unsigned, pass_single, pass_groups};
            left <= pass_pairs;
            left4 <= pass_pairs4;
            four_bit <= pass_pairs4 != 8'd0;
            two <= pass_pairs4 > 8'd1 || (pass_pairs4 == 8'd1 && !pass_single);
        end else begin
            left <= left - 1'b1;
            if (left4 != 8'd0) left4 <= left4 - 1'b1;
            four_bit <= left4 > 8'd1;
            two <= left4 > 8'd2 || (left4 == 8'd2 && !single);
        end
        if (reset) begin
            push <= 1'b0;
            slot <= '0;
        end else begin
            push <= arrives || (push && left != 8'd1);
            if (push) slot <= slot + 1'b1;
        end
    end

`ifndef SYNTHESIS
    logic checks = 1'b0;
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        if (checks && !reset) begin
            the_chain_is_free: assert (!arrives || !push || left == 8'd1);
            a_pass_has_pairs: assert (!arrives || pass_pairs != 8'd0);
            four_bit_pairs_are_pairs: assert (!arrives || pass_pairs4 <= pass_pairs);
        end
    end
`endif

endmodule

`default_nettype wire
