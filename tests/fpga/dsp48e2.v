// Models a DSP48E2 as AMD's UG579 describes it, in the one form that fpga/rtl/mac_dsp48e2.v and
// Yosys use: A and B registered or not, product, P.

module DSP48E2 #(
    parameter integer AREG = 1, ACASCREG = 1, BREG = 1, BCASCREG = 1, CREG = 1, DREG = 1, ADREG = 1,
    parameter integer MREG = 1, PREG = 1,
    parameter integer INMODEREG = 1, OPMODEREG = 1, ALUMODEREG = 1,
    parameter integer CARRYINREG = 1, CARRYINSELREG = 1,
    parameter AMULTSEL = "A", BMULTSEL = "B", A_INPUT = "DIRECT", B_INPUT = "DIRECT",
    parameter PREADDINSEL = "A",
    parameter USE_MULT = "MULTIPLY", USE_SIMD = "ONE48", USE_PATTERN_DETECT = "NO_PATDET",
    parameter USE_WIDEXOR = "FALSE",
    parameter [8:0] IS_OPMODE_INVERTED = 0
) (
    input CLK,
    input signed [29:0] A, ACIN,
    input signed [17:0] B, BCIN,
    input signed [47:0] C, PCIN,
    input signed [26:0] D,
    input CARRYIN, CARRYCASCIN, MULTSIGNIN,
    input [4:0] INMODE,
    input [3:0] ALUMODE,
    input [2:0] CARRYINSEL,
    input [8:0] OPMODE,
    input CEA1, CEA2, CEB1, CEB2, CEC, CED, CEAD, CEM, CEP, CECTRL, CEALUMODE, CECARRYIN, CEINMODE,
    input RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTCTRL, RSTALLCARRYIN, RSTALUMODE, RSTINMODE,
    output reg signed [47:0] P
);

    initial
        if (AREG > 1 || BREG > 1 || AMULTSEL != "A" || BMULTSEL != "B" || A_INPUT != "DIRECT"
            || B_INPUT != "DIRECT"
            || USE_MULT != "MULTIPLY" || USE_SIMD != "ONE48") begin
            $display("this form of a DSP48E2 is not modelled");
            $fatal;
        end

    reg signed [26:0] a_register;
    reg signed [17:0] b_register;
    reg signed [44:0] m_register;
    reg [8:0] opmode_register;
    wire signed [26:0] a = AREG == 0 ? A[26:0] : a_register;
    wire signed [17:0] b = BREG == 0 ? B : b_register;
    wire signed [44:0] m = MREG == 0 ? a * b : m_register;
    wire [8:0] opmode = (OPMODEREG == 0 ? OPMODE : opmode_register) ^ IS_OPMODE_INVERTED;
    wire signed [47:0] z = opmode[6:4] == 3'b010 ? P : 0;
    wire signed [47:0] sum = z + m;
    wire known = opmode[8:7] == 0 && opmode[3:0] == 4'b0101
        && (opmode[6:4] == 0 || opmode[6:4] == 3'b010) && ALUMODE == 0 && INMODE == 0;

    always @(posedge CLK) begin
        if (CEA2) a_register <= A[26:0];
        if (CEB2) b_register <= B;
        if (CEM) m_register <= a * b;
        if (CECTRL) opmode_register <= OPMODE;
        if (PREG == 1 && CEP) P <= sum;
        if (RSTA || RSTB || RSTM || RSTP || RSTCTRL) begin
            $display("resets of a DSP48E2 are not modelled");
            $fatal;
        end
    end

    generate
        if (PREG == 0) always @* P = sum;
    endgenerate

endmodule
