// Bounded queues between fibers, with one reader and one writer each. Reads from an empty queue and
// writes to a full one block. Each item carries the cycle from which on it can be taken, each place
// the cycle in which it became free: whichever side comes first in the simulation, the later one in
// time finds out when.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "counters.hpp"
#include "fibers.hpp"

// Replaces hls::stream.
template <typename T, unsigned DEPTH> class Stream {
  static_assert(DEPTH > 0, "a queue holds something");
  // One more than the depth: the item read last stays for a dump.
  static constexpr unsigned PLACES = DEPTH + 1;
  struct Ring {
    T item[PLACES];
    uint64_t visible[PLACES] = {}; // cycle
    uint64_t free[PLACES] = {};    // cycle after the one that took what was here
  };
  std::unique_ptr<Ring> ring_{new Ring};
  unsigned head_ = 0;
  unsigned count_ = 0;
  bool taken_ = false;
  sim::Fiber* reader_ = nullptr; // that waits
  sim::Fiber* writer_ = nullptr;
  std::string name_;
  uint64_t depth_; // cycles from an interval to the item that it writes
  sim::Watch watch_;

  unsigned after(unsigned place, unsigned count) const {
    const unsigned sum = place + count;
    return sum >= PLACES ? sum - PLACES : sum;
  }
  void wait(sim::Fiber*& waiting, const char* verb) {
    auto& scheduler = sim::Scheduler::get();
    waiting = scheduler.current();
    waiting->verb = verb;
    waiting->queue = &name_;
    scheduler.block();
  }

public:
  explicit Stream(const char* name = "a queue") : name_(name), depth_(sim::queue_cycles(name_)) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  bool empty() const { return count_ == 0; }
  bool full() const { return count_ == DEPTH; }
  unsigned size() const { return count_; }
  const std::string& name() const { return name_; }
  // Returns the item that was read last, or nullptr.
  const T* last() const { return taken_ ? &ring_->item[head_ == 0 ? DEPTH : head_ - 1] : nullptr; }

  // Returns the item that a read in this cycle would give, or nullptr.
  const T* peek(uint64_t cycle) const {
    return count_ == 0 || ring_->visible[head_] > cycle ? nullptr : &ring_->item[head_];
  }
  // Returns true if a write in this cycle would find room.
  bool has_room(uint64_t cycle) const { return count_ < DEPTH && room() <= cycle; }
  // Return the cycle from which on the next item can be taken, or written. NEVER: the other side
  // has not gone so far yet.
  uint64_t next_item() const { return count_ == 0 ? sim::NEVER : ring_->visible[head_]; }
  uint64_t next_room() const { return count_ == DEPTH ? sim::NEVER : room(); }
  // Makes a fiber ready at the next write or read of the other side.
  void wake_when_written(sim::Fiber* fiber) { reader_ = fiber; }
  void wake_when_read(sim::Fiber* fiber) { writer_ = fiber; }
  // Lets counters see the queue.
  void watch(const sim::Watch& watch) {
    watch_ = watch;
    if (watch.input != sim::Counters::NONE)
      watch.counters->add_input(
          watch.input, [this] { return std::pair{ring_->free[after(head_, DEPTH)], next_item()}; });
  }

  T read() {
    while (count_ == 0)
      wait(reader_, "reads");
    if (sim::Fiber* fiber = sim::running) {
      fiber->until(ring_->visible[head_]);
      if (watch_.counters != nullptr)
        watch_read(fiber->now);
      ring_->free[head_] = fiber->now + 1;
    }
    const T item = ring_->item[head_];
    head_ = after(head_, 1);
    --count_;
    taken_ = true;
    if (writer_ != nullptr) {
      sim::Scheduler::get().wake(writer_);
      writer_ = nullptr;
    }
    return item;
  }
  void read(T& item) { item = read(); }

  // Takes an item if one is there at the process's time.
  bool read_nb(T& item) {
    sim::Scheduler::get().await();
    if (peek(sim::running->now) == nullptr)
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

  // Writes an item when a place is certainly free, if not yet at this time; never gives way.
  void put(const T& item) {
    const unsigned tail = after(head_, count_);
    uint64_t visible = 0;
    if (sim::Fiber* fiber = sim::running) {
      visible = fiber->now + depth_;
      if (const uint64_t from = room(); from > visible) {
        if (watch_.output != sim::Counters::NONE)
          watch_.counters->blocked(watch_.output, visible, from);
        fiber->now += from - visible;
        visible = from;
      }
    }
    ring_->item[tail] = item;
    ring_->visible[tail] = visible;
    ++count_;
    if (reader_ != nullptr) {
      sim::Scheduler::get().wake(reader_);
      reader_ = nullptr;
    }
  }

private:
  void watch_read(uint64_t cycle) {
    if (watch_.commands != sim::Counters::NONE)
      watch_.counters->taken(watch_.commands, cycle);
    // The item before was taken a cycle before its place, the one before this, became free.
    if (watch_.input != sim::Counters::NONE)
      watch_.counters->starved(watch_.input, ring_->free[after(head_, DEPTH)],
                               ring_->visible[head_]);
  }
  // The place of the item that the next one follows by DEPTH.
  uint64_t room() const { return ring_->free[after(head_, count_ + 1)]; }
};

// A stream without a queue: its reader takes each item as it is written.
template <typename T> class UnqueuedStream {
  std::function<void(const T&)> take_;
  uint64_t written_ = 0;

public:
  UnqueuedStream() = default;
  UnqueuedStream(const UnqueuedStream&) = delete;
  UnqueuedStream& operator=(const UnqueuedStream&) = delete;

  void write(const T& item) {
    ++written_;
    if (take_)
      take_(item);
  }
  // Sets what takes the items.
  void on_write(std::function<void(const T&)> take) { take_ = std::move(take); }
  uint64_t written() const { return written_; }
};
