// Steps the array's model and the array in SystemVerilog side by side: the same random passes,
// demands and beats, offered and taken in the same random cycles. Every signal must be the same in
// every cycle.
//
// Usage: simulate SEED COMMANDS OFFERED TAKEN   OFFERED, TAKEN: percent of cycles in which
// something
//                                               is offered, in which results are taken
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "array_model.hpp"
#include "verdict.hpp"

namespace sim {
std::unique_ptr<ArrayCore> make_array_rtl(const ArrayMemories& memories);
}

namespace {

using config::LANES;
using config::PAIRS;
using config::TOKENS;

// The tokens of an item of sums that exist.
struct Item {
  unsigned lanes;
};

struct Bench {
  Random random;
  std::unique_ptr<sim::Rams::Input> input = std::make_unique<sim::Rams::Input>("input");
  std::unique_ptr<sim::Rams::Normed> normed = std::make_unique<sim::Rams::Normed>("normed");
  std::unique_ptr<sim::Rams::Query> query = std::make_unique<sim::Rams::Query>("query");
  std::unique_ptr<sim::Rams::Hidden> hidden = std::make_unique<sim::Rams::Hidden>("hidden");
  std::unique_ptr<sim::Rams::Probability> probability =
      std::make_unique<sim::Rams::Probability>("probability");
  std::unique_ptr<sim::Rams::Key> key = std::make_unique<sim::Rams::Key>("key");
  std::unique_ptr<sim::Rams::Value> value = std::make_unique<sim::Rams::Value>("value");
  std::deque<isa::Pass> passes;
  std::deque<demand_t> demands;
  std::deque<beat_t> beats;
  std::deque<Item> sums;
  size_t scores = 0;

  explicit Bench(uint64_t seed) : random(seed) {}

  unsigned between(unsigned least, unsigned most) { return unsigned(random.between(least, most)); }

  template <typename Ram> void fill(Ram& ram, unsigned banks, unsigned lanes) {
    for (unsigned bank = 0; bank < banks; ++bank)
      for (unsigned word = 0; word < ram.words(); ++word)
        for (unsigned lane = 0; lane < lanes; ++lane)
          ram.at(bank, word)[lane] = int(random.between(-128, 127));
  }
  sim::ArrayMemories memories() {
    fill(*input, GROUPS * CASCADE, LANES);
    fill(*normed, config::FRAMES * NORM_GROUPS * CASCADE, config::NORM_LANES);
    fill(*query, GROUPS * CASCADE, LANES);
    fill(*hidden, GROUPS * CASCADE, LANES);
    fill(*probability, 2 * EXP_GROUPS * CASCADE, config::EXP_LANES);
    fill(*key, config::KEY_BANKS, CASCADE);
    fill(*value, config::VALUE_BANKS, CASCADE);
    return {*input, *normed, *query, *hidden, *probability, *key, *value};
  }

  void expect(const isa::Pass& pass) {
    const unsigned rows = unsigned(pass.pairs) + unsigned(pass.pairs4) - (pass.single == 1 ? 1 : 0);
    if (pass.scores == 1)
      scores += unsigned(pass.pairs);
    else if (pass.last == 1)
      for (unsigned row = 0; row < rows; ++row)
        for (unsigned group = 0; group < unsigned(pass.groups); ++group)
          sums.push_back({std::min(LANES, TOKENS - group * LANES)});
  }

  // Divides a tile's columns into passes of at most `most` words.
  void tile(isa::Pass pass, unsigned columns, unsigned most, bool frees, bool post) {
    const unsigned words = ceil_div(columns, CASCADE);
    unsigned step;
    for (unsigned word = 0; word < words; word += step) {
      step = std::min(most, words - word);
      isa::Pass part = pass;
      part.words = step;
      part.address = unsigned(pass.address) + word;
      part.row_address = unsigned(pass.row_address) + word;
      part.first = word == 0;
      part.last = word + step == words;
      part.tail = part.last == 1 ? columns - (words - 1) * CASCADE : CASCADE;
      part.frees = frees && part.last == 1;
      part.post_load = post && part.last == 1;
      if (pass.operand == isa::operand::VALUE)
        part.rotation =
            (unsigned(pass.row_bank) + unsigned(pass.row_address) + word) % config::VALUE_BANKS;
      expect(part);
      passes.push_back(part);
    }
  }

  void gemm() {
    constexpr unsigned MOST =
        std::min({config::WEIGHT_WORDS, config::INPUT_WORDS, config::NORM_WORDS,
                  config::QUERY_WORDS, config::HIDDEN_WORDS, 60u});
    const unsigned columns = between(1, between(0, 1) != 0 ? MOST : 2 * CASCADE);
    const unsigned words = ceil_div(columns, CASCADE), row_tiles = between(1, 3);
    const unsigned most = between(0, 2) == 0 ? between(1, words) : words;
    demand_t demand;
    demand.words = words;
    demand.tiles = row_tiles;
    demands.push_back(demand);
    for (unsigned i = 0; i < row_tiles; ++i) {
      for (unsigned beat = 0; beat < ceil_div(words * CASCADE * PAIRS, sizeof(beat_t)); ++beat) {
        beat_t bytes;
        for (uint8_t& byte : bytes.byte) {
          const uint8_t code = uint8_t(random.next());
          byte = (code & 0xf0) == 0x80 ? code & 0x0f : code; // no nibble of a 4-bit row is -8
          if ((byte & 0x0f) == 8)
            byte ^= 1;
        }
        beats.push_back(bytes);
      }
      isa::Pass pass;
      pass.operand = isa::operand::WEIGHTS;
      pass.pairs = between(1, PAIRS);
      pass.pairs4 = between(0, unsigned(pass.pairs));
      pass.single = pass.pairs4 != 0 && between(0, 1) != 0;
      const unsigned tiles = between(1, 3);
      for (unsigned t = 0; t < tiles; ++t) {
        pass.source = between(0, 3);
        pass.bank = pass.source == isa::activations::NORMED ? between(0, config::FRAMES - 1) : 0;
        pass.address = 0;
        pass.groups = between(1, GROUPS);
        const bool last = t + 1 == tiles;
        tile(pass, columns, most, last, last && i + 1 == row_tiles && between(0, 1) != 0);
      }
    }
  }

  void attention_scores() {
    isa::Pass pass;
    pass.source = isa::activations::QUERY;
    pass.operand = isa::operand::KEY;
    pass.scores = 1;
    pass.groups = between(1, GROUPS);
    const unsigned columns = between(1, std::min(3 * CASCADE, CASCADE * unsigned(key->words())));
    const unsigned words = ceil_div(columns, CASCADE);
    const unsigned tiles = between(1, 4);
    for (unsigned i = 0; i < tiles; ++i) {
      pass.pairs = i + 1 == tiles ? between(1, PAIRS) : PAIRS;
      pass.address = between(0, unsigned(query->words()) - words);
      pass.row_address = between(0, unsigned(key->words()) - words);
      pass.row_bank = between(0, config::KEY_BANKS / PAIRS - 1) * PAIRS;
      tile(pass, columns, words, false, false);
    }
  }

  void context() {
    isa::Pass pass;
    pass.source = isa::activations::PROBABILITY;
    pass.operand = isa::operand::VALUE;
    pass.bank = between(0, 1);
    pass.unsigned_a = 1;
    pass.groups = between(1, GROUPS);
    const unsigned most = std::min(unsigned(probability->words()), unsigned(value->words()) / 2);
    const unsigned columns = between(1, std::min(most * CASCADE, 50u));
    const unsigned words = ceil_div(columns, CASCADE);
    pass.next_block = words;
    const unsigned tiles = between(1, 3);
    for (unsigned i = 0; i < tiles; ++i) {
      pass.pairs = i + 1 == tiles ? between(1, PAIRS) : PAIRS;
      pass.row_bank = between(0, config::VALUE_BANKS - 1);
      pass.row_address = 0;
      tile(pass, columns, between(0, 1) != 0 ? words : between(1, words), false, false);
    }
  }
};

#define SAME(name, a, b)                                                                           \
  if ((a) != (b)) {                                                                                \
    std::printf("cycle %lu: %s is %ld in the model, %ld in RTL\n", cycle, name, long(a), long(b)); \
    return 1;                                                                                      \
  }

int run(uint64_t seed, unsigned commands, unsigned offered, unsigned taken) {
  Bench bench(seed);
  const sim::ArrayMemories memories = bench.memories();
  for (unsigned i = 0; i < commands; ++i)
    switch (bench.between(0, 3)) {
    case 0:
      bench.attention_scores();
      break;
    case 1:
      bench.context();
      break;
    default:
      bench.gemm();
    }
  sim::ArrayModel model(memories);
  const std::unique_ptr<sim::ArrayCore> rtl = sim::make_array_rtl(memories);
  const size_t passes = bench.passes.size();
  bool offers_pass = false, offers_demand = false, offers_beat = false;
  uint64_t idle = 0;
  for (unsigned long cycle = 0; !bench.sums.empty() || bench.scores > 0 || idle < 300; ++cycle) {
    // Something that is offered stays until it is taken.
    const auto offers = [&](bool& before, bool any) {
      before = any && (before || bench.between(0, 99) < offered);
      return before;
    };
    sim::ArrayInputs in;
    packed_pass_t pass{};
    if (offers(offers_pass, !bench.passes.empty())) {
      pass = bench.passes.front().encode();
      in.pass = &pass;
    }
    if (offers(offers_demand, !bench.demands.empty()))
      in.demand = &bench.demands.front();
    if (offers(offers_beat, !bench.beats.empty()))
      in.beat = &bench.beats.front();
    in.takes_credit = bench.between(0, 99) < std::max(taken, 50u); // load has room for few
    in.takes_sums = bench.between(0, 99) < taken;
    in.takes_scores = bench.between(0, 99) < taken;
    const sim::ArrayOutputs a = model.step(in), b = rtl->step(in);
    SAME("passes_ready", a.takes_pass, b.takes_pass);
    SAME("demands_ready", a.takes_demand, b.takes_demand);
    SAME("weights_ready", a.takes_beat, b.takes_beat);
    SAME("array_to_load_valid", a.credit, b.credit);
    SAME("sums_valid", a.sums != nullptr, b.sums != nullptr);
    SAME("scores_valid", a.scores != nullptr, b.scores != nullptr);
    if (a.sums != nullptr) {
      if (bench.sums.empty()) {
        std::printf("cycle %lu: a sum too many\n", cycle);
        return 1;
      }
      for (unsigned lane = 0; lane < bench.sums.front().lanes; ++lane)
        SAME("sums", int((*a.sums)[lane]), int((*b.sums)[lane]));
    }
    if (a.scores != nullptr)
      for (unsigned t = 0; t < TOKENS; ++t)
        SAME("scores", int((*a.scores)[t]), int((*b.scores)[t]));
    ++idle;
    if (a.takes_pass && in.pass != nullptr) {
      bench.passes.pop_front();
      offers_pass = false;
      idle = 0;
    }
    if (a.takes_demand && in.demand != nullptr) {
      bench.demands.pop_front();
      offers_demand = false;
      idle = 0;
    }
    if (a.takes_beat && in.beat != nullptr) {
      bench.beats.pop_front();
      offers_beat = false;
      idle = 0;
    }
    if (a.sums != nullptr && in.takes_sums) {
      bench.sums.pop_front();
      idle = 0;
    }
    if (a.scores != nullptr && in.takes_scores) {
      --bench.scores;
      idle = 0;
    }
    if (idle > 20000) {
      std::printf("cycle %lu: nothing happens any more\n", cycle);
      return 1;
    }
  }
  if (!bench.passes.empty() || !bench.beats.empty() || !bench.demands.empty()) {
    std::printf("something was not taken\n");
    return 1;
  }
  std::printf("%zu passes are the same\n", passes);
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 5)
    return 2;
  return run(std::strtoull(argv[1], nullptr, 10), unsigned(std::atoi(argv[2])),
             unsigned(std::atoi(argv[3])), unsigned(std::atoi(argv[4])));
}
