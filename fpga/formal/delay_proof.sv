// A delay gives what it took CYCLES cycles earlier; after a reset it gives 0 as long.

`default_nettype none

module delay_proof #(
    parameter int CYCLES = 2,
    parameter bit RESET = 0
) (
    input wire logic       clk,
    input wire logic [1:0] in,
    input wire logic       clear
);

    logic [1:0] out;
    delay #(.BITS(2), .CYCLES(CYCLES), .RESET(RESET)) dut (.clk, .reset(clear), .in, .out);

    logic [2*CYCLES+1:0] taken; // newest at the bottom
    logic [3:0] cycles = '0;
    wire [2*CYCLES+1:0] now = {taken[2*CYCLES-1:0], in};
    always_ff @(posedge clk) begin
        taken <= now;
        if (RESET && CYCLES > 0 && clear) taken <= '0;
        if (32'(cycles) < CYCLES) cycles <= cycles + 1'b1;
        else a_value_leaves_after_its_cycles: assert (out == now[2*CYCLES+1-:2]);
    end

endmodule

`default_nettype wire
