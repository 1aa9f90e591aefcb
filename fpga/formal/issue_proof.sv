// The issue of words with any passes that `plan` may give, weights that arrive at any time, and any
// back-pressure behind the tokens' FIFOs: no pass starts without its weights or without room for
// its sums, no half is freed twice, no descriptor is lost. While weights come and pairs leave, each
// pass ends within ANSWER cycles.

`default_nettype none

module issue_proof #(
    parameter int R = 2,
    parameter int P = 1,
    localparam int ANSWER = 8 + 5 * R
) (
    input wire logic         fast,
    input wire logic         passes_valid,
    input wire logic [127:0] passes,
    input wire logic         fills, // a half of the weights
    input wire logic         pops   // a pair
);

    localparam int WORDS = 2, POINTER_BITS = 3;

    // The fast side's assertions begin when both sides have seen the reset.
    logic clk, begins;
    two_clocks #(.R(R)) clocks (.fast, .clk, .reset(begins));
    logic [1:0] later = '0;
    wire reset = later != 2'd3;
    always_ff @(posedge clk) if (reset) later <= begins ? 2'd0 : later + 1'b1;

    pass_types::pass_t pass;
    assign pass = passes;
    wire of_weights = pass.operand == pass_types::OPERAND_WEIGHTS;
    always_comb begin
        assume (pass.words != '0 && 32'(pass.words) <= WORDS);
        assume (pass.tail == 5'd1);
        assume (pass.pairs != '0 && 32'(pass.pairs) <= P && pass.pairs4 <= pass.pairs);
        assume (pass.source <= pass_types::SOURCE_PROBABILITY && !pass.bank);
        assume (pass.operand <= pass_types::OPERAND_VALUE);
        assume (pass.row_bank == '0 && pass.rotation == '0 && pass.row_address == '0);
        assume (!pass.frees || of_weights);
    end

    // As `weights` does: a half is filled while one is free. `freed` crosses in a register.
    logic [1:0] filled = '0, freed, freed_slow = '0;
    wire [1:0] full = filled - freed_slow;
    always_ff @(posedge clk) begin
        freed_slow <= reset ? '0 : freed;
        if (!reset && fills && full < 2'd2) filled <= filled + 1'b1;
    end

    // As the tokens and `unpack_lanes` do: a pass's pairs are in the FIFOs some time after its last
    // word, and leave one a slow cycle.
    logic valid, last, ready;
    logic [28:0] info;
    logic [POINTER_BITS-1:0] pushed = '0, popped = '0;
    always_ff @(posedge fast)
        if (!reset && valid && last) pushed <= pushed + POINTER_BITS'(info[7:0]);
    always_ff @(posedge clk)
        if (!reset && pops && popped != pushed) popped <= popped + 1'b1;

    // Cycles since a pass ended, or the oldest that has not was taken, while weights come and pairs
    // leave.
    logic [3:0] taken = '0, ended = '0;
    logic [5:0] waited = '0;
    always_ff @(posedge clk) if (!reset && passes_valid && ready) taken <= taken + 1'b1;
    always_ff @(posedge fast) begin
        if (!reset && valid && last) ended <= ended + 1'b1;
        if (reset || !fills || !pops || taken == ended || (valid && last)) waited <= '0;
        else waited <= waited + 1'b1;
        if (!reset) a_pass_ends: assert (32'(waited) <= ANSWER);
    end

    issue #(
        .P(P), .C(1), .FRAMES(2), .KEY_BANKS(P), .VALUE_BANKS(P), .WORDS(WORDS), .ADDRESS_BITS(1),
        .ROW_BITS(2), .TURN_BITS(2), .POINTER_BITS(POINTER_BITS)
    ) dut (
        .clk, .clk_array(fast), .reset, .reset_array(reset), .passes_valid, .passes, .filled,
        .popped, .freed, .valid, .last, .info, .passes_ready(ready), .retired(), .starved(),
        .posted(), .first(), .source(), .tail(), .address(), .weights(), .value(), .key(),
        .row_address(), .next_address(), .next_block(), .rotation(), .pairs4()
    );

    // Invariants of the registers of `issue`. With them the assertions are inductive: a proof needs
    // no state that they exclude. A `hierconn` is the net of this name inside `dut`.
    typedef struct packed {
        logic        weights;
        logic [1:0]  half;
        logic [POINTER_BITS-1:0] target;
        logic [7:0]  gap;
        logic        one;
        logic [12:0] words;
    } control_t;
    typedef struct packed {
        logic [20:0] flags;
        logic [7:0]  pairs;
        logic        posts;
        logic        frees;
        logic [6:0]  source;
        logic [1:0]  tail_and_address;
        logic [2:0]  operand;
        logic [3:0]  rows;
        logic [P-1:0] next_block;
        logic [1:0]  rotation;
    } data_t;
    localparam int SLOTS = 8, CONTROL_BITS = 25 + POINTER_BITS, DATA_BITS = 49 + P;
    localparam int FREES = P + 18; // a bit of data_t

    (* hierconn *) wire [3:0] \dut.accepted , \dut.written , \dut.released , \dut.data_read ;
    (* hierconn *) wire [3:0] \dut.written_array , \dut.control_read ;
    (* hierconn *) wire \dut.pass_valid , \dut.prepared_valid ;
    (* hierconn *) wire [127:0] \dut.pass ;
    (* hierconn *) wire [CONTROL_BITS-1:0] \dut.prepared_control ;
    (* hierconn *) wire [DATA_BITS-1:0] \dut.prepared_data ;
    (* hierconn *) wire [SLOTS*CONTROL_BITS-1:0] \dut.control_slots ;
    (* hierconn *) wire [SLOTS*DATA_BITS-1:0] \dut.data_slots ;
    (* hierconn *) wire [POINTER_BITS-1:0] \dut.target , \dut.popped_array , \dut.next_target ;
    (* hierconn *) wire [1:0] \dut.half , \dut.filled_array , \dut.next_half , \dut.begins ;
    (* hierconn *) wire [7:0] \dut.pairs_before , \dut.next_gap , \dut.since ;
    (* hierconn *) wire \dut.next_valid , \dut.checked , \dut.has_weights , \dut.has_room ;
    (* hierconn *) wire \dut.next_weights , \dut.next_one , \dut.start ;
    (* hierconn *) wire \dut.running , \dut.last_word , \dut.frees ;
    (* hierconn *) wire [12:0] \dut.next_words , \dut.left ;
    (* hierconn *) wire [7:0] \dut.ended_delay.genblk2.gen_reset.stage ;
    (* hierconn *) wire [1:0] \dut.gone , \dut.gone_slow , \dut.retired_count ;
    (* hierconn *) wire \dut.checks , \dut.checks_array ;

    wire [3:0] accepted = \dut.accepted , written = \dut.written , released = \dut.released ;
    wire [3:0] data_read = \dut.data_read , control_read = \dut.control_read ;
    wire [3:0] written_array = \dut.written_array ;
    wire pass_valid = \dut.pass_valid , prepared_valid = \dut.prepared_valid ;
    wire next_valid = \dut.next_valid , checked = \dut.checked , start = \dut.start ;
    wire running = \dut.running , last_word = \dut.last_word ;
    wire begins_word = \dut.begins [0];
    wire [POINTER_BITS-1:0] next_target = \dut.next_target , popped_array = \dut.popped_array ;
    wire [1:0] next_half = \dut.next_half , filled_array = \dut.filled_array ;
    wire [7:0] stage = \dut.ended_delay.genblk2.gen_reset.stage ;
    pass_types::pass_t pass_now;
    control_t prepared_control;
    data_t prepared_data;
    assign pass_now = \dut.pass ;
    assign prepared_control = \dut.prepared_control ;
    assign prepared_data = \dut.prepared_data ;

    function automatic logic one_of_each(input logic [6:0] source, input logic [2:0] operand);
        one_of_each = source != '0 && (source & (source - 1'b1)) == '0
            && operand != '0 && (operand & (operand - 1'b1)) == '0;
    endfunction
    function automatic logic is_a_pass(
        input logic [12:0] words, input logic one, input logic [7:0] gap, input logic [7:0] pairs
    );
        is_a_pass = words != '0 && 32'(words) <= WORDS && one == (words == 13'd1)
            && 32'(gap) < P && pairs != '0 && 32'(pairs) <= P;
    endfunction

    // Pairs of the passes that have begun, halves that they free, and a bucket that a pass's end
    // fills by two and a cycle empties by one.
    logic [POINTER_BITS-1:0] begun = '0;
    logic [1:0] to_free = '0, level = '0;
    control_t next_control, last_control;
    data_t next_data, running_data, last_data;
    assign next_data = DATA_BITS'(\dut.data_slots >> DATA_BITS * 32'(3'(control_read - 1'b1)));
    assign running_data = DATA_BITS'(\dut.data_slots >> DATA_BITS * 32'(data_read[2:0]));
    assign last_control =
        CONTROL_BITS'(\dut.control_slots >> CONTROL_BITS * 32'(3'(written - 1'b1)));
    assign last_data = DATA_BITS'(\dut.data_slots >> DATA_BITS * 32'(3'(written - 1'b1)));
    assign next_control = {\dut.next_weights , next_half, next_target, \dut.next_gap ,
        \dut.next_one , \dut.next_words };
    always_ff @(posedge fast) begin
        level <= (level == '0 ? '0 : level - 1'b1) + 2'(2 * (valid && last));
        if (!reset && start) begin
            begun <= next_target;
            to_free <= to_free + 2'(next_data.frees);
        end
    end

    // Pairs and halves of all passes up to the next one, and up to the last one that is written.
    wire [POINTER_BITS-1:0] next_pairs = next_valid ? next_target : begun;
    wire [1:0] next_frees = next_valid ? next_half + 2'(next_data.frees) : to_free;
    wire none_waits = written == control_read;
    wire [POINTER_BITS-1:0] last_pairs = none_waits ? next_pairs : last_control.target;
    wire [1:0] last_frees = none_waits ? next_frees : last_control.half + 2'(last_data.frees);
    // The pass that runs.
    wire run_frees = begins_word ? running_data.frees : \dut.frees ;
    wire [7:0] run_pairs = begins_word ? running_data.pairs : info[7:0];
    wire [3:0] frees_inside = 4'(stage[0]) + 4'(stage[2]) + 4'(stage[4]) + 4'(stage[6])
        + 4'(last && \dut.frees ) + 4'(running && run_frees);
    wire [1:0] unseen = \dut.gone - \dut.gone_slow ;
    wire [1:0] unreported = \dut.gone_slow - \dut.retired_count ;
    wire [2:0] unretired = 3'(unseen) + 3'(unreported);

    wire runs_on = running && !begins_word; // `info` is that of the pass
    wire [2:0] most_reports = clk ? (unreported != '0 ? 3'd3 : 3'd1)
        : (unreported != '0 ? 3'd2 : 3'd0);

    always_comb begin
        if (later != 2'd3)
            nothing_happens_in_reset:
            assert ({filled, popped, pushed, taken, ended, begun, to_free} == '0);
        if (later != '0 && later != 2'd3)
            reset_clears:
            assert ({accepted, written, released, data_read, control_read, written_array,
                pass_valid, prepared_valid, next_valid, checked, running, last_word, valid, last,
                freed, freed_slow, stage, \dut.target , \dut.half , \dut.gone , \dut.gone_slow ,
                \dut.retired_count , \dut.pairs_before } == '0 && \dut.since != '0);
        if (later != '0) begin
            checks_are_on: assert (\dut.checks && (later == 2'd1 || \dut.checks_array ));

            // The queue of descriptors.
            slots_are_eight: assert (accepted - released <= 4'(SLOTS));
            slots_are_in_order:
            assert (data_read - released <= 4'd1
                && control_read - data_read == 4'(next_valid) + 4'(begins_word)
                && written_array - control_read <= written - control_read
                && written - control_read <= written - data_read
                && written - data_read <= written - released
                && written - released <= accepted - released
                && written - written_array <= 4'd1);
            two_are_prepared: assert (accepted - written == 4'(pass_valid) + 4'(prepared_valid));
            one_is_read_at_a_time:
            assert (R == 1 || clk || data_read == released || !begins_word);
            taken_are_accepted: assert (taken == accepted);
            ended_have_begun: assert (data_read - ended == 4'(valid && last) + 4'(runs_on));
            pairs_before_are_few: assert (32'(\dut.pairs_before ) <= P);
            a_pass_is_assumed:
            assert (!pass_valid || (pass_now.words != '0 && 32'(pass_now.words) <= WORDS
                && pass_now.tail == 5'd1 && pass_now.pairs != '0 && 32'(pass_now.pairs) <= P
                && pass_now.pairs4 <= pass_now.pairs && !pass_now.bank
                && pass_now.source <= pass_types::SOURCE_PROBABILITY
                && pass_now.operand <= pass_types::OPERAND_VALUE
                && {pass_now.row_bank, pass_now.rotation, pass_now.row_address} == '0
                && (!pass_now.frees || pass_now.operand == pass_types::OPERAND_WEIGHTS)));
            prepared_is_sound:
            assert (!prepared_valid || (is_a_pass(prepared_control.words, prepared_control.one,
                prepared_control.gap, prepared_data.pairs)
                && one_of_each(prepared_data.source, prepared_data.operand)
                && (!prepared_data.frees || prepared_control.weights)));
            prepared_follows_the_last:
            assert (!prepared_valid || (prepared_control.half == last_frees
                && prepared_control.target == POINTER_BITS'(last_pairs + prepared_data.pairs)));
            sums_are_of_all_passes:
            assert (\dut.target == (prepared_valid ? prepared_control.target : last_pairs)
                && \dut.half == (prepared_valid
                    ? prepared_control.half + 2'(prepared_data.frees) : last_frees));
            next_is_sound:
            assert (!next_valid || (is_a_pass(next_control.words, next_control.one,
                next_control.gap, next_data.pairs)
                && one_of_each(next_data.source, next_data.operand)
                && (!next_data.frees || next_control.weights)));
            next_follows_the_running:
            assert (!next_valid || (next_half == to_free
                && next_target == POINTER_BITS'(begun + next_data.pairs)));

            // The pass that runs.
            running_is_sound:
            assert (!begins_word || (running_data.pairs != '0 && 32'(running_data.pairs) <= P
                && one_of_each(running_data.source, running_data.operand)));
            a_checked_pass_waits: assert (!checked || (next_valid && !begins_word));
            copies_are_equal: assert (\dut.begins [0] == \dut.begins [1]);
            words_are_of_a_pass:
            assert ((!begins_word || running) && (!last_word || running) && (!last || valid)
                && (!running || last_word == (\dut.left == 13'd1)));
            a_word_follows: assert (!valid || last || runs_on);
            words_are_left: assert (!running || (\dut.left != '0 && 32'(\dut.left ) <= WORDS));
            a_gap_is_counted: assert ((running && !last_word) || \dut.since != '0);
            info_is_of_a_pass:
            assert (!(valid || runs_on) || (info[7:0] != '0 && 32'(info[7:0]) <= P));
            one_pass_has_words: assert (!runs_on || !last);

            // Pairs in the FIFOs.
            begun_pairs_arrive:
            assert (begun == POINTER_BITS'(pushed + (last ? info[7:0] : 8'd0)
                + (running ? run_pairs : 8'd0)));
            pairs_fit:
            assert (32'(POINTER_BITS'(begun - popped)) <= 1 << POINTER_BITS - 1
                && POINTER_BITS'(pushed - popped) <= POINTER_BITS'(begun - popped)
                && POINTER_BITS'(popped - popped_array) <= POINTER_BITS'(1));
            room_stays:
            assert (!checked || !\dut.has_room
                || 32'(POINTER_BITS'(next_target - popped)) <= 1 << POINTER_BITS - 1);

            // Halves of the weights.
            halves_are_accounted:
            assert (2'(to_free - freed) == 2'(frees_inside)
                && 4'(2'(filled - to_free)) + frees_inside <= 4'd2
                && 2'(filled_array - to_free) <= 2'(filled - to_free)
                && 2'(filled - filled_array) <= 2'd1 && full <= 2'd2 && 2'(filled - freed) <= full);
            weights_stay:
            assert (!checked || !\dut.has_weights || !\dut.next_weights
                || filled_array != next_half);

            // Ends of passes: at most one a slow cycle, but for one more after a longer pass.
            ends_are_apart: assert (!(valid && last) || level <= (begins_word ? 2'd1 : 2'd2));
            a_longer_pass_is_later: assert (!runs_on || level <= 2'd2);
            ends_are_reported:
            assert (R == 1 ? unseen <= 2'd1 && unreported <= 2'd1 : unseen <= 2'd2
                && unreported <= 2'd2 && 2 * 32'(unretired) <= 32'(level) + 32'(most_reports));
        end
    end

    for (genvar i = 0; i < SLOTS; i++) begin : gen_slots
        localparam int BEFORE = (i + SLOTS - 1) % SLOTS;
        wire [CONTROL_BITS-1:0] here = \dut.control_slots [i*CONTROL_BITS+:CONTROL_BITS];
        wire [CONTROL_BITS-1:0] control_before =
            \dut.control_slots [BEFORE*CONTROL_BITS+:CONTROL_BITS];
        wire [DATA_BITS-1:0] data = \dut.data_slots [i*DATA_BITS+:DATA_BITS];
        wire [DATA_BITS-1:0] data_before = \dut.data_slots [BEFORE*DATA_BITS+:DATA_BITS];
        wire [2:0] place = 3'(i) - control_read[2:0];
        wire [3:0] waiting = written - control_read;
        wire waits = later != '0 && {1'b0, place} < waiting;
        wire [POINTER_BITS-1:0] pairs_before =
            place == '0 ? next_pairs : control_before[22+:POINTER_BITS];
        wire [1:0] frees_before = place == '0 ? next_frees
            : control_before[22+POINTER_BITS+:2] + 2'(data_before[FREES]);
        wire [7:0] pairs = data[FREES+2+:8];
        always_comb begin
            assert (!waits || (is_a_pass(here[12:0], here[13], here[21:14], pairs)
                && one_of_each(data[FREES-1-:7], data[P+6+:3])
                && (!data[FREES] || here[CONTROL_BITS-1])));
            assert (!waits || (here[22+:POINTER_BITS] == POINTER_BITS'(pairs_before + pairs)
                && here[22+POINTER_BITS+:2] == frees_before));
        end
    end

endmodule

`default_nettype wire
