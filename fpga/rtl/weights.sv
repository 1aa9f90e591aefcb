// The double buffer of the weights. The loader regroups memory beats into words of P*C bytes, one
// word a slow cycle; the array reads them on its own clock. The loader fills one half while the
// array reads the other.

`default_nettype none

module weights #(
    parameter int P = 3,        // row pairs
    parameter int C = 4,        // columns of a word
    parameter int BEAT = 16,    // bytes, at least 1
    parameter int WORDS = 64,   // of one half of the double buffer, 1 to 8191
    parameter int ROW_BITS = 8, // of an address of both halves
    parameter bit PRIMITIVES = 0 // instantiate the flip-flops of copies
) (
    input  wire logic                clk,
    input  wire logic                clk_array,
    input  wire logic                reset,
    // Slow: demands (words of a tile of row pairs, number of such tiles), then their beats.
    input  wire logic                demands_valid,
    output logic                     demands_ready,
    input  wire logic [31:0]         demands, // bits 12:0 words, bits 28:13 tiles
    input  wire logic                beats_valid,
    output logic                     beats_ready,
    input  wire logic [BEAT*8-1:0]   beats,
    output logic [1:0]               filled, // count of filled halves
    // Fast.
    input  wire logic [1:0]          freed,
    input  wire logic                enable,
    input  wire logic [ROW_BITS-1:0] address,
    output logic [P*C*8-1:0]         word      // two cycles later
);

    // Returns the greatest common divisor (Euclid; 32 steps suffice).
    function integer divisor(input integer a, input integer b);
        integer i, rest, next;
        begin
            divisor = a;
            rest = b;
            for (i = 0; i < 32; i = i + 1)
                if (rest != 0) begin
                    next = divisor % rest;
                    divisor = rest;
                    rest = next;
                end
        end
    endfunction

    // A piece is the largest number of bytes that divides words and beats. All counts are in
    // pieces.
    localparam int BYTES = P * C;
    localparam int PIECE = divisor(BYTES, BEAT);
    localparam int WORD = BYTES / PIECE;
    localparam int TAKEN = BEAT / PIECE;
    localparam int ROOM = WORD - 1 + TAKEN;
    localparam int BITS = PIECE * 8;
    localparam int COUNT_BITS = $clog2(ROOM + 1);

    if (BEAT < 1 || WORDS < 1 || WORDS > 8191 || 2 * WORDS > 1 << ROW_BITS) begin : gen_refused
        $error("weights: BEAT must be at least 1, WORDS 1 to 8191, ROW_BITS address 2 * WORDS");
    end

    // Pieces that share a copy of the control: at most 128 bits.
    localparam int SHARE = BITS > 128 ? 1 : 128 / BITS;
    localparam int COPIES = (ROOM + SHARE - 1) / SHARE;

    logic demand_valid, active, half, last;
    logic [12:0] demand_words, tile_words, left, column;
    logic [15:0] demand_tiles, tiles;
    logic [1:0] freed_slow;
    logic [ROOM*BITS-1:0] bytes;

    // True if a whole word is there, which is written; the pieces behind it, or all without one.
    logic write;
    logic [COUNT_BITS-1:0] rest;

    wire finish = write && last;
    wire take = active && !finish && 32'(rest) < WORD;
    wire free = finish ? filled == freed_slow : filled != freed_slow + 2'd2;
    wire begin_tile = (!active || finish) && tiles != '0 && free;

    assign demands_ready = !reset && !demand_valid;
    assign beats_ready = take;

    // A tile begins without pieces: the rest of a tile's last beat is dropped.
    wire [COUNT_BITS-1:0] count = !active || finish ? '0
        : take && beats_valid ? rest + COUNT_BITS'(TAKEN) : rest;
    wire write_next = !reset && 32'(count) >= WORD;
    wire [COUNT_BITS-1:0] rest_next = reset ? '0
        : 32'(count) >= WORD ? count - COUNT_BITS'(WORD) : count;
    always_ff @(posedge clk) {write, rest} <= {write_next, rest_next};

    // Pieces from the place `rest` on come from a beat; if none is taken, their content does not
    // matter. Each stage moves the beat's pieces by 0 to 3 times a power of 4. Copies of the
    // control split its fan-out.
    localparam int PLACE_BITS = WORD > 1 ? $clog2(WORD) : 0;
    localparam int STAGES = (PLACE_BITS + 1) / 2;
    logic [COPIES-1:0] writes;
    logic [COPIES*COUNT_BITS-1:0] rests;
    registers #(.BITS(COPIES * (1 + COUNT_BITS)), .PRIMITIVES(PRIMITIVES)) copies (
        .clk, .d({{COPIES{write_next}}, {COPIES{rest_next}}}), .q({writes, rests})
    );
    logic [ROOM*BITS-1:0] moved[STAGES+1];
    assign moved[0] = (ROOM * BITS)'(beats);
    for (genvar p = 0; p < ROOM; p++) begin : gen_pieces
        wire written = writes[p/SHARE];
        wire [COUNT_BITS-1:0] begins = rests[p/SHARE*COUNT_BITS+:COUNT_BITS];
        for (genvar s = 0; s < STAGES; s++) begin : gen_stages
            wire [1:0] steps = 2'(begins >> 2 * s);
            logic [BITS-1:0] from[4];
            for (genvar i = 0; i < 4; i++) begin : gen_from
                localparam int PLACE = p - i * 4 ** s;
                if (PLACE >= 0) assign from[i] = moved[s][PLACE*BITS+:BITS];
                else assign from[i] = '0;
            end
            assign moved[s+1][p*BITS+:BITS] =
                steps[1] ? steps[0] ? from[3] : from[2] : steps[0] ? from[1] : from[0];
        end
        logic [BITS-1:0] behind;
        if (p + WORD < ROOM) assign behind = bytes[(p+WORD)*BITS+:BITS];
        else assign behind = '0;
        always_ff @(posedge clk)
            bytes[p*BITS+:BITS] <= 32'(begins) <= p ? moved[STAGES][p*BITS+:BITS]
                : written ? behind : bytes[p*BITS+:BITS];
    end

    (* ram_style = "block" *) logic [P*C*8-1:0] memory[2*WORDS];
    logic write_enable;
    logic [ROW_BITS-1:0] write_address;
    logic [P*C*8-1:0] write_word;

    always_ff @(posedge clk) begin
        freed_slow <= freed;
        write_enable <= write;
        write_word <= bytes[P*C*8-1:0];
        write_address <= ROW_BITS'(column) + (half ? ROW_BITS'(WORDS) : '0);
        if (write_enable) memory[write_address] <= write_word;
        column <= begin_tile ? '0 : column + 13'(write);
        if (begin_tile) {left, last} <= {tile_words, tile_words == 13'd1};
        else if (write) {left, last} <= {left - 1'b1, left == 13'd2};
        if (reset) begin
            {demand_valid, active, half, tiles, filled, freed_slow, write_enable} <= '0;
        end else begin
            if (!demand_valid) begin
                demand_valid <= demands_valid;
            end else if (tiles == '0) begin
                demand_valid <= 1'b0;
                tiles <= demand_tiles;
            end
            if (begin_tile) tiles <= tiles - 1'b1;
            active <= begin_tile || (active && !finish);
            if (finish) begin
                filled <= filled + 1'b1;
                half <= !half;
            end
        end
        if (!demand_valid) {demand_tiles, demand_words} <= demands[28:0];
        if (demand_valid && tiles == '0) tile_words <= demand_words;
    end

    // A register zeroes the word of each block RAM.
    localparam int PORT = 72;
    localparam int PORTS = (P * C * 8 + PORT - 1) / PORT;
    logic [P*C*8-1:0] latch;
    logic [PORTS-1:0] idle;
    registers #(.BITS(PORTS), .PRIMITIVES(PRIMITIVES)) idle_copies (
        .clk(clk_array), .d({PORTS{!enable}}), .q(idle)
    );
    always_ff @(posedge clk_array) if (enable) latch <= memory[address];
    for (genvar i = 0; i < P * C; i++) begin : gen_bytes
        always_ff @(posedge clk_array)
            word[i*8+:8] <= idle[i*8/PORT] ? '0 : latch[i*8+:8];
    end

`ifndef SYNTHESIS
    wire [1:0] halves = filled - freed_slow;
    logic checks = 1'b0;
    always_ff @(posedge clk) begin
        if (reset) checks <= 1'b1;
        if (checks && !reset) begin
            a_demand_fits_a_half: assert (!begin_tile
                || (tile_words != '0 && 32'(tile_words) <= WORDS));
            halves_are_two: assert (halves != 2'd3);
            no_full_half_is_written: assert (!write || halves != 2'd2);
            a_beat_finds_room: assert (32'(count) <= ROOM);
            words_stay_in_their_half: assert (!active || 32'(column) + 32'(left) <= WORDS);
            the_last_word_is_known: assert (!active || (left != '0 && last == (left == 13'd1)));
            an_idle_loader_takes_nothing: assert (active || !beats_ready);
        end
    end

    // Compares halves, since any word of a half that is being filled may change.
    wire half_read = 32'(address) >= WORDS;
    wire half_written = 32'(write_address) >= WORDS;
    always_ff @(posedge clk_array)
        if (checks && !reset)
            no_half_is_read_while_it_is_written:
            assert (!enable || !write_enable || half_read != half_written);
`endif

endmodule

`default_nettype wire
