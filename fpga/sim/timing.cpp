#include "timing.hpp"

#include <map>

#include "config.hpp"
#include "isa.hpp"

namespace sim {

namespace {

namespace declared = isa::declared;

// Loops whose initiation interval is not 1.
const std::map<std::string, uint64_t> INTERVALS = {
    {"fetch.commands", declared::FETCH_INTERVAL},
    {"plan.pass", declared::PLAN_INTERVAL},
    {"plan.wait", 0},
    // NORM_ROOT covers a group, including the loops over bits.
    {"norm.group", declared::NORM_ROOT},
    {"norm.root", 0},
    {"norm.invert", 0},
    // LOOP_GAP covers the division between two columns.
    {"norm.divide", 0},
    {"softmax.group", 0},
};

// Queues at the ends of pipelines. The declared depths count from the end of an interval; 1 is the
// interval.
const std::map<std::string, uint64_t> DEPTHS = {
    {"passes", declared::PLAN_INTERVAL},
    // Written in the interval after that of the last row.
    {"scores.largest", declared::SCORE_DEPTH - 1},
    {"drain.filled", declared::FILL_DEPTH},
    {"lanes.logits", 1 + config::REQUANTIZE_DEPTH},
    {"lanes.scale_words", 1},
    {"lanes.stored", 1 + config::REQUANTIZE_DEPTH},
    {"lanes.waiting", 1 + config::REQUANTIZE_DEPTH},
    {"norm.filled", declared::FILL_DEPTH},
    {"norm.roots", declared::NORM_ROOT},
    {"norm.stored", declared::NORM_DEPTH - declared::NORM_ROOT},
    // EXPONENTIAL_DEPTH covers the sums and the reciprocals.
    {"softmax.totals", 1},
    {"softmax.stored", 1 + declared::EXPONENTIAL_DEPTH},
    {"scales", declared::EXPONENTIAL_DEPTH},
};

uint64_t find(const std::map<std::string, uint64_t>& table, const std::string& name,
              uint64_t otherwise) {
  const auto found = table.find(name);
  return found == table.end() ? otherwise : found->second;
}

} // namespace

uint64_t interval_cycles(const std::string& loop) { return find(INTERVALS, loop, 1); }
uint64_t queue_cycles(const std::string& queue) { return find(DEPTHS, queue, 0); }

} // namespace sim
