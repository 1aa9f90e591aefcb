// A FIFO in LUT RAM with an output register. It has no full flag: the writer counts free slots.
// A wide queue consists of parts, each with a control of its own, all in step.

`default_nettype none

module queue #(
    parameter int BITS = 8,  // at least 1
    parameter int DEPTH = 16, // a power of two, at least 2; one more item is in the output register
    parameter int PART = 256, // most bits of a part
    parameter bit PRIMITIVES = 0 // instantiate the flip-flops of copies
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
    localparam int PARTS = (BITS + PART - 1) / PART;

    if (BITS < 1 || DEPTH < 2 || DEPTH != 1 << SLOT_BITS) begin : gen_refused
        $error("queue: DEPTH must be a power of two, at least 2; BITS at least 1");
    end

    logic [PARTS*(SLOT_BITS+1)-1:0] all_written, all_read;
    logic [PARTS-1:0] all_valid;
    assign valid = all_valid[0];

    for (genvar i = 0; i < PARTS; i++) begin : gen_parts
        localparam int LOW = i * BITS / PARTS;
        localparam int SIZE = (i + 1) * BITS / PARTS - LOW;
        (* ram_style = "distributed" *) logic [SIZE-1:0] items[DEPTH];
        logic [SLOT_BITS:0] written, read, written_next, read_next;
        logic here;

        wire move = written != read && (!here || ready);

        always_comb begin
            written_next = reset ? '0 : written + (SLOT_BITS + 1)'(write);
            read_next = reset ? '0 : read + (SLOT_BITS + 1)'(move);
        end
        registers #(.BITS(2 * SLOT_BITS + 3), .PRIMITIVES(PRIMITIVES && PARTS > 1)) control (
            .clk, .d({written_next, read_next, !reset && (move || (here && !ready))}),
            .q({written, read, here})
        );
        always_ff @(posedge clk) begin
            if (write) items[written[SLOT_BITS-1:0]] <= in[LOW+:SIZE];
            if (move) out[LOW+:SIZE] <= items[read[SLOT_BITS-1:0]];
        end
        assign all_written[i*(SLOT_BITS+1)+:SLOT_BITS+1] = written;
        assign all_read[i*(SLOT_BITS+1)+:SLOT_BITS+1] = read;
        assign all_valid[i] = here;
    end

`ifndef SYNTHESIS
    wire [SLOT_BITS:0] written = all_written[SLOT_BITS:0];
    wire [SLOT_BITS:0] read = all_read[SLOT_BITS:0];
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
            parts_are_in_step: assert (all_written == {PARTS{written}} && all_read == {PARTS{read}}
                && all_valid == {PARTS{valid}});
            an_offer_stays: assert (!offered || (valid && out == offer));
        end
    end
`endif

endmodule

`default_nettype wire
