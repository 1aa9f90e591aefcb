// A lane on the array's clock. It serves R tokens of each item, one in each fast cycle: adds the
// bias, or the rounding residue times the value's mean; shifts, multiplies and rounds
// (fpga/include/leaves.hpp: requantize, code_of); applies the activation's table; adds the residual
// and sums its moments. No stage has more than three LUTs between two registers.
//
// An item's operands stand in slow registers. Stage k is the k-th fast cycle after the first of
// these; a control signal of stage k arrives then, for R fast cycles. Results stand in slow
// registers from the slow cycle on that lane_timing gives.

`default_nettype none

// Delays a slow control signal to stage STAGE of the lanes. The last register is on the array's
// clock, and each of COPIES lanes has its own.
module lane_control #(
    parameter int BITS = 1,
    parameter int STAGE = 1,      // at least 1
    parameter int COPIES = 1,
    parameter int R = 2,
    parameter bit PRIMITIVES = 0
) (
    input  wire logic                   clk,
    input  wire logic                   clk_array,
    input  wire logic [BITS-1:0]        in,
    output logic      [COPIES*BITS-1:0] out
);

    localparam int SLOW = (STAGE - 1) / R;

    logic [BITS-1:0] slow, fast;
    delay #(.BITS(BITS), .CYCLES(SLOW), .PRIMITIVES(PRIMITIVES)) slow_delay (
        .clk, .reset(1'b0), .in, .out(slow)
    );
    delay #(.BITS(BITS), .CYCLES(STAGE - R * SLOW - 1), .PRIMITIVES(PRIMITIVES)) fast_delay (
        .clk(clk_array), .reset(1'b0), .in(slow), .out(fast)
    );
    registers #(.BITS(COPIES * BITS), .PRIMITIVES(PRIMITIVES)) copies (
        .clk(clk_array), .d({COPIES{fast}}), .q(out)
    );

endmodule

module requantize_lane #(
    parameter int R = 2,           // tokens of an item: fast cycles of a slow one, 1 or 2
    parameter int SCALES = 2,      // scales of a token that the lane holds
    parameter int STATES = 1,      // groups of tokens of a frame
    parameter int GROUPS = 1,      // groups of tokens of a tile
    parameter bit ROTATES = 0,     // rotary positions
    parameter int ANGLE_BITS = 1,  // of an angle's address
    parameter bit DSP48E1 = 0,     // slices of 7 series
    parameter bit PRIMITIVES = 0,
    localparam int SCALE_ADDRESS_BITS = SCALES > 1 ? $clog2(SCALES) : 1,
    localparam int STATE_BITS = STATES > 1 ? $clog2(STATES) : 1,
    localparam int KEPT_BITS = (GROUPS * R > 1 ? $clog2(GROUPS * R) : 1) + 2
) (
    input  wire logic                          clk,
    input  wire logic                          clk_array,
    input  wire logic                          second,        // fast: the second token's cycle
    // Written in slow cycles.
    input  wire logic [R-1:0]                  scale_write,   // of each token
    input  wire logic [SCALE_ADDRESS_BITS-1:0] scale_write_address,
    input  wire logic [34:0]                   scale_d,
    input  wire logic                          table_write,
    input  wire logic [7:0]                    table_address,
    input  wire logic [7:0]                    table_d,
    input  wire logic                          angle_write,
    input  wire logic [ANGLE_BITS-1:0]         angle_write_address,
    input  wire logic [31:0]                   angle_d,
    // A cycle of the array's clock before stage 0.
    input  wire logic [ANGLE_BITS-1:0]         angle_address,
    // Stage 0.
    input  wire logic [R*27-1:0]               sums,
    input  wire logic                          attends,
    input  wire logic [SCALE_ADDRESS_BITS-1:0] scale_address,
    input  wire logic [15:0]                   mult,
    input  wire logic [4:0]                    shift,
    input  wire logic                          turns,         // a rotation
    input  wire logic [KEPT_BITS-1:0]          first_address,
    // Stage 1.
    input  wire logic [26:0]                   bias,
    input  wire logic [12:0]                   mean,          // 0 for rows
    input  wire logic                          takes_second,  // the pair's second row turns
    // Stage 8.
    input  wire logic                          turns_late,
    input  wire logic [KEPT_BITS-1:0]          second_address,
    // Stage 10.
    input  wire logic [R*16-1:0]               held,
    input  wire logic [R-1:0]                  skip,
    // Stage 11: the second product of a rotation.
    input  wire logic                          subtracts,
    // Stage 12.
    input  wire logic [7:0]                    zero_point,
    input  wire logic [1:0]                    keeps,         // z of a pair's first row, second row
    input  wire logic [KEPT_BITS-1:0]          keep_address,
    // Stage 17.
    input  wire logic                          activation,
    // Stage 18.
    input  wire logic                          fresh,         // the first row of a tile
    input  wire logic                          sums_up,
    input  wire logic [STATE_BITS-1:0]         state,
    output logic      [R*8-1:0]                code,
    output logic      [R*16-1:0]               residual,
    output logic      [R*68-1:0]               moments
);

    if (R < 1 || R > 2 || SCALES < 1 || STATES < 1) begin : gen_refused
        $error("requantize_lane: R must be 1 or 2, SCALES and STATES at least 1");
    end

    wire phase = R == 2 && second;

    // The scales of all its tokens.
    localparam int PLACES = SCALES * R;
    localparam int PLACE_BITS = PLACES > 1 ? $clog2(PLACES) : 1;
    (* ram_style = "distributed" *) logic [34:0] scales[PLACES];
    wire [PLACE_BITS-1:0] scale_place = R == 2 ? PLACE_BITS'({scale_address, phase})
        : PLACE_BITS'(scale_address);
    wire [PLACE_BITS-1:0] scale_write_place = R == 2
        ? PLACE_BITS'({scale_write_address, scale_write[R-1]}) : PLACE_BITS'(scale_write_address);
    always_ff @(posedge clk) if (scale_write != '0) scales[scale_write_place] <= scale_d;
    wire [34:0] scale = scales[scale_place];

    // 1: operands of the token. 2: the sum with the bias; nothing in a rotation.
    localparam int FACTOR = ROTATES ? 16 : 15, OTHER = ROTATES ? 17 : 13;
    logic signed [26:0] sum_1, sum_2;
    logic signed [FACTOR-1:0] residue_1;
    logic signed [OTHER-1:0] other_1;
    logic signed [15:0] z_first, z_second, second_factor;
    logic turns_2, turns_9;
    logic [15:0] mult_1, mult_8;
    logic signed [16:0] factor_9;
    logic [4:0] shift_1, shift_4;
    always_ff @(posedge clk_array) begin
        sum_1 <= turns ? '0 : phase ? sums[(R-1)*27+:27] : sums[26:0];
        residue_1 <= turns ? z_first[FACTOR-1:0] : FACTOR'($signed(scale[34:20]));
        mult_1 <= attends ? {1'b0, scale[14:0]} : mult;
        shift_1 <= attends ? scale[19:15] : shift;
        sum_2 <= sum_1 + $signed(bias);
    end
    delay #(.BITS(5), .CYCLES(3), .PRIMITIVES(PRIMITIVES)) shift_delay (
        .clk(clk_array), .reset(1'b0), .in(shift_1), .out(shift_4)
    );
    delay #(.BITS(16), .CYCLES(7), .PRIMITIVES(PRIMITIVES)) mult_delay (
        .clk(clk_array), .reset(1'b0), .in(mult_1), .out(mult_8)
    );

    // 4: 256 * (sum + bias) + residue * mean + 8, of which the lowest four bits go; or the first
    // product of a rotation, with twice the cosine or sine: the sum of its products is then a z.
    logic signed [34:0] numerator_4;
    multiply_add #(
        .A(FACTOR), .B(OTHER), .P(35), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
    ) residue_times_mean (
        .clk(clk_array), .a(residue_1), .b(other_1), .c({sum_2, 4'd0, !turns_2, 3'd0}),
        .subtracts(1'b0), .p(numerator_4)
    );

    // 5 to 7: shifted, with one bit behind the point. 8: rounded. 9: clamped to 16 bits.
    logic signed [31:0] shifted_5, shifted_6, shifted_7;
    logic [2:0] shift_5;
    logic shift_6;
    logic signed [17:0] rounded_8;
    // Bits above 16 that are all ones, or all zeros. One comparison of both would be deep.
    logic ones_8, zeros_8, negative_8;
    wire beyond_8 = !ones_8 && !zeros_8;
    logic signed [15:0] clamped_9;
    always_ff @(posedge clk_array) begin
        shifted_5 <= $signed({numerator_4[34:4], 1'b0}) >>> {shift_4[4:3], 3'b0};
        shift_5 <= shift_4[2:0];
        shifted_6 <= shifted_5 >>> {shift_5[2:1], 1'b0};
        shift_6 <= shift_5[0];
        shifted_7 <= shift_6 ? shifted_6 >>> 1 : shifted_6;
        rounded_8 <= $signed({shifted_7[17], shifted_7[17:1]}) + $signed({17'b0, shifted_7[0]});
        ones_8 <= &shifted_7[31:17];
        zeros_8 <= ~|shifted_7[31:17];
        negative_8 <= shifted_7[31];
        if (turns_late) clamped_9 <= z_second;
        else if (beyond_8 || rounded_8[17:15] != {3{rounded_8[17]}})
            clamped_9 <= (beyond_8 ? negative_8 : rounded_8[17]) ? 16'h8000 : 16'h7fff;
        else clamped_9 <= rounded_8[15:0];
        factor_9 <= turns_late ? {second_factor, 1'b0} : {1'b0, mult_8};
    end

    // 12: times the mantissa, rounded to 18 bits; or both products of a rotation.
    logic signed [32:0] added_10, scaled_12;
    multiply_add #(
        .A(16), .B(17), .P(33), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
    ) times_mantissa (
        .clk(clk_array), .a(clamped_9), .b(factor_9), .c(added_10), .subtracts, .p(scaled_12)
    );
    wire signed [17:0] z_12 = scaled_12[32:15];
    if (!ROTATES) begin : gen_no_rotation
        assign {z_first, z_second, second_factor, turns_2, turns_9} = '0;
        assign other_1 = mean;
        assign added_10 = 33'sd16384;
    end else begin : gen_rotation
        logic turns_1;
        logic signed [15:0] first_factor;
        logic [32:0] product_9;
        lane_rotation #(
            .PLACES(GROUPS * R), .ANGLE_BITS(ANGLE_BITS), .PRIMITIVES(PRIMITIVES)
        ) rotation (
            .clk, .clk_array, .angle_write, .angle_write_address, .angle_d, .angle_address,
            .first_address, .z_first, .takes_second, .first_factor, .second_address, .z_second,
            .second_factor, .keeps, .keep_address, .keep_d(z_12[15:0])
        );
        assign other_1 = turns_1 ? {first_factor, 1'b0} : OTHER'($signed(mean));
        delay #(.BITS(33), .CYCLES(5), .PRIMITIVES(PRIMITIVES)) product_delay (
            .clk(clk_array), .reset(1'b0), .in(numerator_4[32:0]), .out(product_9)
        );
        always_ff @(posedge clk_array) begin
            turns_1 <= turns;
            turns_2 <= turns_1;
            turns_9 <= turns_late;
            added_10 <= turns_9 ? product_9 : 33'sd16384;
        end
    end

    // 13: the code held its clamp; the new residual held its clamp.
    logic signed [15:0] held_11, held_12;
    logic skip_11, skip_12;
    logic signed [12:0] centred_13;
    logic signed [18:0] sum_13, sum_14;
    logic signed [7:0] code_14;
    logic over_14, lowest_14;
    logic signed [15:0] kept_15, kept_16, kept_17, kept_18;
    always_ff @(posedge clk_array) begin
        held_11 <= phase ? held[(R-1)*16+:16] : held[15:0];
        skip_11 <= phase ? skip[R-1] : skip[0];
        held_12 <= held_11;
        skip_12 <= skip_11;
        centred_13 <= 13'($signed(z_12[17:6])) + 13'($signed(zero_point)) + 13'(z_12[5]);
        sum_13 <= 19'(held_12) + (skip_12 ? '0 : 19'(z_12));
        if (centred_13[12:7] != {6{centred_13[12]}})
            code_14 <= {centred_13[12], {7{!centred_13[12]}}};
        else code_14 <= centred_13[7:0];
        // The residual is within 32,767 of 0.
        over_14 <= sum_13[18:15] != {4{sum_13[18]}};
        lowest_14 <= sum_13[15:0] == 16'h8000;
        sum_14 <= sum_13;
        if (over_14 || lowest_14) kept_15 <= {sum_14[18], {14{!sum_14[18]}}, 1'b1};
        else kept_15 <= sum_14[15:0];
        {kept_18, kept_17, kept_16} <= {kept_17, kept_16, kept_15};
    end

    // 15: a quarter of the table. 16: the code of the table.
    logic [4*8-1:0] quarters_15;
    logic [1:0] quarter_15;
    logic [7:0] looked_up_16, looked_up_17, code_15, code_16, code_17, code_18;
    for (genvar i = 0; i < 4; i++) begin : gen_quarters
        (* ram_style = "distributed" *) logic [7:0] codes[64];
        always_ff @(posedge clk)
            if (table_write && table_address[7:6] == 2'(i)) codes[table_address[5:0]] <= table_d;
        always_ff @(posedge clk_array) quarters_15[8*i+:8] <= codes[code_14[5:0]];
    end
    always_ff @(posedge clk_array) begin
        // The table begins with the code -128.
        quarter_15 <= {!code_14[7], code_14[6]};
        code_15 <= code_14;
        looked_up_16 <= quarters_15[8*quarter_15+:8];
        looked_up_17 <= looked_up_16;
        code_16 <= code_15;
        code_17 <= code_16;
        code_18 <= activation ? looked_up_17 : code_17;
    end

    // 18: the square. 19: the moments.
    logic signed [31:0] square_18;
    multiply_add #(
        .A(16), .B(16), .P(32), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
    ) square (
        .clk(clk_array), .a(kept_15), .b(kept_15), .c('0), .subtracts(1'b0), .p(square_18)
    );
    (* ram_style = "distributed" *) logic [67:0] tile_moments[R*STATES];
    localparam int STATE_PLACE_BITS = R * STATES > 1 ? $clog2(R * STATES) : 1;
    logic [67:0] moments_19, earlier;
    wire [STATE_PLACE_BITS-1:0] place = R == 2 ? STATE_PLACE_BITS'({state, phase})
        : STATE_PLACE_BITS'(state);
    assign earlier = fresh ? '0 : tile_moments[place];
    wire [67:0] moments_now = {
        earlier[67:27] + 41'(square_18[30:0]), earlier[26:0] + 27'(kept_18)
    };
    always_ff @(posedge clk_array) begin
        if (sums_up) tile_moments[place] <= moments_now;
        moments_19 <= moments_now;
    end

    // The results of an item stand together in slow registers.
    if (R == 1) begin : gen_one
        assign code = code_18;
        assign residual = kept_16;
        logic [67:0] moments_20;
        always_ff @(posedge clk_array) moments_20 <= moments_19;
        assign moments = moments_20;
    end else begin : gen_two
        logic [7:0] code_19;
        logic [67:0] moments_20, moments_21;
        always_ff @(posedge clk_array) begin
            code_19 <= code_18;
            moments_20 <= moments_19;
            moments_21 <= moments_20;
        end
        always_ff @(posedge clk) begin
            code <= {code_18, code_19};
            residual <= {kept_16, kept_17};
            moments <= {moments_20, moments_21};
        end
    end

endmodule

`default_nettype wire
