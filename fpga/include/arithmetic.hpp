// Provides the functions of docs/integer-model.md on the kernels' types. Depends on types.hpp.
#pragma once

#include "types.hpp"

// Computes a * b, which fits T.
template <typename T, typename A, typename B> T multiply(const A& a, const B& b) {
#pragma HLS INLINE
  return T(a * b);
}

// Computes a product of the norm. Uses LUTs if the configuration reserves the DSP slices for the
// array.
template <typename T, typename A, typename B> T multiply_in_norm(const A& a, const B& b) {
#pragma HLS INLINE
  if constexpr (config::FABRIC_MULTIPLIERS != 0) {
    const T product = a * b;
#pragma HLS BIND_OP variable = product op = mul impl = fabric
    return product;
  } else {
    return multiply<T>(a, b);
  }
}

#include "leaves.hpp"
