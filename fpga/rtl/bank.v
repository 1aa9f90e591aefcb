// A bank of an on-chip memory. One kernel writes it and another reads it, each through an ap_memory
// port of Vitis HLS (latency 1). A read in the same cycle as a write to its word may return the old
// or the new word; credits between the kernels exclude this. Verilog, because a module reference of
// a block design must not be SystemVerilog.

`default_nettype none

module bank #(
    parameter WIDTH = 8,         // bits of a word
    parameter WORDS = 1024,
    parameter ADDRESS_BITS = 10, // 1 << ADDRESS_BITS is at least WORDS
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

`ifndef SYNTHESIS
    if (WIDTH < 1 || WORDS < 1 || WORDS > 1 << ADDRESS_BITS) begin : gen_refused
        $error("bank: WIDTH must be at least 1, WORDS be addressed by ADDRESS_BITS");
    end
    always @(posedge clk) if (write_ce && write_we) begin
        writes_stay_in_the_bank: assert (write_address < WORDS);
        no_word_is_read_while_it_is_written:
        assert (!read_ce || read_address != write_address);
    end
`endif

endmodule

`default_nettype wire
