// Counts a testbench's checks, prints its failures, and returns the exit status.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <string>

#include "fibers.hpp"

class Verdict {
  const char* name_;
  unsigned checks_ = 0;
  unsigned failures_ = 0;

public:
  explicit Verdict(const char* name) : name_(name) {}

  void expect(bool holds, const std::string& what) {
    ++checks_;
    if (!holds && ++failures_ <= 20)
      std::fprintf(stderr, "%s: FAILED: %s\n", name_, what.c_str());
  }
  template <typename A, typename B>
  void equal(const A& got, const B& wanted, const std::string& what) {
    expect(got == wanted,
           what + ": " + std::to_string(got) + " instead of " + std::to_string(wanted));
  }
  // Expects a trap whose message contains `words`.
  void traps(const std::function<void()>& body, const std::string& words) {
    std::string message = "no trap";
    try {
      body();
    } catch (const sim::Trap& trap) {
      message = trap.what();
    }
    expect(message.find(words) != std::string::npos,
           "expected \"" + words + "\", got \"" + message + "\"");
  }
  // Prints the counts and returns the exit status.
  int end() const {
    std::printf("%s: %u checks, %u failures\n", name_, checks_, failures_);
    return failures_ == 0 && checks_ > 0 ? 0 : 1;
  }
};

// Random numbers that are equal on every platform, unlike those of the standard's distributions.
class Random {
  std::mt19937_64 engine_;

public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t next() { return engine_(); }
  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(engine_() % static_cast<uint64_t>(most - least + 1));
  }
};
