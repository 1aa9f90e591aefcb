// Models the board's memory. Host and device have separate copies; only flush and invalidate copy
// data between them. An access outside an allocation traps.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fibers.hpp"

namespace sim {

class Dram {
public:
  static constexpr uint64_t BASE = 0x10000000;
  static constexpr uint64_t PAGE = 4096;
  static constexpr uint64_t LINE = 64;

  explicit Dram(uint64_t bytes);

  // For the host:

  // Returns a physical address, or 0 if there is no room.
  uint64_t allocate(uint64_t bytes);
  void release(uint64_t physical);
  // Returns the host's copy.
  uint8_t* host(uint64_t physical) { return &host_[physical - BASE]; }
  // Copy whole cache lines to the device's copy, or from it. Return false if the range is not
  // inside one allocation.
  bool flush(uint64_t physical, uint64_t bytes);
  bool invalidate(uint64_t physical, uint64_t bytes);

  // For the device:

  // Applies a pending fault to a read burst that begins at `address`.
  void request(uint64_t address, uint64_t bytes, uint64_t beat);
  // Both trap outside allocations.
  void read(uint64_t address, void* out, uint64_t bytes);
  void write(uint64_t address, const void* in, uint64_t bytes);

  // Flips a bit of the device's copy, if the address is allocated.
  void flip(uint64_t address, unsigned bit);

  // Pending faults of the next read burst of at least two beats: an error response; a missing
  // second half.
  std::atomic<bool> bus_error = false;
  std::atomic<bool> short_dma = false;

private:
  std::mutex mutex_; // serializes host threads and the device's thread
  bool inside(uint64_t physical, uint64_t bytes) const;
  void check(uint64_t address, uint64_t bytes, const char* what) const;

  uint64_t bytes_;
  std::unique_ptr<uint8_t[], void (*)(void*)> host_;
  std::unique_ptr<uint8_t[], void (*)(void*)> device_;
  std::vector<bool> mapped_;               // pages
  std::map<uint64_t, uint64_t> allocated_; // address, bytes
  uint64_t lost_from_ = 0;                 // range that a shortened transfer does not deliver
  uint64_t lost_to_ = 0;
};

} // namespace sim
