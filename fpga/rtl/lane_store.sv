// Writes the codes and residuals of an item to the memories. Codes of keys and of values rotate to
// their banks: item i of keys goes to bank (bank + i) mod KEY_BANKS, and the words of values in the
// same way. A rotation takes two cycles, each with a LUT for two bits of the distance, at most two
// one after the other.

`default_nettype none

// Rotates N items up by `by` < N places: item i goes to place (i + by) mod N. Each place has a copy
// of the distance.
module rotate_items #(
    parameter int N = 8,
    parameter int BITS = 9,
    localparam int BY_BITS = N > 1 ? $clog2(N) : 1
) (
    input  wire logic                 clk,
    input  wire logic [N*BITS-1:0]    in,
    input  wire logic [N*BY_BITS-1:0] by,      // with `in`
    output logic      [N*BITS-1:0]    out      // a cycle later
);

    if (N < 1 || BY_BITS > 8) begin : gen_refused
        $error("rotate_items: N must be 1 to 256");
    end

    localparam int DIGITS = (BY_BITS + 1) / 2; // two bits of the distance: a choice of four
    localparam int EARLY = DIGITS > 2 ? 2 : DIGITS; // before the register
    logic [N*BITS-1:0] at[DIGITS+1];           // before each digit
    logic [N*2*DIGITS-1:0] by_at[DIGITS+1];
    assign at[0] = in;
    for (genvar j = 0; j < N; j++) begin : gen_by
        assign by_at[0][j*2*DIGITS+:2*DIGITS] = (2 * DIGITS)'(by[j*BY_BITS+:BY_BITS]);
    end
    for (genvar i = 0; i < DIGITS; i++) begin : gen_digits
        logic [N*BITS-1:0] turned;
        for (genvar j = 0; j < N; j++) begin : gen_places
            wire [1:0] digit = by_at[i][j*2*DIGITS+2*i+:2];
            logic [BITS-1:0] choices[4];
            for (genvar k = 0; k < 4; k++) begin : gen_choices
                localparam int FROM = (j + N - (k << (2 * i)) % N) % N;
                assign choices[k] = at[i][FROM*BITS+:BITS];
            end
            assign turned[j*BITS+:BITS] = digit[1] ? digit[0] ? choices[3] : choices[2]
                : digit[0] ? choices[1] : choices[0];
        end
        if (i == EARLY - 1) begin : gen_register
            always_ff @(posedge clk) begin
                at[i+1] <= turned;
                by_at[i+1] <= by_at[i];
            end
        end else begin : gen_wire
            assign at[i+1] = turned;
            assign by_at[i+1] = by_at[i];
        end
    end
    assign out = at[DIGITS];

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
    // Banks of the first lane, and the place of its value in a word: a copy for each bank.
    input  wire logic [KEY_BANKS*KEY_BANK_BITS-1:0] key_bank,
    input  wire logic [VALUE_BANKS*VALUE_BANK_BITS-1:0] value_bank,
    input  wire logic [VALUE_BANKS*BYTE_BITS-1:0]   value_byte,
    input  wire logic [BYTE_BITS-1:0]               key_byte,
    input  wire logic [ROW_BITS-1:0]                key_address,
    input  wire logic [ROW_BITS-1:0]                key_wrapped,  // behind the last bank
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

    localparam int BYTE_DIGITS = (BYTE_BITS + 1) / 2;
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
        for (int i = 0; i < KEY_BANKS; i++)
            before_first[i] <= i < 32'(key_bank[i*KEY_BANK_BITS+:KEY_BANK_BITS]);
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
    logic [VALUE_BANKS*C*9-1:0] moved[BYTE_DIGITS+1];
    logic [VALUE_BANKS-1:0] value_before_first;
    logic [ROW_BITS-1:0] value_from, value_wrapped;
    always_comb begin
        values = '0;
        for (int i = 0; i < L; i++)
            values[i*9+:9] = {to_value && 32'(lanes) > i, code[i*8+:8]};
    end
    assign moved[0] = values;
    for (genvar i = 0; i < BYTE_DIGITS; i++) begin : gen_moved
        for (genvar j = 0; j < VALUE_BANKS * C; j++) begin : gen_places
            wire [1:0] digit = 2'(value_byte[j/C*BYTE_BITS+:BYTE_BITS] >> (2 * i));
            logic [8:0] choices[4];
            for (genvar k = 0; k < 4; k++) begin : gen_choices
                localparam int FROM = j - (k << (2 * i));
                assign choices[k] = FROM < 0 || k << (2 * i) >= C ? '0
                    : moved[i][(FROM<0?0:FROM)*9+:9];
            end
            assign moved[i+1][j*9+:9] = digit[1] ? digit[0] ? choices[3] : choices[2]
                : digit[0] ? choices[1] : choices[0];
        end
    end
    // A word is C codes, then C enables.
    always_comb
        for (int i = 0; i < VALUE_BANKS * C; i++) begin
            words[i/C*C*9+i%C*8+:8] = moved[BYTE_DIGITS][i*9+:8];
            words[i/C*C*9+C*8+i%C] = moved[BYTE_DIGITS][i*9+8];
        end
    rotate_items #(.N(VALUE_BANKS), .BITS(C * 9)) value_rotator (
        .clk, .in(words), .by(value_bank), .out(turned_words)
    );
    wire [ROW_BITS-1:0] first_bank = ROW_BITS'(value_bank[VALUE_BANK_BITS-1:0]);
    always_ff @(posedge clk) begin
        for (int i = 0; i < VALUE_BANKS; i++)
            value_before_first[i] <= i < 32'(value_bank[i*VALUE_BANK_BITS+:VALUE_BANK_BITS]);
        value_from <= value_address - first_bank;
        value_wrapped <= value_address - first_bank + ROW_BITS'(VALUE_BANKS);
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
        banks_exist: assert (!to_key || 32'(key_bank[KEY_BANK_BITS-1:0]) < KEY_BANKS);
        value_banks_exist: assert (!to_value || 32'(first_bank) < VALUE_BANKS);
    end
`endif

endmodule

`default_nettype wire
