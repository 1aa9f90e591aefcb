// A FIFO in LUT RAM with an output register. It has no full flag: the writer counts free slots.

`default_nettype none

module queue #(
    parameter int BITS = 8,  // at least 1
    parameter int DEPTH = 16 // a power of two, at least 2; one more item is in the output register
) (
    input  wire logic            clk,
    input  wire logic            reset,
    input  wire logic            write,
    input  wire logic [BITS-1:0] in,
    output logic                 valid,
    input  wire logic            ready,
    output logic      [BITS-1:0] out
);

    localparam int SLOT_BITS = $clog2(DEPTH);

    if (BITS < 1 || DEPTH < 2 || DEPTH != 1 << SLOT_BITS) begin : gen_refused
        $error("queue: DEPTH must be a power of two, at least 2; BITS at least 1");
    end

    (* ram_style = "distributed" *) logic [BITS-1:0] items[DEPTH];
    logic [SLOT_BITS:0] written, read;

    wire move = written != read && (!valid || ready);

    always_ff @(posedge clk) begin
        if (write) items[written[SLOT_BITS-1:0]] <= in;
        if (move) out <= items[read[SLOT_BITS-1:0]];
        if (reset) begin
            {written, read} <= '0;
            valid <= 1'b0;
        end else begin
            if (write) written <= written + 1'b1;
            if (move) read <= read + 1'b1;
            valid <= move || (valid && !ready);
        end
    end

`ifndef SYNTHESIS
    wire [SLOT_BITS:0] used = written - read;
    logic checks = 1'b0, offered = 1'b0;
    logic [BITS-1:0] offer;
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        offered <= !reset && valid && !ready;
        offer <= out;
        if (checks && !reset) begin
            no_write_while_full: assert (!write || 32'(used) < DEPTH);
            no_more_items_than_slots: assert (32'(used) <= DEPTH);
            an_offer_stays: assert (!offered || (valid && out == offer));
        end
    end
`endif

endmodule

`default_nettype wire
