// Orders the rotations of `lanes` ("Rotary positions" in docs/integer-model.md). Once both rows of a
// pair are through, each group of tokens takes four turns of the lanes: two products for the first
// row, whose sum is ready in turn 1, and two for the second one, in turn 3. The first row of the
// next pair may pass before.

`default_nettype none

module lane_turns #(
    parameter int L = 2,          // tokens of an item
    parameter int R = 2,          // cycles of the array's clock in a slow cycle, 1 or 2
    parameter int G = 1,          // groups of tokens of a tile, at most
    parameter int KEY_BANKS = 3,
    localparam int GROUP_BITS = G > 1 ? $clog2(G) : 1
) (
    input  wire logic                                      clk,
    input  wire logic                                      reset,
    input  wire logic                                      closes, // the pair's last item
    input  wire lane_types::lane_row_t                     row,    // its row
    input  wire logic [lane_types::COLUMN_BITS-1:0]        stride,
    output logic                                           half,   // of the present rows
    output logic                                           pending, // a pair waits or turns
    output logic                                           last,   // of the command
    output logic                                           turns,
    output logic                                           ends,   // the command, by this turn
    output logic [1:0]                                     turn,
    output logic                                           turn_half,
    output logic [2:0]                                     destination,
    output logic [15:0]                                    column,
    output logic [15:0]                                    angle, // its address
    output logic [GROUP_BITS-1:0]                          group,
    output logic [7:0]                                     lanes,
    output logic [lane_types::LANE_ADDRESS_BITS-1:0]       address,
    output logic [lane_types::LANE_ADDRESS_BITS-1:0]       key_address,
    output logic [lane_types::LANE_BANK_BITS-1:0]          key_bank
);

    localparam int BANK = lane_types::LANE_BANK_BITS;
    localparam int TOKEN = lane_types::TOKEN_BITS;
    // Slow cycles from a pair's last item to its first turn: z is kept by then.
    localparam int SETTLE = R == 2 ? 2 : 4;

    logic [1:0] settling;
    logic [TOKEN-1:0] left;
    wire last_group = G == 1 || 32'(left) <= L;
    wire [BANK:0] next_key_bank = {1'b0, key_bank} + (BANK + 1)'(L);
    assign turns = pending && settling == '0;
    assign ends = turns && turn == 2'd3 && last_group && last;
    assign lanes = 32'(left) < L ? left[7:0] : 8'(L);
    always_ff @(posedge clk) begin
        if (settling != '0) settling <= settling - 1'b1;
        if (turns) turn <= turn + 1'b1;
        if (turns && turn == 2'd3) begin
            group <= group + 1'b1;
            left <= left - TOKEN'(L);
            key_bank <= BANK'(32'(next_key_bank) >= KEY_BANKS
                ? next_key_bank - (BANK + 1)'(KEY_BANKS) : next_key_bank);
            if (32'(next_key_bank) >= KEY_BANKS)
                key_address <= key_address + lane_types::LANE_ADDRESS_BITS'(stride);
            if (last_group) pending <= 1'b0;
        end
        if (closes) begin
            pending <= 1'b1;
            settling <= 2'(SETTLE - 1);
            turn <= '0;
            turn_half <= half;
            half <= !half;
            group <= '0;
            left <= row.tokens;
            last <= row.last;
            destination <= row.destination;
            column <= row.column;
            angle <= row.value_block;
            address <= row.address;
            key_address <= row.key_address;
            key_bank <= row.key_bank;
        end
        if (reset) {pending, half} <= '0;
    end

`ifndef SYNTHESIS
    always_ff @(posedge clk)
        if (!reset) a_pair_waits_for_the_pair_before: assert (!closes || !pending);
`endif

endmodule

`default_nettype wire
