// A bank of a memory that a kernel writes and the array reads. The write port is an ap_memory port
// of Vitis HLS with an enable for each part of a word. `word` follows its address by two cycles of
// `clk_array` (the RAM and its output register); if `enable` was 0, `word` is 0. Credits between
// the kernels exclude a read of a word that is being written. Each 72 bits of `word`, the output of
// one block RAM, have a register of their own that zeroes them.
//
// UltraRAM has one clock, `clk_array`. Its write is registered and happens a slow cycle later; the
// RAM repeats it in each fast cycle of that slow cycle, with the same word.

`default_nettype none

module operand_bank #(
    parameter WIDTH = 32,        // bits of a word, a multiple of ENABLES
    parameter WORDS = 64,
    parameter ADDRESS_BITS = 6,  // 1 << ADDRESS_BITS is at least WORDS
    parameter ENABLES = 1,       // parts of a word
    parameter STYLE = "block",   // distributed, block or ultra
    parameter PRIMITIVES = 0     // instantiate the flip-flops of copies
) (
    input  wire                    clk,
    input  wire [ENABLES-1:0]      write_enable,
    input  wire [ADDRESS_BITS-1:0] write_address,
    input  wire [WIDTH-1:0]        write_d,
    input  wire                    clk_array,
    input  wire                    enable,
    input  wire [ADDRESS_BITS-1:0] address,
    output reg  [WIDTH-1:0]        word
);

    localparam PART = WIDTH / ENABLES;
    localparam PORT = 72;
    localparam PORTS = (WIDTH + PORT - 1) / PORT;

    (* ram_style = STYLE *) reg [WIDTH-1:0] words[0:WORDS-1];
    reg [WIDTH-1:0]        latch;
    wire [PORTS-1:0]       idle;

    registers #(.BITS(PORTS), .PRIMITIVES(PRIMITIVES)) idle_copies (
        .clk(clk_array), .d({PORTS{!enable}}), .q(idle)
    );
    always @(posedge clk_array) if (enable) latch <= words[address];

    genvar i;
    generate
        for (i = 0; i < PORTS; i = i + 1) begin : gen_ports
            localparam BITS = i + 1 < PORTS ? PORT : WIDTH - i * PORT;
            always @(posedge clk_array)
                word[i*PORT +: BITS] <= idle[i] ? {BITS{1'b0}} : latch[i*PORT +: BITS];
        end
        if (STYLE == "ultra") begin : gen_ultra
            reg [ENABLES-1:0]      enable_in;
            reg [ADDRESS_BITS-1:0] address_in;
            reg [WIDTH-1:0]        d_in;
            always @(posedge clk) begin
                enable_in <= write_enable;
                address_in <= write_address;
                d_in <= write_d;
            end
            for (i = 0; i < ENABLES; i = i + 1) begin : gen_parts
                always @(posedge clk_array)
                    if (enable_in[i]) words[address_in][i*PART +: PART] <= d_in[i*PART +: PART];
            end
        end else begin : gen_two_clocks
            for (i = 0; i < ENABLES; i = i + 1) begin : gen_parts
                always @(posedge clk)
                    if (write_enable[i])
                        words[write_address][i*PART +: PART] <= write_d[i*PART +: PART];
            end
        end
    endgenerate

`ifndef SYNTHESIS
    if (WIDTH % ENABLES != 0 || WORDS < 1 || WORDS > 1 << ADDRESS_BITS) begin : gen_refused
        $error("operand_bank: ENABLES must divide WIDTH, ADDRESS_BITS address WORDS");
    end
    always @(posedge clk)
        if (|write_enable) writes_stay_in_the_bank: assert (write_address < WORDS);
    // Not for row operands: a pass also reads the banks of row pairs that it lacks.
    always @(posedge clk_array)
        if (ENABLES == 1 && enable && write_enable[0])
            no_word_is_read_while_it_is_written: assert (address != write_address);
`endif

endmodule

`default_nettype wire
