// `divide` (fpga/src/softmax.cpp): one token's scale a cycle; each pipeline stage computes one bit
// of the quotient.
`default_nettype none
module quotient (
    input  wire logic        clk,
    input  wire logic        enable,
    input  wire logic [21:0] sum12,
    input  wire logic [17:0] sum8,
    input  wire logic [14:0] out_mult,
    input  wire logic [4:0]  out_shift,
    output logic [34:0]      scale
);
    logic [21:0] divisor[17];
    logic [37:0] rest[17];
    logic [15:0] q[17];
    logic [14:0] residue[17];
    logic [4:0] bits[17], shift[17];
    logic [21:0] up;
    logic [4:0] count;
    always_comb begin
        up = sum12;
        count = 5'd22;
        for (int step = 16; step > 0; step /= 2)
            if (count > step && (up >> (22 - step)) == 0) begin
                up = up << step;
                count = count - 5'(step);
            end
    end
    for (genvar i = 0; i < 16; i++) begin : gen_bit
        wire logic [38:0] left = {1'b0, rest[i]} - ({17'd0, divisor[i]} << (15 - i));
        always_ff @(posedge clk)
            if (enable) begin
                rest[i+1] <= left[38] ? rest[i] : left[37:0];
                q[i+1] <= {q[i][14:0], !left[38]};
                divisor[i+1] <= divisor[i];
                bits[i+1] <= bits[i];
                shift[i+1] <= shift[i];
                residue[i+1] <= residue[i];
            end
    end
    always_ff @(posedge clk)
        if (enable) begin
            divisor[0] <= up;
            bits[0] <= count;
            shift[0] <= out_shift;
            rest[0] <= {1'b0, out_mult, 22'd0};
            q[0] <= '0;
            residue[0] <= sum12 - {sum8, 4'b0};
            scale <= {residue[16], bits[16] - {4'd0, q[16][15]} + shift[16] - 5'd21, q[16][15] ?
                q[16][15:1] : q[16][14:0]};
        end
endmodule
`default_nettype wire
