// Queues, and the processes that they connect. In Vitis HLS a stream is an hls::stream and a
// process is a call within a DATAFLOW region. In simulation a process is a fiber; a write to a full
// stream or a read from an empty one blocks its fiber.
//
// A process's endless loop is `for (volatile bool running = true; running;)`. Without volatile the
// compiler proves that the process never returns, and drops the later calls of the region. The loop
// never stores to `running`: a store would delay the loop condition by a cycle, so the initiation
// interval could not be 1. (hls::task is meant for such processes, but its documentation covers
// streams, stable scalars and AXI masters, not memory ports.)
#pragma once

#include "packing.hpp"

#ifdef __SYNTHESIS__

#include <hls_stream.h>

template <typename T, unsigned DEPTH> using Stream = hls::stream<T, DEPTH>;
// A queue between kernels. Its items are packed.
template <typename T, unsigned DEPTH> using Queue = hls::stream<ap_uint<ITEM_BITS<T>>, DEPTH>;

template <typename T, typename Q> T receive_item(Q& queue) {
#pragma HLS INLINE
  return unpacked<T>(queue.read());
}

template <typename T, typename Q> void send_item(Q& queue, const T& item) {
#pragma HLS INLINE
  queue.write(packed<ap_uint<ITEM_BITS<T>>>(item));
}

// Polls a queue, as `poll` below polls a stream.
template <typename T, typename Q> bool poll_item(Q& queue, T& item) {
#pragma HLS INLINE
  ap_uint<ITEM_BITS<T>> raw;
  if (!queue.read_nb(raw))
    return false;
  item = unpacked<T>(raw);
  return true;
}
// Takes the next item if there is one. In simulation it never blocks.
template <typename T, typename Q> bool take_item(Q& queue, T& item) {
#pragma HLS INLINE
  return poll_item(queue, item);
}

// A stream without a FIFO; its reader accepts each item in the cycle of the write.
template <typename T> using UnqueuedStream = hls::stream<T>;

// Takes the next item; returns false if the stream is empty. A pipelined endless loop polls and
// leaves an interval without an item unused. A blocking read would stall the pipeline with items
// inside, and the next item may depend on these. In simulation poll blocks, unless an item is in
// flight.
template <typename S, typename T> bool poll(S& stream, T& item, bool = false) {
#pragma HLS INLINE
  return stream.read_nb(item);
}

// Marks the beginning of an initiation interval of a loop. Simulation counts the intervals and
// allows each memory port one access in an interval.
inline void interval(const char*) {}

// Marks the gap between two loops or two commands: one pipeline drains, then the next one reads its
// bounds. Simulation advances the clock by the given cycles.
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

template <typename T, unsigned DEPTH> using Queue = Stream<T, DEPTH>;

template <typename T, unsigned DEPTH> T receive_item(Stream<T, DEPTH>& queue) {
  return queue.read();
}
template <typename T, unsigned DEPTH> void send_item(Stream<T, DEPTH>& queue, const T& item) {
  queue.write(item);
}
template <typename T, unsigned DEPTH> bool poll_item(Stream<T, DEPTH>& queue, T& item) {
  return poll(queue, item);
}
template <typename T, unsigned DEPTH> bool take_item(Stream<T, DEPTH>& queue, T& item) {
  return queue.read_nb(item);
}

// A call within a DATAFLOW region, and the end of the region. Macros, because Vitis HLS accepts
// only plain calls there.
#define QUASAR_PROCESS(call) ::sim::process(#call, [&] { call; })
#define QUASAR_JOIN() ::sim::join()

#endif
