// Selects a word's operands from the memories. A memory that was not read gives 0, so an OR selects
// among the memories of activations and among the blocks of keys. Values are rotated to their row
// pairs.

`default_nettype none

module operands #(
    parameter int T = 5,           // tokens
    parameter int P = 3,           // row pairs
    parameter int C = 4,           // columns of a word
    parameter int L = 2,           // tokens of a word of input, query and hidden
    parameter int M = 2,           // of normed
    parameter int E = 2,           // of probability
    parameter int FRAMES = 2,      // slots of normed
    parameter int KEY_BANKS = 3,   // a multiple of P
    parameter int VALUE_BANKS = 3, // at least P
    parameter int TURN_BITS = 2,   // of a value bank
    parameter bit PRIMITIVES = 0,  // instantiate the flip-flops of copies
    localparam int G = (T + L - 1) / L,
    localparam int GN = (T + M - 1) / M,
    localparam int GE = (T + E - 1) / E
) (
    input  wire logic                         clk,
    input  wire logic                         reset, // for the assertions: the slow side's
    // In the cycle of a word's issue.
    input  wire logic [7:0]                   pairs4,
    input  wire logic [TURN_BITS-1:0]         rotation,
    // From the memories: four cycles later; keys five, weights six.
    input  wire logic [G*C*L*8-1:0]           input_word,
    input  wire logic [FRAMES*GN*C*M*8-1:0]   normed_word,
    input  wire logic [G*C*L*8-1:0]           query_word,
    input  wire logic [G*C*L*8-1:0]           hidden_word,
    input  wire logic [2*GE*C*E*8-1:0]        probability_word,
    input  wire logic [VALUE_BANKS*C*8-1:0]   value_word,
    input  wire logic [KEY_BANKS*C*8-1:0]     key_word,
    input  wire logic [P*C*8-1:0]             weights_word,
    // Five cycles after issue.
    output logic [T*C*9-1:0]                  activations,
    // Seven cycles after issue: for each position, lanes of {w1, sign of w0, w0}. Row pair i is at
    // position P - 1 - i.
    output logic [P*C*9-1:0]                  rows
);

    if (KEY_BANKS % P != 0 || KEY_BANKS < P || VALUE_BANKS < P || VALUE_BANKS > 1 << TURN_BITS)
    begin : gen_refused
        $error("operands: KEY_BANKS must be a multiple of P, VALUE_BANKS P to 1 << TURN_BITS");
    end

    localparam int BLOCKS = KEY_BANKS / P;
    localparam int WORD = C * 8;

    // Activations.
    for (genvar t = 0; t < T; t++) begin : gen_tokens
        for (genvar c = 0; c < C; c++) begin : gen_lanes
            logic [7:0] signed_code, unsigned_code;
            always_comb begin
                signed_code = input_word[((t/L*C+c)*L+t%L)*8+:8]
                    | query_word[((t/L*C+c)*L+t%L)*8+:8]
                    | hidden_word[((t/L*C+c)*L+t%L)*8+:8];
                for (int f = 0; f < FRAMES; f++)
                    signed_code = signed_code | normed_word[(((f*GN+t/M)*C+c)*M+t%M)*8+:8];
                unsigned_code = '0;
                for (int i = 0; i < 2; i++)
                    unsigned_code = unsigned_code
                        | probability_word[(((i*GE+t/E)*C+c)*E+t%E)*8+:8];
            end
            always_ff @(posedge clk)
                activations[(t*C+c)*9+:9] <= {signed_code[7], signed_code | unsigned_code};
        end
    end

    // Values: dimension i of the pass is in bank (rotation + i) mod VALUE_BANKS. The first stage
    // rotates by rotation mod 4, the second by the multiple of 4.
    localparam int QUARTERS = (VALUE_BANKS + 3) / 4;
    localparam int HIGH_BITS = TURN_BITS > 2 ? TURN_BITS - 2 : 1;
    logic [1:0] turn_low;
    logic [HIGH_BITS-1:0] turn_high;
    logic [VALUE_BANKS*2-1:0] turns_low;
    logic [P*HIGH_BITS-1:0] turns_high;
    logic [VALUE_BANKS*WORD-1:0] turned;
    logic [P*WORD-1:0] values;

    delay #(.BITS(2), .CYCLES(3), .PRIMITIVES(PRIMITIVES)) low_delay (
        .clk, .reset(1'b0), .in(2'(rotation)), .out(turn_low)
    );
    registers #(.BITS(VALUE_BANKS * 2), .PRIMITIVES(PRIMITIVES)) low_copies (
        .clk, .d({VALUE_BANKS{turn_low}}), .q(turns_low)
    );
    delay #(.BITS(HIGH_BITS), .CYCLES(4), .PRIMITIVES(PRIMITIVES)) high_delay (
        .clk, .reset(1'b0), .in(HIGH_BITS'(rotation >> 2)), .out(turn_high)
    );
    registers #(.BITS(P * HIGH_BITS), .PRIMITIVES(PRIMITIVES)) high_copies (
        .clk, .d({P{turn_high}}), .q(turns_high)
    );

    for (genvar b = 0; b < VALUE_BANKS; b++) begin : gen_turn_low
        logic [WORD-1:0] chosen;
        always_comb begin
            chosen = '0;
            for (int i = 0; i < 4; i++)
                if (32'(turns_low[b*2+:2]) == i)
                    chosen = value_word[(b+i)%VALUE_BANKS*WORD+:WORD];
        end
        always_ff @(posedge clk) turned[b*WORD+:WORD] <= chosen;
    end
    for (genvar i = 0; i < P; i++) begin : gen_turn_high
        logic [WORD-1:0] chosen;
        always_comb begin
            chosen = '0;
            for (int q = 0; q < QUARTERS; q++)
                if (32'(turns_high[i*HIGH_BITS+:HIGH_BITS]) == q)
                    chosen = turned[(i+4*q)%VALUE_BANKS*WORD+:WORD];
        end
        always_ff @(posedge clk) values[i*WORD+:WORD] <= chosen;
    end

    // Keys.
    logic [P*WORD-1:0] key_next, keys;
    always_comb begin
        key_next = '0;
        for (int b = 0; b < BLOCKS; b++) key_next = key_next | key_word[b*P*WORD+:P*WORD];
    end
    always_ff @(posedge clk) keys <= key_next;

    // Row operands. The low nibble of two 4-bit rows is signed.
    logic [P-1:0] four, four_bit;
    always_ff @(posedge clk) for (int r = 0; r < P; r++) four[r] <= P - 1 - r < 32'(pairs4);
    delay #(.BITS(P), .CYCLES(5), .PRIMITIVES(PRIMITIVES)) four_delay (
        .clk, .reset(1'b0), .in(four), .out(four_bit)
    );
    for (genvar r = 0; r < P; r++) begin : gen_positions
        for (genvar c = 0; c < C; c++) begin : gen_lanes
            logic [7:0] code;
            assign code = weights_word[(c*P+r)*8+:8] | keys[((P-1-r)*C+c)*8+:8]
                | values[((P-1-r)*C+c)*8+:8];
            always_ff @(posedge clk)
                rows[(r*C+c)*9+:9] <= {code[7:4], code[3] & four_bit[r], code[3:0]};
        end
    end

`ifndef SYNTHESIS
    logic [FRAMES+4:0] given; // memories whose word is not 0
    logic [P*C-1:0] overflows; // the pre-adder's, by -8 with a negative low nibble
    always_comb begin
        given[2:0] = {hidden_word != '0, query_word != '0, input_word != '0};
        for (int f = 0; f < FRAMES; f++)
            given[3+f] = normed_word[f*GN*C*M*8+:GN*C*M*8] != '0;
        for (int i = 0; i < 2; i++)
            given[3+FRAMES+i] = probability_word[i*GE*C*E*8+:GE*C*E*8] != '0;
        for (int i = 0; i < P * C; i++) overflows[i] = rows[i*9+4+:5] == 5'b10001;
    end
    wire [2:0] operand = {weights_word != '0, keys != '0, values != '0};
    logic [4*TURN_BITS-1:0] rotations;
    wire [TURN_BITS-1:0] turn = rotations[3*TURN_BITS+:TURN_BITS]; // of the values that arrive
    logic checks = 1'b0;
    logic [3:0] settled; // cycles since a reset: operands are of passes, or 0
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        settled <= reset ? '0 : settled == '1 ? settled : settled + 1'b1;
        rotations <= (4 * TURN_BITS)'({rotations, rotation});
        if (checks && !reset && settled == '1) begin
            one_memory_gives_activations: assert ((given & (given - 1'b1)) == '0);
            one_memory_gives_row_operands: assert ((operand & (operand - 1'b1)) == '0);
            values_turn_to_a_row_pair: assert (value_word == '0 || 32'(turn) < VALUE_BANKS);
            operands_fit_the_slice: assert (overflows == '0);
        end
    end
`endif

endmodule

`default_nettype wire
