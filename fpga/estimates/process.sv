// Control of a large process: `walk` of fpga/src/drain.cpp, with a command's loops over tiles and
// rows and their addresses.
`default_nettype none
module process #(parameter int T = 33, parameter int KB = 36, parameter int VB = 9) (
    input  wire logic         clk,
    input  wire logic         reset,
    input  wire logic         valid,
    input  wire logic [223:0] command,
    output logic              ready,
    input  wire logic         credit,
    output logic              take_credit,
    input  wire logic         go,
    output logic [8:0]        index,
    output logic [10:0]       tile,
    output logic [10:0]       first_token,
    output logic [10:0]       here,
    output logic [23:0]       address,
    output logic [7:0]        key_bank,
    output logic [23:0]       key_address,
    output logic [7:0]        value_bank,
    output logic [5:0]        flags,
    output logic              fire
);
    localparam logic [1:0] IDLE = 0, CREDIT = 1, RUN = 2;
    logic [1:0] state;
    logic [223:0] held;
    wire logic [10:0] tokens = held[10:0];
    wire logic [12:0] stride = held[44:32];
    wire logic [15:0] rows4 = held[79:64];
    wire logic [15:0] rows8 = held[111:96];
    logic [15:0] pair, all;
    logic [9:0] rows;
    logic [10:0] left;
    wire logic [16:0] pairs4 = (rows4 + 1'b1) >> 1;
    wire logic end_row = index + 1'b1 == rows;
    wire logic end_tile = left <= T;
    wire logic end_pair = pair + 8'd6 >= all;
    wire logic [8:0] next_bank = key_bank + T % KB;
    wire logic [8:0] next_value = value_bank + T % VB;
    wire logic [15:0] pairs_left = all - pair;
    wire logic [9:0] here_pairs = pairs_left > 6 ? 10'd6 : pairs_left[9:0];
    wire logic [16:0] of4 = pairs4 > pair ? pairs4 - pair : 17'd0;
    wire logic [9:0] here4 = of4 > here_pairs ? here_pairs : of4[9:0];
    assign fire = state == RUN && go;
    assign ready = state == IDLE;
    assign take_credit = state == CREDIT && credit;
    assign here = end_tile ? left : T;
    assign flags = {end_row, index == 0, pair == 0, end_pair, end_tile, end_row && end_tile &&
        end_pair};
    always_ff @(posedge clk)
        if (reset) state <= IDLE;
        else case (state)
            IDLE: if (valid) begin
                held <= command;
                all <= ((command[79:64] + 1'b1) >> 1) + command[111:96];
                pair <= 0;
                state <= CREDIT;
            end
            CREDIT: if (credit) begin
                rows <= here_pairs + here4 - (here4 != 0 && of4 == here4 && rows4[0]);
                {index, tile, address, key_bank, key_address, value_bank, first_token} <= 0;
                left <= tokens;
                state <= RUN;
            end
            default: if (go) begin
                index <= end_row ? 9'd0 : index + 1'b1;
                if (end_row) begin
                    tile <= tile + 1'b1;
                    first_token <= first_token + T;
                    left <= left - T;
                    address <= address + stride;
                    key_bank <= next_bank >= KB ? next_bank - KB : next_bank;
                    key_address <= key_address + (next_bank >= KB ? stride : 13'd0);
                    value_bank <= next_value >= VB ? next_value - VB : next_value;
                    if (end_tile) begin
                        pair <= pair + 8'd6;
                        state <= end_pair ? IDLE : CREDIT;
                    end
                end
            end
        endcase
endmodule
`default_nettype wire
