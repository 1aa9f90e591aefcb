// Simulates the block design from a reset on: the kernels and the array with their queues and
// memories. One thread creates, runs and destroys it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "array_core.hpp"
#include "dram.hpp"
#include "kernels.hpp"
#include "lanes_core.hpp"

namespace sim {

struct Identity {
  uint32_t magic = 0, abi = 0, hash_low = 0, hash_high = 0, error = 0;
};

class Fabric {
public:
  Fabric(Dram& dram, uint64_t seed, Counters* counters = nullptr)
      : dram_(dram), counters_(counters), scheduler_(seed) {
    if (counters != nullptr)
      watch();
    scheduler_.spawn("plan", [this] {
      plan(array_commands_, load_to_array_, drain_to_array_, norm_to_array_, softmax_to_array_,
           passes_, demands_, score_commands_, plan_retired_);
    });
    scheduler_.spawn("array", [this] {
      drive_array(*array_, passes_, demands_, weights_, array_to_load_, sums_, score_rows_,
                  counters_);
    });
    scheduler_.spawn("scores", [this] {
      scores(score_commands_, score_rows_, maxima_, scores_retired_, Write::Score(score_));
    });
    scheduler_.spawn("drain", [this] {
      drain(drain_commands_, rows_, lane_jobs_, lane_rows_, attention_tiles_, lane_beats_);
    });
    scheduler_.spawn("lanes", [this] {
      run_lanes({lane_jobs_, lane_rows_, attention_tiles_, scales_, lane_beats_, sums_, moments_,
                 logits_, drain_to_array_, drain_retired_},
                {residual_, norm_residual_, query_, key_, value_, hidden_});
    });
    scheduler_.spawn("norm", [this] {
      norm(norm_commands_, gains_, moments_, norm_to_array_, norm_retired_,
           Read::Residual(norm_residual_), Write::Normed(normed_));
    });
    scheduler_.spawn("softmax", [this] {
      softmax(softmax_commands_, maxima_, scales_, softmax_to_array_, softmax_retired_,
              Read::Score(score_), Write::Probability(probability_));
    });
  }

  // Start a kernel in cycle `at` or later. `done` gets the cycle in which the kernel returns. load
  // never returns.
  void start_load(const uint64_t (&arena)[isa::MAX_PORTS], uint32_t seed, uint64_t at = 0) {
    load_started_ = true;
    const auto run = [this, a = arena[0], b = arena[1], c = arena[2], d = arena[3], seed] {
      load(Bus<port_t>(dram_, a).watched(counters_, isa::counted::LOAD), Bus<port_t>(dram_, b),
           Bus<port_t>(dram_, c), Bus<port_t>(dram_, d), seed, load_commands_, weights_, rows_,
           gains_, array_to_load_, load_to_array_, checks_, load_retired_, Write::Input(input_));
    };
    scheduler_.spawn("load", run, at);
  }
  void start_fetch(uint64_t commands, uint32_t count, uint32_t input, uint32_t seed,
                   std::function<void(Identity, uint64_t)> done, uint64_t at = 0) {
    const auto run = [this, commands, count, input, seed, done = std::move(done)] {
      Identity identity;
      // Memory delivers one beat a cycle to fetch, whose beats are few.
      const auto bus = Bus<port_t>(dram_, commands, false, isa::declared::TICKS)
                           .watched(counters_, isa::counted::FETCH);
      fetch(bus, count, input, seed, load_commands_, array_commands_, drain_commands_,
            norm_commands_, softmax_commands_, fetch_retired_, &identity.magic, &identity.abi,
            &identity.hash_low, &identity.hash_high, &identity.error);
      done(identity, scheduler_.current()->end());
    };
    scheduler_.spawn("fetch", run, at);
  }
  void start_store(uint64_t output, uint32_t count, std::function<void(uint64_t)> done,
                   uint64_t at = 0) {
    const auto run = [this, output, count, done = std::move(done)] {
      store(Bus<port_t>(dram_, output), count, logits_, checks_, store_retired_);
      done(scheduler_.current()->end());
    };
    scheduler_.spawn("store", run, at);
  }

  Scheduler& scheduler() { return scheduler_; }
  // Returns true if processes wait for the host to start load or store.
  bool waits_for_host(bool store_runs) const {
    return !load_started_ || (!store_runs && (logits_.full() || checks_.full()));
  }
  // Describes the waiting processes, the queues that hold items, and each unit's last command.
  std::string dump() const;

  // Testbenches derive from this class and act as fetch and load.
protected:
  // Connects the counters to the queues.
  void watch();

  Dram& dram_;
  Counters* counters_;
  bool load_started_ = false;

  Commands<isa::depth::load_commands> load_commands_{"load_commands"};
  Commands<isa::depth::array_commands> array_commands_{"array_commands"};
  Commands<isa::depth::drain_commands> drain_commands_{"drain_commands"};
  Commands<isa::depth::norm_commands> norm_commands_{"norm_commands"};
  Commands<isa::depth::softmax_commands> softmax_commands_{"softmax_commands"};
  ScoreCommands score_commands_{"score_commands"};
  Passes passes_{"passes"};
  Demands demands_{"demands"};
  Beats<isa::depth::weights> weights_{"weights"};
  Beats<isa::depth::rows> rows_{"rows"};
  Beats<isa::depth::gains> gains_{"gains"};
  Sums sums_{"sums"};
  ScoreRows score_rows_{"scores"};
  Moments moments_{"moments"};
  Maxima maxima_{"maxima"};
  Scales scales_{"scales"};
  LaneJobs lane_jobs_{"lane_jobs"};
  LaneRows lane_rows_{"lane_rows"};
  AttentionTiles attention_tiles_{"attention_tiles"};
  Beats<isa::depth::lane_beats> lane_beats_{"lane_beats"};
  Logits logits_{"logits"};
  Checks checks_{"checks"};
  Credits<isa::depth::load_to_array> load_to_array_{"load_to_array"};
  Credits<isa::depth::array_to_load> array_to_load_{"array_to_load"};
  Credits<isa::depth::drain_to_array> drain_to_array_{"drain_to_array"};
  Credits<isa::depth::norm_to_array> norm_to_array_{"norm_to_array"};
  Credits<isa::depth::softmax_to_array> softmax_to_array_{"softmax_to_array"};
  Retired fetch_retired_, load_retired_, plan_retired_, scores_retired_, drain_retired_,
      norm_retired_, softmax_retired_, store_retired_;

  Rams::Input input_{"input"};
  Rams::Residual residual_{"residual"};
  Rams::Residual norm_residual_{"norm_residual"};
  Rams::Normed normed_{"normed"};
  Rams::Query query_{"query"};
  Rams::Key key_{"key"};
  Rams::Value value_{"value"};
  Rams::Score score_{"score"};
  Rams::Probability probability_{"probability"};
  Rams::Hidden hidden_{"hidden"};

  std::unique_ptr<ArrayCore> array_ =
      make_array({input_, normed_, query_, hidden_, probability_, key_, value_});
  Scheduler scheduler_; // last member: its destructor unwinds fibers that use the others
};

} // namespace sim
