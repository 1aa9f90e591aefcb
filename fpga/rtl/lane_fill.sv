// The data of fills and tables of `lanes`: beats become words of the residual, or codes of the
// activation's table.

`default_nettype none

module lane_fill #(
    parameter int T = 5,             // tokens
    parameter int L = 2,             // tokens of an item
    parameter int BEAT = 16,         // bytes of a beat
    parameter int RESIDUAL_BITS = 6, // of the residual's addresses
    parameter bit ROTATES = 1,       // there are angles
    parameter int PLACES = 2,        // of a token's lane in a tile
    parameter int ANGLE_PARTS = 1,   // parts of four lanes
    parameter int ANGLE_BITS = 2,    // of an angle's address: place, angle
    parameter bit PRIMITIVES = 0,    // instantiate the flip-flops of copies
    localparam int G = (T + L - 1) / L,
    localparam int GROUP_BITS = G > 1 ? $clog2(G) : 1,
    localparam int ITEM_PARTS = (L + 7) / 8
) (
    input  wire logic                            clk,
    input  wire logic                            reset,
    input  wire logic                            starts, // a command may follow
    input  wire logic                            fills,  // the command is a fill
    input  wire logic                            tables, // the command is a table
    input  wire logic [lane_types::FILL_BITS-1:0] words, // of the fill
    input  wire logic                            beats_valid,
    output logic                                 beats_ready,
    input  wire logic [BEAT*8-1:0]               beats,
    output logic                                 step,       // a step of the fill is done
    output logic                                 ends,       // the last one
    output logic                                 table_ends,
    // A group of tokens of the residual.
    output logic                                 write,
    output logic [ITEM_PARTS-1:0]                write_lanes, // `write`, a copy for eight tokens
    output logic [RESIDUAL_BITS-1:0]             address,
    output logic [GROUP_BITS-1:0]                group,
    output logic [L*16-1:0]                      d,
    // A code of the table.
    output logic                                 table_write,
    output logic [7:0]                           table_address,
    output logic [7:0]                           table_d,
    // Angles of four lanes.
    output logic [ANGLE_PARTS-1:0]               angle_write,
    output logic [ANGLE_BITS-1:0]                angle_write_address,
    output logic [127:0]                         angle_d
);

    localparam int WORD_BEATS = (2 * T + BEAT - 1) / BEAT;
    localparam int STEPS = WORD_BEATS > G ? WORD_BEATS : G; // of a word
    localparam int STEP_BITS = STEPS > 1 ? $clog2(STEPS) : 1;
    localparam int TABLE_PARTS = BEAT > 256 ? 256 : BEAT;   // codes of a beat
    // Eight tokens, or 16 bytes of a beat, share a copy of a control signal.
    localparam int TILE_PARTS = (T + 7) / 8;
    localparam int BEAT_PARTS = BEAT / 16;

    logic [lane_types::FILL_BITS-1:0] word;
    logic [STEP_BITS-1:0] place;
    wire takes_word = word != words && 32'(place) < WORD_BEATS;
    wire last_step = 32'(place) == STEPS - 1;
    wire stores_group = step && word != '0 && 32'(place) < G;
    assign step = fills && (!takes_word || beats_valid);
    assign ends = step && last_step && word == words;

    logic [7:0] index;
    wire table_beat = 32'(index) % TABLE_PARTS == 0;
    wire table_step = tables && (!table_beat || beats_valid);
    // A table with words holds angles, 16 bytes each.
    wire angles = ROTATES && words != '0;
    assign table_ends = table_step && (angles ? word + 1'b1 == words : index == 8'd255);
    assign beats_ready = (step && takes_word) || (table_step && table_beat);

    always_ff @(posedge clk) begin
        if (starts) begin
            word <= '0;
            place <= '0;
            index <= '0;
        end else begin
            if (step) place <= last_step ? '0 : place + 1'b1;
            if ((step && last_step) || (table_step && angles)) word <= word + 1'b1;
            if (table_step) index <= next_index;
        end
    end

    // The residual's word arrives while the previous one leaves. A beat that is not valid is
    // stored, too, until the next one replaces it.
    wire [STEP_BITS-1:0] next_place = !fills ? '0 : !step ? place
        : last_step ? '0 : place + 1'b1;
    logic [WORD_BEATS-1:0] next_arrives;
    logic [WORD_BEATS*BEAT_PARTS-1:0] arrives;
    logic [TILE_PARTS-1:0] leaves;
    always_comb for (int i = 0; i < WORD_BEATS; i++) next_arrives[i] = 32'(next_place) == i;
    registers #(.BITS(WORD_BEATS * BEAT_PARTS), .PRIMITIVES(PRIMITIVES)) arrives_copies (
        .clk, .d({BEAT_PARTS{next_arrives}}), .q(arrives)
    );
    registers #(.BITS(TILE_PARTS), .PRIMITIVES(PRIMITIVES)) leaves_copies (
        .clk, .d({TILE_PARTS{step && last_step}}), .q(leaves)
    );
    logic [WORD_BEATS*BEAT*8-1:0] arriving;
    logic [G*L*16-1:0] leaving;
    for (genvar i = 0; i < WORD_BEATS; i++) begin : gen_arriving
        for (genvar j = 0; j < BEAT; j++) begin : gen_bytes
            always_ff @(posedge clk)
                if (arrives[j/16*WORD_BEATS+i]) arriving[(i*BEAT+j)*8+:8] <= beats[j*8+:8];
        end
    end
    for (genvar i = 0; i < G * L; i++) begin : gen_leaving
        if (i >= T) begin : gen_none
            always_ff @(posedge clk) leaving[i*16+:16] <= '0;
        end else begin : gen_token
            always_ff @(posedge clk) if (leaves[i/8]) leaving[i*16+:16] <= arriving[i*16+:16];
        end
    end

    logic write_0;
    logic [RESIDUAL_BITS-1:0] address_0;
    logic [GROUP_BITS-1:0] group_0;
    registers #(.BITS(ITEM_PARTS), .PRIMITIVES(PRIMITIVES)) write_copies (
        .clk, .d({ITEM_PARTS{write_0}}), .q(write_lanes)
    );
    always_ff @(posedge clk) begin
        write_0 <= !reset && stores_group;
        address_0 <= RESIDUAL_BITS'(word - 1'b1);
        group_0 <= GROUP_BITS'(place);
        write <= write_0;
        address <= address_0;
        group <= group_0;
        d <= leaving[32'(G == 1 ? '0 : group_0)*L*16+:L*16];
    end

    logic [BEAT*8-1:0] codes;
    logic [BEAT_PARTS-1:0] takes_codes;
    wire [7:0] behind = !angles ? index + 8'd1 : 32'(index) + 16 == BEAT ? '0 : index + 8'd16;
    wire [7:0] next_index = !tables ? '0 : table_step ? behind : index;
    registers #(.BITS(BEAT_PARTS), .PRIMITIVES(PRIMITIVES)) takes_codes_copies (
        .clk, .d({BEAT_PARTS{32'(next_index) % TABLE_PARTS == 0}}), .q(takes_codes)
    );
    for (genvar i = 0; i < BEAT; i++) begin : gen_codes
        always_ff @(posedge clk) if (takes_codes[i/16]) codes[i*8+:8] <= beats[i*8+:8];
    end
    logic table_write_0;
    logic [7:0] index_0;
    always_ff @(posedge clk) begin
        index_0 <= index;
        table_write_0 <= table_step && !angles;
        table_write <= table_write_0;
        table_address <= index_0;
        table_d <= codes[32'(index_0)%TABLE_PARTS*8+:8];
    end

    // Angles: for each angle the places, for each place the parts of four lanes.
    localparam int PLACE_BITS = PLACES > 1 ? $clog2(PLACES) : 1;
    localparam int PART_BITS = ANGLE_PARTS > 1 ? $clog2(ANGLE_PARTS) : 1;
    logic [PART_BITS-1:0] part;
    logic [PLACE_BITS-1:0] angle_place;
    logic [ANGLE_BITS-PLACE_BITS-1:0] angle;
    logic angle_write_0;
    wire last_part = 32'(part) == ANGLE_PARTS - 1;
    wire last_place = 32'(angle_place) == PLACES - 1;
    always_ff @(posedge clk) begin
        angle_write_0 <= table_step && angles;
        if (starts) {part, angle_place, angle} <= '0;
        else if (angle_write_0) begin
            part <= last_part ? '0 : part + 1'b1;
            if (last_part) angle_place <= last_place ? '0 : angle_place + 1'b1;
            if (last_part && last_place) angle <= angle + 1'b1;
        end
        for (int i = 0; i < ANGLE_PARTS; i++)
            angle_write[i] <= !reset && angle_write_0 && 32'(part) == i;
        angle_write_address <= {angle_place, angle};
        angle_d <= codes[32'(index_0)%TABLE_PARTS/16*128+:128];
    end

endmodule

`default_nettype wire
