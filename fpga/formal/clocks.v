// Turns each clock into the enable of its flip-flops: a step of the proof is a cycle of the array,
// and the slow clock is 1 in the last of the R steps of a slow cycle. Thus both clocks stay in
// phase, as in the design, and the solver needs no second clock.
(* techmap_celltype = "$dff" *)
module enable_by_clock (CLK, D, Q);
    parameter WIDTH = 1;
    parameter CLK_POLARITY = 1;
    input CLK;
    input [WIDTH-1:0] D;
    output [WIDTH-1:0] Q;
    \$dffe #(.WIDTH(WIDTH), .CLK_POLARITY(1'b1), .EN_POLARITY(1'b1)) flip_flop (
        .CLK(CLK), .EN(CLK), .D(D), .Q(Q)
    );
endmodule
