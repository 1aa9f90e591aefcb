// Models on-chip memories with checking ports, and the bus to the simulated DRAM.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "counters.hpp"
#include "dram.hpp"
#include "fibers.hpp"
#include "isa.hpp"

namespace sim {

// Counts the accesses of a port: at most ACCESSES to each bank in an initiation interval of the
// running process.
template <unsigned BANKS, unsigned ACCESSES> class PortUse {
  uint64_t interval_[BANKS];
  unsigned count_[BANKS];

public:
  PortUse() {
    for (unsigned i = 0; i < BANKS; ++i) {
      interval_[i] = ~uint64_t(0);
      count_[i] = 0;
    }
  }
  void access(const std::string& name, unsigned bank) {
    const uint64_t now = running->interval;
    if (interval_[bank] != now) {
      interval_[bank] = now;
      count_[bank] = 1;
    } else if (++count_[bank] > ACCESSES) {
      throw Trap(name + ": more than " + std::to_string(ACCESSES) + " accesses to bank " +
                 std::to_string(bank) + " in an interval of " +
                 (running->loop == nullptr ? "no loop" : running->loop));
    }
  }
};

// The words of a memory with a read port and a write port.
template <typename T, unsigned BANKS, unsigned WORDS> class Ram {
public:
  explicit Ram(const char* name)
      : name_(name), words_(std::make_unique<T[]>(size_t(BANKS) * WORDS)) {}
  Ram(const Ram&) = delete;
  Ram& operator=(const Ram&) = delete;

  static constexpr size_t words() { return WORDS; }
  T& at(size_t bank, size_t address) {
    if (bank >= BANKS || address >= WORDS)
      throw Trap(name_ + ": word " + std::to_string(address) + " of " + std::to_string(WORDS) +
                 " in bank " + std::to_string(bank) + " of " + std::to_string(BANKS));
    return words_[bank * WORDS + address];
  }

  std::string name_;
  PortUse<BANKS, 1> reads_;
  PortUse<BANKS, 1> writes_;

private:
  std::unique_ptr<T[]> words_;
};

} // namespace sim

template <typename T, unsigned BANKS, unsigned WORDS> class ReadPort {
  sim::Ram<T, BANKS, WORDS>* ram_;

  struct Bank {
    sim::Ram<T, BANKS, WORDS>* ram;
    size_t bank;
    const T& operator[](size_t address) const {
      const T& word = ram->at(bank, address);
      ram->reads_.access(ram->name_, bank);
      return word;
    }
  };

public:
  explicit ReadPort(sim::Ram<T, BANKS, WORDS>& ram) : ram_(&ram) {}
  Bank operator[](size_t bank) const { return {ram_, bank}; }
};

template <typename T, unsigned BANKS, unsigned WORDS> class WritePort {
  sim::Ram<T, BANKS, WORDS>* ram_;

  struct Bank {
    sim::Ram<T, BANKS, WORDS>* ram;
    size_t bank;
    T& operator[](size_t address) const {
      T& word = ram->at(bank, address);
      ram->writes_.access(ram->name_, bank);
      return word;
    }
  };

public:
  explicit WritePort(sim::Ram<T, BANKS, WORDS>& ram) : ram_(&ram) {}
  Bank operator[](size_t bank) const { return {ram_, bank}; }
};

template <typename T, unsigned BANKS, unsigned WORDS> class MaskedPort {
  sim::Ram<T, BANKS, WORDS>* ram_;

  struct Word {
    T* word;
    void operator=(const masked_t<T>& written) const {
      for (unsigned i = 0; i < config::CASCADE; ++i)
        if ((unsigned(written.enable) >> i & 1) == 1)
          (*word)[i] = written.code[i];
    }
  };

  struct Bank {
    sim::Ram<T, BANKS, WORDS>* ram;
    size_t bank;
    Word operator[](size_t address) const {
      T& word = ram->at(bank, address);
      ram->writes_.access(ram->name_, bank);
      return {&word};
    }
  };

public:
  explicit MaskedPort(sim::Ram<T, BANKS, WORDS>& ram) : ram_(&ram) {}
  Bank operator[](size_t bank) const { return {ram_, bank}; }
};

template <typename T, unsigned BANKS, unsigned WORDS> class Memory {
  std::unique_ptr<T[]> words_ = std::make_unique<T[]>(size_t(BANKS) * WORDS);
  sim::PortUse<BANKS, 2> checks_;
  uint64_t distance_ = 0;
  const char* loop_ = nullptr;          // loop of the last write
  std::unique_ptr<uint64_t[]> written_; // by word: intervals up to the last write; 0: none

  size_t access(size_t bank, size_t address) {
    if (bank >= BANKS || address >= WORDS)
      throw sim::Trap("memory: word " + std::to_string(address) + " of " + std::to_string(WORDS) +
                      " in bank " + std::to_string(bank) + " of " + std::to_string(BANKS));
    checks_.access("memory", bank);
    return bank * WORDS + address;
  }

  class Word {
    Memory* memory_;
    size_t bank_;
    size_t address_;

  public:
    Word(Memory* memory, size_t bank, size_t address)
        : memory_(memory), bank_(bank), address_(address) {}
    operator const T&() const {
      const size_t at = memory_->access(bank_, address_);
      // After a loop has ended, its writes are complete.
      if (memory_->distance_ != 0 && memory_->written_[at] != 0 &&
          sim::running->loop == memory_->loop_) {
        const uint64_t behind = *sim::running->counter - memory_->written_[at];
        if (behind < memory_->distance_)
          throw sim::Trap("memory: a word is read " + std::to_string(behind) +
                          " intervals behind its write, declared are " +
                          std::to_string(memory_->distance_));
      }
      return memory_->words_[at];
    }
    void operator=(const T& value) const {
      const size_t at = memory_->access(bank_, address_);
      memory_->words_[at] = value;
      if (memory_->distance_ != 0) {
        memory_->loop_ = sim::running->loop;
        memory_->written_[at] = *sim::running->counter;
      }
    }
  };

  struct Bank {
    Memory* memory;
    size_t bank;
    Word operator[](size_t address) const { return {memory, bank, address}; }
  };

public:
  Bank operator[](size_t bank) { return {this, bank}; }

  void declare(unsigned distance) {
    distance_ = distance;
    written_ = std::make_unique<uint64_t[]>(size_t(BANKS) * WORDS);
  }
};

// Requires this number of intervals between a word's write and its next read.
template <typename T, unsigned BANKS, unsigned WORDS>
void distance(Memory<T, BANKS, WORDS>& memory, unsigned intervals) {
  memory.declare(intervals);
}

// Replaces hls::burst_maxi. A burst of T is requested before it is read; a write burst ends with a
// response.
//
// The adapter splits a request into bursts and has at most OPEN_BURSTS of them outstanding. Memory
// sends the first beat of a burst after its latency, then a beat every `beat_ticks_`. Writes take
// no simulated time.
template <typename T> class Bus {
  sim::Dram* dram_;
  uint64_t base_;
  uint64_t beat_ticks_; // between two beats
  bool faults_;
  struct Burst {
    uint64_t address;
    uint64_t items;
    uint64_t requested; // cycle
    uint64_t arrives;   // cycle of its first beat; 0: not issued yet
  };
  // A request. Reads split off its bursts one by one, so a long request needs no more memory.
  struct Request {
    uint64_t address;
    uint64_t items;
    uint64_t requested;
  };
  std::deque<Request> requests_;
  Burst burst_{};             // the burst being read
  std::deque<uint64_t> read_; // cycles of the last beats of the latest bursts
  uint64_t ticks_ = 0;        // of the last beat
  sim::Counters* counters_ = nullptr;
  unsigned unit_ = sim::Counters::NONE;
  Burst write_{};

  // Advances the process's clock to the arrival of the next beat.
  void arrive(Burst& burst) {
    namespace declared = isa::declared;
    sim::Fiber* fiber = sim::running;
    uint64_t waits = ticks_ / declared::TICKS + 1; // begin of the wait, if a burst was open
    if (burst.arrives == 0) {
      uint64_t issued = burst.requested;
      if (read_.size() == declared::OPEN_BURSTS) {
        issued = std::max(issued, read_.front());
        read_.pop_front();
      }
      waits = std::max(waits, issued);
      burst.arrives = issued + declared::MEMORY_LATENCY;
    }
    ticks_ = std::max(ticks_ + beat_ticks_, burst.arrives * declared::TICKS);
    fiber->until((ticks_ + declared::TICKS - 1) / declared::TICKS);
    if (counters_ != nullptr)
      counters_->starved(unit_, waits, ticks_ / declared::TICKS);
    if (burst.items == 1)
      read_.push_back(fiber->now);
  }

  void next_burst() {
    constexpr uint64_t SECTION = isa::declared::SECTION_BEATS * sizeof(T);
    if (requests_.empty())
      throw sim::Trap("bus: read without a request");
    Request& request = requests_.front();
    const uint64_t address = request.address;
    // At least one beat; the read of an unaligned address traps.
    const uint64_t section = std::max<uint64_t>(1, (SECTION - address % SECTION) / sizeof(T));
    const uint64_t beats = std::min<uint64_t>({request.items, isa::declared::BURST_BEATS, section});
    burst_ = {address, beats, request.requested, 0};
    request.address += beats * sizeof(T);
    request.items -= beats;
    if (request.items == 0)
      requests_.pop_front();
  }

public:
  // With `faults`, injected faults of transfers apply to this bus.
  Bus(sim::Dram& dram, uint64_t base, bool faults = true, uint64_t beat_ticks = config::BEAT_TICKS)
      : dram_(&dram), base_(base), beat_ticks_(beat_ticks), faults_(faults) {}

  // Returns this bus, connected to the counters of a unit.
  Bus watched(sim::Counters* counters, unsigned unit) const {
    Bus bus = *this;
    bus.counters_ = counters;
    bus.unit_ = unit;
    return bus;
  }

  void read_request(size_t offset, size_t items) {
    const uint64_t address = base_ + offset * sizeof(T);
    if (faults_)
      dram_->request(address, items * sizeof(T), sizeof(T));
    if (items > 0)
      requests_.push_back({address, items, sim::running == nullptr ? 0 : sim::running->now});
  }
  T read() {
    if (burst_.items == 0)
      next_burst();
    arrive(burst_);
    T item;
    dram_->read(burst_.address, &item, sizeof(T));
    burst_.address += sizeof(T);
    --burst_.items;
    return item;
  }
  void write_request(size_t offset, size_t items) {
    if (write_.items != 0)
      throw sim::Trap("bus: a burst of writes is not complete");
    write_ = {base_ + offset * sizeof(T), items, 0, 0};
  }
  void write(const T& item) {
    if (write_.items == 0)
      throw sim::Trap("bus: write without a request");
    dram_->write(write_.address, &item, sizeof(T));
    write_.address += sizeof(T);
    --write_.items;
  }
  void write_response() {
    if (write_.items != 0)
      throw sim::Trap("bus: response to an incomplete burst");
  }
};

template <typename T> T receive(Bus<T>& bus) { return bus.read(); }
template <typename T> void send(Bus<T>& bus, const T& item) { bus.write(item); }
