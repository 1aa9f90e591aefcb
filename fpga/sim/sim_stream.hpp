// Bounded queues between fibers: a read from an empty one and a write to a full one block. One reader and one
// writer each.
#pragma once

#include <memory>
#include <string>

#include "fibers.hpp"

// As hls::stream.
template <typename T, unsigned DEPTH> class Stream {
  static_assert(DEPTH > 0, "a queue holds something");
  // One more than it holds: what was read last stays for a dump.
  static constexpr unsigned PLACES = DEPTH + 1;
  struct Ring {
    T item[PLACES];
  };
  std::unique_ptr<Ring> ring_{new Ring};
  unsigned head_ = 0;
  unsigned count_ = 0;
  bool taken_ = false;
  sim::Fiber* reader_ = nullptr; // that waits
  sim::Fiber* writer_ = nullptr;
  std::string name_;

  void wait(sim::Fiber*& waiting, const char* verb) {
    auto& scheduler = sim::Scheduler::get();
    waiting = scheduler.current();
    waiting->verb = verb;
    waiting->queue = &name_;
    scheduler.block();
  }

public:
  explicit Stream(const char* name = "a queue") : name_(name) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  bool empty() const { return count_ == 0; }
  bool full() const { return count_ == DEPTH; }
  unsigned size() const { return count_; }
  const std::string& name() const { return name_; }
  // The item that was read last; nullptr where none was.
  const T* last() const { return taken_ ? &ring_->item[head_ == 0 ? DEPTH : head_ - 1] : nullptr; }

  T read() {
    while (count_ == 0)
      wait(reader_, "reads");
    const T item = ring_->item[head_];
    head_ = head_ == DEPTH ? 0 : head_ + 1;
    --count_;
    taken_ = true;
    if (writer_ != nullptr) {
      sim::Scheduler::get().wake(writer_);
      writer_ = nullptr;
    }
    return item;
  }
  void read(T& item) { item = read(); }

  bool read_nb(T& item) {
    // A process that polls gives way before it finds nothing: else it would never see what its writer is
    // about to give.
    if (count_ == 0)
      sim::Scheduler::get().yield();
    if (count_ == 0)
      return false;
    item = read();
    return true;
  }

  void write(const T& item) {
    while (count_ == DEPTH)
      wait(writer_, "writes");
    put(item);
    sim::Scheduler::get().point();
  }

  // Where there is room for certain: never gives way.
  void put(const T& item) {
    const unsigned tail = head_ + count_;
    ring_->item[tail >= PLACES ? tail - PLACES : tail] = item;
    ++count_;
    if (reader_ != nullptr) {
      sim::Scheduler::get().wake(reader_);
      reader_ = nullptr;
    }
  }
};

// As hls::stream_of_blocks: whole blocks of WORDS words are handed on.
template <typename T, unsigned WORDS, unsigned DEPTH> class Blocks {
  std::unique_ptr<T[]> words_ = std::make_unique<T[]>(size_t(WORDS) * DEPTH);
  Stream<unsigned, DEPTH> full_;
  Stream<unsigned, DEPTH> free_;

public:
  explicit Blocks(const char* name = "blocks") : full_(name), free_(name) {
    for (unsigned i = 0; i < DEPTH; ++i)
      free_.put(i);
  }
  unsigned take_free() { return free_.read(); }
  unsigned take_full() { return full_.read(); }
  // Never block: there are as many places as blocks.
  void give_free(unsigned block) { free_.put(block); }
  void give_full(unsigned block) { full_.put(block); }
  T* block(unsigned index) { return &words_[size_t(index) * WORDS]; }
};

namespace sim {

// One port of a block: an access an interval, within its words.
template <typename T, unsigned WORDS> class BlockPort {
  T* words_;
  uint64_t last_ = ~uint64_t(0);

public:
  explicit BlockPort(T* words) : words_(words) {}
  T& operator[](size_t address) {
    if (address >= WORDS)
      throw Trap("block: word " + std::to_string(address) + " of " + std::to_string(WORDS));
    if (last_ == running->interval)
      throw Trap("block: two accesses in an interval of " + std::string(running->loop));
    last_ = running->interval;
    return words_[address];
  }
};

} // namespace sim

template <typename T, unsigned WORDS, unsigned DEPTH> class WriteLock : public sim::BlockPort<T, WORDS> {
  Blocks<T, WORDS, DEPTH>& blocks_;
  unsigned index_;

  WriteLock(Blocks<T, WORDS, DEPTH>& blocks, unsigned index)
      : sim::BlockPort<T, WORDS>(blocks.block(index)), blocks_(blocks), index_(index) {}

public:
  explicit WriteLock(Blocks<T, WORDS, DEPTH>& blocks) : WriteLock(blocks, blocks.take_free()) {}
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;
  ~WriteLock() { blocks_.give_full(index_); }
};

template <typename T, unsigned WORDS, unsigned DEPTH> class ReadLock {
  Blocks<T, WORDS, DEPTH>& blocks_;
  unsigned index_;
  sim::BlockPort<T, WORDS> port_;

public:
  explicit ReadLock(Blocks<T, WORDS, DEPTH>& blocks)
      : blocks_(blocks), index_(blocks.take_full()), port_(blocks.block(index_)) {}
  ReadLock(const ReadLock&) = delete;
  ReadLock& operator=(const ReadLock&) = delete;
  ~ReadLock() { blocks_.give_free(index_); }
  const T& operator[](size_t address) { return port_[address]; }
};
