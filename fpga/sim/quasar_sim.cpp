#include "quasar_sim.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "configuration.hpp"
#include "fabric.hpp"

namespace {

constexpr uint32_t NOTHING = 0xffffffff;
constexpr uint32_t BLOCK = 0x10000; // bytes of a block of registers
constexpr uint32_t STUCK_MS = 200;  // shortest wait that may report a stuck device
// At the horizon the device waits this long for the host to start a kernel.
constexpr std::chrono::milliseconds HOST_PAUSE{20};

// The control registers of a kernel, as Vitis HLS generates them.
struct Control {
  bool start = false, done = false, ready = false, running = false;
  bool restart = false; // auto-restart: starts again at its end
  uint32_t gie = 0, ier = 0, isr = 0;
  uint64_t ended = 0; // cycle of the kernel's last end

  bool idle() const { return !(start || running); }
  uint32_t read() {
    const uint32_t value = start | done << 1 | idle() << 2 | ready << 3 | restart << 7;
    done = ready = false; // a read clears both
    return value;
  }
  bool line() const { return (gie & 1) != 0 && isr != 0; }
  void finish(bool interrupts, uint64_t cycle) {
    ended = cycle;
    start = restart;
    running = false;
    done = ready = true;
    if (interrupts)
      isr |= ier & 3;
  }
};

struct Fault {
  std::string kind;
  uint64_t after;
};

} // namespace

struct qsim {
  qsim(uint64_t seed, uint64_t bytes)
      : dram_(bytes), bits_(seed), seed_(seed), thread_([this] { run(); }) {}
  ~qsim() {
    {
      const std::lock_guard lock(mutex_);
      quit_ = true;
      ++generation_;
      attend();
    }
    thread_.join();
  }

  uint32_t read(uint32_t offset) {
    std::unique_lock lock(mutex_);
    ++accesses_;
    if (offset == isa::reg::reset)
      return reset_;
    if (reset_) {
      trap("register " + name(offset) + " is read in reset: the bus would hang");
      return NOTHING;
    }
    uint32_t in_block = 0;
    if (Control* control = block(offset, in_block)) {
      switch (in_block) {
      case isa::reg::fetch_CTRL:
        if (control->idle())
          host_sees(control->ended);
        return control->read();
      case isa::reg::fetch_GIE:
        return control->gie;
      case isa::reg::fetch_IER:
        return control->ier;
      case isa::reg::fetch_ISR:
        return control->isr;
      default:
        break;
      }
    }
    switch (offset) {
    case isa::reg::fetch_MAGIC:
      return identity_.magic;
    case isa::reg::fetch_ABI:
      return identity_.abi;
    case isa::reg::fetch_HASH_LOW:
      return identity_.hash_low;
    case isa::reg::fetch_HASH_HIGH:
      return identity_.hash_high;
    case isa::reg::fetch_ERROR:
      return identity_.error;
    default:
      break;
    }
    if (uint32_t* argument = argument_of(offset))
      return *argument;
    if (config::COUNTERS && offset / BLOCK == isa::reg::counters_IDENTITY / BLOCK)
      if (const auto value = counter(offset, lock))
        return *value;
    trap("there is no register " + name(offset));
    return NOTHING;
  }

  void write(uint32_t offset, uint32_t value) {
    std::unique_lock lock(mutex_);
    ++accesses_;
    if (offset == isa::reg::reset) {
      // Clears again if it is in reset already: an access since then may have trapped.
      if ((value & 1) != 0)
        clear();
      reset_ = (value & 1) != 0;
      attend();
      return;
    }
    if (reset_) {
      trap("register " + name(offset) + " is written in reset: the bus would hang");
      return;
    }
    uint32_t in_block = 0;
    if (Control* control = block(offset, in_block)) {
      const unsigned before = lines();
      bool known = true;
      switch (in_block) {
      case isa::reg::fetch_CTRL:
        if ((value & 1) != 0)
          control->start = true;
        control->restart = (value >> 7 & 1) != 0;
        attend();
        break;
      case isa::reg::fetch_GIE:
        control->gie = value & 1;
        break;
      case isa::reg::fetch_IER:
        control->ier = value & 3;
        break;
      case isa::reg::fetch_ISR:
        control->isr ^= value & 3;
        break;
      default:
        known = false;
      }
      edge(before);
      if (known)
        return;
    }
    if (uint32_t* argument = argument_of(offset)) {
      *argument = value;
    } else if (config::COUNTERS && offset == isa::reg::counters_CONTROL) {
      wait_until_parked(lock);
      if ((value & isa::counters::RUN) != 0)
        counted_->run(host_now_);
      else
        counted_->hold(host_now_);
    } else {
      trap("there is no register " + name(offset) + " to write");
    }
  }

  bool wait(uint32_t timeout_ms) {
    std::unique_lock lock(mutex_);
    const uint64_t accesses = accesses_;
    const auto over = [this] { return edge_ || (dead_ && !trap_.empty()); };
    host_waits_ = true;
    work_.notify_all();
    interrupt_.wait_for(lock, std::chrono::milliseconds(timeout_ms), over);
    host_waits_ = false;
    const bool came = std::exchange(edge_, false);
    // The host waits and no process can continue: there will be no interrupt.
    if (!came && timeout_ms >= STUCK_MS && store_.running && parked_ && !attention_ && !dead_ &&
        accesses == accesses_ && trap_.empty())
      trap_ = "no interrupt: no process can go on\n" + dump_;
    return came;
  }

  bool fault(const char* kind, uint64_t after) {
    for (const char* known : {"lost_interrupt", "hang", "bus_error", "short_dma", "corrupt_output",
                              "wrong_identity", "late", "spurious_interrupt", "flipped_command"})
      if (std::strcmp(kind, known) == 0) {
        const std::lock_guard lock(mutex_);
        if (after == 0 && std::strcmp(kind, "wrong_identity") == 0)
          stranger_ = true; // a host reads the identity before any frame
        else
          faults_.push_back({kind, after});
        return true;
      }
    return false;
  }

  // Waits until no process can continue, so that a frame is counted completely.
  std::map<std::string, uint64_t> counters() {
    std::unique_lock lock(mutex_);
    wait_until_parked(lock);
    return counters_;
  }

  uint64_t cycle() {
    const std::lock_guard lock(mutex_);
    return host_now_;
  }

  const char* last_trap() {
    const std::lock_guard lock(mutex_);
    trap_out_ = trap_;
    return trap_out_.c_str();
  }

  const char* all_counters() {
    counters_out_.clear();
    for (const auto& [loop, intervals] : counters())
      counters_out_ += loop + " " + std::to_string(intervals) + "\n";
    return counters_out_.c_str();
  }

  sim::Dram dram_;

private:
  static std::string name(uint32_t offset) {
    char text[16];
    std::snprintf(text, sizeof(text), "0x%05x", offset);
    return text;
  }

  Control* block(uint32_t offset, uint32_t& in_block) {
    in_block = offset & 0xffff;
    switch (offset & ~uint32_t(0xffff)) {
    case isa::reg::fetch_CTRL:
      return &fetch_;
    case isa::reg::store_CTRL:
      return &store_;
    case isa::reg::load_CTRL:
      return &load_;
    default:
      return nullptr;
    }
  }

  uint32_t* argument_of(uint32_t offset) {
    const auto half = [offset](uint32_t base, uint32_t (&words)[2]) -> uint32_t* {
      return offset == base ? &words[0] : offset == base + 4 ? &words[1] : nullptr;
    };
    constexpr uint32_t ARENAS[] = {isa::reg::load_ARENA0, isa::reg::load_ARENA1,
                                   isa::reg::load_ARENA2, isa::reg::load_ARENA3};
    for (unsigned i = 0; i < isa::MAX_PORTS; ++i)
      if (uint32_t* found = half(ARENAS[i], arena_[i]))
        return found;
    if (uint32_t* found = half(isa::reg::fetch_COMMANDS, commands_))
      return found;
    if (uint32_t* found = half(isa::reg::store_OUTPUT, output_))
      return found;
    switch (offset) {
    case isa::reg::fetch_COUNT:
      return &commands_count_;
    case isa::reg::fetch_INPUT:
      return &input_;
    case isa::reg::fetch_SEED:
      return &fetch_seed_;
    case isa::reg::store_COUNT:
      return &logits_count_;
    case isa::reg::load_SEED:
      return &load_seed_;
    default:
      return nullptr;
    }
  }

  // Returns the value of a register of the counters at the host's time.
  std::optional<uint32_t> counter(uint32_t offset, std::unique_lock<std::mutex>& lock) {
    switch (offset) {
    case isa::reg::counters_IDENTITY:
      return isa::counters::IDENTITY;
    case isa::reg::counters_CONTROL:
      return counted_->running() ? isa::counters::RUN : 0;
    default:
      wait_until_parked(lock);
    }
    if (offset == isa::reg::counters_CYCLES)
      return counted_->cycles(host_now_);
    const uint32_t index = (offset - isa::counters::FIRST) / 4;
    constexpr uint32_t EACH = isa::counters::UNIT_BYTES / 4;
    if (offset < isa::counters::FIRST || offset % 4 != 0 || index >= EACH * sim::Counters::UNITS)
      return std::nullopt;
    return counted_->read(index / EACH, index % EACH, host_now_);
  }

  // Waits until no process can continue, so that all events are counted.
  void wait_until_parked(std::unique_lock<std::mutex>& lock) {
    host_waits_ = true;
    work_.notify_all();
    quiet_.wait(lock, [this] { return parked_ && !attention_; });
    host_waits_ = false;
  }

  static uint64_t whole(const uint32_t (&words)[2]) { return words[0] | uint64_t(words[1]) << 32; }

  // Callers of the functions below hold the mutex, unless a function's comment differs.

  void trap(std::string text) { trap_ = std::move(text); }

  // Returns the interrupt lines of the kernels.
  unsigned lines() const { return fetch_.line() | store_.line() << 1; }

  // Records a rising edge of a kernel's line. The accelerator's line is the OR of both and
  // level-triggered, so an edge counts while the other line is high, too.
  void edge(unsigned before) {
    if ((lines() & ~before) != 0) {
      edge_ = true;
      interrupt_.notify_all();
    }
  }

  void attend() {
    attention_ = true;
    work_.notify_all();
  }

  // Advances the host's time to a cycle that it has observed.
  void host_sees(uint64_t cycle) { host_now_ = std::max(host_now_, cycle); }
  // Returns the cycle in which a kernel starts if the host starts it now.
  uint64_t start_cycle(const Control& kernel) const {
    return std::max(host_now_ + config::SEGMENT_GAP, kernel.ended);
  }
  // Ends a kernel; with auto-restart it starts again.
  void finish(Control& kernel, bool interrupts, uint64_t cycle) {
    const unsigned before = lines();
    kernel.finish(interrupts, cycle);
    if (kernel.start)
      attend();
    await_host(cycle);
    edge(before);
  }

  // Sets the horizon after a kernel's end: the host may start a kernel SEGMENT_GAP cycles later.
  void await_host(uint64_t cycle) {
    horizon_ = std::min(horizon_, cycle + config::SEGMENT_GAP);
    sim::Scheduler::get().set_horizon(horizon_);
  }

  // Resets everything except memory.
  void clear() {
    ++generation_;
    fetch_ = store_ = load_ = {};
    identity_ = {};
    for (auto& words : arena_)
      words[0] = words[1] = 0;
    commands_[0] = commands_[1] = output_[0] = output_[1] = 0;
    commands_count_ = input_ = fetch_seed_ = logits_count_ = load_seed_ = 0;
    edge_ = dead_ = stranger_ = lost_ = corrupt_ = late_ = hang_ = flip_ = false;
    host_now_ = 0;
    horizon_ = sim::NEVER;
    trap_.clear();
    dump_.clear();
    counters_.clear();
    counted_ = std::make_shared<sim::Counters>();
    dram_.bus_error = dram_.short_dma = false;
  }

  // Begins a frame and activates its faults.
  void begin_frame() {
    for (size_t i = 0; i < faults_.size();) {
      Fault& fault = faults_[i];
      const bool identity = fault.kind == "wrong_identity"; // active once `after` frames have begun
      if (fault.after > (identity ? 1u : 0u)) {
        --fault.after;
        ++i;
        continue;
      }
      lost_ = lost_ || fault.kind == "lost_interrupt";
      hang_ = hang_ || fault.kind == "hang";
      corrupt_ = corrupt_ || fault.kind == "corrupt_output";
      late_ = late_ || fault.kind == "late";
      flip_ = flip_ || fault.kind == "flipped_command";
      stranger_ = stranger_ || identity;
      if (fault.kind == "bus_error")
        dram_.bus_error = true;
      if (fault.kind == "short_dma")
        dram_.short_dma = true;
      if (fault.kind == "spurious_interrupt") {
        edge_ = true;
        interrupt_.notify_all();
      }
      faults_.erase(faults_.begin() + static_cast<ptrdiff_t>(i));
    }
  }

  // Starts the kernels whose start bit the host has set.
  void start(sim::Fabric& fabric) {
    const uint64_t generation = generation_;
    if (load_.start && !load_.running) {
      load_.running = true;
      const uint64_t arena[] = {whole(arena_[0]), whole(arena_[1]), whole(arena_[2]),
                                whole(arena_[3])};
      fabric.start_load(arena, load_seed_, host_now_);
    }
    if (store_.start && !store_.running) {
      store_.running = true;
      begin_frame();
      fabric.start_store(
          whole(output_), logits_count_,
          [this, generation, output = whole(output_)](uint64_t cycle) {
            frame_done(generation, output, cycle);
          },
          start_cycle(store_));
    }
    if (fetch_.start && !fetch_.running) {
      fetch_.running = true;
      if (commands_count_ > 0 && std::exchange(flip_, false)) {
        const uint64_t bit = bits_() % (uint64_t(commands_count_) * sizeof(command_t) * 8);
        dram_.flip(whole(commands_) + bit / 8, bit % 8);
      }
      fabric.start_fetch(
          whole(commands_), commands_count_, input_, fetch_seed_,
          [this, generation](sim::Identity identity, uint64_t cycle) {
            const std::lock_guard lock(mutex_);
            if (generation != generation_)
              return;
            identity_ = identity;
            if (stranger_)
              identity_.hash_low ^= 1;
            finish(fetch_, true, cycle);
          },
          start_cycle(fetch_));
    }
  }

  // Ends a frame. Runs in the device's thread, without the mutex.
  void frame_done(uint64_t generation, uint64_t output, uint64_t cycle) {
    std::unique_lock lock(mutex_);
    const auto gone = [&] { return quit_ || generation != generation_; };
    if (std::exchange(late_, false))
      work_.wait_for(lock, std::chrono::milliseconds(300), gone);
    if (gone())
      return;
    if (std::exchange(corrupt_, false)) {
      uint8_t byte[isa::PORT_BYTES];
      dram_.read(output, byte, sizeof(byte));
      byte[0] ^= 0x10;
      dram_.write(output, byte, sizeof(byte));
    }
    finish(store_, !std::exchange(lost_, false), cycle);
  }

  // The device's thread.
  void run() {
    std::shared_ptr<sim::Counters> counted;
    std::unique_ptr<sim::Fabric> fabric;
    uint64_t built = 0;
    bool held = false; // at the horizon
    while (true) {
      {
        std::unique_lock lock(mutex_);
        parked_ = !attention_ && !held;
        held = false;
        if (parked_) {
          quiet_.notify_all();
          work_.wait(lock, [this] { return attention_.load(); });
          parked_ = false;
        }
        attention_ = false;
        if (quit_)
          return;
        if (built != generation_ || reset_)
          fabric.reset();
        if (reset_ || dead_)
          continue;
        if (fabric == nullptr) {
          counted = counted_;
          fabric = std::make_unique<sim::Fabric>(dram_, seed_, counted.get());
          built = generation_;
        }
        start(*fabric);
        fabric->scheduler().set_horizon(horizon_);
        if (hang_) {
          dead_ = true;
          continue;
        }
      }
      std::string failure;
      try {
        fabric->scheduler().run([this] { return attention_.load(std::memory_order_relaxed); });
      } catch (const std::exception& error) {
        failure = error.what();
      }
      std::unique_lock lock(mutex_);
      if (built != generation_)
        continue;
      for (const auto& [name, loop] : fabric->scheduler().loops())
        counters_[name] = loop.count;
      if (failure.empty() && fabric->scheduler().idle()) {
        dump_ = fabric->dump();
        // The host may have started a kernel meanwhile.
        if (!attention_ && fetch_.running && !fabric->waits_for_host(store_.running))
          failure = "deadlock: no process can go on";
      }
      if (!failure.empty()) {
        trap(failure + "\n" + fabric->dump());
        dead_ = true;
        interrupt_.notify_all();
      } else if (!attention_ && !fabric->scheduler().idle()) {
        // A host that waits for an interrupt starts nothing more before the horizon.
        work_.wait_for(lock, HOST_PAUSE, [this] { return attention_ || (host_waits_ && !edge_); });
        if (!attention_)
          horizon_ = sim::NEVER;
        held = true;
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable work_, interrupt_, quiet_;
  std::atomic<bool> attention_ = true;
  bool quit_ = false, parked_ = false, reset_ = false;
  bool dead_ = false; // until reset: after a trap, a deadlock, a hang
  uint64_t generation_ = 1;
  // Counters of the current generation. The device's thread changes them unless it is parked.
  std::shared_ptr<sim::Counters> counted_ = std::make_shared<sim::Counters>();
  uint64_t host_now_ = 0;         // cycle
  uint64_t horizon_ = sim::NEVER; // from this cycle on the host may start a kernel
  bool host_waits_ = false;       // for an interrupt
  uint64_t accesses_ = 0;
  Control fetch_, store_, load_;
  sim::Identity identity_;
  uint32_t arena_[isa::MAX_PORTS][2] = {}, commands_[2] = {}, output_[2] = {};
  uint32_t commands_count_ = 0, input_ = 0, fetch_seed_ = 0, logits_count_ = 0, load_seed_ = 0;
  bool edge_ = false;
  std::vector<Fault> faults_;
  bool lost_ = false, hang_ = false, corrupt_ = false, late_ = false, stranger_ = false,
       flip_ = false;
  std::mt19937_64 bits_; // chooses the flipped bit of a segment
  std::string trap_, trap_out_, dump_, counters_out_;
  std::map<std::string, uint64_t> counters_;
  uint64_t seed_;
  std::thread thread_; // last member: it uses the others
};

extern "C" {

uint32_t qsim_abi(void) { return isa::ABI; }
const char* qsim_configuration(void) { return config::TOML; }

qsim* qsim_open(uint64_t seed, uint64_t memory_bytes, char* error, uint64_t error_bytes) {
  try {
    return new qsim(seed, memory_bytes);
  } catch (const std::exception& failure) {
    if (error != nullptr && error_bytes > 0)
      std::snprintf(error, error_bytes,
                    "the simulated device cannot be opened with %llu bytes of memory: %s",
                    static_cast<unsigned long long>(memory_bytes), failure.what());
    return nullptr;
  }
}
void qsim_close(qsim* device) { delete device; }

uint32_t qsim_read(qsim* device, uint32_t offset) { return device->read(offset); }
void qsim_write(qsim* device, uint32_t offset, uint32_t value) { device->write(offset, value); }

uint8_t* qsim_alloc(qsim* device, uint64_t bytes, uint64_t* physical) {
  *physical = device->dram_.allocate(bytes);
  return *physical == 0 ? nullptr : device->dram_.host(*physical);
}
void qsim_free(qsim* device, uint64_t physical) { device->dram_.release(physical); }
int qsim_flush(qsim* device, uint64_t physical, uint64_t bytes) {
  return device->dram_.flush(physical, bytes) ? 0 : -1;
}
int qsim_invalidate(qsim* device, uint64_t physical, uint64_t bytes) {
  return device->dram_.invalidate(physical, bytes) ? 0 : -1;
}

int qsim_wait(qsim* device, uint32_t timeout_ms) { return device->wait(timeout_ms) ? 1 : 0; }
int qsim_fault(qsim* device, const char* kind, uint64_t after_frames) {
  return device->fault(kind, after_frames) ? 0 : -1;
}

const char* qsim_counters(qsim* device) { return device->all_counters(); }
uint64_t qsim_cycle(qsim* device) { return device->cycle(); }
const char* qsim_trap(qsim* device) { return device->last_trap(); }

} // extern "C"
