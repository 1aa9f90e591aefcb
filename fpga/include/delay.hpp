// Delay lines of the array: shift registers. With QUASAR_FAST they are rings of the same delay,
// which move nothing. Depends on types.hpp.
#pragma once

#include "types.hpp"

// Gives each value STEPS steps later.
template <typename T, unsigned STEPS> class Delay {
  T stage_[STEPS == 0 ? 1 : STEPS];
#ifdef QUASAR_FAST
  unsigned at_ = 0;
#endif

public:
#ifdef __SYNTHESIS__
  Delay() = default;
#else
  Delay() : stage_{} {}
#endif

  T step(const T& in) {
#pragma HLS INLINE
#pragma HLS ARRAY_PARTITION variable = stage_ complete
    if constexpr (STEPS == 0) {
      return in;
    } else {
#ifdef QUASAR_FAST
      const T out = stage_[at_];
      stage_[at_] = in;
      at_ = at_ + 1 == STEPS ? 0 : at_ + 1;
#else
      const T out = stage_[STEPS - 1];
      for (unsigned i = STEPS - 1; i > 0; --i) {
#pragma HLS UNROLL
        stage_[i] = stage_[i - 1];
      }
      stage_[0] = in;
#endif
      return out;
    }
  }
};

// Gives lane i of each value i steps later; if reversed, N - 1 - i steps.
template <typename T, unsigned N, bool REVERSED> class Skew {
  static constexpr unsigned steps(unsigned lane) { return REVERSED ? N - 1 - lane : lane; }

#ifdef QUASAR_FAST
  vec<T, N> line_[N];
  unsigned at_ = 0;
#else
  T stage_[N][N]; // lane i uses the first steps(i)
#endif

public:
#ifdef QUASAR_FAST
  Skew() : line_{} {}
#elif defined(__SYNTHESIS__)
  Skew() = default;
#else
  Skew() : stage_{} {}
#endif

  vec<T, N> step(const vec<T, N>& in) {
#pragma HLS INLINE
    vec<T, N> out;
#ifdef QUASAR_FAST
    at_ = (at_ == 0 ? N : at_) - 1;
    line_[at_] = in;
    for (unsigned lane = 0; lane < N; ++lane) {
      const unsigned row = at_ + steps(lane);
      out[lane] = line_[row < N ? row : row - N][lane];
    }
#else
#pragma HLS ARRAY_PARTITION variable = stage_ complete dim = 0
    for (unsigned lane = 0; lane < N; ++lane) {
#pragma HLS UNROLL
      out[lane] = steps(lane) == 0 ? in[lane] : stage_[lane][steps(lane) - 1];
      for (unsigned i = N - 1; i > 0; --i) {
#pragma HLS UNROLL
        if (i < steps(lane))
          stage_[lane][i] = stage_[lane][i - 1];
      }
      stage_[lane][0] = in[lane];
    }
#endif
    return out;
  }
};
