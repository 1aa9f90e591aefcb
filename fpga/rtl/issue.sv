// Takes the descriptors of passes and issues their words, one a fast cycle.
//
// The slow side does all arithmetic on descriptors. The fast side starts a pass when the previous
// pass has ended, the chain will be free at the pass's end, its weights are loaded, and the tokens'
// FIFOs have room for all its sums. Each condition is registered; once true for a pass, it stays
// true.

`default_nettype none

module issue #(
    parameter int P = 3,             // row pairs, 1 to 255
    parameter int C = 4,             // columns of a word, a power of two up to 16
    parameter int FRAMES = 2,        // slots of `normed`, 1 or 2
    parameter int KEY_BANKS = 3,     // a multiple of P
    parameter int VALUE_BANKS = 3,   // at least P
    parameter int WORDS = 64,        // of one half of the weight double buffer
    parameter int ADDRESS_BITS = 8,  // of activations
    parameter int ROW_BITS = 8,      // of row operands; 2 * WORDS fit
    parameter int TURN_BITS = 2,     // of a value bank
    parameter int POINTER_BITS = 7,  // a slot of the FIFOs, and one more bit
    parameter bit PRIMITIVES = 0,    // instantiate the flip-flops of copies
    localparam int BLOCKS = KEY_BANKS / P,
    localparam int SOURCES = FRAMES + 5,
    localparam int INFO_BITS = 29
) (
    input  wire logic                    clk,
    input  wire logic                    clk_array,
    input  wire logic                    reset,
    input  wire logic                    reset_array,
    // Slow.
    input  wire logic                    passes_valid,
    output logic                         passes_ready,
    input  wire logic [127:0]            passes,
    input  wire logic [1:0]              filled, // count of filled halves of the weights
    input  wire logic [POINTER_BITS-1:0] popped, // count of pairs that have left the FIFOs
    // Slow, for the counters: a pass's last word was issued; the next pass waits for weights only.
    output logic                         retired,
    output logic                         starved,
    // Fast: counts of freed halves and of credits for load.
    output logic [1:0]                   freed,
    output logic [1:0]                   posted,
    // Fast: the issued word.
    output logic                         valid,
    output logic                         first,
    output logic                         last,
    output logic [SOURCES-1:0]           source,  // input, query, hidden, normed, probability
    output logic [C-1:0]                 tail, // lanes used in the last word
    output logic [ADDRESS_BITS-1:0]      address,
    output logic                         weights,
    output logic                         value,
    output logic [BLOCKS-1:0]            key, // enables of the blocks of banks
    output logic [ROW_BITS-1:0]          row_address,
    output logic [ROW_BITS-1:0]          next_address, // of values that wrap to the first bank
    output logic [VALUE_BANKS-1:0]       next_block, // banks that read next_address
    output logic [TURN_BITS-1:0]         rotation,
    output logic [7:0]                   pairs4,
    output logic [INFO_BITS-1:0]         info // description of the sums for sequence_pairs
);

    if (P < 1 || P > 255 || C < 1 || C > 16 || (C & (C - 1)) != 0) begin : gen_refused_shape
        $error("issue: P must be 1 to 255, C a power of two up to 16");
    end
    if (FRAMES < 1 || FRAMES > 2 || KEY_BANKS % P != 0 || KEY_BANKS < P || VALUE_BANKS < P)
    begin : gen_refused_banks
        $error("issue: FRAMES must be 1 or 2, KEY_BANKS a multiple of P, VALUE_BANKS at least P");
    end
    if (2 * WORDS > 1 << ROW_BITS || VALUE_BANKS > 1 << TURN_BITS || P > 1 << POINTER_BITS - 1)
    begin : gen_refused_bits
        $error("issue: ROW_BITS, TURN_BITS or POINTER_BITS are too few for WORDS, VALUE_BANKS, P");
    end

    localparam int SLOTS = 8; // descriptors ahead of the running pass
    localparam int CONTROL_BITS = 1 + 2 + POINTER_BITS + 8 + 1 + 13;
    localparam int DATA_BITS = INFO_BITS + 2 + SOURCES + C + ADDRESS_BITS + 2 + BLOCKS
        + 2 * ROW_BITS + VALUE_BANKS + TURN_BITS;

    // Slow: a register for the descriptor, then one for the values computed from it.
    logic [3:0] accepted, written, released;
    logic [3:0] data_read;
    pass_types::pass_t pass;
    logic pass_valid, prepared_valid;
    logic [CONTROL_BITS-1:0] prepared_control;
    logic [DATA_BITS-1:0] prepared_data;
    logic [7:0] pairs_before;
    logic [POINTER_BITS-1:0] target; // pairs of all passes so far
    logic [1:0] half; // halves of weights that all passes so far free

    assign passes_ready = !reset && (accepted ^ released) != 4'(SLOTS);

    logic [7:0] gap;
    logic [SOURCES-1:0] pass_source;
    logic [C-1:0] pass_tail;
    logic [BLOCKS-1:0] pass_key;
    logic [VALUE_BANKS-1:0] later, pass_next;
    logic [ROW_BITS-1:0] pass_row, pass_next_row;
    logic pass_weights, pass_value;
    logic [POINTER_BITS-1:0] pass_target;

    always_comb begin
        gap = 13'(pairs_before) > pass.words ? pairs_before - pass.words[7:0] : '0;
        pass_weights = pass.operand == pass_types::OPERAND_WEIGHTS;
        pass_value = pass.operand == pass_types::OPERAND_VALUE;
        pass_target = target + POINTER_BITS'(pass.pairs);
        pass_source = '0;
        pass_source[0] = pass.source == pass_types::SOURCE_INPUT;
        pass_source[1] = pass.source == pass_types::SOURCE_QUERY;
        pass_source[2] = pass.source == pass_types::SOURCE_HIDDEN;
        for (int i = 0; i < FRAMES; i++)
            pass_source[3+i] = pass.source == pass_types::SOURCE_NORMED
                && (FRAMES == 1 || 32'(pass.bank) == i);
        for (int i = 0; i < 2; i++)
            pass_source[3+FRAMES+i] =
                pass.source == pass_types::SOURCE_PROBABILITY && 32'(pass.bank) == i;
        for (int c = 0; c < C; c++) pass_tail[c] = c < 32'(pass.tail);
        for (int i = 0; i < BLOCKS; i++)
            pass_key[i] = pass.operand == pass_types::OPERAND_KEY && 32'(pass.row_bank) == i * P;
        // Dimensions that wrap to the first bank; then the same in the order of the banks.
        for (int i = 0; i < VALUE_BANKS; i++) later[i] = 32'(pass.row_bank) + i >= VALUE_BANKS;
        pass_next = VALUE_BANKS'(({later, later} << pass.rotation) >> VALUE_BANKS);
        pass_row = ROW_BITS'(pass.row_address)
            + (pass_weights && half[0] ? ROW_BITS'(WORDS) : '0);
        pass_next_row = pass_row + ROW_BITS'(pass.next_block);
    end

    (* ram_style = "distributed" *) logic [CONTROL_BITS-1:0] control_ram[SLOTS];
    (* ram_style = "distributed" *) logic [DATA_BITS-1:0] data_ram[SLOTS];

    always_ff @(posedge clk) begin
        released <= data_read;
        pass <= passes;
        prepared_control <= {
            pass_weights, half, pass_target, gap, pass.words == 13'd1, pass.words
        };
        prepared_data <= {
            pass.last, pass.first, pass.scores, pass.unsigned_a, pass.groups, pass.single,
            pass.pairs4, pass.pairs,
            pass.post_load, pass.frees, pass_source, pass_tail, ADDRESS_BITS'(pass.address),
            pass_weights, pass_value, pass_key, pass_row, pass_next_row, pass_next,
            TURN_BITS'(pass.rotation)
        };
        if (prepared_valid) begin
            control_ram[written[2:0]] <= prepared_control;
            data_ram[written[2:0]] <= prepared_data;
        end
        if (reset) begin
            {accepted, written, released} <= '0;
            {pass_valid, prepared_valid} <= '0;
            pairs_before <= '0;
            target <= '0;
            half <= '0;
        end else begin
            pass_valid <= passes_valid && passes_ready;
            prepared_valid <= pass_valid;
            if (passes_valid && passes_ready) accepted <= accepted + 1'b1;
            if (prepared_valid) written <= written + 1'b1;
            if (pass_valid) begin
                pairs_before <= pass.pairs;
                target <= pass_target;
                if (pass.frees) half <= half + 1'b1;
            end
        end
    end

    // Fast: the next pass and the conditions of its start.
    logic [3:0] written_array, control_read;
    logic [1:0] filled_array;
    logic [POINTER_BITS-1:0] popped_array;
    logic next_valid, checked, spaced, has_weights, has_room;
    logic next_weights, next_one;
    logic [1:0] next_half;
    logic [POINTER_BITS-1:0] next_target, room;
    logic [7:0] next_gap, since;
    logic [12:0] next_words, left;
    logic running, last_word;

    wire start = checked && spaced && has_weights && has_room && (!running || last_word);
    wire take = written_array != control_read && (start || !next_valid);
    wire last_next = start ? next_one : running && left == 13'd2;

    // FIFO_DEPTH - (pairs in flight after the pass); negative if they do not fit.
    assign room = {~popped_array[POINTER_BITS-1], popped_array[POINTER_BITS-2:0]} - next_target;

    always_ff @(posedge clk_array) begin
        written_array <= written;
        filled_array <= filled;
        popped_array <= popped;
        if (take)
            {next_weights, next_half, next_target, next_gap, next_one, next_words} <=
                control_ram[control_read[2:0]];
        spaced <= since >= next_gap;
        has_weights <= !next_weights || filled_array != next_half;
        has_room <= !room[POINTER_BITS-1];
        left <= start ? next_words : left - 1'b1;
        if (reset_array) begin
            {next_valid, checked, running, last_word} <= '0;
            control_read <= '0;
            written_array <= '0;
            since <= '1;
        end else begin
            next_valid <= take || (next_valid && !start);
            checked <= next_valid && !start;
            running <= start || (running && !last_word);
            last_word <= last_next;
            if (take) control_read <= control_read + 1'b1;
            // Counts cycles since the last word.
            if (last_next) since <= 8'd1;
            else if (start || (running && !last_word)) since <= '0;
            else if (since != '1) since <= since + 1'b1;
        end
    end

    // The rest of the descriptor, one cycle after `start`.
    logic [1:0] begins;
    logic frees, posts;
    // A register, since `data_ram` is written on the other clock. A pass starts two cycles after
    // the one before, at the earliest, so that it holds the next one's descriptor in time.
    logic [DATA_BITS-1:0] data;
    localparam int COUNT_BITS = ADDRESS_BITS + 2 + BLOCKS + 2 * ROW_BITS + VALUE_BANKS + TURN_BITS;
    logic [ADDRESS_BITS-1:0] data_address;
    logic [ROW_BITS-1:0] data_row, data_next;
    logic [VALUE_BANKS-1:0] data_block;
    logic [TURN_BITS-1:0] data_rotation;
    logic data_weights, data_value;
    logic [BLOCKS-1:0] data_key;

    registers #(.BITS(2), .PRIMITIVES(PRIMITIVES)) begin_copies (
        .clk(clk_array), .d({2{start}}), .q(begins)
    );

    assign {data_address, data_weights, data_value, data_key, data_row, data_next, data_block,
            data_rotation} = data[COUNT_BITS-1:0];

    always_ff @(posedge clk_array) begin
        data <= data_ram[data_read[2:0]];
        valid <= running;
        first <= begins[0];
        last <= last_word;
        if (begins[1]) begin
            {info, posts, frees, source, tail} <= data[DATA_BITS-1:COUNT_BITS];
            {weights, value, key} <= {data_weights, data_value, data_key};
        end
        address <= begins[0] ? data_address : address + 1'b1;
        row_address <= begins[0] ? data_row : row_address + 1'b1;
        next_address <= begins[0] ? data_next : next_address + 1'b1;
        next_block <= begins[0] ? data_block
            : VALUE_BANKS'({next_block, next_block[VALUE_BANKS-1]});
        rotation <= begins[0] ? data_rotation
            : 32'(rotation) == VALUE_BANKS - 1 ? '0 : rotation + 1'b1;
        if (reset_array) begin
            data_read <= '0;
            {valid, last} <= '0;
        end else if (begins[1]) begin
            data_read <= data_read + 1'b1;
        end
    end

    assign pairs4 = info[15:8];

    // Frees weights and gives credits, some cycles after the last word.
    logic [1:0] ends, ended;
    assign ends = {2{last}} & {posts, frees};
    delay #(.BITS(2), .CYCLES(4), .RESET(1)) ended_delay (
        .clk(clk_array), .reset(reset_array), .in(ends), .out(ended)
    );
    always_ff @(posedge clk_array)
        if (reset_array) begin
            freed <= '0;
            posted <= 2'd1;
        end else begin
            if (ended[0]) freed <= freed + 1'b1;
            if (ended[1]) posted <= posted + 1'b1;
        end

    // Counts ended passes. Two may end in the same slow cycle, but not in every slow cycle.
    logic [1:0] gone, gone_slow, retired_count;
    logic lacks_weights;
    assign retired = gone_slow != retired_count;
    always_ff @(posedge clk_array) begin
        lacks_weights <= checked && spaced && has_room && !has_weights && (!running || last_word);
        if (reset_array) gone <= '0;
        else if (last) gone <= gone + 1'b1;
    end
    always_ff @(posedge clk) begin
        starved <= lacks_weights;
        gone_slow <= gone;
        if (reset) {gone_slow, retired_count} <= '0;
        else if (retired) retired_count <= retired_count + 1'b1;
    end

`ifndef SYNTHESIS
    // Slow: descriptors, and slots of theirs. Counts differ modulo their width.
    wire [3:0] slots_used = accepted - released;
    wire [3:0] preparing = accepted - written;
    wire [1:0] unreported = gone_slow - retired_count;
    logic checks = 1'b0;
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        if (checks && !reset) begin
            no_slot_is_used_twice: assert (slots_used <= 4'(SLOTS));
            a_descriptor_takes_two_cycles:
            assert (preparing == 4'(pass_valid) + 4'(prepared_valid));
            no_end_is_lost: assert (unreported != 2'd3);
            if (pass_valid) begin
                a_pass_has_words: assert (pass.words != '0);
                the_tail_is_of_a_word: assert (pass.tail != '0 && 32'(pass.tail) <= C);
                pairs_fit_the_array: assert (pass.pairs != '0 && 32'(pass.pairs) <= P);
                four_bit_pairs_are_pairs: assert (pass.pairs4 <= pass.pairs);
                a_memory_has_activations: assert (pass.source <= pass_types::SOURCE_PROBABILITY);
                a_memory_has_row_operands: assert (pass.operand <= pass_types::OPERAND_VALUE);
                weights_stay_in_their_half:
                assert (!pass_weights || 32'(pass.row_address) + 32'(pass.words) <= WORDS);
                keys_begin_in_a_block: assert (pass.operand != pass_types::OPERAND_KEY
                    || (32'(pass.row_bank) < KEY_BANKS && pass_key != '0));
                values_have_a_bank: assert (!pass_value
                    || (32'(pass.row_bank) < VALUE_BANKS && 32'(pass.rotation) < VALUE_BANKS));
                only_weights_are_freed: assert (!pass.frees || pass_weights);
            end
        end
    end

    // Fast: a pass starts only with its weights and with room for its sums.
    wire [3:0] waiting = written_array - control_read;
    wire [3:0] started = control_read - data_read;
    wire [1:0] fills_ahead = filled_array - next_half;
    wire [1:0] halves = filled_array - freed;
    wire [POINTER_BITS-1:0] pairs_inside = next_target - popped_array;
    logic checks_array = 1'b0;
    always_ff @(posedge clk_array) begin
        if (checks && reset_array) checks_array <= 1'b1;
        if (checks_array && !reset) begin
            descriptors_are_written_before_read: assert (waiting <= 4'(SLOTS));
            at_most_three_are_under_way: assert (started <= 4'd3);
            a_start_has_a_pass: assert (!start || next_valid);
            no_start_without_weights:
            assert (!start || !next_weights || (fills_ahead != 2'd0 && fills_ahead != 2'd3));
            no_start_without_room: assert (!start || 32'(pairs_inside) <= 1 << POINTER_BITS - 1);
            no_half_is_freed_twice: assert (!ended[0] || halves != 2'd0);
            halves_are_two: assert (halves != 2'd3);
            one_memory_gives_activations:
            assert (!valid || (source != '0 && (source & (source - 1'b1)) == '0));
            one_memory_gives_row_operands:
            assert (!valid || 2'(weights) + 2'(value) + 2'(key != '0) == 2'd1);
        end
    end
`endif

`ifdef FORMAL
    // For the invariants of formal/issue_proof.sv: all slots of the queue of descriptors.
    logic [SLOTS*CONTROL_BITS-1:0] control_slots;
    logic [SLOTS*DATA_BITS-1:0] data_slots;
    always_comb
        for (int i = 0; i < SLOTS; i++) begin
            control_slots[i*CONTROL_BITS+:CONTROL_BITS] = control_ram[i];
            data_slots[i*DATA_BITS+:DATA_BITS] = data_ram[i];
        end
`endif

endmodule

`default_nettype wire
