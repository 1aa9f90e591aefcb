// Integers of <stdint.h> in place of ap_uint and ap_int, for leaves.hpp in other front ends and
// compilers. u<W> and s<W> are the smallest types with W bits, so a value does not wrap to W bits.
// No function of leaves.hpp needs that (tests/fpga/leaves.cpp checks it).
#pragma once

#include <stdint.h>

template <int BYTES> struct Plain;
template <> struct Plain<1> {
  using Unsigned = uint8_t;
  using Signed = int8_t;
};
template <> struct Plain<2> {
  using Unsigned = uint16_t;
  using Signed = int16_t;
};
template <> struct Plain<4> {
  using Unsigned = uint32_t;
  using Signed = int32_t;
};
template <> struct Plain<8> {
  using Unsigned = uint64_t;
  using Signed = int64_t;
};

constexpr int plain_bytes(int bits) { return bits <= 8 ? 1 : bits <= 16 ? 2 : bits <= 32 ? 4 : 8; }

template <int W> using u = typename Plain<plain_bytes(W)>::Unsigned;
template <int W> using s = typename Plain<plain_bytes(W)>::Signed;

// Computes a * b, which fits T.
template <typename T, typename A, typename B> T multiply(const A& a, const B& b) {
  return T(T(a) * T(b));
}

template <typename T, typename A, typename B> T multiply_in_norm(const A& a, const B& b) {
  return multiply<T>(a, b);
}
template <typename T, typename A, typename B> T multiply_in_softmax(const A& a, const B& b) {
  return multiply<T>(a, b);
}
