// Cooperative fibers: the kernels' processes as a Kahn network on one thread. A fiber gives way
// when a queue is empty or full, so a run is deterministic for a seed. Depends on no other part of
// the simulation.
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

namespace sim {

// Thrown within fibers when the simulation ends.
struct Stopped {};

// A fault that the hardware would not survive: an address outside a memory, or too many accesses to
// a bank.
struct Trap : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Context;

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
  const char* verb = nullptr;  // what it waits for: "reads" or "writes" a queue,
  const std::string* queue = nullptr;

private:
  friend class Scheduler;
  std::function<void()> body_;
  std::unique_ptr<Context> context_;
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

  Fiber* spawn(std::string name, std::function<void()> body);
  // Runs until no fiber is ready or `interrupt`, which is called between fibers, returns true.
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

  bool idle() const { return ready_.empty(); }
  // Describes each fiber that has not finished: its loop and what it waits for.
  std::string dump() const;

  // For queues: returns the running fiber; gives way until woken; gives way and stays ready; makes
  // a fiber ready.
  Fiber* current() { return current_; }
  void block();
  void yield();
  void wake(Fiber* fiber);
  // A seeded schedule sometimes switches here.
  void point() {
    if (seed_ != 0 && current_ != nullptr && random() % 64 == 0)
      yield();
  }
  void join();

  uint64_t* counter(const char* loop) { return &counters_[loop]; }
  const std::map<std::string, uint64_t>& counters() const { return counters_; }

private:
  bool step();
  uint64_t random();
  void resume(Fiber* fiber);
  void suspend();
  static void enter();

  uint64_t seed_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::deque<Fiber*> ready_;
  std::unique_ptr<Context> main_;
  Fiber* current_ = nullptr;
  Scheduler* outer_;
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::map<std::string, uint64_t> counters_;
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
inline void interval(const char* loop) {
  sim::Fiber* fiber = sim::running;
  if (fiber->loop != loop) {
    fiber->loop = loop;
    fiber->counter = sim::Scheduler::get().counter(loop);
  }
  ++*fiber->counter;
  fiber->interval = ++sim::intervals;
}
