// A lane of `normalise` and of the regrouping before it (fpga/src/norm.cpp).
`default_nettype none

// Clamps to [-(2^(OUT-1)) + LOW, 2^(OUT-1) - 1].
module clamp #(parameter int IN = 32, parameter int OUT = 16, parameter int LOW = 0) (
    input  wire logic signed [IN-1:0]  x,
    output logic signed      [OUT-1:0] y
);
    localparam logic signed [IN-1:0] MOST = (1 << (OUT - 1)) - 1;
    localparam logic signed [IN-1:0] LEAST = -(1 << (OUT - 1)) + LOW;
    assign y = x > MOST ? MOST[OUT-1:0] : x < LEAST ? LEAST[OUT-1:0] : x[OUT-1:0];
endmodule
module normalise_lane #(parameter int GN = 8) (
    input  wire logic               clk,
    input  wire logic               enable,
    // Residuals of the lane's tokens in a tile.
    input  wire logic [GN*16-1:0]   x,
    input  wire logic [$clog2(GN > 1 ? GN : 2)-1:0] group,
    input  wire logic               new_root,
    input  wire logic        [46:0] root,
    input  wire logic        [10:0] embed,
    input  wire logic signed [15:0] gain,
    input  wire logic signed [15:0] offset,
    input  wire logic        [3:0]  frac,
    input  wire logic               normalises,
    output logic signed      [7:0]  code
);
    logic [46:0] held;
    logic signed [15:0] x_in;
    logic signed [27:0] scaled, centred;
    wire logic [4:0] bits = held[19:15];
    wire logic [4:0] down = bits - 5'd10;
    wire logic signed [28:0] half = down == 0 ? 29'sd0 : 29'sd1 << (down - 5'd1);
    logic signed [28:0] rounded;
    // x while it is normalised.
    logic signed [15:0] passed[6];
    logic signed [15:0] t, t_in, inverse_in, n, n_in, gain_in, y;
    logic signed [31:0] product, product_gain;
    logic signed [18:0] moved;
    logic signed [15:0] limited;
    logic signed [7:0] narrow;
    clamp #(.IN(19), .OUT(16)) limit (.x(moved), .y(limited));
    clamp #(.IN(16), .OUT(8)) limit_code (.x(16'(y >>> frac)), .y(narrow));
    always_ff @(posedge clk)
        if (enable) begin
            if (new_root) held <= root;
            x_in <= x[16*group+:16];
            scaled <= x_in * $signed({1'b0, embed});
            centred <= scaled - 28'($signed(held[46:20]));
            rounded <= bits >= 10 ? centred + half : centred;
            t <= bits >= 10 ? 16'(rounded >>> down) : 16'(38'(rounded) << (5'd10 - bits));
            t_in <= t;
            inverse_in <= {1'b0, held[14:0]};
            product <= t_in * inverse_in;
            passed[0] <= x_in;
            for (int i = 1; i < 6; i++) passed[i] <= passed[i-1];
            n <= normalises ? 16'((product + 32'sd16384) >>> 15) : passed[5];
            n_in <= n;
            gain_in <= gain;
            product_gain <= n_in * gain_in;
            moved <= 17'((product_gain + 32'sd16384) >>> 15) + offset;
            y <= limited;
            code <= narrow;
        end
endmodule
`default_nettype wire
