// The check of a command and its way to a unit (fpga/src/fetch.cpp). Uses check_beats.sv.
`default_nettype none
module check_command (
    input  wire logic         clk,
    input  wire logic         enable,
    input  wire logic [255:0] command,
    input  wire logic [31:0]  base,
    input  wire logic [31:0]  seed,
    input  wire logic [31:0]  count,
    input  wire logic         start,
    output logic [255:0]      out,
    output logic [4:0]        write,
    output logic              bad
);
    wire logic [31:0] share, behind;
    logic [31:0] before, added;
    logic [255:0] held;
    check_share #(.BITS(224)) of_command(.data(command[223:0]), .share(share));
    check_share #(.BITS(32), .ZEROS(192)) of_state(.data(before), .share(behind));
    wire logic sound = (behind ^ added) == held[255:224];
    always_ff @(posedge clk)
        if (enable) begin
            held <= command;
            added <= share;
            before <= start ? seed ^ count : held[255:224];
            bad <= start ? 1'b0 : bad || !sound;
            out <= held;
            if (held[2:0] == 0 && held[6]) out[95:64] <= held[95:64] + base;
            for (int u = 0; u < 5; u++) write[u] <= held[2:0] == u && !bad && sound;
        end
endmodule
`default_nettype wire
