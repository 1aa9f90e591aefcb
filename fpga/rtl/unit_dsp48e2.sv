// The cascade in DSP48E2. The pre-adder forms W. The last slice adds the product, the cascade and
// its own P in one cycle: its ALU input W is P, or 0 for the first word of a sum.

`default_nettype none

module unit_dsp48e2 #(
    parameter int C = 4,
    parameter int S = 23
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
        logic [26:0] high;
        logic [17:0] activation;
        logic [47:0] sum;
        logic [1:0] w_select;

        assign operand = w[c*9+:9];
        assign low = {{26{operand[4]}}, operand[3:0]};
        assign high = {{27 - S - 3{operand[8]}}, operand[7:5], {S{1'b0}}};
        assign activation = {{10{a[c*9+8]}}, a[c*9+:8]};
        assign w_select = {1'b0, c == C - 1 ? !first : 1'b0};

        DSP48E2 #(
            .AREG(1), .ACASCREG(1), .BREG(2), .BCASCREG(2), .CREG(0), .DREG(1), .ADREG(1),
            .MREG(1), .PREG(1),
            .INMODEREG(0), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0),
            .AMULTSEL("AD"), .BMULTSEL("B"), .USE_MULT("MULTIPLY"), .USE_SIMD("ONE48")
        ) slice (
            .CLK(clk),
            .A(low), .B(activation), .C(48'd0), .D(high), .CARRYIN(1'b0),
            .ACIN(30'd0), .BCIN(18'd0), .PCIN(cascade[48*c+:48]),
            .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
            .INMODE(5'b00100), .ALUMODE(4'b0000), .CARRYINSEL(3'b000),
            .OPMODE({w_select, c == 0 ? 3'b000 : 3'b001, 4'b0101}),  // Z PCIN; X, Y product
            .CEA1(1'b0), .CEA2(1'b1), .CEB1(1'b1), .CEB2(1'b1), .CEC(1'b0), .CED(1'b1), .CEAD(1'b1),
            .CEM(1'b1), .CEP(1'b1), .CECTRL(1'b1),
            .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CEINMODE(1'b0),
            .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0),
            .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTINMODE(1'b0),
            .P(sum), .PCOUT(cascade[48*(c+1)+:48])
        );

        if (c == C - 1) begin : gen_end
            assign p = sum[2*S:0];
        end
    end

endmodule

`default_nettype wire
