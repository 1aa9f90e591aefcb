#include "timing.hpp"

#include <map>

#include "isa.hpp"

namespace sim {

namespace {

namespace declared = isa::declared;

// Loops whose interval is not 1.
const std::map<std::string, uint64_t> INTERVALS = {
    {"fetch.commands", declared::FETCH_INTERVAL},
    {"plan.pass", declared::PLAN_INTERVAL},
    {"plan.wait", 0},
    // NORM_ROOT is for a group, with the loops over its bits.
    {"norm.group", declared::NORM_ROOT},
    {"norm.root", 0},
    {"norm.invert", 0},
    // LOOP_GAP is between two columns, with the division.
    {"norm.divide", 0},
    {"softmax.group", 0},
};

// Queues at the ends of pipelines. A declared depth counts from the interval's end.
const std::map<std::string, uint64_t> DEPTHS = {
    {"passes", declared::PLAN_INTERVAL},
    {"scores.largest", declared::SCORE_DEPTH},
    {"drain.filled", declared::FILL_DEPTH},
    {"drain.scale_words", 1},
    {"drain.stored", 1 + declared::REQUANTIZE_DEPTH},
    {"drain.waiting", 1 + declared::REQUANTIZE_DEPTH},
    {"logits", 1 + declared::REQUANTIZE_DEPTH},
    {"norm.filled", declared::FILL_DEPTH},
    {"norm.roots", declared::NORM_ROOT},
    {"norm.stored", declared::NORM_DEPTH - declared::NORM_ROOT},
    // The reciprocals follow the sums; both declared as one.
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
