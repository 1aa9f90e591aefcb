// Writes the codes and residuals of an item to the memories. Codes of keys and of values rotate to
// their banks: item i of keys goes to bank (bank + i) mod KEY_BANKS, and the words of values in the
// same way. A rotation takes two cycles, each with a LUT for two bits of the distance, at most two
// one after the other.

`default_nettype none

// Rotates N items up by `by` < N places: item i goes to place (i + by) mod N.
module rotate_items #(
    parameter int N = 8,
    parameter int BITS = 9,
    parameter int BY_BITS = N > 1 ? $clog2(N) : 1,
    localparam int LOW = BY_BITS > 4 ? 4 : BY_BITS // bits of the first cycle
) (
    input  wire logic               clk,
    input  wire logic [N*BITS-1:0]  in,
    input  wire logic [BY_BITS-1:0] by,      // with `in`
    output logic      [N*BITS-1:0]  out      // a cycle later the first bits, then the rest
);

    if (N < 1 || BY_BITS > 8) begin : gen_refused
        $error("rotate_items: N must be 1 to 256");
    end

    function automatic logic [N*BITS-1:0] rotated(logic [N*BITS-1:0] items, int places);
        for (int i = 0; i < N; i++)
            rotated[(i+places)%N*BITS+:BITS] = items[i*BITS+:BITS];
    endfunction

    logic [N*BITS-1:0] first[LOW+1], middle;
    assign first[0] = in;
    for (genvar i = 0; i < LOW; i++) begin : gen_first
        assign first[i+1] = by[i] ? rotated(first[i], 1 << i) : first[i];
    end
    always_ff @(posedge clk) middle <= first[LOW];

    if (BY_BITS > LOW) begin : gen_rest
        logic [BY_BITS-LOW-1:0] rest;
        logic [N*BITS-1:0] second[BY_BITS-LOW+1];
        always_ff @(posedge clk) rest <= by[BY_BITS-1:LOW];
        assign second[0] = middle;
        for (genvar i = 0; i < BY_BITS - LOW; i++) begin : gen_second
            assign second[i+1] = rest[i] ? rotated(second[i], (1 << (LOW + i)) % N) : second[i];
        end
        assign out = second[BY_BITS-LOW];
    end else begin : gen_done
        assign out = middle;
    end

endmodule

module lane_store #(
    parameter int L = 2,             // lanes: tokens of an item
    parameter int C = 4,             // codes of a word, a power of two up to 16
    parameter int GROUPS = 1,        // of a tile's tokens
    parameter int KEY_BANKS = 3,
    parameter int VALUE_BANKS = 3,
    parameter int ADDRESS_BITS = 16, // of query and hidden
    parameter int ROW_BITS = 16,     // of keys and values
    localparam int BYTE_BITS = C > 1 ? $clog2(C) : 1,
    localparam int BANKS = GROUPS * C,
    localparam int BANK_BITS = BANKS > 1 ? $clog2(BANKS) : 1,
    localparam int KEY_BANK_BITS = KEY_BANKS > 1 ? $clog2(KEY_BANKS) : 1,
    localparam int VALUE_BANK_BITS = VALUE_BANKS > 1 ? $clog2(VALUE_BANKS) : 1
) (
    input  wire logic                               clk,
    input  wire logic [L*8-1:0]                     code,
    // With the codes.
    input  wire logic                               to_query,
    input  wire logic                               to_hidden,
    input  wire logic                               to_key,
    input  wire logic                               to_value,
    input  wire logic [7:0]                         lanes,        // that hold a token
    input  wire logic [BANK_BITS-1:0]               bank,         // of query and hidden
    input  wire logic [ADDRESS_BITS-1:0]            address,
    input  wire logic [KEY_BANK_BITS-1:0]           key_bank,     // of the first lane
    input  wire logic [BYTE_BITS-1:0]               key_byte,
    input  wire logic [ROW_BITS-1:0]                key_address,
    input  wire logic [ROW_BITS-1:0]                key_wrapped,  // behind the last bank
    input  wire logic [VALUE_BANK_BITS-1:0]         value_bank,
    input  wire logic [BYTE_BITS-1:0]               value_byte,
    input  wire logic [ROW_BITS-1:0]                value_address,
    // Two cycles later.
    output logic      [BANKS-1:0]                   query_write,
    output logic      [BANKS-1:0]                   hidden_write,
    output logic      [ADDRESS_BITS-1:0]            code_address,
    output logic      [L*8-1:0]                     code_d,
    output logic      [KEY_BANKS-1:0]               key_write,
    output logic      [KEY_BANKS*ROW_BITS-1:0]      key_write_address,
    output logic      [KEY_BANKS*C*9-1:0]           key_write_d,
    output logic      [VALUE_BANKS-1:0]             value_write,
    output logic      [VALUE_BANKS*ROW_BITS-1:0]    value_write_address,
    output logic      [VALUE_BANKS*C*9-1:0]         value_write_d
);

    localparam int SPAN = (L + C - 1 + C - 1) / C; // words of one value dimension

    if (L < 1 || L > KEY_BANKS || SPAN > VALUE_BANKS) begin : gen_refused
        $error("lane_store: L must be 1 to KEY_BANKS, and L + C - 1 codes fill at most VALUE_BANKS");
    end

    // Query and hidden.
    logic on_query, on_hidden;
    logic [BANK_BITS-1:0] bank_1;
    logic [ADDRESS_BITS-1:0] address_1;
    logic [L*8-1:0] code_1;
    always_ff @(posedge clk) begin
        {on_query, on_hidden} <= {to_query, to_hidden};
        bank_1 <= bank;
        address_1 <= address;
        code_1 <= code;
        for (int i = 0; i < BANKS; i++) begin
            query_write[i] <= on_query && 32'(bank_1) == i;
            hidden_write[i] <= on_hidden && 32'(bank_1) == i;
        end
        code_address <= address_1;
        code_d <= code_1;
    end

    // Keys.
    logic [KEY_BANKS*9-1:0] keys, turned_keys;
    logic [KEY_BANKS-1:0] before_first;
    logic [ROW_BITS-1:0] key_address_1, key_wrapped_1;
    logic [C-1:0] key_enable_1;
    always_comb
        for (int i = 0; i < KEY_BANKS; i++)
            keys[i*9+:9] = i < L ? {to_key && 32'(lanes) > i, code[(i<L?i:0)*8+:8]} : '0;
    rotate_items #(.N(KEY_BANKS), .BITS(9)) key_rotator (
        .clk, .in(keys), .by(key_bank), .out(turned_keys)
    );
    always_ff @(posedge clk) begin
        for (int i = 0; i < KEY_BANKS; i++) before_first[i] <= i < 32'(key_bank);
        for (int i = 0; i < C; i++) key_enable_1[i] <= C == 1 || 32'(key_byte) == i;
        key_address_1 <= key_address;
        key_wrapped_1 <= key_wrapped;
        for (int i = 0; i < KEY_BANKS; i++) begin
            key_write[i] <= turned_keys[i*9+8];
            key_write_address[i*ROW_BITS+:ROW_BITS] <= before_first[i] ? key_wrapped_1
                : key_address_1;
            key_write_d[i*C*9+:C*9] <= {key_enable_1, {C{turned_keys[i*9+:8]}}};
        end
    end

    // Values: shifted to the first token's place in its word, then the words rotated.
    logic [VALUE_BANKS*C*9-1:0] values, words, turned_words;
    logic [VALUE_BANKS*C*9-1:0] moved[BYTE_BITS+1];
    logic [VALUE_BANKS-1:0] value_before_first;
    logic [ROW_BITS-1:0] value_from, value_wrapped;
    always_comb begin
        values = '0;
        for (int i = 0; i < L; i++)
            values[i*9+:9] = {to_value && 32'(lanes) > i, code[i*8+:8]};
    end
    assign moved[0] = values;
    for (genvar i = 0; i < BYTE_BITS; i++) begin : gen_moved
        assign moved[i+1] = C > 1 && value_byte[i] ? moved[i] << (9 << i) : moved[i];
    end
    // A word is C codes, then C enables.
    always_comb
        for (int i = 0; i < VALUE_BANKS * C; i++) begin
            words[i/C*C*9+i%C*8+:8] = moved[BYTE_BITS][i*9+:8];
            words[i/C*C*9+C*8+i%C] = moved[BYTE_BITS][i*9+8];
        end
    rotate_items #(.N(VALUE_BANKS), .BITS(C * 9)) value_rotator (
        .clk, .in(words), .by(value_bank), .out(turned_words)
    );
    always_ff @(posedge clk) begin
        for (int i = 0; i < VALUE_BANKS; i++) value_before_first[i] <= i < 32'(value_bank);
        value_from <= value_address - ROW_BITS'(value_bank);
        value_wrapped <= value_address - ROW_BITS'(value_bank) + ROW_BITS'(VALUE_BANKS);
        for (int i = 0; i < VALUE_BANKS; i++) begin
            value_write[i] <= turned_words[i*C*9+C*8+:C] != '0;
            value_write_address[i*ROW_BITS+:ROW_BITS] <=
                (value_before_first[i] ? value_wrapped : value_from) + ROW_BITS'(i);
            value_write_d[i*C*9+:C*9] <= turned_words[i*C*9+:C*9];
        end
    end

`ifndef SYNTHESIS
    always_ff @(posedge clk) begin
        an_item_has_one_destination:
        assert ($countones({to_query, to_hidden, to_key, to_value}) <= 1);
        a_group_fits_the_lanes: assert (!(to_key || to_value) || (lanes != 0 && 32'(lanes) <= L));
        banks_exist: assert (!to_key || 32'(key_bank) < KEY_BANKS);
        value_banks_exist: assert (!to_value || 32'(value_bank) < VALUE_BANKS);
    end
`endif

endmodule

`default_nettype wire
