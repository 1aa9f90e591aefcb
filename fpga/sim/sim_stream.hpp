// Bounded FIFOs between fibers, with one reader and one writer each. A read from an empty FIFO and
// a write to a full one block. Each item has the cycle from which it is visible, each place the
// cycle from which it is free. So both sides compute their cycles correctly, whichever fiber runs
// first.
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
  static_assert(DEPTH > 1, "a queue of one place takes an item in every second cycle only");
  // One place more than the depth keeps the last item read, for a dump.
  static constexpr unsigned PLACES = DEPTH + 1;
  struct Ring {
    T item[PLACES];
    uint64_t visible[PLACES] = {}; // cycle
    uint64_t free[PLACES] = {};    // cycle after the read of the place's last item
  };
  std::unique_ptr<Ring> ring_{new Ring};
  unsigned head_ = 0;
  unsigned count_ = 0;
  bool taken_ = false;
  sim::Fiber* reader_ = nullptr; // waiting fibers
  sim::Fiber* writer_ = nullptr;
  std::string name_;
  uint64_t depth_; // pipeline stages: cycles from an interval's begin to its item
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
  // Returns the last item read, or nullptr.
  const T* last() const { return taken_ ? &ring_->item[head_ == 0 ? DEPTH : head_ - 1] : nullptr; }

  // Returns the item that a read in this cycle would return, or nullptr.
  const T* peek(uint64_t cycle) const {
    return count_ == 0 || ring_->visible[head_] > cycle ? nullptr : &ring_->item[head_];
  }
  // Returns true if a write in this cycle would not block.
  bool has_room(uint64_t cycle) const { return count_ < DEPTH && room() <= cycle; }
  // Return the first cycle in which the next item can be read; in which it can be written. NEVER:
  // depends on a step that the other side has not made yet.
  uint64_t next_item() const { return count_ == 0 ? sim::NEVER : ring_->visible[head_]; }
  uint64_t next_room() const { return count_ == DEPTH ? sim::NEVER : room(); }
  // Wake a fiber at the next write; at the next read.
  void wake_when_written(sim::Fiber* fiber) { reader_ = fiber; }
  void wake_when_read(sim::Fiber* fiber) { writer_ = fiber; }
  // Connects the counters to the queue.
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

  // Takes an item if one is visible at the process's time.
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

  // Writes an item to a queue that is not full, and waits in simulated time for its place; never
  // yields.
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
    // The previous place became free one cycle after the read of its item.
    if (watch_.input != sim::Counters::NONE)
      watch_.counters->starved(watch_.input, ring_->free[after(head_, DEPTH)],
                               ring_->visible[head_]);
  }
  // Returns the cycle in which the item DEPTH places earlier freed its place.
  uint64_t room() const { return ring_->free[after(head_, count_ + 1)]; }
};

// A stream without a FIFO: its reader takes each item in the cycle of the write.
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
  // Sets the reader.
  void on_write(std::function<void(const T&)> take) { take_ = std::move(take); }
  uint64_t written() const { return written_; }
};
