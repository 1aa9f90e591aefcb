// The requantizing lanes. For each row of a tile of tokens, `drain` (fpga/src/drain.cpp) sends an
// item: the row's parameters and addresses. The lanes take the sums of L tokens in a slow cycle,
// add the bias, requantize, apply the activation's table, add the residual and sum its moments, and
// store the results ("Commands" in docs/accelerator.md; "Requantize", "Attention" and "Residual" in
// docs/integer-model.md). At R = 2 half as many lanes work in each cycle of the array's clock.
//
// An item never waits: it starts only when its results have room.

`default_nettype none

module lanes #(
    parameter int T = 5,             // tokens
    parameter int P = 3,             // row pairs
    parameter int C = 4,             // codes of a word, a power of two up to 16
    parameter int L = 2,             // tokens of an item, 1 to T
    parameter int R = 2,             // cycles of the array's clock in a slow cycle, 1 or 2
    parameter int FRAMES = 2,        // slots of the residual, 1 or 2
    parameter int KEY_BANKS = 3,
    parameter int VALUE_BANKS = 3,
    parameter int BEAT = 16,         // bytes of a beat
    parameter int TILES = 4,         // tiles of tokens of a frame, at most
    parameter int MEANS = 64,        // value columns of a command, at most
    parameter int ANGLES = 0,        // angles of a token, at most; 0: no rotary positions
    parameter int ADDRESS_BITS = 6,  // of query and hidden
    parameter int ROW_BITS = 7,      // of keys and values
    parameter int RESIDUAL_BITS = 6, // of the residual
    parameter bit DSP48E1 = 0,       // slices of 7 series
    parameter bit PRIMITIVES = 0,    // instantiate the flip-flops of copies
    localparam int G = (T + L - 1) / L
) (
    input  wire logic                            clk,
    input  wire logic                            clk_array,
    input  wire logic                            reset,
    input  wire logic                            jobs_valid,
    output logic                                 jobs_ready,
    input  wire logic [lane_types::LANE_JOB_BITS-1:0] jobs,
    input  wire logic                            rows_valid,
    output logic                                 rows_ready,
    input  wire logic [lane_types::LANE_ROW_BITS-1:0] rows,
    input  wire logic                            attention_tiles_valid,
    output logic                                 attention_tiles_ready,
    input  wire logic [lane_types::TOKEN_BITS-1:0] attention_tiles,   // their tokens
    input  wire logic                            scales_valid,
    output logic                                 scales_ready,
    input  wire logic [lane_types::SCALE_BITS-1:0] scales,
    input  wire logic                            beats_valid,       // of tables and fills
    output logic                                 beats_ready,
    input  wire logic [BEAT*8-1:0]               beats,
    input  wire logic                            sums_valid,
    output logic                                 sums_ready,
    input  wire logic [L*27-1:0]                 sums,
    output logic                                 moments_valid,
    input  wire logic                            moments_ready,
    output logic [L*lane_types::MOMENT_BITS-1:0] moments,
    output logic                                 logits_valid,
    input  wire logic                            logits_ready,
    output logic [31:0]                          logits,
    output logic                                 drain_to_array_valid,
    input  wire logic                            drain_to_array_ready,
    output logic                                 retired,           // a command has ended
    // A bank of the residual gives a word a cycle after its address.
    output logic [FRAMES*G-1:0]                  residual_enable,
    output logic [RESIDUAL_BITS-1:0]             residual_address,
    input  wire logic [FRAMES*G*L*16-1:0]        residual_word,
    output logic [FRAMES*G-1:0]                  residual_write,
    output logic [RESIDUAL_BITS-1:0]             residual_write_address,
    output logic [L*16-1:0]                      residual_write_d,
    output logic [G*C-1:0]                       query_write,
    output logic [G*C-1:0]                       hidden_write,
    output logic [ADDRESS_BITS-1:0]              code_write_address,
    output logic [L*8-1:0]                       code_write_d,
    output logic [KEY_BANKS-1:0]                 key_write,
    output logic [KEY_BANKS*ROW_BITS-1:0]        key_write_address,
    output logic [KEY_BANKS*C*9-1:0]             key_write_d,
    output logic [VALUE_BANKS-1:0]               value_write,
    output logic [VALUE_BANKS*ROW_BITS-1:0]      value_write_address,
    output logic [VALUE_BANKS*C*9-1:0]           value_write_d
);

    localparam int LANES = (L + R - 1) / R; // requantize_lane
    // Widths of numbers in items.
    localparam int TOKEN = lane_types::TOKEN_BITS;
    localparam int COLUMN = lane_types::COLUMN_BITS;
    localparam int RECIPROCAL = lane_types::RECIPROCAL_BITS;
    localparam int ZERO_POINT = lane_types::ZERO_POINT_BITS;
    localparam int BANK = lane_types::LANE_BANK_BITS;
    localparam int ADDRESS = lane_types::LANE_ADDRESS_BITS;
    localparam int MOMENT = lane_types::MOMENT_BITS;
    localparam int COMMAND_GAP = 16;        // declared::COMMAND_GAP
    // Slow cycles from an item's operands to its codes, its residual, its moments and its end.
    localparam int BEFORE_AT = 10 / R;
    localparam int CODE_AT = R == 2 ? 10 : 18;
    localparam int RESIDUAL_AT = R == 2 ? 9 : 16;
    localparam int MOMENTS_AT = R == 2 ? 11 : 20;
    localparam int DEPTH = MOMENTS_AT + 2;  // declared::requantize_depth
    localparam int OUTPUTS = 32; // moments and logits that find room: more than are on their way

    localparam int GROUP_BITS = G > 1 ? $clog2(G) : 1;
    localparam int STATES = TILES * G;
    localparam int STATE_BITS = STATES > 1 ? $clog2(STATES) : 1;
    localparam int SCALE_ADDRESS_BITS = G > 1 ? GROUP_BITS + 1 : 1; // half, group
    localparam int BYTE_BITS = C > 1 ? $clog2(C) : 1;
    localparam int SHIFT_C = $clog2(C);
    localparam int BANKS = G * C;
    localparam int BANK_BITS = BANKS > 1 ? $clog2(BANKS) : 1;
    localparam int KEY_BANK_BITS = KEY_BANKS > 1 ? $clog2(KEY_BANKS) : 1;
    localparam int VALUE_BANK_BITS = VALUE_BANKS > 1 ? $clog2(VALUE_BANKS) : 1;
    localparam int INDEX_BITS = P > 1 ? $clog2(2 * P) : 1;
    localparam int MEAN_BITS = MEANS > 1 ? $clog2(MEANS) : 1;
    localparam int USED_BITS = $clog2(OUTPUTS + 1);
    localparam bit ROTATES = ANGLES > 0;
    localparam int TOKEN_ANGLE_BITS = ANGLES > 1 ? $clog2(ANGLES) : 1;
    // A token's place in a tile: group, and at R = 2 the fast cycle.
    localparam int PLACE_BITS = G * R > 1 ? $clog2(G) + R - 1 : 1;
    localparam int KEPT_BITS = PLACE_BITS + 2;
    localparam int ANGLE_BITS = TOKEN_ANGLE_BITS + PLACE_BITS;
    // Eight tokens share a copy of a control signal.
    localparam int ITEM_PARTS = (L + 7) / 8;

    if (T < 1 || L < 1 || L > T || R < 1 || R > 2 || FRAMES < 1 || FRAMES > 2) begin : gen_refused
        $error("lanes: L must be 1 to T, R and FRAMES 1 or 2");
    end
    if (C < 1 || C > 16 || C != 1 << SHIFT_C || BEAT < 16) begin : gen_refused_words
        $error("lanes: C must be a power of two up to 16, BEAT at least 16");
    end

    // Copies for the control, for the queues, and for what is late.
    logic reset_here, reset_queues, reset_late;
    registers #(.BITS(3), .PRIMITIVES(PRIMITIVES)) reset_copies (
        .clk, .d({3{reset}}), .q({reset_here, reset_queues, reset_late})
    );

    // The fast cycle of the second token.
    logic [LANES-1:0] second;
    if (R == 2) begin : gen_phase
        logic toggle, seen;
        always_ff @(posedge clk) toggle <= !reset && !toggle;
        always_ff @(posedge clk_array) seen <= toggle;
        registers #(.BITS(LANES), .PRIMITIVES(PRIMITIVES)) phase_copies (
            .clk(clk_array), .d({LANES{toggle != seen}}), .q(second)
        );
    end else begin : gen_no_phase
        assign second = '0;
    end

    // Commands.
    typedef enum logic [2:0] {IDLE, GAP, ROWS, FILL, TABLE, WAIT} state_t;
    state_t state;
    lane_types::lane_job_t job;
    logic [4:0] left_to_wait;
    wire is_rows = job.operation == lane_types::JOB_ROWS;
    wire attends = job.operation == lane_types::JOB_ATTEND;
    wire is_fill = job.operation == lane_types::JOB_FILL;
    assign jobs_ready = state == IDLE;

    // The present row, and its present group of tokens.
    lane_types::lane_row_t next_row, row;
    logic row_valid;
    logic [GROUP_BITS-1:0] group;
    logic [TOKEN-1:0] left, first;
    logic [BANK-1:0] key_bank, value_bank;
    logic [7:0] logit;
    logic [ADDRESS-1:0] key_address;
    assign next_row = rows;

    wire last_group = G == 1 || 32'(left) <= L;
    wire [7:0] lanes_here = 32'(left) < L ? left[7:0] : 8'(L);
    wire last_logit = !job.logits || logit + 1'b1 == lanes_here;
    wire makes_moments = job.moments && row.end_tile && row.last_rows;
    wire finishes = row.destination == lane_types::TO_VALUE && last_group
        && first + lanes_here == job.tokens;

    // Rows 2i and 2i + 1 of queries and keys are a pair.
    wire rotates = ROTATES && row.rotates;
    logic pair_room, pair_pending, last_pair, turns, ends_pairs;

    logic moments_room, logits_room, credits_room, means_pending;
    logic scales_here;
    wire fire = state == ROWS && row_valid && (logit != '0 || sums_valid)
        && (!attends || ((!row.begin_tile || scales_here) && !means_pending))
        && (!makes_moments || moments_room) && (!job.logits || logits_room) && credits_room
        && !turns && !last_pair && (!rotates || pair_room);
    wire item = fire && last_logit;
    wire end_row = item && last_group;
    wire ends_rows = (end_row && row.last && !rotates) || ends_pairs;
    assign sums_ready = fire && logit == '0;
    assign rows_ready = !row_valid || end_row;

    wire [BANK:0] first_value_bank = {1'b0, next_row.tile_value_bank} + {1'b0, next_row.value_bank};
    wire [BANK:0] next_key_bank = {1'b0, key_bank} + (BANK + 1)'(L);
    // A value word later if the lanes end beyond the word's last byte.
    wire [4:0] next_byte = 5'(first & TOKEN'(C - 1)) + 5'(L % C);
    wire [BANK:0] next_value_bank = {1'b0, value_bank} + (BANK + 1)'(L / C % VALUE_BANKS)
        + (BANK + 1)'(32'(next_byte) >= C);
    always_ff @(posedge clk) begin
        if (rows_valid && rows_ready) begin
            row <= next_row;
            group <= '0;
            left <= next_row.tokens;
            first <= next_row.first;
            key_bank <= next_row.key_bank;
            key_address <= next_row.key_address;
            value_bank <= BANK'(32'(first_value_bank) >= VALUE_BANKS
                ? first_value_bank - (BANK + 1)'(VALUE_BANKS) : first_value_bank);
        end else if (item) begin
            group <= group + 1'b1;
            left <= left - TOKEN'(L);
            first <= first + TOKEN'(L);
            key_bank <= BANK'(32'(next_key_bank) >= KEY_BANKS
                ? next_key_bank - (BANK + 1)'(KEY_BANKS) : next_key_bank);
            if (32'(next_key_bank) >= KEY_BANKS) key_address <= key_address + ADDRESS'(job.stride);
            value_bank <= BANK'(32'(next_value_bank) >= VALUE_BANKS
                ? next_value_bank - (BANK + 1)'(VALUE_BANKS) : next_value_bank);
        end
        if (fire) logit <= last_logit ? '0 : logit + 1'b1;
        if (reset_here) begin
            row_valid <= 1'b0;
            logit <= '0;
        end else row_valid <= !rows_ready || rows_valid;
    end

    // Rotations.
    logic turn_second;
    logic [1:0] pair_slot, turn_slot;
    logic [2:0] turn_destination;
    logic [15:0] turn_column, turn_angle;
    logic [GROUP_BITS-1:0] turn_group;
    logic [7:0] turn_lanes;
    logic [ADDRESS-1:0] turn_address, turn_key_address;
    logic [BANK-1:0] turn_key_bank;
    if (!ROTATES) begin : gen_no_turns
        assign {pair_slot, turn_slot, turn_second, turn_destination, turn_column, turn_angle,
            turn_group, turn_lanes, turn_address, turn_key_address, turn_key_bank, pair_room,
            pair_pending, last_pair, turns, ends_pairs} = '0;
    end else begin : gen_turns
        lane_turns #(.L(L), .R(R), .G(G), .KEY_BANKS(KEY_BANKS)) lane_turns (
            .clk, .reset(reset_here), .closes(end_row && rotates && row.column[0]), .row,
            .stride(job.stride), .slot(pair_slot), .room(pair_room), .pending(pair_pending),
            .last(last_pair), .turns, .ends(ends_pairs), .second(turn_second), .turn_slot,
            .destination(turn_destination), .column(turn_column), .angle(turn_angle),
            .group(turn_group), .lanes(turn_lanes), .address(turn_address),
            .key_address(turn_key_address), .key_bank(turn_key_bank)
        );
    end

    // Fills and tables.
    logic fill_step, fill_ends, table_ends, filled;
    logic [ITEM_PARTS-1:0] filled_lanes;
    logic [RESIDUAL_BITS-1:0] fill_address;
    logic [GROUP_BITS-1:0] fill_group;
    logic [L*16-1:0] fill_d;
    logic table_write;
    logic [7:0] table_address, table_d;
    localparam int ANGLE_PARTS = (LANES + 3) / 4; // four lanes share a write
    logic [ANGLE_PARTS-1:0] angle_write;
    logic [ANGLE_BITS-1:0] angle_write_address;
    logic [127:0] angle_d;
    lane_fill #(
        .T(T), .L(L), .BEAT(BEAT), .RESIDUAL_BITS(RESIDUAL_BITS), .ROTATES(ROTATES), .PLACES(G * R),
        .ANGLE_PARTS(ANGLE_PARTS), .ANGLE_BITS(ANGLE_BITS), .PRIMITIVES(PRIMITIVES)
    ) fill (
        .clk, .reset(reset_here), .starts(state == IDLE), .fills(state == FILL),
        .tables(state == TABLE), .words(job.words), .beats_valid, .beats_ready, .beats,
        .step(fill_step), .ends(fill_ends), .table_ends, .write(filled),
        .write_lanes(filled_lanes), .address(fill_address), .group(fill_group), .d(fill_d),
        .table_write, .table_address, .table_d, .angle_write, .angle_write_address, .angle_d
    );

    always_ff @(posedge clk) begin
        unique case (state)
            IDLE: begin
                job <= jobs;
                left_to_wait <= 5'(COMMAND_GAP - 1);
                if (jobs_valid) state <= GAP;
            end
            GAP: begin
                left_to_wait <= left_to_wait - 1'b1;
                if (left_to_wait == 5'd1)
                    state <= is_rows || attends ? ROWS : is_fill ? FILL : TABLE;
            end
            ROWS: if (ends_rows) state <= IDLE;
            FILL:
            if (fill_step) begin
                left_to_wait <= 5'(DEPTH);
                if (fill_ends) state <= job.words == '0 ? IDLE : WAIT;
            end
            TABLE: if (table_ends) state <= IDLE;
            // The next command reads the filled residual.
            WAIT: begin
                left_to_wait <= left_to_wait - 1'b1;
                if (left_to_wait == 5'd1) state <= IDLE;
            end
            default: state <= IDLE;
        endcase
        if (reset_here) state <= IDLE;
    end

    // Scales of attention tiles.
    logic scale_half;
    logic [LANES*R-1:0] scale_write;
    logic [SCALE_ADDRESS_BITS-1:0] scale_write_address;
    logic [lane_types::SCALE_BITS-1:0] scale_d;
    lane_scales #(.T(T), .L(L), .LANES(LANES * R)) gather (
        .clk, .reset(reset_here), .tiles_valid(attention_tiles_valid),
        .tiles_ready(attention_tiles_ready), .tiles(attention_tiles), .scales_valid,
        .scales_ready, .scales, .group, .ends(ends_rows && attends), .here(scales_here),
        .half(scale_half), .write(scale_write), .address(scale_write_address), .d(scale_d)
    );

    // The item's operands. A logit has its own way, below.
    localparam int COPIES = (LANES + 7) / 8; // eight lanes share one
    logic [COPIES-1:0] attends_0;
    registers #(.BITS(COPIES), .PRIMITIVES(PRIMITIVES)) attends_copies (
        .clk, .d({COPIES{attends}}), .q(attends_0)
    );
    // The sums stay until the last of their logits.
    logic [LANES-1:0] takes;
    wire takes_next = reset_here || (fire ? last_logit : takes[0]);
    registers #(.BITS(LANES), .PRIMITIVES(PRIMITIVES)) takes_copies (
        .clk, .d({LANES{takes_next}}), .q(takes)
    );
    logic logit_valid_0;
    logic [L*27-1:0] sums_0;
    for (genvar i = 0; i < L; i++) begin : gen_sums
        always_ff @(posedge clk) if (takes[i%LANES]) sums_0[i*27+:27] <= sums[i*27+:27];
    end
    logic [7:0] logit_0;
    logic [26:0] bias_0;
    logic [15:0] mult_0;
    logic [4:0] shift_0;
    logic [12:0] mean, mean_0;
    logic [SCALE_ADDRESS_BITS-1:0] scale_address_0;
    logic [ZERO_POINT-1:0] zero_point_0;
    logic activation_0, fresh_0, sums_up_0, moments_0, ends_0, adds_0;
    logic [1:0] credits_0;
    logic [TOKEN-1:0] tile_0, first_0, skip_0;
    logic [GROUP_BITS-1:0] group_0;
    logic frame_0;
    logic [2:0] destination_0;
    logic [7:0] lanes_0;
    logic [15:0] column_0, value_block_0;
    logic [ADDRESS-1:0] address_0, key_address_0;
    logic turns_0, takes_second_0;
    logic [1:0] keeps_0, kept_slot_0;
    logic [BANK-1:0] key_bank_0, value_bank_0;
    logic [COLUMN-1:0] key_stride_0;
    logic [TOKEN-1:0] value_words_0;
    logic [INDEX_BITS-1:0] index_0;
    logic finishes_0;
    logic [RECIPROCAL-1:0] reciprocal_0;
    always_ff @(posedge clk) begin
        logit_0 <= logit;
        bias_0 <= attends || turns ? '0 : row.bias;
        mult_0 <= row.mult;
        shift_0 <= row.shift;
        mean_0 <= attends ? mean : '0;
        scale_address_0 <= SCALE_ADDRESS_BITS'(G == 1 ? {scale_half} : {scale_half, group});
        zero_point_0 <= attends ? '0 : job.zero_point;
        activation_0 <= job.activation;
        // Each row of a tile adds to the moments of the earlier rows.
        fresh_0 <= row.begin_tile && row.first_rows;
        tile_0 <= row.tile;
        first_0 <= first;
        skip_0 <= job.skip;
        group_0 <= turns ? turn_group : group;
        frame_0 <= job.frame;
        adds_0 <= job.residual;
        lanes_0 <= turns ? turn_lanes : lanes_here;
        column_0 <= turns ? {turn_column[15:1], turn_second} : row.column;
        value_block_0 <= row.value_block;
        address_0 <= turns ? turn_address : row.address;
        key_bank_0 <= turns ? turn_key_bank : key_bank;
        key_address_0 <= turns ? turn_key_address : key_address;
        turns_0 <= turns;
        takes_second_0 <= turn_second;
        keeps_0 <= {2{item && rotates}} & {row.column[0], !row.column[0]};
        kept_slot_0 <= turns ? turn_slot : pair_slot;
        value_bank_0 <= value_bank;
        key_stride_0 <= COLUMN'(((COLUMN + 1)'(job.stride) + (COLUMN + 1)'(C - 1)) >> SHIFT_C);
        value_words_0 <= TOKEN'(((TOKEN + 1)'(job.tokens) + (TOKEN + 1)'(C - 1)) >> SHIFT_C);
        index_0 <= INDEX_BITS'(row.index);
        reciprocal_0 <= job.reciprocal;
        if (reset_here) begin
            {sums_up_0, moments_0, ends_0, logit_valid_0, finishes_0} <= '0;
            credits_0 <= '0;
            destination_0 <= '1;
        end else begin
            sums_up_0 <= item && job.moments;
            moments_0 <= item && makes_moments;
            ends_0 <= ends_rows || fill_ends || table_ends;
            logit_valid_0 <= fire && job.logits;
            finishes_0 <= item && finishes;
            credits_0 <= 2'(end_row && row.end_tile && row.last_rows && job.post_tiles)
                + 2'(ends_rows && job.post);
            destination_0 <= turns ? turn_destination
                : item && !rotates ? row.destination : '1;
        end
    end

    // Addresses: one cycle, then two more for a wrapped key and a value.
    logic [ADDRESS-1:0] at_1;
    logic [ROW_BITS-1:0] key_at_1, key_at_2, key_at_3, key_wrapped_2, key_wrapped_3;
    logic [COLUMN-1:0] key_stride_1;
    logic [TOKEN-1:0] first_1;
    logic signed [29:0] value_at_3;
    logic [STATE_BITS-1:0] state_1;
    logic [7:0] skip_lanes_1;
    wire [TOKEN:0] skip_left = {1'b0, skip_0} - {1'b0, first_0};
    always_ff @(posedge clk) begin
        at_1 <= address_0 + ADDRESS'(column_0);
        key_at_1 <= ROW_BITS'((key_address_0 + ADDRESS'(column_0)) >> SHIFT_C);
        key_stride_1 <= key_stride_0;
        first_1 <= first_0;
        key_at_2 <= key_at_1;
        key_wrapped_2 <= key_at_1 + ROW_BITS'(key_stride_1);
        {key_at_3, key_wrapped_3} <= {key_at_2, key_wrapped_2};
        state_1 <= STATE_BITS'(32'(tile_0) * G + 32'(group_0));
        // Lanes whose residual stays.
        skip_lanes_1 <= skip_left[TOKEN] ? '0 : 32'(skip_left) > L ? 8'(L) : skip_left[7:0];
    end
    multiply_add #(
        .A(17), .B(TOKEN + 1), .P(30), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
    ) value_address (
        .clk, .a({1'b0, value_block_0}), .b({1'b0, value_words_0}), .c(30'(first_1 >> SHIFT_C)),
        .subtracts(1'b0), .p(value_at_3)
    );

    // Control of the lanes' stages.
    logic [26:0] bias_fast;
    logic [12:0] mean_fast;
    logic [ZERO_POINT-1:0] zero_point_fast;
    logic sums_up_fast;
    logic [LANES-1:0] activation_fast, fresh_fast;
    logic [LANES*STATE_BITS-1:0] state_fast;
    lane_control #(.BITS(40), .STAGE(1), .R(R), .PRIMITIVES(PRIMITIVES)) operand_control (
        .clk, .clk_array, .in({bias_0, mean_0}), .out({bias_fast, mean_fast})
    );
    lane_control #(.BITS(ZERO_POINT), .STAGE(12), .R(R), .PRIMITIVES(PRIMITIVES)) code_control (
        .clk, .clk_array, .in(zero_point_0), .out(zero_point_fast)
    );
    lane_control #(
        .STAGE(17), .COPIES(LANES), .R(R), .PRIMITIVES(PRIMITIVES)
    ) activation_control (
        .clk, .clk_array, .in(activation_0), .out(activation_fast)
    );
    lane_control #(.STAGE(18), .COPIES(LANES), .R(R), .PRIMITIVES(PRIMITIVES)) fresh_control (
        .clk, .clk_array, .in(fresh_0), .out(fresh_fast)
    );
    lane_control #(
        .BITS(STATE_BITS), .STAGE(18 - R), .COPIES(LANES), .R(R), .PRIMITIVES(PRIMITIVES)
    ) state_control (
        .clk, .clk_array, .in(state_1), .out(state_fast)
    );
    delay #(.CYCLES(18 / R), .RESET(1)) sums_up_delay (
        .clk, .reset(reset_here), .in(sums_up_0), .out(sums_up_fast)
    );

    // Control of rotations: each lane has its own, and four lanes share an angle's address.
    logic [LANES-1:0] turns_copies, takes_second, turns_late;
    logic [2*LANES-1:0] keeps;
    logic [LANES*KEPT_BITS-1:0] first_address, second_address, keep_address;
    logic [ANGLE_PARTS*ANGLE_BITS-1:0] angle_address;
    logic subtracts;
    if (!ROTATES) begin : gen_no_rotation
        assign {turns_copies, takes_second, turns_late, keeps, first_address, second_address,
            keep_address, angle_address, subtracts} = '0;
    end else begin : gen_rotation
        // The place of a token: its group, and at R = 2 its fast cycle.
        wire [GROUP_BITS:0] place = R == 2 ? {turn_group, second[0]} : {1'b0, turn_group};
        wire [ANGLE_BITS-1:0] angle_at = {place[PLACE_BITS-1:0], turn_angle[TOKEN_ANGLE_BITS-1:0]};
        if (R == 2) begin : gen_fast_address
            registers #(.BITS(ANGLE_PARTS * ANGLE_BITS), .PRIMITIVES(PRIMITIVES)) angle_copies (
                .clk(clk_array), .d({ANGLE_PARTS{angle_at}}), .q(angle_address)
            );
        end else begin : gen_address
            assign angle_address = {ANGLE_PARTS{angle_at}};
        end

        registers #(.BITS(LANES), .PRIMITIVES(PRIMITIVES)) turn_copies (
            .clk, .d({LANES{turns}}), .q(turns_copies)
        );
        for (genvar j = 0; j < LANES; j++) begin : gen_first
            wire [GROUP_BITS:0] place_0 = R == 2 ? {group_0, second[j]} : {1'b0, group_0};
            assign first_address[j*KEPT_BITS+:KEPT_BITS] = {kept_slot_0, place_0[PLACE_BITS-1:0]};
        end
        lane_control #(
            .STAGE(1), .COPIES(LANES), .R(R), .PRIMITIVES(PRIMITIVES)
        ) second_control (
            .clk, .clk_array, .in(takes_second_0), .out(takes_second)
        );

        logic turns_6, second_6, turns_7, second_7;
        logic [1:0] slot_6, slot_10, keeps_10, keeps_11;
        logic [GROUP_BITS-1:0] group_6, group_10;
        logic [KEPT_BITS-1:0] kept_7, keep_11;
        lane_control #(
            .BITS(4 + GROUP_BITS), .STAGE(6), .R(R), .PRIMITIVES(PRIMITIVES)
        ) turn_control (
            .clk, .clk_array, .in({turns_0, takes_second_0, kept_slot_0, group_0}),
            .out({turns_6, second_6, slot_6, group_6})
        );
        lane_control #(
            .BITS(4 + GROUP_BITS), .STAGE(10), .R(R), .PRIMITIVES(PRIMITIVES)
        ) keep_control (
            .clk, .clk_array, .in({keeps_0, kept_slot_0, group_0}),
            .out({keeps_10, slot_10, group_10})
        );
        wire [GROUP_BITS:0] place_6 = R == 2 ? {group_6, second[0]} : {1'b0, group_6};
        wire [GROUP_BITS:0] place_10 = R == 2 ? {group_10, second[0]} : {1'b0, group_10};
        always_ff @(posedge clk_array) begin
            turns_7 <= turns_6;
            second_7 <= second_6;
            kept_7 <= {slot_6, place_6[PLACE_BITS-1:0]};
            keeps_11 <= keeps_10;
            keep_11 <= {slot_10, place_10[PLACE_BITS-1:0]};
        end
        registers #(.BITS(LANES * (1 + KEPT_BITS)), .PRIMITIVES(PRIMITIVES)) late_copies (
            .clk(clk_array), .d({{LANES{turns_7}}, {LANES{kept_7}}}),
            .q({turns_late, second_address})
        );
        registers #(.BITS(LANES * (2 + KEPT_BITS)), .PRIMITIVES(PRIMITIVES)) keep_copies (
            .clk(clk_array), .d({{LANES{keeps_11}}, {LANES{keep_11}}}), .q({keeps, keep_address})
        );
        delay #(.CYCLES(4), .PRIMITIVES(PRIMITIVES)) subtract_delay (
            .clk(clk_array), .reset(1'b0), .in(turns_7 && !second_7), .out(subtracts)
        );
    end

    // The residual before the row.
    localparam int RESIDUAL_BANKS = FRAMES * G;
    logic [RESIDUAL_BANKS-1:0] bank_0, read_bank;
    logic [ITEM_PARTS*RESIDUAL_BANKS-1:0] word_bank;
    logic [RESIDUAL_BITS-1:0] read_address;
    logic [L*16-1:0] held, held_next;
    logic [L-1:0] skip, skip_lanes;
    always_comb
        for (int i = 0; i < RESIDUAL_BANKS; i++)
            bank_0[i] = adds_0 && (FRAMES == 1 || 32'(frame_0) == i / G)
                && (G == 1 || 32'(group_0) == i % G);
    delay #(.BITS(RESIDUAL_BANKS), .CYCLES(BEFORE_AT - 2), .PRIMITIVES(PRIMITIVES)) bank_delay (
        .clk, .reset(1'b0), .in(bank_0), .out(read_bank)
    );
    delay #(.BITS(RESIDUAL_BITS), .CYCLES(BEFORE_AT - 3), .PRIMITIVES(PRIMITIVES)) read_delay (
        .clk, .reset(1'b0), .in(at_1[RESIDUAL_BITS-1:0]), .out(read_address)
    );
    assign residual_enable = read_bank;
    assign residual_address = read_address;
    logic [7:0] skip_lanes_late;
    delay #(.BITS(8), .CYCLES(BEFORE_AT - 2), .PRIMITIVES(PRIMITIVES)) skip_delay (
        .clk, .reset(1'b0), .in(skip_lanes_1), .out(skip_lanes_late)
    );
    always_comb begin
        held_next = '0;
        for (int i = 0; i < RESIDUAL_BANKS; i++)
            for (int j = 0; j < L; j++)
                held_next[j*16+:16] |= {16{word_bank[j/8*RESIDUAL_BANKS+i]}}
                    & residual_word[(i*L+j)*16+:16];
        for (int i = 0; i < L; i++) skip_lanes[i] = i < 32'(skip_lanes_late);
    end
    registers #(.BITS(ITEM_PARTS * RESIDUAL_BANKS), .PRIMITIVES(PRIMITIVES)) word_bank_copies (
        .clk, .d({ITEM_PARTS{read_bank}}), .q(word_bank)
    );
    always_ff @(posedge clk) begin
        held <= held_next;
        skip <= skip_lanes;
    end

    // Lanes. Lane j serves the tokens j and, at R = 2, LANES + j of an item.
    logic [LANES*R*8-1:0] code;
    logic [LANES*R*16-1:0] residual;
    logic [LANES*R*lane_types::MOMENT_BITS-1:0] all_moments;
    for (genvar j = 0; j < LANES; j++) begin : gen_lanes
        logic [R*27-1:0] lane_sums;
        logic [R*16-1:0] lane_held, lane_residual;
        logic [R-1:0] lane_skip, lane_scale_write;
        logic [R*8-1:0] lane_code;
        logic [R*lane_types::MOMENT_BITS-1:0] lane_moments;
        for (genvar i = 0; i < R; i++) begin : gen_tokens
            localparam int PLACE = i * LANES + j;
            localparam int FROM = PLACE < L ? PLACE : 0;
            assign lane_sums[i*27+:27] = sums_0[FROM*27+:27];
            assign lane_held[i*16+:16] = held[FROM*16+:16];
            assign lane_skip[i] = skip[FROM];
            assign lane_scale_write[i] = scale_write[PLACE];
            assign code[PLACE*8+:8] = lane_code[i*8+:8];
            assign residual[PLACE*16+:16] = lane_residual[i*16+:16];
            assign all_moments[PLACE*MOMENT+:MOMENT] = lane_moments[i*MOMENT+:MOMENT];
        end
        requantize_lane #(
            .R(R), .SCALES(1 << SCALE_ADDRESS_BITS), .STATES(STATES), .GROUPS(G),
            .ROTATES(ROTATES), .ANGLE_BITS(ANGLE_BITS),
            .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
        ) lane (
            .clk, .clk_array, .second(second[j]),
            .scale_write(lane_scale_write), .scale_write_address, .scale_d,
            .table_write, .table_address, .table_d, .angle_write(angle_write[j/4]),
            .angle_write_address, .angle_d(angle_d[j%4*32+:32]),
            .angle_address(angle_address[j/4*ANGLE_BITS+:ANGLE_BITS]),
            .turns(turns_copies[j]), .first_address(first_address[j*KEPT_BITS+:KEPT_BITS]),
            .takes_second(takes_second[j]), .turns_late(turns_late[j]),
            .second_address(second_address[j*KEPT_BITS+:KEPT_BITS]), .subtracts,
            .keeps(keeps[2*j+:2]), .keep_address(keep_address[j*KEPT_BITS+:KEPT_BITS]),
            .sums(lane_sums), .attends(attends_0[j/8]), .scale_address(scale_address_0),
            .mult(mult_0), .shift(shift_0), .bias(bias_fast), .mean(mean_fast),
            .held(lane_held), .skip(lane_skip), .zero_point(zero_point_fast),
            .activation(activation_fast[j]), .fresh(fresh_fast[j]), .sums_up(sums_up_fast),
            .state(state_fast[j*STATE_BITS+:STATE_BITS]),
            .code(lane_code), .residual(lane_residual), .moments(lane_moments)
        );
    end

    // Codes to their memories.
    logic to_query, to_hidden, to_key, to_value;
    logic [7:0] lanes_late;
    logic [BANK_BITS-1:0] bank_late;
    logic [ADDRESS_BITS-1:0] address_late;
    logic [BYTE_BITS-1:0] key_byte_late;
    logic [ROW_BITS-1:0] key_address_late, key_wrapped_late, value_address_late;
    logic [KEY_BANK_BITS-1:0] key_bank_before;
    logic [VALUE_BANK_BITS-1:0] value_bank_before;
    logic [BYTE_BITS-1:0] value_byte_before;
    logic [KEY_BANKS*KEY_BANK_BITS-1:0] key_bank_late;
    logic [VALUE_BANKS*VALUE_BANK_BITS-1:0] value_bank_late;
    logic [VALUE_BANKS*BYTE_BITS-1:0] value_byte_late;
    // No concatenation has a cast to fewer bits: Yosys 0.23 keeps all bits there.
    wire [BANK_BITS-1:0] code_bank_0 = BANK_BITS'(32'(group_0) * C + (32'(column_0) & (C - 1)));
    wire [BYTE_BITS-1:0] key_byte_0 = BYTE_BITS'(32'(column_0) & (C - 1));
    wire [BYTE_BITS-1:0] value_byte_0 = BYTE_BITS'(32'(first_0) & (C - 1));
    delay #(.BITS(4), .CYCLES(CODE_AT), .RESET(1)) destination_delay (
        .clk, .reset(reset_late),
        .in({destination_0 == lane_types::TO_QUERY, destination_0 == lane_types::TO_HIDDEN,
            destination_0 == lane_types::TO_KEY,
            destination_0 == lane_types::TO_VALUE}),
        .out({to_query, to_hidden, to_key, to_value})
    );
    delay #(
        .BITS(8 + BANK_BITS + BYTE_BITS), .CYCLES(CODE_AT), .PRIMITIVES(PRIMITIVES)
    ) bank_late_delay (
        .clk, .reset(1'b0), .in({lanes_0, code_bank_0, key_byte_0}),
        .out({lanes_late, bank_late, key_byte_late})
    );
    // Each item of keys begins in the first bank if the banks hold all lanes: nothing rotates.
    localparam bit KEYS_ROTATE = T % KEY_BANKS != 0 || (G > 1 && L != KEY_BANKS);
    delay #(
        .BITS(KEY_BANK_BITS + VALUE_BANK_BITS + BYTE_BITS), .CYCLES(CODE_AT - 1),
        .PRIMITIVES(PRIMITIVES)
    ) turn_delay (
        .clk, .reset(1'b0),
        .in({KEYS_ROTATE ? key_bank_0[KEY_BANK_BITS-1:0] : '0, value_bank_0[VALUE_BANK_BITS-1:0],
            value_byte_0}),
        .out({key_bank_before, value_bank_before, value_byte_before})
    );
    registers #(
        .BITS(KEY_BANKS * KEY_BANK_BITS + VALUE_BANKS * (VALUE_BANK_BITS + BYTE_BITS)),
        .PRIMITIVES(PRIMITIVES)
    ) turn_copies (
        .clk,
        .d({{KEY_BANKS{key_bank_before}}, {VALUE_BANKS{value_bank_before}},
            {VALUE_BANKS{value_byte_before}}}),
        .q({key_bank_late, value_bank_late, value_byte_late})
    );
    delay #(.BITS(ADDRESS_BITS), .CYCLES(CODE_AT - 1), .PRIMITIVES(PRIMITIVES)) address_delay (
        .clk, .reset(1'b0), .in(ADDRESS_BITS'(at_1 >> SHIFT_C)), .out(address_late)
    );
    wire [ROW_BITS-1:0] value_address_3 = ROW_BITS'(value_at_3);
    delay #(.BITS(3 * ROW_BITS), .CYCLES(CODE_AT - 3), .PRIMITIVES(PRIMITIVES)) row_address_delay (
        .clk, .reset(1'b0), .in({key_at_3, key_wrapped_3, value_address_3}),
        .out({key_address_late, key_wrapped_late, value_address_late})
    );
    lane_store #(
        .L(L), .C(C), .GROUPS(G), .KEY_BANKS(KEY_BANKS), .VALUE_BANKS(VALUE_BANKS),
        .ADDRESS_BITS(ADDRESS_BITS), .ROW_BITS(ROW_BITS)
    ) store (
        .clk, .code(code[L*8-1:0]), .to_query, .to_hidden, .to_key, .to_value, .lanes(lanes_late),
        .bank(bank_late), .address(address_late), .key_bank(key_bank_late),
        .key_byte(key_byte_late), .key_address(key_address_late), .key_wrapped(key_wrapped_late),
        .value_bank(value_bank_late), .value_byte(value_byte_late),
        .value_address(value_address_late), .query_write, .hidden_write,
        .code_address(code_write_address), .code_d(code_write_d), .key_write, .key_write_address,
        .key_write_d, .value_write, .value_write_address, .value_write_d
    );

    // The residual to its two copies: a row's, or a word of a fill.
    logic to_residual, frame_late;
    logic [GROUP_BITS-1:0] group_late;
    logic [RESIDUAL_BITS-1:0] residual_at_late;
    delay #(.CYCLES(RESIDUAL_AT), .RESET(1)) to_residual_delay (
        .clk, .reset(reset_late), .in(destination_0 == lane_types::TO_RESIDUAL), .out(to_residual)
    );
    delay #(.BITS(1 + GROUP_BITS), .CYCLES(RESIDUAL_AT), .PRIMITIVES(PRIMITIVES)) slot_delay (
        .clk, .reset(1'b0), .in({frame_0, group_0}), .out({frame_late, group_late})
    );
    delay #(
        .BITS(RESIDUAL_BITS), .CYCLES(RESIDUAL_AT - 1), .PRIMITIVES(PRIMITIVES)
    ) residual_at_delay (
        .clk, .reset(1'b0), .in(at_1[RESIDUAL_BITS-1:0]), .out(residual_at_late)
    );
    wire [GROUP_BITS-1:0] residual_group = filled ? fill_group : group_late;
    wire residual_frame = filled ? job.frame : frame_late;
    always_ff @(posedge clk) begin
        for (int i = 0; i < RESIDUAL_BANKS; i++)
            residual_write[i] <= (filled || to_residual)
                && (FRAMES == 1 || 32'(residual_frame) == i / G)
                && (G == 1 || 32'(residual_group) == i % G);
        residual_write_address <= filled ? fill_address : residual_at_late;
        for (int i = 0; i < L; i++)
            residual_write_d[i*16+:16] <= filled_lanes[i/8] ? fill_d[i*16+:16]
                : residual[i*16+:16];
    end

    // Means of values.
    logic finish_late, first_group_late, first_tile_late;
    logic mean_written, mean_stands;
    logic [INDEX_BITS-1:0] index_late;
    logic [MEAN_BITS-1:0] column_late;
    logic [RECIPROCAL-1:0] reciprocal_late;
    delay #(.CYCLES(CODE_AT), .RESET(1)) finish_delay (
        .clk, .reset(reset_late), .in(finishes_0), .out(finish_late)
    );
    wire [MEAN_BITS-1:0] mean_column_0 = MEAN_BITS'(column_0);
    delay #(
        .BITS(2 + INDEX_BITS + MEAN_BITS + RECIPROCAL), .CYCLES(CODE_AT), .PRIMITIVES(PRIMITIVES)
    ) column_delay (
        .clk, .reset(1'b0),
        .in({group_0 == '0, first_0 < TOKEN'(T), index_0, mean_column_0, reciprocal_0}),
        .out({first_group_late, first_tile_late, index_late, column_late, reciprocal_late})
    );
    value_means #(.L(L), .ROWS(2 * P), .WORDS(MEANS), .PRIMITIVES(PRIMITIVES)) value_means (
        .clk, .reset(reset_late), .code(code[L*8-1:0]), .valid(to_value), .lanes(lanes_late),
        .index(index_late), .first_group(first_group_late), .first_tile(first_tile_late),
        .finish(finish_late), .column(column_late), .reciprocal(reciprocal_late),
        .written(mean_written),
        .address(MEAN_BITS'(rows_valid && rows_ready ? next_row.column : row.column)), .mean
    );
    // Columns on their way to their mean: no Attend reads before. `mean` shows it a cycle after it
    // is written.
    logic [7:0] means_on_the_way;
    assign means_pending = means_on_the_way != '0;
    always_ff @(posedge clk)
        if (reset_here) {means_on_the_way, mean_stands} <= '0;
        else begin
            mean_stands <= mean_written;
            means_on_the_way <= means_on_the_way + 8'(item && finishes) - 8'(mean_stands);
        end

    // Moments.
    logic moments_late;
    logic [USED_BITS-1:0] moments_used;
    delay #(.CYCLES(MOMENTS_AT), .RESET(1)) moments_delay (
        .clk, .reset(reset_late), .in(moments_0), .out(moments_late)
    );
    queue #(.BITS(L * MOMENT), .DEPTH(OUTPUTS), .PRIMITIVES(PRIMITIVES)) moments_queue (
        .clk, .reset(reset_queues), .write(moments_late), .in(all_moments[L*MOMENT-1:0]),
        .valid(moments_valid), .ready(moments_ready), .out(moments)
    );

    logic logit_late;
    logic [USED_BITS-1:0] logits_used;
    lane_logits #(
        .L(L), .DEPTH(DEPTH), .OUTPUTS(OUTPUTS), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
    ) lane_logits (
        .clk, .reset(reset_late), .reset_queue(reset_queues), .next(logit), .valid(logit_valid_0),
        .index(logit_0), .sums(sums_0), .bias(bias_0), .mult(mult_0), .stored(logit_late),
        .logits_valid, .logits_ready, .logits
    );

    // Room for results, credits and the ends of commands, after the item is stored.
    logic [1:0] credits_late;
    logic ends_late;
    logic [5:0] credits;
    delay #(.BITS(3), .CYCLES(DEPTH - 1), .RESET(1)) end_delay (
        .clk, .reset(reset_late), .in({credits_0, ends_0}), .out({credits_late, ends_late})
    );
    assign moments_room = 32'(moments_used) < OUTPUTS;
    assign logits_room = 32'(logits_used) < OUTPUTS;
    assign credits_room = credits < 6'd16;
    assign drain_to_array_valid = credits != '0;
    always_ff @(posedge clk)
        if (reset_here) begin
            {moments_used, logits_used, credits, retired} <= '0;
        end else begin
            moments_used <= moments_used + USED_BITS'(item && makes_moments)
                - USED_BITS'(moments_valid && moments_ready);
            logits_used <= logits_used + USED_BITS'(fire && job.logits)
                - USED_BITS'(logits_valid && logits_ready);
            credits <= credits + 6'(credits_late)
                - 6'(drain_to_array_valid && drain_to_array_ready);
            retired <= ends_late;
        end

`ifndef SYNTHESIS
    // An item's results are on a write port, or were, when its credit and its end leave.
    logic code_stored, residual_stored, logit_stored;
    delay #(.CYCLES(DEPTH - CODE_AT - 3)) code_stored_delay (
        .clk, .reset(1'b0), .in({query_write, hidden_write, key_write, value_write} != '0),
        .out(code_stored)
    );
    delay #(.CYCLES(DEPTH - RESIDUAL_AT - 2)) residual_stored_delay (
        .clk, .reset(1'b0), .in(residual_write != '0), .out(residual_stored)
    );
    always_ff @(posedge clk) logit_stored <= logit_late;
    logic checks = 1'b0;
    always_ff @(posedge clk) begin
        if (reset_here) checks <= 1'b1;
        if (checks && !reset_here) begin
            a_fill_meets_no_row: assert (!filled || !to_residual);
            keys_begin_in_the_first_bank:
            assert (KEYS_ROTATE || destination_0 != lane_types::TO_KEY || key_bank_0 == '0);
            a_group_has_tokens: assert (!fire || (left != '0 && 32'(group) < G));
            results_find_room: assert (32'(moments_used) <= OUTPUTS && 32'(logits_used) <= OUTPUTS);
            credits_are_counted: assert (credits <= 6'd60);
            tiles_have_a_place: assert (!(fire && job.moments) || 32'(row.tile) < TILES);
            a_command_ends_behind_its_pairs: assert (!ends_rows || !pair_pending || ends_pairs);
            a_command_ends_in_a_row:
            assert (!ends_rows || logit == 8'(lanes_here - 1'b1) || !job.logits);
            a_credit_follows_its_results:
            assert (credits_late == '0 || code_stored || residual_stored || logit_stored);
            no_mean_is_counted_twice: assert (!mean_stands || means_pending);
        end
    end
`endif

endmodule

`default_nettype wire
