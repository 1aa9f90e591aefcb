// The cascade in DSP48E1. The pre-adder forms W. A DSP48E1 cannot add product, cascade and P in one
// cycle. So for C > 1 one more slice accumulates, P = P + PCIN; its X is 0 for the first word of a
// sum.

`default_nettype none

module unit_dsp48e1 #(
    parameter int C = 1,
    parameter int S = 21
) (
    input  wire logic           clk,
    input  wire logic [C*9-1:0] w,
    input  wire logic [C*9-1:0] a,
    input  wire logic           first,
    output logic      [2*S:0]   p
);

    logic [48*(C+1)-1:0] cascade;

    assign cascade[47:0] = '0;

    for (genvar c = 0; c < C; c++) begin : gen_lanes
        logic [8:0] operand;
        logic [29:0] low;
        logic [24:0] high;
        logic [17:0] activation;
        logic [47:0] sum;

        assign operand = w[c*9+:9];
        assign low = {{26{operand[4]}}, operand[3:0]};
        assign high = {{25 - S - 3{operand[8]}}, operand[7:5], {S{1'b0}}};
        assign activation = {{10{a[c*9+8]}}, a[c*9+:8]};

        DSP48E1 #(
            .AREG(1), .ACASCREG(1), .BREG(2), .BCASCREG(2), .CREG(0), .DREG(1), .ADREG(1),
            .MREG(1), .PREG(1),
            .INMODEREG(0), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0),
            .USE_DPORT("TRUE"), .USE_MULT("MULTIPLY"), .USE_SIMD("ONE48")
        ) slice (
            .CLK(clk),
            .A(low), .B(activation), .C(48'd0), .D(high), .CARRYIN(1'b0),
            .ACIN(30'd0), .BCIN(18'd0), .PCIN(cascade[48*c+:48]),
            .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
            .INMODE(5'b00100), .ALUMODE(4'b0000), .CARRYINSEL(3'b000),
            // Z is PCIN, or P if this slice accumulates; Y and X are the product.
            .OPMODE({c > 0 ? 3'b001 : C == 1 ? {1'b0, !first, 1'b0} : 3'b000, 4'b0101}),
            .CEA1(1'b0), .CEA2(1'b1), .CEB1(1'b1), .CEB2(1'b1), .CEC(1'b0), .CED(1'b1), .CEAD(1'b1),
            .CEM(1'b1), .CEP(1'b1), .CECTRL(1'b1),
            .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CEINMODE(1'b0),
            .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0),
            .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTINMODE(1'b0),
            .P(sum), .PCOUT(cascade[48*(c+1)+:48])
        );

        if (C == 1) begin : gen_end
            assign p = sum[2*S:0];
        end
    end

    if (C > 1) begin : gen_sum
        logic [47:0] sum;

        DSP48E1 #(
            .AREG(0), .ACASCREG(0), .BREG(0), .BCASCREG(0), .CREG(0), .DREG(0), .ADREG(0),
            .MREG(0), .PREG(1),
            .INMODEREG(0), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0),
            .USE_DPORT("FALSE"), .USE_MULT("NONE"), .USE_SIMD("ONE48")
        ) slice (
            .CLK(clk),
            .A(30'd0), .B(18'd0), .C(48'd0), .D(25'd0), .CARRYIN(1'b0),
            .ACIN(30'd0), .BCIN(18'd0), .PCIN(cascade[48*C+:48]),
            .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
            .INMODE(5'b00000), .ALUMODE(4'b0000), .CARRYINSEL(3'b000),
            .OPMODE({3'b001, 2'b00, !first, 1'b0}),  // Z is PCIN, X is P or 0
            .CEA1(1'b0), .CEA2(1'b0), .CEB1(1'b0), .CEB2(1'b0), .CEC(1'b0), .CED(1'b0), .CEAD(1'b0),
            .CEM(1'b0), .CEP(1'b1), .CECTRL(1'b1),
            .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CEINMODE(1'b0),
            .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0),
            .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTINMODE(1'b0),
            .P(sum)
        );
        assign p = sum[2*S:0];
    end

endmodule

`default_nettype wire
