// The cascade in DSP48E2 or DSP48E1. The pre-adder forms W. The last DSP48E2 adds the product, the
// cascade and its own P in one cycle: its ALU input W is P, or 0 for the first word of a sum. A
// DSP48E1 cannot. So for C > 1 one more slice accumulates, P = P + PCIN; its X is 0 for the first
// word of a sum.

`default_nettype none

module unit_dsp48 #(
    parameter int C = 4,
    parameter int S = 23,
    parameter bit E1 = 0
) (
    input  wire logic           clk,
    input  wire logic [C*9-1:0] w,
    input  wire logic [C*9-1:0] a,
    input  wire logic           first,
    output logic      [2*S:0]   p
);

    localparam bit ADDS_UP = E1 && C > 1;  // in one more slice

    logic [48*(C+1)-1:0] cascade;
    logic [47:0] total;

    assign cascade[47:0] = '0;

    for (genvar c = 0; c < C; c++) begin : gen_lanes
        logic [8:0] operand;
        logic [29:0] low;
        logic [26:0] high;
        logic [17:0] activation;
        logic [47:0] sum;
        logic own;
        logic [2:0] z_select;

        assign operand = w[c*9+:9];
        assign low = {{26{operand[4]}}, operand[3:0]};
        assign high = {{27 - S - 3{operand[8]}}, operand[7:5], {S{1'b0}}};
        assign activation = {{10{a[c*9+8]}}, a[c*9+:8]};
        // Z is PCIN, or P if a DSP48E1 adds up itself; W is P; Y and X the product.
        assign own = c == C - 1 && !ADDS_UP && !first;
        assign z_select = c > 0 ? 3'b001 : {1'b0, E1 && own, 1'b0};

        unit_slice #(.E1(E1)) slice (
            .clk, .low, .high, .activation, .pcin(cascade[48*c+:48]),
            .opmode({1'b0, !E1 && own, z_select, 4'b0101}),
            .p(sum), .pcout(cascade[48*(c+1)+:48])
        );

        if (c == C - 1 && !ADDS_UP) begin : gen_end
            assign total = sum;
        end
    end

    if (ADDS_UP) begin : gen_sum
        logic [47:0] unused;

        unit_slice #(.E1(1), .MULTIPLIES(0)) slice (
            .clk, .low(30'd0), .high(27'd0), .activation(18'd0), .pcin(cascade[48*C+:48]),
            .opmode({2'b00, 3'b001, 2'b00, !first, 1'b0}),  // Z PCIN, X P or 0
            .p(total), .pcout(unused)
        );
    end
    assign p = total[2*S:0];

`ifndef SYNTHESIS
    logic [4:0] age = '0; // the registers' first values are gone
    logic starts, begun = 1'b0;
    always_ff @(posedge clk) begin
        starts <= first;
        if (age != '1) age <= age + 1'b1;
        else if (starts) begun <= 1'b1;
        if (begun)
            a_sum_fits_its_bits: assert (total[47:2*S] == '0 || total[47:2*S] == '1);
    end
`endif

endmodule

// A slice of the cascade: P adds up what `opmode` selects, of it (low + high) * activation.
module unit_slice #(
    parameter bit E1 = 0,
    parameter bit MULTIPLIES = 1
) (
    input  wire logic        clk,
    input  wire logic [29:0] low,
    input  wire logic [26:0] high,
    input  wire logic [17:0] activation,
    input  wire logic [47:0] pcin,
    input  wire logic [8:0]  opmode,
    output logic      [47:0] p,
    output logic      [47:0] pcout
);

    localparam int ON = MULTIPLIES ? 1 : 0;

    if (E1) begin : gen_dsp48e1
        DSP48E1 #(
            .AREG(ON), .ACASCREG(ON), .BREG(2 * ON), .BCASCREG(2 * ON), .CREG(0), .DREG(ON),
            .ADREG(ON), .MREG(ON), .PREG(1),
            .INMODEREG(0), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0),
            .USE_DPORT(MULTIPLIES ? "TRUE" : "FALSE"), .USE_MULT(MULTIPLIES ? "MULTIPLY" : "NONE"),
            .USE_SIMD("ONE48")
        ) dsp (
            .CLK(clk),
            .A(low), .B(activation), .C(48'd0), .D(high[24:0]), .CARRYIN(1'b0),
            .ACIN(30'd0), .BCIN(18'd0), .PCIN(pcin),
            .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
            .INMODE({2'b00, MULTIPLIES, 2'b00}), .ALUMODE(4'b0000), .CARRYINSEL(3'b000),
            .OPMODE(opmode[6:0]),
            .CEA1(1'b0), .CEA2(MULTIPLIES), .CEB1(MULTIPLIES), .CEB2(MULTIPLIES), .CEC(1'b0),
            .CED(MULTIPLIES), .CEAD(MULTIPLIES), .CEM(MULTIPLIES), .CEP(1'b1), .CECTRL(1'b1),
            .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CEINMODE(1'b0),
            .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0),
            .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTINMODE(1'b0),
            .P(p), .PCOUT(pcout)
        );
    end else begin : gen_dsp48e2
        DSP48E2 #(
            .AREG(1), .ACASCREG(1), .BREG(2), .BCASCREG(2), .CREG(0), .DREG(1), .ADREG(1),
            .MREG(1), .PREG(1),
            .INMODEREG(0), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0),
            .AMULTSEL("AD"), .BMULTSEL("B"), .USE_MULT("MULTIPLY"), .USE_SIMD("ONE48")
        ) dsp (
            .CLK(clk),
            .A(low), .B(activation), .C(48'd0), .D(high), .CARRYIN(1'b0),
            .ACIN(30'd0), .BCIN(18'd0), .PCIN(pcin),
            .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
            .INMODE(5'b00100), .ALUMODE(4'b0000), .CARRYINSEL(3'b000),
            .OPMODE(opmode),
            .CEA1(1'b0), .CEA2(1'b1), .CEB1(1'b1), .CEB2(1'b1), .CEC(1'b0), .CED(1'b1), .CEAD(1'b1),
            .CEM(1'b1), .CEP(1'b1), .CECTRL(1'b1),
            .CEALUMODE(1'b0), .CECARRYIN(1'b0), .CEINMODE(1'b0),
            .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0),
            .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0), .RSTALUMODE(1'b0), .RSTINMODE(1'b0),
            .P(p), .PCOUT(pcout)
        );
    end

endmodule

`default_nettype wire
