// Arithmetic of docs/integer-model.md in the types of the kernels. Depends on types.hpp.
#pragma once

#include "types.hpp"

// Computes a * b, whose width T holds; in LUTs if the configuration leaves the DSP slices to the
// array.
template <typename T, typename A, typename B> T multiply(const A& a, const B& b) {
#pragma HLS INLINE
  if constexpr (config::FABRIC_MULTIPLIERS != 0) {
    const T product = a * b;
#pragma HLS BIND_OP variable = product op = mul impl = fabric
    return product;
  } else {
    return T(a * b);
  }
}

#include "leaves.hpp"
