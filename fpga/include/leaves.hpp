// Pure functions of docs/integer-model.md: roundings and clamps, requantization, a division, a
// square root step, an exponential, normalisation. The includer first defines u<W>, s<W>, multiply,
// multiply_in_norm and multiply_in_softmax, as arithmetic.hpp does. tests/fpga/leaves.cpp tests the
// worst case of each function.
#pragma once

#include "powers.hpp"

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

// Computes rshift(product, 15) of a product of W bits.
template <int W> s<W - 14> rshift15(const s<W>& product) {
#pragma HLS INLINE
  return s<W - 14>((product + 16384) >> 15);
}

// Requantizes x, |x| < 2^30. The result is a code with 6 fractional bits.
inline s<18> requantize(const s<31>& x, const u<5>& shift, const s<16>& mult) {
#pragma HLS INLINE
  return rshift15<32>(s<32>(shift16(x, shift) * mult));
}

// Rounds a requantized value to its 8-bit code.
inline s<8> code_of(const s<18>& z, const s<8>& zero_point) {
#pragma HLS INLINE
  return clamp8(s<13>(((z + 32) >> 6) + zero_point));
}

// Computes the next bit of a quotient. `part` is the divisor shifted to that bit; it and `rest`
// have W bits. The sign of one subtraction is the comparison, too.
template <int W, typename Rest, typename Quotient>
void divide_step(Rest& rest, Quotient& quotient, const Rest& part) {
#pragma HLS INLINE
  const s<W + 1> left = rest - part;
  if (left >= 0)
    rest = left;
  quotient = unsigned(quotient) << 1 | (left >= 0 ? 1 : 0);
}

// Returns m such that |floor(numerator / divisor)| = floor(m / divisor). For a negative numerator:
// floor(-n/d) = -ceil(n/d) = -floor((n + d - 1)/d).
template <typename Numerator> u<27> magnitude(const Numerator& numerator, const u<11>& divisor) {
#pragma HLS INLINE
  return numerator < 0 ? int(divisor) - 1 - int(numerator) : int(numerator);
}

// Computes a mean of codes, floor(numerator / divisor). Each pipeline stage computes one bit of its
// magnitude.
inline s<9> mean_of_codes(const s<19>& numerator, const u<11>& divisor) {
#pragma HLS INLINE
  u<19> rest = magnitude(numerator, divisor);
  u<8> quotient = 0;
  for (unsigned i = 8; i-- > 0;) {
#pragma HLS UNROLL
    const u<19> part = unsigned(divisor) << i;
    divide_step<19>(rest, quotient, part);
  }
  return numerator < 0 ? -int(quotient) : int(quotient);
}

// A variance, shifted up by pairs of bits until the highest pair is not 0.
struct radicand_t {
  u<52> bits;
  u<5> pairs; // pairs of bits before the shift
};

inline radicand_t radicand_of(const u<52>& variance) {
#pragma HLS INLINE
  u<52> high = variance;
  u<5> pairs = 26;
  for (unsigned step = 16; step > 0; step /= 2) {
#pragma HLS UNROLL
    if (unsigned(pairs) > step && uint64_t(high) >> (52 - 2 * step) == 0) {
      high = uint64_t(high) << (2 * step);
      pairs = unsigned(pairs) - step;
    }
  }
  radicand_t result;
  result.bits = high;
  result.pairs = pairs;
  return result;
}

// Computes the next bit of a square root from the two highest bits of the 52-bit radicand. The
// remainder is at most twice the root so far. So the last of the 26 steps, which begins with a
// 25-bit root, compares 28 bits.
inline void root_step(u<52>& radicand, u<28>& remainder, u<26>& value) {
#pragma HLS INLINE
  const u<28> next = unsigned(remainder) << 2 | unsigned(uint64_t(radicand) >> 50);
  const u<28> trial = unsigned(value) << 2 | 1;
  radicand = uint64_t(radicand) << 2 & ((uint64_t(1) << 52) - 1);
  const s<29> left = next - trial;
  remainder = next;
  if (left >= 0)
    remainder = left;
  value = unsigned(value) << 1 | (left >= 0 ? 1 : 0);
}

// The initial remainder of the division of 2^40 by a 26-bit root.
constexpr unsigned INVERT_REST = 1u << 24;

// Computes the next bit of the quotient of 2^40 and a root.
inline void invert_step(u<28>& rest, u<16>& quotient, const u<26>& value) {
#pragma HLS INLINE
  const u<28> next = unsigned(rest) << 1;
  const s<29> left = next - value;
  rest = next;
  if (left >= 0)
    rest = left;
  quotient = unsigned(quotient) << 1 | (left >= 0 ? 1 : 0);
}

// Normalises x to its 8-bit code. `sum`, `bits` and `inverse` belong to the token of x. If
// `normalises` is 0, gain and offset alone apply to x.
inline s<8> normalise_value(const s<16>& x, const s<27>& sum, const u<5>& bits,
                            const u<15>& inverse, const s<16>& gain, const s<16>& offset,
                            const u<11>& embed, const u<4>& frac, const u<1>& normalises) {
#pragma HLS INLINE
  const s<28> centred = multiply_in_norm<s<28>>(x, s<12>(embed)) - sum;
  s<16> t;
  if (bits >= 10) {
    const unsigned down = unsigned(bits) - 10;
    const s<29> half = down == 0 ? 0 : 1 << (down - 1);
    t = s<29>(centred + half) >> int(down);
  } else {
    t = s<38>(centred) << (10 - int(bits));
  }
  const s<16> normalised = rshift15<32>(multiply_in_norm<s<32>>(t, s<16>(inverse)));
  const s<16> n = normalises == 1 ? normalised : x;
  const s<16> y = sat16(s<19>(rshift15<32>(multiply_in_norm<s<32>>(n, gain)) + offset));
  return clamp8(s<16>(y >> int(frac)));
}

// Returns e12 of a score that is `below` less than the largest score.
inline u<12> exponential(const u<24>& below, const u<31>& cap, const u<25>& mult) {
#pragma HLS INLINE
  u<31> difference = below;
  if (difference > cap)
    difference = cap;
  // The largest product has 31 bits. So a multiplier beyond 17 bits has a difference below 2^14,
  // and one DSP slice suffices.
  const bool swap = mult >> 17 != 0;
  const u<25> wide = swap ? unsigned(mult) : unsigned(difference);
  const u<17> narrow = swap ? unsigned(difference) : unsigned(mult);
  const u<12> exponent = u<32>(multiply_in_softmax<u<42>>(wide, narrow) + 524288) >> 20;
  const unsigned shift = unsigned(exponent) >> 6;
  const unsigned power = 2 * unsigned(POWERS[unsigned(exponent) & 63]);
  return ((shift < 16 ? power >> shift : 0) + 1) >> 1;
}

// Rounds e12 to e8.
inline u<8> rounded8(const u<12>& e12) {
#pragma HLS INLINE
  return (unsigned(e12) + 8) >> 4;
}

// r and p of a token's scale.
struct reciprocal_t {
  u<15> mantissa;
  u<5> shift;
};

// Computes (r, p) with r = floor((Mo << b) / S12). First shifts S12 left until its highest of 22
// bits is 1; then each pipeline stage computes one bit of the quotient.
inline reciprocal_t reciprocal(const u<22>& sum12, const u<15>& out_mult, const u<5>& out_shift) {
#pragma HLS INLINE
  u<22> divisor = sum12;
  u<5> bits = 22;
  for (unsigned step = 16; step > 0; step /= 2) {
#pragma HLS UNROLL
    if (unsigned(bits) > step && (unsigned(divisor) >> (22 - step)) == 0) {
      divisor = unsigned(divisor) << step;
      bits = unsigned(bits) - step;
    }
  }
  // The quotient has 16 bits: Mo < 2^15 and the divisor is at least 2^21.
  u<38> rest = uint64_t(unsigned(out_mult)) << 22;
  u<16> quotient = 0;
  for (unsigned i = 16; i-- > 0;) {
#pragma HLS UNROLL
    const u<38> part = uint64_t(unsigned(divisor)) << i;
    divide_step<38>(rest, quotient, part);
  }
  const bool halve = unsigned(quotient) >= 32768;
  reciprocal_t result;
  result.mantissa = halve ? unsigned(quotient) / 2 : unsigned(quotient);
  result.shift = unsigned(bits) - (halve ? 1 : 0) + unsigned(out_shift) - 21;
  return result;
}
