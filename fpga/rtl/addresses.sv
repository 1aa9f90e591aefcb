// Pipelines addresses from `issue` to the banks: first a register for each memory, then one for
// each group of banks. In lanes without a column, and in memories that a pass does not use, the
// enables are 0; such banks give 0. Keys are read one cycle later than activations and values,
// weights two cycles later.

`default_nettype none

module addresses #(
    parameter int P = 3,            // row pairs
    parameter int C = 4,            // columns of a word
    parameter int G = 2,            // groups of banks of input, query, hidden
    parameter int GN = 2,           // of normed
    parameter int GE = 2,           // of probability
    parameter int FRAMES = 2,       // slots of normed
    parameter int BLOCKS = 1,       // of P banks of keys
    parameter int VALUE_BANKS = 3,  // at least P
    parameter int ADDRESS_BITS = 8, // of activations
    parameter int ROW_BITS = 8,     // of weights, keys and values
    parameter bit PRIMITIVES = 0,   // instantiate the flip-flops of copies
    localparam int SOURCES = FRAMES + 5
) (
    input  wire logic                         clk,
    input  wire logic                         reset, // for the assertions: the slow side's
    // From issue, for each word.
    input  wire logic                         valid,
    input  wire logic                         last,
    input  wire logic [SOURCES-1:0]           source,
    input  wire logic [C-1:0]                 tail,
    input  wire logic [ADDRESS_BITS-1:0]      address,
    input  wire logic                         weights,
    input  wire logic                         value,
    input  wire logic [BLOCKS-1:0]            key,
    input  wire logic [ROW_BITS-1:0]          row_address,
    input  wire logic [ROW_BITS-1:0]          next_address,
    input  wire logic [VALUE_BANKS-1:0]       next_block,
    // Two cycles later. Order of the banks: (group, lane); normed: (frame, group, lane);
    // probability: (parity, group, lane).
    output logic [G*C-1:0]                    input_enable,
    output logic [G*ADDRESS_BITS-1:0]         input_address,
    output logic [FRAMES*GN*C-1:0]            normed_enable,
    output logic [GN*ADDRESS_BITS-1:0]        normed_address,
    output logic [G*C-1:0]                    query_enable,
    output logic [G*ADDRESS_BITS-1:0]         query_address,
    output logic [G*C-1:0]                    hidden_enable,
    output logic [G*ADDRESS_BITS-1:0]         hidden_address,
    output logic [2*GE*C-1:0]                 probability_enable,
    output logic [2*GE*C*ADDRESS_BITS-1:0]    probability_address,
    output logic [VALUE_BANKS-1:0]            value_enable,
    output logic [VALUE_BANKS*ROW_BITS-1:0]   value_address,
    // Three cycles later.
    output logic [BLOCKS*P-1:0]               key_enable,
    output logic [BLOCKS*ROW_BITS-1:0]        key_address,
    // Four cycles later.
    output logic                              weights_enable,
    output logic [ROW_BITS-1:0]               weights_address
);

    if (G < 1 || GN < 1 || GE < 1 || FRAMES < 1 || BLOCKS < 1 || VALUE_BANKS < P)
    begin : gen_refused
        $error("addresses: each memory needs a bank, VALUE_BANKS must be at least P");
    end

    // A register for each memory.
    logic [5*ADDRESS_BITS-1:0] own;  // input, query, hidden, normed, probability
    logic [SOURCES*C-1:0] lanes, lanes_next;
    logic [ROW_BITS-1:0] row_value, row_next, row_other, row_weights;
    logic [VALUE_BANKS-1:0] use_next;
    logic value_on, weights_on, weights_later, weights_late;
    logic [BLOCKS-1:0] key_on, key_later;
    logic [ROW_BITS-1:0] row_key;

    registers #(.BITS(5 * ADDRESS_BITS), .PRIMITIVES(PRIMITIVES)) own_copies (
        .clk, .d({5{address}}), .q(own)
    );
    registers #(.BITS(3 * ROW_BITS), .PRIMITIVES(PRIMITIVES)) row_copies (
        .clk, .d({next_address, {2{row_address}}}), .q({row_next, row_other, row_value})
    );
    always_comb
        for (int i = 0; i < SOURCES; i++)
            lanes_next[i*C+:C] = {C{valid && source[i]}} & (tail | {C{!last}});

    always_ff @(posedge clk) begin
        lanes <= lanes_next;
        use_next <= next_block;
        value_on <= valid && value;
        key_on <= {BLOCKS{valid}} & key;
        weights_on <= valid && weights;
        key_later <= key_on;
        weights_later <= weights_on;
        weights_late <= weights_later;
        row_key <= row_other;
        row_weights <= row_key;
    end

    // A register for each group of banks.
    for (genvar g = 0; g < G; g++) begin : gen_groups
        registers #(.BITS(3 * (C + ADDRESS_BITS)), .PRIMITIVES(PRIMITIVES)) leaf (
            .clk, .d({lanes[0+:3*C], own[0+:3*ADDRESS_BITS]}),
            .q({hidden_enable[g*C+:C], query_enable[g*C+:C], input_enable[g*C+:C],
                hidden_address[g*ADDRESS_BITS+:ADDRESS_BITS],
                query_address[g*ADDRESS_BITS+:ADDRESS_BITS],
                input_address[g*ADDRESS_BITS+:ADDRESS_BITS]})
        );
    end
    for (genvar g = 0; g < GN; g++) begin : gen_norm_groups
        registers #(.BITS(ADDRESS_BITS), .PRIMITIVES(PRIMITIVES)) leaf (
            .clk, .d(own[3*ADDRESS_BITS+:ADDRESS_BITS]),
            .q(normed_address[g*ADDRESS_BITS+:ADDRESS_BITS])
        );
        for (genvar f = 0; f < FRAMES; f++) begin : gen_frames
            registers #(.BITS(C), .PRIMITIVES(PRIMITIVES)) enables (
                .clk, .d(lanes[(3+f)*C+:C]), .q(normed_enable[(f*GN+g)*C+:C])
            );
        end
    end
    // An address of a LUT RAM has a high fan-out, so each bank of probability has its own register.
    for (genvar i = 0; i < 2 * GE * C; i++) begin : gen_probabilities
        registers #(.BITS(1 + ADDRESS_BITS), .PRIMITIVES(PRIMITIVES)) leaf (
            .clk, .d({lanes[(3+FRAMES+i/(GE*C))*C+i%C], own[4*ADDRESS_BITS+:ADDRESS_BITS]}),
            .q({probability_enable[i], probability_address[i*ADDRESS_BITS+:ADDRESS_BITS]})
        );
    end
    for (genvar b = 0; b < VALUE_BANKS; b++) begin : gen_values
        registers #(.BITS(1 + ROW_BITS), .PRIMITIVES(PRIMITIVES)) leaf (
            .clk, .d({value_on, use_next[b] ? row_next : row_value}),
            .q({value_enable[b], value_address[b*ROW_BITS+:ROW_BITS]})
        );
    end
    for (genvar b = 0; b < BLOCKS; b++) begin : gen_keys
        registers #(.BITS(P + ROW_BITS), .PRIMITIVES(PRIMITIVES)) leaf (
            .clk, .d({{P{key_later[b]}}, row_key}),
            .q({key_enable[b*P+:P], key_address[b*ROW_BITS+:ROW_BITS]})
        );
    end
    registers #(.BITS(1 + ROW_BITS), .PRIMITIVES(PRIMITIVES)) weights_leaf (
        .clk, .d({weights_late, row_weights}), .q({weights_enable, weights_address})
    );

`ifndef SYNTHESIS
    logic [SOURCES-1:0] reads, gaps; // memories that are read, and without their first lanes
    logic [BLOCKS-1:0] keys, keys_later;
    logic [1:0] values;
    always_comb begin
        reads[2:0] = {hidden_enable != '0, query_enable != '0, input_enable != '0};
        for (int f = 0; f < FRAMES; f++) reads[3+f] = normed_enable[f*GN*C+:GN*C] != '0;
        for (int i = 0; i < 2; i++) reads[3+FRAMES+i] = probability_enable[i*GE*C+:GE*C] != '0;
        for (int i = 0; i < SOURCES; i++)
            gaps[i] = (lanes[i*C+:C] & (lanes[i*C+:C] + 1'b1)) != '0;
        for (int b = 0; b < BLOCKS; b++) keys[b] = key_enable[b*P+:P] != '0;
    end
    wire [BLOCKS+1:0] operands = {weights_enable, values[1], keys_later}; // of the same word
    logic checks = 1'b0;
    logic [2:0] settled; // cycles since a reset: its words have passed
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        settled <= reset ? '0 : settled == '1 ? settled : settled + 1'b1;
        values <= {values[0], value_enable != '0};
        keys_later <= keys;
        if (checks && !reset && settled == '1) begin
            one_memory_is_read: assert ((reads & (reads - 1'b1)) == '0);
            lanes_are_read_from_the_first: assert (gaps == '0);
            groups_read_alike: assert (input_enable == {G{input_enable[C-1:0]}}
                && query_enable == {G{query_enable[C-1:0]}}
                && hidden_enable == {G{hidden_enable[C-1:0]}}
                && input_address == {G{input_address[ADDRESS_BITS-1:0]}}
                && query_address == {G{query_address[ADDRESS_BITS-1:0]}}
                && hidden_address == {G{hidden_address[ADDRESS_BITS-1:0]}}
                && normed_address == {GN{normed_address[ADDRESS_BITS-1:0]}}
                && probability_address == {2 * GE * C{probability_address[ADDRESS_BITS-1:0]}});
            one_memory_gives_row_operands: assert ((operands & (operands - 1'b1)) == '0);
        end
    end
`endif

endmodule

`default_nettype wire
