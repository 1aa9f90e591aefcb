// Runs the kernels' processes as cooperative fibers on one thread (a Kahn process network). A fiber
// yields when a queue is empty or full, so a run is deterministic for a seed.
//
// Each fiber has a clock of the kernels' cycles. A loop's interval advances it by the cycles that
// timing.hpp declares. A read advances it to the cycle in which the item is visible, a write to the
// cycle in which the queue has room (sim_stream.hpp). So the cycles do not depend on the order in
// which fibers run. A fiber that tests whether an item is there must `await` first: then no item
// can become visible at its time or earlier. Depends on timing.hpp alone.
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

// An error that the hardware cannot detect, for example an address outside a memory or too many
// accesses to a bank.
struct Trap : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Context;

// A time later than all cycles.
constexpr uint64_t NEVER = ~uint64_t(0);

// A loop's initiation intervals.
struct Loop {
  uint64_t count = 0;  // of begun intervals
  uint64_t cycles = 1; // of an interval; 0: another loop's interval includes this loop
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
  uint64_t interval;           // number of its initiation interval, unique in the thread
  const char* loop = nullptr;  // loop of the last interval,
  uint64_t* counter = nullptr; // its counter
  uint64_t cycles = 1;         // and its cycles
  const char* verb = nullptr;  // "reads" or "writes" the queue that the fiber waits for
  const std::string* queue = nullptr;
  uint64_t now = 0;  // cycle in which the interval began
  uint64_t step = 0; // cycles of the interval

  // Advances the clock to a cycle, unless it is later already.
  void until(uint64_t cycle) { now = cycle > now ? cycle : now; }
  // Returns the first cycle after the interval.
  uint64_t end() const { return now + step; }
  // Ends the interval and advances the clock by more cycles.
  void pass(uint64_t cycles) {
    now += step + cycles;
    step = 0;
  }

private:
  friend class Scheduler;
  std::function<void()> body_;
  std::unique_ptr<Context> context_;
  uint64_t number_ = 0; // in the order of spawning
  Fiber* parent_ = nullptr;
  unsigned children_ = 0;
  bool started_ = false;
  bool finished_ = false;
  bool ready_ = false;
};

// Runs fibers in turn. With seed 0 they run in the order in which they became ready. With another
// seed the order is random, and fibers sometimes yield without blocking.
class Scheduler {
public:
  explicit Scheduler(uint64_t seed);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Returns this thread's scheduler.
  static Scheduler& get();

  // Starts a fiber at time `now`, or at its parent's time if that is later.
  Fiber* spawn(std::string name, std::function<void()> body, uint64_t now = 0);
  // Runs until no fiber can continue, or until `interrupt` returns true. `interrupt` is called
  // between fibers. Rethrows a fiber's exception unless it is Stopped.
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

  // Returns true if no fiber can continue, even with a later horizon.
  bool idle() const { return ready_.empty() && awaiting_.empty(); }
  // Sets the horizon: fibers that await this cycle or a later one stay suspended, because the host
  // may still start a kernel in that cycle.
  void set_horizon(uint64_t cycle) { horizon_ = cycle; }
  // Describes each fiber that has not finished: its loop and what it waits for.
  std::string dump() const;

  // For queues: returns the running fiber; suspends it until it is woken; yields; makes a fiber
  // ready.
  Fiber* current() { return current_; }
  void block();
  void yield();
  void wake(Fiber* fiber);
  // Waits until no other fiber can act before the running fiber's time.
  void await() {
    while (!quiet())
      suspend_once();
  }
  // Returns true if no other fiber can act before the running fiber's time.
  bool quiet() const {
    return ready_.empty() && current_->now < horizon_ && !awaiting_before(current_);
  }
  // Suspends the fiber until `quiet` may hold or a queue wakes it.
  void suspend_once();
  // Yields at random if the schedule is seeded.
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
  std::vector<Fiber*> awaiting_; // unsorted, since few fibers await
  uint64_t horizon_ = NEVER;
  uint64_t spawned_ = 0;
  std::unique_ptr<Context> main_;
  Fiber* current_ = nullptr;
  Scheduler* outer_;
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::map<std::string, Loop> loops_;
};

// This thread's running fiber.
inline thread_local Fiber* running = nullptr;

inline void process(const char* name, std::function<void()> body) {
  Scheduler::get().spawn(name, std::move(body));
}
inline void join() { Scheduler::get().join(); }

} // namespace sim

// Condition of a simulated process's endless loop.
inline bool alive() { return true; }

// Begins an initiation interval of the running process and counts it under the loop's name.
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

// Advances the process's clock by the cycles between two loops.
inline void gap(uint64_t cycles) { sim::running->pass(cycles); }
