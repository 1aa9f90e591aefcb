// Runs fpga/rtl/array.sv on the tile passes of a file and prints, cycle by cycle, what it issues
// and what leaves it.
//
// Lines of the file: `options SEED STALL_PERCENT BEAT_INTERVAL QUEUE_DEPTH`; `load COLUMNS BYTES`;
// `pass FIELDS... ACTIVATIONS ROW_OPERANDS` (fields as in array_types.sv; bytes in hexadecimal, -
// for none). A queue of QUEUE_DEPTH takes a beat every BEAT_INTERVAL cycles; without one (0) a beat
// comes that many cycles after the one before was taken, the first as many after cycle 0. In a
// cycle one of STALL_PERCENT in 100 draws refuses results. Cycle 0 is the first after reset.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "Varray.h"
#include "verilated.h"

namespace {

using Bytes = std::vector<uint8_t>;

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  if (text != "-")
    for (size_t i = 0; i < text.size(); i += 2)
      bytes.push_back(static_cast<uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

// Ports are little-endian bytes whatever type Verilator gives them.
template <typename Port> void put(Port& port, const uint8_t* bytes, size_t count) {
  std::memcpy(&port, bytes, count);
}

template <typename Port> int64_t item(const Port& port, size_t index, size_t bits) {
  uint8_t bytes[sizeof(Port) + 8] = {};
  std::memcpy(bytes, &port, sizeof(Port));
  uint64_t word;
  std::memcpy(&word, bytes + index * bits / 8, sizeof word);
  word >>= index * bits % 8;
  return static_cast<int64_t>(word << (64 - bits)) >> (64 - bits);
}

struct Load {
  uint32_t columns;
  size_t beats;
};

struct Pass {
  uint64_t fields;
  uint32_t columns;
  Bytes activations, rows;
};

constexpr size_t FIELDS = 12;
constexpr unsigned WIDTHS[FIELDS] = {13, 13, 10, 1, 10, 10, 1, 1, 1, 1, 1, 1};
constexpr size_t SUM_BITS = 27;
constexpr size_t T = ARRAY_T, P = ARRAY_P, L = ARRAY_L, BEAT = ARRAY_BEAT;

} // namespace

int main(int argc, char** argv) {
  if (argc != 2)
    return 2;
  std::ifstream file(argv[1]);
  std::deque<Load> loads;
  std::deque<Pass> passes, reading;
  std::deque<Bytes> coming, queue;
  uint32_t seed = 0, stall_percent = 0, interval = 0;
  size_t depth = 0, expected = 0;
  for (std::string line, word; std::getline(file, line);) {
    std::istringstream in(line);
    in >> word;
    if (word == "options") {
      in >> seed >> stall_percent >> interval >> depth;
    } else if (word == "load") {
      uint32_t columns;
      in >> columns >> word;
      const Bytes bytes = from_hex(word);
      loads.push_back({columns, bytes.size() / BEAT});
      for (size_t i = 0; i < bytes.size(); i += BEAT)
        coming.emplace_back(bytes.begin() + i, bytes.begin() + i + BEAT);
    } else if (word == "pass") {
      Pass pass{};
      uint64_t value[FIELDS];
      for (size_t i = 0; i < FIELDS; i++) {
        in >> value[i];
        pass.fields = pass.fields << WIDTHS[i] | value[i];
      }
      pass.columns = static_cast<uint32_t>(value[0]);
      in >> word;
      pass.activations = from_hex(word);
      in >> word;
      pass.rows = from_hex(word);
      const uint64_t rows = 2 * value[2] - value[3] + value[4];
      expected += value[7] ? rows : value[11] ? rows * value[5] : 0;
      passes.push_back(std::move(pass));
    }
  }

  VerilatedContext context;
  Varray top(&context);
  std::mt19937 random(seed);
  top.reset = 1;
  for (int i = 0; i < 8; i++) {
    top.clk = i % 2;
    top.eval();
  }
  top.reset = 0;

  size_t left = 0, column = 0;
  uint64_t next_beat = 0, taken = 0, idle = 0;
  for (uint64_t cycle = 0; left < expected; cycle++) {
    std::deque<Bytes>& beats = depth ? queue : coming;
    top.clk = 0;
    top.tile_valid = !passes.empty();
    if (top.tile_valid)
      top.tile = passes.front().fields;
    top.load_valid = !loads.empty();
    if (top.load_valid)
      top.load_columns = static_cast<uint16_t>(loads.front().columns);
    top.beat_valid = !beats.empty() && (depth || cycle >= taken + interval);
    if (top.beat_valid)
      put(top.beat, beats.front().data(), BEAT);
    top.sums_ready = top.scores_ready = random() % 100 >= stall_percent;
    top.eval();

    if (top.tile_ready) {
      reading.push_back(std::move(passes.front()));
      passes.pop_front();
    }
    if (top.read_first)
      std::printf("start %lu\n", cycle);
    if (top.read_last)
      std::printf("end %lu\n", cycle);
    if (top.sums_valid && top.sums_ready) {
      std::printf("sum %lu", cycle);
      for (size_t i = 0; i < L; i++)
        std::printf(" %ld", item(top.sums, i, SUM_BITS));
      std::puts("");
      left++;
    }
    if (top.scores_valid && top.scores_ready) {
      std::printf("score %lu", cycle);
      for (size_t i = 0; i < T; i++)
        std::printf(" %ld", item(top.scores, i, SUM_BITS));
      std::puts("");
      left++;
    }
    const bool read = top.read, load = top.load_ready, beat = top.beat_ready;
    idle = read || beat || top.sums_valid || top.scores_valid ? 0 : idle + 1;
    if (idle > 1000 + 64 * interval) {
      std::fprintf(stderr, "nothing happens any more at cycle %lu\n", cycle);
      return 1;
    }
    top.clk = 1;
    top.eval();

    if (read) {
      Pass& pass = reading.front();
      put(top.activations, pass.activations.data() + column * T, T);
      if (!pass.rows.empty())
        put(top.row_operands, pass.rows.data() + column * P, P);
      if (++column == pass.columns) {
        reading.pop_front();
        column = 0;
      }
    }
    if (load)
      loads.pop_front();
    if (beat) {
      beats.pop_front();
      taken = cycle;
    }
    if (depth && !coming.empty() && cycle >= next_beat && queue.size() < depth) {
      queue.push_back(std::move(coming.front()));
      coming.pop_front();
      next_beat = cycle + interval;
    }
  }
  top.final();
}
