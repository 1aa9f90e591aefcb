// Gives a value CYCLES cycles later.

`default_nettype none

module delay #(
    parameter int BITS = 1,
    parameter int CYCLES = 1,
    parameter bit RESET = 0  // reset clears the registers
) (
    input  wire logic            clk,
    input  wire logic            reset,
    input  wire logic            enable,
    input  wire logic [BITS-1:0] in,
    output logic      [BITS-1:0] out
);

    if (CYCLES == 0) begin : gen_wire
        assign out = in;
    end else begin : gen_registers
        logic [CYCLES-1:0][BITS-1:0] stage;
        always_ff @(posedge clk)
            if (RESET && reset) stage <= '0;
            else if (enable) stage <= (CYCLES * BITS)'({stage, in});
        assign out = stage[CYCLES-1];
    end

endmodule

`default_nettype wire
