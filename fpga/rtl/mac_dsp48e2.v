// mac.v with the DSP48E2 named, for tools that do not infer its accumulation (Yosys infers only a
// DSP48E1's).

`default_nettype none

module mac_dsp48e2 #(
    parameter W_BITS = 27,
    parameter A_BITS = 9
) (
    input  wire                     clk,
    input  wire                     enable,
    input  wire signed [W_BITS-1:0] w,
    input  wire signed [A_BITS-1:0] a,
    input  wire                     first,
    output wire signed [47:0]       p
);

    reg first_operand;

    always @(posedge clk)
        if (enable) first_operand <= first;

    wire signed [29:0] a_port = w;  // the multiplier takes bits 26..0
    wire signed [17:0] b_port = a;

    DSP48E2 #(
        .AREG(1), .ACASCREG(1), .BREG(1), .BCASCREG(1), .CREG(0), .DREG(0), .ADREG(0),
        .MREG(1), .PREG(1),
        .INMODEREG(0), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0),
        .AMULTSEL("A"), .BMULTSEL("B"), .USE_MULT("MULTIPLY"), .USE_SIMD("ONE48")
    ) dsp (
        .CLK(clk),
        .A(a_port), .B(b_port), .C(48'd0), .D(27'd0), .CARRYIN(1'b0),
        .ACIN(30'd0), .BCIN(18'd0), .PCIN(48'd0), .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
        .INMODE(5'b00000), .ALUMODE(4'b0000), .CARRYINSEL(3'b000),
        .OPMODE({3'b000, !first_operand, 5'b00101}),  // W 0, Z P or 0, Y and X the product
        .CEA1(1'b0), .CEA2(enable), .CEB1(1'b0), .CEB2(enable), .CEC(1'b0), .CED(1'b0), .CEAD(1'b0),
        .CEM(enable), .CEP(enable), .CECTRL(enable),
        .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CEINMODE(1'b0),
        .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0),
        .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTINMODE(1'b0),
        .P(p)
    );

endmodule

`default_nettype wire
