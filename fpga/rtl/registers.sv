// Registers that synthesis neither merges with equal ones nor moves into a shift register, if
// PRIMITIVES is 1. They split the fan-out of a signal, and they follow the slow output of a shift
// register.

`default_nettype none

module registers #(
    parameter int BITS = 1, // at least 1
    parameter bit PRIMITIVES = 0 // instantiate the flip-flops
) (
    input  wire logic            clk,
    input  wire logic [BITS-1:0] d,
    output logic      [BITS-1:0] q
);

    if (BITS < 1) begin : gen_refused
        $error("registers: BITS must be at least 1");
    end

    if (PRIMITIVES) begin : gen_named
        for (genvar i = 0; i < BITS; i++) begin : gen_bits
            FDRE flip_flop (.C(clk), .CE(1'b1), .R(1'b0), .D(d[i]), .Q(q[i]));
        end
`ifndef SYNTHESIS
        logic [BITS-1:0] taken;
        logic checks = 1'b0;
        always_ff @(posedge clk) begin
            taken <= d;
            checks <= 1'b1;
            if (checks) the_flip_flops_are_plain: assert (q == taken);
        end
`endif
    end else begin : gen_plain
        always_ff @(posedge clk) q <= d;
    end

endmodule

`default_nettype wire
