// Control of a small process such as `announce`: a loop over an item's count.
`default_nettype none
module small_process (
    input  wire logic        clk,
    input  wire logic        reset,
    input  wire logic        valid,
    input  wire logic [10:0] count,
    output logic             ready,
    input  wire logic        go,
    output logic             fire,
    output logic             last
);
    logic busy;
    logic [10:0] left;
    assign ready = !busy;
    assign fire = busy && go;
    assign last = left == 1;
    always_ff @(posedge clk)
        if (reset) busy <= 1'b0;
        else if (!busy) begin
            busy <= valid && count != 0;
            left <= count;
        end else if (go) begin
            busy <= !last;
            left <= left - 1'b1;
        end
endmodule
`default_nettype wire
