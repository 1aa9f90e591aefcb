// plan: splits the array's commands into passes ("The array" in docs/accelerator.md). It takes the
// credits that guard a pass's operands before it sends the pass. The array times the passes and
// waits for the weights.
#include "commands.hpp"
#include "kernels.hpp"

namespace {

using config::LANES;
using config::PAIRS;
using config::TOKENS;

constexpr unsigned GEMM = isa::Gemm::CODE, SCORES = isa::Scores::CODE, CONTEXT = isa::Context::CODE;
constexpr unsigned KEY_BANKS = config::KEY_BANKS;
constexpr unsigned VALUE_BANKS = config::VALUE_BANKS;

using Jobs = Stream<fields_t, isa::PLAN_JOBS>;

// Forwards commands, and announces each Gemm to the array's weight loader before its passes are
// planned.
void dispatch(Commands<isa::depth::array_commands>& commands, Jobs& jobs, Demands& demands) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("plan.dispatch");
    const fields_t command = receive_item<fields_t>(commands);
    if (operation(command) == GEMM) {
      const isa::Gemm gemm = isa::Gemm::decode(command);
      send_item<demand_t>(demands, {bank_words(gemm.columns), gemm.row_tiles});
    }
    jobs.write(command);
  }
}

// Sends the passes of each command: for each tile of row pairs, for each tile of tokens.
void passes_of(Jobs& jobs, Credits<isa::depth::load_to_array>& load_to_array,
               Credits<isa::depth::drain_to_array>& drain_to_array,
               Credits<isa::depth::norm_to_array>& norm_to_array,
               Credits<isa::depth::softmax_to_array>& softmax_to_array, Passes& passes,
               ScoreCommands& score_commands, Retired& retired) {
  for (volatile bool running = true; running;) {
    const fields_t command = jobs.read();
    gap(isa::declared::COMMAND_GAP);
    const isa::Gemm gemm = isa::Gemm::decode(command);
    const isa::Scores scores = isa::Scores::decode(command);
    const isa::Context context = isa::Context::decode(command);
    const unsigned kind = operation(command);
    const bool is_gemm = kind == GEMM;
    const bool is_scores = kind == SCORES;
    const bool is_context = kind == CONTEXT;
    unsigned tokens, columns, most, row_count, rows4 = 0, wait_drain, bank;
    unsigned part = 0, of = 0; // their product is computed once for all kinds of commands
    if (is_gemm) {
      tokens = gemm.tokens;
      columns = gemm.columns;
      most = gemm.pass;
      row_count = row_pairs(gemm);
      rows4 = gemm.rows4;
      wait_drain = gemm.wait_drain;
      bank = gemm.frame;
      part = gemm.source == isa::source::NORMED ? gemm.tile : u<11>(0);
      of = bank_words(columns);
    } else if (is_scores) {
      tokens = scores.tokens;
      columns = scores.columns;
      most = scores.columns;
      row_count = scores.keys;
      wait_drain = scores.wait_drain;
      bank = 0;
      part = scores.tile;
      of = bank_words(scores.stride);
      send_item(score_commands, command);
    } else {
      tokens = context.tokens;
      columns = context.keys;
      most = context.pass;
      row_count = context.rows;
      wait_drain = context.wait_drain;
      bank = context.parity;
      part = context.block;
      of = bank_words(columns);
    }
    const unsigned product = part * of;
    const unsigned key_base = unsigned(scores.base) / CASCADE;
    const unsigned start = is_gemm ? product : is_scores ? product + key_base : 0;
    const unsigned words = bank_words(columns);
    const unsigned most_words = bank_words(most);
    const unsigned turn = context.turn; // added to the rotation between passes
    const unsigned key_stride = bank_words(scores.stride);
    bool waits = true; // the command's credits are not taken yet
    unsigned key_bank = 0;
    unsigned key_address = key_base;
    unsigned value_bank = context.bank;
    unsigned value_address = product;

    row_tiles_t left = row_tiles(rows4, row_count);
    for (unsigned pair = 0; pair < row_count; pair += PAIRS) {
      const row_tile_t rows = next_tile(left);
      unsigned address = start;
      for (unsigned first = 0; first < tokens; first += TOKENS) {
        const bool last_tile = tokens - first <= TOKENS;
        const unsigned groups = parts_of<LANES, GROUPS>(least(TOKENS, tokens - first));
        unsigned rotation = value_bank;
        unsigned pass_words;
        for (unsigned word = 0; word < words; word += pass_words) {
#pragma HLS PIPELINE off
          interval("plan.pass");
          pass_words = least(most_words, words - word);
          if (waits) {
            if (is_gemm && gemm.wait_load == 1)
              load_to_array.read();
            if (is_context)
              softmax_to_array.read();
            for (unsigned i = 0; i < wait_drain; ++i) {
#pragma HLS PIPELINE off
              interval("plan.wait");
              drain_to_array.read();
            }
            waits = false;
          }
          if (is_gemm && word == 0 && pair == 0) {
            if (gemm.wait_norm == 1)
              norm_to_array.read();
            if (gemm.wait_drain_tiles == 1)
              drain_to_array.read();
          }

          const bool last = word + pass_words == words;
          isa::Pass pass;
          if (is_gemm)
            pass.source = gemm.source; // the same numbers as isa::activations
          else
            pass.source = is_scores ? isa::activations::QUERY : isa::activations::PROBABILITY;
          pass.operand = is_gemm     ? isa::operand::WEIGHTS
                         : is_scores ? isa::operand::KEY
                                     : isa::operand::VALUE;
          pass.bank = bank;
          pass.words = pass_words;
          pass.tail = last ? columns - (words - 1) * CASCADE : CASCADE;
          pass.address = address;
          pass.row_address = word + (is_gemm ? 0 : is_scores ? key_address : value_address);
          pass.row_bank = is_gemm ? 0 : is_scores ? key_bank : value_bank;
          pass.rotation = is_context ? rotation : 0;
          pass.next_block = is_context ? words : 0;
          pass.pairs = rows.pairs;
          pass.pairs4 = rows.pairs4;
          pass.single = rows.single;
          pass.groups = groups;
          pass.unsigned_a = is_context;
          pass.scores = is_scores;
          pass.first = word == 0;
          pass.last = last;
          pass.frees = is_gemm && last && last_tile;
          pass.post_load =
              is_gemm && gemm.post_load == 1 && last && last_tile && pair + PAIRS >= row_count;
          send_item(passes, pass.encode());
          address += pass_words;
          rotation += turn;
          if (rotation >= VALUE_BANKS)
            rotation -= VALUE_BANKS;
        }
      }
      key_bank += PAIRS;
      if (key_bank == KEY_BANKS) {
        key_bank = 0;
        key_address += key_stride;
      }
      value_bank += PAIRS;
      if (value_bank >= VALUE_BANKS) {
        value_bank -= VALUE_BANKS;
        value_address += words;
      }
    }
    retired.write(1);
  }
}

} // namespace

void plan(Commands<isa::depth::array_commands>& commands,
          Credits<isa::depth::load_to_array>& load_to_array,
          Credits<isa::depth::drain_to_array>& drain_to_array,
          Credits<isa::depth::norm_to_array>& norm_to_array,
          Credits<isa::depth::softmax_to_array>& softmax_to_array, Passes& passes, Demands& demands,
          ScoreCommands& score_commands, Retired& retired) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = load_to_array
#pragma HLS INTERFACE axis port = drain_to_array
#pragma HLS INTERFACE axis port = norm_to_array
#pragma HLS INTERFACE axis port = softmax_to_array
#pragma HLS INTERFACE axis port = passes
#pragma HLS INTERFACE axis port = demands
#pragma HLS INTERFACE axis port = score_commands
#pragma HLS INTERFACE axis port = retired
#pragma HLS DATAFLOW
  Jobs jobs("plan.jobs");
  QUASAR_PROCESS(dispatch(commands, jobs, demands));
  QUASAR_PROCESS(passes_of(jobs, load_to_array, drain_to_array, norm_to_array, softmax_to_array,
                           passes, score_commands, retired));
  QUASAR_JOIN();
}
