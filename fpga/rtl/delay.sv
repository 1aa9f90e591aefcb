// Delays a value by CYCLES cycles. The last stage is a `registers`, which synthesis keeps out of a
// shift register.

`default_nettype none

module delay #(
    parameter int BITS = 1,      // at least 1
    parameter int CYCLES = 1,    // 0: a wire
    parameter bit RESET = 0,     // reset clears the registers
    parameter bit PRIMITIVES = 0 // instantiate the flip-flops of the last stage
) (
    input  wire logic            clk,
    input  wire logic            reset,
    input  wire logic [BITS-1:0] in,
    output logic      [BITS-1:0] out
);

    localparam int STAGES = CYCLES > 0 ? CYCLES : 1;

    if (BITS < 1 || CYCLES < 0) begin : gen_refused
        $error("delay: BITS must be at least 1, CYCLES at least 0");
    end

    if (CYCLES == 0) begin : gen_wire
        assign out = in;
    end else if (RESET) begin : gen_reset
        logic [STAGES*BITS-1:0] stage;
        always_ff @(posedge clk)
            if (reset) stage <= '0;
            else stage <= (STAGES * BITS)'({stage, in});
        assign out = stage[STAGES*BITS-1-:BITS];
    end else if (CYCLES == 1) begin : gen_one
        registers #(.BITS(BITS), .PRIMITIVES(PRIMITIVES)) last (.clk(clk), .d(in), .q(out));
    end else begin : gen_shift
        logic [(STAGES-1)*BITS-1:0] stage;
        always_ff @(posedge clk) stage <= ((STAGES - 1) * BITS)'({stage, in});
        registers #(.BITS(BITS), .PRIMITIVES(PRIMITIVES)) last (
            .clk(clk), .d(stage[(STAGES-1)*BITS-1-:BITS]), .q(out)
        );
    end

endmodule

`default_nettype wire
