// `mean_of_residuals` (fpga/src/norm.cpp): one bit of the quotient's magnitude a cycle.
`default_nettype none
module serial_divide (
    input  wire logic               clk,
    input  wire logic               start,
    input  wire logic signed [26:0] numerator,
    input  wire logic        [10:0] divisor,
    output logic                    done,
    output logic signed      [16:0] result
);
    logic [26:0] rest, part;
    logic [15:0] q;
    logic negative;
    logic [4:0] left_bits;
    wire logic [27:0] left = {1'b0, rest} - {1'b0, part};
    always_ff @(posedge clk) begin
        done <= left_bits == 1;
        if (start) begin
            rest <= numerator < 0 ? {16'd0, divisor} - 27'd1 - numerator : numerator;
            part <= {1'b0, divisor, 15'd0};
            q <= '0;
            negative <= numerator < 0;
            left_bits <= 5'd16;
        end else if (left_bits != 0) begin
            if (!left[27]) rest <= left[26:0];
            part <= part >> 1;
            q <= {q[14:0], !left[27]};
            left_bits <= left_bits - 5'd1;
        end
        result <= negative ? -{1'b0, q} : {1'b0, q};
    end
endmodule
`default_nettype wire
