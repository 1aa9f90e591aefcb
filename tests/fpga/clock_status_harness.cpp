// Runs clock_status.v on three clocks of any period, and prints `status` at the end of each phase.
//   simulate NANOSECONDS [CLK KERNELS ARRAY LOCKED ...]
// Periods are in picoseconds, 0 for a clock that stands. A group of four numbers is a phase; the
// first edges of all clocks coincide.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "Vclock_status.h"
#include "verilated.h"

int main(int count, char** arguments) {
  VerilatedContext context;
  Vclock_status top{&context};
  const auto number = [&](int i) { return std::strtoull(arguments[i], nullptr, 10); };
  const uint64_t phase = 1000 * number(1);
  std::array<uint64_t, 3> period{}, next{};
  uint64_t now = 0, end = 0;
  for (int i = 2; i + 3 < count; i += 4) {
    for (int clock = 0; clock < 3; ++clock) {
      period[clock] = number(i + clock);
      next[clock] = now;
    }
    top.locked = number(i + 3) != 0;
    end += phase;
    while (true) {
      now = end;
      for (int clock = 0; clock < 3; ++clock)
        if (period[clock] != 0 && next[clock] < now)
          now = next[clock];
      if (now == end)
        break;
      std::array<CData*, 3> pins{&top.clk, &top.clk_kernels, &top.clk_array};
      for (int clock = 0; clock < 3; ++clock)
        if (period[clock] != 0 && next[clock] == now) {
          *pins[clock] ^= 1;
          next[clock] += period[clock] / 2;
        }
      top.eval();
      context.timeInc(1);
    }
    std::printf("%08x\n", top.status);
  }
  top.final();
}
