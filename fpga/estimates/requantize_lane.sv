// A lane of `drain_rows` (fpga/src/drain.cpp): bias or correction by a value's mean, shift,
// mantissa, index into GELU's table, residual, moments.
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

// shift16 of fpga/include/leaves.hpp: a rounding shift, clamped to 16 bits, in three stages.
module shift16 (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic signed [30:0] x,
    input  wire logic        [4:0]  p,
    output logic signed      [15:0] y
);
    logic signed [31:0] sum, shifted;
    logic [4:0] down;
    wire logic [29:0] half = p == 0 ? 30'd0 : 30'd1 << (p - 5'd1);
    logic signed [15:0] clamped;
    clamp #(.IN(32), .OUT(16)) limit (.x(shifted), .y(clamped));
    always_ff @(posedge clk)
        if (enable) begin
            sum <= x + $signed({2'b0, half});
            down <= p;
            shifted <= sum >>> down;
            y <= clamped;
        end
endmodule

// Computes a * b in two stages and rounds it to 18 bits in a third (requantize).
module product15 (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic signed [15:0] a,
    input  wire logic signed [15:0] b,
    output logic signed      [17:0] z
);
    logic signed [15:0] a_in, b_in;
    logic signed [31:0] product;
    wire logic signed [31:0] rounded = product + 32'sd16384;
    always_ff @(posedge clk)
        if (enable) begin
            a_in <= a;
            b_in <= b;
            product <= a_in * b_in;
            z <= 18'(rounded >>> 15);
        end
endmodule

module requantize_lane #(parameter int G = 2) (
    input  wire logic               clk,
    input  wire logic               enable,
    input  wire logic signed [26:0] sum,
    input  wire logic signed [26:0] bias,
    input  wire logic        [4:0]  shift,
    input  wire logic signed [15:0] mult,
    // Attend: a scale for each token, and the mean of the row's values.
    input  wire logic               attends,
    input  wire logic               begin_rows,
    input  wire logic        [34:0] word,
    input  wire logic signed [12:0] mean,
    input  wire logic signed [7:0]  zero_point,
    input  wire logic               table_on,
    output logic             [7:0]  table_index,
    input  wire logic        [7:0]  table_code,
    input  wire logic signed [15:0] before,
    input  wire logic               skip,
    input  wire logic               fresh,
    input  wire logic               resume,
    input  wire logic        [$clog2(G > 1 ? G : 2)-1:0] group,
    input  wire logic        [67:0] earlier,
    output logic             [7:0]  code,
    output logic signed      [15:0] residual,
    output logic             [67:0] moments
);
    (* mem2reg *) logic [34:0] scale[G];
    logic [34:0] factor, factor_next, factor_last;
    logic signed [27:0] product;
    logic signed [14:0] residue;
    logic signed [12:0] mean_in;
    logic signed [26:0] sum_in, sum_next;
    wire logic signed [24:0] small = 25'((product + 28'sd8) >>> 4);
    logic signed [30:0] numerator;
    logic [4:0] shift_in;
    logic signed [15:0] mult_in[4];
    logic signed [15:0] shifted;
    logic signed [17:0] z;
    shift16 shifter (.clk, .enable, .x(numerator), .p(shift_in), .y(shifted));
    product15 mantissa (.clk, .enable, .a(shifted), .b(mult_in[3]), .z);

    wire logic signed [12:0] centred = 13'((z + 18'sd32) >>> 6) + zero_point;
    logic signed [7:0] y, y_in;
    clamp #(.IN(13), .OUT(8)) limit (.x(centred), .y(y));

    logic signed [18:0] x;
    logic signed [15:0] kept, kept_in, kept_square;
    clamp #(.IN(19), .OUT(16), .LOW(1)) limit_residual (.x, .y(kept));
    logic signed [31:0] square;
    (* mem2reg *) logic [67:0] now[G];
    logic [67:0] moment;
    assign moment = fresh ? '0 : resume ? earlier : now[group];
    wire logic [67:0] next = {moment[67:41] + 27'(kept_square), moment[40:0] + 41'(square[30:0])};

    always_ff @(posedge clk)
        if (enable) begin
            if (attends && begin_rows) scale[group] <= word;
            factor <= begin_rows ? word : scale[group];
            residue <= factor[34:20];
            mean_in <= mean;
            sum_in <= sum;
            factor_next <= factor;
            product <= residue * mean_in;
            sum_next <= sum_in;
            factor_last <= factor_next;
            numerator <= {sum_next, 4'b0} + (attends ? 31'(small) : {bias, 4'b0});
            shift_in <= attends ? factor_last[19:15] : shift;
            mult_in[0] <= attends ? {1'b0, factor_last[14:0]} : mult;
            for (int i = 1; i < 4; i++) mult_in[i] <= mult_in[i-1];
            y_in <= y;
            table_index <= y_in + 8'd128;
            code <= table_on ? table_code : y_in;
            x <= skip ? 19'(before) : before + z;
            kept_in <= kept;
            square <= kept_in * kept_in;
            kept_square <= kept_in;
            residual <= kept_square;
            now[group] <= next;
            moments <= next;
        end
endmodule
`default_nettype wire
