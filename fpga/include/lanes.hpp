// Moves values between lanes and groups of them. A computed index of an array of registers is a
// multiplexer of all its elements; these functions need fewer.
// tests/fpga/lanes.cpp tests them.
#pragma once

#include "types.hpp"

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
