// `mean_of_codes` (fpga/include/leaves.hpp): each pipeline stage computes one bit of the quotient's
// magnitude.
`default_nettype none
module floor_divide (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic signed [18:0] numerator,
    input  wire logic        [10:0] divisor,
    output logic signed      [8:0]  result
);
    logic [18:0] rest[9];
    logic [7:0] q[9];
    logic [10:0] d[9];
    logic [8:0] negative;
    for (genvar i = 0; i < 8; i++) begin : gen_bit
        wire logic [19:0] left = {1'b0, rest[i]} - ({9'd0, d[i]} << (7 - i));
        always_ff @(posedge clk)
            if (enable) begin
                rest[i+1] <= left[19] ? rest[i] : left[18:0];
                q[i+1] <= {q[i][6:0], !left[19]};
                d[i+1] <= d[i];
                negative[i+1] <= negative[i];
            end
    end
    always_ff @(posedge clk)
        if (enable) begin
            rest[0] <= numerator < 0 ? {8'd0, divisor} - 19'd1 - numerator : numerator;
            q[0] <= '0;
            d[0] <= divisor;
            negative[0] <= numerator < 0;
            result <= negative[8] ? -{1'b0, q[8]} : {1'b0, q[8]};
        end
endmodule
`default_nettype wire
