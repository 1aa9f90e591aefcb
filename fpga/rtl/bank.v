// A bank of an on-chip memory. One kernel writes it and another reads it, each through an ap_memory
// port of Vitis HLS (latency 1). A read in the same cycle as a write to its word may return the old
// or the new word; credits between the kernels exclude this. Verilog, because a module reference of
// a block design must not be SystemVerilog.

`default_nettype none

module bank #(
    parameter WIDTH = 8,
    parameter WORDS = 1024,
    parameter ADDRESS_BITS = 10,
    parameter STYLE = "block"  // distributed, block or ultra
) (
    input  wire                    clk,
    input  wire [ADDRESS_BITS-1:0] write_address,
    input  wire                    write_ce,
    input  wire                    write_we,
    input  wire [WIDTH-1:0]        write_d,
    input  wire [ADDRESS_BITS-1:0] read_address,
    input  wire                    read_ce,
    output reg  [WIDTH-1:0]        read_q
);

    (* ram_style = STYLE *) reg [WIDTH-1:0] words[0:WORDS-1];

    always @(posedge clk) begin
        if (write_ce && write_we) words[write_address] <= write_d;
        if (read_ce) read_q <= words[read_address];
    end

endmodule

`default_nettype wire
