// Generated from rust/hardware/src/design/lane_items.rs; do not edit.
// clang-format off
#pragma once

#include "packing.hpp"
#include "types.hpp"

// A command, as the lanes need it.
struct lane_job_t {
  // Code of the command.
  u<2> operation;
  // Results are added to the residual.
  u<1> residual;
  // Results are logits.
  u<1> logits;
  // Frame slot of the residual.
  u<1> frame;
  // Codes go through the activation's table.
  u<1> activation;
  // Moments go to the norm.
  u<1> moments;
  // The array gets a credit at the end of each tile of tokens.
  u<1> post_tiles;
  // The array gets a credit at the command's end.
  u<1> post;
  // Tokens.
  u<11> tokens;
  // Zero point of the codes.
  s<8> zero_point;
  // First token whose residual changes.
  u<11> skip;
  // Columns of a tile in the destination.
  u<13> stride;
  // 2^20 / tokens, rounded.
  u<21> reciprocal;
  // Words of a Fill, or parts of angles.
  u<20> words;
};
template <> struct item_bits<lane_job_t> {
  static constexpr int value = 93;
};
template <typename F> void each_number(F& f, lane_job_t& item) {
#pragma HLS INLINE
  f(item.operation);
  f(item.residual);
  f(item.logits);
  f(item.frame);
  f(item.activation);
  f(item.moments);
  f(item.post_tiles);
  f(item.post);
  f(item.tokens);
  f(item.zero_point);
  f(item.skip);
  f(item.stride);
  f(item.reciprocal);
  f(item.words);
}

// The parameters of a row.
struct row_t {
  // Bias.
  s<27> bias;
  // Mantissa.
  s<16> mult;
  // Shift.
  u<5> shift;
  // Destination of the row.
  u<3> destination;
  // Column in the destination.
  u<16> column;
  // For a value: bank of the column; of a rotated row: pair of the head.
  u<8> value_bank;
  // For a value: block of words of the column; of a rotated row: address of its angle.
  u<16> value_block;
};
template <> struct item_bits<row_t> {
  static constexpr int value = 91;
};
template <typename F> void each_number(F& f, row_t& item) {
#pragma HLS INLINE
  f(item.bias);
  f(item.mult);
  f(item.shift);
  f(item.destination);
  f(item.column);
  f(item.value_bank);
  f(item.value_block);
}

// A row of a tile of tokens, with its addresses.
struct lane_row_t {
  row_t row;
  // Place of the row in its tile of row pairs.
  u<9> index;
  // Tile of tokens.
  u<11> tile;
  // First token of the tile.
  u<11> first;
  // Tokens of the tile.
  u<11> tokens;
  // Address of the tile's column 0 in the destination.
  u<24> address;
  // For a key: bank of the first token.
  u<8> key_bank;
  // For a key: address of the first token's column 0.
  u<24> key_address;
  // For a value: bank of the first token in column 0.
  u<8> tile_value_bank;
  // The row is rotated.
  u<1> rotates;
  // The command has one tile of tokens.
  u<1> one_tile;
  // First row of the tile.
  u<1> begin_tile;
  // Last row of the tile.
  u<1> end_tile;
  // First tile of row pairs.
  u<1> first_rows;
  // Last tile of row pairs.
  u<1> last_rows;
  // Last row of the command.
  u<1> last;
};
template <> struct item_bits<lane_row_t> {
  static constexpr int value = ITEM_BITS<row_t> + 113;
};
template <typename F> void each_number(F& f, lane_row_t& item) {
#pragma HLS INLINE
  each_number(f, item.row);
  f(item.index);
  f(item.tile);
  f(item.first);
  f(item.tokens);
  f(item.address);
  f(item.key_bank);
  f(item.key_address);
  f(item.tile_value_bank);
  f(item.rotates);
  f(item.one_tile);
  f(item.begin_tile);
  f(item.end_tile);
  f(item.first_rows);
  f(item.last_rows);
  f(item.last);
}
