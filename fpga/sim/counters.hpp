// Models the block `counters`: computes the counters of each unit from the cycles in which its
// queues are read and written. Cycles are those of the processes' clocks. Depends on isa.hpp alone.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "isa.hpp"

namespace sim {

// A set of cycles. Ranges may be added in any order.
class Cycles {
  std::vector<uint64_t> words_;

public:
  void clear() { words_.clear(); }
  void add(uint64_t from, uint64_t to);
  // Returns the number of cycles before `end` that are in both sets.
  static uint64_t common(const Cycles& a, const Cycles& b, uint64_t end);
};

class Counters {
public:
  static constexpr unsigned UNITS = isa::counted::STORE + 1;
  static constexpr unsigned NONE = UNITS;

  // `run` clears all counters and starts them in this cycle; `hold` stops them in this cycle.
  void run(uint64_t cycle);
  void hold(uint64_t cycle);
  bool running() const { return running_; }
  // Return the number of counted cycles up to `now`, and a unit's counter.
  uint32_t cycles(uint64_t now) const;
  uint32_t read(unsigned unit, unsigned counter, uint64_t now) const;

  // Record that a unit takes a command; that it ends its oldest command.
  void taken(unsigned unit, uint64_t cycle) { units_[unit].open.push_back(cycle); }
  void ended(unsigned unit, uint64_t cycle);
  // Record cycles in which an output queue of the unit is full; in which its main input is empty.
  void blocked(unsigned unit, uint64_t from, uint64_t to) { add(units_[unit].blocked, from, to); }
  void starved(unsigned unit, uint64_t from, uint64_t to) { add(units_[unit].starved, from, to); }
  // Returns the cycles since the last call of `starved` in which the unit's main input is empty.
  using Empty = std::function<std::pair<uint64_t, uint64_t>()>;
  void add_input(unsigned unit, Empty empty) { units_[unit].empty = std::move(empty); }

private:
  struct Unit {
    uint64_t commands = 0;
    std::deque<uint64_t> open; // cycles in which the unfinished commands were taken
    Cycles busy, blocked, starved;
    Empty empty;
  };
  void add(Cycles& cycles, uint64_t from, uint64_t to) const;
  uint64_t length(uint64_t now) const {
    const uint64_t end = running_ ? now : end_;
    return end > start_ ? end - start_ : 0;
  }

  std::array<Unit, UNITS> units_;
  bool running_ = false;
  uint64_t start_ = 0, end_ = 0;
};

// The units whose counters a queue updates.
struct Watch {
  Counters* counters = nullptr;
  unsigned commands = Counters::NONE; // the unit that takes its commands here
  unsigned input = Counters::NONE;    // the unit whose main input this is
  unsigned output = Counters::NONE;   // the unit that writes here
};

} // namespace sim
