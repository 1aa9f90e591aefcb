// Tests the softmax alone against docs/integer-model.md in int64.
#include <algorithm>
#include <cmath>
#include <string>

#include "kernel_bench.hpp"

namespace {

using bench::sample;
using config::EXP_LANES;
using config::TOKENS;

uint64_t attention_tiles(Verdict& verdict, uint64_t seed) {
  Random random(seed);
  bench::Digest digest;
  auto score = std::make_unique<bench::Rams::Score>("score");
  auto probability = std::make_unique<bench::Rams::Probability>("probability");
  std::vector<command_t> commands;
  std::vector<maxima_t> maxima;
  struct Scale {
    int64_t r, p, residue;
  };
  std::vector<Scale> expected;
  std::vector<std::vector<std::vector<int64_t>>> codes;
  for (unsigned parity = 0; parity < 2; ++parity) {
    const unsigned tokens = unsigned(sample(random, 1, TOKENS));
    const unsigned keys = unsigned(sample(random, 1, seed % 5 == 0 ? config::SCORE_WORDS : 40));
    const int64_t mult = seed % 4 == 0   ? sample(random, 1, 1 << 24)
                         : seed % 4 == 1 ? sample(random, 1, 64)
                                         : random.between(1000, 200000);
    const int64_t cap = ((int64_t(1) << 31) - (1 << 20)) / mult;
    const int64_t out_mult = sample(random, 1 << 14, (1 << 15) - 1),
                  out_shift = sample(random, 11, 29);
    const isa::Softmax command{.parity = parity,
                               .tokens = tokens,
                               .keys = keys,
                               .out_shift = out_shift,
                               .out_mult = out_mult,
                               .mult = mult,
                               .cap = cap};
    commands.push_back(command.encode());
    const int64_t span = random.between(0, 2) == 0 ? 1 << 21 : random.between(1, 1 << 14);
    std::vector<int64_t> largest(EXP_GROUPS * EXP_LANES, INT64_MIN);
    for (unsigned key = 0; key < keys; ++key)
      for (unsigned t = 0; t < EXP_GROUPS * EXP_LANES; ++t) {
        // In some seeds all scores are equal.
        const int64_t a = seed % 7 == 3 ? 5 : sample(random, -span, span);
        score->at(parity * EXP_GROUPS + t / EXP_LANES, key)[t % EXP_LANES] = a;
        largest[t] = std::max(largest[t], a);
      }
    for (unsigned group = 0; group < EXP_GROUPS; ++group) {
      maxima_t word;
      for (unsigned lane = 0; lane < EXP_LANES; ++lane)
        word[lane] = largest[group * EXP_LANES + lane];
      maxima.push_back(word);
    }
    codes.emplace_back(tokens);
    for (unsigned t = 0; t < tokens; ++t) {
      int64_t sum12 = 0, sum8 = 0;
      for (unsigned key = 0; key < keys; ++key) {
        const int64_t a = score->at(parity * EXP_GROUPS + t / EXP_LANES, key)[t % EXP_LANES];
        const int64_t d = std::min(largest[t] - a, cap);
        const int64_t u = (d * mult + (1 << 19)) >> 20;
        const int64_t power = int64_t(std::floor(4080 * std::exp2(-double(u & 63) / 64) + 0.5));
        const int64_t e12 = ((2 * power >> (u >> 6)) + 1) >> 1;
        const int64_t e8 = (e12 + 8) >> 4;
        sum12 += e12;
        sum8 += e8;
        codes.back()[t].push_back(e8);
      }
      int64_t b = 0;
      while (sum12 >> b != 0)
        ++b;
      int64_t r = (out_mult << b) / sum12;
      if (r >= 1 << 15) {
        r >>= 1;
        --b;
      }
      expected.push_back({r, b + out_shift - 21, sum12 - 16 * sum8});
    }
  }

  sim::Scheduler scheduler(seed);
  Commands<isa::depth::softmax_commands> command_stream;
  Maxima maxima_stream;
  Scales scale_stream;
  Credits<isa::depth::softmax_to_array> softmax_to_array;
  Retired retired;
  scheduler.spawn("softmax", [&] {
    softmax(command_stream, maxima_stream, scale_stream, softmax_to_array, retired,
            Read::Score(*score), Write::Probability(*probability));
  });
  std::vector<scale_t> got;
  std::vector<credit_t> credits;
  bench::feed(scheduler, command_stream, commands);
  bench::feed(scheduler, maxima_stream, maxima);
  bench::collect(scheduler, scale_stream, got);
  bench::collect(scheduler, softmax_to_array, credits);
  scheduler.run();
  verdict.expect(command_stream.empty() && maxima_stream.empty(),
                 "something was not taken\n" + scheduler.dump());
  verdict.equal(credits.size(), commands.size(), "credits to the array");
  verdict.equal(retired.written(), uint64_t(commands.size()), "commands ended");
  verdict.equal(got.size(), expected.size(), "scales");
  for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    const std::string name = "token " + std::to_string(i) + " of seed " + std::to_string(seed);
    verdict.equal(int64_t(got[i].mantissa), expected[i].r, "mantissa of " + name);
    verdict.equal(int64_t(got[i].shift), expected[i].p, "shift of " + name);
    verdict.equal(int64_t(got[i].residue), expected[i].residue, "residue of " + name);
    digest.add(int64_t(got[i].mantissa));
    digest.add(int64_t(got[i].shift));
    digest.add(int64_t(got[i].residue));
  }
  for (unsigned parity = 0; parity < 2; ++parity)
    for (unsigned t = 0; t < codes[parity].size(); ++t)
      for (unsigned key = 0; key < codes[parity][t].size(); ++key) {
        const unsigned group = parity * EXP_GROUPS + t / EXP_LANES;
        const int64_t code = bench::column_word(*probability, group, key)[t % EXP_LANES];
        digest.add(code);
        verdict.equal(code, codes[parity][t][key],
                      "probability of token " + std::to_string(t) + ", key " + std::to_string(key));
      }
  scheduler.stop();
  return digest.value();
}

} // namespace

int main() {
  Verdict verdict("softmax");
  bench::Digest digest;
  for (uint64_t seed = 0; seed < 40; ++seed)
    digest.add(int64_t(attention_tiles(verdict, seed)));
  std::printf("softmax digest %016llx\n", static_cast<unsigned long long>(digest.value()));
  return verdict.end();
}
