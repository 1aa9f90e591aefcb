// A FIFO in LUT RAM with an output register. It has no full flag: the writer counts free slots.

`default_nettype none

module queue #(
    parameter int BITS = 8,
    parameter int DEPTH = 16
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

endmodule

`default_nettype wire
