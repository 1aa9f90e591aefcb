// A lane of `drain_context` (fpga/src/drain.cpp): scale of its tokens, rounding residue, quotient.
// Uses requantize_lane.sv.
`default_nettype none
module context_lane #(parameter int G = 2) (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic signed [26:0] sum,
    input  wire logic signed [12:0] mean,
    input  wire logic               first_row,
    input  wire logic        [34:0] word,
    input  wire logic        [$clog2(G > 1 ? G : 2)-1:0] group,
    output logic signed      [7:0]  code
);
    (* mem2reg *) logic [34:0] scale[G];
    logic [34:0] factor, factor_next, factor_last;
    logic signed [27:0] product;
    logic signed [14:0] residue;
    logic signed [12:0] mean_in;
    logic signed [26:0] sum_in, sum_next;
    wire logic signed [24:0] small = 25'((product + 28'sd8) >>> 4);
    logic signed [30:0] numerator;
    logic signed [15:0] shifted;
    logic signed [17:0] z;
    logic signed [7:0] y;
    shift16 shifter (.clk, .enable, .x(numerator), .p(factor_last[19:15]), .y(shifted));
    product15 mantissa (.clk, .enable, .a(shifted), .b({1'b0, factor_last[14:0]}), .z);
    clamp #(.IN(13), .OUT(8)) limit (.x(13'((z + 18'sd32) >>> 6)), .y);
    always_ff @(posedge clk)
        if (enable) begin
            if (first_row) scale[group] <= word;
            factor <= first_row ? word : scale[group];
            residue <= factor[34:20];
            mean_in <= mean;
            sum_in <= sum;
            factor_next <= factor;
            product <= residue * mean_in;
            sum_next <= sum_in;
            factor_last <= factor_next;
            numerator <= {sum_next, 4'b0} + 31'(small);
            code <= y;
        end
endmodule
`default_nettype wire
