// Keeps what a lane needs for rotary positions: the cosine and sine of each of its tokens and pairs
// of rows, and the requantized values z of four pairs ("Rotary positions" in
// docs/integer-model.md).

`default_nettype none

module lane_rotation #(
    parameter int PLACES = 2,     // tokens of a tile
    parameter int ANGLE_BITS = 6, // of an angle's address
    parameter bit PRIMITIVES = 0,
    localparam int KEPT_BITS = (PLACES > 1 ? $clog2(PLACES) : 1) + 2  // pair, place
) (
    input  wire logic                  clk,
    input  wire logic                  clk_array,
    // Slow.
    input  wire logic                  angle_write,
    input  wire logic [ANGLE_BITS-1:0] angle_write_address,
    input  wire logic [31:0]           angle_d,           // sine, cosine
    // A cycle of the array's clock before stage 0.
    input  wire logic [ANGLE_BITS-1:0] angle_address,
    // Stage 0.
    input  wire logic [KEPT_BITS-1:0]  first_address,
    output logic signed [15:0]         z_first,           // z of the pair's first row
    // Stage 1. The second row takes the first row's z times the sine.
    input  wire logic                  takes_second,
    output logic signed [15:0]         first_factor,
    // Stage 8.
    input  wire logic [KEPT_BITS-1:0]  second_address,
    output logic signed [15:0]         z_second,          // z of the second row
    output logic signed [15:0]         second_factor,
    // Stage 12.
    input  wire logic [1:0]            keeps,             // z of the first row, of the second one
    input  wire logic [KEPT_BITS-1:0]  keep_address,
    input  wire logic signed [15:0]    keep_d
);

    (* ram_style = "block" *) logic [31:0] angles[1<<ANGLE_BITS];
    logic [31:0] angle_read, angle;
    logic [15:0] other;
    always_ff @(posedge clk) if (angle_write) angles[angle_write_address] <= angle_d;
    always_ff @(posedge clk_array) begin
        angle_read <= angles[angle_address];
        angle <= angle_read;
        other <= takes_second ? angle[15:0] : angle[31:16];
    end
    assign first_factor = takes_second ? angle[31:16] : angle[15:0];
    delay #(.BITS(16), .CYCLES(6), .PRIMITIVES(PRIMITIVES)) other_delay (
        .clk(clk_array), .reset(1'b0), .in(other), .out(second_factor)
    );

    (* ram_style = "distributed" *) logic [15:0] firsts[1<<KEPT_BITS];
    (* ram_style = "distributed" *) logic [15:0] seconds[1<<KEPT_BITS];
    always_ff @(posedge clk_array) begin
        if (keeps[0]) firsts[keep_address] <= keep_d;
        if (keeps[1]) seconds[keep_address] <= keep_d;
    end
    assign z_first = firsts[first_address];
    assign z_second = seconds[second_address];

endmodule

`default_nettype wire
