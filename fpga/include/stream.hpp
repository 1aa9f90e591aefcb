// Queues, and the processes that they join. In Vitis HLS a stream is an hls::stream and a process a call
// within a DATAFLOW region; in simulation a stream blocks the fiber that finds it full or empty, and a
// process is a fiber.
#pragma once

#ifdef __SYNTHESIS__

#include <hls_stream.h>
#include <hls_streamofblocks.h>

template <typename T, unsigned DEPTH> using Stream = hls::stream<T, DEPTH>;

// A ring of DEPTH blocks of WORDS words; a lock is one block, handed on at the end of its scope.
template <typename T, unsigned WORDS, unsigned DEPTH> using Blocks = hls::stream_of_blocks<T[WORDS], DEPTH>;
template <typename T, unsigned WORDS, unsigned DEPTH> using WriteLock = hls::write_lock<T[WORDS]>;
template <typename T, unsigned WORDS, unsigned DEPTH> using ReadLock = hls::read_lock<T[WORDS]>;

// The condition of a process's endless loop. Volatile, so that no compiler proves that a process never
// returns and drops the calls that follow it in the region (untried: hls::task, meant for such processes,
// takes no memory ports).
inline bool alive() {
#pragma HLS INLINE
  volatile bool running = true;
  return running;
}
// Stands at the beginning of each initiation interval of a loop: simulation counts them and holds memory
// ports to one access in each.
inline void interval(const char*) {}

#define QUASAR_PROCESS(call) call
#define QUASAR_JOIN()

#else

#include "sim_stream.hpp"

// A call within a DATAFLOW region, and the region's end. Macros, since Vitis HLS has to see plain calls
// there.
#define QUASAR_PROCESS(call) ::sim::process(#call, [&] { call; })
#define QUASAR_JOIN() ::sim::join()

#endif
