// Returns the cycles of the kernels' loops and queues, from rust/hardware/src/declared.rs. Depends
// on nothing.
#pragma once

#include <cstdint>
#include <string>

namespace sim {

// Returns the cycles of a loop's initiation interval. 0: the interval of an outer loop includes
// them.
uint64_t interval_cycles(const std::string& loop);

// Returns the cycles from the begin of an interval to the item that it writes to a queue.
uint64_t queue_cycles(const std::string& queue);

} // namespace sim
