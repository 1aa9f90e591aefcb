// A signed multiplier in LUTs: pairs of partial products, then a tree of adders.
`default_nettype none
module fabric_multiplier #(parameter int A = 16, parameter int B = 16) (
    input  wire logic                  clk,
    input  wire logic signed [A-1:0]   a,
    input  wire logic signed [B-1:0]   b,
    output logic signed      [A+B-1:0] p
);
    localparam int LEAVES = (B + 1) / 2;
    // Node 0 is the root; the leaves are the last LEAVES of 2 * LEAVES - 1 nodes.
    logic signed [A+B-1:0] node[2*LEAVES-1];
    for (genvar i = 0; i < LEAVES; i++) begin : gen_leaf
        wire logic signed [A+1:0] low = b[2*i] ? a : 0;
        wire logic signed [A+1:0] high = 2 * i + 1 < B && b[2*i+1] ? (a <<< 1) : 0;
        wire logic signed [A+2:0] both = 2 * i + 2 == B ? low - high : 2 * i + 1 == B ? -low :
            low + high;
        always_ff @(posedge clk) node[LEAVES-1+i] <= both <<< (2 * i);
    end
    for (genvar i = 0; i < LEAVES - 1; i++) begin : gen_node
        always_ff @(posedge clk) node[i] <= node[2*i+1] + node[2*i+2];
    end
    assign p = node[0];
endmodule
`default_nettype wire
