// One token of the kernel `scores` (fpga/src/scores.cpp): the registers of its score, and the
// running maximum.
`default_nettype none
module score_lane (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic               first,
    input  wire logic signed [23:0] score,
    output logic signed      [23:0] stored,
    output logic signed      [23:0] largest
);
    logic signed [23:0] score_in;
    wire logic above = first || score_in > largest;
    always_ff @(posedge clk)
        if (enable) begin
            score_in <= score;
            stored <= score_in;
            if (above) largest <= score_in;
        end
endmodule
`default_nettype wire
