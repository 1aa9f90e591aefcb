// Computes the banks of `value`. Depends on tiling.hpp.
#pragma once

#include "kernels.hpp"

// Returns the bank of the value word that holds the token COUNT tokens after byte `byte` of a word
// in `bank`.
template <unsigned COUNT> unsigned value_bank_after(unsigned bank, unsigned byte) {
#pragma HLS INLINE
  const unsigned next =
      bank + COUNT / CASCADE % config::VALUE_BANKS + (byte + COUNT % CASCADE >= CASCADE ? 1 : 0);
  return next >= config::VALUE_BANKS ? next - config::VALUE_BANKS : next;
}
