// Tests the norm alone against docs/integer-model.md in int64: without pooling, with pooling before
// and after LayerNorm, and without LayerNorm.
#include <algorithm>
#include <array>
#include <string>

#include "kernel_bench.hpp"
#include "reference.hpp"

namespace {

using bench::sample;
using config::LANES;
using config::NORM_LANES;
using config::TOKENS;
using reference::floor_div;
using reference::layer_norm;
using reference::scaled;
namespace pooling = isa::pooling;

// Seeds from LONGEST on use the longest sequence, each with a different pooling.
constexpr uint64_t LONGEST = 60;

bool pools(unsigned pool) { return pool == pooling::BEFORE || pool == pooling::AFTER; }

uint64_t norms(Verdict& verdict, uint64_t seed) {
  Random random(seed);
  bench::Digest digest;
  auto residual = std::make_unique<bench::Rams::Residual>("residual");
  auto normed = std::make_unique<bench::Rams::Normed>("normed");
  std::vector<command_t> commands;
  std::vector<beat_t> gain_beats;
  std::vector<moments_t> moments;
  size_t credits = 0;
  struct Expected {
    unsigned frame, token, address;
    int64_t code;
  };
  std::vector<Expected> expected;
  for (unsigned frame = 0; frame < config::FRAMES; ++frame) {
    for (unsigned bank = 0; bank < GROUPS; ++bank)
      for (unsigned word = 0; word < config::RESIDUAL_WORDS; ++word)
        for (unsigned lane = 0; lane < LANES; ++lane)
          residual->at(frame * GROUPS + bank, word)[lane] = sample(random, -32767, 32767);
    const unsigned pool = unsigned(seed % 4);
    const unsigned tokens = seed >= LONGEST ? bench::MAX_TOKENS
                            : seed % 7 == 0 && !pools(pool)
                                ? 1
                                : unsigned(random.between(1, 3 * TOKENS));
    const unsigned tiles = ceil_div(tokens, TOKENS);
    const unsigned most = std::min(
        {1024u, config::RESIDUAL_WORDS / tiles, config::NORM_WORDS / tiles / CASCADE * CASCADE});
    // Few columns are padded.
    const unsigned limit = seed % 5 == 0 ? most : std::min(most, seed % 5 == 1 ? 3u : 60u);
    const unsigned embed = unsigned(random.between(1, limit));
    const unsigned first = unsigned(random.between(0, std::min(tokens - 1, 3u)));
    const int64_t frac = sample(random, 0, 8);
    const int64_t epsilon = random.between(0, 3) == 0 ? sample(random, 1, (int64_t(1) << 50) - 1)
                                                      : sample(random, 1, 4096);
    // Kinds: all equal; only the two extremes; small; any value.
    const int64_t kind = random.between(0, 3);
    std::vector<std::vector<int64_t>> x(tokens, std::vector<int64_t>(embed));
    for (unsigned token = 0; token < tokens; ++token) {
      const int64_t level = sample(random, -32767, 32767);
      for (unsigned d = 0; d < embed; ++d) {
        int64_t& value = x[token][d];
        value = kind == 0   ? level
                : kind == 1 ? (random.between(0, 1) ? 32767 : -32767)
                : kind == 2 ? random.between(-20, 20)
                            : sample(random, -32767, 32767);
        if (kind == 1 && seed % 2 == 0 && embed > 1)
          value = d == 0 ? 32767 : -32767;
        const unsigned t = token % TOKENS;
        residual->at(frame * GROUPS + t / LANES, token / TOKENS * embed + d)[t % LANES] = value;
      }
    }
    const isa::LayerNorm command{.frame = frame,
                                 .pool = pool,
                                 .frac = frac,
                                 .tokens = tokens,
                                 .first = first,
                                 .embed = embed,
                                 .epsilon = epsilon};
    commands.push_back(command.encode());
    std::vector<std::array<int64_t, 2>> gains(embed);
    std::vector<uint8_t> bytes;
    for (auto& gain : gains) {
      gain = {sample(random, -32768, 32767), sample(random, -32768, 32767)};
      for (const int64_t part : gain) {
        bytes.push_back(uint8_t(part));
        bytes.push_back(uint8_t(part >> 8));
      }
    }
    bench::append(gain_beats, bytes);
    for (unsigned tile = 0; tile < tiles; ++tile) {
      const unsigned here = std::min(TOKENS, tokens - tile * TOKENS);
      for (unsigned group = 0; group < ceil_div(here, LANES); ++group) {
        moments_t word;
        for (unsigned lane = 0; lane < LANES; ++lane) {
          const unsigned t = group * LANES + lane;
          int64_t sum = random.between(-1000, 1000), squares = random.between(0, 1000000);
          if (t < here) {
            sum = squares = 0;
            for (const int64_t value : x[tile * TOKENS + t]) {
              sum += value;
              squares += value * value;
            }
          }
          word[lane].sum = sum;
          word[lane].squares = squares;
        }
        moments.push_back(word);
      }
    }

    const int64_t n = tokens - first;
    if (pool == pooling::BEFORE) {
      std::vector<int64_t> mean(embed);
      for (unsigned d = 0; d < embed; ++d) {
        int64_t sum = n / 2;
        for (unsigned token = first; token < tokens; ++token)
          sum += x[token][d];
        mean[d] = floor_div(sum, n);
      }
      const std::vector<int64_t> codes = layer_norm(mean, gains, epsilon, frac);
      for (unsigned d = 0; d < embed; ++d)
        expected.push_back({frame, 0, d, codes[d]});
      ++credits;
    } else {
      std::vector<int64_t> sums(embed, n / 2);
      for (unsigned token = 0; token < tokens; ++token) {
        const std::vector<int64_t> codes = pool == pooling::UNNORMALISED
                                               ? scaled(x[token], gains, frac)
                                               : layer_norm(x[token], gains, epsilon, frac);
        for (unsigned d = 0; d < embed; ++d) {
          if (!pools(pool))
            expected.push_back(
                {frame, token % TOKENS, token / TOKENS * bench::padded(embed) + d, codes[d]});
          else if (token >= first)
            sums[d] += codes[d];
        }
      }
      if (pool == pooling::AFTER)
        for (unsigned d = 0; d < embed; ++d)
          expected.push_back({frame, 0, d, floor_div(sums[d], n)});
      credits += pools(pool) ? 1 : tiles;
    }
  }

  sim::Scheduler scheduler(seed);
  Commands<isa::depth::norm_commands> command_stream;
  Beats<isa::depth::gains> gain_stream;
  Moments moment_stream;
  Credits<isa::depth::norm_to_array> norm_to_array;
  Retired retired;
  scheduler.spawn("norm", [&] {
    norm(command_stream, gain_stream, moment_stream, norm_to_array, retired,
         Read::Residual(*residual), Write::Normed(*normed));
  });
  std::vector<credit_t> got;
  bench::feed(scheduler, command_stream, commands);
  bench::feed(scheduler, gain_stream, gain_beats);
  bench::feed(scheduler, moment_stream, moments);
  bench::collect(scheduler, norm_to_array, got);
  scheduler.run();
  verdict.expect(command_stream.empty() && gain_stream.empty() && moment_stream.empty(),
                 "something was not taken\n" + scheduler.dump());
  verdict.equal(got.size(), credits, "credits to the array");
  verdict.equal(retired.written(), uint64_t(commands.size()), "commands ended");
  for (const Expected& e : expected) {
    const unsigned group = e.frame * NORM_GROUPS + e.token / NORM_LANES;
    const int64_t code = bench::column_word(*normed, group, e.address)[e.token % NORM_LANES];
    digest.add(code);
    verdict.equal(code, e.code,
                  "seed " + std::to_string(seed) + ", token " + std::to_string(e.token) +
                      ", word " + std::to_string(e.address));
  }
  scheduler.stop();
  return digest.value();
}

} // namespace

int main() {
  Verdict verdict("norm");
  bench::Digest digest;
  for (uint64_t seed = 0; seed < LONGEST + 4; ++seed)
    digest.add(int64_t(norms(verdict, seed)));
  std::printf("norm digest %016llx\n", static_cast<unsigned long long>(digest.value()));
  return verdict.end();
}
