// Runs fpga/rtl/array_top.sv on the passes of a file and prints, cycle by cycle, what it takes and
// what leaves it.
//
// Lines of the file: `options SEED STALL PASSES BEATS RESET` (percent of slow cycles that refuse a
// result, that offer a pass, that offer a beat; fast cycles after which the array is reset and all
// begins anew, 0 for never); `expect RESULTS`; `memory NAME BANK BYTES` (a bank's words in
// hexadecimal); `pass DESCRIPTOR`; `demand DEMAND`; `beat BYTES`.
//
// Further arguments are those of the simulation (`+NAME=VALUE`).
//
// Lines that it prints: `pass OFFERED TAKEN`, `demand ...`, `beat ...`, `sum SHOWN TAKEN
// VALUES...`, `score ...`, `credit SHOWN` in slow cycles, `start` and `end` in fast ones
// (probe.sv), `reset`.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "Varray_top.h"
#include "verilated.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t T = ARRAY_T, C = ARRAY_C, L = ARRAY_L, R = ARRAY_R;

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  for (size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

// Ports are little-endian bits whatever type Verilator gives them.
template <typename Port> void put(Port& port, size_t offset, size_t bits, const uint8_t* value) {
  auto* bytes = reinterpret_cast<uint8_t*>(&port);
  for (size_t i = 0; i < bits; i++) {
    const size_t at = offset + i;
    const uint8_t mask = 1u << at % 8;
    if (value[i / 8] >> i % 8 & 1)
      bytes[at / 8] |= mask;
    else
      bytes[at / 8] &= ~mask;
  }
}

template <typename Port> int64_t item(const Port& port, size_t index, size_t bits) {
  uint8_t bytes[sizeof(Port) + 8] = {};
  std::memcpy(bytes, &port, sizeof(Port));
  uint64_t word;
  std::memcpy(&word, bytes + index * bits / 8, sizeof word);
  word >>= index * bits % 8;
  return static_cast<int64_t>(word << (64 - bits)) >> (64 - bits);
}

// Items that are offered one after another, each from a random cycle on.
struct Source {
  std::vector<Bytes> items;
  uint32_t percent = 100;
  size_t next = 0;
  bool offers = false;
  uint64_t offered = 0;

  void step(std::mt19937& random, uint64_t cycle) {
    if (!offers && next < items.size() && random() % 100 < percent) {
      offers = true;
      offered = cycle;
    }
  }
  void take(const char* name, uint64_t cycle) {
    std::printf("%s %lu %lu\n", name, offered, cycle);
    offers = false;
    next++;
  }
};

struct Bank {
  std::string name;
  size_t index;
  Bytes words;
};

struct Bench {
  VerilatedContext context;
  std::mt19937 random;
  Varray_top top;
  Source passes, demands, beats;
  std::vector<Bank> banks;
  uint32_t stall = 0;
  size_t expected = 0;

  // Registers begin with random values.
  Bench(uint32_t seed, int argc, char** argv)
      : random(seed), top((context.commandArgs(argc, argv), context.randReset(2),
                           context.randSeed(int(seed) + 1), &context)) {
    top.clk = top.clk_array = 0;
    const auto clear = [](auto&... enables) { (std::memset(&enables, 0, sizeof enables), ...); };
    clear(top.input_write, top.normed_write, top.query_write, top.hidden_write,
          top.probability_write, top.key_write, top.value_write);
    top.eval();
  }

  // Ends a fast cycle; `slow`: and its slow cycle.
  void edge(bool slow) {
    top.clk_array = 1;
    if (slow)
      top.clk = 1;
    top.eval();
    top.clk_array = 0;
    top.clk = 0;
    top.eval();
  }
  void slow_cycle() {
    for (size_t i = 0; i < R; i++)
      edge(i + 1 == R);
  }

  void reset() {
    context.time(0);
    top.reset = 1;
    top.array_to_load_tready = top.sums_tready = top.scores_tready = 0;
    top.passes_tvalid = top.demands_tvalid = top.weights_tvalid = 0;
    slow_cycle();
    top.reset = 0;
    for (int i = 0; i < 6; i++)
      slow_cycle();
  }

  template <typename Write, typename Address, typename Data>
  void write(Write& enable, Address& address, Data& data, size_t address_bits, size_t bits,
             bool masked, const Bank& bank, size_t word) {
    const uint8_t one = 1, zero = 0;
    const size_t bytes = bits / 8;
    const bool more = (word + 1) * bytes <= bank.words.size();
    put(enable, bank.index, 1, more ? &one : &zero);
    if (!more)
      return;
    uint8_t at[8];
    std::memcpy(at, &word, 8);
    put(address, bank.index * address_bits, address_bits, at);
    if (masked) {
      const Bytes enables((C + 7) / 8, 0xff);
      put(data, bank.index * C * 9, bits, bank.words.data() + word * bytes);
      put(data, bank.index * C * 9 + bits, C, enables.data());
    } else {
      put(data, bank.index * bits, bits, bank.words.data() + word * bytes);
    }
  }

  void load() {
    bool more = true;
    for (size_t word = 0; more; word++) {
      more = false;
      for (const Bank& bank : banks) {
#define PORT(port, address_bits, bits, masked)                                                     \
  if (bank.name == #port) {                                                                        \
    write(top.port##_write, top.port##_write_address, top.port##_write_d, address_bits, bits,      \
          masked, bank, word);                                                                     \
    more |= word * (bits) / 8 < bank.words.size();                                                 \
  }
        PORT(input, ARRAY_ADDRESS_BITS, L * 8, false)
        PORT(query, ARRAY_ADDRESS_BITS, L * 8, false)
        PORT(hidden, ARRAY_ADDRESS_BITS, L * 8, false)
        PORT(normed, ARRAY_ADDRESS_BITS, ARRAY_M * 8, false)
        PORT(probability, ARRAY_ADDRESS_BITS, ARRAY_E * 8, false)
        PORT(key, ARRAY_ROW_BITS, C * 8, true)
        PORT(value, ARRAY_ROW_BITS, C * 8, true)
#undef PORT
      }
      slow_cycle();
    }
    slow_cycle();
  }

  // Runs until all results are there, or for a number of fast cycles.
  bool run(uint64_t limit) {
    for (Source* source : {&passes, &demands, &beats}) {
      source->next = 0;
      source->offers = false;
    }
    size_t left = expected;
    uint64_t idle = 0, sum_shown = 0, score_shown = 0;
    bool sum_waits = false, score_waits = false;
    for (uint64_t cycle = 0; left > 0; cycle++) {
      passes.step(random, cycle);
      demands.step(random, cycle);
      beats.step(random, cycle);
      top.passes_tvalid = passes.offers;
      if (passes.offers)
        put(top.passes_tdata, 0, 128, passes.items[passes.next].data());
      top.demands_tvalid = demands.offers;
      if (demands.offers)
        put(top.demands_tdata, 0, 32, demands.items[demands.next].data());
      top.weights_tvalid = beats.offers;
      if (beats.offers)
        put(top.weights_tdata, 0, ARRAY_BEAT * 8, beats.items[beats.next].data());
      top.sums_tready = random() % 100 >= stall;
      top.scores_tready = random() % 100 >= stall;
      top.array_to_load_tready = 1;
      top.eval();
      const size_t before = left;
      for (size_t phase = 0; phase + 1 < R; phase++) {
        context.time(cycle * R + phase + 1);
        edge(false);
      }
      context.time(cycle * R + R);
      idle++;
      if (top.passes_tvalid && top.passes_tready)
        passes.take("pass", cycle);
      if (top.demands_tvalid && top.demands_tready)
        demands.take("demand", cycle);
      if (top.weights_tvalid && top.weights_tready) {
        beats.take("beat", cycle);
        idle = 0;
      }
      if (top.array_to_load_tvalid)
        std::printf("credit %lu\n", cycle);
      if (top.retired)
        std::printf("retired %lu\n", cycle);
      if (top.starved)
        std::printf("starved %lu\n", cycle);
      if (top.sums_tvalid && !sum_waits) {
        sum_waits = true;
        sum_shown = cycle;
      }
      if (top.sums_tvalid && top.sums_tready) {
        sum_waits = false;
        std::printf("sum %lu %lu", sum_shown, cycle);
        for (size_t i = 0; i < L; i++)
          std::printf(" %ld", item(top.sums_tdata, i, 27));
        std::puts("");
        left--;
      }
      if (top.scores_tvalid && !score_waits) {
        score_waits = true;
        score_shown = cycle;
      }
      if (top.scores_tvalid && top.scores_tready) {
        score_waits = false;
        std::printf("score %lu %lu", score_shown, cycle);
        for (size_t i = 0; i < T; i++)
          std::printf(" %ld", item(top.scores_tdata, i, 24));
        std::puts("");
        left--;
      }
      if (left != before)
        idle = 0;
      if (idle > 20000) {
        std::fprintf(stderr, "nothing happens any more at slow cycle %lu\n", cycle);
        return false;
      }
      edge(true);
      if (limit && (cycle + 1) * R >= limit)
        return true;
    }
    // Nothing may follow.
    for (int i = 0; i < 200; i++) {
      top.passes_tvalid = top.demands_tvalid = top.weights_tvalid = 0;
      if (top.sums_tvalid || top.scores_tvalid) {
        std::fprintf(stderr, "a result too many\n");
        return false;
      }
      slow_cycle();
    }
    return true;
  }
};

} // namespace

int main(int argc, char** argv) {
  if (argc < 2)
    return 2;
  std::ifstream file(argv[1]);
  std::string options;
  uint32_t seed = 0;
  uint64_t reset = 0;
  file >> options >> seed;
  Bench bench(seed, argc, argv);
  file >> bench.stall >> bench.passes.percent >> bench.beats.percent >> reset;
  for (std::string line, word; std::getline(file >> std::ws, line);) {
    std::istringstream in(line);
    in >> word;
    if (word == "expect") {
      in >> bench.expected;
    } else if (word == "memory") {
      Bank bank;
      in >> bank.name >> bank.index >> word;
      bank.words = from_hex(word);
      bench.banks.push_back(std::move(bank));
    } else {
      Source& source = word == "pass"     ? bench.passes
                       : word == "demand" ? bench.demands
                                          : bench.beats;
      in >> word;
      source.items.push_back(from_hex(word));
    }
  }
  bench.reset();
  bench.load();
  if (reset) {
    if (!bench.run(reset))
      return 1;
    bench.reset();
    std::puts("reset");
  }
  const bool good = bench.run(0);
  bench.top.final();
  return good ? 0 : 1;
}
