// Stands for the header of Vitis HLS: what the kernels take of it, and of ap_uint what memory.hpp
// does.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
void bus_request(void* memory, size_t offset, size_t items, bool write);
void bus_read(void* memory, void* item);
void bus_write(void* memory, const void* item);
void bus_response(void* memory);
}

template <int W> class ap_uint {
  uint32_t word_[W / 32];

  struct Range {
    uint32_t* word;
    int low;
    uint32_t mask;
    operator uint32_t() const { return *word >> low & mask; }
    void operator=(uint32_t value) { *word = (*word & ~(mask << low)) | (value & mask) << low; }
  };

public:
  // Within a word.
  Range range(int high, int low) {
    return {&word_[low / 32], low % 32, ~uint32_t(0) >> (31 - (high - low))};
  }
  uint32_t range(int high, int low) const { return const_cast<ap_uint*>(this)->range(high, low); }
};

namespace hls {

template <typename T> class burst_maxi {
  T* memory_;

public:
  burst_maxi(T* memory) : memory_(memory) {}

  void read_request(size_t offset, size_t items) { bus_request(memory_, offset, items, false); }
  T read() {
    T item;
    bus_read(memory_, &item);
    return item;
  }
  void write_request(size_t offset, size_t items) { bus_request(memory_, offset, items, true); }
  void write(const T& item) { bus_write(memory_, &item); }
  void write_response() { bus_response(memory_); }
};

} // namespace hls
