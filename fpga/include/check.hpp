// The check of a transfer, of a command and of logits: CRC-32, as Ethernet and zlib have it. A
// check's state is the complement of the CRC so far. It takes words in the order of memory, the
// lowest bit of a word first.
#pragma once

#include "isa.hpp"

#include <cstdint>

// Holds what each bit of WORDS words adds to the state behind the last of them. The next state is a
// sum of such columns (XOR): each of its bits is the parity of a fixed choice of bits.
template <unsigned WORDS> struct CheckColumns {
  uint32_t of[32 * WORDS];
};

template <unsigned WORDS> constexpr CheckColumns<WORDS> check_columns() {
  CheckColumns<WORDS> columns{};
  uint32_t column = 1;
  for (unsigned i = 32 * WORDS; i-- > 0;) {
    column = column >> 1 ^ (column % 2 == 1 ? isa::CHECK_POLYNOMIAL : 0);
    columns.of[i] = column;
  }
  return columns;
}

// Returns what `words` add to the state. It needs no state, so it can be computed ahead.
template <unsigned WORDS> uint32_t check_share(const uint32_t (&words)[WORDS]) {
#pragma HLS INLINE
  constexpr CheckColumns<WORDS> COLUMNS = check_columns<WORDS>();
  uint32_t share = 0;
  for (unsigned i = 0; i < WORDS; ++i) {
#pragma HLS UNROLL
    for (unsigned bit = 0; bit < 32; ++bit) {
#pragma HLS UNROLL
      share ^= (words[i] >> bit & 1) * COLUMNS.of[32 * i + bit];
    }
  }
  return share;
}

// Returns the state behind WORDS words that add `share`.
template <unsigned WORDS> uint32_t check_behind(uint32_t state, uint32_t share) {
#pragma HLS INLINE
  uint32_t words[WORDS] = {state};
#pragma HLS ARRAY_PARTITION variable = words complete
  return check_share(words) ^ share;
}
