// Compares cascades of DSP slices with their model in each cycle, over random operands.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>

#include "Vunits.h"
#include "verilated.h"

int main() {
  constexpr int CYCLES = 20000;
  VerilatedContext context;
  Vunits top(&context);
  std::mt19937 random(1);
  int wrong = 0, distinct = 0;
  uint64_t before = 0;
  for (int cycle = 0; cycle < CYCLES; cycle++) {
    // Extremes are frequent: all bits alike.
    for (auto* port : {&top.w, &top.a})
      for (unsigned i = 0; i < 5; i++) {
        const uint32_t word = random() % 4 ? random() : random() % 2 ? 0xffffffff : 0;
        (*port)[i] = i == 4 ? word & 0xffff : word;
      }
    // A sum before the first `first` begins with whatever the registers hold.
    top.first = cycle < 16 || random() % 8 == 0;
    top.clk = 0;
    top.eval();
    top.clk = 1;
    top.eval();
    if (cycle > 64 && top.differs)
      wrong++;
    distinct += top.sum != before;
    before = top.sum;
  }
  top.final();
  std::printf("%d of %d cycles differ, %d sums\n", wrong, CYCLES, distinct);
  return wrong != 0;
}
