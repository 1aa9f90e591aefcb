// The packed element against int64: sums of two 4-bit rows or of one 8-bit row, at random and with
// extreme operands; 1 where one is wrong.

#include <cstdint>
#include <cstdio>
#include <random>

#include "Velement.h"
#include "verilated.h"

namespace {

constexpr int S = ELEMENT_S;

enum class Mode { TWO_ROWS, SIGNED_EIGHT, UNSIGNED_EIGHT };

struct Rows {
  int64_t low, high;
};

// The rows of P: low field signed, except of an 8-bit row of unsigned activations.
Rows split(int64_t p, Mode mode) {
  const uint64_t field = static_cast<uint64_t>(p) & ((1ULL << S) - 1);
  const int64_t low = mode == Mode::UNSIGNED_EIGHT
                          ? static_cast<int64_t>(field)
                          : static_cast<int64_t>(field << (64 - S)) >> (64 - S);
  return {low, (p - low) >> S};
}

} // namespace

int main() {
  VerilatedContext context;
  Velement top(&context);
  std::mt19937 random(1);
  auto draw = [&](int least, int most) {
    if (random() % 8 == 0)
      return random() % 2 ? least : most;
    return static_cast<int>(random() % (most - least + 1)) + least;
  };
  auto clock = [&](bool enable) {
    top.enable = enable;
    top.clk = 0;
    top.eval();
    top.clk = 1;
    top.eval();
  };
  const int longest[] = {S == 23 ? 4681 : 1170, S == 23 ? 2184 : 546, S == 23 ? 2193 : 548};
  int64_t wrong = 0;
  for (int sum = 0; sum < 600; sum++) {
    const Mode mode = static_cast<Mode>(sum % 3);
    const int products = sum < 12 ? longest[sum % 3] : draw(1, 60);
    Rows exact{};
    // A sum's last operands are in P four clocks later; the next sum's would overwrite it, so one
    // sum at a time.
    for (int k = 0, a = 0; k < products + 4; k++) {
      // W is a cycle behind its operands: the activation of the product before.
      top.a = k >= 1 && k <= products ? a & 0x1ff : 0;
      top.first = k == 1;
      int low = 0, high = 0;
      if (k < products) {
        const bool extreme = sum < 12;
        a = mode == Mode::UNSIGNED_EIGHT ? (extreme ? 255 : draw(0, 255))
                                         : (extreme ? (sum & 4 ? 127 : -128) : draw(-128, 127));
        if (mode == Mode::TWO_ROWS) {
          low = extreme ? (sum & 1 ? 7 : -7) : draw(-7, 7);
          high = extreme ? (sum & 2 ? 7 : -7) : draw(-7, 7);
        } else {
          low = extreme ? 15 : draw(0, 15);
          high = extreme ? (sum & 1 ? 7 : -8) : draw(-8, 7);
        }
        exact.low += int64_t{low} * a;
        exact.high += int64_t{high} * a;
      }
      top.operands = static_cast<uint8_t>((high & 15) << 4 | (low & 15));
      top.low_unsigned = mode != Mode::TWO_ROWS;
      clock(true);
      if (random() % 16 == 0) {
        top.operands = ~top.operands;
        clock(false); // nothing moves
        top.operands = ~top.operands;
      }
    }
    const Rows got = split(static_cast<int64_t>(top.p << 16) >> 16, mode);
    if (got.low != exact.low || got.high != exact.high) {
      std::printf("sum %d: %ld %ld, exact %ld %ld\n", sum, got.low, got.high, exact.low,
                  exact.high);
      wrong++;
    }
  }
  top.final();
  std::printf("%ld of 600 sums are wrong\n", wrong);
  return wrong != 0;
}
