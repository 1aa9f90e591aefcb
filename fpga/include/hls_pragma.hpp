// Wraps pragmas of Vitis HLS in sources that other front ends compile: QUASAR_HLS(UNROLL) is
// `#pragma HLS UNROLL` in Vitis HLS and empty elsewhere. tools/check_hls_ports.py reads both forms.
#pragma once

#ifdef __SYNTHESIS__
#define QUASAR_PRAGMA(text) _Pragma(#text)
#define QUASAR_HLS(...) QUASAR_PRAGMA(HLS __VA_ARGS__)
#else
#define QUASAR_HLS(...)
#endif
