// Queues, and the processes that they join. In Vitis HLS a stream is an hls::stream and a process a
// call within a DATAFLOW region; in simulation a stream blocks the fiber that finds it full or
// empty, and a process is a fiber.
//
// A process's endless loop is `for (volatile bool running = true; running;)`. Volatile, or the
// compiler proves that the process never returns and drops the calls that follow it in the region;
// stored only before the loop, or the condition of an iteration would be known a cycle after it
// begins, and no interval be 1. (hls::task, meant for such processes, is documented for streams,
// stable scalars and AXI masters, not for memory ports.)
#pragma once

#ifdef __SYNTHESIS__

#include <hls_stream.h>

template <typename T, unsigned DEPTH> using Stream = hls::stream<T, DEPTH>;

// The next item; false where there is none yet. A pipelined endless loop asks for its items and
// does nothing in an interval without one: if it waited at its head, what is in the pipeline would
// stay there until more comes, which may need what stays. In simulation it waits, unless something
// is in flight.
template <typename S, typename T> bool poll(S& stream, T& item, bool = false) {
#pragma HLS INLINE
  return stream.read_nb(item);
}

// Stands at the beginning of each initiation interval of a loop: simulation counts them and holds
// memory ports to one access in each.
inline void interval(const char*) {}

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

// A call within a DATAFLOW region, and the region's end. Macros, since Vitis HLS has to see plain
// calls there.
#define QUASAR_PROCESS(call) ::sim::process(#call, [&] { call; })
#define QUASAR_JOIN() ::sim::join()

#endif
