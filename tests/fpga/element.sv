// The packed element: two 4-bit rows or one 8-bit row times an activation, in one DSP slice.

`default_nettype none

module element #(
    parameter int S = 23,
    parameter bit NAMED = 0  // the DSP48E2 by its name
) (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic        [7:0]  operands,
    input  wire logic               low_unsigned,
    input  wire logic signed [8:0]  a,      // a cycle after its operands
    input  wire logic               first,  // with a
    output logic signed      [47:0] p
);

    logic signed [S+3:0] w;

    pack #(.S(S)) pack (.clk, .enable, .operands, .low_unsigned, .w);
    if (NAMED) begin : gen_named
        mac_dsp48e2 #(.W_BITS(S + 4)) mac (.clk, .enable, .w, .a, .first, .p);
    end else begin : gen_inferred
        mac #(.W_BITS(S + 4)) mac (.clk, .enable, .w, .a, .first, .p);
    end

endmodule

`default_nettype wire
