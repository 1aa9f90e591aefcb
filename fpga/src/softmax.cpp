// softmax: exponentials, their sums and reciprocals ("Attention" in docs/integer-model.md).
#include "arithmetic.hpp"
#include "kernels.hpp"

namespace {

using config::EXP_LANES;

// Probabilities of one key for a group of tokens; `last` marks the end of an attention tile.
struct stored_t {
  probabilities_t probability;
  u<13> bank;
  u<11> word;
  u<1> last;
};

using sum12_t = u<22>; // of e12
using sum8_t = u<18>;  // of e8
static_assert(isa::MAX_TOKENS * 4095 <= most<sum12_t> && isa::MAX_TOKENS * 255 <= most<sum8_t>);

// Sums of a group of tokens, from which `divide` computes the scales.
struct total_t {
  vec<sum12_t, EXP_LANES> sum12;
  vec<sum8_t, EXP_LANES> sum8;
  u<8> tokens; // of the group
  u<15> out_mult;
  u<5> out_shift;
};

using Stored = Stream<stored_t, 2>;
using Totals = Stream<total_t, 2>;

// Computes the exponentials of EXP_LANES tokens, one key a cycle.
void exponentiate(Commands<isa::depth::softmax_commands>& commands, Maxima& maxima,
                  Read::Score score, Totals& totals, Stored& stored) {
#pragma HLS BIND_STORAGE variable = POWERS type = rom_np impl = lutram
  for (volatile bool running = true; running;) {
    const isa::Softmax command = isa::Softmax::decode(receive_item<fields_t>(commands));
    gap(isa::declared::COMMAND_GAP);
    const unsigned groups = parts_of<EXP_LANES, EXP_GROUPS>(command.tokens);
    for (unsigned group = 0; group < EXP_GROUPS; ++group) {
#pragma HLS PIPELINE off
      interval("softmax.group");
      const maxima_t largest = receive_item<maxima_t>(maxima);
      if (group < groups) {
        const unsigned bank = unsigned(command.parity) * EXP_GROUPS + group;
        total_t total;
        for (unsigned lane = 0; lane < EXP_LANES; ++lane) {
#pragma HLS UNROLL
          total.sum12[lane] = 0;
          total.sum8[lane] = 0;
        }
        const unsigned before = group * EXP_LANES;
        const unsigned left = unsigned(command.tokens) - before;
        total.tokens = left < EXP_LANES ? left : EXP_LANES;
        total.out_mult = command.out_mult;
        total.out_shift = command.out_shift;
        for (decltype(command.keys) key = 0; key < command.keys; ++key) {
#pragma HLS PIPELINE II = 1
          interval("softmax.exponential");
          const scores_t word = score[bank][key];
          stored_t item;
          for (unsigned lane = 0; lane < EXP_LANES; ++lane) {
#pragma HLS UNROLL
            const u<12> e12 =
                exponential(u<24>(largest[lane] - word[lane]), command.cap, command.mult);
            const u<8> e8 = rounded8(e12);
            total.sum12[lane] += e12;
            total.sum8[lane] += e8;
            item.probability[lane] = e8;
          }
          item.bank = bank * CASCADE + unsigned(key) % CASCADE;
          item.word = unsigned(key) / CASCADE;
          item.last = group + 1 == groups && key + 1 == command.keys;
          stored.write(item);
        }
        totals.write(total);
        gap(isa::declared::LOOP_GAP);
      }
    }
  }
}

// Computes (r, p, L), one token a cycle.
void divide(Totals& totals, Scales& scales) {
  total_t total{};
  decltype(total.tokens) left = 0;
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("softmax.divide");
    if (left == 0) {
      if (!poll(totals, total))
        continue;
      left = total.tokens;
    }
    const sum12_t sum12 = total.sum12[0];
    const sum8_t sum8 = total.sum8[0];
    for (unsigned lane = 0; lane + 1 < EXP_LANES; ++lane) {
#pragma HLS UNROLL
      total.sum12[lane] = total.sum12[lane + 1];
      total.sum8[lane] = total.sum8[lane + 1];
    }
    --left;

    const reciprocal_t inverse = reciprocal(sum12, total.out_mult, total.out_shift);
    scale_t scale;
    scale.mantissa = inverse.mantissa;
    scale.shift = inverse.shift;
    scale.residue = int(sum12) - 16 * int(sum8);
    send_item(scales, scale);
  }
}

void store_probabilities(Stored& stored, Write::Probability probability,
                         Stream<credit_t, 2>& done) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("softmax.store");
    stored_t item;
    if (!poll(stored, item))
      continue;
    probability[item.bank][item.word] = item.probability;
    if (item.last == 1)
      done.write(1);
  }
}

// Sends credits. A separate process, so that the probabilities are stored before plan receives
// their credit.
void announce(Stream<credit_t, 2>& done, Credits<isa::depth::softmax_to_array>& softmax_to_array,
              Retired& retired) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("softmax.announce");
    softmax_to_array.write(done.read());
    retired.write(1);
  }
}

} // namespace

void softmax(Commands<isa::depth::softmax_commands>& commands, Maxima& maxima, Scales& scales,
             Credits<isa::depth::softmax_to_array>& softmax_to_array, Retired& retired,
             Read::Score score, Write::Probability probability) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = maxima
#pragma HLS INTERFACE axis port = scales
#pragma HLS INTERFACE axis port = softmax_to_array
#pragma HLS INTERFACE axis port = retired
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = score
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = probability
#pragma HLS ARRAY_PARTITION variable = score complete dim = 1
#pragma HLS ARRAY_PARTITION variable = probability complete dim = 1
#pragma HLS AGGREGATE variable = score compact = bit
#pragma HLS AGGREGATE variable = probability compact = bit
#pragma HLS DATAFLOW
  Totals totals("softmax.totals");
  Stored stored("softmax.stored");
  Stream<credit_t, 2> done("softmax.done");
  QUASAR_PROCESS(exponentiate(commands, maxima, score, totals, stored));
  QUASAR_PROCESS(divide(totals, scales));
  QUASAR_PROCESS(store_probabilities(stored, probability, done));
  QUASAR_PROCESS(announce(done, softmax_to_array, retired));
  QUASAR_JOIN();
}
