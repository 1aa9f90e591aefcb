// The steps of a root and its reciprocal as norm.cpp takes them, one lane. Comes after leaves.hpp.
#pragma once

struct root_t {
  u<5> bits;
  u<26> root;
  u<16> quotient; // of 2^40, before it is clamped
};

inline root_t root_of(const u<52>& variance) {
  const radicand_t high = radicand_of(variance);
  u<52> radicand = high.bits;
  u<28> remainder = 0;
  u<26> value = 0;
  for (unsigned i = 0; i < 26; ++i)
    root_step(radicand, remainder, value);
  u<28> rest = INVERT_REST;
  u<16> quotient = 0;
  for (unsigned i = 0; i < 16; ++i)
    invert_step(rest, quotient, value);
  return {high.pairs, value, quotient};
}
