// The block `counters`: what each unit does, from the times at which items come and go. Cycles are
// those of the processes' clocks. Depends on the ISA's header alone.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "isa.hpp"

namespace sim {

// A set of cycles, which may be added in any order.
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

  // Clears all counters, which then count from this cycle on; or lets them stand still from this
  // cycle on.
  void run(uint64_t cycle);
  void hold(uint64_t cycle);
  bool running() const { return running_; }
  // Returns the cycles that were counted up to `now`, or a unit's counter.
  uint32_t cycles(uint64_t now) const;
  uint32_t read(unsigned unit, unsigned counter, uint64_t now) const;

  // A unit takes a command, or ends the oldest one.
  void taken(unsigned unit, uint64_t cycle) { units_[unit].open.push_back(cycle); }
  void ended(unsigned unit, uint64_t cycle);
  // In these cycles an output queue of the unit refuses an item; the unit's main input has nothing.
  void blocked(unsigned unit, uint64_t from, uint64_t to) { add(units_[unit].blocked, from, to); }
  void starved(unsigned unit, uint64_t from, uint64_t to) { add(units_[unit].starved, from, to); }
  // Gives the cycles in which the unit's main input has nothing since the last call of `starved`.
  using Empty = std::function<std::pair<uint64_t, uint64_t>()>;
  void add_input(unsigned unit, Empty empty) { units_[unit].empty = std::move(empty); }

private:
  struct Unit {
    uint64_t commands = 0;
    std::deque<uint64_t> open; // cycles in which commands were taken that have not ended
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

// The units that a queue belongs to.
struct Watch {
  Counters* counters = nullptr;
  unsigned commands = Counters::NONE; // the unit that takes its commands here
  unsigned input = Counters::NONE;    // the unit whose main input this is
  unsigned output = Counters::NONE;   // the unit that writes here
};

} // namespace sim
