// Resets the MMCM while it is not locked, on the clock that it takes, which the processing system
// makes and which always runs. If that clock changes under the MMCM, the MMCM may lose its lock and
// find it again only after a reset (UG572). Without a lock the kernels have no clock, and an access
// to their registers does not end.
//
// The reset lasts HOLD cycles, then the MMCM has 1 << WAIT_BITS cycles to lock. Verilog, because a
// module reference of a block design must not be SystemVerilog.

`default_nettype none

module clock_watchdog #(
    parameter HOLD = 16,     // cycles of a reset: more than 5 ns; 1 to 1 << WAIT_BITS
    parameter WAIT_BITS = 16 // an MMCM locks within 100 us: 65,536 cycles at up to 650 MHz
) (
    input  wire clk,     // the MMCM's input
    input  wire resetn,  // of the processing system
    input  wire locked,
    output reg  mmcm_resetn
);

    (* ASYNC_REG = "TRUE" *) reg [1:0] locked_here, resetn_here;
    reg [WAIT_BITS:0] waited; // since the reset began; the upper half waits for the lock

    wire is_locked = locked_here[1];

    // No register has a reset: the processing system may change the clock at any time.
    always @(posedge clk) begin
        locked_here <= {locked_here[0], locked};
        resetn_here <= {resetn_here[0], resetn};
        if (!resetn_here[1]) waited <= 0;
        else if (waited < HOLD) waited <= waited + 1'b1;
        else if (is_locked) waited <= 1 << WAIT_BITS;
        else waited <= waited[WAIT_BITS] ? waited + 1'b1 : 1 << WAIT_BITS; // wraps to a reset
        mmcm_resetn <= resetn_here[1] && waited >= HOLD;
    end

`ifndef SYNTHESIS
    if (HOLD < 1 || HOLD > 1 << WAIT_BITS) begin : gen_refused
        $error("clock_watchdog: HOLD must be 1 to 1 << WAIT_BITS");
    end
`endif

endmodule

`default_nettype wire
