// The arithmetic of docs/integer-model.md in int64, for the testbenches. Written from the document,
// apart from the sources under test.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace reference {

inline int64_t rshift(int64_t x, int64_t s) {
  return s == 0 ? x : (x + (int64_t(1) << (s - 1))) >> s;
}
inline int64_t sat16(int64_t x) { return std::clamp<int64_t>(x, -32768, 32767); }
inline int64_t clamp8(int64_t x) { return std::clamp<int64_t>(x, -128, 127); }
inline int64_t requant16(int64_t acc, int64_t p, int64_t m) {
  return rshift(sat16(rshift(16 * acc, p)) * m, 15);
}

// Computes floor(n / d) for d > 0.
inline int64_t floor_div(int64_t n, int64_t d) { return n >= 0 ? n / d : -((-n + d - 1) / d); }

inline int64_t floor_root(uint64_t x) {
  uint64_t low = 0, high = uint64_t(1) << 26;
  while (low < high) {
    const uint64_t middle = (low + high + 1) / 2;
    if (middle * middle <= x)
      low = middle;
    else
      high = middle - 1;
  }
  return int64_t(low);
}

// Returns the codes of a token's values, normalised or not; a gain and a bias for each channel.
inline std::vector<int64_t> scaled(const std::vector<int64_t>& n,
                                   const std::vector<std::array<int64_t, 2>>& gains, int64_t frac) {
  std::vector<int64_t> codes;
  for (size_t i = 0; i < n.size(); ++i)
    codes.push_back(clamp8(sat16(rshift(n[i] * gains[i][0], 15) + gains[i][1]) >> frac));
  return codes;
}

// Returns the codes of a token; a gain and a bias for each channel.
inline std::vector<int64_t> layer_norm(const std::vector<int64_t>& x,
                                       const std::vector<std::array<int64_t, 2>>& gains,
                                       int64_t epsilon, int64_t frac) {
  const int64_t d = int64_t(x.size());
  int64_t sum = 0, squares = 0;
  for (const int64_t v : x) {
    sum += v;
    squares += v * v;
  }
  const int64_t variance = d * squares - sum * sum + epsilon;
  int64_t bits = 0;
  while (variance >> bits != 0)
    ++bits;
  const int64_t b = (bits + 1) / 2;
  const int64_t root = floor_root(uint64_t(variance) << (2 * (26 - b)));
  const int64_t inverse = std::min<int64_t>(32767, (int64_t(1) << 40) / root);
  std::vector<int64_t> normalised;
  for (const int64_t v : x) {
    const int64_t c = d * v - sum;
    const int64_t t = b >= 10 ? rshift(c, b - 10) : c * (int64_t(1) << (10 - b));
    normalised.push_back(rshift(t * inverse, 15));
  }
  return scaled(normalised, gains, frac);
}

} // namespace reference
