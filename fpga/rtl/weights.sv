// The weights' double buffer: turns beats of memory into words of P bytes. One half is written
// while the other is read. In a cycle at most one beat is taken and one word written. Loader and
// reader use the halves in turn.

`default_nettype none

module weights #(
    parameter int P = 3,
    parameter int BEAT = 16,   // bytes
    parameter int WORDS = 64,  // of a half
    localparam int COLUMN_BITS = array_types::COLUMN_BITS
) (
    input  wire logic                   clk,
    input  wire logic                   reset,
    // Columns of the tiles to load, and their beats. A tile is taken with its first beat.
    input  wire logic                   tile_valid,
    input  wire logic [COLUMN_BITS-1:0] tile_columns,
    output logic                        tile_ready,
    input  wire logic                   beat_valid,
    input  wire logic [BEAT*8-1:0]      beat,
    output logic                        beat_ready,
    // The reader's half.
    output logic                        loaded,
    input  wire logic                   release_half,
    input  wire logic                   read,
    input  wire logic [COLUMN_BITS-1:0] address,
    output logic [P-1:0][7:0]           word  // a cycle after `read`
);

    localparam int ROOM = P - 1 + BEAT;  // bytes: a beat taken, a word written in every cycle
    localparam int NEED_BITS = COLUMN_BITS + $clog2(P + 1);
    localparam int ADDRESS_BITS = $clog2(2 * WORDS);

    (* ram_style = "block" *) logic [P*8-1:0] memory[2*WORDS];

    logic [1:0] full;
    logic load_half, read_half;
    logic active;
    logic [ROOM*8-1:0] bytes;
    logic [$clog2(ROOM+1)-1:0] count, rest;
    logic [NEED_BITS-1:0] need;  // bytes of the tile that are yet to be taken
    logic [COLUMN_BITS-1:0] column, columns;

    wire write = active && 32'(count) >= P;
    wire finish = write && column + 1'b1 == columns;
    wire begin_tile = (!active || finish) && tile_valid && beat_valid && !full[load_half^finish];
    wire take = active && !finish && need != '0 && 32'(rest) < P && beat_valid;
    wire [NEED_BITS-1:0] tile_bytes = NEED_BITS'(tile_columns) * NEED_BITS'(P);
    wire [ROOM*8-1:0] kept = write ? bytes >> (P * 8) : bytes;

    assign rest = write ? count - ($bits(count))'(P) : count;
    assign tile_ready = begin_tile;
    assign beat_ready = begin_tile || take;
    assign loaded = full[read_half];

    function automatic logic [NEED_BITS-1:0] less_beat(logic [NEED_BITS-1:0] n);
        return 32'(n) > BEAT ? n - NEED_BITS'(BEAT) : '0;
    endfunction

    function automatic logic [ADDRESS_BITS-1:0] place(logic half, logic [COLUMN_BITS-1:0] at);
        return ADDRESS_BITS'(half ? WORDS : 0) + ADDRESS_BITS'(at);
    endfunction

    always_ff @(posedge clk) begin
        if (write) memory[place(load_half, column)] <= bytes[P*8-1:0];
        if (read) word <= memory[place(read_half, address)];
        if (begin_tile) begin
            bytes <= (ROOM * 8)'(beat);
            count <= ($bits(count))'(BEAT);
            need <= less_beat(tile_bytes);
            column <= '0;
            columns <= tile_columns;
        end else begin
            bytes <= take ? kept | ((ROOM * 8)'(beat) << (32'(rest) * 8)) : kept;
            count <= take ? rest + ($bits(count))'(BEAT) : rest;
            if (take) need <= less_beat(need);
            if (write) column <= column + 1'b1;
        end
        if (reset) begin
            active <= 1'b0;
            full <= '0;
            {load_half, read_half} <= '0;
        end else begin
            active <= begin_tile || (active && !finish);
            if (finish) begin
                full[load_half] <= 1'b1;
                load_half <= !load_half;
            end
            if (release_half) begin
                full[read_half] <= 1'b0;
                read_half <= !read_half;
            end
        end
    end

endmodule

`default_nettype wire
