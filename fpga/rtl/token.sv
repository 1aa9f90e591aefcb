// A token: P cascades, a shift chain for their sums, and a FIFO of packed sums from the fast to the
// slow side. The chain shifts in each cycle; `capture` loads the sums of a pass into it.

`default_nettype none

module token #(
    parameter int P = 3,          // row pairs, 1 to 255
    parameter int C = 4,          // columns of a word
    parameter int S = 23,         // bits of the low field of a packed sum
    parameter bit DSP48E1 = 0,    // slices of 7 series
    parameter bit PRIMITIVES = 0, // instantiate slices and flip-flops
    parameter int DEPTH = 64,     // of the FIFO, a power of two
    localparam int SUM_BITS = 2 * S + 1,
    localparam int SLOT_BITS = $clog2(DEPTH)
) (
    input  wire logic                 clk,
    input  wire logic                 clk_array,
    input  wire logic                 reset, // for the assertions: the slow side's
    // Fast.
    input  wire logic [C*9-1:0]       activation,  // a cycle before w
    input  wire logic [P*C*9-1:0]     w,
    input  wire logic                 goes_on, // 0 a cycle before a sum starts in the slices
    input  wire logic                 capture, // the chain loads in the next cycle
    input  wire logic                 push,
    input  wire logic [SLOT_BITS-1:0] push_slot,
    // Slow.
    input  wire logic                 skip,
    input  wire logic [SLOT_BITS-1:0] pop_slot,
    output logic [SUM_BITS-1:0]       packed_sum // 0 after `skip`
);

    /*verilator no_inline_module*/

    if (P < 1 || P > 255 || DEPTH != 1 << SLOT_BITS) begin : gen_refused
        $error("token: P must be 1 to 255, DEPTH a power of two");
    end

    // One copy of the activation for each 8 cascades limits fan-out.
    localparam int COPIES = (P + 7) / 8;
    logic [COPIES*C*9-1:0] a;

    registers #(.BITS(COPIES * C * 9), .PRIMITIVES(PRIMITIVES)) copies (
        .clk(clk_array), .d({COPIES{activation}}), .q(a)
    );

    // A slice takes the inverse of `first`, so that no LUT lies between it and its register.
    logic [P-1:0] adds;
    registers #(.BITS(P), .PRIMITIVES(PRIMITIVES)) adds_copies (
        .clk(clk_array), .d({P{goes_on}}), .q(adds)
    );

    logic [P-1:0] load;
    registers #(.BITS(P), .PRIMITIVES(PRIMITIVES)) load_copies (
        .clk(clk_array), .d({P{capture}}), .q(load)
    );

    logic [(P+1)*SUM_BITS-1:0] chain;
    assign chain[SUM_BITS-1:0] = '0;

    for (genvar r = 0; r < P; r++) begin : gen_pairs
        logic [SUM_BITS-1:0] p, register;
        unit #(.C(C), .S(S), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)) cascade (
            .clk(clk_array), .w(w[r*C*9+:C*9]), .a(a[r/8*C*9+:C*9]), .first(!adds[r]), .p
        );
        // Position 0 loads in every cycle: the entries that follow its sum are not used.
        always_ff @(posedge clk_array)
            register <= r == 0 || load[r] ? p : chain[r*SUM_BITS+:SUM_BITS];
        assign chain[(r+1)*SUM_BITS+:SUM_BITS] = register;
    end

    (* ram_style = "distributed" *) logic [SUM_BITS-1:0] fifo[DEPTH];
    always_ff @(posedge clk_array) if (push) fifo[push_slot] <= chain[P*SUM_BITS+:SUM_BITS];
    always_ff @(posedge clk) packed_sum <= skip ? '0 : fifo[pop_slot];

`ifndef SYNTHESIS
    logic [7:0] held = '0; // sums of a pass in the chain
    logic checks = 1'b0;
    always_ff @(posedge clk_array) begin
        if (reset) checks <= 1'b1;
        if (load[0]) held <= 8'(P);
        else if (held != '0) held <= held - 1'b1;
        if (checks && !reset) begin
            the_chain_loads_at_once: assert (load == {P{load[0]}});
            a_pushed_pair_is_in_the_chain: assert (!push || held != '0);
        end
    end
`endif

endmodule

`default_nettype wire
