#include "fabric.hpp"

#include <cstdio>

namespace sim {

namespace {

template <typename T, unsigned DEPTH>
void queue(std::string& text, const Stream<T, DEPTH>& stream) {
  if (!stream.empty())
    text += "  " + stream.name() + ": " + std::to_string(stream.size()) + "/" +
            std::to_string(DEPTH) + "\n";
}

template <unsigned DEPTH> void command(std::string& text, const Commands<DEPTH>& stream) {
  const fields_t* last = stream.last();
  if (last == nullptr)
    return;
  text += "  " + stream.name() + ", last taken:";
  char word[12];
  for (const uint32_t w : last->word) {
    std::snprintf(word, sizeof(word), " %08x", w);
    text += word;
  }
  text += "\n";
}

} // namespace

void Fabric::watch() {
  namespace counted = isa::counted;
  const auto output = [this](unsigned unit, auto&... streams) {
    (streams.watch({.counters = counters_, .output = unit}), ...);
  };
  output(counted::LOAD, weights_, rows_, gains_, load_to_array_, checks_);
  output(counted::PLAN, passes_, demands_);
  output(counted::DRAIN, drain_to_array_);
  output(counted::NORM, norm_to_array_);
  output(counted::SOFTMAX, scales_, softmax_to_array_);
  const auto commands = [this](unsigned reader, unsigned writer, auto& stream) {
    stream.watch({.counters = counters_, .commands = reader, .output = writer});
  };
  commands(counted::LOAD, counted::FETCH, load_commands_);
  commands(counted::PLAN, counted::FETCH, array_commands_);
  commands(counted::DRAIN, counted::FETCH, drain_commands_);
  commands(counted::NORM, counted::FETCH, norm_commands_);
  commands(counted::SOFTMAX, counted::FETCH, softmax_commands_);
  commands(counted::SCORES, counted::PLAN, score_commands_);
  const auto input = [this](unsigned reader, unsigned writer, auto& stream) {
    stream.watch({.counters = counters_, .input = reader, .output = writer});
  };
  // drive_array counts the array's own events.
  input(counted::SCORES, Counters::NONE, score_rows_);
  input(counted::DRAIN, Counters::NONE, sums_);
  input(counted::NORM, counted::DRAIN, moments_);
  input(counted::SOFTMAX, counted::SCORES, maxima_);
  input(counted::STORE, counted::DRAIN, logits_);
  // The host starts fetch and store, so these also report when they begin: a 0.
  const auto retired = [this](unsigned unit, auto& stream) {
    stream.on_write([this, unit](const auto& ends) {
      const uint64_t cycle = scheduler_.current()->end();
      if (ends == 1)
        counters_->ended(unit, cycle);
      else
        counters_->taken(unit, cycle);
    });
  };
  retired(counted::FETCH, fetch_retired_);
  retired(counted::LOAD, load_retired_);
  retired(counted::PLAN, plan_retired_);
  retired(counted::SCORES, scores_retired_);
  retired(counted::DRAIN, drain_retired_);
  retired(counted::NORM, norm_retired_);
  retired(counted::SOFTMAX, softmax_retired_);
  retired(counted::STORE, store_retired_);
}

std::string Fabric::dump() const {
  std::string text = "processes:\n" + scheduler_.dump() + "queues that hold something:\n";
  queue(text, load_commands_);
  queue(text, array_commands_);
  queue(text, drain_commands_);
  queue(text, norm_commands_);
  queue(text, softmax_commands_);
  queue(text, score_commands_);
  queue(text, passes_);
  queue(text, demands_);
  queue(text, weights_);
  queue(text, rows_);
  queue(text, gains_);
  queue(text, lane_jobs_);
  queue(text, lane_rows_);
  queue(text, attention_tiles_);
  queue(text, lane_beats_);
  queue(text, sums_);
  queue(text, score_rows_);
  queue(text, moments_);
  queue(text, maxima_);
  queue(text, scales_);
  queue(text, logits_);
  queue(text, checks_);
  queue(text, load_to_array_);
  queue(text, array_to_load_);
  queue(text, drain_to_array_);
  queue(text, norm_to_array_);
  queue(text, softmax_to_array_);
  text += "commands:\n";
  command(text, load_commands_);
  command(text, array_commands_);
  command(text, drain_commands_);
  command(text, norm_commands_);
  command(text, softmax_commands_);
  return text;
}

} // namespace sim
