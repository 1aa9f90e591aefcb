// The check of a command of two beats, and the registers that send it to a unit (fetch.cpp).
// Uses check_beats.sv.
`default_nettype none
module check_command (
    input  wire logic         clk,
    input  wire logic         enable,
    input  wire logic         second,
    input  wire logic [127:0] beat,
    input  wire logic [31:0]  base,
    input  wire logic [31:0]  seed,
    input  wire logic [31:0]  count,
    input  wire logic         start,
    output logic [127:0]      out,
    output logic [4:0]        write,
    output logic              bad
);
    wire logic [31:0] share, behind;
    logic [31:0] before, added;
    logic [127:0] held;
    check_share #(.BITS(128)) of_fields(.data(beat), .share(share));
    check_share #(.BITS(32), .ZEROS(96)) of_state(.data(before), .share(behind));
    wire logic sound = (behind ^ added) == ~beat[127:96] && beat[95:0] == 0;
    always_ff @(posedge clk)
        if (enable) begin
            if (!second) begin
                held <= beat;
                added <= share;
            end
            if (start) before <= ~(seed ^ count);
            else if (second) before <= ~beat[127:96];
            bad <= start ? 1'b0 : bad || (second && !sound);
            if (second) begin
                out <= held;
                if (held[2:0] == 0 && held[9]) out[95:64] <= held[95:64] + base;
            end
            for (int u = 0; u < 5; u++)
                write[u] <= second && held[2:0] == u && !bad && sound;
        end
endmodule
`default_nettype wire
