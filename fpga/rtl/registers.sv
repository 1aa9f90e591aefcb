// Registers that stay as they are written: synthesis neither merges them with equal ones nor takes
// them into a shift register. So copies of a signal share its load, and a shift register's slow
// output has a register behind it.

`default_nettype none

module registers #(
    parameter int BITS = 1,
    parameter bit PRIMITIVES = 0  // flip-flops by their name
) (
    input  wire logic            clk,
    input  wire logic [BITS-1:0] d,
    output logic      [BITS-1:0] q
);

    if (PRIMITIVES) begin : gen_named
        for (genvar i = 0; i < BITS; i++) begin : gen_bits
            FDRE flip_flop (.C(clk), .CE(1'b1), .R(1'b0), .D(d[i]), .Q(q[i]));
        end
    end else begin : gen_plain
        always_ff @(posedge clk) q <= d;
    end

endmodule

`default_nettype wire
