// The functions of lanes.hpp against indices that are computed modulo the number of items, for many
// numbers of items.
#include <stdio.h>
#include <utility>

#include "lanes.hpp"

namespace {

unsigned failures = 0;
unsigned checks = 0;

void equal(unsigned got, unsigned wanted, const char* what, unsigned n, unsigned by, unsigned i) {
  ++checks;
  if (got != wanted && ++failures <= 10)
    fprintf(stderr, "%s of %u by %u, item %u: %u instead of %u\n", what, n, by, i, got, wanted);
}

template <unsigned GROUPS, unsigned WIDTH> void groups() {
  constexpr unsigned N = GROUPS * WIDTH + 1; // one item more: no group has it
  for (unsigned group = 0; group < GROUPS; ++group)
    for (unsigned lane = 0; lane < WIDTH; ++lane) {
      u<8> items[N];
      for (unsigned i = 0; i < N; ++i)
        items[i] = i + 1;
      const unsigned place = group * WIDTH + lane;
      equal(group_item<GROUPS, WIDTH>(items, group, lane), place + 1, "group_item", N, group, lane);
      set_group_item<GROUPS, WIDTH>(items, group, lane, u<8>(200));
      for (unsigned i = 0; i < N; ++i)
        equal(items[i], i == place ? 200 : i + 1, "set_group_item", N, group, i);
    }
}

template <unsigned... N> void all(std::integer_sequence<unsigned, N...>) {
  (groups<N % 9 + 1, N / 9 + 1>(), ...);
}

} // namespace

int main() {
  all(std::make_integer_sequence<unsigned, 67>());
  printf("lanes: %u checks, %u failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
