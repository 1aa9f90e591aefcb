// The product of one token and one row pair: a cascade of C slices. Lane c multiplies W = (w1 << S)
// + w0 by the activation of column C*i + c of word i, and adds the sum of lane c - 1. The last lane
// also accumulates over the words. Lane c's operands arrive c cycles after lane 0's. `p` includes a
// word C + 3 cycles after lane 0's operands (a DSP48E1 with C > 1: one cycle later); `first`
// arrives two cycles before `p`.
//
// An operand is {w1, sign of w0, w0}. No operand has both w1 = -8 and a negative w0.

`default_nettype none

module unit #(
    parameter int C = 4,          // columns of a word, at least 1
    parameter int S = 23,         // bits of the low field: at most 23, DSP48E1 21
    parameter bit DSP48E1 = 0,    // slices of 7 series
    parameter bit PRIMITIVES = 0  // instantiate DSP slices
) (
    input  wire logic           clk,
    input  wire logic [C*9-1:0] w,
    input  wire logic [C*9-1:0] a,
    input  wire logic           first, // a sum starts
    output logic      [2*S:0]   p
);

    if (C < 1 || S < 5 || S > (DSP48E1 ? 21 : 23)) begin : gen_refused
        $error("unit: C must be at least 1, S at most 23 (DSP48E1: 21)");
    end

    if (!PRIMITIVES) begin : gen_model
        unit_model #(.C(C), .S(S), .DSP48E1(DSP48E1)) slices (.clk, .w, .a, .first, .p);
    end else begin : gen_slices
        unit_dsp48 #(.C(C), .S(S), .E1(DSP48E1)) slices (.clk, .w, .a, .first, .p);
    end

`ifndef SYNTHESIS
    // The sum of the low products alone, a cycle before `p`. It is within its field, signed or not,
    // so that the high sum can be told from its carry.
    logic signed [C*14-1:0] made, added;
    logic signed [31:0] lane[C+1], total, low_sum;
    assign lane[0] = '0;
    for (genvar c = 0; c < C; c++) begin : gen_low
        wire logic signed [4:0] low = w[c*9+:5];
        wire logic signed [8:0] activation = a[c*9+:9];
        wire logic accumulates = c == C - 1 && (C == 1 || !DSP48E1) && !first;
        always_ff @(posedge clk) begin
            made[c*14+:14] <= 14'(low) * 14'(activation);
            lane[c+1] <= 32'($signed(added[c*14+:14])) + lane[c] + (accumulates ? lane[c+1] : '0);
        end
    end
    always_ff @(posedge clk) begin
        added <= made;
        total <= lane[C] + (first ? '0 : total);
    end
    assign low_sum = DSP48E1 && C > 1 ? total : lane[C];
    logic [4:0] age = '0; // the registers' first values are gone
    logic begun = 1'b0;
    always_ff @(posedge clk) begin
        if (age != '1) age <= age + 1'b1;
        else if (first) begun <= 1'b1;
        if (begun)
            a_low_sum_fits_its_field: assert (low_sum >= -(1 <<< S - 1) && low_sum < 1 <<< S);
    end
`endif

endmodule

// Behavioural model of both cascades, accurate to the cycle.
module unit_model #(
    parameter int C = 4,
    parameter int S = 23,
    parameter bit DSP48E1 = 0
) (
    input  wire logic           clk,
    input  wire logic [C*9-1:0] w,
    input  wire logic [C*9-1:0] a,
    input  wire logic           first,
    output logic      [2*S:0]   p
);

    logic signed [47:0] lane[C+1];
    logic start;

    assign lane[0] = '0;
    always_ff @(posedge clk) start <= first;

    for (genvar c = 0; c < C; c++) begin : gen_lanes
        logic signed [3:0] high;
        logic signed [4:0] low;
        logic signed [8:0] activation, activation_added;
        logic signed [S+3:0] operand;
        logic signed [S+12:0] product;

        always_ff @(posedge clk) begin
            {high, low} <= w[c*9+:9];
            activation <= a[c*9+:9];
            operand <= ((S + 4)'(high) <<< S) + (S + 4)'(low);
            activation_added <= activation;
            product <= (S + 13)'(operand) * (S + 13)'(activation_added);
        end

        if (c == C - 1 && (C == 1 || !DSP48E1)) begin : gen_last
            always_ff @(posedge clk)
                lane[c+1] <= 48'(product) + lane[c] + (start ? '0 : lane[c+1]);
        end else begin : gen_inner
            always_ff @(posedge clk) lane[c+1] <= 48'(product) + lane[c];
        end
    end

    logic signed [47:0] total;
    if (DSP48E1 && C > 1) begin : gen_sum
        always_ff @(posedge clk) total <= lane[C] + (start ? '0 : total);
    end else begin : gen_end
        assign total = lane[C];
    end
    assign p = total[2*S:0];

`ifndef SYNTHESIS
    logic [4:0] age = '0; // the registers' first values are gone
    logic begun = 1'b0;
    always_ff @(posedge clk) begin
        if (age != '1) age <= age + 1'b1;
        else if (start) begun <= 1'b1;
        if (begun)
            a_sum_fits_its_bits: assert (total[47:2*S] == '0 || total[47:2*S] == '1);
    end
`endif

endmodule

`default_nettype wire
