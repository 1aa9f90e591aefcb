// Implements the array by its verilated SystemVerilog (fpga/rtl/array.sv).
#include <algorithm>
#include <cstring>
#include <vector>

#include "Varray.h"
#include "verilated.h"

#include "array_core.hpp"
#include "verilated_ports.hpp"
#include "waves.hpp"

namespace sim {

namespace {

// The read side of a memory: a word follows its address by two cycles; it is 0 if `enable` was 0.
class Banks {
  struct Bank {
    std::vector<uint8_t> latch, word;
  };
  std::vector<Bank> banks_;
  size_t bytes_;

public:
  Banks(size_t banks, size_t bytes) : banks_(banks), bytes_(bytes) {
    for (Bank& bank : banks_) {
      bank.latch.resize(bytes);
      bank.word.resize(bytes);
    }
  }

  // Samples the addresses before a clock edge; `read` gives the word at an address. Each address
  // serves `address_each` banks.
  template <typename Enable, typename Address, typename Read>
  void edge(const Enable& enable, const Address& address, unsigned address_each,
            unsigned address_bits, size_t addresses, Read read) {
    for (size_t bank = 0; bank < banks_.size(); ++bank) {
      std::swap(banks_[bank].word, banks_[bank].latch);
      std::fill(banks_[bank].latch.begin(), banks_[bank].latch.end(), uint8_t(0));
      if (get(enable, bank, 1) == 1) {
        const size_t at = bank / address_each % addresses;
        read(bank, get(address, at * address_bits, address_bits), banks_[bank].latch.data());
      }
    }
  }
  // Drives the words after the edge.
  template <typename Word> void show(Word& port) const {
    auto* bytes = reinterpret_cast<uint8_t*>(&port);
    for (size_t bank = 0; bank < banks_.size(); ++bank)
      std::memcpy(bytes + bank * bytes_, banks_[bank].word.data(), bytes_);
  }
};

// Reads a word of a memory, or 0 beyond its end: a pass with fewer row pairs than the array also
// reads the banks of the missing pairs.
template <typename Ram> auto reader(Ram& ram, unsigned lanes) {
  return [&ram, lanes](size_t bank, uint64_t address, uint8_t* out) {
    if (address >= ram.words())
      return;
    const auto& word = ram.at(bank, address);
    for (unsigned i = 0; i < lanes; ++i)
      out[i] = uint8_t(int(word[i]));
  };
}

class ArrayRtl : public ArrayCore {
public:
  explicit ArrayRtl(const ArrayMemories& memories) : memories_(memories) {
    top_.clk = top_.clk_array = 0;
    top_.reset = 1;
    inputs({});
    slow_cycle();
    top_.reset = 0;
    for (unsigned i = 0; i < RESET_CYCLES; ++i)
      slow_cycle();
  }
  ~ArrayRtl() override { finish(top_, context_); }

  ArrayOutputs step(const ArrayInputs& in) override {
    waves_.begin();
    inputs(in);
    top_.eval();
    ArrayOutputs out;
    out.takes_pass = top_.passes_ready != 0;
    out.takes_demand = top_.demands_ready != 0;
    out.takes_beat = top_.weights_ready != 0;
    out.credit = top_.array_to_load_valid != 0;
    out.retired = top_.retired;
    out.starved = top_.starved != 0;
    if (top_.sums_valid != 0) {
      for (unsigned lane = 0; lane < config::LANES; ++lane)
        sums_[lane] = get_signed(top_.sums, size_t(lane) * 27, 27);
      out.sums = &sums_;
    }
    if (top_.scores_valid != 0) {
      for (unsigned t = 0; t < config::TOKENS; ++t)
        scores_[t] = get_signed(top_.scores, size_t(t) * 24, 24);
      out.scores = &scores_;
    }
    const bool moved =
        (out.takes_pass && in.pass != nullptr) || (out.takes_demand && in.demand != nullptr) ||
        (out.takes_beat && in.beat != nullptr) || (out.credit && in.takes_credit) ||
        (out.sums != nullptr && in.takes_sums) || (out.scores != nullptr && in.takes_scores);
    quiet_ = moved ? 0 : quiet_ + 1;
    slow_cycle();
    return out;
  }
  // QUIET covers the longest pass plus the longest latency to `sums`.
  bool quiet() const override { return quiet_ > QUIET; }

private:
  static constexpr unsigned RESET_CYCLES = 5;
  static constexpr unsigned QUIET =
      bank_words(config::WEIGHT_WORDS > config::SCORE_WORDS ? config::WEIGHT_WORDS
                                                            : config::SCORE_WORDS) +
      2 * config::PAIRS * GROUPS + config::TOKENS + 200;

  void inputs(const ArrayInputs& in) {
    top_.passes_valid = in.pass != nullptr;
    if (in.pass != nullptr) {
      put(top_.passes, 0, 64, in.pass->word[0]);
      put(top_.passes, 64, 64, in.pass->word[1]);
    }
    top_.demands_valid = in.demand != nullptr;
    if (in.demand != nullptr)
      top_.demands = unsigned(in.demand->words) | unsigned(in.demand->tiles) << 13;
    top_.weights_valid = in.beat != nullptr;
    if (in.beat != nullptr)
      std::memcpy(&top_.weights_beat, in.beat->byte, sizeof(beat_t));
    top_.array_to_load_ready = in.takes_credit;
    top_.sums_ready = in.takes_sums;
    top_.scores_ready = in.takes_scores;
  }

  void slow_cycle() {
    for (unsigned i = 0; i < config::CLOCK_RATIO; ++i) {
      top_.eval();
      waves_.record(2 * i);
      read();
      top_.clk_array = 1;
      top_.clk = i + 1 == config::CLOCK_RATIO;
      top_.eval();
      waves_.record(2 * i + 1);
      show();
      top_.clk_array = top_.clk = 0;
      top_.eval();
    }
  }

  void read() {
    constexpr unsigned A = ARRAY_ADDRESS_BITS, B = ARRAY_ROW_BITS;
    input_.edge(top_.input_enable, top_.input_address, CASCADE, A, GROUPS,
                reader(memories_.input, config::LANES));
    query_.edge(top_.query_enable, top_.query_address, CASCADE, A, GROUPS,
                reader(memories_.query, config::LANES));
    hidden_.edge(top_.hidden_enable, top_.hidden_address, CASCADE, A, GROUPS,
                 reader(memories_.hidden, config::LANES));
    normed_.edge(top_.normed_enable, top_.normed_address, CASCADE, A, NORM_GROUPS,
                 reader(memories_.normed, config::NORM_LANES));
    probability_.edge(top_.probability_enable, top_.probability_address, 1, A,
                      2 * size_t(EXP_GROUPS) * CASCADE,
                      reader(memories_.probability, config::EXP_LANES));
    key_.edge(top_.key_enable, top_.key_address, config::PAIRS, B,
              config::KEY_BANKS / config::PAIRS, reader(memories_.key, CASCADE));
    value_.edge(top_.value_enable, top_.value_address, 1, B, config::VALUE_BANKS,
                reader(memories_.value, CASCADE));
  }
  void show() {
    input_.show(top_.input_word);
    query_.show(top_.query_word);
    hidden_.show(top_.hidden_word);
    normed_.show(top_.normed_word);
    probability_.show(top_.probability_word);
    key_.show(top_.key_word);
    value_.show(top_.value_word);
  }

  ArrayMemories memories_;
  VerilatedContext context_;
  Varray top_{&context_};
  Waves waves_{top_, context_, "array"};
  sums_t sums_;
  score_row_t scores_;
  unsigned quiet_ = 0;
  Banks input_{GROUPS * CASCADE, config::LANES};
  Banks query_{GROUPS * CASCADE, config::LANES};
  Banks hidden_{GROUPS * CASCADE, config::LANES};
  Banks normed_{size_t(config::FRAMES) * NORM_GROUPS * CASCADE, config::NORM_LANES};
  Banks probability_{2 * size_t(EXP_GROUPS) * CASCADE, config::EXP_LANES};
  Banks key_{config::KEY_BANKS, CASCADE};
  Banks value_{config::VALUE_BANKS, CASCADE};
};

} // namespace

std::unique_ptr<ArrayCore> make_array_rtl(const ArrayMemories& memories) {
  return std::make_unique<ArrayRtl>(memories);
}

#ifdef QUASAR_RTL
std::unique_ptr<ArrayCore> make_array(const ArrayMemories& memories) {
  return make_array_rtl(memories);
}
#endif

} // namespace sim
