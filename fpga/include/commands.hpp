// Reads commands, and divides their products into tiles as `Tiling` of rust/hardware does.
#pragma once

#include "isa.hpp"

constexpr unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

inline unsigned unit_of(const command_t& command) {
#pragma HLS INLINE
  return unsigned(bits(command, 0, 0, isa::HEAD_BITS));
}

// Returns the number of a command among the operations of its unit.
inline unsigned operation(const command_t& command) {
#pragma HLS INLINE
  return unsigned(bits(command, 0, isa::HEAD_BITS, isa::HEAD_BITS));
}

// Returns the row pairs of `Gemm` or `Rows`: two 4-bit rows or one 8-bit row each. The last 4-bit
// row may be alone.
template <typename Fields> unsigned row_pairs(const Fields& fields) {
#pragma HLS INLINE
  return ceil_div(fields.rows4, 2) + unsigned(fields.rows8);
}

// A tile of row pairs. Pairs of 4-bit rows come first.
struct row_tile_t {
  unsigned pairs;
  unsigned pairs4; // pairs of 4-bit rows
  bool single;     // the last of these is one row
  unsigned rows;
};

// Returns the tile that begins with row pair `first` of `pairs`.
inline row_tile_t row_tile(unsigned rows4, unsigned pairs, unsigned first) {
#pragma HLS INLINE
  const unsigned all4 = ceil_div(rows4, 2);
  row_tile_t tile;
  tile.pairs = least(config::PAIRS, pairs - first);
  tile.pairs4 = all4 > first ? least(tile.pairs, all4 - first) : 0;
  tile.single = tile.pairs4 > 0 && first + tile.pairs4 == all4 && (rows4 & 1) == 1;
  tile.rows = tile.pairs + tile.pairs4 - (tile.single ? 1 : 0);
  return tile;
}

// Returns the tokens of a tile of tokens.
inline unsigned tile_tokens(unsigned tokens, unsigned tile) {
#pragma HLS INLINE
  return least(config::TOKENS, tokens - tile * config::TOKENS);
}
