#include "dram.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sim {

namespace {

constexpr uint64_t round_down(uint64_t n, uint64_t to) { return n / to * to; }
constexpr uint64_t round_up(uint64_t n, uint64_t to) { return round_down(n + to - 1, to); }

std::string hex(uint64_t n) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(n));
  return text;
}

// Allocates zeroed memory; pages use no physical memory before a write.
std::unique_ptr<uint8_t[], void (*)(void*)> zeros(uint64_t bytes) {
  auto* memory = static_cast<uint8_t*>(std::calloc(bytes, 1));
  if (memory == nullptr)
    throw std::bad_alloc();
  return {memory, std::free};
}

} // namespace

Dram::Dram(uint64_t bytes)
    : bytes_(round_up(bytes, PAGE)), host_(zeros(bytes_)), device_(zeros(bytes_)),
      mapped_(bytes_ / PAGE) {}

uint64_t Dram::allocate(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || bytes > bytes_)
    return 0;
  // First fit. An unmapped page follows each allocation and traps.
  const uint64_t needed = round_up(bytes, PAGE) + PAGE;
  uint64_t address = BASE;
  for (const auto& [start, length] : allocated_) {
    if (start - address >= needed)
      break;
    address = start + round_up(length, PAGE) + PAGE;
  }
  if (address + needed > BASE + bytes_)
    return 0;
  allocated_[address] = bytes;
  for (uint64_t page = 0; page < round_up(bytes, PAGE) / PAGE; ++page)
    mapped_[(address - BASE) / PAGE + page] = true;
  // Hides earlier contents from both sides.
  std::memset(&host_[address - BASE], 0, round_up(bytes, PAGE));
  std::memset(&device_[address - BASE], 0xa5, round_up(bytes, PAGE));
  return address;
}

void Dram::release(uint64_t physical) {
  const std::lock_guard lock(mutex_);
  const auto found = allocated_.find(physical);
  if (found == allocated_.end())
    return;
  for (uint64_t page = 0; page < round_up(found->second, PAGE) / PAGE; ++page)
    mapped_[(physical - BASE) / PAGE + page] = false;
  allocated_.erase(found);
}

bool Dram::inside(uint64_t physical, uint64_t bytes) const {
  auto after = allocated_.upper_bound(physical);
  if (after == allocated_.begin())
    return false;
  const auto& [start, length] = *--after;
  return bytes <= length && physical - start <= length - bytes;
}

bool Dram::flush(uint64_t physical, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!inside(physical, bytes))
    return false;
  const uint64_t from = round_down(physical - BASE, LINE),
                 to = round_up(physical - BASE + bytes, LINE);
  std::memcpy(&device_[from], &host_[from], to - from);
  return true;
}

bool Dram::invalidate(uint64_t physical, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!inside(physical, bytes))
    return false;
  const uint64_t from = round_down(physical - BASE, LINE),
                 to = round_up(physical - BASE + bytes, LINE);
  std::memcpy(&host_[from], &device_[from], to - from);
  return true;
}

void Dram::check(uint64_t address, uint64_t bytes, const char* what) const {
  const bool outside =
      address < BASE || address - BASE >= bytes_ || bytes > bytes_ - (address - BASE);
  bool trapped = outside;
  if (!outside)
    for (uint64_t page = (address - BASE) / PAGE; page <= (address - BASE + bytes - 1) / PAGE;
         ++page)
      trapped = trapped || !mapped_[page];
  if (trapped)
    throw Trap("memory: " + std::string(what) + " of " + std::to_string(bytes) + " bytes at " +
               hex(address) +
               (address < PAGE ? ": null page"
                : outside      ? ": outside memory"
                               : ": page is not allocated"));
  if (address % bytes != 0)
    throw Trap("memory: " + std::string(what) + " of " + std::to_string(bytes) + " bytes at " +
               hex(address) + ": not aligned");
}

void Dram::request(uint64_t address, uint64_t bytes, uint64_t beat) {
  if (bytes < 2 * beat)
    return;
  if (bus_error.exchange(false))
    throw Trap("memory: bus error at " + hex(address));
  if (short_dma.exchange(false)) {
    lost_from_ = address + bytes / 2;
    lost_to_ = address + bytes;
  }
}

void Dram::read(uint64_t address, void* out, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  check(address, bytes, "read");
  if (address < lost_from_ || address >= lost_to_) {
    std::memcpy(out, &device_[address - BASE], bytes);
    return;
  }
  std::memset(out, 0x5a, bytes);
  if (address + bytes == lost_to_)
    lost_from_ = lost_to_ = 0;
}

void Dram::flip(uint64_t address, unsigned bit) {
  const std::lock_guard lock(mutex_);
  if (inside(address, 1))
    device_[address - BASE] ^= uint8_t(1 << bit);
}

void Dram::write(uint64_t address, const void* in, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  check(address, bytes, "write");
  std::memcpy(&device_[address - BASE], in, bytes);
}

} // namespace sim
