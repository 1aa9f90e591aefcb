// Moves values between lanes: rotation, shift, choice of a group. A computed index of an array of
// registers is a multiplexer of all its elements; these functions need fewer
// (docs/hardware-model.md, "Resources"). tests/fpga/lanes.cpp tests them.
#pragma once

#include "types.hpp"

// Rotates items up by `by` < N places: item i moves to place (i + by) mod N. Stage after stage, one
// for each bit of `by`, keeps the items or rotates them by a constant.
template <unsigned STEP = 1, typename T, unsigned N> void rotate(vec<T, N>& items, unsigned by) {
#pragma HLS INLINE
  if constexpr (STEP < N) {
    vec<T, N> turned;
    for (unsigned i = 0; i < N; ++i) {
#pragma HLS UNROLL
      turned[i] = items[i];
      if ((by & STEP) != 0)
        turned[i] = items[(i + N - STEP) % N];
    }
    items = turned;
    rotate<2 * STEP>(items, by);
  }
}

// Shifts items up by `by` < LIMIT places, a power of two. The lowest places repeat `fill`.
template <unsigned LIMIT, unsigned STEP = 1, typename T, unsigned N>
void shift_up(vec<T, N>& items, unsigned by, const T& fill) {
#pragma HLS INLINE
  if constexpr (STEP < LIMIT) {
    vec<T, N> moved;
    for (unsigned i = 0; i < N; ++i) {
#pragma HLS UNROLL
      moved[i] = items[i];
      if ((by & STEP) != 0)
        moved[i] = i < STEP ? fill : items[i < STEP ? 0 : i - STEP];
    }
    items = moved;
    shift_up<LIMIT, 2 * STEP>(items, by, fill);
  }
}

// Returns item `lane` of group `group` of GROUPS groups of WIDTH items: a multiplexer of GROUPS
// items.
template <unsigned GROUPS, unsigned WIDTH, typename T, unsigned N>
T group_item(const T (&items)[N], unsigned group, unsigned lane) {
#pragma HLS INLINE
  T choice[GROUPS];
#pragma HLS ARRAY_PARTITION variable = choice complete
  for (unsigned g = 0; g < GROUPS; ++g) {
#pragma HLS UNROLL
    choice[g] = items[g * WIDTH + lane];
  }
  return choice[GROUPS == 1 ? 0 : group];
}

// Sets item `lane` of group `group` of GROUPS groups of WIDTH items.
template <unsigned GROUPS, unsigned WIDTH, typename T, unsigned N>
void set_group_item(T (&items)[N], unsigned group, unsigned lane, const T& item) {
#pragma HLS INLINE
  for (unsigned g = 0; g < GROUPS; ++g) {
#pragma HLS UNROLL
    if (GROUPS == 1 || group == g)
      items[g * WIDTH + lane] = item;
  }
}
