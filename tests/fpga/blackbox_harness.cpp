// The black box against its C model: the same operands, the RTL's result three clocks later.

#include <cstdio>
#include <deque>
#include <random>

#include "Vpacked_mac.h"
#include "packed_mac.hpp"
#include "verilated.h"

int main() {
  constexpr size_t LATENCY = 3; // as packed_mac.json says
  VerilatedContext context;
  Vpacked_mac top(&context);
  std::mt19937 random(1);
  std::deque<int64_t> expected;
  int wrong = 0;
  for (int cycle = 0; cycle < 20000; cycle++) {
    const int32_t w = static_cast<int32_t>(random()) >> 5;
    const int16_t a = static_cast<int16_t>(static_cast<int16_t>(random()) >> 7);
    const bool first = cycle == 0 || random() % 50 == 0;
    expected.push_back(packed_mac(w, a, first).to_int64());
    top.w = static_cast<uint32_t>(w) & 0x7ffffff;
    top.a = static_cast<uint16_t>(a) & 0x1ff;
    top.first = first;
    top.ap_ce = 1;
    for (int clk : {0, 1}) {
      top.ap_clk = clk;
      top.eval();
    }
    if (expected.size() == LATENCY) {
      wrong += static_cast<int64_t>(top.ap_return << 16) >> 16 != expected.front();
      expected.pop_front();
    }
  }
  top.final();
  std::printf("%d wrong\n", wrong);
  return wrong != 0;
}
