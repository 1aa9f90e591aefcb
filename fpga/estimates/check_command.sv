// The check of a command and its way to a unit (fpga/src/fetch.cpp).
`default_nettype none
module check_command (
    input  wire logic         clk,
    input  wire logic         enable,
    input  wire logic [255:0] command,
    input  wire logic [31:0]  base,
    input  wire logic [31:0]  seed,
    input  wire logic         start,
    output logic [255:0]      out,
    output logic [4:0]        write,
    output logic              bad
);
    logic [31:0] before, total;
    logic [31:0] sum[7];
    always_comb begin
        total = before;
        for (int i = 0; i < 7; i++) total = total + sum[i];
    end
    logic [255:0] held;
    always_ff @(posedge clk)
        if (enable) begin
            held <= command;
            for (int i = 0; i < 7; i++)
                sum[i] <= {command[32*i+:32] << (i + 1)} | (command[32*i+:32] >> (31 - i));
            before <= start ? seed : held[255:224];
            bad <= start ? 1'b0 : bad || total != held[255:224];
            out <= held;
            if (held[2:0] == 0 && held[6]) out[95:64] <= held[95:64] + base;
            for (int u = 0; u < 5; u++) write[u] <= held[2:0] == u && !bad &&
                total == held[255:224];
        end
endmodule
`default_nettype wire
