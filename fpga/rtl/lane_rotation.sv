// Keeps what a lane needs for rotary positions: the cosine and sine of each of its tokens and pairs
// of rows, and the requantized values z of two pairs ("Rotary positions" in docs/integer-model.md).

`default_nettype none

module lane_rotation #(
    parameter int R = 2,          // tokens of an item: fast cycles of a slow one, 1 or 2
    parameter int PLACES = 2,     // groups of tokens times R
    parameter int ANGLE_BITS = 6, // of an angle's address
    localparam int PLACE_BITS = PLACES > 1 ? $clog2(PLACES) : 1,
    localparam int KEPT_BITS = PLACE_BITS + 2  // pair, row, place
) (
    input  wire logic                  clk,
    input  wire logic                  clk_array,
    // Slow: an angle is two cycles behind its address.
    input  wire logic                  angle_write,
    input  wire logic [ANGLE_BITS-1:0] angle_write_address,
    input  wire logic [31:0]           angle_d,           // sine, cosine
    input  wire logic [ANGLE_BITS-1:0] angle_address,
    // Stage 8.
    input  wire logic                  sine,
    input  wire logic [KEPT_BITS-1:0]  kept_address,
    output logic signed [15:0]         z,
    output logic signed [15:0]         factor,
    // Stage 12.
    input  wire logic                  keeps,
    input  wire logic [KEPT_BITS-1:0]  keep_address,
    input  wire logic signed [15:0]    keep_d
);

    (* ram_style = "block" *) logic [31:0] angles[1<<ANGLE_BITS];
    logic [31:0] angle_read, angle;
    always_ff @(posedge clk) begin
        if (angle_write) angles[angle_write_address] <= angle_d;
        angle_read <= angles[angle_address];
        angle <= angle_read;
    end
    assign factor = sine ? angle[31:16] : angle[15:0];

    (* ram_style = "distributed" *) logic [15:0] kept[1<<KEPT_BITS];
    always_ff @(posedge clk_array) if (keeps) kept[keep_address] <= keep_d;
    assign z = kept[kept_address];

endmodule

`default_nettype wire
