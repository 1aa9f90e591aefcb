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
