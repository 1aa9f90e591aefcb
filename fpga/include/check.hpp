// The check of a transfer: the sum of its 32-bit words, each rotated left by its index mod
// CHECK_TURNS.
#pragma once

#include "isa.hpp"

#include <cstdint>

inline uint32_t rotate_left(uint32_t word, unsigned turn) {
#pragma HLS INLINE
  return turn == 0 ? word : (word << turn) | (word >> (32 - turn));
}

// Returns the turn after `words` more words.
inline unsigned turned(unsigned turn, unsigned words) {
#pragma HLS INLINE
  const unsigned next = turn + words % isa::CHECK_TURNS;
  return next >= isa::CHECK_TURNS ? next - isa::CHECK_TURNS : next;
}
