// Commands from their fields, as isa.hpp reads them, and transfers with their checks: written from
// docs/accelerator.md, apart from the sources under test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "types.hpp"

struct Value {
  unsigned word, lsb, count;
  uint64_t value;
};

inline command_t assemble(unsigned unit, unsigned code, std::initializer_list<Value> values) {
  command_t command{};
  command.word[0] = unit | code << 3;
  for (const Value& v : values) {
    const uint64_t bits = (v.value & ((uint64_t(1) << v.count) - 1)) << v.lsb;
    command.word[v.word] |= uint32_t(bits);
    if (v.count > 32)
      command.word[v.word + 1] |= uint32_t(bits >> 32);
  }
  return command;
}

// The sum of the words, each rotated left by its index mod 31.
inline uint32_t check_of(const std::vector<uint8_t>& bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size() / 4; ++i) {
    uint64_t word = 0;
    for (unsigned j = 0; j < 4; ++j)
      word |= uint64_t(bytes[4 * i + j]) << (8 * j);
    word <<= i % 31;
    sum += uint32_t(word) | uint32_t(word >> 32);
  }
  return sum;
}

// The eighth word of each: the sum of the eighth word before it, or of the segment's seed, and of its own
// seven others, each rotated left by its place from 1 on.
inline void seal(std::vector<command_t>& list, uint32_t seed) {
  for (command_t& command : list) {
    for (unsigned i = 0; i < 7; ++i) {
      const uint64_t turned = uint64_t(command.word[i]) << (i + 1);
      seed += uint32_t(turned) | uint32_t(turned >> 32);
    }
    command.word[7] = seed;
  }
}

// The arena in logical order, and its stripes.
class Arena {
  static constexpr size_t BEAT = 16 * config::PORTS;
  std::vector<uint8_t> bytes_;

public:
  // Appends a transfer and its check; its first beat.
  uint32_t add(std::vector<uint8_t> data) {
    const uint32_t first = uint32_t(bytes_.size() / BEAT);
    data.resize((data.size() + BEAT - 1) / BEAT * BEAT);
    const uint32_t check = check_of(data);
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
