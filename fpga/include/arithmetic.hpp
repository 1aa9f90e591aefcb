// Roundings, clamps and products of docs/integer-model.md. Depends on types.hpp.
#pragma once

#include "types.hpp"

// Clamps to [-32768, 32767].
template <typename T> s<16> sat16(const T& x) {
#pragma HLS INLINE
  if (x > 32767)
    return 32767;
  if (x < -32768)
    return -32768;
  return s<16>(x);
}

// Clamps to [-128, 127].
template <typename T> s<8> clamp8(const T& x) {
#pragma HLS INLINE
  if (x > 127)
    return 127;
  if (x < -128)
    return -128;
  return s<8>(x);
}

// Computes rshift(x, p) for x below 2^30 and p up to 30, clamped to 16 bits.
inline s<16> shift16(const s<31>& x, const u<5>& p) {
#pragma HLS INLINE
  u<30> half = 0;
  if (p != 0)
    half = uint32_t(1) << (unsigned(p) - 1);
  const s<32> sum = x + half;
  return sat16(s<32>(sum >> int(p)));
}

// Computes rshift(product, 15).
template <int W> s<W - 14> rshift15(const s<W>& product) {
#pragma HLS INLINE
  return s<W - 14>((product + 16384) >> 15);
}

// Computes rshift(a * b, 15).
template <int A, int B> s<A + B - 14> product15(const s<A>& a, const s<B>& b) {
#pragma HLS INLINE
  return rshift15(s<A + B>(a * b));
}

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
