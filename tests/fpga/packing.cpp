// Packs an item of each queue between kernels, and compares its bits with those that the other end
// expects: fields from the lowest bit up, without gaps. Prints the bits of each queue.
#include <stdio.h>
#include <string.h>

#include "kernels.hpp"

namespace {

unsigned failures = 0;

// A number of many bits with the ranges of ap_uint.
struct Wide {
  static constexpr int MOST = 8192;
  bool bit[MOST];
  struct Range {
    bool* bits;
    int count;
    template <typename N> void operator=(const N& number) {
      for (int i = 0; i < count; ++i)
        bits[i] = int64_t(number) >> i & 1;
    }
    operator uint64_t() const {
      uint64_t value = 0;
      for (int i = 0; i < count; ++i)
        value |= uint64_t(bits[i]) << i;
      return value;
    }
  };
  Wide(int) { memset(bit, 0, sizeof bit); }
  Range range(int high, int low) { return {bit + low, high - low + 1}; }
  uint64_t range(int high, int low) const { return const_cast<Wide*>(this)->range(high, low); }
};

// Fills an item with numbers whose bits differ, and writes the same bits side by side.
struct Filler {
  Wide expected{0};
  int at = 0;
  uint64_t state = 1;
  template <typename Number> void operator()(Number& number) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t value = ITEM_BITS<Number> == 64 ? state : state >> 1 >> (63 - ITEM_BITS<Number>);
    number = value;
    for (int i = 0; i < ITEM_BITS<Number>; ++i)
      expected.bit[at++] = value >> i & 1;
  }
};

template <typename T> void check(const char* name) {
  T item;
  Filler filler;
  each_number(filler, item);
  const Wide raw = packed<Wide>(item);
  const Wide again = packed<Wide>(unpacked<T>(raw));
  if (filler.at != ITEM_BITS<T> || memcmp(&raw, &filler.expected, sizeof raw) != 0 ||
      memcmp(&raw, &again, sizeof raw) != 0) {
    fprintf(stderr, "%s: %d bits visited of %d\n", name, filler.at, ITEM_BITS<T>);
    ++failures;
  }
  printf("%s %d\n", name, ITEM_BITS<T>);
}

} // namespace

int main() {
  check<fields_t>("commands");
  check<packed_pass_t>("passes");
  check<demand_t>("demands");
  check<beat_t>("weights");
  check<sums_t>("sums");
  check<score_row_t>("scores");
  check<lane_job_t>("lane_jobs");
  check<lane_row_t>("lane_rows");
  check<moments_t>("moments");
  check<maxima_t>("maxima");
  check<scale_t>("scales");
  check<frame_check_t>("checks");
  return failures == 0 ? 0 : 1;
}
