// Packs the items of queues between kernels into one number, lowest field first, without gaps.
// Vitis HLS gives a queue of ap_uint<W> a port of W bits, rounded up to bytes; it pads the fields
// of a struct, and forbids AGGREGATE compact=bit on AXI4-Stream ports (UG1399, "Structs on the
// Interface").
#pragma once

#include "types.hpp"

// Bits of an item. (A specialized variable would have a definition in every file.)
template <typename T> struct item_bits {
  static constexpr int value = 0;
};
template <int W> struct item_bits<u<W>> {
  static constexpr int value = W;
};
template <int W> struct item_bits<s<W>> {
  static constexpr int value = W;
};
template <> struct item_bits<uint8_t> {
  static constexpr int value = 8;
};
template <> struct item_bits<uint32_t> {
  static constexpr int value = 32;
};
template <> struct item_bits<uint64_t> {
  static constexpr int value = 64;
};
template <typename T> constexpr int ITEM_BITS = item_bits<T>::value;
template <typename T, unsigned N> struct item_bits<T[N]> {
  static constexpr int value = N * ITEM_BITS<T>;
};
template <typename T, unsigned N> struct item_bits<vec<T, N>> {
  static constexpr int value = N * ITEM_BITS<T>;
};

// Visits the numbers of an item, of at most 64 bits each, in the order of their bits. A struct of
// several fields has its own overload behind its definition.
template <typename F, int W> void each_number(F& f, u<W>& number) {
#pragma HLS INLINE
  f(number);
}
template <typename F, int W> void each_number(F& f, s<W>& number) {
#pragma HLS INLINE
  f(number);
}
template <typename F> void each_number(F& f, uint8_t& number) {
#pragma HLS INLINE
  f(number);
}
template <typename F> void each_number(F& f, uint32_t& number) {
#pragma HLS INLINE
  f(number);
}
template <typename F> void each_number(F& f, uint64_t& number) {
#pragma HLS INLINE
  f(number);
}
template <typename F, typename T, unsigned N> void each_number(F& f, T (&items)[N]) {
#pragma HLS INLINE
  for (unsigned i = 0; i < N; ++i) {
#pragma HLS UNROLL
    each_number(f, items[i]);
  }
}
template <typename F, typename T, unsigned N> void each_number(F& f, vec<T, N>& items) {
#pragma HLS INLINE
  each_number(f, items.v);
}

// Writes numbers to the bits of `Raw`, from bit 0 up.
template <typename Raw> struct Packer {
  Raw raw;
  int at;
  template <typename Number> void operator()(const Number& number) {
#pragma HLS INLINE
    raw.range(at + ITEM_BITS<Number> - 1, at) = number;
    at += ITEM_BITS<Number>;
  }
};

// Reads numbers from the bits of `Raw`, from bit 0 up.
template <typename Raw> struct Unpacker {
  Raw raw;
  int at;
  template <typename Number> void operator()(Number& number) {
#pragma HLS INLINE
    const uint64_t bits = raw.range(at + ITEM_BITS<Number> - 1, at);
    number = bits;
    at += ITEM_BITS<Number>;
  }
};

template <typename Raw, typename T> Raw packed(T item) {
#pragma HLS INLINE
  Packer<Raw> packer{0, 0};
  each_number(packer, item);
  return packer.raw;
}

template <typename T, typename Raw> T unpacked(const Raw& raw) {
#pragma HLS INLINE
  Unpacker<Raw> unpacker{raw, 0};
  T item;
  each_number(unpacker, item);
  return item;
}
