// unpack_lanes with any passes that have room in the tokens' FIFOs, and any back-pressure: no pair
// is overwritten or taken early, each gives as many results as it has rows and groups, no result is
// without a place or given twice. While results are taken, each pair leaves within ANSWER cycles of
// the array after the one before it, or after it was pushed. A result is offered within RESULT slow
// cycles.

`default_nettype none

module unpack_lanes_proof #(
    parameter int R = 2,
    parameter int T = 2,
    parameter int P = 2,
    parameter int L = 1
) (
    input wire logic             fast,
    input wire logic             pushes,
    input wire logic [4:0]       kind,   // of a pair's rows, and of its pass
    input wire logic [7:0]       given,  // groups of a pass
    input wire logic             begins, // a pass
    input wire logic             sums_ready,
    input wire logic             scores_ready,
    input wire logic [T*47-1:0]  packed_sums
);

    localparam int DEPTH = 2;
    localparam int GROUPS = (T + L - 1) / L;
    localparam int ANSWER = R * (4 + 8 * GROUPS), RESULT = 6;

    logic clk, reset;
    two_clocks #(.R(R)) clocks (.fast, .clk, .reset);
    always_comb assume (given != '0 && 32'(given) <= GROUPS);

    // A pass has at most P pairs, all with as many groups; its first pair says that it is first.
    // A tile is a pass or more.
    logic [1:0] pushed = '0, popped;
    logic [7:0] pairs = '0, groups_now;
    wire [1:0] inside = pushed - popped;
    wire starts = begins || pairs == '0 || 32'(pairs) == P;
    wire [7:0] groups = starts ? given : groups_now;
    wire push = !reset && pushes && 32'(inside) < DEPTH;
    always_ff @(posedge fast)
        if (push) begin
            pushed <= pushed + 1'b1;
            pairs <= starts ? 8'd1 : pairs + 1'b1;
            groups_now <= groups;
        end

    wire [14:0] description = {kind[4:1], starts, starts, kind[0], groups};
    logic [T-1:0] skip;
    logic pop_slot, sums_valid, scores_valid;
    logic [L*27-1:0] sums;
    logic [T*24-1:0] scores;
    unpack_lanes #(.T(T), .P(P), .L(L), .DEPTH(DEPTH), .OUTPUTS(2)) dut (
        .clk, .clk_array(fast), .reset, .pushed, .describe(push), .describe_slot(pushed[0]),
        .description, .popped, .pop_slot, .skip,
        .packed_sums, .sums_valid, .sums_ready, .sums, .scores_valid, .scores_ready, .scores
    );

    // Cycles since a pair left, or the oldest that has not was pushed, while results are taken.
    logic [5:0] waited = '0;
    logic [1:0] popped_before = '0;
    always_ff @(posedge fast) begin
        popped_before <= popped;
        if (reset || !sums_ready || !scores_ready || inside == '0 || popped != popped_before)
            waited <= '0;
        else waited <= waited + 1'b1;
        if (!reset) a_pair_leaves: assert (32'(waited) <= ANSWER);
    end
    // Results that are not taken, of all pairs: sums in the upper half, scores in the lower.
    function automatic logic [15:0] results(
        input logic scores, input logic last, input logic [7:0] rows_and_groups
    );
        results = scores ? 16'd1 : {last ? rows_and_groups : 8'd0, 8'd0};
    endfunction
    function automatic logic [15:0] of_pair(input logic [14:0] pair);
        of_pair = results(pair[11], pair[8], pair[13] ? pair[7:0] << 1 : pair[7:0]);
    endfunction
    logic [15:0] owed = '0;
    wire [15:0] given_now = push ? of_pair(description) : '0;
    wire [15:0] taken_now = {7'd0, sums_valid && sums_ready, 7'd0, scores_valid && scores_ready};
    always_ff @(posedge fast) if (!reset) owed <= owed + given_now - (clk ? taken_now : '0);

    // They are in the descriptions of pairs that wait, in the pair that is being sent, and in the
    // pipeline and its queue.
    (* hierconn *) wire [1:0] \dut.sums_used , \dut.scores_used , \dut.next_slot ;
    (* hierconn *) wire [1:0] \dut.pushed_slow ;
    (* hierconn *) wire \dut.here , \dut.high , \dut.two , \dut.is_score , \dut.last ;
    (* hierconn *) wire \dut.checks , \dut.sums_queue.checks , \dut.scores_queue.checks ;
    (* hierconn *) wire \dut.sums_full , \dut.scores_full , \dut.sum_write , \dut.score_write ;
    (* hierconn *) wire [7:0] \dut.group , \dut.groups ;
    (* hierconn *) wire [29:0] \dut.description_slots ;
    (* hierconn *) wire [3:0] \dut.valid , \dut.leaves ;
    (* hierconn *) wire [1:0] \dut.score_valid ;
    (* hierconn *) wire [1:0] \dut.sums_queue.used , \dut.scores_queue.used ;
    wire [1:0] next_slot = \dut.next_slot , waiting = pushed - next_slot;
    wire [7:0] group = \dut.group , here_groups = \dut.groups ;
    wire [7:0] rows_left = here_groups - group
        + (\dut.two && !\dut.high ? here_groups : 8'd0);
    wire [15:0] here_now = \dut.here ? results(\dut.is_score , \dut.last , rows_left) : '0;
    wire [14:0] next = next_slot[0] ? \dut.description_slots [29:15]
        : \dut.description_slots [14:0];
    wire [14:0] second = next_slot[0] ? \dut.description_slots [14:0]
        : \dut.description_slots [29:15];
    wire [15:0] found = {6'd0, \dut.sums_used , 6'd0, \dut.scores_used } + here_now
        + (waiting != '0 ? of_pair(next) : '0) + (waiting[1] ? of_pair(second) : '0);
    wire [3:0] sums_move = \dut.valid & \dut.leaves ;
    wire [3:0] sums_inside = 4'(sums_move[0]) + 4'(sums_move[1]) + 4'(sums_move[2])
        + 4'(sums_move[3]) + 4'(\dut.sum_write ) + 4'(sums_valid)
        + 4'(\dut.sums_queue.used );
    wire [3:0] scores_inside = 4'(\dut.score_valid [0]) + 4'(\dut.score_valid [1])
        + 4'(\dut.score_write ) + 4'(scores_valid) + 4'(\dut.scores_queue.used );
    wire [1:0] seen = \dut.pushed_slow - popped;
    always_comb
        if (reset) begin
            nothing_happens_in_reset: assert ({pushed, pairs, owed, waited} == '0);
        end else begin
            each_pair_gives_its_results: assert (owed == found);
            // Invariants of registers. With them the assertions are inductive.
            checks_are_on:
            assert (\dut.checks && \dut.sums_queue.checks && \dut.scores_queue.checks );
            results_are_counted: assert (sums_inside == 4'(\dut.sums_used )
                && scores_inside == 4'(\dut.scores_used )
                && \dut.sums_full == (\dut.sums_used == 2'd2)
                && \dut.scores_full == (\dut.scores_used == 2'd2));
            pairs_are_counted: assert (inside <= 2'd2 && seen <= inside && 32'(pairs) <= P
                && (pairs == '0 || (groups_now != '0 && 32'(groups_now) <= GROUPS)));
            pairs_have_groups:
            assert ((waiting == '0 || (next[7:0] != '0 && 32'(next[7:0]) <= GROUPS))
                && (!waiting[1] || (second[7:0] != '0 && 32'(second[7:0]) <= GROUPS))
                && (!\dut.here || \dut.is_score
                    || (group < here_groups && 32'(here_groups) <= GROUPS)));
        end

    // Cycles in which results are in the pipeline or in their queue, and none is offered.
    logic [2:0] sums_waited = '0, scores_waited = '0;
    always_ff @(posedge clk) begin
        sums_waited <= reset || sums_valid || \dut.sums_used == '0 ? '0 : sums_waited + 1'b1;
        scores_waited <= reset || scores_valid || \dut.scores_used == '0 ? '0
            : scores_waited + 1'b1;
        if (!reset)
            a_result_is_offered: assert (32'(sums_waited) <= RESULT
                && 32'(scores_waited) <= RESULT);
    end

endmodule

`default_nettype wire
