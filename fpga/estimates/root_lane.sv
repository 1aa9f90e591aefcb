// A lane of `root` (fpga/src/norm.cpp): variance, normalizing shift, then square root and
// reciprocal, one bit a cycle. At most one of `start`, `rooting`, `turn` and `dividing` is high.
`default_nettype none
module root_lane (
    input  wire logic               clk,
    input  wire logic signed [26:0] sum,
    input  wire logic        [40:0] squares,
    input  wire logic        [10:0] embed,
    input  wire logic        [51:0] epsilon,
    input  wire logic               start,
    input  wire logic               rooting,
    input  wire logic               turn,
    input  wire logic               dividing,
    output logic             [14:0] inverse,
    output logic             [4:0]  bits,
    output logic signed      [26:0] sum_out
);
    logic signed [26:0] sum_in;
    logic [40:0] squares_in;
    logic [51:0] scaled, square, variance, high, high_in;
    logic [4:0] pairs;
    always_comb begin
        high = variance;
        pairs = 5'd26;
        for (int step = 16; step > 0; step /= 2)
            if (pairs > step && (high >> (52 - 2 * step)) == 0) begin
                high = high << (2 * step);
                pairs = pairs - 5'(step);
            end
    end
    logic [51:0] radicand;
    logic [27:0] remainder;
    logic [25:0] value;
    logic [27:0] rest;
    logic [15:0] quotient;
    wire logic [27:0] next = {remainder[25:0], radicand[51:50]};
    wire logic [27:0] trial = {value, 2'b01};
    wire logic [28:0] left = {1'b0, next} - {1'b0, trial};
    wire logic [28:0] over = {rest, 1'b0} - {3'd0, value};
    always_ff @(posedge clk) begin
        sum_in <= sum;
        squares_in <= squares;
        scaled <= squares_in * embed;
        square <= 52'(54'(sum_in * sum_in));
        variance <= scaled - square + epsilon;
        if (start) begin
            radicand <= high;
            remainder <= '0;
            value <= '0;
            bits <= pairs;
            sum_out <= sum_in;
        end
        if (rooting) begin
            radicand <= radicand << 2;
            remainder <= left[28] ? next : left[27:0];
            value <= {value[24:0], !left[28]};
        end
        if (turn) begin
            rest <= 28'd1 << 24;
            quotient <= '0;
        end else if (dividing) begin
            rest <= over[28] ? {rest[26:0], 1'b0} : over[27:0];
            quotient <= {quotient[14:0], !over[28]};
        end
        inverse <= quotient > 16'd32767 ? 15'h7fff : quotient[14:0];
    end
endmodule
`default_nettype wire
