// Shows the processing system whether the kernels and the array have their clocks. The word is
// wired to GPIO inputs of the processing system (EMIO), which answer with any bitstream and any
// clock, so reading it cannot hang. An access to the accelerator's registers without a clock does.
// rust/accelerator/src/isa/clocks.rs declares the word. Verilog, because a module reference of a
// block design must not be SystemVerilog.

`default_nettype none

module clock_status #(
    parameter [1:0] RATIO = 2, // cycles of the array in a cycle of the kernels, 1 or 2
    parameter [15:0] IDENTITY = 16'h5156
) (
    input  wire clk,         // the MMCM's input
    input  wire clk_kernels,
    input  wire clk_array,
    input  wire locked,      // of the MMCM; without one, the reset that would keep it from locking
    output wire [31:0] status
);

    // Each clock divided by 16: slow enough to be sampled with `clk`.
    reg [3:0] kernels = 0, array = 0;
    always @(posedge clk_kernels) kernels <= kernels + 1'b1;
    always @(posedge clk_array) array <= array + 1'b1;

    reg [6:0] place = 0;
    wire last = &place;
    always @(posedge clk) place <= place + 1'b1;

    wire [3:0] kernels_rate, array_rate;
    clock_rate rate_of_kernels (.clk(clk), .last(last), .divided(kernels[3]), .rate(kernels_rate));
    clock_rate rate_of_array (.clk(clk), .last(last), .divided(array[3]), .rate(array_rate));

    // No register takes `locked`: it falls when `clk` stops, too. Without an MMCM the bits of
    // `place` show that `clk` runs: they move, also between the reads of two of them.
    assign status = {IDENTITY, place[6:2], RATIO, locked, array_rate, kernels_rate};

`ifndef SYNTHESIS
    if (RATIO < 1 || RATIO > 2) begin : gen_refused
        $error("clock_status: RATIO must be 1 or 2");
    end
`endif

endmodule

// Measures a clock, divided by 16, in quarters of `clk` and at most 15, in windows of 128 cycles.
// A flip of the divided clock is a sixteenth of a window at equal rates. Flips that are sampled in
// a neighbouring window do not change the result at multiples of a quarter.
module clock_rate (
    input  wire clk,
    input  wire last,    // cycle of a window
    input  wire divided, // any clock
    output reg [3:0] rate
);

    (* ASYNC_REG = "TRUE" *) reg [1:0] here = 0;
    reg previous = 0;
    reg [5:0] flips = 2; // half a quarter more, so that `rate` is rounded
    wire flip = here[1] != previous;
    initial rate = 0;

    always @(posedge clk) begin
        here <= {here[0], divided};
        previous <= here[1];
        if (last) rate <= flips[5:2];
        if (last) flips <= 6'd2 + flip;
        else if (flip && flips[5:2] != 4'd15) flips <= flips + 1'b1;
    end

`ifndef SYNTHESIS
    reg counted = 0;
    always @(posedge clk) begin
        counted <= 1;
        // At the end of a window it is one that counted from 2 to 60.
        if (counted) a_count_does_not_wrap: assert (flips >= 6'd2 && flips <= 6'd60);
    end
`endif

endmodule

`default_nettype wire
