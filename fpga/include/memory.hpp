// On-chip memories and the memory bus. In Vitis HLS a memory is an array, and a port of it an array argument with a bram interface
// (ARRAY_PARTITION complete in dimension 1: a RAM for each bank); in simulation a port checks addresses and allows one access to a bank in
// an initiation interval. Both are used as `port[bank][address]`.
#pragma once

#ifdef __SYNTHESIS__

#include <hls_burst_maxi.h>

template <typename T, unsigned BANKS, unsigned WORDS> using ReadPort = const T[BANKS][WORDS];
template <typename T, unsigned BANKS, unsigned WORDS> using WritePort = T[BANKS][WORDS];
// A process's own dual-port memory: two accesses to a bank in an interval.
template <typename T, unsigned BANKS, unsigned WORDS> using Memory = T[BANKS][WORDS];

// An AXI master, addressed in units of T.
template <typename T> using Bus = hls::burst_maxi<T>;

#else

#include "sim_memory.hpp"

#endif
