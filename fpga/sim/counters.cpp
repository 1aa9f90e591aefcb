#include "counters.hpp"

#include <algorithm>
#include <bit>

namespace sim {

namespace {

constexpr uint64_t BITS = 64;

// Clamps a count to 32 bits, as the hardware's counters saturate.
uint32_t saturated(uint64_t value) { return uint32_t(std::min<uint64_t>(value, ~uint32_t(0))); }

} // namespace

void Cycles::add(uint64_t from, uint64_t to) {
  if (from >= to)
    return;
  if (words_.size() * BITS < to)
    words_.resize(std::max<size_t>((to + BITS - 1) / BITS, words_.size() * 2));
  for (uint64_t word = from / BITS; word <= (to - 1) / BITS; ++word) {
    const uint64_t low = word == from / BITS ? from % BITS : 0;
    const uint64_t high = word == (to - 1) / BITS ? (to - 1) % BITS : BITS - 1;
    words_[word] |= (~uint64_t(0) >> (BITS - 1 - high)) & (~uint64_t(0) << low);
  }
}

uint64_t Cycles::common(const Cycles& a, const Cycles& b, uint64_t end) {
  uint64_t count = 0;
  for (uint64_t word = 0; word < std::min(a.words_.size(), b.words_.size()); ++word) {
    if (word * BITS >= end)
      break;
    uint64_t both = a.words_[word] & b.words_[word];
    if (end - word * BITS < BITS)
      both &= ~(~uint64_t(0) << (end - word * BITS));
    count += uint64_t(std::popcount(both));
  }
  return count;
}

void Counters::run(uint64_t cycle) {
  for (Unit& unit : units_) {
    unit.commands = 0;
    unit.busy.clear();
    unit.blocked.clear();
    unit.starved.clear();
  }
  start_ = cycle;
  running_ = true;
}

void Counters::hold(uint64_t cycle) {
  if (running_)
    end_ = std::max(cycle, start_);
  running_ = false;
}

void Counters::add(Cycles& cycles, uint64_t from, uint64_t to) const {
  if (running_ && to > start_)
    cycles.add(std::max(from, start_) - start_, to - start_);
}

void Counters::ended(unsigned unit, uint64_t cycle) {
  Unit& counted = units_[unit];
  if (counted.open.empty())
    return;
  add(counted.busy, counted.open.front(), cycle);
  counted.open.pop_front();
  if (running_ && cycle >= start_)
    ++counted.commands;
}

uint32_t Counters::cycles(uint64_t now) const { return saturated(length(now)); }

uint32_t Counters::read(unsigned unit, unsigned counter, uint64_t now) const {
  const Unit& counted = units_[unit];
  if (counter == isa::counter::COMMANDS)
    return saturated(counted.commands);
  const uint64_t end = length(now);
  Cycles busy = counted.busy;
  for (const uint64_t taken : counted.open)
    if (taken < start_ + end)
      busy.add(std::max(taken, start_) - start_, end);
  switch (counter) {
  case isa::counter::BUSY:
    return saturated(Cycles::common(busy, busy, end));
  case isa::counter::BLOCKED:
    return saturated(Cycles::common(busy, counted.blocked, end));
  default:
    break;
  }
  Cycles starved = counted.starved;
  if (counted.empty) {
    const auto [from, to] = counted.empty();
    if (from < start_ + end && to > start_)
      starved.add(std::max(from, start_) - start_, std::min(to, start_ + end) - start_);
  }
  return saturated(Cycles::common(busy, starved, end));
}

} // namespace sim
