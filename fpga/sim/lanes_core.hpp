// Declares the interface of the simulated lanes. The model and the SystemVerilog both implement it.
#pragma once

#include "array_core.hpp"
#include "counters.hpp"
#include "kernels.hpp"

namespace sim {

struct LaneQueues {
  LaneJobs& jobs;
  LaneRows& rows;
  AttentionTiles& attention_tiles;
  Scales& scales;
  Beats<isa::depth::lane_beats>& beats;
  Sums& sums;
  Moments& moments;
  Logits& logits;
  Credits<isa::depth::drain_to_array>& drain_to_array;
  Retired& retired;
};

// `residual` is the lanes' own copy, `norm_residual` the norm's.
struct LaneMemories {
  Rams::Residual& residual;
  Rams::Residual& norm_residual;
  Rams::Query& query;
  Rams::Key& key;
  Rams::Value& value;
  Rams::Hidden& hidden;
};

// Runs the lanes in the calling fiber. Never returns.
void run_lanes(const LaneQueues& queues, const LaneMemories& memories);

} // namespace sim
