// Divides a product into the array's tiles, by the same rule as `Tiling` of rust/hardware.
// config.hpp includes this file after its constants and asserts that both agree for its
// configuration.
#pragma once

constexpr unsigned ceil_div(unsigned a, unsigned b) { return (a + b - 1) / b; }

// Returns ceil(count / OF) for a count of at most MOST * OF, by comparisons instead of a division.
template <unsigned OF, unsigned MOST> constexpr unsigned parts_of(unsigned count) {
#pragma HLS INLINE
  unsigned parts = 0;
  for (unsigned i = 0; i < MOST; ++i) {
#pragma HLS UNROLL
    parts += count > i * OF ? 1 : 0;
  }
  return parts;
}

constexpr unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

// Returns the number of row pairs of a matrix. A pair is two 4-bit rows or one 8-bit row; an odd
// last 4-bit row is a pair alone.
constexpr unsigned row_pairs(unsigned rows4, unsigned rows8) {
#pragma HLS INLINE
  return ceil_div(rows4, 2) + rows8;
}

// A tile of row pairs. Pairs of 4-bit rows come first.
struct row_tile_t {
  unsigned pairs;
  unsigned pairs4; // pairs of 4-bit rows
  bool single;     // the last 4-bit pair has one row
  unsigned rows;
};

constexpr bool operator==(const row_tile_t& a, const row_tile_t& b) {
  return a.pairs == b.pairs && a.pairs4 == b.pairs4 && a.single == b.single && a.rows == b.rows;
}

// Returns the tile that begins with row pair `first` of `pairs`.
constexpr row_tile_t row_tile(unsigned rows4, unsigned pairs, unsigned first) {
#pragma HLS INLINE
  const unsigned all4 = ceil_div(rows4, 2);
  row_tile_t tile{};
  tile.pairs = least(config::PAIRS, pairs - first);
  tile.pairs4 = all4 > first ? least(tile.pairs, all4 - first) : 0;
  tile.single = tile.pairs4 > 0 && first + tile.pairs4 == all4 && (rows4 & 1) == 1;
  tile.rows = tile.pairs + tile.pairs4 - (tile.single ? 1 : 0);
  return tile;
}

// Returns the number of tokens in tile `tile`.
constexpr unsigned tile_tokens(unsigned tokens, unsigned tile) {
#pragma HLS INLINE
  return least(config::TOKENS, tokens - tile * config::TOKENS);
}
