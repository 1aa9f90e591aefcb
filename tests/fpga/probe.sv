// Prints the fast cycles of the first and the last word of each pass. The harness sets the time to
// the number of the cycle, from 1 on, and to 0 in a reset.

`default_nettype none

module probe (
    input wire logic clk_array,
    input wire logic valid,
    input wire logic first,
    input wire logic last
);

    always @(posedge clk_array)
        if ($time > 0 && valid) begin
            if (first) $display("start %0d", $time - 1);
            if (last) $display("end %0d", $time - 1);
        end

endmodule

bind issue probe probe (.clk_array, .valid, .first, .last);

`default_nettype wire
