// The array as its neighbours see it: the signals of its queues in a cycle of the kernels (a slow
// cycle), and the memories that it reads. The model and the array in SystemVerilog stand behind the
// same interface.
#pragma once

#include <memory>

#include "kernels.hpp"

namespace sim {

using Rams = Memories<Ram, Ram>;

struct ArrayMemories {
  Rams::Input& input;
  Rams::Normed& normed;
  Rams::Query& query;
  Rams::Hidden& hidden;
  Rams::Probability& probability;
  Rams::Key& key;
  Rams::Value& value;
};

// Items that are offered to the array (nullptr: none), and what its neighbours would take.
struct ArrayInputs {
  const packed_pass_t* pass = nullptr;
  const demand_t* demand = nullptr;
  const beat_t* beat = nullptr;
  bool takes_credit = false; // of array_to_load
  bool takes_sums = false;
  bool takes_scores = false;
};

// The array's side. What it offers is taken if the inputs say so. Pointers are valid until the next
// step.
struct ArrayOutputs {
  bool takes_pass = false;
  bool takes_demand = false;
  bool takes_beat = false;
  bool credit = false;
  const sums_t* sums = nullptr;
  const score_row_t* scores = nullptr;
};

class ArrayCore {
public:
  virtual ~ArrayCore() = default;
  // Advances one slow cycle. The first one is the first after a reset.
  virtual ArrayOutputs step(const ArrayInputs& inputs) = 0;
  // Returns true if further steps change nothing while the inputs stay as they are.
  virtual bool settled() const = 0;
};

std::unique_ptr<ArrayCore> make_array(const ArrayMemories& memories);

// Steps an array between queues, in a fiber of its own.
template <typename P, typename D, typename B, typename C, typename S, typename R>
void drive_array(ArrayCore& array, P& passes, D& demands, B& weights, C& array_to_load, S& sums,
                 R& scores) {
  Scheduler& scheduler = Scheduler::get();
  uint64_t* issued = scheduler.counter("array.issue"); // words
  uint64_t owed = 0;                                   // beats of the demands that it has taken
  while (alive()) {
    ArrayInputs in;
    in.pass = passes.peek();
    in.demand = demands.peek();
    in.beat = weights.peek();
    in.takes_credit = !array_to_load.full();
    in.takes_sums = !sums.full();
    in.takes_scores = !scores.full();
    const ArrayOutputs out = array.step(in);
    bool moved = false;
    if (out.takes_pass && in.pass != nullptr) {
      *issued += unsigned(isa::Pass::decode(passes.read()).words);
      moved = true;
    }
    if (out.takes_demand && in.demand != nullptr) {
      const demand_t demand = demands.read();
      owed += unsigned(demand.tiles) *
              uint64_t(ceil_div(unsigned(demand.words) * CASCADE * config::PAIRS, sizeof(beat_t)));
      moved = true;
    }
    if (out.takes_beat && in.beat != nullptr) {
      weights.read();
      --owed;
      moved = true;
    }
    if (out.credit && in.takes_credit) {
      array_to_load.put(1);
      moved = true;
    }
    if (out.sums != nullptr && in.takes_sums) {
      sums.put(*out.sums);
      moved = true;
    }
    if (out.scores != nullptr && in.takes_scores) {
      scores.put(*out.scores);
      moved = true;
    }
    if (moved) {
      scheduler.point();
    } else if (!array.settled()) {
      scheduler.yield();
    } else {
      Fiber* fiber = scheduler.current();
      passes.wake_when_written(fiber);
      demands.wake_when_written(fiber);
      weights.wake_when_written(fiber);
      if (array_to_load.full())
        array_to_load.wake_when_read(fiber);
      if (sums.full())
        sums.wake_when_read(fiber);
      if (scores.full())
        scores.wake_when_read(fiber);
      const bool full = sums.full() || scores.full();
      fiber->verb = full ? "writes" : "reads";
      fiber->queue = sums.full()     ? &sums.name()
                     : scores.full() ? &scores.name()
                     : owed > 0      ? &weights.name()
                                     : &passes.name();
      scheduler.block();
    }
  }
}

} // namespace sim
