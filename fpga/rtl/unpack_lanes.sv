// Takes pairs from the tokens' FIFOs, splits packed sums into rows, L tokens a cycle (scores: all
// tokens), and adds the passes of a tile. Its pipeline never stalls: an item enters only if the
// output FIFO has room for it.

`default_nettype none

module unpack_lanes #(
    parameter int T = 5,         // tokens
    parameter int P = 3,         // row pairs
    parameter int L = 2,         // lanes: tokens that leave in a cycle, 1 to T
    parameter int S = 23,        // bits of the low field of a packed sum
    parameter int DEPTH = 64,    // of the tokens' FIFOs, a power of two
    parameter int OUTPUTS = 16,  // most items in the pipeline and in an output FIFO; a power of two
    parameter bit PRIMITIVES = 0, // instantiate the flip-flops of copies
    localparam int PACKED_BITS = 2 * S + 1,
    localparam int SUM_BITS = 27,
    localparam int SCORE_BITS = 24,
    localparam int SLOT_BITS = $clog2(DEPTH),
    localparam int CLUSTERS = (T + 7) / 8,
    localparam int PAIR_BITS = 15
) (
    input  wire logic                          clk,
    input  wire logic                          clk_array,
    input  wire logic                          reset,
    // Fast: count of pairs in the last tokens' FIFO; earlier, the description of each pair.
    input  wire logic [SLOT_BITS:0]            pushed,
    input  wire logic                          describe,
    input  wire logic [SLOT_BITS-1:0]          describe_slot,
    input  wire logic [PAIR_BITS-1:0]          description,
    // Slow.
    output logic      [SLOT_BITS:0]            popped,
    output logic      [CLUSTERS*SLOT_BITS-1:0] pop_slot,
    output logic      [T-1:0]                  skip,    // tokens
    input  wire logic [T*PACKED_BITS-1:0]      packed_sums,  // one cycle after `skip`
    output logic                               sums_valid,
    input  wire logic                          sums_ready,
    output logic      [L*SUM_BITS-1:0]         sums,
    output logic                               scores_valid,
    input  wire logic                          scores_ready,
    output logic      [T*SCORE_BITS-1:0]       scores
);

    if (L < 1 || L > T || (T + L - 1) / L > 255) begin : gen_refused_lanes
        $error("unpack_lanes: L must be 1 to T, and L lanes make at most 255 groups of T tokens");
    end
    if (DEPTH != 1 << SLOT_BITS || OUTPUTS < 2 || (OUTPUTS & (OUTPUTS - 1)) != 0)
    begin : gen_refused_depths
        $error("unpack_lanes: DEPTH and OUTPUTS must be powers of two, OUTPUTS at least 2");
    end

    localparam int GROUPS = (T + L - 1) / L;
    localparam int ITEMS = 2 * P * GROUPS;  // of a tile
    localparam int ITEM_BITS = ITEMS > 1 ? $clog2(ITEMS) : 1;
    localparam int HIGH_BITS = S + 1;
    localparam int USED_BITS = $clog2(OUTPUTS + 1);
    localparam int GROUP = 8; // lanes that share copies of their control
    localparam int COPIES = (L + GROUP - 1) / GROUP;

    // The pair whose items are being sent.
    (* ram_style = "distributed" *) logic [PAIR_BITS-1:0] descriptions[DEPTH];
    always_ff @(posedge clk_array) if (describe) descriptions[describe_slot] <= description;

    logic [SLOT_BITS:0] pushed_slow, next_slot;
    logic [SLOT_BITS-1:0] slot;
    logic here, high, four_bit, two, unsigned_a, is_score, starts, first, last;
    logic [7:0] groups, group;
    logic sums_full, scores_full;

    wire fire = here && !(is_score ? scores_full : last && sums_full);
    wire end_group = is_score || group + 1'b1 == groups;
    wire end_pair = fire && end_group && (is_score || high || !two);
    wire fetch = pushed_slow != next_slot && (!here || end_pair);

    always_ff @(posedge clk) begin
        pushed_slow <= pushed;
        if (fetch) begin
            {four_bit, two, unsigned_a, is_score, starts, first, last, groups} <=
                descriptions[next_slot[SLOT_BITS-1:0]];
            slot <= next_slot[SLOT_BITS-1:0];
            high <= 1'b0;
            group <= '0;
        end else if (fire) begin
            high <= high || end_group;
            group <= end_group ? '0 : group + 1'b1;
            starts <= 1'b0;
        end
        if (reset) begin
            {pushed_slow, next_slot, popped} <= '0;
            here <= 1'b0;
        end else begin
            here <= fetch || (here && !end_pair);
            if (fetch) next_slot <= next_slot + 1'b1;
            if (end_pair) popped <= popped + 1'b1;
        end
    end

    // Room in the output FIFOs.
    logic [USED_BITS-1:0] sums_used, scores_used, sums_next, scores_next;
    always_comb begin
        sums_next = sums_used + USED_BITS'(fire && last && !is_score)
            - USED_BITS'(sums_valid && sums_ready);
        scores_next = scores_used + USED_BITS'(fire && is_score)
            - USED_BITS'(scores_valid && scores_ready);
    end
    always_ff @(posedge clk)
        if (reset) begin
            {sums_used, scores_used} <= '0;
            {sums_full, scores_full} <= '0;
        end else begin
            {sums_used, scores_used} <= {sums_next, scores_next};
            sums_full <= 32'(sums_next) == OUTPUTS;
            scores_full <= 32'(scores_next) == OUTPUTS;
        end

    // One cycle after the item: addresses and groups. Two cycles: packed sums.
    logic [T-1:0] others;
    always_comb
        for (int t = 0; t < T; t++) others[t] = !is_score && 32'(group) != t / L;
    registers #(.BITS(T), .PRIMITIVES(PRIMITIVES)) skip_copies (.clk, .d(others), .q(skip));
    registers #(.BITS(CLUSTERS * SLOT_BITS), .PRIMITIVES(PRIMITIVES)) slot_copies (
        .clk, .d({CLUSTERS{slot}}), .q(pop_slot)
    );

    logic [4:1] valid, leaves;
    logic [2:1] row_high, row_eight, row_unsigned, score_valid;
    logic [3:1] item_starts, adds_nothing;
    logic [COPIES-1:0] row_high_3, row_eight_3, row_unsigned_3, row_high_4, adds_nothing_4;
    registers #(.BITS(5 * COPIES), .PRIMITIVES(PRIMITIVES)) control_copies (
        .clk,
        .d({{COPIES{row_high[2]}}, {COPIES{row_eight[2]}}, {COPIES{row_unsigned[2]}}, row_high_3,
            {COPIES{adds_nothing[3]}}}),
        .q({row_high_3, row_eight_3, row_unsigned_3, row_high_4, adds_nothing_4})
    );
    always_ff @(posedge clk) begin
        row_high <= {row_high[1], high};
        row_eight <= {row_eight[1], !four_bit};
        row_unsigned <= {row_unsigned[1], !four_bit && unsigned_a};
        item_starts <= {item_starts[2:1], starts};
        adds_nothing <= {adds_nothing[2:1], first};
        leaves <= {leaves[3:1], last};
        if (reset) begin
            valid <= '0;
            score_valid <= '0;
        end else begin
            valid <= {valid[3:1], fire && !is_score};
            score_valid <= {score_valid[1], fire && is_score};
        end
    end

    // Three cycles: scores (always 8-bit rows); packed sums of the lanes.
    logic [T*SCORE_BITS-1:0] score;
    logic score_write;
    for (genvar t = 0; t < T; t++) begin : gen_scores
        logic [PACKED_BITS-1:0] p;
        logic [SCORE_BITS-4:0] upper;
        assign p = packed_sums[t*PACKED_BITS+:PACKED_BITS];
        // 16 * high + low, with high = (p >> S) + (low is negative).
        assign upper = {p[S+SCORE_BITS-5:S], 1'b1}
            + {{SCORE_BITS - S{p[S-1]}}, p[S-1:4], p[S-1]};
        always_ff @(posedge clk)
            score[t*SCORE_BITS+:SCORE_BITS] <= {upper[SCORE_BITS-4:1], p[3:0]};
    end
    always_ff @(posedge clk) score_write <= !reset && score_valid[2];

    logic [L*PACKED_BITS-1:0] lanes, lanes_next;
    always_comb begin
        lanes_next = '0;
        for (int t = 0; t < T; t++)
            lanes_next[t%L*PACKED_BITS+:PACKED_BITS] =
                lanes_next[t%L*PACKED_BITS+:PACKED_BITS] | packed_sums[t*PACKED_BITS+:PACKED_BITS];
    end
    always_ff @(posedge clk) lanes <= lanes_next;

    // Four cycles: rows. Five cycles: rows plus the earlier passes.
    logic [ITEM_BITS-1:0] item;
    logic [L*SUM_BITS-1:0] total;
    logic [L*SUM_BITS-1:0] total_next, earlier;
    (* ram_style = "distributed" *) logic [L*SUM_BITS-1:0] partial[ITEMS];
    logic sum_write;
    assign earlier = partial[item];

    for (genvar l = 0; l < L; l++) begin : gen_lanes
        logic [PACKED_BITS-1:0] p;
        logic [HIGH_BITS-1:0] above, below;
        logic negative, eight, high_3;
        logic [HIGH_BITS:0] sum;
        logic [HIGH_BITS-1:0] upper;
        logic [3:0] lower;
        logic [SUM_BITS-1:0] row;
        assign p = lanes[l*PACKED_BITS+:PACKED_BITS];
        assign {eight, high_3} = {row_eight_3[l/GROUP], row_high_3[l/GROUP]};
        assign negative = p[S-1] && !row_unsigned_3[l/GROUP];
        // 8-bit: above + (low >> 4) + carry; first 4-bit row: low >> 4; second: above + carry.
        assign above = eight || high_3 ? p[2*S:S] : '0;
        assign below = high_3 ? '0 : {{HIGH_BITS - S + 4{negative}}, p[S-1:4]};
        assign sum = {above, 1'b1} + {below, negative && (eight || high_3)};
        always_ff @(posedge clk) begin
            upper <= sum[HIGH_BITS:1];
            lower <= p[3:0];
        end
        assign row = row_high_4[l/GROUP] ? {{SUM_BITS - HIGH_BITS{upper[HIGH_BITS-1]}}, upper}
            : SUM_BITS'({{4{upper[HIGH_BITS-1]}}, upper, lower});
        assign total_next[l*SUM_BITS+:SUM_BITS] = row
            + (adds_nothing_4[l/GROUP] ? '0 : earlier[l*SUM_BITS+:SUM_BITS]);
    end

    always_ff @(posedge clk) begin
        if (valid[3]) item <= item_starts[3] ? '0 : item + 1'b1;
        if (valid[4]) partial[item] <= total_next;
        total <= total_next;
        sum_write <= !reset && valid[4] && leaves[4];
    end

    queue #(.BITS(L * SUM_BITS), .DEPTH(OUTPUTS), .PRIMITIVES(PRIMITIVES)) sums_queue (
        .clk, .reset, .write(sum_write), .in(total),
        .valid(sums_valid), .ready(sums_ready), .out(sums)
    );
    queue #(.BITS(T * SCORE_BITS), .DEPTH(OUTPUTS), .PRIMITIVES(PRIMITIVES)) scores_queue (
        .clk, .reset, .write(score_write), .in(score),
        .valid(scores_valid), .ready(scores_ready), .out(scores)
    );

`ifndef SYNTHESIS
    wire [SLOT_BITS:0] seen = pushed_slow - popped;
    wire [SLOT_BITS:0] fetched = next_slot - popped;
    logic checks = 1'b0;
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        if (checks && !reset) begin
            no_pair_is_taken_before_it_is_there: assert (32'(fetched) == 32'(here));
            pairs_fit_the_fifos: assert (32'(seen) <= DEPTH && seen >= fetched);
            a_pair_has_groups:
            assert (!fire || is_score || (group < groups && 32'(groups) <= GROUPS));
            results_fit_their_queue:
            assert (32'(sums_used) <= OUTPUTS && 32'(scores_used) <= OUTPUTS);
            no_result_is_taken_twice: assert ((!sums_valid || sums_used != '0)
                && (!scores_valid || scores_used != '0));
            items_are_of_a_tile: assert (!valid[4] || 32'(item) < ITEMS);
        end
    end

    wire [SLOT_BITS:0] pairs_inside = pushed - popped;
    always_ff @(posedge clk_array)
        if (checks && !reset) no_pair_is_overwritten: assert (32'(pairs_inside) <= DEPTH);
`endif

`ifdef FORMAL
    // For the invariants of formal/unpack_lanes_proof.sv.
    logic [DEPTH*PAIR_BITS-1:0] description_slots;
    always_comb
        for (int i = 0; i < DEPTH; i++)
            description_slots[i*PAIR_BITS+:PAIR_BITS] = descriptions[i];
`endif

endmodule

`default_nettype wire
