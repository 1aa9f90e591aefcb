// The softmax: exponentials, their sums and reciprocals ("Attention" in docs/integer-model.md).
#include "arithmetic.hpp"
#include "kernels.hpp"

namespace {

using config::EXP_LANES;

// T[f] = round(4080 * 2^(-f/64)).
constexpr uint16_t POWERS[64] = {
    4080, 4036, 3993, 3950, 3907, 3865, 3823, 3782, 3741, 3701, 3661, 3622, 3583, 3544, 3506, 3468,
    3431, 3394, 3357, 3321, 3285, 3250, 3215, 3180, 3146, 3112, 3079, 3046, 3013, 2980, 2948, 2916,
    2885, 2854, 2823, 2793, 2763, 2733, 2703, 2674, 2646, 2617, 2589, 2561, 2533, 2506, 2479, 2452,
    2426, 2400, 2374, 2348, 2323, 2298, 2273, 2249, 2225, 2201, 2177, 2154, 2130, 2107, 2085, 2062};

// A group's probabilities of a key; `last` marks the last ones of a unit.
struct stored_t {
  probabilities_t probability;
  u<13> bank;
  u<11> word;
  u<1> last;
};

// Sums of a group of tokens, from which `divide` computes the scales.
struct total_t {
  vec<u<22>, EXP_LANES> sum12; // sum of e12
  vec<u<18>, EXP_LANES> sum8;  // sum of e8
  u<8> tokens;                 // of the group
  u<15> out_mult;
  u<5> out_shift;
};

using Stored = Stream<stored_t, 2>;
using Totals = Stream<total_t, 2>;

// Computes the exponentials of EXP_LANES tokens, a key a cycle.
void exponentiate(Commands<isa::depth::softmax_commands>& commands, Maxima& maxima,
                  Read::Score score, Totals& totals, Stored& stored) {
#pragma HLS BIND_STORAGE variable = POWERS type = rom_np impl = lutram
  for (volatile bool running = true; running;) {
    const isa::Softmax command = isa::Softmax::decode(commands.read());
    const unsigned groups = parts_of<EXP_LANES, EXP_GROUPS>(command.tokens);
    for (unsigned group = 0; group < EXP_GROUPS; ++group) {
      interval("softmax.group");
      const maxima_t largest = maxima.read();
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
            u<31> difference = u<24>(largest[lane] - word[lane]);
            if (difference > command.cap)
              difference = command.cap;
            const u<12> exponent = u<32>(multiply<u<56>>(difference, command.mult) + 524288) >> 20;
            const unsigned shift = unsigned(exponent) >> 6;
            const unsigned power = 2 * unsigned(POWERS[unsigned(exponent) & 63]);
            const u<12> e12 = ((shift < 16 ? power >> shift : 0) + 1) >> 1;
            const u<8> e8 = (unsigned(e12) + 8) >> 4;
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
      }
    }
  }
}

// Computes (r, p, L) of a token in each cycle: r = floor((Mo << b) / S12). S12 is shifted up to 22
// bits; each pipeline stage makes one bit of the quotient.
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
    const u<22> sum12 = total.sum12[0];
    const u<18> sum8 = total.sum8[0];
    for (unsigned lane = 0; lane + 1 < EXP_LANES; ++lane) {
#pragma HLS UNROLL
      total.sum12[lane] = total.sum12[lane + 1];
      total.sum8[lane] = total.sum8[lane + 1];
    }
    --left;

    u<22> divisor = sum12;
    unsigned bits = 22;
    for (unsigned step = 16; step > 0; step /= 2) {
#pragma HLS UNROLL
      if (bits > step && (unsigned(divisor) >> (22 - step)) == 0) {
        divisor = unsigned(divisor) << step;
        bits -= step;
      }
    }
    // The quotient has 16 bits: Mo < 2^15 and the divisor is at least 2^21.
    u<38> rest = uint64_t(unsigned(total.out_mult)) << 22;
    u<16> quotient = 0;
    for (unsigned i = 16; i-- > 0;) {
#pragma HLS UNROLL
      const u<38> part = uint64_t(unsigned(divisor)) << i;
      quotient = unsigned(quotient) * 2;
      if (rest >= part) {
        rest = rest - part;
        quotient = unsigned(quotient) + 1;
      }
    }
    const bool halve = unsigned(quotient) >= 32768;
    scale_t scale;
    scale.mantissa = halve ? unsigned(quotient) / 2 : unsigned(quotient);
    scale.shift = bits - (halve ? 1 : 0) + unsigned(total.out_shift) - 21;
    scale.residue = int(sum12) - 16 * int(sum8);
    scales.write(scale);
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

// Gives credits. A process of its own, so that the probabilities are stored when their credit
// arrives.
void announce(Stream<credit_t, 2>& done, Credits<isa::depth::softmax_to_array>& softmax_to_array) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("softmax.announce");
    softmax_to_array.write(done.read());
  }
}

} // namespace

void softmax(Commands<isa::depth::softmax_commands>& commands, Maxima& maxima, Scales& scales,
             Credits<isa::depth::softmax_to_array>& softmax_to_array, Read::Score score,
             Write::Probability probability) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = maxima
#pragma HLS INTERFACE axis port = scales
#pragma HLS INTERFACE axis port = softmax_to_array
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = score
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = probability
#pragma HLS ARRAY_PARTITION variable = score complete dim = 1
#pragma HLS ARRAY_PARTITION variable = probability complete dim = 1
#pragma HLS AGGREGATE variable = commands compact = bit
#pragma HLS AGGREGATE variable = maxima compact = bit
#pragma HLS AGGREGATE variable = scales compact = bit
#pragma HLS AGGREGATE variable = score compact = bit
#pragma HLS AGGREGATE variable = probability compact = bit
#pragma HLS DATAFLOW
  Totals totals("softmax.totals");
  Stored stored("softmax.stored");
  Stream<credit_t, 2> done("softmax.done");
  QUASAR_PROCESS(exponentiate(commands, maxima, score, totals, stored));
  QUASAR_PROCESS(divide(totals, scales));
  QUASAR_PROCESS(store_probabilities(stored, probability, done));
  QUASAR_PROCESS(announce(done, softmax_to_array));
  QUASAR_JOIN();
}
