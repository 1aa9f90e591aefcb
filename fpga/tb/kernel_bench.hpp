// Runs the testbenches of single kernels: a kernel's processes with feeders and collectors at
// its queues, and a digest of what came out, which must be the same in both forms of the sources.
// Depends on the kernels' declarations and the simulation.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "memory_image.hpp"
#include "verdict.hpp"

namespace bench {

// FNV-1a over numbers.
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
using Rams = Memories<Ram>;

// A fiber that writes all items to a queue, then ends.
template <typename S, typename T>
void feed(sim::Scheduler& scheduler, S& stream, const std::vector<T>& items) {
  scheduler.spawn("feed", [&stream, &items] {
    for (const T& item : items)
      stream.write(item);
  });
}

// A fiber that reads what comes, without end.
template <typename S, typename T>
void collect(sim::Scheduler& scheduler, S& stream, std::vector<T>& items) {
  scheduler.spawn("collect", [&stream, &items] {
    while (alive())
      items.push_back(stream.read());
  });
}

// Bytes as beats.
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

// Numbers at the ends of a range now and then.
inline int64_t draw(Random& random, int64_t least, int64_t most) {
  const int64_t kind = random.between(0, 9);
  return kind == 0 ? least : kind == 1 ? most : random.between(least, most);
}

} // namespace bench
