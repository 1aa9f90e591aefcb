// Declares on-chip memories and the memory bus. In Vitis HLS a memory is an array, and its port is
// an array argument with an ap_memory interface (ARRAY_PARTITION complete in dimension 1: one RAM
// for each bank). In simulation a port checks addresses and allows one access to a bank in an
// initiation interval, and a memory checks the distances that DEPENDENCE pragmas promise. An access
// is `port[bank][address]` in both. A masked port has byte enables.
#pragma once

#include "isa.hpp"
#include "types.hpp"

// The data of one AXI port in a cycle. It is an array of bytes because ranges of a wide ap_uint are
// slow in simulation.
struct port_t {
  uint8_t byte[isa::PORT_BYTES];
};

// The data of all ports in a cycle, in the order of the ports.
struct beat_t {
  uint8_t byte[isa::PORT_BYTES * config::PORTS];
};

// A word of C bytes. A write stores the bytes whose bit of `enable` is 1.
template <typename T> struct masked_t {
  T code;
  u<config::CASCADE> enable;
};

#ifdef __SYNTHESIS__

#include <hls_burst_maxi.h>

template <typename T, unsigned BANKS, unsigned WORDS> using ReadPort = const T[BANKS][WORDS];
template <typename T, unsigned BANKS, unsigned WORDS> using WritePort = T[BANKS][WORDS];
template <typename T, unsigned BANKS, unsigned WORDS> using MaskedPort = masked_t<T>[BANKS][WORDS];
// A dual-port memory inside a process: two accesses to a bank in an interval.
template <typename T, unsigned BANKS, unsigned WORDS> using Memory = T[BANKS][WORDS];
// Repeats the distance of a DEPENDENCE pragma; simulation checks it.
template <typename T, unsigned BANKS, unsigned WORDS>
void distance(T (&)[BANKS][WORDS], unsigned) {}

inline void unpack(const ap_uint<8 * isa::PORT_BYTES>& raw, port_t& port) {
#pragma HLS INLINE
  for (unsigned i = 0; i < isa::PORT_BYTES; ++i)
    port.byte[i] = raw.range(8 * i + 7, 8 * i);
}

inline void pack(const port_t& port, ap_uint<8 * isa::PORT_BYTES>& raw) {
#pragma HLS INLINE
  for (unsigned i = 0; i < isa::PORT_BYTES; ++i)
    raw.range(8 * i + 7, 8 * i) = port.byte[i];
}

// An AXI master, addressed in units of T. hls::burst_maxi takes no structs.
template <typename T> using Bus = hls::burst_maxi<ap_uint<8 * sizeof(T)>>;

// Receives the next item of the requested bursts.
template <typename T> T receive(Bus<T>& bus) {
#pragma HLS INLINE
  const ap_uint<8 * sizeof(T)> raw = bus.read();
  T item;
  unpack(raw, item);
  return item;
}

template <typename T> void send(Bus<T>& bus, const T& item) {
#pragma HLS INLINE
  ap_uint<8 * sizeof(T)> raw;
  pack(item, raw);
  bus.write(raw);
}

#else

#include "sim_memory.hpp"

#endif
