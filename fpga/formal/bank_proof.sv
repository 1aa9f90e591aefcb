// A bank between the clocks: a word is read as it was last written, two fast cycles after its
// address; without `enable` the output is 0. UltraRAM writes a slow cycle later.

`default_nettype none

module bank_proof #(
    parameter int R = 2,
    parameter bit ULTRA = 0
) (
    input wire logic       fast,
    input wire logic       write,
    input wire logic [1:0] write_address,
    input wire logic [1:0] write_d,
    input wire logic       enable,
    input wire logic [1:0] address
);

    logic clk, reset;
    two_clocks #(.R(R)) clocks (.fast, .clk, .reset);
    (* anyconst *) wire [1:0] watched;

    // The kernel's ports change with its clock.
    logic write_now;
    logic [1:0] write_address_now, write_d_now;
    always_ff @(posedge clk) begin
        write_now <= !reset && write;
        {write_address_now, write_d_now} <= {write_address, write_d};
    end
    // Credits keep a read away from a write, and one slow cycle longer from that of UltraRAM.
    logic write_late;
    logic [1:0] write_address_late;
    always_ff @(posedge clk) {write_late, write_address_late} <= {write_now, write_address_now};
    always_comb begin
        assume (!(enable && write_now && address == write_address_now));
        assume (!(enable && write_late && address == write_address_late));
    end

    logic [1:0] word;
    generate
        if (ULTRA) begin : gen_ultra
            operand_bank #(.WIDTH(2), .WORDS(4), .ADDRESS_BITS(2), .STYLE("ultra")) dut (
                .clk, .write_enable(write_now), .write_address(write_address_now),
                .write_d(write_d_now), .clk_array(fast), .enable, .address, .word
            );
        end else begin : gen_block
            operand_bank #(.WIDTH(2), .WORDS(4), .ADDRESS_BITS(2), .STYLE("block")) dut (
                .clk, .write_enable(write_now), .write_address(write_address_now),
                .write_d(write_d_now), .clk_array(fast), .enable, .address, .word
            );
        end
    endgenerate

    logic written = 1'b0;
    logic [1:0] stored;
    logic [1:0] reads; // of the watched word
    logic [1:0] nones, expected, expected_next;
    always_ff @(posedge clk)
        if (!reset && write_now && write_address_now == watched) begin
            written <= 1'b1;
            stored <= write_d_now;
        end
    logic [1:0] old = '0;
    always_ff @(posedge fast) begin
        reads <= {reads[0], written && enable && address == watched};
        nones <= {nones[0], !enable};
        {expected, expected_next} <= {expected_next, stored};
        if (old != 2'd2) old <= old + 1'b1;
        else begin
            a_word_is_read_as_written: assert (!reads[1] || word == expected);
            an_idle_bank_gives_zero: assert (!nones[1] || word == '0);
        end
    end

endmodule

`default_nettype wire
