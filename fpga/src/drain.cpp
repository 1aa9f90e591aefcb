// drain: plans the work of the lanes. It decodes commands, loads the parameters of rows, computes
// the addresses of each row of a tile, and forwards the beats of tables and fills.
// fpga/rtl/lanes.sv takes the sums, requantizes and stores ("Commands" in docs/accelerator.md).
#include "commands.hpp"
#include "kernels.hpp"
#include "value_banks.hpp"

namespace {

using config::PAIRS;
using config::TOKENS;

namespace kind = isa::kind;
namespace destination = isa::destination;

constexpr unsigned BEAT = sizeof(beat_t);
constexpr unsigned MAX_ROWS = 2 * PAIRS;
constexpr unsigned KEY_BANKS = config::KEY_BANKS;
using DoubleBuffer = Memory<row_t, 2, MAX_ROWS>;

// The fields of a command that each process needs.
struct parameter_job_t {
  u<isa::HEAD_BITS> code;
  u<16> rows4;
  u<16> rows8;
  u<20> words;
};
struct row_job_t {
  u<1> attends;
  u<11> tokens;
  u<13> stride;
  u<16> rows4; // Attend: rows
  u<16> rows8; // Attend: base
  u<11> tile;  // first tile of tokens in the destination
  u<7> pairs;  // of a head, if rows are rotated
};
// Types of loop counters: rows and tokens of an Attend, forwarded beats.
using attend_rows_t = decltype(isa::Attend::rows);
using attend_tokens_t = decltype(isa::Attend::tokens);
constexpr unsigned WORD_BEATS = ceil_div(2 * TOKENS, BEAT); // beats of a residual word
using passed_t = up_to<most<decltype(isa::Fill::words)> * WORD_BEATS>;
static_assert(ceil_div(256, BEAT) <= most<passed_t>);

using ParameterJobs = Stream<parameter_job_t, isa::DRAIN_JOBS>;
using RowJobs = Stream<row_job_t, isa::DRAIN_JOBS>;

// Returns what the lanes need of a command.
lane_job_t lane_job(const fields_t& command) {
#pragma HLS INLINE
  lane_job_t job;
  const unsigned code = operation(command);
  const isa::Rows rows = isa::Rows::decode(command);
  const isa::Attend attend = isa::Attend::decode(command);
  const isa::Fill fill = isa::Fill::decode(command);
  const bool is_rows = code == isa::Rows::CODE;
  const bool attends = code == isa::Attend::CODE;
  job.operation = code;
  job.residual = is_rows && rows.kind == kind::RESIDUAL;
  job.logits = is_rows && rows.kind == kind::LOGITS;
  job.frame = is_rows ? rows.frame : fill.frame;
  job.activation = is_rows ? rows.activation : u<1>(0);
  job.moments = is_rows ? rows.moments : u<1>(0);
  job.post_tiles = is_rows ? rows.post_tiles : u<1>(0);
  job.post = attends ? attend.post : is_rows ? rows.post : u<1>(0);
  job.tokens = attends ? attend.tokens : rows.tokens;
  job.zero_point = rows.zero_point;
  job.skip = rows.skip;
  job.stride = attends ? attend.stride : rows.stride;
  job.reciprocal = rows.reciprocal;
  job.words = code == isa::Table::CODE ? isa::Table::decode(command).words : fill.words;
  return job;
}

void dispatch(Commands<isa::depth::drain_commands>& commands, LaneJobs& lane_jobs,
              AttentionTiles& attention_tiles, ParameterJobs& parameter_jobs, RowJobs& row_jobs) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("drain.dispatch");
    const fields_t command = receive_item<fields_t>(commands);
    const unsigned code = operation(command);
    const isa::Rows rows = isa::Rows::decode(command);
    const isa::Attend attend = isa::Attend::decode(command);
    if (code == isa::Attend::CODE)
      send_item(attention_tiles, attend.tokens);
    else
      parameter_jobs.write({code, rows.rows4, rows.rows8,
                            code == isa::Table::CODE ? isa::Table::decode(command).words
                                                     : isa::Fill::decode(command).words});
    if (code == isa::Rows::CODE)
      row_jobs.write({0, rows.tokens, rows.stride, rows.rows4, rows.rows8,
                      rows.kind == kind::RESIDUAL ? rows.tile : u<11>(0), rows.pairs});
    else if (code == isa::Attend::CODE)
      row_jobs.write({1, attend.tokens, attend.stride, attend.rows, attend.base, attend.tile, 0});
    send_item(lane_jobs, lane_job(command));
  }
}

// Loads row parameters into their double buffer; forwards the beats of tables and fills.
void load_parameters(ParameterJobs& jobs, Beats<isa::depth::rows>& beats,
                     DoubleBuffer& double_buffer, Stream<credit_t, 2>& filled,
                     Stream<credit_t, 2>& freed, Beats<isa::depth::lane_beats>& lane_beats) {
  u<1> half = 0;
  unsigned free_buffers = 2;
  for (volatile bool running = true; running;) {
    const parameter_job_t job = jobs.read();
    if (job.code == isa::Rows::CODE) {
      const unsigned all = row_pairs(job);
      row_tiles_t left = row_tiles(job.rows4, all);
      for (unsigned pair = 0; pair < all; pair += PAIRS) {
        if (free_buffers > 0)
          --free_buffers;
        else
          freed.read();
        const up_to<MAX_ROWS> count = next_tile(left).rows;
        beat_t beat{};
#pragma HLS ARRAY_PARTITION variable = beat.byte complete
        up_to<config::PORTS - 1> port = 0;
        for (up_to<MAX_ROWS> i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
          interval("drain.parameters");
          if (port == 0)
            beat = receive_item<beat_t>(beats);
          const auto given =
              isa::RowParameters::decode(&beat.byte[unsigned(port) * isa::ROW_BYTES]);
          row_t row;
          row.bias = given.bias;
          row.mult = given.mult;
          row.shift = given.shift;
          row.destination = given.destination;
          row.column = given.column;
          row.value_bank = given.value_bank;
          row.value_block = given.value_block;
          double_buffer[half][i] = row;
          port = unsigned(port) + 1 == config::PORTS ? 0 : unsigned(port) + 1;
        }
        filled.write(1);
        half = half == 0 ? 1 : 0;
      }
    } else {
      const bool is_table = job.code == isa::Table::CODE;
      const passed_t count = !is_table        ? unsigned(job.words) * WORD_BEATS
                             : job.words == 0 ? ceil_div(256, BEAT)
                                              : ceil_div(unsigned(job.words), config::PORTS);
      for (passed_t i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
        interval("drain.pass");
        send_item(lane_beats, receive_item<beat_t>(beats));
      }
    }
  }
}

// Sends each row of a command and tile, in the order of the sums. Reads row parameters only after
// the credit from `load_parameters`.
void walk(RowJobs& jobs, DoubleBuffer& double_buffer, Stream<credit_t, 2>& filled,
          Stream<credit_t, 2>& freed, LaneRows& lane_rows) {
  u<1> half = 0;
  for (volatile bool running = true; running;) {
    const row_job_t command = jobs.read();
    const unsigned tokens = command.tokens;
    const unsigned start = unsigned(command.tile) * unsigned(command.stride);
    if (command.attends == 1) {
      const attend_rows_t rows = command.rows4;
      for (attend_rows_t i = 0; i < rows; ++i) {
#pragma HLS PIPELINE II = 1
        interval("drain.walk");
        lane_row_t item{};
        item.row.destination = destination::QUERY;
        item.row.column = unsigned(command.rows8) + unsigned(i);
        item.tokens = tokens;
        item.address = start;
        item.one_tile = 1;
        item.begin_tile = i == 0;
        item.last = i + 1 == rows;
        send_item(lane_rows, item);
      }
      continue;
    }
    const unsigned all = row_pairs(command);
    row_tiles_t left = row_tiles(command.rows4, all);
    for (unsigned pair = 0; pair < all; pair += PAIRS) {
      filled.read();
      const up_to<MAX_ROWS> rows = next_tile(left).rows;
      unsigned address = start;
      unsigned key_bank = 0;
      unsigned key_address = 0;
      unsigned value_bank = 0;
      unsigned angle = 0;
      unsigned tile = 0;
      for (unsigned first = 0; first < tokens; first += TOKENS) {
        const bool last_tile = tokens - first <= TOKENS;
        for (up_to<MAX_ROWS> i = 0; i < rows; ++i) {
#pragma HLS PIPELINE II = 1
          interval("drain.walk");
          lane_row_t item;
          item.row = double_buffer[half][i];
          item.index = i;
          item.tile = tile;
          item.first = first;
          item.tokens = least(TOKENS, tokens - first);
          item.address = address;
          item.key_bank = key_bank;
          item.key_address = key_address;
          item.tile_value_bank = value_bank;
          item.rotates = command.pairs != 0 && item.row.destination != destination::LOGIT;
          if (item.rotates == 1)
            item.row.value_block = angle + unsigned(item.row.value_bank);
          item.one_tile = tokens <= TOKENS;
          item.begin_tile = i == 0;
          item.end_tile = i + 1 == rows;
          item.first_rows = pair == 0;
          item.last_rows = pair + PAIRS >= all;
          item.last = pair + PAIRS >= all && last_tile && i + 1 == rows;
          send_item(lane_rows, item);
        }
        address += command.stride;
        angle += command.pairs;
        const unsigned next = key_bank + TOKENS % KEY_BANKS;
        key_address +=
            (TOKENS / KEY_BANKS + (next >= KEY_BANKS ? 1 : 0)) * unsigned(command.stride);
        key_bank = next >= KEY_BANKS ? next - KEY_BANKS : next;
        value_bank = value_bank_after<TOKENS>(value_bank, first % CASCADE);
        ++tile;
      }
      freed.write(1);
      half = half == 0 ? 1 : 0;
    }
  }
}

} // namespace

void drain(Commands<isa::depth::drain_commands>& commands, Beats<isa::depth::rows>& rows,
           LaneJobs& lane_jobs, LaneRows& lane_rows, AttentionTiles& attention_tiles,
           Beats<isa::depth::lane_beats>& lane_beats) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = rows
#pragma HLS INTERFACE axis port = lane_jobs
#pragma HLS INTERFACE axis port = lane_rows
#pragma HLS INTERFACE axis port = attention_tiles
#pragma HLS INTERFACE axis port = lane_beats
#pragma HLS DATAFLOW
  ParameterJobs parameter_jobs("drain.parameter_jobs");
  RowJobs row_jobs("drain.row_jobs");
  Stream<credit_t, 2> filled("drain.filled");
  Stream<credit_t, 2> freed("drain.freed");
  // `load_parameters` owns a buffer until it writes `filled`, `walk` until it writes `freed`.
  DoubleBuffer double_buffer;
#pragma HLS ARRAY_PARTITION variable = double_buffer complete dim = 1
#pragma HLS AGGREGATE variable = double_buffer compact = bit
#pragma HLS STREAM variable = double_buffer type = unsync
  QUASAR_PROCESS(dispatch(commands, lane_jobs, attention_tiles, parameter_jobs, row_jobs));
  QUASAR_PROCESS(load_parameters(parameter_jobs, rows, double_buffer, filled, freed, lane_beats));
  QUASAR_PROCESS(walk(row_jobs, double_buffer, filled, freed, lane_rows));
  QUASAR_JOIN();
}
