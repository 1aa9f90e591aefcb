// fpga/rtl/mac.v with the ports of an RTL black box of Vitis HLS.

`default_nettype none

module packed_mac (
    input  wire               ap_clk,
    input  wire               ap_rst,
    input  wire               ap_ce,
    input  wire signed [26:0] w,
    input  wire signed [8:0]  a,
    input  wire        [0:0]  first,
    output wire signed [47:0] ap_return
);

    // `first` begins a sum; nothing is to be reset.
    wire unused = ap_rst;

    mac #(.W_BITS(27), .A_BITS(9)) mac (
        .clk(ap_clk), .enable(ap_ce), .w(w), .a(a), .first(first[0]), .p(ap_return)
    );

endmodule

`default_nettype wire
