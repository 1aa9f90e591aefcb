// The array with the memories that it reads. The write ports are clocked by `clk`. Part i of each
// vector belongs to bank i, in the order of docs/accelerator.md.

`default_nettype none

module array_top #(
    parameter int T = 5,             // tokens
    parameter int P = 3,             // row pairs, 1 to 255
    parameter int C = 4,             // columns of a word, a power of two up to 16
    parameter int L = 2,             // requantizing lanes, 1 to T; tokens of a word of input
    parameter int M = 2,             // LayerNorm lanes, 1 to T: tokens of a word of normed
    parameter int E = 2,             // exponential lanes, 1 to T: tokens of a word of probability
    parameter int S = 23,            // bits of the low field of a packed sum; DSP48E1 21
    parameter int FRAMES = 2,        // slots of normed, 1 or 2
    parameter int KEY_BANKS = 3,     // a multiple of P
    parameter int VALUE_BANKS = 3,   // at least P, and L + C - 1 values over C
    parameter int BEAT = 16,         // bytes of a beat of weights
    // Words of a bank; WEIGHT_WORDS: of one half of the double buffer.
    parameter int INPUT_WORDS = 64,
    parameter int NORM_WORDS = 64,
    parameter int QUERY_WORDS = 64,
    parameter int HIDDEN_WORDS = 64,
    parameter int SCORE_WORDS = 64,
    parameter int KEY_WORDS = 64,
    parameter int VALUE_WORDS = 64,
    parameter int WEIGHT_WORDS = 64,
    parameter int ADDRESS_BITS = 6,  // of activations
    parameter int ROW_BITS = 7,      // of the weight double buffer, keys and values
    parameter int FIFO_DEPTH = 64,   // packed sums of a token, a power of two, at least P
    // Kinds of the memories: 0 LUT RAM, 1 block RAM, 2 UltraRAM.
    parameter int INPUT_RAM = 1,
    parameter int NORM_RAM = 1,
    parameter int QUERY_RAM = 1,
    parameter int HIDDEN_RAM = 1,
    parameter int SCORE_RAM = 1,
    parameter int KEY_RAM = 1,
    parameter int VALUE_RAM = 1,
    parameter bit DSP48E1 = 0,       // slices of 7 series
    parameter bit PRIMITIVES = 0,    // instantiate primitives instead of inferring them
    localparam int G = (T + L - 1) / L,
    localparam int GN = (T + M - 1) / M,
    localparam int GE = (T + E - 1) / E,
    localparam int SUMS_BITS = (L * 27 + 7) / 8 * 8,
    localparam int SCORES_BITS = T * 24
) (
    input  wire logic                               clk,
    input  wire logic                               clk_array,
    input  wire logic                               reset,
    input  wire logic                               passes_tvalid,
    output logic                                    passes_tready,
    input  wire logic [127:0]                       passes_tdata,
    input  wire logic                               demands_tvalid,
    output logic                                    demands_tready,
    input  wire logic [31:0]                        demands_tdata,
    input  wire logic                               weights_tvalid,
    output logic                                    weights_tready,
    input  wire logic [BEAT*8-1:0]                  weights_tdata,
    output logic                                    array_to_load_tvalid,
    input  wire logic                               array_to_load_tready,
    output logic [7:0]                              array_to_load_tdata,
    output logic                                    sums_tvalid,
    input  wire logic                               sums_tready,
    output logic [SUMS_BITS-1:0]                    sums_tdata,
    output logic                                    scores_tvalid,
    input  wire logic                               scores_tready,
    output logic [SCORES_BITS-1:0]                  scores_tdata,
    output logic                                    retired,
    output logic                                    starved,
    input  wire logic [G*C-1:0]                     input_write,
    input  wire logic [G*C*ADDRESS_BITS-1:0]        input_write_address,
    input  wire logic [G*C*L*8-1:0]                 input_write_d,
    input  wire logic [FRAMES*GN*C-1:0]             normed_write,
    input  wire logic [FRAMES*GN*C*ADDRESS_BITS-1:0] normed_write_address,
    input  wire logic [FRAMES*GN*C*M*8-1:0]         normed_write_d,
    input  wire logic [G*C-1:0]                     query_write,
    input  wire logic [G*C*ADDRESS_BITS-1:0]        query_write_address,
    input  wire logic [G*C*L*8-1:0]                 query_write_d,
    input  wire logic [G*C-1:0]                     hidden_write,
    input  wire logic [G*C*ADDRESS_BITS-1:0]        hidden_write_address,
    input  wire logic [G*C*L*8-1:0]                 hidden_write_d,
    input  wire logic [2*GE*C-1:0]                  probability_write,
    input  wire logic [2*GE*C*ADDRESS_BITS-1:0]     probability_write_address,
    input  wire logic [2*GE*C*E*8-1:0]              probability_write_d,
    // With byte enables: a word is C codes, then C enables.
    input  wire logic [KEY_BANKS-1:0]               key_write,
    input  wire logic [KEY_BANKS*ROW_BITS-1:0]      key_write_address,
    input  wire logic [KEY_BANKS*C*9-1:0]           key_write_d,
    input  wire logic [VALUE_BANKS-1:0]             value_write,
    input  wire logic [VALUE_BANKS*ROW_BITS-1:0]    value_write_address,
    input  wire logic [VALUE_BANKS*C*9-1:0]         value_write_d
);

    if (SUMS_BITS > 4096 || SCORES_BITS > 4096) begin : gen_refused
        $error("array_top: the streams `sums` and `scores` have at most 4096 bits: fewer tokens");
    end

    logic [G*C-1:0] input_enable, query_enable, hidden_enable;
    logic [G*ADDRESS_BITS-1:0] input_address, query_address, hidden_address;
    logic [G*C*L*8-1:0] input_word, query_word, hidden_word;
    logic [FRAMES*GN*C-1:0] normed_enable;
    logic [GN*ADDRESS_BITS-1:0] normed_address;
    logic [FRAMES*GN*C*M*8-1:0] normed_word;
    logic [2*GE*C-1:0] probability_enable;
    logic [2*GE*C*ADDRESS_BITS-1:0] probability_address;
    logic [2*GE*C*E*8-1:0] probability_word;
    logic [VALUE_BANKS-1:0] value_enable;
    logic [VALUE_BANKS*ROW_BITS-1:0] value_address;
    logic [VALUE_BANKS*C*8-1:0] value_word;
    logic [KEY_BANKS-1:0] key_enable;
    logic [KEY_BANKS/P*ROW_BITS-1:0] key_address;
    logic [KEY_BANKS*C*8-1:0] key_word;
    logic [L*27-1:0] sums;

    array #(
        .T(T), .P(P), .C(C), .L(L), .M(M), .E(E), .S(S), .FRAMES(FRAMES), .KEY_BANKS(KEY_BANKS),
        .VALUE_BANKS(VALUE_BANKS), .BEAT(BEAT), .WORDS(WEIGHT_WORDS),
        .ADDRESS_BITS(ADDRESS_BITS), .ROW_BITS(ROW_BITS), .FIFO_DEPTH(FIFO_DEPTH),
        .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
    ) array (
        .clk, .clk_array, .reset,
        .passes_valid(passes_tvalid), .passes_ready(passes_tready), .passes(passes_tdata),
        .demands_valid(demands_tvalid), .demands_ready(demands_tready), .demands(demands_tdata),
        .weights_valid(weights_tvalid), .weights_ready(weights_tready),
        .weights_beat(weights_tdata),
        .array_to_load_valid(array_to_load_tvalid), .array_to_load_ready(array_to_load_tready),
        .sums_valid(sums_tvalid), .sums_ready(sums_tready), .sums(sums),
        .scores_valid(scores_tvalid), .scores_ready(scores_tready), .scores(scores_tdata),
        .retired, .starved,
        .input_enable, .input_address, .input_word, .normed_enable, .normed_address, .normed_word,
        .query_enable, .query_address, .query_word, .hidden_enable, .hidden_address, .hidden_word,
        .probability_enable, .probability_address, .probability_word,
        .value_enable, .value_address, .value_word, .key_enable, .key_address, .key_word
    );
    assign sums_tdata = SUMS_BITS'(sums);
    assign array_to_load_tdata = 8'd1;

    for (genvar i = 0; i < G*C; i++) begin : gen_input_i
        operand_memory #(
            .WIDTH(L*8), .WORDS(INPUT_WORDS), .ADDRESS_BITS(ADDRESS_BITS), .ENABLES(1),
            .RAM(INPUT_RAM), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .clk_array,
            .write_enable(input_write[i]),
            .write_address(input_write_address[i*ADDRESS_BITS+:ADDRESS_BITS]),
            .write_d(input_write_d[i*L*8+:L*8]),
            .enable(input_enable[i]),
            .address(input_address[i/C*ADDRESS_BITS+:ADDRESS_BITS]),
            .word(input_word[i*L*8+:L*8])
        );
    end
    for (genvar i = 0; i < G*C; i++) begin : gen_query_i
        operand_memory #(
            .WIDTH(L*8), .WORDS(QUERY_WORDS), .ADDRESS_BITS(ADDRESS_BITS), .ENABLES(1),
            .RAM(QUERY_RAM), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .clk_array,
            .write_enable(query_write[i]),
            .write_address(query_write_address[i*ADDRESS_BITS+:ADDRESS_BITS]),
            .write_d(query_write_d[i*L*8+:L*8]),
            .enable(query_enable[i]),
            .address(query_address[i/C*ADDRESS_BITS+:ADDRESS_BITS]),
            .word(query_word[i*L*8+:L*8])
        );
    end
    for (genvar i = 0; i < G*C; i++) begin : gen_hidden_i
        operand_memory #(
            .WIDTH(L*8), .WORDS(HIDDEN_WORDS), .ADDRESS_BITS(ADDRESS_BITS), .ENABLES(1),
            .RAM(HIDDEN_RAM), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .clk_array,
            .write_enable(hidden_write[i]),
            .write_address(hidden_write_address[i*ADDRESS_BITS+:ADDRESS_BITS]),
            .write_d(hidden_write_d[i*L*8+:L*8]),
            .enable(hidden_enable[i]),
            .address(hidden_address[i/C*ADDRESS_BITS+:ADDRESS_BITS]),
            .word(hidden_word[i*L*8+:L*8])
        );
    end
    for (genvar i = 0; i < FRAMES*GN*C; i++) begin : gen_normed_i
        operand_memory #(
            .WIDTH(M*8), .WORDS(NORM_WORDS), .ADDRESS_BITS(ADDRESS_BITS), .ENABLES(1),
            .RAM(NORM_RAM), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .clk_array,
            .write_enable(normed_write[i]),
            .write_address(normed_write_address[i*ADDRESS_BITS+:ADDRESS_BITS]),
            .write_d(normed_write_d[i*M*8+:M*8]),
            .enable(normed_enable[i]),
            .address(normed_address[i/C%GN*ADDRESS_BITS+:ADDRESS_BITS]),
            .word(normed_word[i*M*8+:M*8])
        );
    end
    for (genvar i = 0; i < 2*GE*C; i++) begin : gen_probability_i
        operand_memory #(
            .WIDTH(E*8), .WORDS(SCORE_WORDS), .ADDRESS_BITS(ADDRESS_BITS), .ENABLES(1),
            .RAM(SCORE_RAM), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .clk_array,
            .write_enable(probability_write[i]),
            .write_address(probability_write_address[i*ADDRESS_BITS+:ADDRESS_BITS]),
            .write_d(probability_write_d[i*E*8+:E*8]),
            .enable(probability_enable[i]),
            .address(probability_address[i*ADDRESS_BITS+:ADDRESS_BITS]),
            .word(probability_word[i*E*8+:E*8])
        );
    end
    for (genvar i = 0; i < KEY_BANKS; i++) begin : gen_key_i
        operand_memory #(
            .WIDTH(C*8), .WORDS(KEY_WORDS), .ADDRESS_BITS(ROW_BITS), .ENABLES(C),
            .RAM(KEY_RAM), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .clk_array,
            .write_enable({C{key_write[i]}} & key_write_d[i*C*9+C*8+:C]),
            .write_address(key_write_address[i*ROW_BITS+:ROW_BITS]),
            .write_d(key_write_d[i*C*9+:C*8]),
            .enable(key_enable[i]),
            .address(key_address[i/P*ROW_BITS+:ROW_BITS]),
            .word(key_word[i*C*8+:C*8])
        );
    end
    for (genvar i = 0; i < VALUE_BANKS; i++) begin : gen_value_i
        operand_memory #(
            .WIDTH(C*8), .WORDS(VALUE_WORDS), .ADDRESS_BITS(ROW_BITS), .ENABLES(C),
            .RAM(VALUE_RAM), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .clk_array,
            .write_enable({C{value_write[i]}} & value_write_d[i*C*9+C*8+:C]),
            .write_address(value_write_address[i*ROW_BITS+:ROW_BITS]),
            .write_d(value_write_d[i*C*9+:C*8]),
            .enable(value_enable[i]),
            .address(value_address[i*ROW_BITS+:ROW_BITS]),
            .word(value_word[i*C*8+:C*8])
        );
    end

`ifndef SYNTHESIS
    // An address beyond its memory. Not of values: a pass also reads the banks of row pairs that it
    // lacks.
    logic beyond;
    always_comb begin
        beyond = 1'b0;
        for (int i = 0; i < G * C; i++) begin
            beyond |= input_enable[i]
                && 32'(input_address[i/C*ADDRESS_BITS+:ADDRESS_BITS]) >= INPUT_WORDS;
            beyond |= query_enable[i]
                && 32'(query_address[i/C*ADDRESS_BITS+:ADDRESS_BITS]) >= QUERY_WORDS;
            beyond |= hidden_enable[i]
                && 32'(hidden_address[i/C*ADDRESS_BITS+:ADDRESS_BITS]) >= HIDDEN_WORDS;
        end
        for (int i = 0; i < FRAMES * GN * C; i++)
            beyond |= normed_enable[i]
                && 32'(normed_address[i/C%GN*ADDRESS_BITS+:ADDRESS_BITS]) >= NORM_WORDS;
        for (int i = 0; i < 2 * GE * C; i++)
            beyond |= probability_enable[i]
                && 32'(probability_address[i*ADDRESS_BITS+:ADDRESS_BITS]) >= SCORE_WORDS;
        for (int i = 0; i < KEY_BANKS; i++)
            beyond |= key_enable[i] && 32'(key_address[i/P*ROW_BITS+:ROW_BITS]) >= KEY_WORDS;
    end

    // Streams: passes, demands, weights, array_to_load, sums, scores.
    wire [5:0] offers = {passes_tvalid, demands_tvalid, weights_tvalid, array_to_load_tvalid,
        sums_tvalid, scores_tvalid};
    wire [5:0] takes = {passes_tready, demands_tready, weights_tready, array_to_load_tready,
        sums_tready, scores_tready};
    logic [5:0] waits;
    logic checks = 1'b0;
    logic [2:0] settled; // cycles since a reset, 7 or more
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        settled <= reset ? '0 : settled == '1 ? settled : settled + 1'b1;
        waits <= settled == '1 ? offers & ~takes : '0;
        if (checks && !reset && settled == '1)
            an_offer_stays: assert ((waits & ~offers) == '0);
    end
    always_ff @(posedge clk_array)
        if (checks && !reset && settled == '1)
            addresses_stay_in_their_memory: assert (!beyond);
`endif

endmodule

// Instantiates a bank of the kind RAM.
module operand_memory #(
    parameter int WIDTH = 32,       // bits
    parameter int WORDS = 64,
    parameter int ADDRESS_BITS = 6, // at least those of WORDS
    parameter int ENABLES = 1,      // parts of a word
    parameter int RAM = 1,          // 0 LUT RAM, 1 block RAM, 2 UltraRAM
    parameter bit PRIMITIVES = 0    // instantiate the flip-flops of copies
) (
    input  wire logic                    clk,
    input  wire logic [ENABLES-1:0]      write_enable,
    input  wire logic [ADDRESS_BITS-1:0] write_address,
    input  wire logic [WIDTH-1:0]        write_d,
    input  wire logic                    clk_array,
    input  wire logic                    enable,
    input  wire logic [ADDRESS_BITS-1:0] address,
    output logic      [WIDTH-1:0]        word
);

    localparam int BITS = WORDS > 1 ? $clog2(WORDS) : 1;

    if (WORDS < 1 || BITS > ADDRESS_BITS || RAM < 0 || RAM > 2) begin : gen_refused
        $error("operand_memory: WORDS must be addressed by ADDRESS_BITS, RAM be 0, 1 or 2");
    end

    if (RAM == 0) begin : gen_distributed
        operand_bank #(
            .WIDTH(WIDTH), .WORDS(WORDS), .ADDRESS_BITS(BITS), .ENABLES(ENABLES),
            .STYLE("distributed"), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .write_enable, .write_address(write_address[BITS-1:0]), .write_d, .clk_array,
            .enable, .address(address[BITS-1:0]), .word
        );
    end else if (RAM == 2) begin : gen_ultra
        operand_bank #(
            .WIDTH(WIDTH), .WORDS(WORDS), .ADDRESS_BITS(BITS), .ENABLES(ENABLES),
            .STYLE("ultra"), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .write_enable, .write_address(write_address[BITS-1:0]), .write_d, .clk_array,
            .enable, .address(address[BITS-1:0]), .word
        );
    end else begin : gen_block
        operand_bank #(
            .WIDTH(WIDTH), .WORDS(WORDS), .ADDRESS_BITS(BITS), .ENABLES(ENABLES),
            .STYLE("block"), .PRIMITIVES(PRIMITIVES)
        ) bank (
            .clk, .write_enable, .write_address(write_address[BITS-1:0]), .write_d, .clk_array,
            .enable, .address(address[BITS-1:0]), .word
        );
    end

endmodule

`default_nettype wire
