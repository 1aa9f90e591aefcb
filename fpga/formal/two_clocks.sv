// The clocks of a proof. Each step is a fast cycle; `clk` is 1 in the last step of a slow cycle,
// and enables the flip-flops that it clocks (clocks.v). `reset` lasts one slow cycle.

`default_nettype none

module two_clocks #(
    parameter int R = 2 // fast cycles of a slow cycle, 1 or 2
) (
    input  wire logic fast, // always 1, but no constant: Yosys removes flip-flops without a clock
    output logic      clk,
    output logic      reset
);

    logic phase = 1'b0, begins = 1'b1;
    assign clk = fast && (R == 1 || phase);
    assign reset = begins;
    always_comb assume (fast);
    always_ff @(posedge fast) phase <= !phase;
    always_ff @(posedge clk) begins <= 1'b0;

endmodule

`default_nettype wire
