// The scales of attention tiles: each goes to its token's lane, while the lanes use those of the
// tile before.

`default_nettype none

module lane_scales #(
    parameter int T = 5,     // tokens
    parameter int L = 2,     // tokens of an item
    parameter int LANES = 2, // places for scales
    localparam int G = (T + L - 1) / L,
    localparam int GROUP_BITS = G > 1 ? $clog2(G) : 1,
    localparam int ADDRESS_BITS = G > 1 ? GROUP_BITS + 1 : 1 // half, group
) (
    input  wire logic                            clk,
    input  wire logic                            reset,
    input  wire logic                            tiles_valid,
    output logic                                 tiles_ready,
    input  wire logic [lane_types::TOKEN_BITS-1:0] tiles, // their tokens
    input  wire logic                            scales_valid,
    output logic                                 scales_ready,
    input  wire logic [lane_types::SCALE_BITS-1:0] scales,
    input  wire logic [GROUP_BITS-1:0]           group, // of the present item
    input  wire logic                            ends,  // the tile's use ends
    output logic                                 here,  // the item's scales have come
    output logic                                 half,  // of the memory, that is used
    output logic [LANES-1:0]                     write,
    output logic [ADDRESS_BITS-1:0]              address,
    output logic [lane_types::SCALE_BITS-1:0]    d
);

    logic gathers, gather_half;
    logic [1:0] gathered;
    logic [lane_types::TOKEN_BITS-1:0] left;
    logic [GROUP_BITS-1:0] gather_group;
    logic [7:0] lane;
    wire takes = scales_ready && scales_valid;
    wire takes_last = takes && 32'(left) == 1;
    assign scales_ready = gathers && !gathered[gather_half];
    assign tiles_ready = !gathers;
    assign here = gathered[half] || (gather_half == half && gather_group > group);
    always_ff @(posedge clk) begin
        for (int i = 0; i < LANES; i++) write[i] <= takes && 32'(lane) == i;
        address <= ADDRESS_BITS'(G == 1 ? {gather_half} : {gather_half, gather_group});
        d <= scales;
        if (!gathers) begin
            left <= tiles;
            gather_group <= '0;
            lane <= '0;
        end else if (takes) begin
            left <= left - 1'b1;
            lane <= 32'(lane) == L - 1 ? '0 : lane + 1'b1;
            if (32'(lane) == L - 1) gather_group <= gather_group + 1'b1;
        end
        if (reset) begin
            {gathers, gather_half, half} <= '0;
            gathered <= '0;
        end else begin
            gathers <= gathers ? !takes_last : tiles_valid;
            if (takes_last) begin
                gathered[gather_half] <= 1'b1;
                gather_half <= !gather_half;
            end
            if (ends) begin
                gathered[half] <= 1'b0;
                half <= !half;
            end
        end
    end

`ifndef SYNTHESIS
    logic checks = 1'b0;
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        if (checks && !reset) begin
            scales_are_of_a_tile: assert (!takes || 32'(gather_group) < G);
        end
    end
`endif

endmodule

`default_nettype wire
