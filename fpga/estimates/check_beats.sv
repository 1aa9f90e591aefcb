// The check of a beat and the patches' register of `load` (fpga/src/load.cpp).
`default_nettype none
module check_beats #(parameter int BYTES = 64, parameter int PARTS = 2) (
    input  wire logic                 clk,
    input  wire logic                 enable,
    input  wire logic [BYTES*8-1:0]   beat,
    input  wire logic                 clear,
    input  wire logic [$clog2(PARTS > 1 ? PARTS : 2)-1:0] part,
    output logic [31:0]               sum,
    output logic [4:0]                turn,
    output logic [PARTS*BYTES*8-1:0]  gathered
);
    localparam int WORDS = BYTES / 4;
    logic [31:0] turned[WORDS], total;
    always_comb begin
        total = '0;
        for (int i = 0; i < WORDS; i++) total = total + turned[i];
    end
    for (genvar i = 0; i < WORDS; i++) begin : gen_word
        wire logic [5:0] by = {1'b0, turn} + 6'(i % 31);
        (* keep *) wire logic [4:0] amount = by >= 31 ? by - 6'd31 : by;
        (* keep *) wire logic [5:0] back = 6'd32 - amount;
        // Left and right, as rotate_left has them, a bit of the amount a stage.
        logic [31:0] left[6], right[7];
        assign left[0] = beat[32*i+:32];
        assign right[0] = beat[32*i+:32];
        for (genvar s = 0; s < 5; s++) begin : gen_left
            assign left[s+1] = amount[s] ? left[s] << (1 << s) : left[s];
        end
        for (genvar s = 0; s < 6; s++) begin : gen_right
            assign right[s+1] = back[s] ? right[s] >> (1 << s) : right[s];
        end
        always_ff @(posedge clk) if (enable) turned[i] <= left[5] | right[6];
    end
    wire logic [5:0] next = {1'b0, turn} + 6'(WORDS % 31);
    for (genvar p = 0; p < PARTS; p++) begin : gen_part
        always_ff @(posedge clk) if (enable && part == p) gathered[p*BYTES*8+:BYTES*8] <= beat;
    end
    always_ff @(posedge clk)
        if (enable) begin
            sum <= clear ? 32'd0 : sum + total;
            turn <= clear ? 5'd0 : next >= 31 ? next - 6'd31 : next;
        end
endmodule
`default_nettype wire
