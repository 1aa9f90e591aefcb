// The writes of `store_groups` (fpga/src/drain.cpp) to `key` and `value`: lanes rotated to banks,
// with byte enables.
`default_nettype none

// Rotates N items up by `by` places: item i goes to (i + by) mod N.
module rotate #(parameter int N = 8, parameter int BITS = 9, parameter int BY = 8) (
    input  wire logic [N*BITS-1:0] in,
    input  wire logic [BY-1:0]     by,
    output logic      [N*BITS-1:0] out
);
    logic [N*BITS-1:0] stage[$clog2(N)+1];
    assign stage[0] = in;
    for (genvar s = 0; s < $clog2(N); s++) begin : gen_stage
        localparam int STEP = (1 << s) * BITS;
        assign stage[s+1] = by[s] ? {stage[s][N*BITS-STEP-1:0], stage[s][N*BITS-1:N*BITS-STEP]} :
            stage[s];
    end
    assign out = stage[$clog2(N)];
endmodule

module drain_store #(
    parameter int L = 33,   // lanes
    parameter int B = 36,   // banks of keys
    parameter int BV = 9,   // banks of values
    parameter int C = 4,    // codes in a word
    parameter int CB = 2    // bits of a place in a word, at least 1
) (
    input  wire logic                clk,
    input  wire logic [L*8-1:0]      code,
    input  wire logic [L-1:0]        used,
    input  wire logic [7:0]          key_bank,
    input  wire logic [15:0]         key_address,
    input  wire logic [15:0]         key_wrapped,
    input  wire logic [CB-1:0]       key_byte,
    input  wire logic [7:0]          value_bank,
    input  wire logic [CB-1:0]       value_byte,
    input  wire logic [15:0]         value_address,
    input  wire logic                key_on,
    input  wire logic                value_on,
    output logic [B*9*C-1:0]         key_word,
    output logic [B-1:0]             key_write,
    output logic [B*16-1:0]          key_at,
    output logic [BV*9*C-1:0]        value_word,
    output logic [BV-1:0]            value_write,
    output logic [BV*16-1:0]         value_at
);
    logic [B*9-1:0] keys, turned_keys;
    rotate #(.N(B), .BITS(9)) key_rotator (.in(keys), .by(key_bank), .out(turned_keys));
    logic [BV*C*9-1:0] values, words, turned_words;
    logic [BV*C*9-1:0] aligned[CB+1];
    rotate #(.N(BV), .BITS(9 * C)) value_rotator (.in(words), .by(value_bank), .out(turned_words));
    // Shifts the values to the first value's byte in its word.
    assign aligned[0] = values;
    for (genvar s = 0; s < CB; s++) begin : gen_place
        assign aligned[s+1] = value_byte[s] && (1 << s) < C ? aligned[s] << (9 << s) : aligned[s];
    end
    for (genvar i = 0; i < B; i++) begin : gen_key
        assign keys[9*i+:9] = i < L ? {used[i], code[8*i+:8]} : 9'd0;
        wire logic on = key_on && turned_keys[9*i+8];
        always_ff @(posedge clk) begin
            key_write[i] <= on;
            key_word[9*C*i+:8*C] <= {C{turned_keys[9*i+:8]}};
            key_at[16*i+:16] <= i < key_bank ? key_wrapped : key_address;
        end
        for (genvar c = 0; c < C; c++) begin : gen_enable
            always_ff @(posedge clk) key_word[9*C*i+8*C+c] <= on && (C == 1 || key_byte == c);
        end
    end
    for (genvar i = 0; i < BV * C; i++) begin : gen_value
        assign values[9*i+:9] = i < L ? {used[i], code[8*i+:8]} : 9'd0;
        assign words[9*C*(i/C)+8*(i%C)+:8] = aligned[CB][9*i+:8];
        assign words[9*C*(i/C)+8*C+i%C] = aligned[CB][9*i+8];
    end
    for (genvar i = 0; i < BV; i++) begin : gen_bank
        wire logic [7:0] word = i < value_bank ? i + BV - value_bank : i - value_bank;
        always_ff @(posedge clk) begin
            value_word[9*C*i+:9*C] <= turned_words[9*C*i+:9*C];
            value_write[i] <= value_on && |turned_words[9*C*i+8*C+:C];
            value_at[16*i+:16] <= value_address + word;
        end
    end
endmodule
`default_nettype wire
