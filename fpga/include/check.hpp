// The check of a transfer, of a command and of logits: CRC-32, as Ethernet and zlib have it. It
// takes words in the order of memory, the lowest bit of a word first.
#pragma once

#include "crc.hpp"
#include "isa.hpp"

// Returns what `words` add to the state.
template <unsigned WORDS> uint32_t check_share(const uint32_t (&words)[WORDS]) {
#pragma HLS INLINE
  return crc_share<isa::CHECK_POLYNOMIAL>(words);
}

// Returns the state behind WORDS words that add `share`.
template <unsigned WORDS> uint32_t check_behind(uint32_t state, uint32_t share) {
#pragma HLS INLINE
  return crc_behind<isa::CHECK_POLYNOMIAL, WORDS>(state, share);
}
