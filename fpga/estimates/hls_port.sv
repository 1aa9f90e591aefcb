// A register slice of two words, like that of Vitis HLS between an AXI stream and a process.
`default_nettype none
module hls_port #(parameter int BITS = 27) (
    input  wire logic            clk,
    input  wire logic            reset,
    input  wire logic            in_valid,
    output logic                 in_ready,
    input  wire logic [BITS-1:0] in,
    output logic                 out_valid,
    input  wire logic            out_ready,
    output logic [BITS-1:0]      out
);
    logic [BITS-1:0] kept;
    logic full;
    assign in_ready = !full;
    always_ff @(posedge clk) begin
        if (!full) kept <= in;
        if (out_ready || !out_valid) out <= full ? kept : in;
        if (reset) {full, out_valid} <= '0;
        else begin
            full <= out_valid && !out_ready && (full || in_valid);
            out_valid <= in_valid || full || (out_valid && !out_ready);
        end
    end
endmodule

`default_nettype wire
