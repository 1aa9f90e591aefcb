// The array: T x P output-stationary slices with issue, the weights' double buffer, chains and
// unpack_lanes. docs/accelerator.md describes it, docs/array-timing.md gives its cycles.

`default_nettype none

module array
    import array_types::*;
#(
    parameter int T = 5,
    parameter int P = 3,
    parameter int L = 2,
    parameter int S = 23,
    parameter int BEAT = 16,   // bytes
    parameter int WORDS = 64,  // columns of half the weight buffer
    parameter int TILE_GAP = 0,
    localparam int SUM_BITS = 27
) (
    input  wire logic                   clk,
    input  wire logic                   reset,
    input  wire logic                   tile_valid,
    input  wire tile_t                  tile,
    output logic                        tile_ready,
    input  wire logic                   load_valid,
    input  wire logic [COLUMN_BITS-1:0] load_columns,
    output logic                        load_ready,
    input  wire logic                   beat_valid,
    input  wire logic [BEAT*8-1:0]      beat,
    output logic                        beat_ready,
    // Memories give the operands of a column a cycle after `read`. `row_operands` serve passes
    // without weights.
    output logic                        read,
    output logic                        read_first,
    output logic                        read_last,
    input  wire logic [T-1:0][7:0]      activations,
    input  wire logic [P-1:0][7:0]      row_operands,
    // Results. Nothing moves while a result is not taken.
    output logic                        sums_valid,
    input  wire logic                   sums_ready,
    output logic [L-1:0][SUM_BITS-1:0]  sums,
    output logic                        scores_valid,
    input  wire logic                   scores_ready,
    output logic [T-1:0][SUM_BITS-1:0]  scores
);

    localparam int W_BITS = S + 4;
    localparam int ISSUE_DEPTH = 2;
    localparam int SLICE_DEPTH = 4;

    wire enable = !(sums_valid && !sums_ready) && !(scores_valid && !scores_ready);

    // Issue.
    tile_t issued;
    logic [COLUMN_BITS-1:0] column;
    logic loaded;
    logic [P-1:0][7:0] weight;

    issue #(.TILE_GAP(TILE_GAP)) issue (
        .clk, .reset, .enable, .tile_valid, .tile, .tile_ready, .loaded,
        .valid(read), .first(read_first), .last(read_last), .issued, .column
    );

    weights #(.P(P), .BEAT(BEAT), .WORDS(WORDS)) weights (
        .clk, .reset, .tile_valid(load_valid), .tile_columns(load_columns), .tile_ready(load_ready),
        .beat_valid, .beat, .beat_ready, .loaded,
        .release_half(read_last && issued.from_buffer && issued.release_half),
        .read(read && issued.from_buffer), .address(issued.base + column), .word(weight)
    );

    // Registers parallel to the memories' outputs.
    logic valid_read, first_read, last_read;
    tile_t tile_read;

    always_ff @(posedge clk)
        if (reset) {valid_read, first_read, last_read} <= '0;
        else if (enable)
            {valid_read, first_read, last_read, tile_read} <= {read, read_first, read_last, issued};

    // Row operands, skewed by row pair, then W; activations, skewed by token.
    logic signed [W_BITS-1:0] w[T+1][P];
    logic signed [8:0] a[T][P+1];
    logic first[T][P+1], last[T][P+1];

    for (genvar r = 0; r < P; r++) begin : gen_rows
        logic [8:0] operand, skewed;
        // Row pair i is at position P - 1 - i.
        assign operand = {
            (COUNT_BITS)'(P - 1 - r) >= tile_read.pairs4,
            tile_read.from_buffer ? weight[r] : row_operands[r]
        };
        delay #(.BITS(9), .CYCLES(r)) skew (
            .clk, .reset, .enable, .in(operand), .out(skewed)
        );
        pack #(.S(S)) pack (
            .clk, .enable, .operands(skewed[7:0]), .low_unsigned(skewed[8]), .w(w[0][r])
        );
    end

    for (genvar t = 0; t < T; t++) begin : gen_tokens
        logic signed [8:0] operand;
        // A cycle without a column adds 0.
        assign operand = valid_read
            ? {activations[t][7] & ~tile_read.unsigned_a, activations[t]} : '0;
        delay #(.BITS(11), .CYCLES(t + ISSUE_DEPTH - 1), .RESET(1)) skew (
            .clk, .reset, .enable,
            .in({first_read, last_read, operand}), .out({first[t][0], last[t][0], a[t][0]})
        );
    end

    // The end of token 0's chain shows row pair 0 this many cycles after the last column was
    // issued.
    tile_t arriving;
    logic arrives;
    delay #(
        .BITS(1 + $bits(tile_t)), .CYCLES(ISSUE_DEPTH + SLICE_DEPTH + P - 2), .RESET(1)
    ) arrival (
        .clk, .reset, .enable, .in({read_last, issued}), .out({arrives, arriving})
    );

    leaving_t leaving, aligned;
    logic [P-1:0] shift[T+1];
    sequence_chain #(.P(P)) sequence_chain (
        .clk, .reset, .enable, .start(arrives), .tile(arriving), .leaving, .shift(shift[0])
    );

    // Slices and chains.
    logic [47:0] chain[T][P+1];
    logic [T-1:0][47:0] packed_sums;

    for (genvar t = 0; t < T; t++) begin : gen_slices
        assign chain[t][0] = '0;
        for (genvar r = 0; r < P; r++) begin : gen_pairs
            slice #(.S(S)) slice (
                .clk, .enable,
                .w(w[t][r]), .a(a[t][r]), .first(first[t][r]), .last(last[t][r]),
                .w_next(w[t+1][r]), .a_next(a[t][r+1]),
                .first_next(first[t][r+1]), .last_next(last[t][r+1]),
                .shift(shift[t][r]), .chain_before(chain[t][r]), .chain(chain[t][r+1])
            );
        end
        delay #(.BITS(P), .RESET(1)) pace (.clk, .reset, .enable, .in(shift[t]), .out(shift[t+1]));
        delay #(.BITS(48), .CYCLES(T - 1 - t)) deskew (
            .clk, .reset, .enable, .in(chain[t][P]), .out(packed_sums[t])
        );
    end

    delay #(.BITS($bits(leaving_t)), .CYCLES(T - 1), .RESET(1)) leave (
        .clk, .reset, .enable, .in(leaving), .out(aligned)
    );
    unpack_lanes #(.T(T), .P(P), .L(L), .S(S)) unpack_lanes (
        .clk, .reset, .enable, .leaving(aligned), .packed_sums,
        .sums_valid, .sums, .scores_valid, .scores
    );

endmodule

`default_nettype wire
