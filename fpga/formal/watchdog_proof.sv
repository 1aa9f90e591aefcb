// An MMCM that locks only after a reset gets one, long enough, within a bound; a locked one gets
// none. The watchdog's registers begin with any value.

`default_nettype none

module watchdog_proof #(
    parameter int HOLD = 3,
    parameter int WAIT_BITS = 3
) (
    input wire logic clk,
    input wire logic locked,
    input wire logic resetn
);

    localparam int BOUND = HOLD + (1 << WAIT_BITS) + 6;

    logic mmcm_resetn;
    clock_watchdog #(.HOLD(HOLD), .WAIT_BITS(WAIT_BITS)) dut (.clk, .resetn, .locked, .mmcm_resetn);

    // Cycles since the last change of what the watchdog sees; cycles of the present reset.
    logic [7:0] unlocked = '0, steady = '0, held = '0;
    logic reset_before = 1'b0;
    always_ff @(posedge clk) begin
        unlocked <= locked || !mmcm_resetn || !resetn ? '0 : unlocked + 1'b1;
        steady <= locked && resetn ? (steady == '1 ? steady : steady + 1'b1) : '0;
        held <= mmcm_resetn ? '0 : held == '1 ? held : held + 1'b1;
        reset_before <= !mmcm_resetn;
        an_unlocked_mmcm_is_reset: assert (32'(unlocked) < BOUND);
        a_locked_mmcm_runs: assert (32'(steady) <= BOUND || mmcm_resetn);
        if (begun) a_reset_is_long: assert (!(mmcm_resetn && reset_before) || 32'(held) >= HOLD);
    end
    // Not a reset that the first registers' values cause.
    logic begun = 1'b0;
    logic [3:0] age = '0;
    always_ff @(posedge clk) begin
        if (age != '1) age <= age + 1'b1;
        if (mmcm_resetn) begun <= age == '1;
    end

endmodule

`default_nettype wire
