// Computes a reflected CRC word by word, each word from its lowest bit. The state is the complement
// of the CRC so far.
#pragma once

#include <stdint.h>

// Holds, for each bit of WORDS words, its XOR contribution to the CRC state after the last word.
// The next state is the XOR of the columns of all bits that are 1.
template <unsigned WORDS> struct CrcColumns {
  uint32_t of[32 * WORDS];
};

template <uint32_t POLYNOMIAL, unsigned WORDS> constexpr CrcColumns<WORDS> crc_columns() {
  CrcColumns<WORDS> columns{};
  uint32_t column = 1;
  for (unsigned i = 32 * WORDS; i-- > 0;) {
    column = column >> 1 ^ (column % 2 == 1 ? POLYNOMIAL : 0);
    columns.of[i] = column;
  }
  return columns;
}

// Returns the XOR contribution of `words` to the state. It does not depend on the state, so an
// earlier pipeline stage can compute it.
template <uint32_t POLYNOMIAL, unsigned WORDS> uint32_t crc_share(const uint32_t (&words)[WORDS]) {
#pragma HLS INLINE
  constexpr CrcColumns<WORDS> COLUMNS = crc_columns<POLYNOMIAL, WORDS>();
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

// Returns the state after WORDS words whose contribution is `share`.
template <uint32_t POLYNOMIAL, unsigned WORDS> uint32_t crc_behind(uint32_t state, uint32_t share) {
#pragma HLS INLINE
  uint32_t words[WORDS] = {state};
#pragma HLS ARRAY_PARTITION variable = words complete
  return crc_share<POLYNOMIAL>(words) ^ share;
}
