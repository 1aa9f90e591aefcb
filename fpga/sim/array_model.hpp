// Models the array of fpga/rtl with the same values in the same cycles, by the rules of
// docs/array-timing.md. Fast cycles are the array's, slow cycles the kernels'.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "array_core.hpp"

namespace sim {

class ArrayModel : public ArrayCore {
public:
  explicit ArrayModel(const ArrayMemories& memories);
  ArrayOutputs step(const ArrayInputs& inputs) override;
  bool quiet() const override { return now_ > last_event_ + LATENCY; }
  void skip(uint64_t cycles) override { now_ += cycles; }

private:
  static constexpr uint64_t R = config::CLOCK_RATIO;
  static constexpr unsigned T = config::TOKENS, P = config::PAIRS, C = CASCADE, L = config::LANES;
  static constexpr unsigned WORD_BYTES = P * C;
  static constexpr bool DSP48E1 = config::SHIFT == 21;
  // Fast cycles from the issue of a pass's last word to its first pair in the FIFOs.
  static constexpr uint64_t TO_FIFO =
      isa::timing::OPERAND_DEPTH + (ceil_div(T, isa::timing::TOKENS_A_STAGE) - 1) + (C - 1) +
      isa::timing::SLICE_TO_FIFO + (DSP48E1 && C > 1 ? isa::timing::DSP48E1_SUM : 0);
  // An event follows its cause by fewer cycles than this.
  static constexpr uint64_t LATENCY = TO_FIFO + P + 64;
  // Number of pairs whose departure cycles are kept.
  static constexpr unsigned DEPARTURES = 2 * isa::timing::FIFO_DEPTH;
  static_assert(P <= isa::timing::FIFO_DEPTH, "a pass's sums fit the FIFOs");

  using Row = std::array<int32_t, GROUPS * L>;

  struct Waiting {
    isa::Pass pass;
    uint64_t prepared; // slow cycle
    uint64_t fill;     // number of its fill of weights, from 1; 0: no weights
    uint64_t pairs;    // pairs of all passes up to this one
  };
  struct Pair {
    uint64_t arrived; // fast cycle
    bool scores;
    bool last; // of the last pass of its tile
    unsigned rows;
    unsigned groups;
    Row row[2];
  };
  template <typename T> struct Output {
    uint64_t visible;
    T item;
  };

  void take_pass(const packed_pass_t& packed);
  void start_passes();
  // Return the earliest fast cycle in which the next pass may start: by its weights; by all other
  // conditions. NEVER: not known yet.
  uint64_t weights_bound() const;
  uint64_t other_bounds() const;
  void multiply(const isa::Pass& pass, unsigned half_in_use, uint64_t end);
  template <unsigned LANES_, typename Memory>
  void read_group(Memory& memory, unsigned first_group, unsigned address, unsigned lane);
  void read_activations(const isa::Pass& pass, unsigned word, unsigned lane);
  void read_operands(const isa::Pass& pass, unsigned half_in_use, unsigned word, unsigned lane);
  void leave();
  bool wants_beat();
  void take_beat(const beat_t& beat);

  void event(uint64_t at) { last_event_ = at > last_event_ ? at : last_event_; }
  void event() { event(now_); }

  ArrayMemories memories_;
  uint64_t now_ = 0;        // slow cycle
  uint64_t last_event_ = 0; // slow cycle of the last known event

  // Passes.
  std::deque<Waiting> waiting_;
  uint64_t taken_ = 0, started_ = 0;
  uint64_t starts_[isa::timing::DESCRIPTORS] = {}; // fast cycles of the last passes' starts
  uint64_t last_start_ = 0, last_end_ = 0;
  unsigned last_pairs_ = 0;
  uint64_t pairs_ = 0;        // of all passes taken
  std::deque<uint64_t> ends_; // slow cycles that report the ends of started passes
  uint64_t fill_ = 1;         // number of the fill that the next pass with weights uses

  // Weights.
  std::vector<uint8_t> double_buffer_[2];
  bool has_demand_ = false;
  demand_t demand_{};
  unsigned tiles_ = 0, tile_words_ = 0; // fills of the current demand that have not begun
  uint64_t tiles_from_ = 0;             // earliest slow cycle of their beginning
  bool filling_ = false;
  uint64_t fills_ = 0; // finished fills
  unsigned word_ = 0, words_ = 0;
  std::vector<uint8_t> bytes_;
  uint64_t finished_[2] = {};   // slow cycles of the last fills' ends
  std::deque<uint64_t> freed_;  // slow cycles in which buffers became free
  std::deque<uint64_t> posted_; // slow cycles of the credits for load

  // Sums.
  std::deque<Pair> arriving_;
  unsigned item_ = 0; // next item of the first pair
  uint64_t departed_ = 0;
  uint64_t departures_[DEPARTURES] = {}; // slow cycles
  Row partial_[P][2];
  std::deque<Output<sums_t>> sums_;
  std::deque<Output<score_row_t>> scores_;
  bool took_sums_ = false, took_scores_ = false; // in the previous cycle

  // Scratch memory. A slice's sum has 48 bits, so it is exact in a double.
  static constexpr unsigned WIDTH = (T + 3) / 4 * 4;
  alignas(32) double activation_[WIDTH] = {};
  alignas(32) double packed_[P][WIDTH];
  double operand_[P];
  double weights_of_byte_[2][256]; // of 8-bit rows, of 4-bit rows
};

} // namespace sim
