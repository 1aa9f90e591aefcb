// A lane of `exponentiate` (fpga/src/softmax.cpp): difference, product, power of two, two sums.
`default_nettype none
module exponential_lane (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic               clear,
    input  wire logic signed [23:0] largest,
    input  wire logic signed [23:0] score,
    input  wire logic        [30:0] cap,
    input  wire logic        [24:0] mult,
    output logic             [7:0]  e8,
    output logic             [21:0] sum12,
    output logic             [17:0] sum8
);
    logic [11:0] powers[64];
    initial $readmemh("powers.hex", powers);
    logic [23:0] difference, capped;
    logic [24:0] wide;
    logic [16:0] narrow;
    logic [41:0] product;
    logic [11:0] exponent;
    logic [12:0] power;
    logic [5:0] shift;
    logic [11:0] e12;
    logic [12:0] shifted;
    wire logic swap = mult[24:17] != 0;
    wire logic [42:0] rounded = product + 43'd524288;
    assign shifted = shift < 16 ? power >> shift[3:0] : 13'd0;
    wire logic [11:0] next12 = 12'((shifted + 13'd1) >> 1);
    always_ff @(posedge clk)
        if (enable) begin
            difference <= largest - score;
            capped <= 31'(difference) > cap ? cap[23:0] : difference;
            wide <= swap ? mult : 25'(capped);
            narrow <= swap ? capped[16:0] : mult[16:0];
            product <= wide * narrow;
            exponent <= rounded[31:20];
            power <= {powers[exponent[5:0]], 1'b0};
            shift <= exponent[11:6];
            e12 <= next12;
            e8 <= 8'((13'(e12) + 13'd8) >> 4);
            sum12 <= clear ? '0 : sum12 + e12;
            sum8 <= clear ? '0 : sum8 + e8;
        end
endmodule
`default_nettype wire
