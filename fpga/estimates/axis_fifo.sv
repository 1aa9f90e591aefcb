// A FIFO of the block design (axis_data_fifo): pointers, a RAM and an output register.
`default_nettype none
module axis_fifo #(parameter int BITS = 256, parameter int DEPTH = 64,
    parameter STYLE = "distributed") (
    input  wire logic            clk,
    input  wire logic            reset,
    input  wire logic            in_valid,
    output logic                 in_ready,
    input  wire logic [BITS-1:0] in,
    output logic                 out_valid,
    input  wire logic            out_ready,
    output logic [BITS-1:0]      out
);
    localparam int A = $clog2(DEPTH);
    (* ram_style = STYLE *) logic [BITS-1:0] items[DEPTH];
    logic [A-1:0] head, tail;
    logic [A:0] count;
    wire logic push = in_valid && in_ready;
    wire logic pop = count != 0 && (!out_valid || out_ready);
    always_ff @(posedge clk) begin
        if (push) items[tail] <= in;
        if (pop) out <= items[head];
        if (reset) begin
            {head, tail, count, out_valid, in_ready} <= '0;
        end else begin
            head <= head + A'(pop);
            tail <= tail + A'(push);
            count <= count + (A + 1)'(push) - (A + 1)'(pop);
            in_ready <= count + (A + 1)'(push) < DEPTH;
            out_valid <= pop || (out_valid && !out_ready);
        end
    end
endmodule
`default_nettype wire
