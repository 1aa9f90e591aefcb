#include "fibers.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

// Fibers switch in assembly on x86-64. Elsewhere they switch through ucontext, which adds two
// system calls.
#if !defined(__x86_64__)
#define QUASAR_UCONTEXT
#endif
#ifdef QUASAR_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define QUASAR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QUASAR_ASAN 1
#endif
#endif
#ifdef QUASAR_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace sim {

namespace {
constexpr size_t STACK = 1 << 20;
thread_local Scheduler* active = nullptr;
} // namespace

// A stack and its saved stack pointer or context.
struct Context {
  uint8_t* mapping = nullptr;
  size_t bytes = 0;
#ifdef QUASAR_UCONTEXT
  ucontext_t state{};
#else
  void* stack_pointer = nullptr;
#endif
#ifdef QUASAR_ASAN
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
#endif

  ~Context() {
    if (mapping != nullptr)
      munmap(mapping, bytes);
  }

  void allocate() {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    bytes = STACK + page;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      throw std::bad_alloc();
    mapping = static_cast<uint8_t*>(memory);
    mprotect(mapping, page, PROT_NONE); // a stack overflow faults
#ifdef QUASAR_ASAN
    bottom = mapping + page;
    size = STACK;
#endif
  }
};

#ifndef QUASAR_UCONTEXT
// Pushes the callee-saved registers, switches stacks, and pops the registers of the other fiber.
extern "C" void quasar_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.local quasar_switch
.type quasar_switch, @function
quasar_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size quasar_switch, .-quasar_switch
)");
#endif

namespace {

void exchange(Context& from, Context& to, [[maybe_unused]] bool last) {
#ifdef QUASAR_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.bottom, to.size);
#endif
#ifdef QUASAR_UCONTEXT
  swapcontext(&from.state, &to.state);
#else
  quasar_switch(&from.stack_pointer, to.stack_pointer);
#endif
#ifdef QUASAR_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

} // namespace

Fiber::Fiber(std::string process_name, std::function<void()> body)
    : name(std::move(process_name)), interval(++intervals), body_(std::move(body)),
      context_(std::make_unique<Context>()) {}
Fiber::~Fiber() = default;

Scheduler::Scheduler(uint64_t seed)
    : seed_(seed), main_(std::make_unique<Context>()), outer_(active) {
  active = this;
}

Scheduler::~Scheduler() {
  stop();
  active = outer_;
}

Scheduler& Scheduler::get() { return *active; }

Fiber* Scheduler::spawn(std::string name, std::function<void()> body, uint64_t now) {
  name = name.substr(0, name.find('('));
  std::erase_if(fibers_, [](const auto& fiber) { return fiber->finished_; });
  fibers_.push_back(std::make_unique<Fiber>(std::move(name), std::move(body)));
  Fiber* fiber = fibers_.back().get();
  fiber->parent_ = current_;
  fiber->number_ = ++spawned_;
  fiber->now = now;
  if (current_ != nullptr) {
    fiber->name = current_->name + "." + fiber->name;
    fiber->until(current_->now);
    ++current_->children_;
  }
  wake(fiber);
  return fiber;
}

void Scheduler::wake(Fiber* fiber) {
  if (!fiber->ready_ && !fiber->finished_) {
    fiber->ready_ = true;
    ready_.push_back(fiber);
  }
}

uint64_t Scheduler::random() { // xorshift64
  seed_ ^= seed_ << 13;
  seed_ ^= seed_ >> 7;
  return seed_ ^= seed_ << 17;
}

void Scheduler::suspend_once() {
  Fiber* fiber = current_;
  awaiting_.push_back(fiber);
  block();
  std::erase(awaiting_, fiber); // still there if a queue woke the fiber
}

bool Scheduler::step() {
  if (ready_.empty()) {
    if (awaiting_.empty())
      return false;
    const auto first = std::min_element(awaiting_.begin(), awaiting_.end(), before);
    if ((*first)->now >= horizon_)
      return false;
    wake(*first);
    awaiting_.erase(first);
  }
  if (seed_ != 0)
    std::swap(ready_.front(), ready_[random() % ready_.size()]);
  Fiber* fiber = ready_.front();
  ready_.pop_front();
  fiber->ready_ = false;
  resume(fiber);
  if (failure_ != nullptr)
    std::rethrow_exception(std::exchange(failure_, nullptr));
  return true;
}

void Scheduler::resume(Fiber* fiber) {
  Context& context = *fiber->context_;
  if (!fiber->started_) {
    fiber->started_ = true;
    context.allocate();
#ifdef QUASAR_UCONTEXT
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = context.mapping;
    context.state.uc_stack.ss_size = context.bytes;
    context.state.uc_link = nullptr;
    makecontext(&context.state, &Scheduler::enter, 0);
#else
    // Initial frame: six registers, then the entry as return address, so that the stack is aligned
    // to 16 bytes as the ABI requires at a function's entry.
    void** top = reinterpret_cast<void**>(context.mapping + context.bytes) - 1;
    *--top = reinterpret_cast<void*>(&Scheduler::enter);
    for (int i = 0; i < 6; ++i)
      *--top = nullptr;
    context.stack_pointer = top;
#endif
  }
  current_ = running = fiber;
  fiber->verb = nullptr;
  exchange(*main_, context, false);
  current_ = running = nullptr;
  if (fiber->finished_)
    fiber->context_.reset();
}

void Scheduler::enter() {
#ifdef QUASAR_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &active->main_->bottom, &active->main_->size);
#endif
  Scheduler& self = *active;
  Fiber* fiber = self.current_;
  try {
    fiber->body_();
  } catch (const Stopped&) {
  } catch (...) {
    self.failure_ = std::current_exception();
  }
  fiber->finished_ = true;
  if (fiber->parent_ != nullptr && --fiber->parent_->children_ == 0)
    self.wake(fiber->parent_);
  exchange(*fiber->context_, *self.main_, true);
}

void Scheduler::suspend() { exchange(*current_->context_, *main_, false); }

void Scheduler::block() {
  suspend();
  if (stopping_)
    throw Stopped();
}

void Scheduler::yield() {
  wake(current_);
  block();
}

void Scheduler::join() {
  Fiber* fiber = current_;
  // The children use the caller's stack frame, so this wait must not throw before they finish.
  while (fiber->children_ > 0) {
    suspend();
  }
  if (stopping_)
    throw Stopped();
}

void Scheduler::stop() {
  stopping_ = true;
  // Children are behind their parents in fibers_, so they unwind first.
  for (size_t i = fibers_.size(); i-- > 0;) {
    Fiber* fiber = fibers_[i].get();
    while (fiber->started_ && !fiber->finished_)
      resume(fiber);
    if (!fiber->finished_ && fiber->parent_ != nullptr)
      --fiber->parent_->children_;
    fiber->finished_ = true;
  }
  failure_ = nullptr;
  ready_.clear();
  awaiting_.clear();
  fibers_.clear();
  stopping_ = false;
}

std::string Scheduler::dump() const {
  std::string text;
  for (const auto& fiber : fibers_) {
    if (fiber->finished_)
      continue;
    text += "  " + fiber->name + ": ";
    if (fiber->children_ > 0)
      text += "waits for its processes";
    else if (fiber->verb != nullptr)
      text += std::string(fiber->verb) + " " + *fiber->queue;
    else
      text += "ready in cycle " + std::to_string(fiber->now);
    if (fiber->loop != nullptr)
      text += ", in " + std::string(fiber->loop);
    text += "\n";
  }
  return text;
}

} // namespace sim
