// Cooperative fibers: the kernels' processes as a Kahn network on one thread. A fiber gives way
// when a queue is empty or full, so a run is deterministic for a seed.
//
// Each fiber has a clock, which counts the kernels' cycles. Intervals of loops move it on by what
// timing.hpp declares; an item that arrives later, or a queue without room, holds it up
// (sim_stream.hpp). So the times do not depend on the order in which fibers run. A fiber that does
// different things depending on whether an item has arrived has to `await` its own time first: then
// nothing can arrive any more at that time or before. Depends on timing.hpp alone.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "timing.hpp"

namespace sim {

// Thrown within fibers when the simulation ends.
struct Stopped {};

// A fault that the hardware would not survive: an address outside a memory, or too many accesses to
// a bank.
struct Trap : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Context;

// A cycle that does not come.
constexpr uint64_t NEVER = ~uint64_t(0);

// A loop's initiation intervals.
struct Loop {
  uint64_t count = 0;  // that have begun
  uint64_t cycles = 1; // of each; 0: the loop is within an interval of another
};

inline thread_local uint64_t intervals = 0;

// One process.
class Fiber {
public:
  Fiber(std::string process_name, std::function<void()> body);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  std::string name;
  uint64_t interval; // the initiation interval that it is in; all that ever were have numbers of
                     // their own
  const char* loop = nullptr;  // the loop of the last one
  uint64_t* counter = nullptr; // and its counter
  uint64_t cycles = 1;         // and its intervals
  const char* verb = nullptr;  // what it waits for: "reads" or "writes" a queue,
  const std::string* queue = nullptr;
  uint64_t now = 0;  // cycle
  uint64_t step = 0; // cycles of the interval that begins now

  // Holds the fiber up.
  void until(uint64_t cycle) { now = cycle > now ? cycle : now; }
  // Returns the cycle behind the interval that begins now.
  uint64_t end() const { return now + step; }
  // Lets time pass behind the interval that begins now.
  void pass(uint64_t cycles) {
    now += step + cycles;
    step = 0;
  }

private:
  friend class Scheduler;
  std::function<void()> body_;
  std::unique_ptr<Context> context_;
  uint64_t number_ = 0; // in the order of their beginning
  Fiber* parent_ = nullptr;
  unsigned children_ = 0;
  bool started_ = false;
  bool finished_ = false;
  bool ready_ = false;
};

// Runs fibers in turn. With seed 0 they run in the order in which they became ready. With another
// seed the order is random, and fibers sometimes give way before they block.
class Scheduler {
public:
  explicit Scheduler(uint64_t seed);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // The scheduler of this thread, while it runs or is being filled.
  static Scheduler& get();

  // Starts a fiber, at its parent's time or later.
  Fiber* spawn(std::string name, std::function<void()> body, uint64_t now = 0);
  // Runs until no fiber can go on or `interrupt`, which is called between fibers, returns true.
  // Rethrows a fiber's exception unless it is Stopped.
  template <typename Interrupt> void run(Interrupt interrupt) {
    while (step())
      if (interrupt())
        return;
  }
  void run() {
    run([] { return false; });
  }
  // Unwinds all fibers.
  void stop();

  // Returns true if no fiber can go on, whatever the horizon.
  bool idle() const { return ready_.empty() && awaiting_.empty(); }
  // Fibers that await this time or a later one stay where they are: from this time on, the host may
  // have started something.
  void set_horizon(uint64_t cycle) { horizon_ = cycle; }
  // Describes each fiber that has not finished: its loop and what it waits for.
  std::string dump() const;

  // For queues: returns the running fiber; gives way until woken; gives way and stays ready; makes
  // a fiber ready.
  Fiber* current() { return current_; }
  void block();
  void yield();
  void wake(Fiber* fiber);
  // Returns when nothing can happen any more before the running fiber's time.
  void await() {
    while (!quiet())
      suspend_once();
  }
  // Returns true if that is so.
  bool quiet() const {
    return ready_.empty() && current_->now < horizon_ && !awaiting_before(current_);
  }
  // Waits until that may be so, or a queue wakes the fiber.
  void suspend_once();
  // A seeded schedule sometimes switches here.
  void point() {
    if (seed_ != 0 && current_ != nullptr && random() % 64 == 0)
      yield();
  }
  void join();

  Loop& loop(const char* name) {
    const auto [found, added] = loops_.try_emplace(name);
    if (added)
      found->second.cycles = interval_cycles(found->first);
    return found->second;
  }
  const std::map<std::string, Loop>& loops() const { return loops_; }

private:
  bool step();
  uint64_t random();
  void resume(Fiber* fiber);
  void suspend();
  static void enter();
  static bool before(const Fiber* a, const Fiber* b) {
    return a->now != b->now ? a->now < b->now : a->number_ < b->number_;
  }
  bool awaiting_before(const Fiber* fiber) const {
    for (const Fiber* other : awaiting_)
      if (before(other, fiber))
        return true;
    return false;
  }
  uint64_t seed_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::deque<Fiber*> ready_;
  std::vector<Fiber*> awaiting_; // few
  uint64_t horizon_ = NEVER;
  uint64_t spawned_ = 0;
  std::unique_ptr<Context> main_;
  Fiber* current_ = nullptr;
  Scheduler* outer_;
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::map<std::string, Loop> loops_;
};

// The running fiber of this thread.
inline thread_local Fiber* running = nullptr;

inline void process(const char* name, std::function<void()> body) {
  Scheduler::get().spawn(name, std::move(body));
}
inline void join() { Scheduler::get().join(); }

} // namespace sim

// The condition of a process's loop.
inline bool alive() { return true; }

// Begins the next initiation interval of the running process, and counts it under the loop's name.
inline void interval(const char* name) {
  sim::Fiber* fiber = sim::running;
  if (fiber->loop != name) {
    sim::Loop& loop = sim::Scheduler::get().loop(name);
    fiber->loop = name;
    fiber->counter = &loop.count;
    fiber->cycles = loop.cycles;
  }
  ++*fiber->counter;
  fiber->interval = ++sim::intervals;
  if (fiber->cycles != 0) {
    fiber->now += fiber->step;
    fiber->step = fiber->cycles;
  }
}

// Lets the cycles pass that the process needs between two loops.
inline void gap(uint64_t cycles) { sim::running->pass(cycles); }
