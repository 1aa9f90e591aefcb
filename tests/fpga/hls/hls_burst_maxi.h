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

// Ranges hold what is unknown to the compiler.
extern "C" {
uint64_t range_get(const void* number, int high, int low);
void range_set(void* number, int high, int low, uint64_t value);
}

template <int W> class ap_uint {
  uint8_t bytes_[(W + 7) / 8];

  struct Range {
    void* number;
    int high, low;
    operator uint64_t() const { return range_get(number, high, low); }
    void operator=(uint64_t value) { range_set(number, high, low, value); }
  };

public:
  ap_uint() = default;
  ap_uint(int) : bytes_() {}
  Range range(int high, int low) { return {&bytes_, high, low}; }
  uint64_t range(int high, int low) const { return range_get(&bytes_, high, low); }
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
