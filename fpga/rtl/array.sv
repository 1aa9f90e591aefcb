// The array: T x P cascades of C slices. Its clock `clk_array` is R = 1 or 2 times `clk`, the clock
// of the kernels, and in phase with it. docs/accelerator.md describes the array,
// docs/array-timing.md gives the cycle of each event.
//
// The slow ports (clk) are streams. The fast ports (clk_array) read banks of memories: a bank gives
// a word two cycles after its address, and 0 two cycles after a cycle without `enable`.

`default_nettype none

module array #(
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
    parameter int WORDS = 64,        // of one half of the weight double buffer
    parameter int ADDRESS_BITS = 8,  // of activations
    parameter int ROW_BITS = 8,      // of the weight double buffer, keys and values
    parameter int FIFO_DEPTH = 64,   // packed sums of a token, a power of two, at least P
    parameter bit DSP48E1 = 0,       // slices of 7 series
    parameter bit PRIMITIVES = 0,    // instantiate primitives instead of inferring them
    localparam int G = (T + L - 1) / L,
    localparam int GN = (T + M - 1) / M,
    localparam int GE = (T + E - 1) / E,
    localparam int BLOCKS = KEY_BANKS / P,
    localparam int SUM_BITS = 27,
    localparam int SCORE_BITS = 24
) (
    input  wire logic                        clk,
    input  wire logic                        clk_array,
    input  wire logic                        reset,
    // Slow.
    input  wire logic                        passes_valid,
    output logic                             passes_ready,
    input  wire logic [127:0]                passes,
    input  wire logic                        demands_valid,
    output logic                             demands_ready,
    input  wire logic [31:0]                 demands,
    input  wire logic                        weights_valid,
    output logic                             weights_ready,
    input  wire logic [BEAT*8-1:0]           weights_beat,
    output logic                             array_to_load_valid,
    input  wire logic                        array_to_load_ready,
    output logic                             sums_valid,
    input  wire logic                        sums_ready,
    output logic [L*SUM_BITS-1:0]            sums,
    output logic                             scores_valid,
    input  wire logic                        scores_ready,
    output logic [T*SCORE_BITS-1:0]          scores,
    output logic retired, // a pass has ended
    output logic starved, // the next pass waits for weights only
    // Fast.
    output logic [G*C-1:0]                   input_enable,
    output logic [G*ADDRESS_BITS-1:0]        input_address,
    input  wire logic [G*C*L*8-1:0]          input_word,
    output logic [FRAMES*GN*C-1:0]           normed_enable,
    output logic [GN*ADDRESS_BITS-1:0]       normed_address,
    input  wire logic [FRAMES*GN*C*M*8-1:0]  normed_word,
    output logic [G*C-1:0]                   query_enable,
    output logic [G*ADDRESS_BITS-1:0]        query_address,
    input  wire logic [G*C*L*8-1:0]          query_word,
    output logic [G*C-1:0]                   hidden_enable,
    output logic [G*ADDRESS_BITS-1:0]        hidden_address,
    input  wire logic [G*C*L*8-1:0]          hidden_word,
    output logic [2*GE*C-1:0]                probability_enable,
    output logic [2*GE*C*ADDRESS_BITS-1:0]   probability_address,
    input  wire logic [2*GE*C*E*8-1:0]       probability_word,
    output logic [VALUE_BANKS-1:0]           value_enable,
    output logic [VALUE_BANKS*ROW_BITS-1:0]  value_address,
    input  wire logic [VALUE_BANKS*C*8-1:0]  value_word,
    output logic [KEY_BANKS-1:0]             key_enable,
    output logic [BLOCKS*ROW_BITS-1:0]       key_address, // one for each block of P banks
    input  wire logic [KEY_BANKS*C*8-1:0]    key_word
);

    if (T < 1 || L > T || M < 1 || M > T || E < 1 || E > T) begin : gen_refused_lanes
        $error("array: T must be at least 1; L, M and E 1 to T");
    end
    if (FIFO_DEPTH < P || S != (DSP48E1 ? 21 : 23)) begin : gen_refused_sums
        $error("array: FIFO_DEPTH must be at least P, S 23 (DSP48E1: 21)");
    end

    localparam int TOKENS_A_STAGE = 2;
    localparam int STAGES = (T + TOKENS_A_STAGE - 1) / TOKENS_A_STAGE;
    localparam int OPERAND_DEPTH = 7;
    localparam int EXTRA = DSP48E1 && C > 1 ? 1 : 0; // the slice that accumulates
    localparam int SLOT_BITS = $clog2(FIFO_DEPTH);
    localparam int POINTER_BITS = SLOT_BITS + 1;
    localparam int TURN_BITS = VALUE_BANKS > 1 ? $clog2(VALUE_BANKS) : 1;
    localparam int SOURCES = FRAMES + 5;
    localparam int INFO_BITS = 29;
    localparam int PAIR_BITS = 15;
    localparam int PACKED_BITS = 2 * S + 1;
    localparam int CLUSTERS = (T + 7) / 8;

    // The slow side's reset begins before the fast side's and ends after it, so that neither side
    // reads old pointers of the other.
    logic [3:0] resets;
    logic reset_slow, reset_fast;
    logic [2:0] reset_array;
    always_ff @(posedge clk) begin
        resets <= {resets[2:0], reset};
        reset_slow <= reset || resets != '0;
    end
    always_ff @(posedge clk_array) reset_fast <= resets[1:0] != '0;
    registers #(.BITS(3), .PRIMITIVES(PRIMITIVES)) reset_copies (
        .clk(clk_array), .d({3{reset_fast}}), .q(reset_array)
    );

    // Issue.
    logic [1:0] filled, freed, posted;
    logic [POINTER_BITS-1:0] popped;
    logic valid, first, last, on_weights, on_value;
    logic [SOURCES-1:0] source;
    logic [C-1:0] tail;
    logic [ADDRESS_BITS-1:0] address;
    logic [BLOCKS-1:0] on_key;
    logic [ROW_BITS-1:0] row_address, next_address;
    logic [VALUE_BANKS-1:0] next_block;
    logic [TURN_BITS-1:0] rotation;
    logic [7:0] pairs4;
    logic [INFO_BITS-1:0] info;

    issue #(
        .P(P), .C(C), .FRAMES(FRAMES), .KEY_BANKS(KEY_BANKS), .VALUE_BANKS(VALUE_BANKS),
        .WORDS(WORDS), .ADDRESS_BITS(ADDRESS_BITS), .ROW_BITS(ROW_BITS), .TURN_BITS(TURN_BITS),
        .POINTER_BITS(POINTER_BITS), .PRIMITIVES(PRIMITIVES)
    ) issue (
        .clk, .clk_array, .reset(reset_slow), .reset_array(reset_array[0]),
        .passes_valid, .passes_ready, .passes, .filled, .popped, .retired, .starved, .freed,
        .posted,
        .valid, .first, .last, .source, .tail, .address, .weights(on_weights), .value(on_value),
        .key(on_key), .row_address, .next_address, .next_block, .rotation, .pairs4, .info
    );

    // Credits for load. The first is available after reset.
    logic [1:0] posted_slow, given;
    always_ff @(posedge clk)
        if (reset_slow) begin
            posted_slow <= '0;
            given <= '0;
        end else begin
            posted_slow <= posted;
            if (array_to_load_valid && array_to_load_ready) given <= given + 1'b1;
        end
    assign array_to_load_valid = posted_slow != given;

    // Operands.
    logic weights_enable;
    logic [ROW_BITS-1:0] weights_address;
    logic [P*C*8-1:0] weights_word;
    logic [T*C*9-1:0] activations;
    logic [P*C*9-1:0] rows;

    addresses #(
        .P(P), .C(C), .G(G), .GN(GN), .GE(GE), .FRAMES(FRAMES), .BLOCKS(BLOCKS),
        .VALUE_BANKS(VALUE_BANKS), .ADDRESS_BITS(ADDRESS_BITS), .ROW_BITS(ROW_BITS),
        .PRIMITIVES(PRIMITIVES)
    ) addresses (
        .clk(clk_array), .reset(reset_slow), .valid, .last, .source, .tail, .address,
        .weights(on_weights), .value(on_value), .key(on_key), .row_address, .next_address,
        .next_block, .input_enable, .input_address, .normed_enable, .normed_address, .query_enable,
        .query_address, .hidden_enable, .hidden_address, .probability_enable,
        .probability_address, .value_enable, .value_address, .key_enable, .key_address,
        .weights_enable, .weights_address
    );

    weights #(
        .P(P), .C(C), .BEAT(BEAT), .WORDS(WORDS), .ROW_BITS(ROW_BITS), .PRIMITIVES(PRIMITIVES)
    ) weights (
        .clk, .clk_array, .reset(reset_slow), .demands_valid, .demands_ready, .demands,
        .beats_valid(weights_valid), .beats_ready(weights_ready), .beats(weights_beat), .filled,
        .freed, .enable(weights_enable), .address(weights_address), .word(weights_word)
    );

    operands #(
        .T(T), .P(P), .C(C), .L(L), .M(M), .E(E), .FRAMES(FRAMES), .KEY_BANKS(KEY_BANKS),
        .VALUE_BANKS(VALUE_BANKS), .TURN_BITS(TURN_BITS), .PRIMITIVES(PRIMITIVES)
    ) operands (
        .clk(clk_array), .reset(reset_slow), .pairs4, .rotation, .input_word, .normed_word,
        .query_word, .hidden_word, .probability_word, .value_word, .key_word, .weights_word,
        .activations, .rows
    );

    // Delays lane c by c cycles.
    logic [P*C*9-1:0] rows_skewed;
    for (genvar c = 0; c < C; c++) begin : gen_lanes
        for (genvar r = 0; r < P; r++) begin : gen_positions
            delay #(.BITS(9), .CYCLES(c), .PRIMITIVES(PRIMITIVES)) skew (
                .clk(clk_array), .reset(1'b0), .in(rows[(r*C+c)*9+:9]),
                .out(rows_skewed[(r*C+c)*9+:9])
            );
        end
    end

    // Control signals, delayed like the operands of the first tokens.
    logic goes_on, capture, arrives, push;
    logic [INFO_BITS-1:0] arriving;
    logic [SLOT_BITS-1:0] slot;
    logic [PAIR_BITS-1:0] description;
    delay #(.CYCLES(OPERAND_DEPTH + C + EXTRA), .PRIMITIVES(PRIMITIVES)) goes_on_delay (
        .clk(clk_array), .reset(1'b0), .in(!first), .out(goes_on)
    );
    delay #(.CYCLES(OPERAND_DEPTH + C + 2 + EXTRA), .RESET(1)) capture_delay (
        .clk(clk_array), .reset(reset_array[1]), .in(last), .out(capture)
    );
    delay #(.CYCLES(1), .RESET(1)) arrives_delay (
        .clk(clk_array), .reset(reset_array[1]), .in(capture), .out(arrives)
    );
    delay #(
        .BITS(INFO_BITS), .CYCLES(OPERAND_DEPTH + C + 3 + EXTRA), .PRIMITIVES(PRIMITIVES)
    ) info_delay (
        .clk(clk_array), .reset(1'b0), .in(info), .out(arriving)
    );
    sequence_pairs #(.SLOT_BITS(SLOT_BITS)) sequence_pairs (
        .clk(clk_array), .reset(reset_array[1]), .arrives, .info(arriving), .push, .slot,
        .description
    );

    // Stages of tokens.
    logic [CLUSTERS*SLOT_BITS-1:0] pop_slot;
    logic [T-1:0] skip;
    logic [T*PACKED_BITS-1:0] packed_sums;

    for (genvar j = 0; j < STAGES; j++) begin : gen_stages
        logic [P*C*9-1:0] w;
        logic stage_goes_on, stage_capture, stage_push;
        logic [SLOT_BITS-1:0] stage_slot;

        if (j == 0) begin : gen_head
            assign w = rows_skewed;
            assign stage_goes_on = goes_on;
            assign stage_capture = capture;
            assign stage_push = push;
            assign stage_slot = slot;
        end else begin : gen_next
            always_ff @(posedge clk_array) begin
                w <= gen_stages[j-1].w;
                stage_goes_on <= gen_stages[j-1].stage_goes_on;
                stage_capture <= gen_stages[j-1].stage_capture;
                stage_push <= !reset_array[2] && gen_stages[j-1].stage_push;
                stage_slot <= gen_stages[j-1].stage_slot;
            end
        end

        for (genvar t = j * TOKENS_A_STAGE; t < T && t < (j + 1) * TOKENS_A_STAGE; t++)
        begin : gen_tokens
            logic [C*9-1:0] activation;
            for (genvar c = 0; c < C; c++) begin : gen_skew
                delay #(.BITS(9), .CYCLES(1 + j + c), .PRIMITIVES(PRIMITIVES)) skew (
                    .clk(clk_array), .reset(1'b0), .in(activations[(t*C+c)*9+:9]),
                    .out(activation[c*9+:9])
                );
            end
            token #(
                .P(P), .C(C), .S(S), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES),
                .DEPTH(FIFO_DEPTH)
            ) token (
                .clk, .clk_array, .reset(reset_slow), .activation, .w,
                .goes_on(stage_goes_on), .capture(stage_capture), .push(stage_push),
                .push_slot(stage_slot), .skip(skip[t]),
                .pop_slot(pop_slot[t/8*SLOT_BITS+:SLOT_BITS]),
                .packed_sum(packed_sums[t*PACKED_BITS+:PACKED_BITS])
            );
        end
    end

    // Counts the pairs pushed to the last tokens' FIFOs.
    logic [POINTER_BITS-1:0] pushed;
    always_ff @(posedge clk_array)
        if (reset_array[2]) pushed <= '0;
        else if (gen_stages[STAGES-1].stage_push) pushed <= pushed + 1'b1;

    unpack_lanes #(
        .T(T), .P(P), .L(L), .S(S), .DEPTH(FIFO_DEPTH), .PRIMITIVES(PRIMITIVES)
    ) unpack_lanes (
        .clk, .clk_array, .reset(reset_slow), .pushed, .describe(push), .describe_slot(slot),
        .description, .popped, .pop_slot, .skip, .packed_sums,
        .sums_valid, .sums_ready, .sums, .scores_valid, .scores_ready, .scores
    );

`ifndef SYNTHESIS
    wire [1:0] credits = posted - given;
    logic [1:0] posted_before;
    logic [4:0] settled = '0; // fast cycles since the reset
    logic checks = 1'b0;
    always_ff @(posedge clk) if (reset) checks <= 1'b1;
    always_ff @(posedge clk_array) begin
        posted_before <= posted;
        settled <= !checks || reset_slow ? '0 : settled == '1 ? settled : settled + 1'b1;
        if (checks && settled == '1) begin
            the_fast_reset_is_inside_the_slow_one: assert (reset_array == '0);
            no_credit_is_lost: assert (posted == posted_before || credits != 2'd0);
        end
    end
`endif

endmodule

`default_nettype wire
