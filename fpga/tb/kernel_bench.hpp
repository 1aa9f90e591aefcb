// Helpers of the testbenches of single kernels: feeders and collectors at a kernel's queues, and a
// digest of the results, which must be equal for ap_int and native integers. Depends on the
// kernels' declarations and the simulation.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "memory_image.hpp"
#include "verdict.hpp"

namespace bench {

// Tokens of the longest sequence, which the kernels' counters must hold.
using isa::MAX_TOKENS;
static_assert(MAX_TOKENS <= most<decltype(isa::LayerNorm::tokens)>);

// A digest of numbers (FNV-1a).
class Digest {
  uint64_t hash_ = 0xcbf29ce484222325;

public:
  void add(int64_t value) {
    for (int i = 0; i < 8; ++i)
      hash_ = (hash_ ^ (static_cast<uint64_t>(value) >> (8 * i) & 0xff)) * 0x100000001b3;
  }
  uint64_t value() const { return hash_; }
};

template <typename T, unsigned BANKS, unsigned WORDS> using Ram = sim::Ram<T, BANKS, WORDS>;
using Rams = Memories<Ram, Ram>;

// Rounds a number of columns up to whole words of CASCADE columns.
inline unsigned padded(unsigned columns) { return ceil_div(columns, CASCADE) * CASCADE; }

// Returns the word of a group of tokens in a column. `column` counts from the memory's first word,
// `group` from its first bank.
template <typename T, unsigned BANKS, unsigned WORDS>
T& column_word(Ram<T, BANKS, WORDS>& ram, unsigned group, unsigned column) {
  return ram.at(group * CASCADE + column % CASCADE, column / CASCADE);
}

// Returns the code of a key's dimension. `stride`: dimensions of all heads, padded.
inline code_t& key_code(Rams::Key& key, unsigned token, unsigned dimension, unsigned stride) {
  const unsigned word = token / config::KEY_BANKS * (stride / CASCADE) + dimension / CASCADE;
  return key.at(token % config::KEY_BANKS, word)[dimension % CASCADE];
}

// Returns the code of a value's dimension. `tokens`: tokens of the network.
inline code_t& value_code(Rams::Value& value, unsigned token, unsigned dimension, unsigned tokens) {
  const unsigned in_row = token / CASCADE, block = dimension / config::VALUE_BANKS;
  return value.at((in_row + dimension) % config::VALUE_BANKS,
                  block * ceil_div(tokens, CASCADE) + in_row)[token % CASCADE];
}

// Returns an action that advances the calling fiber by up to 40 cycles, in `percent` of its calls.
// Each copy draws for itself, so a queue's pauses do not depend on when the others move.
inline std::function<void()> pauses(uint64_t seed, unsigned percent) {
  return [random = Random(seed), percent]() mutable {
    if (random.between(0, 99) < int64_t(percent))
      sim::running->now += uint64_t(random.between(1, 40));
  };
}

// Starts a fiber that writes all items to a queue, and calls `pause` before each.
template <typename S, typename T>
void feed(
    sim::Scheduler& scheduler, S& stream, const std::vector<T>& items,
    const std::function<void()>& pause = [] {}) {
  scheduler.spawn("feed", [&stream, &items, pause] {
    for (const T& item : items) {
      pause();
      stream.write(item);
    }
  });
}

// Starts a fiber that reads a queue until the simulation ends, and calls `pause` before each read.
template <typename S, typename T>
void collect(
    sim::Scheduler& scheduler, S& stream, std::vector<T>& items,
    const std::function<void()>& pause = [] {}) {
  scheduler.spawn("collect", [&stream, &items, pause] {
    while (alive()) {
      pause();
      items.push_back(stream.read());
    }
  });
}

// Converts bytes to beats.
inline std::vector<beat_t> beats_of(std::vector<uint8_t> bytes) {
  constexpr size_t BEAT = sizeof(beat_t);
  bytes.resize((bytes.size() + BEAT - 1) / BEAT * BEAT);
  std::vector<beat_t> beats(bytes.size() / BEAT);
  for (size_t i = 0; i < bytes.size(); ++i)
    beats[i / BEAT].byte[i % BEAT] = bytes[i];
  return beats;
}

inline void append(std::vector<beat_t>& beats, const std::vector<uint8_t>& bytes) {
  const std::vector<beat_t> more = beats_of(bytes);
  beats.insert(beats.end(), more.begin(), more.end());
}

// Samples a number of a range, and its ends more often.
inline int64_t sample(Random& random, int64_t least, int64_t most) {
  const int64_t kind = random.between(0, 9);
  return kind == 0 ? least : kind == 1 ? most : random.between(least, most);
}

} // namespace bench
