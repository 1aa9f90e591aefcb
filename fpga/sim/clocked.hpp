// Lets a fiber that advances cycle by cycle sleep while nothing happens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "fibers.hpp"

namespace sim {

// Names the queue that an idle fiber waits for, for a dump.
struct Waits {
  const char* verb;
  const std::string* queue;
};

// Sleeps until a queue changes, and returns the cycle of the change, in which the fiber goes on.
// `changes` returns the next cycle in which each queue has an item or room (NEVER: not known), and
// `wake` makes the queues wake the fiber. The last step was in the fiber's present cycle.
template <typename Changes, typename Wake>
uint64_t wait_for_change(const Waits& waits, const Changes& changes, const Wake& wake) {
  Scheduler& scheduler = Scheduler::get();
  Fiber* fiber = scheduler.current();
  const uint64_t now = fiber->now;
  const auto before = changes();
  while (true) {
    const auto after = changes();
    uint64_t next = NEVER;
    for (size_t i = 0; i < after.size(); ++i)
      if (after[i] > now || after[i] != before[i])
        next = std::min(next, std::max(after[i], now + 1));
    if (next == fiber->now && scheduler.quiet())
      return next;
    wake();
    if (next != NEVER) {
      fiber->now = next;
      scheduler.suspend_once();
    } else {
      fiber->now = now;
      fiber->verb = waits.verb;
      fiber->queue = waits.queue;
      scheduler.block();
    }
  }
}

} // namespace sim
