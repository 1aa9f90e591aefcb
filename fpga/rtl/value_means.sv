// Sums the codes of value columns over the tiles of tokens, and keeps each column's mean, in units
// of 1/16 of a code: round(sum * reciprocal / 2^16).

`default_nettype none

module value_means #(
    parameter int L = 2,          // lanes
    parameter int ROWS = 6,       // of a tile of row pairs
    parameter int WORDS = 64,     // means
    parameter bit PRIMITIVES = 0,
    localparam int ADDRESS_BITS = WORDS > 1 ? $clog2(WORDS) : 1,
    localparam int INDEX_BITS = ROWS > 1 ? $clog2(ROWS) : 1
) (
    input  wire logic                    clk,
    input  wire logic                    reset,
    // An item: codes of one column.
    input  wire logic [L*8-1:0]          code,
    input  wire logic                    valid,
    input  wire logic [7:0]              lanes,       // that hold a token
    input  wire logic [INDEX_BITS-1:0]   index,       // of the row in its tile
    input  wire logic                    first_group, // of the tile
    input  wire logic                    first_tile,
    input  wire logic                    finish,      // the column is complete
    input  wire logic [ADDRESS_BITS-1:0] column,
    input  wire logic [20:0]             reciprocal,
    output logic                         written,     // a mean
    // The mean a cycle after its address.
    input  wire logic [ADDRESS_BITS-1:0] address,
    output logic [12:0]                  mean
);

    if (L < 1 || L > 255 || ROWS < 1 || WORDS < 1) begin : gen_refused
        $error("value_means: L must be 1 to 255, ROWS and WORDS at least 1");
    end

    // A tree of adders, a register after each.
    localparam int LEVELS = L > 1 ? $clog2(L) : 0;
    for (genvar i = 0; i <= LEVELS; i++) begin : gen_level
        localparam int COUNT = (L + (1 << i) - 1) >> i;
        localparam int BITS = 8 + i;
        logic [COUNT*BITS-1:0] sums;
        if (i == 0) begin : gen_codes
            for (genvar j = 0; j < L; j++) begin : gen_lanes
                always_ff @(posedge clk) sums[j*8+:8] <= 32'(lanes) > j ? code[j*8+:8] : '0;
            end
        end else begin : gen_sums
            localparam int FROM = (L + (1 << (i - 1)) - 1) >> (i - 1);
            for (genvar j = 0; j < COUNT; j++) begin : gen_pairs
                wire logic signed [BITS-2:0] a = gen_level[i-1].sums[2*j*(BITS-1)+:BITS-1];
                if (2 * j + 1 < FROM) begin : gen_two
                    wire logic signed [BITS-2:0] b = gen_level[i-1].sums[(2*j+1)*(BITS-1)+:BITS-1];
                    always_ff @(posedge clk) sums[j*BITS+:BITS] <= BITS'(a) + BITS'(b);
                end else begin : gen_one
                    always_ff @(posedge clk) sums[j*BITS+:BITS] <= BITS'(a);
                end
            end
        end
    end
    wire logic signed [7+LEVELS:0] total = gen_level[LEVELS].sums;

    logic valid_sum, finish_sum, first_group_sum, first_tile_sum;
    logic [INDEX_BITS-1:0] index_sum;
    delay #(.BITS(2), .CYCLES(LEVELS + 1), .RESET(1)) valid_delay (
        .clk, .reset, .in({valid, valid && finish}), .out({valid_sum, finish_sum})
    );
    delay #(.BITS(INDEX_BITS + 2), .CYCLES(LEVELS + 1), .PRIMITIVES(PRIMITIVES)) sum_delay (
        .clk, .reset(1'b0), .in({first_group, first_tile, index}),
        .out({first_group_sum, first_tile_sum, index_sum})
    );

    // The sum of the column over the earlier tiles, and over the earlier groups of this tile.
    (* ram_style = "distributed" *) logic [18:0] column_sums[ROWS];
    logic signed [18:0] running;
    wire logic [18:0] earlier = !first_group_sum ? running
        : first_tile_sum ? '0 : column_sums[index_sum];
    wire logic [18:0] now = earlier + 19'(total);
    always_ff @(posedge clk)
        if (valid_sum) begin
            running <= now;
            column_sums[index_sum] <= now;
        end

    // The mean.
    localparam int PRODUCT = 4; // cycles from the sum to the mean
    logic [ADDRESS_BITS-1:0] column_mean;
    logic [21:0] reciprocal_sum;
    logic signed [40:0] product;
    delay #(.BITS(21), .CYCLES(LEVELS + 2), .PRIMITIVES(PRIMITIVES)) reciprocal_delay (
        .clk, .reset(1'b0), .in(reciprocal), .out(reciprocal_sum[20:0])
    );
    assign reciprocal_sum[21] = 1'b0;
    multiply_add #(.A(22), .B(19), .P(41)) times_reciprocal (
        .clk, .a(reciprocal_sum), .b(running), .c(41'sd32768), .subtracts(1'b0),
        .p(product)
    );
    delay #(.CYCLES(PRODUCT), .RESET(1)) finish_delay (
        .clk, .reset, .in(finish_sum), .out(written)
    );
    delay #(
        .BITS(ADDRESS_BITS), .CYCLES(LEVELS + 1 + PRODUCT), .PRIMITIVES(PRIMITIVES)
    ) column_delay (
        .clk, .reset(1'b0), .in(column), .out(column_mean)
    );
    (* ram_style = "block" *) logic [12:0] means[WORDS];
    always_ff @(posedge clk) begin
        if (written) means[column_mean] <= product[28:16];
        mean <= means[address];
    end

endmodule

`default_nettype wire
