// Builds the accelerator's memory contents: commands with checks, rows' parameters, transfers.
// Written from docs/accelerator.md, independently of the sources under test.
#pragma once

#include <algorithm>
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

// The parameters of a row of a matrix.
struct RowNumbers {
  int bias, mult;
  unsigned shift, destination, column;
  int pair = -1; // of the head, if the row is rotated
};

// Appends a row's parameters in memory format.
inline void append_parameters(std::vector<uint8_t>& bytes, const RowNumbers& row) {
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

// Returns the rows of each row pair, tile by tile. Rows count those of 4 bits first.
inline std::vector<std::vector<std::vector<unsigned>>> tiles_of(unsigned rows4, unsigned rows8) {
  std::vector<std::vector<unsigned>> pairs4, pairs8;
  for (unsigned r = 0; r < rows4; r += 2)
    pairs4.push_back(r + 1 < rows4 ? std::vector{r, r + 1} : std::vector{r});
  for (unsigned r = rows4; r < rows4 + rows8; ++r)
    pairs8.push_back({r});
  const size_t p = config::PAIRS, whole4 = pairs4.size() / p, whole8 = pairs8.size() / p;
  std::vector<std::vector<std::vector<unsigned>>> tiles;
  size_t fours = 0, eights = 0;
  while (fours < whole4 || eights < whole8) {
    const bool four = eights == whole8 ||
                      (fours < whole4 && fours * pairs8.size() < (eights + 1) * pairs4.size());
    const auto from =
        four ? pairs4.begin() + long(fours++ * p) : pairs8.begin() + long(eights++ * p);
    tiles.emplace_back(from, from + long(p));
  }
  std::vector<std::vector<unsigned>> rest(pairs4.begin() + long(whole4 * p), pairs4.end());
  rest.insert(rest.end(), pairs8.begin() + long(whole8 * p), pairs8.end());
  for (size_t i = 0; i < rest.size(); i += p)
    tiles.emplace_back(rest.begin() + long(i), rest.begin() + long(std::min(i + p, rest.size())));
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
