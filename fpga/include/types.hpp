// Types of the HLS sources. Vitis HLS and C simulation use ap_uint and ap_int. With QUASAR_FAST,
// native integers replace them; these wrap to their width when a value is stored. Depends on the
// generated configuration.
#pragma once

#include <cstdint>

#include "config.hpp"

#ifdef QUASAR_FAST
#include "fast_int.hpp"
template <int W> using u = fast::Integer<W, false>;
template <int W> using s = fast::Integer<W, true>;
#else
// The widest queue.
#define AP_INT_MAX_W 4096
#include <ap_int.h>
template <int W> using u = ap_uint<W>;
template <int W> using s = ap_int<W>;
#endif

// Returns the number of bits that hold 0 to `most`.
constexpr int bits_up_to(uint64_t most) {
  int bits = 1;
  while (bits < 64 && most >> bits != 0)
    ++bits;
  return bits;
}
static_assert(bits_up_to(0) == 1 && bits_up_to(1) == 1 && bits_up_to(2) == 2);
static_assert(bits_up_to(2047) == 11 && bits_up_to(2048) == 12);

// A counter type that holds 0 to MOST.
template <uint64_t MOST> using up_to = u<bits_up_to(MOST)>;

// The largest value of a type, for example of a command's field: most<decltype(isa::Rows::tokens)>.
template <typename T> struct Most;
template <int W> struct Most<u<W>> {
  static constexpr uint64_t VALUE = (uint64_t(1) << W) - 1;
};
template <typename T> constexpr uint64_t most = Most<T>::VALUE;

// N values side by side: a memory's word, a queue's item.
template <typename T, unsigned N> struct vec {
  T v[N];
  T& operator[](unsigned i) {
#pragma HLS INLINE
#pragma HLS ARRAY_PARTITION variable = v complete
    return v[i];
  }
  const T& operator[](unsigned i) const {
#pragma HLS INLINE
#pragma HLS ARRAY_PARTITION variable = v complete
    return v[i];
  }
};

// The words of a command that hold its fields. Units receive only these.
struct fields_t {
  uint32_t word[4];
};

// A command in memory: fields, zeros, check.
struct command_t {
  uint32_t word[8];
  operator fields_t() const {
#pragma HLS INLINE
    return {{word[0], word[1], word[2], word[3]}};
  }
};

// Returns `count` bits of word `word`, from bit `lsb` up. A field of more than 32 bits begins at
// bit 0 and continues in the next word.
inline uint64_t bits(const fields_t& c, unsigned word, unsigned lsb, unsigned count) {
#pragma HLS INLINE
  uint64_t value = c.word[word];
  if (count > 32)
    value |= uint64_t(c.word[word + 1]) << 32;
  return (value >> lsb) & ((uint64_t(1) << count) - 1);
}

// Sets `count` bits of word `word`, from bit `lsb` up. The bits must be 0 before.
inline void put_bits(command_t& c, unsigned word, unsigned lsb, unsigned count, uint64_t value) {
#pragma HLS INLINE
  const uint64_t bits = (value & ((uint64_t(1) << count) - 1)) << lsb;
  c.word[word] |= uint32_t(bits);
  if (count > 32)
    c.word[word + 1] |= uint32_t(bits >> 32);
}

// An item without data. A credit reports a finished step.
using credit_t = u<1>;

// Reads a little-endian number of `count` bytes.
inline uint32_t little_endian(const uint8_t* bytes, unsigned count) {
#pragma HLS INLINE
  uint32_t value = 0;
  for (unsigned i = 0; i < count; ++i) {
#pragma HLS UNROLL
    value |= uint32_t(bytes[i]) << (8 * i);
  }
  return value;
}
