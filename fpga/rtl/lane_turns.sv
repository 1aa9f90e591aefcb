// Orders the rotations of `lanes` ("Rotary positions" in docs/integer-model.md). Once both rows of a
// pair are kept, each group of tokens takes two turns of the lanes: one for each row. Up to PAIRS
// pairs wait for that while rows of later pairs pass.

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
    output logic [1:0]                                     slot,   // of the present rows' pair
    output logic                                           room,    // for one more pair
    output logic                                           pending, // a pair waits or turns
    output logic                                           last,    // the command's last pair, too
    output logic                                           turns,
    output logic                                           ends,   // the command, by this turn
    output logic                                           second, // the pair's second row turns
    output logic [1:0]                                     turn_slot,
    output logic [2:0]                                     destination,
    output logic [15:0]                                    column,
    output logic [15:0]                                    angle, // its address
    output logic [GROUP_BITS-1:0]                          group,
    output logic [7:0]                                     lanes,
    output logic [lane_types::LANE_ADDRESS_BITS-1:0]       address,
    output logic [lane_types::LANE_ADDRESS_BITS-1:0]       key_address,
    output logic [lane_types::LANE_BANK_BITS-1:0]          key_bank
);

    localparam int PAIRS = 4;
    localparam int BANK = lane_types::LANE_BANK_BITS;
    localparam int ADDRESS = lane_types::LANE_ADDRESS_BITS;
    localparam int TOKEN = lane_types::TOKEN_BITS;
    // Slow cycles from a pair's last item to its first turn. A lane reads z of the first row, which
    // came a cycle earlier, in stage 0 of a turn, and keeps it in stage 12 of its item.
    localparam int SETTLE = (13 + R - 1) / R - 1;

    typedef struct packed {
        logic               last;
        logic [2:0]         destination;
        logic [15:0]        column;
        logic [15:0]        angle;
        logic [TOKEN-1:0]   tokens;
        logic [ADDRESS-1:0] address;
        logic [ADDRESS-1:0] key_address;
        logic [BANK-1:0]    key_bank;
    } pair_t;

    (* ram_style = "distributed" *) logic [36+TOKEN+2*ADDRESS+BANK-1:0] pairs[PAIRS];
    pair_t next_pair, present;
    logic [1:0] next;          // pair to turn
    logic [2:0] closed, ready; // pairs that wait or turn; of these, kept and not begun
    logic settled;
    assign next_pair = pairs[next];
    delay #(.CYCLES(SETTLE - 2), .RESET(1)) settle (
        .clk, .reset, .in(closes), .out(settled)
    );

    logic [TOKEN-1:0] left;
    wire last_group = G == 1 || 32'(left) <= L;
    wire done = turns && second && last_group;
    wire begins = ready != '0 && (!turns || done);
    wire [BANK:0] next_key_bank = {1'b0, key_bank} + (BANK + 1)'(L);
    assign room = !closed[2];
    assign pending = closed != '0;
    assign ends = done && present.last;
    assign lanes = 32'(left) < L ? left[7:0] : 8'(L);
    assign destination = present.destination;
    assign column = present.column;
    assign angle = present.angle;
    assign address = present.address;
    always_ff @(posedge clk) begin
        if (closes) begin
            pairs[slot] <= {
                row.last, row.destination, row.column, row.value_block, row.tokens, row.address,
                row.key_address, row.key_bank
            };
            slot <= slot + 1'b1;
        end
        if (closes && row.last) last <= 1'b1;
        else if (ends) last <= 1'b0;
        closed <= closed + 3'(closes) - 3'(done);
        ready <= ready + 3'(settled) - 3'(begins);
        if (begins) begin
            present <= next_pair;
            turn_slot <= next;
            next <= next + 1'b1;
        end
        turns <= begins || (turns && !done);
        if (begins) second <= 1'b0;
        else if (turns) second <= !second;
        if (turns && second) begin
            group <= group + 1'b1;
            left <= left - TOKEN'(L);
            key_bank <= BANK'(32'(next_key_bank) >= KEY_BANKS
                ? next_key_bank - (BANK + 1)'(KEY_BANKS) : next_key_bank);
            if (32'(next_key_bank) >= KEY_BANKS) key_address <= key_address + ADDRESS'(stride);
        end
        if (begins) begin
            group <= '0;
            left <= next_pair.tokens;
            key_address <= next_pair.key_address;
            key_bank <= next_pair.key_bank;
        end
        if (reset) {slot, next, closed, ready, turns, last} <= '0;
    end

`ifndef SYNTHESIS
    always_ff @(posedge clk)
        if (!reset) a_pair_has_a_slot: assert (!closes || room);
`endif

endmodule

`default_nettype wire
