// Packs two 4-bit operands into one: W = (w1 << S) + w0. w1 is the high nibble of a row pair's
// byte, signed; w0 is the low nibble, signed for two 4-bit rows and unsigned for one 8-bit row (w =
// 16*w1 + w0). W is formed once for a row pair, for all tokens.

`default_nettype none

module pack #(
    parameter int S = 23
) (
    input  wire logic              clk,
    input  wire logic              enable,
    input  wire logic        [7:0] operands,
    input  wire logic              low_unsigned,
    output logic signed [S+3:0]    w
);

    wire borrow = operands[3] & ~low_unsigned;  // the low field is negative

    always_ff @(posedge clk)
        if (enable) w <= {operands[7:4] - 4'(borrow), {S - 4{borrow}}, operands[3:0]};

endmodule

`default_nettype wire
