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

// A tile of row pairs.
struct row_tile_t {
  unsigned pairs;
  unsigned pairs4; // pairs of 4-bit rows
  bool single;     // the last 4-bit pair has one row
  unsigned rows;
};

constexpr bool operator==(const row_tile_t& a, const row_tile_t& b) {
  return a.pairs == b.pairs && a.pairs4 == b.pairs4 && a.single == b.single && a.rows == b.rows;
}

// Row pairs of a matrix that are in no tile yet.
struct row_tiles_t {
  unsigned pairs4, pairs8;
  unsigned all4, all8; // of the matrix
  unsigned ahead;      // how far tiles of 4-bit rows are ahead of tiles of 8-bit rows
  bool odd;            // the last 4-bit pair has one row
};

// Returns all of a matrix's `pairs` row pairs.
constexpr row_tiles_t row_tiles(unsigned rows4, unsigned pairs) {
#pragma HLS INLINE
  const unsigned all4 = ceil_div(rows4, 2);
  return {all4, pairs - all4, all4, pairs - all4, 0, (rows4 & 1) == 1};
}

// Takes the next tile: whole tiles of 4-bit rows and of 8-bit rows take turns by their numbers of
// row pairs; what is left of both comes last.
constexpr row_tile_t next_tile(row_tiles_t& left) {
#pragma HLS INLINE
  const bool whole4 = left.pairs4 >= config::PAIRS;
  const bool whole8 = left.pairs8 >= config::PAIRS;
  const bool eight_bit = whole8 && (!whole4 || left.ahead >= left.all4);
  row_tile_t tile{};
  tile.pairs4 = eight_bit ? 0 : least(config::PAIRS, left.pairs4);
  const unsigned pairs8 = least(config::PAIRS - tile.pairs4, left.pairs8);
  tile.pairs = tile.pairs4 + pairs8;
  tile.single = left.odd && tile.pairs4 > 0 && tile.pairs4 == left.pairs4;
  tile.rows = tile.pairs + tile.pairs4 - (tile.single ? 1 : 0);
  if (!eight_bit)
    left.ahead += left.all8;
  else
    left.ahead = left.ahead > left.all4 ? left.ahead - left.all4 : 0;
  left.pairs4 -= tile.pairs4;
  left.pairs8 -= pairs8;
  return tile;
}

// Returns tile `tile` of a matrix.
constexpr row_tile_t row_tile(unsigned rows4, unsigned pairs, unsigned tile) {
  row_tiles_t left = row_tiles(rows4, pairs);
  row_tile_t found = next_tile(left);
  for (unsigned i = 0; i < tile; ++i)
    found = next_tile(left);
  return found;
}

// Returns the number of tokens in tile `tile`.
constexpr unsigned tile_tokens(unsigned tokens, unsigned tile) {
#pragma HLS INLINE
  return least(config::TOKENS, tokens - tile * config::TOKENS);
}
