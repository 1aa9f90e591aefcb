// One slice's arithmetic: P = first ? W*a : P + W*a, in one DSP48E2 or DSP48E1.
//
// W holds two 4-bit operands (pack.sv), so W*a is two products. Registers: operands, product, P.
// The operands of cycle c are in P in cycle c + 3. There is no reset: `first` begins a sum.

`default_nettype none

module mac #(
    parameter W_BITS = 27,
    parameter A_BITS = 9
) (
    input  wire                     clk,
    input  wire                     enable,
    input  wire signed [W_BITS-1:0] w,
    input  wire signed [A_BITS-1:0] a,
    input  wire                     first,
    output reg  signed [47:0]       p
);

    reg signed [W_BITS-1:0] w_operand;
    reg signed [A_BITS-1:0] a_operand;
    reg signed [W_BITS+A_BITS-1:0] product;
    reg first_operand, first_product;

    always @(posedge clk)
        if (enable) begin
            w_operand <= w;
            a_operand <= a;
            first_operand <= first;
            product <= w_operand * a_operand;
            first_product <= first_operand;
            /* verilator lint_off WIDTH */ // the product is sign-extended
            p <= (first_product ? 48'sd0 : p) + product;
            /* verilator lint_on WIDTH */
        end

endmodule

`default_nettype wire
