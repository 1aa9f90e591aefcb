// Computes a * b + c in a DSP slice: registers of a and b, of the product and of c, of the sum. `c`
// arrives a cycle after `a` and `b`, `p` is three cycles after these. `subtracts`, two cycles after
// them, gives c - a * b.

`default_nettype none

module multiply_add #(
    parameter int A = 16,         // bits of a, signed, at least 2
    parameter int B = 16,         // bits of b, signed, at least 2
    parameter int P = 32,         // bits of c and of the result, A + B to 48
    parameter bit DSP48E1 = 0,    // a slice of the 7 series
    parameter bit PRIMITIVES = 0  // instantiate the slice, if the factors fit one
) (
    input  wire logic                clk,
    input  wire logic signed [A-1:0] a,
    input  wire logic signed [B-1:0] b,
    input  wire logic signed [P-1:0] c,
    input  wire logic                subtracts,
    output logic signed [P-1:0]      p
);

    localparam bit NAMED = PRIMITIVES && A <= (DSP48E1 ? 25 : 27) && B <= 18;

    if (A < 2 || B < 2 || P < A + B || P > 48) begin : gen_refused
        $error("multiply_add: A and B must be at least 2, P A + B to 48");
    end

    if (NAMED) begin : gen_slice
        logic [47:0] sum, unused;
        wire [29:0] factor = 30'(a);
        wire [17:0] other = 18'(b);
        wire [47:0] added = 48'(c);
        assign p = sum[P-1:0];
        if (DSP48E1) begin : gen_dsp48e1
            DSP48E1 #(
                .AREG(1), .ACASCREG(1), .BREG(1), .BCASCREG(1), .CREG(1), .DREG(1), .ADREG(1),
                .MREG(1), .PREG(1), .INMODEREG(0), .OPMODEREG(0), .ALUMODEREG(0), .CARRYINREG(0),
                .CARRYINSELREG(0), .USE_DPORT("FALSE"), .USE_MULT("MULTIPLY"), .USE_SIMD("ONE48")
            ) dsp (
                .CLK(clk), .A(factor), .B(other), .C(added), .D(25'd0), .CARRYIN(1'b0),
                .ACIN(30'd0), .BCIN(18'd0), .PCIN(48'd0), .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
                .INMODE(5'b00000), .ALUMODE({2'b00, {2{subtracts}}}), .CARRYINSEL(3'b000),
                .OPMODE(7'b0110101),
                .CEA1(1'b0), .CEA2(1'b1), .CEB1(1'b0), .CEB2(1'b1), .CEC(1'b1), .CED(1'b0),
                .CEAD(1'b0), .CEM(1'b1), .CEP(1'b1), .CECTRL(1'b1), .CEALUMODE(1'b0),
                .CECARRYIN(1'b0), .CEINMODE(1'b0), .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0),
                .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0),
                .RSTALUMODE(1'b0), .RSTINMODE(1'b0), .P(sum), .PCOUT(unused)
            );
        end else begin : gen_dsp48e2
            DSP48E2 #(
                .AREG(1), .ACASCREG(1), .BREG(1), .BCASCREG(1), .CREG(1), .DREG(1), .ADREG(1),
                .MREG(1), .PREG(1), .INMODEREG(0), .OPMODEREG(0), .ALUMODEREG(0), .CARRYINREG(0),
                .CARRYINSELREG(0), .AMULTSEL("A"), .BMULTSEL("B"), .USE_MULT("MULTIPLY"),
                .USE_SIMD("ONE48")
            ) dsp (
                .CLK(clk), .A(factor), .B(other), .C(added), .D(27'd0), .CARRYIN(1'b0),
                .ACIN(30'd0), .BCIN(18'd0), .PCIN(48'd0), .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
                .INMODE(5'b00000), .ALUMODE({2'b00, {2{subtracts}}}), .CARRYINSEL(3'b000),
                .OPMODE(9'b000110101),
                .CEA1(1'b0), .CEA2(1'b1), .CEB1(1'b0), .CEB2(1'b1), .CEC(1'b1), .CED(1'b0),
                .CEAD(1'b0), .CEM(1'b1), .CEP(1'b1), .CECTRL(1'b1), .CEALUMODE(1'b0),
                .CECARRYIN(1'b0), .CEINMODE(1'b0), .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0),
                .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTCTRL(1'b0), .RSTALLCARRYIN(1'b0),
                .RSTALUMODE(1'b0), .RSTINMODE(1'b0), .P(sum), .PCOUT(unused)
            );
        end
    end else begin : gen_inferred
        (* use_dsp = "yes" *) logic signed [A+B-1:0] product;
        logic signed [A-1:0] a_in;
        logic signed [B-1:0] b_in;
        logic signed [P-1:0] c_in, wide;
        assign wide = product;
        always_ff @(posedge clk) begin
            a_in <= a;
            b_in <= b;
            product <= a_in * b_in;
            c_in <= c;
            p <= subtracts ? c_in - wide : c_in + wide;
        end
    end

endmodule

`default_nettype wire
