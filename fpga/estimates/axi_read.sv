// A read adapter of an AXI master port, like those of Vitis HLS: a queue of requests, bursts of at
// most 64 beats within 4 KiB, outstanding bursts, a data FIFO in block RAM, register slices.
`default_nettype none
module axi_read #(parameter int BITS = 128, parameter int OPEN = 8) (
    input  wire logic            clk,
    input  wire logic            reset,
    input  wire logic            request,
    input  wire logic [63:0]     address,
    input  wire logic [31:0]     beats,
    output logic                 request_ready,
    output logic                 arvalid,
    input  wire logic            arready,
    output logic [63:0]          araddr,
    output logic [7:0]           arlen,
    input  wire logic            rvalid,
    output logic                 rready,
    input  wire logic [BITS-1:0] rdata,
    input  wire logic            rlast,
    output logic                 valid,
    input  wire logic            ready,
    output logic [BITS-1:0]      data
);
    localparam int SIZE = $clog2(BITS / 8);
    localparam int DEPTH = 64 * OPEN;
    localparam int A = $clog2(DEPTH);
    // The queue of requests is a shift register.
    logic [95:0] waiting[4];
    logic [2:0] count;
    wire logic [1:0] last = count - 1'b1;
    wire logic [95:0] next = waiting[last];
    logic busy;
    logic [63:0] at;
    logic [31:0] left;
    wire logic [12-SIZE:0] in_page = (1 << (12 - SIZE)) - at[11:SIZE];
    wire logic [31:0] burst_page = left < in_page ? left : in_page;
    wire logic [6:0] burst = burst_page > 64 ? 7'd64 : burst_page[6:0];
    logic [$clog2(OPEN):0] open;
    logic [A:0] room;
    wire logic issue = busy && (!arvalid || arready) && open != OPEN && room >= burst;
    (* ram_style = "block" *) logic [BITS-1:0] fifo[DEPTH];
    logic [A-1:0] head, tail;
    logic [A:0] filled;
    logic [BITS-1:0] kept, entering, out;
    logic kept_valid, entering_valid, out_valid;
    wire logic push = entering_valid;
    wire logic pop = filled != 0 && (!out_valid || !valid || ready);
    assign request_ready = count != 4;
    assign rready = !kept_valid;
    wire logic accept = request && request_ready;
    wire logic start = !busy && count != 0;
    always_ff @(posedge clk) begin
        if (accept) begin
            waiting[0] <= {address, beats};
            for (int i = 1; i < 4; i++) waiting[i] <= waiting[i-1];
        end
        if (start) {at, left} <= next;
        else if (issue) begin
            araddr <= at;
            arlen <= burst - 1'b1;
            at <= at + (burst << SIZE);
            left <= left - burst;
        end
        if (!kept_valid) kept <= rdata;
        entering <= kept_valid ? kept : rdata;
        if (push) fifo[tail] <= entering;
        if (pop) out <= fifo[head];
        if (!valid || ready) data <= out;
        if (reset) begin
            {count, busy, arvalid, open, head, tail, filled, kept_valid, entering_valid,
                out_valid, valid} <= 0;
            room <= DEPTH;
        end else begin
            count <= count + accept - start;
            busy <= start || (busy && !(issue && left == burst));
            arvalid <= issue || (arvalid && !arready);
            open <= open + issue - (rvalid && rready && rlast);
            room <= room - (issue ? burst : 7'd0) + (valid && ready);
            kept_valid <= rvalid && rready && entering_valid && filled == DEPTH;
            entering_valid <= (rvalid && rready) || kept_valid;
            tail <= tail + push;
            head <= head + pop;
            filled <= filled + push - pop;
            out_valid <= pop || (out_valid && valid && !ready);
            valid <= out_valid || (valid && !ready);
        end
    end
endmodule
`default_nettype wire
