// The loader of weights with any demands and beats, and a reader that reads a filled half and frees
// it: no half is written while it is full or read, no beat is without room, and no tile is lost.
// While beats come and filled halves are freed, each tile is filled within ANSWER cycles of the
// array after the one before it, or after its demand.

`default_nettype none

module weights_proof #(
    parameter int R = 2,
    parameter int P = 1,
    parameter int C = 2,
    parameter int BEAT = 4,
    localparam int WORDS = 2,
    localparam int BEATS = (WORDS * P * C + BEAT - 1) / BEAT, // of a tile
    localparam int ANSWER = R * (4 + WORDS + BEATS)
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

    // Tiles that are demanded and not filled: in the registers of `weights`, and counted.
    (* hierconn *) wire \dut.demand_valid , \dut.active ;
    (* hierconn *) wire [15:0] \dut.demand_tiles , \dut.tiles ;
    wire demanded = \dut.demand_valid && \dut.demand_tiles != '0;
    wire some_are_left = demanded || \dut.tiles != '0 || \dut.active ;
    logic [1:0] owed = '0, filled_before = '0; // modulo 4
    wire one_is_filled = filled != filled_before;
    wire [1:0] left = owed - 2'(one_is_filled);
    always_ff @(posedge clk)
        if (!reset) begin
            filled_before <= filled;
            owed <= left + (demands_valid && demands_ready ? demands[14:13] : 2'd0);
        end
    wire [1:0] found = \dut.tiles [1:0] + 2'(\dut.active )
        + (\dut.demand_valid ? \dut.demand_tiles [1:0] : 2'd0);
    always_comb if (!reset) no_tile_is_lost: assert (left == found);

    // Invariants of the registers of `weights`. With them the assertions are inductive.
    (* hierconn *) wire \dut.half ;
    (* hierconn *) wire [12:0] \dut.demand_words , \dut.tile_words ;
    (* hierconn *) wire [1:0] \dut.freed_slow ;
    wire [1:0] full = filled - \dut.freed_slow , full_array = filled_array - \dut.freed_slow ;
    wire [1:0] free = freed - \dut.freed_slow ;
    (* hierconn *) wire \dut.checks ;
    always_comb
        if (reset) begin
            nothing_happens_in_reset:
            assert ({owed, filled_before, filled_array, freed, enable, waited} == '0);
        end else begin
            checks_are_on: assert (\dut.checks );
            halves_are_accounted:
            assert (full <= 2'd2 && full_array <= full && free <= full_array
                && full - full_array <= 2'd1);
            a_free_half_is_filled: assert (!\dut.active || full <= 2'd1);
            halves_take_turns: assert (\dut.half == filled[0]);
            tiles_have_words:
            assert ((!\dut.demand_valid
                    || (\dut.demand_words != '0 && 32'(\dut.demand_words ) <= WORDS))
                && (\dut.tiles == '0
                    || (\dut.tile_words != '0 && 32'(\dut.tile_words ) <= WORDS)));
        end

    // Cycles since a tile was filled, or demanded, while beats come and halves are freed.
    logic [5:0] waited = '0;
    logic [1:0] idle = '0;
    always_ff @(posedge fast) begin
        if (reset || !beats_valid || !frees || !some_are_left || one_is_filled) waited <= '0;
        else waited <= waited + 1'b1;
        if (!reset) a_tile_is_filled: assert (32'(waited) <= ANSWER);
    end
    // A loader without tiles takes a demand, two cycles after an empty one.
    always_ff @(posedge clk) begin
        idle <= reset || some_are_left || (demands_valid && demands_ready) ? '0
            : idle == 2'd2 ? idle : idle + 1'b1;
        if (!reset) an_idle_loader_takes_a_demand: assert (idle != 2'd2 || demands_ready);
    end

endmodule

`default_nettype wire
