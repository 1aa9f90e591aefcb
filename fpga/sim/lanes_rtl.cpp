// Implements the lanes by their verilated SystemVerilog (fpga/rtl/lanes.sv).
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "Vlanes.h"
#include "verilated.h"

#include "clocked.hpp"
#include "lanes_core.hpp"
#include "verilated_ports.hpp"
#include "waves.hpp"

namespace sim {

namespace {

constexpr unsigned BANKS = config::FRAMES * GROUPS; // of the residual
constexpr unsigned LANES = config::LANES;

// Drives an item's bits, in the order of the queue's.
template <typename Port> struct PortWriter {
  Port& port;
  size_t at = 0;
  template <int W> void operator()(const u<W>& number) { bits(uint64_t(number), W); }
  template <int W> void operator()(const s<W>& number) { bits(uint64_t(int64_t(number)), W); }
  void bits(uint64_t value, unsigned count) {
    put(port, at, count, value);
    at += count;
  }
};
template <typename Port, typename T> void drive(Port& port, T item) {
  PortWriter<Port> writer{port};
  each_number(writer, item);
}

class LanesRtl {
public:
  explicit LanesRtl(const LaneMemories& memories) : memories_(memories) {
    top_.clk = top_.clk_array = 0;
    top_.reset = 1;
    for (unsigned i = 0; i < RESET_CYCLES; ++i)
      cycle();
    top_.reset = 0;
    cycle();
  }
  ~LanesRtl() { finish(top_, context_); }

  Vlanes& top() { return top_; }
  Waves& waves() { return waves_; }

  // Advances to the end of the slow cycle whose inputs are driven.
  void cycle() {
    for (unsigned i = 0; i < config::CLOCK_RATIO; ++i) {
      const bool slow = i + 1 == config::CLOCK_RATIO;
      top_.eval();
      waves_.record(2 * i);
      if (slow) {
        read();
        write();
      }
      top_.clk_array = 1;
      top_.clk = slow;
      top_.eval();
      waves_.record(2 * i + 1);
      if (slow)
        std::memcpy(&top_.residual_word, word_.data(), word_.size());
      top_.clk_array = top_.clk = 0;
      top_.eval();
    }
  }

private:
  static constexpr unsigned RESET_CYCLES = 30;
  static constexpr unsigned CODE_BITS = LANES_ADDRESS_BITS, ROW_BITS = LANES_ROW_BITS;

  // A bank gives a word a cycle after its address, and keeps it.
  void read() {
    const uint64_t address = top_.residual_address;
    for (unsigned bank = 0; bank < BANKS; ++bank)
      if (get(top_.residual_enable, bank, 1) == 1 && address < memories_.residual.words())
        for (unsigned lane = 0; lane < LANES; ++lane) {
          const auto x = uint16_t(int(memories_.residual.at(bank, address)[lane]));
          std::memcpy(&word_[2 * (size_t(bank) * LANES + lane)], &x, 2);
        }
  }

  void write() {
    for (unsigned bank = 0; bank < BANKS; ++bank)
      if (get(top_.residual_write, bank, 1) == 1)
        for (unsigned lane = 0; lane < LANES; ++lane) {
          const s<16> x = get_signed(top_.residual_write_d, size_t(lane) * 16, 16);
          memories_.residual.at(bank, top_.residual_write_address)[lane] = x;
          memories_.norm_residual.at(bank, top_.residual_write_address)[lane] = x;
        }
    for (unsigned bank = 0; bank < GROUPS * CASCADE; ++bank)
      for (unsigned lane = 0; lane < LANES; ++lane) {
        const s<8> code = get_signed(top_.code_write_d, size_t(lane) * 8, 8);
        if (get(top_.query_write, bank, 1) == 1)
          memories_.query.at(bank, top_.code_write_address)[lane] = code;
        if (get(top_.hidden_write, bank, 1) == 1)
          memories_.hidden.at(bank, top_.code_write_address)[lane] = code;
      }
    masked(memories_.key, config::KEY_BANKS, top_.key_write, top_.key_write_address,
           top_.key_write_d);
    masked(memories_.value, config::VALUE_BANKS, top_.value_write, top_.value_write_address,
           top_.value_write_d);
  }
  // A word is C codes, then C enables.
  template <typename Ram, typename Enable, typename Address, typename Word>
  static void masked(Ram& ram, unsigned banks, const Enable& enable, const Address& address,
                     const Word& word) {
    for (unsigned bank = 0; bank < banks; ++bank) {
      if (get(enable, bank, 1) == 0)
        continue;
      const size_t from = size_t(bank) * CASCADE * 9;
      for (unsigned c = 0; c < CASCADE; ++c)
        if (get(word, from + 8 * CASCADE + c, 1) == 1)
          ram.at(bank, get(address, size_t(bank) * ROW_BITS, ROW_BITS))[c] =
              get_signed(word, from + 8 * c, 8);
    }
  }

  LaneMemories memories_;
  VerilatedContext context_;
  Vlanes top_{&context_};
  Waves waves_{top_, context_, "lanes"};
  std::vector<uint8_t> word_ = std::vector<uint8_t>(size_t(BANKS) * LANES * 2);
};

} // namespace

void run_lanes(const LaneQueues& q, const LaneMemories& memories) {
  // Longer than a command without a handshake: a beat of a table, the pipeline, the gap.
  constexpr unsigned QUIET = 400 + GROUPS;
  // Larger than a fiber's stack.
  const auto rtl = std::make_unique<LanesRtl>(memories);
  Vlanes& top = rtl->top();
  Scheduler& scheduler = Scheduler::get();
  Fiber* fiber = scheduler.current();
  uint64_t* rows = &scheduler.loop("drain.rows").count;
  unsigned quiet = 0;
  while (alive()) {
    scheduler.await();
    const uint64_t now = fiber->now;
    const auto offer = [now](auto& valid, auto& port, const auto& queue) {
      const auto* item = queue.peek(now);
      valid = item != nullptr;
      if (item != nullptr)
        drive(port, *item);
    };
    offer(top.jobs_valid, top.jobs, q.jobs);
    offer(top.rows_valid, top.rows, q.rows);
    offer(top.attention_tiles_valid, top.attention_tiles, q.attention_tiles);
    offer(top.scales_valid, top.scales, q.scales);
    offer(top.sums_valid, top.sums, q.sums);
    const beat_t* beat = q.beats.peek(now);
    top.beats_valid = beat != nullptr;
    if (beat != nullptr)
      std::memcpy(&top.beats, beat->byte, sizeof(beat_t));
    top.moments_ready = q.moments.has_room(now);
    top.logits_ready = q.logits.has_room(now);
    top.drain_to_array_ready = q.drain_to_array.has_room(now);
    top.eval();
    bool moved = false;
    const auto take = [&moved](bool valid, bool ready, auto& queue) {
      if (valid && ready) {
        queue.read();
        moved = true;
      }
    };
    take(top.jobs_valid, top.jobs_ready, q.jobs);
    take(top.rows_valid, top.rows_ready, q.rows);
    take(top.attention_tiles_valid, top.attention_tiles_ready, q.attention_tiles);
    take(top.scales_valid, top.scales_ready, q.scales);
    take(top.beats_valid, top.beats_ready, q.beats);
    if (top.sums_valid && top.sums_ready)
      ++*rows;
    take(top.sums_valid, top.sums_ready, q.sums);
    if (top.moments_valid && top.moments_ready) {
      moments_t moments;
      for (unsigned lane = 0; lane < LANES; ++lane) {
        moments[lane].sum = get_signed(top.moments, size_t(lane) * 68, 27);
        moments[lane].squares = get(top.moments, size_t(lane) * 68 + 27, 41);
      }
      q.moments.put(moments);
      moved = true;
    }
    if (top.logits_valid && top.logits_ready) {
      q.logits.put(s<32>(int32_t(top.logits)));
      moved = true;
    }
    if (top.drain_to_array_valid && top.drain_to_array_ready) {
      q.drain_to_array.put(1);
      moved = true;
    }
    if (top.retired) {
      q.retired.write(1);
      moved = true;
    }
    const bool full = (top.moments_valid && !top.moments_ready) ||
                      (top.logits_valid && !top.logits_ready) ||
                      (top.drain_to_array_valid && !top.drain_to_array_ready);
    rtl->waves().begin();
    rtl->cycle();
    quiet = moved ? 0 : quiet + 1;
    if (quiet < QUIET) {
      ++fiber->now;
      continue;
    }
    const uint64_t next = wait_for_change(
        {full ? "writes" : "reads", full ? &q.moments.name() : &q.jobs.name()},
        [&] {
          return std::array{q.jobs.next_item(),          q.rows.next_item(),
                            q.scales.next_item(),        q.attention_tiles.next_item(),
                            q.beats.next_item(),         q.sums.next_item(),
                            q.moments.next_room(),       q.logits.next_room(),
                            q.drain_to_array.next_room()};
        },
        [&] {
          q.jobs.wake_when_written(fiber);
          q.rows.wake_when_written(fiber);
          q.scales.wake_when_written(fiber);
          q.attention_tiles.wake_when_written(fiber);
          q.beats.wake_when_written(fiber);
          q.sums.wake_when_written(fiber);
          q.moments.wake_when_read(fiber);
          q.logits.wake_when_read(fiber);
          q.drain_to_array.wake_when_read(fiber);
        });
    fiber->now = next;
    quiet = QUIET - 100;
  }
}

} // namespace sim
