// Models of the DSP slices and of the flip-flop that fpga/rtl names, as AMD's UG579 and UG479
// describe them, in the forms that it uses: A (or the pre-adder's AD), B, M and P registered, X and
// Y the product, or X P; Z PCIN, P, a registered C or 0; W P or 0; Z minus the product with C. Any
// other form stops the simulation.

`default_nettype none

module DSP48E2 #(
    parameter int AREG = 1, ACASCREG = 1, BREG = 1, BCASCREG = 1, CREG = 1, DREG = 1, ADREG = 1,
    parameter int MREG = 1, PREG = 1,
    parameter int INMODEREG = 1, OPMODEREG = 1, ALUMODEREG = 1, CARRYINREG = 1, CARRYINSELREG = 1,
    parameter AMULTSEL = "A", BMULTSEL = "B", USE_MULT = "MULTIPLY", USE_SIMD = "ONE48"
) (
    input  wire logic        CLK,
    input  wire logic [29:0] A, ACIN,
    input  wire logic [17:0] B, BCIN,
    input  wire logic [47:0] C, PCIN,
    input  wire logic [26:0] D,
    input  wire logic        CARRYIN, CARRYCASCIN, MULTSIGNIN,
    input  wire logic [4:0]  INMODE,
    input  wire logic [3:0]  ALUMODE,
    input  wire logic [2:0]  CARRYINSEL,
    input  wire logic [8:0]  OPMODE,
    input  wire logic        CEA1, CEA2, CEB1, CEB2, CEC, CED, CEAD, CEM, CEP, CECTRL, CEALUMODE,
    input  wire logic        CECARRYIN, CEINMODE,
    input  wire logic        RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTCTRL, RSTALLCARRYIN, RSTALUMODE,
    input  wire logic        RSTINMODE,
    output logic [47:0]      P,
    output logic [47:0]      PCOUT
);

    localparam bit ADDS_C = CREG == 1; // A * B + C, without the pre-adder

    logic signed [26:0] a, d, ad;
    logic signed [17:0] b1, b2;
    logic signed [44:0] m;
    logic [8:0] opmode;
    logic [47:0] c, w, z, product;

    assign w = opmode[7] ? P : '0;
    assign z = ADDS_C ? c : opmode[6:4] == 3'b001 ? PCIN : '0;
    assign product = 48'(m);
    assign PCOUT = P;

    always_ff @(posedge CLK) begin
        a <= A[26:0];
        d <= D;
        ad <= a + d;
        b1 <= B;
        b2 <= b1;
        m <= ADDS_C ? 45'(a) * 45'(b1) : 45'(ad) * 45'(b2);
        c <= C;
        opmode <= OPMODE;
        P <= ADDS_C && ALUMODE[0] ? z - product : product + (ADDS_C ? '0 : w) + z;
        if (ADDS_C && (AREG != 1 || BREG != 1 || MREG != 1 || PREG != 1 || OPMODEREG != 0
            || INMODEREG != 0 || AMULTSEL != "A" || BMULTSEL != "B" || USE_MULT != "MULTIPLY"
            || USE_SIMD != "ONE48" || INMODE != '0 || (ALUMODE != '0 && ALUMODE != 4'b0011)
            || CARRYINSEL != '0 || CARRYIN
            || {CEA2, CEB2, CEC, CEM, CEP} != '1 || {RSTA, RSTB, RSTC, RSTM, RSTP} != '0
            || OPMODE != 9'b000110101))
            $fatal(1, "this form of a DSP48E2 is not modelled");
        if (!ADDS_C && (AREG != 1 || BREG != 2 || DREG != 1 || ADREG != 1 || MREG != 1 || PREG != 1
            || OPMODEREG != 1 || INMODEREG != 0 || AMULTSEL != "AD" || BMULTSEL != "B"
            || USE_MULT != "MULTIPLY" || USE_SIMD != "ONE48" || INMODE != 5'b00100
            || ALUMODE != '0 || CARRYINSEL != '0 || CARRYIN
            || {CEA2, CEB1, CEB2, CED, CEAD, CEM, CEP, CECTRL} != '1
            || {RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTCTRL} != '0
            || OPMODE[8] || OPMODE[6] || OPMODE[5] || OPMODE[3:0] != 4'b0101))
            $fatal(1, "this form of a DSP48E2 is not modelled");
    end

endmodule

module DSP48E1 #(
    parameter int AREG = 1, ACASCREG = 1, BREG = 1, BCASCREG = 1, CREG = 1, DREG = 1, ADREG = 1,
    parameter int MREG = 1, PREG = 1,
    parameter int INMODEREG = 1, OPMODEREG = 1, ALUMODEREG = 1, CARRYINREG = 1, CARRYINSELREG = 1,
    parameter USE_DPORT = "FALSE", USE_MULT = "MULTIPLY", USE_SIMD = "ONE48"
) (
    input  wire logic        CLK,
    input  wire logic [29:0] A, ACIN,
    input  wire logic [17:0] B, BCIN,
    input  wire logic [47:0] C, PCIN,
    input  wire logic [24:0] D,
    input  wire logic        CARRYIN, CARRYCASCIN, MULTSIGNIN,
    input  wire logic [4:0]  INMODE,
    input  wire logic [3:0]  ALUMODE,
    input  wire logic [2:0]  CARRYINSEL,
    input  wire logic [6:0]  OPMODE,
    input  wire logic        CEA1, CEA2, CEB1, CEB2, CEC, CED, CEAD, CEM, CEP, CECTRL, CEALUMODE,
    input  wire logic        CECARRYIN, CEINMODE,
    input  wire logic        RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTCTRL, RSTALLCARRYIN, RSTALUMODE,
    input  wire logic        RSTINMODE,
    output logic [47:0]      P,
    output logic [47:0]      PCOUT
);

    localparam bit ADDS_C = CREG == 1; // A * B + C, without the pre-adder
    localparam bit MULTIPLIES = USE_MULT == "MULTIPLY";

    logic signed [24:0] a, d, ad;
    logic signed [17:0] b1, b2;
    logic signed [42:0] m;
    logic [6:0] opmode;
    logic [47:0] c, x, z;

    // Y is the product's other half.
    assign x = ADDS_C ? 48'(m) : opmode[3:0] == 4'b0101 ? 48'(m) : opmode[3:0] == 4'b0010 ? P : '0;
    assign z = ADDS_C ? c : opmode[6:4] == 3'b001 ? PCIN : opmode[6:4] == 3'b010 ? P : '0;
    assign PCOUT = P;

    always_ff @(posedge CLK) begin
        a <= A[24:0];
        d <= D;
        ad <= a + d;
        b1 <= B;
        b2 <= b1;
        m <= ADDS_C ? 43'(a) * 43'(b1) : 43'(ad) * 43'(b2);
        c <= C;
        opmode <= OPMODE;
        P <= ADDS_C && ALUMODE[0] ? z - x : x + z;
        if (ADDS_C && (AREG != 1 || BREG != 1 || MREG != 1 || PREG != 1 || OPMODEREG != 0
            || INMODEREG != 0 || USE_DPORT != "FALSE" || !MULTIPLIES || USE_SIMD != "ONE48"
            || INMODE != '0 || (ALUMODE != '0 && ALUMODE != 4'b0011) || CARRYINSEL != '0 || CARRYIN
            || {CEA2, CEB2, CEC, CEM, CEP} != '1 || {RSTA, RSTB, RSTC, RSTM, RSTP} != '0
            || OPMODE != 7'b0110101))
            $fatal(1, "this form of a DSP48E1 is not modelled");
        if (!ADDS_C && (PREG != 1 || OPMODEREG != 1 || INMODEREG != 0 || USE_SIMD != "ONE48"
            || ALUMODE != '0 || CARRYINSEL != '0 || CARRYIN || !CEP || !CECTRL || RSTP || RSTCTRL
            || OPMODE[6] || (OPMODE[5] && OPMODE[4])))
            $fatal(1, "this form of a DSP48E1 is not modelled");
        if (!ADDS_C && MULTIPLIES
            && (AREG != 1 || BREG != 2 || DREG != 1 || ADREG != 1 || MREG != 1
                || USE_DPORT != "TRUE" || INMODE != 5'b00100 || OPMODE[3:0] != 4'b0101
                || {CEA2, CEB1, CEB2, CED, CEAD, CEM} != '1
                || {RSTA, RSTB, RSTC, RSTD, RSTM} != '0))
            $fatal(1, "this form of a DSP48E1 is not modelled");
        if (!MULTIPLIES && (USE_MULT != "NONE" || (OPMODE[3:0] != 4'b0010 && OPMODE[3:0] != '0)))
            $fatal(1, "this form of a DSP48E1 is not modelled");
    end

endmodule

module FDRE (
    input  wire logic C, CE, R, D,
    output logic      Q
);

    always_ff @(posedge C)
        if (R) Q <= 1'b0;
        else if (CE) Q <= D;

endmodule

`default_nettype wire
