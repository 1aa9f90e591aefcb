// The CRC-32 of a beat in `load` or of a word in `store` (fpga/include/crc.hpp).
`default_nettype none
// Computes the XOR contribution of `data` to the CRC state after ZEROS more bits. Each bit of it is
// the parity of some bits of `data`: a tree of LUTs.
module check_share #(parameter int BITS = 512, parameter int ZEROS = 0) (
    input  wire logic [BITS-1:0] data,
    output      logic [31:0]     share
);
    localparam int LAST = BITS + ZEROS - 1;
    for (genvar i = LAST; i >= 0; i--) begin : gen_bit
        if (i == LAST) begin : gen_column
            localparam logic [31:0] COLUMN = 32'hedb88320;
        end else begin : gen_column
            localparam logic [31:0] NEXT = gen_bit[i+1].gen_column.COLUMN;
            localparam logic [31:0] COLUMN = {1'b0, NEXT[31:1]} ^ (NEXT[0] ? 32'hedb88320 : 32'd0);
        end
    end
    for (genvar row = 0; row < 32; row++) begin : gen_row
        // The bits of `data` that affect this row.
        wire logic [BITS:0] taken;
        for (genvar i = BITS - 1; i >= 0; i--) begin : gen_take
            localparam logic TAKES = gen_bit[i].gen_column.COLUMN[row];
            if (i == BITS - 1) begin : gen_count
                localparam int BEFORE = 0;
            end else begin : gen_count
                localparam int BEFORE = gen_take[i+1].AFTER;
            end
            localparam int AFTER = gen_count.BEFORE + (TAKES ? 1 : 0);
            if (TAKES) begin : gen_taken
                assign taken[gen_count.BEFORE] = data[i];
            end
        end
        localparam int COUNT = gen_take[0].AFTER;
        localparam int PARTS = (COUNT + 5) / 6;
        localparam int GROUPS = (PARTS + 5) / 6;
        (* keep *) wire logic [PARTS-1:0] part;
        (* keep *) wire logic [GROUPS-1:0] group;
        for (genvar p = 0; p < PARTS; p++) begin : gen_part
            localparam int N = COUNT - 6 * p < 6 ? COUNT - 6 * p : 6;
            assign part[p] = ^taken[6*p+:N];
        end
        for (genvar g = 0; g < GROUPS; g++) begin : gen_group
            localparam int N = PARTS - 6 * g < 6 ? PARTS - 6 * g : 6;
            assign group[g] = ^part[6*g+:N];
        end
        assign share[row] = ^group;
    end
endmodule

module check_beats #(parameter int BYTES = 64) (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic               clear,
    input  wire logic [BYTES*8-1:0] beat,
    input  wire logic               last,
    output logic [31:0]             state,
    output logic                    sound
);
    wire logic [31:0] share, behind;
    logic [31:0] held, stated;
    check_share #(.BITS(8 * BYTES)) of_beat(.data(beat), .share(share));
    check_share #(.BITS(32), .ZEROS(8 * BYTES - 32)) of_state(.data(state), .share(behind));
    always_ff @(posedge clk)
        if (enable) begin
            held <= share;
            stated <= beat[31:0];
            state <= clear ? '1 : behind ^ held;
            if (last) sound <= stated == ~state;
        end
endmodule
`default_nettype wire
