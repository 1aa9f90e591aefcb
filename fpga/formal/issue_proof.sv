// The issue of words with any passes that `plan` may give, weights that arrive at any time, and any
// back-pressure behind the tokens' FIFOs: no pass starts without its weights or without room for
// its sums, no half is freed twice, no descriptor is lost. With weights and room, each pass ends
// within ANSWER cycles.

`default_nettype none

module issue_proof #(
    parameter int R = 2,
    parameter int P = 1,
    localparam int ANSWER = 8 + 5 * R
) (
    input wire logic         fast,
    input wire logic         passes_valid,
    input wire logic [127:0] passes,
    input wire logic         fills, // a half of the weights
    input wire logic         pops   // a pair
);

    localparam int WORDS = 2, POINTER_BITS = 3;

    // The fast side's assertions begin when both sides have seen the reset.
    logic clk, begins;
    two_clocks #(.R(R)) clocks (.fast, .clk, .reset(begins));
    logic [1:0] later = '0;
    wire reset = later != 2'd3;
    always_ff @(posedge clk) if (reset) later <= begins ? 2'd0 : later + 1'b1;

    pass_types::pass_t pass;
    assign pass = passes;
    wire of_weights = pass.operand == pass_types::OPERAND_WEIGHTS;
    always_comb begin
        assume (pass.words != '0 && 32'(pass.words) <= WORDS);
        assume (pass.tail == 5'd1);
        assume (pass.pairs != '0 && 32'(pass.pairs) <= P && pass.pairs4 <= pass.pairs);
        assume (pass.source <= pass_types::SOURCE_PROBABILITY && !pass.bank);
        assume (pass.operand <= pass_types::OPERAND_VALUE);
        assume (pass.row_bank == '0 && pass.rotation == '0 && pass.row_address == '0);
        assume (!pass.frees || of_weights);
    end

    // As `weights` does: a half is filled while one is free. `freed` crosses in a register.
    logic [1:0] filled = '0, freed, freed_slow = '0;
    wire [1:0] full = filled - freed_slow;
    always_ff @(posedge clk) begin
        freed_slow <= reset ? '0 : freed;
        if (!reset && fills && full < 2'd2) filled <= filled + 1'b1;
    end

    // As the tokens and `unpack_lanes` do: a pass's pairs are in the FIFOs some time after its last
    // word, and leave one a slow cycle.
    logic valid, last, ready;
    logic [28:0] info;
    logic [POINTER_BITS-1:0] pushed = '0, popped = '0;
    always_ff @(posedge fast)
        if (!reset && valid && last) pushed <= pushed + POINTER_BITS'(info[7:0]);
    always_ff @(posedge clk)
        if (!reset && pops && popped != pushed) popped <= popped + 1'b1;

    // Cycles since a pass ended, or the oldest that has not was taken, while weights come and pairs
    // leave.
    logic [3:0] taken = '0, ended = '0;
    logic [5:0] waited = '0;
    always_ff @(posedge clk) if (!reset && passes_valid && ready) taken <= taken + 1'b1;
    always_ff @(posedge fast) begin
        if (!reset && valid && last) ended <= ended + 1'b1;
        if (reset || !fills || !pops || taken == ended || (valid && last)) waited <= '0;
        else waited <= waited + 1'b1;
        if (!reset) a_pass_ends: assert (32'(waited) <= ANSWER);
    end

    issue #(
        .P(P), .C(1), .FRAMES(2), .KEY_BANKS(P), .VALUE_BANKS(P), .WORDS(WORDS), .ADDRESS_BITS(1),
        .ROW_BITS(2), .TURN_BITS(2), .POINTER_BITS(POINTER_BITS)
    ) dut (
        .clk, .clk_array(fast), .reset, .reset_array(reset), .passes_valid, .passes, .filled,
        .popped, .freed, .valid, .last, .info, .passes_ready(ready), .retired(), .starved(),
        .posted(), .first(), .source(), .tail(), .address(), .weights(), .value(), .key(),
        .row_address(), .next_address(), .next_block(), .rotation(), .pairs4()
    );

endmodule

`default_nettype wire
