// The worst case of each function of leaves.hpp and crc.hpp, against its formula in int64, with
// integers that end the program when a value does not fit its declared width (QUASAR_CHECKED).
#include <initializer_list>
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "fast_int.hpp"
template <int W> using u = fast::Integer<W, false>;
template <int W> using s = fast::Integer<W, true>;
template <typename T, typename A, typename B> T multiply(const A& a, const B& b) {
  return T(int64_t(a) * int64_t(b));
}
template <typename T, typename A, typename B> T multiply_in_norm(const A& a, const B& b) {
  return multiply<T>(a, b);
}
template <typename T, typename A, typename B> T multiply_in_softmax(const A& a, const B& b) {
  return multiply<T>(a, b);
}

#include "crc.hpp"
#include "leaves.hpp"

namespace {

// The steps of a root and its reciprocal as norm.cpp takes them, one lane.
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

unsigned failures = 0;
uint64_t checks = 0;

void equal(int64_t got, int64_t wanted, const char* what, int64_t a, int64_t b = 0, int64_t c = 0) {
  ++checks;
  if (got != wanted && ++failures <= 10)
    fprintf(stderr, "%s(%lld, %lld, %lld): %lld instead of %lld\n", what, (long long)a,
            (long long)b, (long long)c, (long long)got, (long long)wanted);
}

int64_t clamp(int64_t x, int64_t least, int64_t most) {
  return x < least ? least : x > most ? most : x;
}
int64_t rshift(int64_t x, int64_t p) { return p == 0 ? x : (x + (int64_t(1) << (p - 1))) >> p; }
int64_t floor_of(int64_t n, int64_t d) { return n >= 0 ? n / d : -((-n + d - 1) / d); }

void clamps() {
  for (int64_t x = -(1 << 19); x < 1 << 19; ++x) {
    equal(sat16(s<20>(x)), clamp(x, -32768, 32767), "sat16", x);
    equal(clamp8(s<20>(x)), clamp(x, -128, 127), "clamp8", x);
  }
}

// Both ends of the accumulator's range, every shift, and around each tie of the rounding.
void requantization() {
  const int64_t most = int64_t(1) << 30, mults[] = {0, 1, 2, 16384, 32766, 32767, -1, -32768};
  for (int64_t p = 0; p <= 30; ++p)
    for (int64_t k = -3; k <= 3; ++k)
      for (int64_t near = -2; near <= 2; ++near) {
        const int64_t tie = k * (int64_t(1) << p) + ((int64_t(1) << p) >> 1) + near;
        const int64_t candidates[] = {tie,
                                      -most,
                                      -most + 1 + (near + 2),
                                      most - 1 - (near + 2),
                                      near,
                                      (int64_t(32767) << p) + near,
                                      -(int64_t(32768) << p) + near};
        for (int64_t x : candidates) {
          if (x < -most || x >= most)
            continue;
          const int64_t shifted = clamp(rshift(x, p), -32768, 32767);
          equal(shift16(s<31>(x), u<5>(p)), shifted, "shift16", x, p);
          for (int64_t mult : mults) {
            const int64_t z = rshift(shifted * mult, 15);
            const s<18> got = requantize(s<31>(x), u<5>(p), s<16>(mult));
            equal(got, z, "requantize", x, p, mult);
            for (int64_t zero_point : {-128, -1, 0, 127})
              equal(code_of(got, s<8>(zero_point)), clamp(rshift(z, 6) + zero_point, -128, 127),
                    "code_of", z, zero_point);
          }
        }
      }
}

// Means of codes: every sum of up to 40 tokens, and the ends and steps of the longest sequences.
void means() {
  const auto one = [](int64_t sum, int64_t count) {
    equal(mean_of_codes(s<19>(sum + count / 2), u<11>(count)), floor_of(sum + count / 2, count),
          "mean_of_codes", sum, count);
  };
  for (int64_t count = 1; count <= 1024; ++count)
    for (int64_t sum = -128 * count; sum <= 127 * count; sum += count <= 40 ? 1 : count / 2 - 1)
      one(sum, count);
  for (int64_t count = 1; count <= 1024; ++count) {
    one(-128 * count, count);
    one(127 * count, count);
  }
  // Of residuals: 16 steps from the divisor's highest place down, as norm.cpp takes them.
  for (int64_t count = 1; count <= 1024; ++count)
    for (int64_t mean : {-32767, -32766, -1, 0, 1, 32766, 32767})
      for (int64_t near : {-1, 0, 1}) {
        const int64_t sum = clamp(mean * count + near, -32767 * count, 32767 * count);
        const int64_t numerator = sum + count / 2;
        u<27> rest = magnitude(s<27>(numerator), u<11>(count));
        u<27> part = unsigned(count) << 15;
        u<16> quotient = 0;
        for (unsigned i = 0; i < 16; ++i) {
          divide_step<27>(rest, quotient, part);
          part = unsigned(part) >> 1;
        }
        equal(numerator < 0 ? -int64_t(quotient) : int64_t(quotient), floor_of(numerator, count),
              "mean of residuals", sum, count);
      }
}

int64_t inverse_of(const root_t& root) {
  return unsigned(root.quotient) > 32767 ? 32767 : int64_t(root.quotient);
}

uint64_t root_floor(uint64_t x) {
  uint64_t root = 0;
  for (uint64_t bit = uint64_t(1) << 31; bit != 0; bit >>= 1)
    if ((root + bit) <= 0xffffffffu && (root + bit) * (root + bit) <= x)
      root += bit;
  return root;
}

void roots_of(uint64_t variance) {
  int64_t bits = 1;
  while (bits < 26 && variance >> (2 * bits) != 0)
    ++bits;
  const uint64_t root = root_floor(variance << (52 - 2 * bits));
  const int64_t inverse = int64_t((uint64_t(1) << 40) / root);
  const root_t got = root_of(u<52>(variance));
  equal(got.bits, bits, "bits of a root", int64_t(variance));
  equal(got.root, int64_t(root), "root", int64_t(variance));
  equal(inverse_of(got), inverse > 32767 ? 32767 : inverse, "inverse", int64_t(variance));
}

// Small variances, all powers of two and squares with what is next to them, the largest.
void roots() {
  for (uint64_t variance = 1; variance < 70000; ++variance)
    roots_of(variance);
  for (unsigned bit = 0; bit < 52; ++bit)
    for (int64_t near = -2; near <= 2; ++near) {
      const int64_t variance = int64_t((uint64_t(1) << bit)) + near;
      if (variance > 0)
        roots_of(uint64_t(variance));
    }
  for (uint64_t root = 1; root < (1u << 26); root += root / 64 + 1)
    for (int64_t near = -1; near <= 1; ++near)
      if (int64_t(root * root) + near > 0)
        roots_of(uint64_t(int64_t(root * root) + near));
  roots_of((uint64_t(1) << 52) - 1);
}

// Rows whose moments are as far apart as they can be: one column at an end, the others equal. Their
// normalised values are the largest that a row can have.
void normalising() {
  for (int64_t embed : {1, 2, 3, 64, 192, 768, 1024})
    for (int64_t low : {-32767, -300, -1, 0, 7, 32766, 32767})
      for (int64_t high : {-32767, 0, 1, 40, 1000, 32767}) {
        if (embed == 1 && low != high)
          continue;
        const int64_t sum = low * (embed - 1) + high;
        const int64_t squares = low * low * (embed - 1) + high * high;
        for (int64_t epsilon : {int64_t(1), int64_t(1) << 20, (int64_t(1) << 50) - 1}) {
          const int64_t variance = squares * embed - sum * sum + epsilon;
          if (variance >= int64_t(1) << 52)
            continue;
          const root_t root = root_of(u<52>(variance));
          const int64_t bits = int64_t(root.bits), inverse = inverse_of(root);
          for (int64_t x : {low, high})
            for (int64_t gain : {-32768, -1, 0, 32767})
              for (int64_t offset : {-32768, 0, 32767})
                for (int64_t frac : {0, 4, 15}) {
                  const int64_t c = x * embed - sum;
                  const int64_t t =
                      bits >= 10 ? rshift(c, bits - 10) : c * (int64_t(1) << (10 - bits));
                  for (const bool normalises : {false, true}) {
                    const int64_t n = normalises ? rshift(t * inverse, 15) : x;
                    const int64_t y = clamp(rshift(n * gain, 15) + offset, -32768, 32767);
                    equal(normalise_value(s<16>(x), s<27>(sum), root.bits, u<15>(inverse),
                                          s<16>(gain), s<16>(offset), u<11>(embed), u<4>(frac),
                                          u<1>(normalises)),
                          clamp(y >> frac, -128, 127), "normalise_value", x, embed, frac);
                  }
                }
        }
      }
}

// Multipliers from the least to the largest, with the cap that goes with each: all exponents that
// differ, and what is beyond the cap.
void exponentials() {
  for (int f = 0; f < 64; ++f)
    equal(POWERS[f], int64_t(floor(4080 * exp2(-f / 64.0) + 0.5)), "POWERS", f);
  const int64_t mults[] = {1, 2, 63, 64, 65, 1000, 4096, 199999, 1 << 20, (1 << 24) - 1, 1 << 24};
  for (int64_t mult : mults) {
    const int64_t cap = ((int64_t(1) << 31) - (1 << 20)) / mult;
    const auto one = [&](int64_t below) {
      const int64_t d = below < cap ? below : cap;
      const int64_t exponent = (d * mult + (1 << 19)) >> 20;
      const int64_t e12 = ((2 * int64_t(POWERS[exponent & 63]) >> (exponent >> 6)) + 1) >> 1;
      const u<12> got = exponential(u<24>(below), u<31>(cap), u<25>(mult));
      equal(got, e12, "exponential", below, mult);
      equal(rounded8(got), (e12 + 8) >> 4, "rounded8", e12);
    };
    for (int64_t below = 0; below < 1 << 24; below += below < 5000 ? 1 : 997)
      one(below);
    for (int64_t near = -2; near <= 2; ++near)
      if (cap + near >= 0 && cap + near < 1 << 24)
        one(cap + near);
    one((1 << 24) - 1);
  }
  for (int64_t e12 = 0; e12 <= 4080; ++e12)
    equal(rounded8(u<12>(e12)), (e12 + 8) >> 4, "rounded8", e12);
}

// Sums of one key to 1,024 keys, with every width, at both ends of the multiplier and the shift.
void reciprocals() {
  const auto one = [](int64_t sum, int64_t mult, int64_t shift) {
    int64_t bits = 0;
    while (sum >> bits != 0)
      ++bits;
    int64_t r = (mult << bits) / sum;
    if (r >= 1 << 15) {
      r >>= 1;
      --bits;
    }
    const reciprocal_t got = reciprocal(u<22>(sum), u<15>(mult), u<5>(shift));
    equal(got.mantissa, r, "mantissa", sum, mult);
    equal(got.shift, bits + shift - 21, "shift", sum, mult, shift);
  };
  for (int64_t mult : {1 << 14, (1 << 14) + 1, 21845, (1 << 15) - 1})
    for (int64_t shift : {11, 29}) {
      for (int64_t sum = 4080; sum < 1 << 22; sum += 61)
        one(sum, mult, shift);
      for (int bit = 12; bit < 22; ++bit)
        for (int64_t near = -1; near <= 1; ++near)
          if ((int64_t(1) << bit) + near >= 4080)
            one((int64_t(1) << bit) + near, mult, shift);
      one(1024 * 4080, mult, shift);
    }
}

template <unsigned WORDS> uint32_t by_words(const uint8_t* bytes, unsigned count) {
  uint32_t state = ~uint32_t(0);
  for (unsigned at = 0; at < count; at += 4 * WORDS) {
    uint32_t words[WORDS];
    for (unsigned i = 0; i < WORDS; ++i) {
      words[i] = 0;
      for (unsigned j = 0; j < 4; ++j)
        words[i] |= uint32_t(bytes[at + 4 * i + j]) << (8 * j);
    }
    state = crc_behind<0xedb88320, WORDS>(state, crc_share<0xedb88320>(words));
  }
  return ~state;
}

// Each single bit of 64 bytes (the CRC is a sum of these), and zlib's values of two texts.
void crcs() {
  uint8_t bytes[64] = {};
  for (unsigned bit = 0; bit <= 512; ++bit) {
    if (bit < 512)
      bytes[bit / 8] = uint8_t(1 << bit % 8);
    uint32_t state = ~uint32_t(0);
    for (uint8_t byte : bytes) {
      state ^= byte;
      for (int i = 0; i < 8; ++i)
        state = state >> 1 ^ (state & 1 ? 0xedb88320 : 0);
    }
    equal(by_words<1>(bytes, 64), ~state, "CRC by 1 word", bit);
    equal(by_words<4>(bytes, 64), ~state, "CRC by 4 words", bit);
    equal(by_words<16>(bytes, 64), ~state, "CRC by 16 words", bit);
    if (bit < 512)
      bytes[bit / 8] = 0;
  }
  const uint8_t zeros[4] = {};
  equal(by_words<1>(zeros, 4), 0x2144df1c, "CRC of four zeros", 0);
  const uint8_t ones[4] = {255, 255, 255, 255};
  equal(by_words<1>(ones, 4), 0xffffffff, "CRC of four bytes of ones", 0);
}

} // namespace

int main() {
  clamps();
  requantization();
  means();
  roots();
  normalising();
  exponentials();
  reciprocals();
  crcs();
  printf("leaves: %llu checks, %u failures\n", (unsigned long long)checks, failures);
  return failures == 0 ? 0 : 1;
}
