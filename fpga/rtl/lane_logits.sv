// The logits of a row: one token's sum in each cycle, requantized, in a queue.

`default_nettype none

module lane_logits #(
    parameter int L = 2,          // tokens of an item
    parameter int DEPTH = 13,     // cycles from an operand to the queue, and two
    parameter int OUTPUTS = 32,   // logits that find room
    parameter bit DSP48E1 = 0,    // slices of 7 series
    parameter bit PRIMITIVES = 0, // instantiate the flip-flops of copies
    localparam int PARTS = (L + 7) / 8
) (
    input  wire logic              clk,
    input  wire logic              reset,
    input  wire logic              reset_queue,
    input  wire logic [7:0]        next,   // token of the item, a cycle early
    input  wire logic              valid,
    input  wire logic [7:0]        index,  // token of the item
    input  wire logic [L*27-1:0]   sums,
    input  wire logic [26:0]       bias,
    input  wire logic [15:0]       mult,
    output logic                   stored, // a logit enters the queue
    output logic                   logits_valid,
    input  wire logic              logits_ready,
    output logic [31:0]            logits
);

    logic [PARTS*27-1:0] part_1;
    logic [4:0] part_index_1;
    logic [26:0] sum_2, bias_2, acc_3;
    logic [15:0] mult_3;
    logic signed [43:0] logit_6;
    logic [31:0] d;
    logic [PARTS*8*27-1:0] sums_padded;
    assign sums_padded = (PARTS * 8 * 27)'(sums);
    logic [PARTS*3-1:0] lane; // of each part
    registers #(.BITS(PARTS * 3), .PRIMITIVES(PRIMITIVES)) lane_copies (
        .clk, .d({PARTS{next[2:0]}}), .q(lane)
    );
    for (genvar i = 0; i < PARTS; i++) begin : gen_parts
        // A bit of each token: Yosys builds shifters of all sums for a choice of 27 bits at once.
        for (genvar j = 0; j < 27; j++) begin : gen_bits
            logic [7:0] choices;
            for (genvar k = 0; k < 8; k++) begin : gen_tokens
                assign choices[k] = sums_padded[(i*8+k)*27+j];
            end
            always_ff @(posedge clk) part_1[i*27+j] <= choices[lane[i*3+:3]];
        end
    end
    always_ff @(posedge clk) begin
        part_index_1 <= index[7:3];
        sum_2 <= part_1[32'(PARTS == 1 ? 5'd0 : part_index_1)*27+:27];
        acc_3 <= sum_2 + bias_2;
    end
    delay #(.BITS(27), .CYCLES(2), .PRIMITIVES(PRIMITIVES)) bias_delay (
        .clk, .reset(1'b0), .in(bias), .out(bias_2)
    );
    delay #(.BITS(16), .CYCLES(3), .PRIMITIVES(PRIMITIVES)) mult_delay (
        .clk, .reset(1'b0), .in(mult), .out(mult_3)
    );
    multiply_add #(
        .A(27), .B(16), .P(44), .DSP48E1(DSP48E1), .PRIMITIVES(PRIMITIVES)
    ) product (
        .clk, .a(acc_3), .b(mult_3), .c(44'sd16384), .subtracts(1'b0), .p(logit_6)
    );
    delay #(.BITS(32), .CYCLES(DEPTH - 8), .PRIMITIVES(PRIMITIVES)) logit_delay (
        .clk, .reset(1'b0), .in(32'($signed(logit_6[43:15]))), .out(d)
    );
    delay #(.CYCLES(DEPTH - 2), .RESET(1)) valid_delay (
        .clk, .reset, .in(valid), .out(stored)
    );
    queue #(.BITS(32), .DEPTH(OUTPUTS), .PRIMITIVES(PRIMITIVES)) logits_queue (
        .clk, .reset(reset_queue), .write(stored), .in(d),
        .valid(logits_valid), .ready(logits_ready), .out(logits)
    );

endmodule

`default_nettype wire
