// The check of a transfer: the sum of its 32-bit words, each rotated left by its index mod 31.
#pragma once

#include <cstdint>

constexpr unsigned CHECK_TURNS = 31;

inline uint32_t rotate_left(uint32_t word, unsigned turn) {
#pragma HLS INLINE
  return turn == 0 ? word : (word << turn) | (word >> (32 - turn));
}

// Returns the turn after `words` more words.
inline unsigned turned(unsigned turn, unsigned words) {
#pragma HLS INLINE
  const unsigned next = turn + words % CHECK_TURNS;
  return next >= CHECK_TURNS ? next - CHECK_TURNS : next;
}
