// A writer that counts free slots as unpack_lanes does: no item is lost, repeated or reordered, and
// a waiting item is offered in the next cycle.

`default_nettype none

module queue_proof #(
    parameter int DEPTH = 4,
    parameter int PART = 2
) (
    input wire logic       clk,
    input wire logic       write,
    input wire logic       ready,
    input wire logic [1:0] in
);

    logic first = 1'b1;
    always_ff @(posedge clk) first <= 1'b0;
    wire reset = first;

    logic [$clog2(DEPTH):0] used;
    logic valid;
    logic [1:0] out;
    wire writes = write && 32'(used) != DEPTH;
    always_ff @(posedge clk)
        if (reset) used <= '0;
        else used <= used + ($clog2(DEPTH) + 1)'(writes) - ($clog2(DEPTH) + 1)'(valid && ready);

    queue #(.BITS(2), .DEPTH(DEPTH), .PART(PART)) dut (
        .clk, .reset, .write(writes), .in, .valid, .ready, .out
    );

    // Follows one item: `ahead` items leave before it.
    (* anyseq *) wire picks;
    logic watched, gone;
    logic [$clog2(DEPTH)+1:0] ahead;
    logic [1:0] item;
    always_ff @(posedge clk) begin
        if (reset) begin
            {watched, gone} <= '0;
        end else if (!watched) begin
            watched <= picks && writes;
            item <= in;
            ahead <= used - ($clog2(DEPTH) + 2)'(valid && ready);
        end else if (valid && ready && !gone) begin
            gone <= ahead == '0;
            ahead <= ahead - 1'b1;
            the_item_leaves_in_its_turn: assert (ahead != '0 || out == item);
        end
    end

    // An item may wait a cycle for the output register; the next one is there when it leaves.
    logic waits, next_waits;
    always_ff @(posedge clk) begin
        waits <= !reset && !valid && used != '0;
        next_waits <= !reset && valid && 32'(used) > 1;
        if (!reset) a_waiting_item_is_offered: assert (!(waits || next_waits) || valid);
    end

endmodule

`default_nettype wire
