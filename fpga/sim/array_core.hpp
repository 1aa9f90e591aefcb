// Declares the interface of the simulated array: the handshakes of its queues in a cycle of the
// kernels (a slow cycle), and the memories that it reads. The model and the SystemVerilog both
// implement it.
#pragma once

#include <array>
#include <memory>

#include "clocked.hpp"
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

// Valid inputs of the array (nullptr: not valid), and the ready signals of its outputs.
struct ArrayInputs {
  const packed_pass_t* pass = nullptr;
  const demand_t* demand = nullptr;
  const beat_t* beat = nullptr;
  bool takes_credit = false; // of array_to_load
  bool takes_sums = false;
  bool takes_scores = false;
};

// Ready signals of the array's inputs, and its valid outputs. A transfer happens if valid and ready
// hold in the same step. Pointers are valid until the next step.
struct ArrayOutputs {
  bool takes_pass = false;
  bool takes_demand = false;
  bool takes_beat = false;
  bool credit = false;
  const sums_t* sums = nullptr;
  const score_row_t* scores = nullptr;
  unsigned retired = 0; // passes whose last word was issued
  bool starved = false; // the next pass waits for weights only
};

class ArrayCore {
public:
  virtual ~ArrayCore() = default;
  // Advances one slow cycle. The first step is the first cycle after a reset.
  virtual ArrayOutputs step(const ArrayInputs& inputs) = 0;
  // Returns true if further steps change nothing while the inputs are constant.
  virtual bool quiet() const = 0;
  // Advances the clock by some cycles without a step. Requires `quiet`.
  virtual void skip(uint64_t) {}
};

std::unique_ptr<ArrayCore> make_array(const ArrayMemories& memories);

// Steps an array between its queues, in its own fiber. The step of a cycle runs after everything
// that the other processes do up to that cycle.
template <typename P, typename D, typename B, typename C, typename S, typename R>
void drive_array(ArrayCore& array, P& passes, D& demands, B& weights, C& array_to_load, S& sums,
                 R& scores, Counters* counters = nullptr) {
  Scheduler& scheduler = Scheduler::get();
  Fiber* fiber = scheduler.current();
  uint64_t* issued = &scheduler.loop("array.issue").count; // words of all passes
  uint64_t owed = 0;                                       // beats demanded but not taken yet
  while (alive()) {
    scheduler.await();
    const uint64_t now = fiber->now;
    ArrayInputs in;
    in.pass = passes.peek(now);
    in.demand = demands.peek(now);
    in.beat = weights.peek(now);
    in.takes_credit = array_to_load.has_room(now);
    in.takes_sums = sums.has_room(now);
    in.takes_scores = scores.has_room(now);
    const ArrayOutputs out = array.step(in);
    bool moved = false;
    if (out.takes_pass && in.pass != nullptr) {
      *issued += unsigned(isa::Pass::decode(passes.read()).words);
      if (counters != nullptr)
        counters->taken(isa::counted::ARRAY, now);
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
    const bool blocked = (out.credit && !in.takes_credit) ||
                         (out.sums != nullptr && !in.takes_sums) ||
                         (out.scores != nullptr && !in.takes_scores);
    const auto count = [&](uint64_t end) {
      if (blocked && counters != nullptr)
        counters->blocked(isa::counted::ARRAY, now, end);
      if (out.starved && counters != nullptr)
        counters->starved(isa::counted::ARRAY, now, end);
    };
    for (unsigned i = 0; i < out.retired && counters != nullptr; ++i)
      counters->ended(isa::counted::ARRAY, now);
    if (moved || !array.quiet()) {
      count(now + 1);
      ++fiber->now;
      continue;
    }
    // The array is idle until an input changes. A valid input that the array did not take does not
    // change.
    const bool full = sums.full() || scores.full();
    const std::string* waits_for = sums.full()     ? &sums.name()
                                   : scores.full() ? &scores.name()
                                   : owed > 0      ? &weights.name()
                                                   : &passes.name();
    const uint64_t next = wait_for_change(
        {full ? "writes" : "reads", waits_for},
        [&] {
          return std::array{passes.next_item(),        demands.next_item(), weights.next_item(),
                            array_to_load.next_room(), sums.next_room(),    scores.next_room()};
        },
        [&] {
          passes.wake_when_written(fiber);
          demands.wake_when_written(fiber);
          weights.wake_when_written(fiber);
          array_to_load.wake_when_read(fiber);
          sums.wake_when_read(fiber);
          scores.wake_when_read(fiber);
        });
    count(next);
    array.skip(next - now - 1);
  }
}

} // namespace sim
