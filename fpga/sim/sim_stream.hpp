// Bounded queues between fibers, with one reader and one writer each. Reads from an empty queue and
// writes to a full one block.
#pragma once

#include <memory>
#include <string>

#include "fibers.hpp"

// Replaces hls::stream.
template <typename T, unsigned DEPTH> class Stream {
  static_assert(DEPTH > 0, "a queue holds something");
  // One more than the depth: the item read last stays for a dump.
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
  // Returns the item that was read last, or nullptr.
  const T* last() const { return taken_ ? &ring_->item[head_ == 0 ? DEPTH : head_ - 1] : nullptr; }

  // Returns the item that a read would give, or nullptr.
  const T* peek() const { return count_ == 0 ? nullptr : &ring_->item[head_]; }
  // Makes a fiber ready at the next write or read of the other side.
  void wake_when_written(sim::Fiber* fiber) { reader_ = fiber; }
  void wake_when_read(sim::Fiber* fiber) { writer_ = fiber; }

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
    // A polling process gives way before it finds nothing; else it would never see what its writer
    // is about to give.
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

  // Writes an item when there is certainly room; never gives way.
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
