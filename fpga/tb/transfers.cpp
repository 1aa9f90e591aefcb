// Tests load, fetch and store alone: every target, stripes, checks, credits, bad commands,
// shortened transfers, addresses that trap.
#include <vector>

#include "dram.hpp"
#include "kernels.hpp"
#include "memory_image.hpp"
#include "verdict.hpp"

namespace {

namespace target = isa::target;

constexpr unsigned BEAT = sizeof(beat_t);

std::vector<uint8_t> noise(Random& random, size_t bytes) {
  std::vector<uint8_t> data(bytes);
  for (auto& byte : data)
    byte = uint8_t(random.next());
  return data;
}

command_t load_command(unsigned target, uint32_t address, uint32_t beats, unsigned frame = 0,
                       uint32_t key = 0) {
  return isa::Load{.target = target, .frame = frame, .beats = beats, .address = address, .key = key}
      .encode();
}
command_t load_end(unsigned frame, unsigned transfers) {
  return isa::LoadEnd{.frame = frame, .transfers = transfers}.encode();
}

// Runs load with its queues and its own DRAM.
struct LoadBench {
  sim::Dram dram{8 << 20};
  Commands<isa::depth::load_commands> commands{"load_commands"};
  Beats<isa::depth::weights> weights{"weights"};
  Beats<isa::depth::rows> rows{"rows"};
  Beats<isa::depth::gains> gains{"gains"};
  Credits<isa::depth::array_to_load> array_to_load{"array_to_load"};
  Credits<isa::depth::load_to_array> load_to_array{"load_to_array"};
  Checks checks{"checks"};
  Retired retired;
  Memories<sim::Ram, sim::Ram>::Input input{"input"};
  uint64_t stripes[4] = {};
  uint32_t seed = 0;
  sim::Scheduler scheduler;

  LoadBench(const Arena& arena, uint64_t seed) : scheduler(seed) {
    for (unsigned port = 0; port < config::PORTS; ++port) {
      stripes[port] = dram.allocate(arena.stripe_bytes());
      arena.stripe(port, dram.host(stripes[port]));
      dram.flush(stripes[port], arena.stripe_bytes());
    }
    scheduler.spawn("load", [this] {
      load(Bus<port_t>(dram, stripes[0]), Bus<port_t>(dram, stripes[1]),
           Bus<port_t>(dram, stripes[2]), Bus<port_t>(dram, stripes[3]), this->seed, commands,
           weights, rows, gains, array_to_load, load_to_array, checks, retired,
           Write::Input(input));
    });
  }
  void play(const std::vector<command_t>& list) {
    scheduler.spawn("list", [this, list] {
      for (const command_t& command : list)
        commands.write(command);
    });
  }
  // Takes the next `count` beats of a queue as bytes.
  template <unsigned DEPTH>
  void take(Beats<DEPTH>& queue, size_t count, std::vector<uint8_t>& out) {
    scheduler.spawn("taker", [&queue, count, &out] {
      for (size_t i = 0; i < count; ++i) {
        const beat_t beat = queue.read();
        out.insert(out.end(), beat.byte, beat.byte + BEAT);
      }
    });
  }
};

void load_moves_beats_as_they_are(Verdict& verdict, uint64_t seed) {
  Random random(seed + 1);
  Arena arena;
  const size_t sizes[] = {1, 3, 200, 66, 1, 40};
  std::vector<std::vector<uint8_t>> data;
  std::vector<command_t> list;
  const unsigned targets[] = {target::WEIGHTS, target::PARAMETERS, target::GAINS,
                              target::TABLE,   target::RESIDUAL,   target::WEIGHTS};
  for (unsigned i = 0; i < 6; ++i) {
    data.push_back(noise(random, sizes[i] * BEAT));
    list.push_back(load_command(targets[i], arena.add(data[i], i), uint32_t(sizes[i])));
  }
  list.push_back(load_end(0, 6));
  LoadBench bench(arena, seed);
  std::vector<uint8_t> weights, rows, gains;
  bench.take(bench.weights, sizes[0] + sizes[5], weights);
  bench.take(bench.rows, sizes[1] + sizes[3] + sizes[4], rows);
  bench.take(bench.gains, sizes[2], gains);
  bench.play(list);
  bench.scheduler.run();
  const auto join = [](std::vector<uint8_t> a, const std::vector<uint8_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  verdict.expect(weights == join(data[0], data[5]), "weights arrive as they are in memory");
  verdict.expect(rows == join(join(data[1], data[3]), data[4]),
                 "rows, table, residual share a queue, in order");
  verdict.expect(gains == data[2], "gains arrive");
  verdict.expect(bench.checks.size() == 1 && bench.weights.empty() && bench.rows.empty(),
                 "one check, and no beat of checks, leaves");
  verdict.expect(bench.checks.read().sound == 1, "sound transfers are reported sound");
  verdict.equal(bench.scheduler.loops().at("load.beats").count,
                uint64_t(1 + 3 + 200 + 66 + 1 + 40 + 6),
                "an interval a beat, and one for each check");
  verdict.equal(bench.retired.written(), uint64_t(list.size()), "commands ended");
}

void load_gathers_patches(Verdict& verdict, uint64_t seed) {
  Random random(seed + 2);
  constexpr unsigned WORDS = 37, WORD_BEATS = (config::TOKENS + BEAT - 1) / BEAT;
  static_assert(WORDS <= config::INPUT_WORDS);
  Arena arena;
  arena.add(noise(random, 5 * BEAT));
  const std::vector<uint8_t> data = noise(random, WORDS * WORD_BEATS * BEAT);
  constexpr uint32_t NONCE = 0xc0ffee11;
  const uint32_t first = arena.add(data, NONCE);
  LoadBench bench(arena, seed);
  const isa::Load patches{.target = target::PATCHES,
                          .wait_array = 1,
                          .post_array = 1,
                          .frame = 1,
                          .begins = 1,
                          .beats = WORDS * WORD_BEATS,
                          .address = first};
  bench.play({patches.encode(), load_end(1, 0)});
  bench.scheduler.run();
  verdict.expect(bench.load_to_array.empty() && bench.checks.empty(),
                 "patches wait for the array's credit");
  bench.array_to_load.write(1);
  bench.scheduler.run();
  verdict.expect(bench.load_to_array.size() == 1 && bench.array_to_load.empty(),
                 "a credit for a credit");
  const frame_check_t check = bench.checks.read();
  verdict.expect(check.sound == 1 && check.nonce == NONCE, "the input's nonce");
  for (unsigned word = 0; word < WORDS; ++word)
    for (unsigned token = 0; token < config::TOKENS; ++token) {
      const unsigned bank = token / config::LANES * CASCADE + word % CASCADE;
      const int got = int(bench.input.at(bank, word / CASCADE)[token % config::LANES]);
      verdict.equal(got, int(int8_t(data[word * WORD_BEATS * BEAT + token])), "a patch's code");
    }
}

void load_reports_each_frame_its_own(Verdict& verdict, uint64_t seed) {
  Random random(seed + 3);
  Arena arena;
  std::vector<command_t> list;
  for (const unsigned frame : {0u, 1u, 1u, 0u}) {
    const uint32_t first = arena.add(noise(random, 7 * BEAT), arena.numbers[frame]++);
    list.push_back(load_command(target::WEIGHTS, first, 7, frame));
  }
  arena.at((8 + 3) * BEAT + 5) ^= 0x20; // in the first transfer of frame 1
  // Two transfers for each frame; then frames without transfers.
  list.insert(list.end(), {load_end(0, 2), load_end(1, 2), load_end(1, 0), load_end(0, 0)});
  LoadBench bench(arena, seed);
  std::vector<uint8_t> weights;
  bench.take(bench.weights, 28, weights);
  bench.play(list);
  bench.scheduler.run();
  for (const unsigned wanted : {1u, 0u, 1u, 1u})
    verdict.equal(unsigned(bench.checks.read().sound), wanted,
                  "a frame's check, which its report clears");
}

void load_calls_no_frame_sound_after_another_drivers_command(Verdict& verdict, uint64_t seed) {
  Random random(seed + 9);
  constexpr uint32_t SEED = 0x0b5e55ed;
  Arena arena;
  std::vector<command_t> list;
  const auto add = [&](unsigned frame, uint32_t key) {
    const uint32_t first = arena.add(noise(random, 3 * BEAT), SEED);
    list.push_back(load_command(target::WEIGHTS, first, 3, frame, key));
    list.push_back(load_end(frame, 1));
  };
  add(0, SEED);
  add(1, SEED ^ 1u << (random.next() % 32));
  add(0, SEED);
  add(1, SEED);
  LoadBench bench(arena, seed);
  bench.seed = SEED;
  std::vector<uint8_t> weights;
  bench.take(bench.weights, 12, weights);
  bench.play(list);
  bench.scheduler.run();
  for (const unsigned wanted : {1u, 0u, 0u, 0u})
    verdict.equal(unsigned(bench.checks.read().sound), wanted,
                  "no frame is sound once a command has another key");
}

void load_ties_a_frame_to_its_input(Verdict& verdict, uint64_t seed) {
  Random random(seed + 6);
  constexpr unsigned WORD_BEATS = (config::TOKENS + BEAT - 1) / BEAT;
  Arena arena;
  const auto patches = [&](uint32_t nonce, unsigned frame, bool begins = true) {
    const uint32_t first = arena.add(noise(random, WORD_BEATS * BEAT), nonce);
    return isa::Load{.target = target::PATCHES,
                     .frame = frame,
                     .begins = begins,
                     .beats = WORD_BEATS,
                     .address = first}
        .encode();
  };
  const command_t first = patches(5, 0), second = patches(6, 1), broken = patches(7, 0);
  arena.at((2 * (WORD_BEATS + 1)) * BEAT + 3) ^= 4;
  const command_t more = patches(6, 1, false), foreign = patches(5, 1, false);
  LoadBench bench(arena, seed);
  bench.play(
      {first, second, load_end(0, 0), load_end(0, 0), load_end(1, 0), broken, load_end(0, 0)});
  bench.scheduler.run();
  verdict.equal(uint32_t(bench.checks.read().nonce), 5u, "the first frame's nonce");
  verdict.equal(uint32_t(bench.checks.read().nonce), 0u, "no nonce without an input");
  verdict.equal(uint32_t(bench.checks.read().nonce), 6u, "the second frame's nonce");
  verdict.expect(uint32_t(bench.checks.read().nonce) != 7, "a broken input loses its nonce");
  bench.play({second, more, load_end(1, 0), second, foreign, more, load_end(1, 0)});
  bench.scheduler.run();
  for (const bool sound : {true, false}) {
    const frame_check_t check = bench.checks.read();
    verdict.equal(uint32_t(check.nonce), 6u, "the nonce of the patches that begin the frame");
    verdict.equal(bool(check.sound), sound, "later patches share the nonce");
  }
}

void load_knows_its_own_arena(Verdict& verdict, uint64_t seed) {
  Random random(seed + 7);
  Arena arena;
  const auto weights_of = [&](uint32_t key) {
    return load_command(target::WEIGHTS, arena.add(noise(random, BEAT), key), 1, 0, 0xfeed);
  };
  const command_t first = weights_of(0xfeed ^ 0), second = weights_of(0xfeed ^ 1);
  const command_t third = weights_of(0xfeed ^ 2), foreign = weights_of(0xfeec ^ 1);
  const auto sound = [&](std::vector<command_t> list, unsigned transfers) {
    LoadBench bench(arena, seed);
    bench.seed = 0xfeed;
    std::vector<uint8_t> weights;
    bench.take(bench.weights, 2 * list.size(), weights);
    const size_t count = list.size();
    list.push_back(load_end(0, transfers));
    for (size_t i = 0; i <= count; ++i) // the same again as the next frame
      list.push_back(list[i]);
    bench.play(list);
    bench.scheduler.run();
    const unsigned report = unsigned(bench.checks.read().sound);
    verdict.equal(unsigned(bench.checks.read().sound), report, "the next frame's report");
    return report;
  };
  verdict.equal(sound({first, second, third}, 3), 1u, "the arena of this seed");
  verdict.equal(sound({first, foreign, third}, 3), 0u, "the arena of another seed");
  verdict.equal(sound({first, third, second}, 3), 0u, "two transfers exchanged");
  verdict.equal(sound({first, third}, 2), 0u, "a transfer is missing");
  verdict.equal(sound({first, first, second}, 3), 0u, "a transfer comes twice");
  verdict.equal(sound({first, second}, 3), 0u, "the last transfer is missing");
  verdict.equal(sound({first, second, third}, 2), 0u, "a transfer comes behind the last one");
  verdict.equal(sound({}, 1), 0u, "no transfer comes");
}

void load_notices_what_memory_does(Verdict& verdict, uint64_t seed) {
  Random random(seed + 4);
  Arena arena;
  const uint32_t first = arena.add(noise(random, 9 * BEAT));
  const auto play = [&](LoadBench& bench) {
    std::vector<uint8_t> weights;
    bench.take(bench.weights, 9, weights);
    bench.play({load_command(target::WEIGHTS, first, 9), load_end(0, 1)});
    bench.scheduler.run();
    return unsigned(bench.checks.read().sound);
  };
  {
    LoadBench bench(arena, seed);
    bench.dram.short_dma = true;
    verdict.equal(play(bench), 0u, "a transfer that is cut short fails its check");
    verdict.equal(play(bench), 1u, "and only that one");
  }
  {
    LoadBench bench(arena, seed);
    bench.dram.bus_error = true;
    verdict.traps([&] { play(bench); }, "bus error");
  }
  {
    LoadBench bench(arena, seed);
    bench.stripes[0] = 0;
    verdict.traps([&] { play(bench); }, "null page");
  }
  {
    LoadBench bench(arena, seed);
    bench.stripes[0] += sim::Dram::PAGE;
    verdict.traps([&] { play(bench); }, "not allocated");
  }
  {
    LoadBench bench(arena, seed);
    bench.dram.host(bench.stripes[0])[3] ^= 1; // in the host's cache, not flushed yet
    verdict.equal(play(bench), 1u, "the device does not see the host's cache");
    bench.dram.flush(bench.stripes[0] + 3, 1);
    verdict.equal(play(bench), 0u, "and sees what is flushed");
  }
}

struct FetchBench {
  sim::Dram dram{1 << 20};
  Commands<isa::depth::load_commands> load_commands{"load_commands"};
  Commands<isa::depth::array_commands> array_commands{"array_commands"};
  Commands<isa::depth::drain_commands> drain_commands{"drain_commands"};
  Commands<isa::depth::norm_commands> norm_commands{"norm_commands"};
  Commands<isa::depth::softmax_commands> softmax_commands{"softmax_commands"};
  Retired retired;
  uint32_t magic = 0, abi = 0, low = 0, high = 0, error = 99;
  sim::Scheduler scheduler{0};
  static constexpr uint32_t SEED = 0x9e3779b9;

  size_t handed_on() const {
    return load_commands.size() + array_commands.size() + drain_commands.size() +
           norm_commands.size() + softmax_commands.size();
  }
  void play(std::vector<command_t> list, uint32_t input) {
    seal(list, SEED);
    play_as_is(list, input, SEED);
  }
  void play_as_is(const std::vector<command_t>& list, uint32_t input, uint32_t seed) {
    uint64_t address = 0;
    if (!list.empty()) {
      address = dram.allocate(list.size() * sizeof(command_t));
      std::copy(list.begin(), list.end(), reinterpret_cast<command_t*>(dram.host(address)));
      dram.flush(address, list.size() * sizeof(command_t));
    }
    scheduler.spawn("fetch", [=, this, count = uint32_t(list.size())] {
      fetch(Bus<port_t>(dram, address), count, input, seed, load_commands, array_commands,
            drain_commands, norm_commands, softmax_commands, retired, &magic, &abi, &low, &high,
            &error);
    });
    scheduler.run();
    if (address != 0)
      dram.release(address);
  }
};

void fetch_hands_each_command_to_its_unit(Verdict& verdict) {
  FetchBench bench;
  std::vector<command_t> list;
  for (unsigned i = 0; i < 15; ++i)
    list.push_back(raw_command(i % 5, 0, 0, i));
  list.push_back(
      isa::Load{.target = target::PATCHES, .input = 1, .beats = 4, .address = 100}.encode());
  list.push_back(load_command(target::WEIGHTS, 100, 4));
  bench.play(list, 1000);
  verdict.equal(bench.error, 0u, "no bad command");
  verdict.equal(bench.retired.written(), uint64_t(2), "fetch's beginning and its end");
  verdict.equal(bench.load_commands.size(), 5u, "load's commands");
  for (unsigned i = 0; i < 3; ++i) {
    verdict.equal(bench.load_commands.read().word[3], 5 * i, "load's in order");
    verdict.equal(bench.array_commands.read().word[3], 5 * i + 1, "the array's");
    verdict.equal(bench.drain_commands.read().word[3], 5 * i + 2, "the drain's");
    verdict.equal(bench.norm_commands.read().word[3], 5 * i + 3, "the norm's");
    verdict.equal(bench.softmax_commands.read().word[3], 5 * i + 4, "the softmax's");
  }
  verdict.equal(bench.load_commands.read().word[2], 1100u, "an address in the frame's input");
  verdict.equal(bench.load_commands.read().word[2], 100u, "an address in the arena");
}

void fetch_reports(Verdict& verdict) {
  FetchBench bench;
  bench.play({}, 0);
  verdict.expect(bench.magic == isa::MAGIC && bench.abi == isa::ABI &&
                     bench.low == config::HASH_LOW && bench.high == config::HASH_HIGH &&
                     bench.error == 0,
                 "a fetch of no commands reports the identity");
  bench.play({raw_command(2, 0), raw_command(5, 0), raw_command(2, 0), raw_command(7, 1)}, 0);
  verdict.equal(bench.error, 2u, "the first command that has no unit");
  verdict.equal(bench.drain_commands.size(), 1u, "and nothing behind it is handed on");
}

void fetch_refuses_what_was_not_written(Verdict& verdict) {
  std::vector<command_t> list;
  Random random(5);
  for (unsigned i = 0; i < 6; ++i)
    list.push_back(raw_command(i % 5, 0, uint32_t(random.next()), uint32_t(random.next())));
  list.push_back(load_command(target::WEIGHTS, 100, 4));
  std::vector<command_t> other = list;
  other[3].word[3] ^= 0x300;
  seal(list, FetchBench::SEED);
  seal(other, FetchBench::SEED + 1);
  const auto refused = [&](const std::vector<command_t>& memory, size_t from,
                           const std::string& what, uint32_t seed = FetchBench::SEED) {
    FetchBench bench;
    bench.play_as_is(memory, 0, seed);
    verdict.equal(size_t(bench.error), from + 1, what + ": the command that is refused");
    verdict.equal(bench.handed_on(), from, what + ": what was handed on");
  };
  for (size_t bit = 0; bit < list.size() * 256; ++bit) {
    std::vector<command_t> memory = list;
    memory[bit / 256].word[bit / 32 % 8] ^= 1u << (bit % 32);
    refused(memory, bit / 256, "bit " + std::to_string(bit));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string at = " at " + std::to_string(i);
    std::vector<command_t> memory = list;
    memory[i] = {};
    refused(memory, i, "nothing" + at);
    memory[i] = other[i];
    refused(memory, i, "another segment's command" + at);
    if (i > 0) {
      memory[i] = list[i - 1];
      refused(memory, i, "the command before" + at);
      memory[i - 1] = list[i];
      refused(memory, i - 1, "two commands exchanged" + at);
    }
  }
  refused(other, 0, "another segment");
  refused(list, 0, "another seed", FetchBench::SEED + 1);
  refused({list.begin(), list.begin() + 3}, 0, "a shorter list");
  refused(std::vector<command_t>(4), 0, "empty memory");
}

void store_writes(Verdict& verdict, uint32_t count, bool sound) {
  Random random(count);
  sim::Dram dram(1 << 20);
  Logits logits{"logits"};
  Checks checks{"checks"};
  sim::Scheduler scheduler(0);
  const size_t bytes = (count + 3) / 4 * 16 + 16;
  const uint64_t output = dram.allocate(bytes);
  std::vector<uint8_t> wanted;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t logit = uint32_t(random.next());
    for (unsigned j = 0; j < 4; ++j)
      wanted.push_back(uint8_t(logit >> (8 * j)));
  }
  bool done = false;
  Retired retired;
  scheduler.spawn("store", [&] {
    store(Bus<port_t>(dram, output), count, logits, checks, retired);
    done = true;
  });
  scheduler.spawn("logits", [&] {
    for (uint32_t i = 0; i < count; ++i)
      logits.write(int32_t(wanted[4 * i] | wanted[4 * i + 1] << 8 | wanted[4 * i + 2] << 16 |
                           uint32_t(wanted[4 * i + 3]) << 24));
  });
  scheduler.run();
  verdict.expect(!done, "store waits for the check");
  verdict.equal(retired.written(), uint64_t(1), "store has begun");
  checks.write({u<1>(sound ? 1 : 0), u<32>(0xabad1dea)});
  scheduler.run();
  verdict.expect(done, "store ends");
  verdict.equal(retired.written(), uint64_t(2), "store has ended");
  wanted.resize(bytes - 16);
  const auto put = [&](uint32_t word) {
    for (unsigned j = 0; j < 4; ++j)
      wanted.push_back(uint8_t(word >> (8 * j)));
  };
  for (const uint32_t word : {0xabad1deau, count, sound ? 0u : 1u})
    put(word);
  put(check_of(wanted));
  verdict.expect(!std::equal(wanted.begin(), wanted.end(), dram.host(output)),
                 "the host does not see the device's memory");
  dram.invalidate(output, bytes);
  verdict.expect(std::equal(wanted.begin(), wanted.end(), dram.host(output)),
                 std::to_string(count) + " logits and their trailer");
}

// Tests the checks of the simulated memory ports.
void memories_check_their_ports(Verdict& verdict) {
  sim::Ram<int, 2, 8> ram("ram");
  const auto in_fiber = [](const std::function<void()>& body) {
    sim::Scheduler scheduler(0);
    scheduler.spawn("process", body);
    scheduler.run();
  };
  const auto write = [&](size_t bank, size_t address) {
    verdict.traps([&] { in_fiber([&] { WritePort<int, 2, 8>{ram}[bank][address] = 1; }); },
                  "word " + std::to_string(address) + " of 8 in bank " + std::to_string(bank) +
                      " of 2");
  };
  for (const size_t bank : {0u, 2u})
    write(bank, 8 - 4 * bank);
  verdict.traps(
      [&] {
        in_fiber([&] {
          ReadPort<int, 2, 8> port(ram);
          interval("loop");
          if (port[0][1] + port[1][1] + port[0][2] == 0)
            interval("loop");
        });
      },
      "more than 1 accesses to bank 0 in an interval of loop");
  in_fiber([&] {
    ReadPort<int, 2, 8> reads(ram);
    WritePort<int, 2, 8> writes(ram);
    for (int i = 0; i < 8; ++i) {
      interval("loop");
      writes[0][i] = i;
      writes[1][i] = reads[0][i]; // a read and a write of a bank in an interval
    }
  });
  sim::Ram<cascade_t, 1, 2> words("words");
  words.at(0, 1)[0] = 5;
  in_fiber([&] {
    masked_t<cascade_t> word{};
    word.code[CASCADE - 1] = 7;
    word.enable = 1u << (CASCADE - 1);
    MaskedPort<cascade_t, 1, 2>{words}[0][1] = word;
  });
  verdict.equal(int(words.at(0, 1)[0]), CASCADE == 1 ? 7 : 5, "a byte that is not enabled");
  verdict.equal(int(words.at(0, 1)[CASCADE - 1]), 7, "a byte that is enabled");
  Memory<int, 1, 4> memory;
  verdict.traps([&] { in_fiber([&] { memory[0][0] = memory[0][1] + memory[0][2]; }); },
                "more than 2 accesses");
}

} // namespace

int main() {
  Verdict verdict("transfers");
  for (const uint64_t seed : {0u, 1u, 2u}) {
    load_moves_beats_as_they_are(verdict, seed);
    load_gathers_patches(verdict, seed);
    load_reports_each_frame_its_own(verdict, seed);
    load_calls_no_frame_sound_after_another_drivers_command(verdict, seed);
    load_ties_a_frame_to_its_input(verdict, seed);
    load_knows_its_own_arena(verdict, seed);
    load_notices_what_memory_does(verdict, seed);
  }
  fetch_hands_each_command_to_its_unit(verdict);
  fetch_reports(verdict);
  fetch_refuses_what_was_not_written(verdict);
  for (const uint32_t count : {1u, 4u, 5u, 10u, 1000u})
    for (const bool sound : {true, false})
      store_writes(verdict, count, sound);
  memories_check_their_ports(verdict);
  return verdict.end();
}
