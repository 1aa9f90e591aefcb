// A slice: passes its operands on, adds up its products, and holds a finished sum in its register
// of the token's chain.

`default_nettype none

module slice #(
    parameter int S = 23
) (
    input  wire logic                clk,
    input  wire logic                enable,
    // Operands: W from the token before, the activation and its marks from the row pair before.
    input  wire logic signed [S+3:0] w,
    input  wire logic signed [8:0]   a,
    input  wire logic                first,  // of a tile pass
    input  wire logic                last,
    output logic signed [S+3:0]      w_next,
    output logic signed [8:0]        a_next,
    output logic                     first_next,
    output logic                     last_next,
    // The chain: takes the neighbour's sum with `shift`, its own sum after `last`.
    input  wire logic                shift,
    input  wire logic        [47:0]  chain_before,
    output logic             [47:0]  chain
);

    logic [47:0] p;
    logic last_product, last_sum;

    mac #(.W_BITS(S + 4)) mac (.clk, .enable, .w, .a, .first, .p);

    always_ff @(posedge clk)
        if (enable) begin
            w_next <= w;
            a_next <= a;
            first_next <= first;
            last_next <= last;
            last_product <= last_next;
            last_sum <= last_product;
            if (last_sum) chain <= p;
            else if (shift) chain <= chain_before;
            assert (!(last_sum && shift)) else $error("a chain register is written twice");
        end

endmodule

`default_nettype wire
