// `floor_divide` (fpga/src/norm.cpp): a stage makes a bit of the quotient.
`default_nettype none
module floor_divide (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic signed [26:0] numerator,
    input  wire logic        [10:0] divisor,
    output logic signed      [16:0] result
);
    logic [27:0] rest[18];
    logic [16:0] q[18];
    logic [10:0] d[18];
    logic [17:0] negative;
    for (genvar i = 0; i < 17; i++) begin : gen_bit
        wire logic [28:0] left = {1'b0, rest[i]} - ({18'd0, d[i]} << (16 - i));
        always_ff @(posedge clk)
            if (enable) begin
                rest[i+1] <= left[28] ? rest[i] : left[27:0];
                q[i+1] <= {q[i][15:0], !left[28]};
                d[i+1] <= d[i];
                negative[i+1] <= negative[i];
            end
    end
    always_ff @(posedge clk)
        if (enable) begin
            rest[0] <= numerator < 0 ? {17'd0, divisor} - 28'd1 - {{1{numerator[26]}},
                numerator} : {1'b0, numerator};
            q[0] <= '0;
            d[0] <= divisor;
            negative[0] <= numerator < 0;
            result <= negative[17] ? -q[17] : q[17];
        end
endmodule
`default_nettype wire
