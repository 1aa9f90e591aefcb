// Provides the functions of docs/integer-model.md on the kernels' types. Depends on types.hpp.
#pragma once

#include "types.hpp"

// Computes a * b, which fits T.
template <typename T, typename A, typename B> T multiply(const A& a, const B& b) {
#pragma HLS INLINE
  return T(a * b);
}

// Computes a product in LUTs, where the configuration reserves the DSP slices for the array.
template <bool FABRIC, typename T, typename A, typename B> T multiply_in(const A& a, const B& b) {
#pragma HLS INLINE
  if constexpr (FABRIC) {
    const T product = a * b;
#pragma HLS BIND_OP variable = product op = mul impl = fabric
    return product;
  } else {
    return multiply<T>(a, b);
  }
}

// Computes a product of the norm.
template <typename T, typename A, typename B> T multiply_in_norm(const A& a, const B& b) {
#pragma HLS INLINE
  return multiply_in<config::NORM_IN_FABRIC != 0, T>(a, b);
}

// Computes a product of an exponential.
template <typename T, typename A, typename B> T multiply_in_softmax(const A& a, const B& b) {
#pragma HLS INLINE
  return multiply_in<config::EXP_IN_FABRIC != 0, T>(a, b);
}

#include "leaves.hpp"
