// Cascades of named DSP slices next to their model, fed alike.

`default_nettype none

module units (
    input  wire logic         clk,
    input  wire logic [143:0] w,
    input  wire logic [143:0] a,
    input  wire logic         first,
    output logic [7:0]        differs,
    output logic [46:0]       sum
);

    for (genvar i = 0; i < 8; i++) begin : gen_units
        localparam int C = 1 << i % 4;
        localparam bit E1 = i >= 4;
        localparam int S = E1 ? 21 : 23;
        logic [2*S:0] named, modelled;
        unit #(.C(C), .S(S), .DSP48E1(E1), .PRIMITIVES(1)) slices (
            .clk, .w(w[C*9-1:0]), .a(a[C*9-1:0]), .first, .p(named)
        );
        unit #(.C(C), .S(S), .DSP48E1(E1), .PRIMITIVES(0)) model (
            .clk, .w(w[C*9-1:0]), .a(a[C*9-1:0]), .first, .p(modelled)
        );
        assign differs[i] = named != modelled;
    end
    assign sum = gen_units[2].modelled;

endmodule

`default_nettype wire
