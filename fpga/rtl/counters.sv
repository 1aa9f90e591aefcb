// Counts events of each unit, and shows the totals through AXI-Lite ("Counters" in
// docs/accelerator.md).
//
// Each counter has a small LFSR for recent events, since its next state takes one LUT. A walk
// visits the LFSRs in turn and adds each count to a total in LUT RAM, so that all counters share
// one adder. A read waits until the walk reaches its word; its result includes the LFSR. Clearing
// takes one round of the walk, then the counters run.

`default_nettype none

module counters #(
    parameter int UNITS = 9, // at most 14
    parameter logic [31:0] IDENTITY = 32'h51434e54, // the first word
    parameter int HELD_BITS = 6, // of the number of commands that a unit holds
    parameter int BITS = 32 // of a total; it saturates
) (
    input  wire logic             clk,
    input  wire logic             resetn,          // of the interconnect
    input  wire logic             kernels_resetn,
    // For each unit: it takes a command, ends one, an output stalls, its main input is empty.
    input  wire logic [UNITS-1:0] taken,
    input  wire logic [UNITS-1:0] ended,
    input  wire logic [UNITS-1:0] blocked,
    input  wire logic [UNITS-1:0] starved,
    input  wire logic             s_axi_awvalid,
    output logic                  s_axi_awready,
    input  wire logic [7:0]       s_axi_awaddr,
    input  wire logic             s_axi_wvalid,
    output logic                  s_axi_wready,
    input  wire logic [31:0]      s_axi_wdata,
    input  wire logic [3:0]       s_axi_wstrb,
    output logic                  s_axi_bvalid,
    input  wire logic             s_axi_bready,
    output logic [1:0]            s_axi_bresp,
    input  wire logic             s_axi_arvalid,
    output logic                  s_axi_arready,
    input  wire logic [7:0]       s_axi_araddr,
    output logic                  s_axi_rvalid,
    input  wire logic             s_axi_rready,
    output logic [31:0]           s_axi_rdata,
    output logic [1:0]            s_axi_rresp
);

    // Words of the register window: four of the block, then four for each unit.
    localparam int WORDS = 4 + 4 * UNITS;
    localparam int WORD_BITS = 6;
    localparam logic [WORD_BITS-1:0] AT_IDENTITY = 0, AT_CONTROL = 1, AT_CYCLES = 2;
    // A counter gets at most one event a cycle, and a round of the walk takes WORDS cycles. An LFSR
    // of 6 bits counts up to 62.
    localparam int PART_BITS = 6;
    if (WORDS > 62) begin : gen_refused
        $error("too many words for a round of the walk");
    end

    function automatic logic [PART_BITS-1:0] after(input logic [PART_BITS-1:0] state);
        after = {state[PART_BITS-2:0], ~(state[PART_BITS-1] ^ state[PART_BITS-2])};
    endfunction

    // Writes. Only CONTROL is writable.
    logic run, clear;
    wire write = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid;
    wire control = write && s_axi_awaddr[7:2] == AT_CONTROL && s_axi_wstrb[0];
    assign s_axi_awready = write;
    assign s_axi_wready = write;
    assign s_axi_bresp = '0;
    assign s_axi_rresp = '0;
    assign clear = control && s_axi_wdata[0];

    always_ff @(posedge clk)
        if (!resetn) begin
            run <= 1'b0;
            s_axi_bvalid <= 1'b0;
        end else begin
            if (control) run <= s_axi_wdata[0];
            s_axi_bvalid <= write || (s_axi_bvalid && !s_axi_bready);
        end

    // Commands that a unit has taken but not ended.
    logic [UNITS-1:0] takes, ends, blocks, starves, busy;
    logic [HELD_BITS-1:0] held[UNITS];
    always_ff @(posedge clk) begin
        {takes, ends, blocks, starves} <= {taken, ended, blocked, starved};
        if (!kernels_resetn) {takes, ends} <= '0;
    end
    for (genvar u = 0; u < UNITS; u++) begin : gen_held
        assign busy[u] = held[u] != '0;
        always_ff @(posedge clk)
            if (!kernels_resetn) held[u] <= '0;
            else if (takes[u] != ends[u]) held[u] <= takes[u] ? held[u] + 1'b1 : held[u] - 1'b1;
    end

    logic [WORDS-1:0] events;
    always_comb begin
        events = '0;
        events[AT_CYCLES] = 1'b1;
        for (int u = 0; u < UNITS; u++)
            events[4+4*u+:4] = {busy[u] && starves[u], busy[u] && blocks[u], busy[u], ends[u]};
    end

    // The walk. Its first stage reads a word's count and total, its second stage adds them.
    logic [WORD_BITS-1:0] word, word_added;
    logic [WORDS-1:0] visit; // `word`, one-hot
    logic [WORD_BITS-1:0] fresh; // steps until all old counts are cleared
    wire counts = run && fresh == '0;
    logic [PART_BITS-1:0] parts[WORDS];
    logic [PART_BITS-1:0] part, state, count;
    always_comb begin
        count = '0;
        state = '0;
        for (int n = 0; n <= WORDS; n++) begin
            if (part == state) count = PART_BITS'(n);
            state = after(state);
        end
    end
    for (genvar i = 0; i < WORDS; i++) begin : gen_parts
        if (i == AT_CYCLES || i >= 4) begin : gen_counted
            // Written so that synthesis uses the flip-flops' enable and reset.
            logic [PART_BITS-1:0] own, next;
            wire go = counts && events[i];
            assign next = after(own);
            assign parts[i] = own;
            always_ff @(posedge clk) begin
                if (visit[i]) own[PART_BITS-1:1] <= '0;
                else if (go) own[PART_BITS-1:1] <= next[PART_BITS-1:1];
                own[0] <= visit[i] ? go : go ? next[0] : own[0];
            end
        end else begin : gen_none
            assign parts[i] = '0;
        end
    end

    (* ram_style = "distributed" *) logic [BITS-1:0] totals[1<<WORD_BITS];
    logic [BITS-1:0] total, sum;
    logic over;
    assign {over, sum} = {1'b0, total} + (BITS + 1)'(count);
    wire [BITS-1:0] capped = fresh != '0 ? '0 : over ? '1 : sum;

    always_ff @(posedge clk) begin
        word_added <= word;
        total <= totals[word];
        part <= parts[word];
        totals[word_added] <= capped;
        if (!resetn) begin
            word <= '0;
            visit <= WORDS'(1);
            fresh <= WORD_BITS'(WORDS + 1);
        end else begin
            word <= 32'(word) == WORDS - 1 ? '0 : word + 1'b1;
            visit <= {visit[WORDS-2:0], visit[WORDS-1]};
            if (clear) fresh <= WORD_BITS'(WORDS + 1);
            else if (fresh != '0) fresh <= fresh - 1'b1;
        end
    end

    // Reads. A read beyond the last word returns 0 when the walk is at word 0.
    logic reading;
    logic [WORD_BITS-1:0] wanted;
    wire none = 32'(wanted) >= WORDS;
    wire found = reading && word_added == (none ? AT_IDENTITY : wanted);
    assign s_axi_arready = !reading && !s_axi_rvalid;

    always_ff @(posedge clk) begin
        if (s_axi_arready) wanted <= s_axi_araddr[7:2];
        if (found)
            case (wanted)
                AT_IDENTITY: s_axi_rdata <= IDENTITY;
                AT_CONTROL: s_axi_rdata <= 32'(run);
                default: s_axi_rdata <= none ? '0 : 32'(capped);
            endcase
        if (!resetn) begin
            reading <= 1'b0;
            s_axi_rvalid <= 1'b0;
        end else begin
            reading <= s_axi_arready ? s_axi_arvalid : reading && !found;
            s_axi_rvalid <= found || (s_axi_rvalid && !s_axi_rready);
        end
    end

`ifndef SYNTHESIS
    logic [UNITS-1:0] full;
    always_comb for (int u = 0; u < UNITS; u++) full[u] = held[u] == '1;
    logic checks = 1'b0, kernels_check = 1'b0;
    always_ff @(posedge clk) begin
        if (!resetn) checks <= 1'b1;
        if (!kernels_resetn) kernels_check <= 1'b1;
        if (checks && resetn) begin
            one_word_is_visited: assert (visit == WORDS'(1) << word);
            a_response_follows_a_write: assert (!(write && s_axi_bvalid));
            one_read_at_a_time: assert (!(reading && s_axi_rvalid));
        end
        if (kernels_check && kernels_resetn) begin
            no_command_ends_before_it_begins: assert ((ends & ~takes & ~busy) == '0);
            a_unit_holds_few_commands: assert ((takes & ~ends & full) == '0);
        end
    end
`endif

endmodule

// Shows that a memory port waits: a burst is open and no beat is valid.
module open_reads #(
    parameter int BITS = 4 // of the number of open bursts
) (
    input  wire logic clk,
    input  wire logic resetn,
    input  wire logic arvalid,
    input  wire logic arready,
    input  wire logic rvalid,
    input  wire logic rready,
    input  wire logic rlast,
    output logic      waits
);

    logic [BITS-1:0] open;
    wire opens = arvalid && arready;
    wire closes = rvalid && rready && rlast;
    assign waits = open != '0 && !rvalid;

    always_ff @(posedge clk)
        if (!resetn) open <= '0;
        else if (opens != closes) open <= opens ? open + 1'b1 : open - 1'b1;

`ifndef SYNTHESIS
    logic checks = 1'b0;
    always_ff @(posedge clk) begin
        if (!resetn) checks <= 1'b1;
        if (checks && resetn) begin
            no_burst_ends_before_it_begins: assert (!closes || opens || open != '0);
            open_bursts_are_counted: assert (!opens || closes || open != '1);
        end
    end
`endif

endmodule

`default_nettype wire
