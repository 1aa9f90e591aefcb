// Cycles of the kernels' loops and queues, as rust/hardware/src/declared.rs declares them. Depends
// on nothing.
#pragma once

#include <cstdint>
#include <string>

namespace sim {

// Returns the cycles of an initiation interval of a loop, by the loop's name. 0: a loop within an
// interval of another, which declares the cycles of both.
uint64_t interval_cycles(const std::string& loop);

// Returns the cycles from the interval that writes an item to the item, by the queue's name.
uint64_t queue_cycles(const std::string& queue);

} // namespace sim
