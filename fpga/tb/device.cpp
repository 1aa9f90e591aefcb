// Tests the simulated device through its C ABI. Compares a hand-made network (embedding, LayerNorm,
// head; 4-bit and 8-bit rows, ragged tiles, two frames in flight) with plain loops. Tests
// registers, interrupt, caches, every fault, a trap and a deadlock, and runs a frame after each.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "kernels.hpp"
#include "memory_image.hpp"
#include "quasar_sim.h"
#include "reference.hpp"
#include "verdict.hpp"

namespace {

namespace ap_ctrl = isa::ap_ctrl;
namespace reg = isa::reg;

constexpr unsigned BEAT = sizeof(beat_t);
constexpr unsigned T = config::TOKENS, P = config::PAIRS;

// Sizes: three tiles of tokens, ragged tiles of rows. The first token's residual comes from memory
// alone.
constexpr unsigned N = 2 * T + (T + 1) / 2, K = 9, D = 2 * P + 5, CLASSES = P + 3, SKIP = 1,
                   FRAC = 5;
constexpr unsigned TILES = (N + T - 1) / T;
constexpr unsigned K_WORDS = (K + CASCADE - 1) / CASCADE * CASCADE; // words of a tile of patches
constexpr unsigned WORD_BEATS = (T + BEAT - 1) / BEAT, RESIDUAL_BEATS = (2 * T + BEAT - 1) / BEAT;
constexpr uint64_t EPSILON = 12345;

// Samples a matrix with 4-bit rows first.
std::vector<MatrixRow> sample_rows(Random& random, unsigned rows4, unsigned rows8, unsigned columns,
                                   unsigned destination) {
  std::vector<MatrixRow> rows;
  for (unsigned i = 0; i < rows4 + rows8; ++i) {
    MatrixRow row{{},
                  i >= rows4,
                  int(random.between(-3000, 3000)),
                  int(random.between(1 << 14, (1 << 15) - 1)),
                  destination == isa::destination::LOGIT ? 0 : unsigned(random.between(5, 9)),
                  destination,
                  i};
    const int most = row.eight_bit ? 127 : 7;
    for (unsigned k = 0; k < columns; ++k)
      row.weights.push_back(int(random.between(-most, most)));
    rows.push_back(std::move(row));
  }
  return rows;
}

struct Network {
  static constexpr unsigned EMBED4 = D - 4, HEAD4 = CLASSES - 2;
  std::vector<MatrixRow> embed, head;
  std::vector<std::array<int64_t, 2>> gains; // and biases
  std::vector<int> residual;                 // [N][D]

  explicit Network(uint64_t seed) {
    Random random(seed);
    embed = sample_rows(random, EMBED4, D - EMBED4, K, isa::destination::RESIDUAL);
    head = sample_rows(random, HEAD4, CLASSES - HEAD4, D, isa::destination::LOGIT);
    for (unsigned d = 0; d < D; ++d) {
      const int64_t gain = random.between(-20000, 20000);
      gains.push_back({gain, random.between(-2000, 2000)});
    }
    for (unsigned i = 0; i < N * D; ++i)
      residual.push_back(int(random.between(-900, 900)));
  }

  // Computes a frame's logits. The frame in slot 0 is pooled before the norm, the frame in slot 1
  // after it.
  std::vector<int32_t> logits(const std::vector<int8_t>& patches, unsigned slot) const { // [N][K]
    std::vector<int64_t> x(N * D);
    for (unsigned t = 0; t < N; ++t)
      for (unsigned r = 0; r < D; ++r) {
        int64_t acc = embed[r].bias;
        for (unsigned k = 0; k < K; ++k)
          acc += embed[r].weights[k] * patches[t * K + k];
        x[t * D + r] = residual[t * D + r];
        if (t >= SKIP)
          x[t * D + r] = std::clamp<int64_t>(
              x[t * D + r] + reference::requant16(acc, embed[r].shift, embed[r].mult), -32767,
              32767);
      }
    const auto mean = [](const std::vector<int64_t>& values) {
      std::vector<int64_t> means(D);
      constexpr int64_t n = N - SKIP;
      for (unsigned d = 0; d < D; ++d) {
        int64_t sum = n / 2;
        for (unsigned t = SKIP; t < N; ++t)
          sum += values[t * D + d];
        means[d] = reference::floor_div(sum, n);
      }
      return means;
    };
    const auto normalise = [&](std::vector<int64_t>& values) {
      for (auto at = values.begin(); at != values.end(); at += D)
        std::ranges::copy(reference::layer_norm({at, at + D}, gains, EPSILON, FRAC), at);
    };
    if (slot == 1)
      normalise(x);
    std::vector<int64_t> y = mean(x);
    if (slot == 0)
      normalise(y);
    std::vector<int32_t> out;
    for (const MatrixRow& row : head) {
      int64_t acc = row.bias;
      for (unsigned d = 0; d < D; ++d)
        acc += row.weights[d] * y[d];
      out.push_back(int32_t((acc * row.mult + (1 << 14)) >> 15));
    }
    return out;
  }
};

void put16(std::vector<uint8_t>& bytes, int value) {
  bytes.push_back(uint8_t(value));
  bytes.push_back(uint8_t(value >> 8));
}

constexpr uint32_t ARENA_SEED = 0xa7e4a5ed;

// Adds data to the arena and appends its transfer to the list.
void load_data(Arena& arena, std::vector<command_t>& list, unsigned target, unsigned frame,
               const std::vector<uint8_t>& data) {
  const isa::Load load{.target = target,
                       .frame = frame,
                       .beats = ceil_div(unsigned(data.size()), BEAT),
                       .address = arena.add(data, ARENA_SEED ^ arena.numbers[frame]++),
                       .key = ARENA_SEED};
  list.push_back(load.encode());
}

// Appends both transfers of each tile of row pairs.
void load_matrix(Arena& arena, std::vector<command_t>& list, const std::vector<MatrixRow>& rows,
                 unsigned frame) {
  for (const RowTile& tile : row_tiles(rows)) {
    load_data(arena, list, isa::target::WEIGHTS, frame, tile.weights);
    load_data(arena, list, isa::target::PARAMETERS, frame, tile.parameters);
  }
}

std::vector<command_t> frame_list(const Network& network, Arena& arena, unsigned frame) {
  constexpr unsigned ROWS4 = Network::EMBED4, ROWS8 = D - Network::EMBED4;
  std::vector<command_t> list;
  std::vector<uint8_t> words(size_t(TILES) * D * RESIDUAL_BEATS * BEAT);
  for (unsigned t = 0; t < N; ++t)
    for (unsigned d = 0; d < D; ++d) {
      uint8_t* at = &words[(size_t(t / T) * D + d) * RESIDUAL_BEATS * BEAT + 2 * (t % T)];
      at[0] = uint8_t(network.residual[t * D + d]);
      at[1] = uint8_t(network.residual[t * D + d] >> 8);
    }
  list.push_back(isa::Fill{.frame = frame, .words = TILES * D}.encode());
  load_data(arena, list, isa::target::RESIDUAL, frame, words);
  const isa::Load patches{.target = isa::target::PATCHES,
                          .input = 1,
                          .wait_array = 1,
                          .post_array = 1,
                          .frame = frame,
                          .begins = 1,
                          .beats = TILES * K_WORDS * WORD_BEATS,
                          .key = ARENA_SEED};
  list.push_back(patches.encode());
  const isa::Gemm gemm{.wait_load = 1,
                       .post_load = 1,
                       .tokens = N,
                       .columns = K,
                       .pass = K,
                       .rows4 = ROWS4,
                       .rows8 = ROWS8,
                       .row_tiles = ceil_div(row_pairs(ROWS4, ROWS8), config::PAIRS)};
  list.push_back(gemm.encode());
  const isa::Rows rows{.kind = isa::kind::RESIDUAL,
                       .frame = frame,
                       .moments = 1,
                       .tokens = N,
                       .skip = SKIP,
                       .stride = D,
                       .rows4 = ROWS4,
                       .rows8 = ROWS8};
  list.push_back(rows.encode());
  load_matrix(arena, list, network.embed, frame);
  const isa::LayerNorm norm{.frame = frame,
                            .pool = frame == 0 ? isa::pooling::BEFORE : isa::pooling::AFTER,
                            .frac = FRAC,
                            .tokens = N,
                            .first = SKIP,
                            .embed = D,
                            .epsilon = EPSILON};
  list.push_back(norm.encode());
  std::vector<uint8_t> gains;
  for (unsigned d = 0; d < D; ++d) {
    for (const int64_t part : network.gains[d])
      put16(gains, int(part));
  }
  load_data(arena, list, isa::target::GAINS, frame, gains);
  return list;
}

// Returns the commands of the head, for the pooled token.
std::vector<command_t> head_list(const Network& network, Arena& arena, unsigned frame) {
  constexpr unsigned ROWS4 = Network::HEAD4, ROWS8 = CLASSES - Network::HEAD4;
  std::vector<command_t> list;
  const isa::Gemm gemm{.source = isa::source::NORMED,
                       .frame = frame,
                       .wait_norm = 1,
                       .tokens = 1,
                       .columns = D,
                       .pass = D,
                       .rows4 = ROWS4,
                       .rows8 = ROWS8,
                       .row_tiles = ceil_div(row_pairs(ROWS4, ROWS8), config::PAIRS)};
  list.push_back(gemm.encode());
  const isa::Rows rows{
      .kind = isa::kind::LOGITS, .frame = frame, .tokens = 1, .rows4 = ROWS4, .rows8 = ROWS8};
  list.push_back(rows.encode());
  load_matrix(arena, list, network.head, frame);
  const unsigned transfers = arena.numbers[frame];
  list.push_back(isa::LoadEnd{.frame = frame, .transfers = transfers}.encode());
  return list;
}

// Acts as the host: keeps the network's image in memory and runs frames through registers.
class Host {
  qsim* device_;
  uint64_t stripes_[4] = {}, lists_[4] = {}, output_ = 0;
  uint8_t *stripe_hosts_[4] = {}, *output_host_ = nullptr;
  uint32_t counts_[4] = {};
  uint32_t slots_[2] = {}; // first beat of each input slot
  size_t stripe_bytes_ = 0;
  Network network_{7};
  Random random_{11};
  uint32_t nonce_ = 100, nonces_[2] = {}; // of the last frame; of each slot's frame

public:
  unsigned patience_ms = 20000; // longest wait for a segment
  static constexpr size_t OUTPUT = (CLASSES + 3) / 4 * 16 + 16;
  static constexpr uint32_t SEED = 0x5eed;

  Host(Verdict& verdict, uint64_t seed) {
    char error[200] = "";
    device_ = qsim_open(seed, 16 << 20, error, sizeof(error));
    verdict.expect(device_ != nullptr, error);
    Arena arena;
    std::vector<command_t> lists[4]; // beginning of slot 0, 1; end of slot 0, 1
    for (unsigned slot = 0; slot < config::FRAMES; ++slot) {
      lists[slot] = frame_list(network_, arena, slot);
      lists[2 + slot] = head_list(network_, arena, slot);
    }
    for (uint32_t& slot : slots_)
      slot = arena.add(std::vector<uint8_t>(size_t(TILES) * K_WORDS * WORD_BEATS * BEAT));
    stripe_bytes_ = arena.stripe_bytes();
    for (unsigned port = 0; port < config::PORTS; ++port) {
      stripe_hosts_[port] = qsim_alloc(device_, stripe_bytes_, &stripes_[port]);
      arena.stripe(port, stripe_hosts_[port]);
      qsim_flush(device_, stripes_[port], stripe_bytes_);
    }
    for (unsigned i = 0; i < 4; ++i)
      lists_[i] = put(lists[i], counts_[i]);
    output_host_ = qsim_alloc(device_, OUTPUT, &output_);
    start_load();
  }
  ~Host() { qsim_close(device_); }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  qsim* device() { return device_; }
  uint64_t output() const { return output_; }
  uint32_t count(unsigned list) const { return counts_[list]; }

  uint64_t put(std::vector<command_t> list, uint32_t& count) {
    count = uint32_t(list.size());
    if (list.empty())
      return 0;
    seal(list, SEED);
    uint64_t physical = 0;
    const size_t bytes = list.size() * sizeof(command_t);
    std::memcpy(qsim_alloc(device_, bytes, &physical), list.data(), bytes);
    qsim_flush(device_, physical, bytes);
    return physical;
  }

  uint32_t read(uint32_t offset) { return qsim_read(device_, offset); }
  void write(uint32_t offset, uint32_t value) { qsim_write(device_, offset, value); }
  void write_address(uint32_t offset, uint64_t address) {
    write(offset, uint32_t(address));
    write(offset + 4, uint32_t(address >> 32));
  }

  void start_load() {
    constexpr uint32_t ARENAS[] = {reg::load_ARENA0, reg::load_ARENA1, reg::load_ARENA2,
                                   reg::load_ARENA3};
    for (unsigned port = 0; port < config::PORTS; ++port)
      write_address(ARENAS[port], stripes_[port]);
    write(reg::load_SEED, ARENA_SEED);
    write(reg::load_CTRL, ap_ctrl::START);
    write(reg::store_GIE, 1);
    write(reg::store_IER, 1);
  }
  void reset() {
    write(reg::reset, 1);
    write(reg::reset, 0);
    start_load();
  }
  // Writes the lists to memory again.
  void restore() {
    for (unsigned i = 0; i < 4; ++i)
      if (counts_[i] > 0)
        qsim_flush(device_, lists_[i], counts_[i] * sizeof(command_t));
  }

  // Runs a segment. Returns true if fetch became idle again.
  bool segment(uint64_t list, uint32_t count, uint32_t input) {
    write_address(reg::fetch_COMMANDS, list);
    write(reg::fetch_COUNT, count);
    write(reg::fetch_INPUT, input);
    write(reg::fetch_SEED, SEED);
    write(reg::fetch_CTRL, ap_ctrl::START);
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
    while ((read(reg::fetch_CTRL) & ap_ctrl::IDLE) == 0) {
      if (*qsim_trap(device_) != 0 || std::chrono::steady_clock::now() > end)
        return false;
    }
    return true;
  }
  bool segment(unsigned list) { return segment(lists_[list], counts_[list], slots_[list % 2]); }

  // Writes a new frame's patches into a slot; returns the expected logits.
  std::vector<int32_t> prepare(unsigned slot, bool flush = true) {
    std::vector<int8_t> patches(N * K);
    for (auto& code : patches)
      code = int8_t(random_.between(-128, 127));
    std::vector<uint8_t> data(size_t(TILES) * K_WORDS * WORD_BEATS * BEAT);
    for (unsigned t = 0; t < N; ++t)
      for (unsigned k = 0; k < K; ++k)
        data[(size_t(t / T) * K_WORDS + k) * WORD_BEATS * BEAT + t % T] =
            uint8_t(patches[t * K + k]);
    Arena arena;
    arena.add(data, nonces_[slot] = ++nonce_);
    std::vector<uint8_t> stripe(arena.stripe_bytes());
    for (unsigned port = 0; port < config::PORTS; ++port) {
      arena.stripe(port, stripe.data());
      std::memcpy(stripe_hosts_[port] + size_t(slots_[slot]) * 16, stripe.data(), stripe.size());
      if (flush)
        qsim_flush(device_, stripes_[port] + uint64_t(slots_[slot]) * 16, stripe.size());
    }
    return network_.logits(patches, slot);
  }

  void start_store() {
    write_address(reg::store_OUTPUT, output_);
    write(reg::store_COUNT, CLASSES);
    write(reg::store_CTRL, ap_ctrl::START);
  }

  // Returns true if the interrupt came, and clears it.
  bool interrupted(uint32_t timeout_ms = 20000) {
    if (qsim_wait(device_, timeout_ms) == 0)
      return false;
    write(reg::store_ISR, read(reg::store_ISR));
    return true;
  }

  // Returns true if the output belongs to the last frame of a slot, its check is right and its
  // status is 0.
  bool sound(unsigned slot = 0) {
    qsim_invalidate(device_, output_, OUTPUT);
    const uint8_t* bytes = output_host_;
    const auto word = [bytes](size_t i) {
      uint32_t value;
      std::memcpy(&value, bytes + 4 * i, 4);
      return value;
    };
    const size_t end = OUTPUT / 4 - 4;
    const std::vector<uint8_t> checked(bytes, bytes + OUTPUT - 4);
    return word(end) == nonces_[slot] && word(end + 1) == CLASSES && word(end + 2) == 0 &&
           word(end + 3) == check_of(checked);
  }
  bool holds(const std::vector<int32_t>& logits) {
    return std::memcmp(output_host_, logits.data(), 4 * logits.size()) == 0;
  }

  // Runs a frame from its patches to its logits. Returns true if they are right.
  bool frame(unsigned slot = 0) {
    const std::vector<int32_t> wanted = prepare(slot);
    start_store();
    return segment(slot) && segment(2 + slot) && interrupted() && sound(slot) && holds(wanted);
  }
  std::string trap() { return qsim_trap(device_); }
};

void frames_are_right(Verdict& verdict, Host& host) {
  for (unsigned i = 0; i < 6; ++i)
    verdict.expect(host.frame(i % config::FRAMES),
                   "frame " + std::to_string(i) + ": " + host.trap());
  verdict.expect(host.trap().empty(), host.trap());
  if (config::FRAMES == 1)
    return;
  // Two in flight: the second begins before the first ends.
  for (unsigned i = 0; i < 3; ++i) {
    const auto first = host.prepare(0), second = host.prepare(1);
    host.start_store();
    verdict.expect(host.segment(0u) && host.segment(1u) && host.segment(2u),
                   "both begin, the first ends");
    verdict.expect(host.interrupted() && host.sound() && host.holds(first),
                   "the first of two in flight");
    host.start_store();
    verdict.expect(host.segment(3u) && host.interrupted() && host.sound(1) && host.holds(second),
                   "the second of two in flight");
  }
}

void counts(Verdict& verdict, Host& host) {
  verdict.equal(qsim_counter(host.device(), "store.words"), uint64_t((CLASSES + 3) / 4 * 4 + 4),
                "logits and trailer");
  verdict.equal(qsim_counter(host.device(), "fetch.commands"),
                uint64_t(host.count(0) + host.count(2)), "commands");
  verdict.equal(qsim_counter(host.device(), "no.loop"), uint64_t(0), "what does not exist");
}

void registers_behave(Verdict& verdict, Host& host) {
  host.segment(0, 0, 0);
  verdict.expect(
      host.read(reg::fetch_MAGIC) == isa::MAGIC && host.read(reg::fetch_ABI) == isa::ABI &&
          host.read(reg::fetch_HASH_LOW) == config::HASH_LOW &&
          host.read(reg::fetch_HASH_HIGH) == config::HASH_HIGH && host.read(reg::fetch_ERROR) == 0,
      "the identity");
  host.frame();
  verdict.equal(host.read(reg::store_CTRL) & (ap_ctrl::DONE | ap_ctrl::IDLE),
                ap_ctrl::DONE | ap_ctrl::IDLE, "done and idle");
  verdict.equal(host.read(reg::store_CTRL) & (ap_ctrl::DONE | ap_ctrl::IDLE), ap_ctrl::IDLE,
                "done is cleared by reading");
  verdict.equal(host.read(reg::load_CTRL) & (ap_ctrl::START | ap_ctrl::IDLE), ap_ctrl::START,
                "load runs");
  verdict.equal(host.read(reg::store_ISR), 0u, "its interrupt was cleared by writing 1");
  host.write(reg::store_ISR, 1);
  verdict.equal(host.read(reg::store_ISR), 1u, "and is set by writing 1: it toggles");
  verdict.expect(host.interrupted(0), "which is an edge");
  host.segment(0, 0, 0);
  verdict.expect(qsim_wait(host.device(), 0) == 0, "fetch is not enabled");
  host.write(reg::fetch_GIE, 1);
  host.write(reg::fetch_IER, 1);
  host.segment(0, 0, 0);
  verdict.expect(qsim_wait(host.device(), 20000) == 1, "the end of a segment is an edge, too");
  verdict.equal(host.read(reg::fetch_ISR), 1u, "of fetch");
  host.write(reg::fetch_ISR, 1);
  verdict.equal(host.read(reg::fetch_ISR), 0u, "which is cleared by writing 1");
  host.write(reg::fetch_GIE, 0);
  host.write(reg::store_GIE, 0);
  host.prepare(0);
  host.start_store();
  host.segment(0u);
  host.segment(2u);
  for (unsigned i = 0; i < 2000 && (host.read(reg::store_CTRL) & ap_ctrl::IDLE) == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  verdict.expect(!host.interrupted(0), "no interrupt where it is not enabled");
  verdict.equal(host.read(reg::store_ISR), 1u, "though its status is set");
  host.reset();
  verdict.equal(host.read(reg::fetch_MAGIC), 0u, "a reset clears registers");
  verdict.equal(host.read(0x50), 0u, "of which this is the ABI's");
  verdict.equal(host.read(0x44), ~0u, "what is no register");
  verdict.expect(host.trap().find("no register 0x00044") != std::string::npos, host.trap());
  host.write(reg::reset, 1);
  verdict.equal(host.read(reg::store_CTRL), ~0u, "a register in reset");
  verdict.expect(host.trap().find("in reset") != std::string::npos, host.trap());
  host.write(reg::reset, 0);
  host.reset();
  verdict.expect(host.trap().empty() && host.frame(), "a frame after all that");
}

void caches_are_two_copies(Verdict& verdict, Host& host) {
  const auto before = host.prepare(0);
  host.prepare(0, false);
  host.start_store();
  host.segment(0u);
  host.segment(2u);
  host.interrupted();
  verdict.expect(!host.holds(before), "without an invalidate the host sees what was there");
  verdict.expect(!host.sound() && host.holds(before),
                 "without a flush the device sees what was there, as its nonce shows");
  verdict.equal(qsim_flush(host.device(), host.output(), Host::OUTPUT + 1), -1,
                "a range beyond its allocation");
  verdict.equal(qsim_invalidate(host.device(), 0, 64), -1, "a range of nothing");
}

void faults_hit_one_frame(Verdict& verdict, Host& host) {
  const auto run = [&](uint32_t timeout_ms = 150) {
    const auto wanted = host.prepare(0);
    host.read(reg::store_CTRL); // clears the last frame's done bit
    host.patience_ms = timeout_ms;
    host.start_store();
    host.segment(0u);
    host.segment(2u);
    host.patience_ms = 20000;
    const bool came = host.interrupted(timeout_ms);
    return std::pair(came, came && host.sound() && host.holds(wanted));
  };
  const auto inject = [&](const char* kind, uint64_t after) {
    verdict.equal(qsim_fault(host.device(), kind, after), 0, kind);
  };
  for (const uint64_t after : {0u, 2u}) {
    const auto sound_before = [&] {
      for (uint64_t i = 0; i < after; ++i)
        verdict.expect(run(20000).second, "frames before the fault are sound");
    };
    for (const char* kind : {"lost_interrupt", "hang", "bus_error"}) {
      inject(kind, after);
      sound_before();
      verdict.expect(!run().first, std::string(kind) + ": no interrupt");
      verdict.equal((host.read(reg::store_CTRL) & ap_ctrl::DONE) != 0,
                    std::strcmp(kind, "lost_interrupt") == 0, std::string(kind) + ": done");
      verdict.equal(host.trap().empty(), std::strcmp(kind, "bus_error") != 0,
                    std::string(kind) + ": a trap");
      host.reset();
      verdict.expect(run(20000).second, std::string(kind) + ": the frame after it");
    }
    for (const char* kind : {"short_dma", "corrupt_output"}) {
      inject(kind, after);
      sound_before();
      verdict.expect(run(20000) == std::pair(true, false), std::string(kind) + " is seen");
      host.reset();
      verdict.expect(run(20000).second, std::string(kind) + ": the frame after it");
    }
    inject("flipped_command", after);
    sound_before();
    host.prepare(0);
    host.start_store();
    for (unsigned i = 0; i < 2; ++i) {
      verdict.expect(host.segment(0u), "flipped_command: fetch ends");
      verdict.expect(host.read(reg::fetch_ERROR) != 0,
                     "flipped_command is reported, and stays in memory");
      verdict.expect(!host.interrupted(100), "flipped_command: no interrupt");
      host.reset();
    }
    host.restore();
    verdict.expect(run(20000).second, "flipped_command: the frame after it is written again");
    inject("late", after);
    sound_before();
    verdict.expect(!run(100).first, "late: not in time");
    verdict.expect(host.interrupted() && host.sound(), "late: but then");
    inject("spurious_interrupt", after);
    sound_before();
    const auto wanted = host.prepare(0);
    host.read(reg::store_CTRL);
    host.start_store();
    verdict.expect(host.interrupted() && (host.read(reg::store_CTRL) & ap_ctrl::DONE) == 0,
                   "an interrupt before the end");
    host.segment(0u);
    host.segment(2u);
    verdict.expect(host.interrupted() && host.sound() && host.holds(wanted),
                   "then the frame's own");
    inject("wrong_identity", after);
    sound_before();
    host.segment(0, 0, 0);
    verdict.expect(host.read(reg::fetch_HASH_LOW) != config::HASH_LOW,
                   "another bitstream's identity");
    host.reset();
    host.segment(0, 0, 0);
    verdict.expect(host.read(reg::fetch_HASH_LOW) == config::HASH_LOW, "until the reset");
  }
  verdict.equal(qsim_fault(host.device(), "of_no_kind", 0), -1, "a fault that is not known");
}

void bad_lists_are_noticed(Verdict& verdict, Host& host) {
  uint32_t count = 0;
  const uint64_t unitless = host.put({raw_command(6, 0)}, count);
  verdict.expect(host.segment(unitless, count, 0), "a command without a unit");
  verdict.equal(host.read(reg::fetch_ERROR), 1u, "is reported");
  host.reset();
  verdict.expect(!host.segment(0, 1, 0), "a list at address 0");
  verdict.expect(host.trap().find("null page") != std::string::npos, host.trap());
  host.reset();
  // Products without weights, more of them than the queue holds.
  const command_t gemm =
      isa::Gemm{.tokens = N, .columns = K, .pass = K, .rows4 = 2, .row_tiles = 1}.encode();
  const uint64_t stuck =
      host.put(std::vector<command_t>(3 * isa::depth::array_commands, gemm), count);
  host.start_store();
  verdict.expect(!host.segment(stuck, count, 0), "a list that cannot end");
  for (const char* words :
       {"deadlock", "reads weights", "fetch: writes array_commands", "last taken"})
    verdict.expect(host.trap().find(words) != std::string::npos,
                   std::string(words) + " in: " + host.trap());
  host.reset();
  // The same with a list that fits the queue, so fetch ends: the wait for the interrupt reports it.
  const uint64_t waits = host.put({gemm}, count);
  host.start_store();
  verdict.expect(host.segment(waits, count, 0) && !host.interrupted(250),
                 "a frame that cannot end");
  verdict.expect(host.trap().find("reads weights") != std::string::npos, host.trap());
  host.reset();
  verdict.expect(host.frame(), "a frame after all that");
}

} // namespace

int main() {
  Verdict verdict("device");
  verdict.equal(qsim_abi(), isa::ABI, "ABI");
  verdict.expect(std::strstr(qsim_configuration(), "[array]") != nullptr, "its configuration");
  std::string counters;
  for (const uint64_t seed : {0u, 1u, 12345u}) {
    Host host(verdict, seed);
    verdict.expect(host.frame(), "the first frame: " + host.trap());
    counts(verdict, host);
    const std::string now = qsim_counters(host.device());
    verdict.expect(counters.empty() || now == counters,
                   "intervals depend on the order of processes: " + now);
    counters = now;
    frames_are_right(verdict, host);
    registers_behave(verdict, host);
    caches_are_two_copies(verdict, host);
    bad_lists_are_noticed(verdict, host);
    if (seed == 0)
      faults_hit_one_frame(verdict, host);
  }
  return verdict.end();
}
