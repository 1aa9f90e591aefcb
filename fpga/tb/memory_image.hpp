// Builds the accelerator's memory contents: commands with checks, matrices, transfers with checks.
// Written from docs/accelerator.md, independently of the sources under test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "memory.hpp"

// Returns a command with its head and two more words set.
inline command_t raw_command(unsigned unit, unsigned code, uint32_t word1 = 0, uint32_t word3 = 0) {
  return {{unit | code << 3, word1, 0, word3, 0, 0, 0, 0}};
}

// Continues the CRC-32 `before` with more bytes, bit by bit.
inline uint32_t check_of(const std::vector<uint8_t>& bytes, uint32_t before = 0) {
  uint32_t state = ~before;
  for (const uint8_t byte : bytes)
    for (unsigned bit = 0; bit < 8; ++bit) {
      const bool odd = ((state ^ byte >> bit) & 1) != 0;
      state = odd ? state >> 1 ^ 0xedb88320u : state >> 1;
    }
  return ~state;
}

// Sets the eighth word of each command: the CRC-32 of its first four words, continued from the
// eighth word of the previous command (first command: from the segment's seed XOR its number of
// commands).
inline void seal(std::vector<command_t>& list, uint32_t seed) {
  seed ^= uint32_t(list.size());
  for (command_t& command : list) {
    std::vector<uint8_t> bytes;
    for (unsigned i = 0; i < 16; ++i)
      bytes.push_back(uint8_t(command.word[i / 4] >> (8 * (i % 4))));
    seed = check_of(bytes, seed);
    command.word[7] = seed;
  }
}

// A row of a matrix: its weights and its parameters.
struct MatrixRow {
  std::vector<int> weights;
  bool eight_bit;
  int bias, mult;
  unsigned shift, destination, column;
  int pair = -1; // of the head, if the row is rotated
};

// Appends a row's parameters in memory format.
inline void append_parameters(std::vector<uint8_t>& bytes, const MatrixRow& row) {
  const auto put = [&bytes](uint64_t value, unsigned count) {
    for (unsigned i = 0; i < count; ++i)
      bytes.push_back(uint8_t(value >> (8 * i)));
  };
  put(uint64_t(row.bias), 4);
  put(uint64_t(row.mult), 2);
  put(row.shift, 1);
  put(row.destination, 1);
  put(row.column, 2);
  const bool rotates = row.pair >= 0;
  put(rotates ? 0 : row.column / config::VALUE_BANKS, 2);
  put(rotates ? unsigned(row.pair) : row.column % config::VALUE_BANKS, 1);
  put(0, 3);
}

// A tile of row pairs in memory format.
struct RowTile {
  std::vector<uint8_t> weights, parameters;
};

// Divides a matrix into tiles. 4-bit rows come first, two to a pair. The weights are padded to a
// whole word of CASCADE columns.
inline std::vector<RowTile> row_tiles(const std::vector<MatrixRow>& rows) {
  std::vector<RowTile> tiles;
  unsigned pairs = 0; // in the last tile
  for (size_t i = 0; i < rows.size(); ++pairs) {
    if (pairs % config::PAIRS == 0) {
      const size_t cascade = config::CASCADE;
      const size_t words = (rows[i].weights.size() + cascade - 1) / cascade;
      tiles.push_back({std::vector<uint8_t>(words * cascade * config::PAIRS), {}});
      pairs = 0;
    }
    const MatrixRow& first = rows[i];
    const bool two = !first.eight_bit && i + 1 < rows.size() && !rows[i + 1].eight_bit;
    for (size_t k = 0; k < first.weights.size(); ++k) {
      const int low = first.weights[k], high = two ? rows[i + 1].weights[k] : 0;
      tiles.back().weights[k * config::PAIRS + config::PAIRS - 1 - pairs] =
          uint8_t(first.eight_bit ? low : (high & 15) << 4 | (low & 15));
    }
    for (const size_t end = i + (two ? 2 : 1); i < end; ++i)
      append_parameters(tiles.back().parameters, rows[i]);
  }
  return tiles;
}

// An arena in logical order; `stripe` extracts the bytes of a port.
class Arena {
  static constexpr size_t BEAT = sizeof(beat_t);
  std::vector<uint8_t> bytes_;

public:
  uint32_t numbers[2] = {}; // by frame slot: number of the next transfer
  // Appends a transfer and its check XOR a key. Returns the index of its first beat.
  uint32_t add(std::vector<uint8_t> data, uint32_t key = 0) {
    const uint32_t first = uint32_t(bytes_.size() / BEAT);
    data.resize((data.size() + BEAT - 1) / BEAT * BEAT);
    const uint32_t check = check_of(data) ^ key;
    for (unsigned j = 0; j < 4; ++j)
      data.push_back(uint8_t(check >> (8 * j)));
    data.resize((data.size() + BEAT - 1) / BEAT * BEAT);
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    return first;
  }
  uint32_t beats() const { return uint32_t(bytes_.size() / BEAT); }
  uint8_t& at(size_t byte) { return bytes_[byte]; }
  size_t stripe_bytes() const { return size_t(beats()) * 16; }
  void stripe(unsigned port, uint8_t* out) const {
    for (size_t beat = 0; beat < beats(); ++beat)
      for (size_t j = 0; j < 16; ++j)
        out[16 * beat + j] = bytes_[BEAT * beat + 16 * port + j];
  }
};
