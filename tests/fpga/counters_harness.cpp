// Drives counters.sv with random events, reads and writes, and compares each word that it returns
// with plain sums. Prints what differs, then the numbers of reads and of saturated words.
//   simulate SEED CYCLES
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "Vcounters.h"
#include "verilated.h"

namespace {

constexpr unsigned UNITS = 9, WORDS = 4 + 4 * UNITS, MOST_HELD = 63;
constexpr uint64_t LIMIT = (uint64_t(1) << COUNTERS_BITS) - 1;

struct Unit {
  unsigned held = 0; // commands, as the block counts them
  bool takes = false, ends = false, blocks = false, starves = false; // a cycle ago
};

class Bench {
public:
  explicit Bench(uint32_t seed) : random(seed) {}

  VerilatedContext context;
  Vcounters top{&context};
  std::mt19937 random;
  std::array<Unit, UNITS> units;
  std::array<uint64_t, WORDS> total{};
  std::array<unsigned, UNITS> outstanding{}; // commands, as the events go in
  bool run = false;
  unsigned fresh = 0; // cycles until the counters run
  uint64_t cycle = 0;
  unsigned wrong = 0, reads = 0, saturated = 0;
  bool kernels_reset = false;

  // Adds the events of this cycle to the sums, then lets the clock tick with new events.
  void tick() {
    const bool writes_control = top.s_axi_awvalid && top.s_axi_wvalid && !top.s_axi_bvalid &&
                                top.s_axi_awaddr / 4 == 1 && (top.s_axi_wstrb & 1) != 0;
    for (unsigned u = 0; u < UNITS; ++u) {
      const bool taken = random() % 100 < percent && outstanding[u] < MOST_HELD;
      const bool ended = outstanding[u] > 0 && random() % 100 < percent;
      outstanding[u] = outstanding[u] + taken - ended;
      set(top.taken, u, taken);
      set(top.ended, u, ended);
      set(top.blocked, u, random() % 100 < 40);
      set(top.starved, u, random() % 100 < 60);
    }
    top.kernels_resetn = !kernels_reset;
    if (kernels_reset)
      outstanding.fill(0);
    top.eval();
    if (run && fresh == 0 && !(writes_control && (top.s_axi_wdata & 1) != 0)) {
      add(2, 1);
      for (unsigned u = 0; u < UNITS; ++u) {
        const Unit& unit = units[u];
        const bool busy = unit.held != 0;
        add(4 + 4 * u, unit.ends);
        add(5 + 4 * u, busy);
        add(6 + 4 * u, busy && unit.blocks);
        add(7 + 4 * u, busy && unit.starves);
      }
    }
    if (fresh > 0)
      --fresh;
    if (writes_control) {
      run = (top.s_axi_wdata & 1) != 0;
      if (run) {
        total.fill(0);
        fresh = WORDS + 1;
      }
    }
    for (unsigned u = 0; u < UNITS; ++u) {
      Unit& unit = units[u];
      unit.held = kernels_reset ? 0 : unit.held + unit.takes - unit.ends;
      unit.takes = !kernels_reset && bit(top.taken, u);
      unit.ends = !kernels_reset && bit(top.ended, u);
      unit.blocks = bit(top.blocked, u);
      unit.starves = bit(top.starved, u);
    }
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
    ++cycle;
  }

  void write(unsigned address, uint32_t value, unsigned strobes) {
    for (unsigned i = random() % 4; i > 0; --i)
      tick();
    // The address first, the data first, or both.
    const unsigned order = random() % 3;
    top.s_axi_awaddr = address;
    top.s_axi_wdata = value;
    top.s_axi_wstrb = strobes;
    top.s_axi_awvalid = order != 1;
    top.s_axi_wvalid = order != 0;
    for (unsigned i = random() % 3 + 1; order != 2 && i > 0; --i)
      tick();
    top.s_axi_awvalid = top.s_axi_wvalid = 1;
    tick();
    top.s_axi_awvalid = top.s_axi_wvalid = 0;
    for (unsigned i = random() % 3; i > 0; --i)
      tick();
    expect(top.s_axi_bvalid, 1, "a response", address);
    top.s_axi_bready = 1;
    tick();
    top.s_axi_bready = 0;
    expect(top.s_axi_bvalid, 0, "one response", address);
  }

  // Reads a word. `exact`: the counters are held; else the sum may have been taken in any cycle of
  // the read.
  void read(unsigned address) {
    const unsigned word = address / 4;
    const uint64_t before = value_of(word);
    top.s_axi_araddr = address;
    top.s_axi_arvalid = 1;
    top.eval();
    unsigned waited = 0;
    while (!top.s_axi_arready && ++waited < 100)
      tick();
    tick();
    top.s_axi_arvalid = 0;
    top.s_axi_araddr = uint8_t(random());
    while (!top.s_axi_rvalid && ++waited < 200)
      tick();
    expect(waited < 200, 1, "an answer", address);
    const uint32_t got = top.s_axi_rdata;
    const uint64_t after = value_of(word);
    if (got < before || got > after) {
      std::printf("cycle %lu: word %u is %u, not from %lu to %lu\n", cycle, word, got, before,
                  after);
      ++wrong;
    }
    for (unsigned i = random() % 3; i > 0; --i)
      tick();
    expect(top.s_axi_rdata, got, "a value that stays", address);
    top.s_axi_rready = 1;
    tick();
    top.s_axi_rready = 0;
    expect(top.s_axi_rvalid, 0, "one answer", address);
    ++reads;
    saturated += word >= 2 && got == LIMIT;
  }

  void reset() {
    top.resetn = top.kernels_resetn = 0;
    top.clk = 0;
    top.s_axi_awvalid = top.s_axi_wvalid = top.s_axi_bready = 0;
    top.s_axi_arvalid = top.s_axi_rready = 0;
    top.taken = top.ended = top.blocked = top.starved = 0;
    for (unsigned i = 0; i < 5; ++i) {
      top.eval();
      top.clk = 1;
      top.eval();
      top.clk = 0;
    }
    top.resetn = top.kernels_resetn = 1;
    top.eval();
  }

  unsigned percent = 50;

private:
  uint64_t value_of(unsigned word) const {
    if (word == 0)
      return 0x51434e54;
    if (word == 1)
      return run;
    return word < WORDS ? total[word] : 0;
  }
  void add(unsigned word, unsigned more) {
    total[word] = total[word] + more > LIMIT ? LIMIT : total[word] + more;
  }
  void expect(uint64_t got, uint64_t wanted, const char* what, unsigned address) {
    if (got == wanted)
      return;
    std::printf("cycle %lu: no %s at 0x%02x\n", cycle, what, address);
    ++wrong;
  }
  template <typename Port> static void set(Port& port, unsigned index, bool value) {
    port = Port((port & ~(1u << index)) | unsigned(value) << index);
  }
  static bool bit(unsigned port, unsigned index) { return (port >> index & 1) != 0; }
};

} // namespace

int main(int argc, char** argv) {
  if (argc != 3)
    return 2;
  Bench bench(uint32_t(std::atoi(argv[1])));
  const uint64_t cycles = uint64_t(std::atoll(argv[2]));
  bench.reset();
  for (unsigned word = 0; word < WORDS; ++word)
    bench.read(4 * word); // 0 after a reset
  while (bench.cycle < cycles && bench.wrong < 10) {
    bench.percent = bench.random() % 2 != 0 ? 5 : 50;
    switch (bench.random() % 8) {
    case 0:
      bench.write(4, 1, 15);
      break;
    case 1: // held: all words are exact
      bench.write(4, 0, 1);
      for (unsigned word = 0; word < WORDS; ++word)
        bench.read(4 * word);
      break;
    case 2: // what nothing takes
      bench.write(bench.random() % 2 != 0 ? 4 : 4 * (bench.random() % 64), bench.random(),
                  bench.random() % 2 != 0 ? 15 : 14);
      break;
    case 3:
      bench.kernels_reset = true;
      for (unsigned i = bench.random() % 5 + 1; i > 0; --i)
        bench.tick();
      bench.kernels_reset = false;
      break;
    default:
      for (unsigned i = bench.random() % 200; i > 0; --i)
        bench.tick();
      bench.read(4 * (bench.random() % 64));
    }
  }
  std::printf("%u wrong, %u reads, %u saturated\n", bench.wrong, bench.reads, bench.saturated);
  return bench.wrong != 0;
}
