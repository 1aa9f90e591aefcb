// Computes the check of transfers, commands and logits: the CRC-32 of Ethernet and zlib, over words
// in memory order, each from its lowest bit.
#pragma once

#include "crc.hpp"
#include "isa.hpp"

// Returns the XOR contribution of `words` to the CRC state.
template <unsigned WORDS> uint32_t check_share(const uint32_t (&words)[WORDS]) {
#pragma HLS INLINE
  return crc_share<isa::CHECK_POLYNOMIAL>(words);
}

// Returns the CRC state after WORDS words whose contribution is `share`.
template <unsigned WORDS> uint32_t check_behind(uint32_t state, uint32_t share) {
#pragma HLS INLINE
  return crc_behind<isa::CHECK_POLYNOMIAL, WORDS>(state, share);
}
