// Stands for the header of Vitis HLS: what the kernels take of it. What a stream does is unknown to
// the compiler.
#pragma once

extern "C" {
void stream_read(void* stream, void* item);
bool stream_read_nb(void* stream, void* item);
void stream_write(void* stream, const void* item);
}

namespace hls {

template <typename T, int DEPTH = 0> class stream {
  void* state_ = nullptr;

public:
  stream() = default;
  explicit stream(const char*) {}
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;

  T read() {
    T item;
    stream_read(&state_, &item);
    return item;
  }
  bool read_nb(T& item) { return stream_read_nb(&state_, &item); }
  void write(const T& item) { stream_write(&state_, &item); }
};

} // namespace hls
