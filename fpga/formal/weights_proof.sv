// The loader of weights with any demands and beats, and a reader that reads a filled half and frees
// it: no half is written while it is full or read, and no beat is without room.

`default_nettype none

module weights_proof #(
    parameter int R = 2,
    parameter int P = 1,
    parameter int C = 2,
    parameter int BEAT = 4
) (
    input wire logic              fast,
    input wire logic              demands_valid,
    input wire logic [31:0]       demands,
    input wire logic              beats_valid,
    input wire logic [BEAT*8-1:0] beats,
    input wire logic              reads,
    input wire logic              place, // of a word in its half
    input wire logic              frees
);

    localparam int WORDS = 2;

    logic clk, reset;
    two_clocks #(.R(R)) clocks (.fast, .clk, .reset);
    always_comb assume (demands[12:0] != '0 && 32'(demands[12:0]) <= WORDS);

    // As in `issue`, the reader's clock registers the count of filled halves before it reads one.
    logic [1:0] filled, filled_array = '0, freed = '0;
    logic enable = 1'b0;
    logic [1:0] address;
    wire may_read = filled_array != freed;
    always_ff @(posedge fast) begin
        filled_array <= reset ? '0 : filled;
        enable <= !reset && may_read && reads;
        address <= {freed[0], place};
        if (!reset && may_read && frees) freed <= freed + 1'b1;
    end

    logic demands_ready, beats_ready;
    logic [P*C*8-1:0] word;
    weights #(.P(P), .C(C), .BEAT(BEAT), .WORDS(WORDS), .ROW_BITS(2)) dut (
        .clk, .clk_array(fast), .reset, .demands_valid, .demands_ready, .demands, .beats_valid,
        .beats_ready, .beats, .filled, .freed, .enable, .address, .word
    );

endmodule

`default_nettype wire
