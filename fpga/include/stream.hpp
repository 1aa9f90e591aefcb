// Queues, and the processes between them. In Vitis HLS a stream is an hls::stream and a process a
// call within a DATAFLOW region. In simulation a process is a fiber, and a stream blocks the fiber
// that finds it full or empty.
//
// A process's endless loop is `for (volatile bool running = true; running;)`. Without volatile the
// compiler proves that the process never returns, and drops the calls that follow it in the region.
// `running` is stored only before the loop: else the condition of an iteration would be known a
// cycle after it begins, and no interval could be 1. (hls::task is meant for such processes, but
// documented for streams, stable scalars and AXI masters, not for memory ports.)
#pragma once

#ifdef __SYNTHESIS__

#include <hls_stream.h>

template <typename T, unsigned DEPTH> using Stream = hls::stream<T, DEPTH>;
// A stream without a queue, whose reader takes each item at once.
template <typename T> using UnqueuedStream = hls::stream<T>;

// Takes the next item; returns false if there is none yet. A pipelined endless loop polls and does
// nothing in an interval without an item. If it waited, items in the pipeline would stay there
// until more arrive, which may depend on them. In simulation it waits, unless something is in
// flight.
template <typename S, typename T> bool poll(S& stream, T& item, bool = false) {
#pragma HLS INLINE
  return stream.read_nb(item);
}

// Marks the beginning of an initiation interval of a loop. Simulation counts the intervals and
// holds memory ports to one access in each.
inline void interval(const char*) {}

// Marks a place between two loops, or two commands, where one pipeline runs empty and the next one
// takes its bounds. Simulation lets the declared cycles pass.
inline void gap(unsigned) {}

#define QUASAR_PROCESS(call) call
#define QUASAR_JOIN()

#else

#include "sim_stream.hpp"

template <typename T, unsigned DEPTH>
bool poll(Stream<T, DEPTH>& stream, T& item, bool in_flight = false) {
  if (in_flight)
    return stream.read_nb(item);
  item = stream.read();
  return true;
}

// A call within a DATAFLOW region, and the region's end. They are macros, since Vitis HLS has to
// see plain calls there.
#define QUASAR_PROCESS(call) ::sim::process(#call, [&] { call; })
#define QUASAR_JOIN() ::sim::join()

#endif
