// scores: stores the array's scores for the softmax and sends the largest score of each token.
#include "commands.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

namespace {

using config::EXP_LANES;
using config::TOKENS;

using Largest = Stream<score_row_t, 2>;

// Returns the scores of a group of tokens.
scores_t group_of(const score_row_t& row, unsigned group) {
#pragma HLS INLINE
  s<24> all[EXP_GROUPS * EXP_LANES];
#pragma HLS ARRAY_PARTITION variable = all complete
  for (unsigned t = 0; t < EXP_GROUPS * EXP_LANES; ++t) {
#pragma HLS UNROLL
    all[t] = 0;
    if (t < TOKENS)
      all[t] = row[t];
  }
  scores_t word;
  for (unsigned lane = 0; lane < EXP_LANES; ++lane) {
#pragma HLS UNROLL
    word[lane] = group_item<EXP_GROUPS, EXP_LANES>(all, group, lane);
  }
  return word;
}

// Stores the scores of one key a cycle and tracks each token's largest score.
void store_scores(ScoreCommands& commands, ScoreRows& rows, Write::Score score, Largest& largest) {
  score_row_t most;
  decltype(isa::Scores::keys) key = 0;
  decltype(isa::Scores::keys) keys = 0; // of the command
  u<1> parity = 0;
  bool ended = false; // in the interval before
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("scores.store");
    // An interval late, so that the comparison only enables the registers: the maxima of the same
    // interval would be behind a multiplexer of rows.
    if (ended)
      largest.write(most);
    ended = false;
    if (key == keys) {
      fields_t command;
      if (!poll_item(commands, command))
        continue;
      const isa::Scores fields = isa::Scores::decode(command);
      key = 0;
      keys = fields.keys;
      parity = fields.parity;
    }
    score_row_t row;
    if (!poll_item(rows, row))
      continue;
    // Each access has a constant bank: HLS counts an access with a variable bank as one access to
    // every bank.
    for (unsigned bank = 0; bank < 2 * EXP_GROUPS; ++bank) {
#pragma HLS UNROLL
      if (bank / EXP_GROUPS == unsigned(parity))
        score[bank][key] = group_of(row, bank % EXP_GROUPS);
    }
    for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
      if (key == 0 || row[t] > most[t])
        most[t] = row[t];
    }
    ++key;
    ended = key == keys;
  }
}

// Sends maxima. A separate process, so that the scores are stored before the softmax receives their
// maxima.
void send_maxima(Largest& largest, Maxima& maxima, Retired& retired) {
  for (volatile bool running = true; running;) {
    const score_row_t most = largest.read();
    for (unsigned group = 0; group < EXP_GROUPS; ++group) {
#pragma HLS PIPELINE II = 1
      interval("scores.maxima");
      send_item(maxima, group_of(most, group));
    }
    retired.write(1);
  }
}

} // namespace

void scores(ScoreCommands& commands, ScoreRows& scores, Maxima& maxima, Retired& retired,
            Write::Score score) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = scores
#pragma HLS INTERFACE axis port = maxima
#pragma HLS INTERFACE axis port = retired
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = score
#pragma HLS ARRAY_PARTITION variable = score complete dim = 1
#pragma HLS AGGREGATE variable = score compact = bit
#pragma HLS DATAFLOW
  Largest largest("scores.largest");
  QUASAR_PROCESS(store_scores(commands, scores, score, largest));
  QUASAR_PROCESS(send_maxima(largest, maxima, retired));
  QUASAR_JOIN();
}
