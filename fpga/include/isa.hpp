// Generated from rust/accelerator/src/isa.rs; do not edit.
// clang-format off
#pragma once

#include "types.hpp"

namespace isa {

constexpr unsigned ABI = 2;
constexpr unsigned MAGIC = 0x51564954;
constexpr unsigned HEAD_BITS = 3;
constexpr unsigned CHECK_WORD = 7;
constexpr unsigned PORT_BYTES = 16;
constexpr unsigned MAX_PORTS = 4;
constexpr unsigned ROW_BYTES = 16;
constexpr unsigned TRANSFERS_AHEAD = 4;

enum Unit : unsigned { LOAD = 0, ARRAY = 1, DRAIN = 2, NORM = 3, SOFTMAX = 4, };

// Depths of the queues between kernels; 0 is set by the configuration.
namespace depth {
constexpr unsigned load_commands = 64;
constexpr unsigned array_commands = 64;
constexpr unsigned drain_commands = 64;
constexpr unsigned norm_commands = 16;
constexpr unsigned softmax_commands = 64;
constexpr unsigned weights = 64;
constexpr unsigned rows = 64;
constexpr unsigned gains = 256;
constexpr unsigned sums = 32;
constexpr unsigned moments = 0;
constexpr unsigned maxima = 512;
constexpr unsigned scales = 1024;
constexpr unsigned logits = 64;
constexpr unsigned checks = 4;
constexpr unsigned load_to_array = 2;
constexpr unsigned array_to_load = 2;
constexpr unsigned drain_to_array = 1024;
constexpr unsigned norm_to_array = 2048;
constexpr unsigned softmax_to_array = 4;
} // namespace depth

namespace reg {
constexpr unsigned fetch_CTRL = 0x00000;
constexpr unsigned fetch_GIE = 0x00004;
constexpr unsigned fetch_IER = 0x00008;
constexpr unsigned fetch_ISR = 0x0000c;
constexpr unsigned fetch_COMMANDS = 0x00010;
constexpr unsigned fetch_COUNT = 0x0001c;
constexpr unsigned fetch_INPUT = 0x00024;
constexpr unsigned fetch_SEED = 0x0002c;
constexpr unsigned fetch_MAGIC = 0x00040;
constexpr unsigned fetch_ABI = 0x00050;
constexpr unsigned fetch_HASH_LOW = 0x00060;
constexpr unsigned fetch_HASH_HIGH = 0x00070;
constexpr unsigned fetch_ERROR = 0x00080;
constexpr unsigned store_CTRL = 0x10000;
constexpr unsigned store_GIE = 0x10004;
constexpr unsigned store_IER = 0x10008;
constexpr unsigned store_ISR = 0x1000c;
constexpr unsigned store_OUTPUT = 0x10010;
constexpr unsigned store_COUNT = 0x1001c;
constexpr unsigned store_TAG = 0x10024;
constexpr unsigned load_CTRL = 0x20000;
constexpr unsigned load_ARENA0 = 0x20010;
constexpr unsigned load_ARENA1 = 0x2001c;
constexpr unsigned load_ARENA2 = 0x20028;
constexpr unsigned load_ARENA3 = 0x20034;
constexpr unsigned reset = 0x30000;
} // namespace reg

// Moves beats of memory, and one for the check, to a unit.
struct Load {
  static constexpr unsigned UNIT = 0;
  static constexpr unsigned CODE = 0;
  u<3> target; // Where they go: 0 weights, 1 row parameters, 2 gains, 3 GELU table, 4 residual, 5 patches.
  u<1> input; // 1: `address` counts from the frame's input, 0: from the arena.
  u<1> wait_array; // 1: take a token of the array first (the memory of patches is free).
  u<1> post_array; // 1: give the array a token afterwards.
  u<1> frame; // Frame slot that a failed check is charged to.
  u<24> beats; // Beats, without the check.
  u<32> address; // First beat.
  explicit Load(const command_t& c) {
    target = u<3>(bits(c, 0, 6, 3));
    input = u<1>(bits(c, 0, 9, 1));
    wait_array = u<1>(bits(c, 0, 10, 1));
    post_array = u<1>(bits(c, 0, 11, 1));
    frame = u<1>(bits(c, 0, 12, 1));
    beats = u<24>(bits(c, 1, 0, 24));
    address = u<32>(bits(c, 2, 0, 32));
  }
};

// Ends a frame's transfers: tells the store whether all were sound.
struct LoadEnd {
  static constexpr unsigned UNIT = 0;
  static constexpr unsigned CODE = 1;
  u<1> frame; // Frame slot.
  explicit LoadEnd(const command_t& c) {
    frame = u<1>(bits(c, 0, 6, 1));
  }
};

// Multiplies activations by weights.
struct Gemm {
  static constexpr unsigned UNIT = 1;
  static constexpr unsigned CODE = 0;
  u<2> source; // Activations: 0 `input`, 1 `normed`, 2 `query`, 3 `hidden`.
  u<1> frame; // Frame slot of `normed`.
  u<1> wait_load; // 1: take a token of load first.
  u<1> wait_norm; // 1: take a norm token before each tile of tokens of the first tile of row pairs.
  u<1> wait_drain_tiles; // 1: the same with the drain's.
  u<8> wait_drain; // Drain tokens to take first.
  u<1> post_load; // 1: give load a token at the end.
  u<11> tokens; // Tokens, from 0 on.
  u<13> columns; // Columns K; words between two tiles of tokens.
  u<13> pass; // Columns of a pass.
  u<16> rows4; // 4-bit rows.
  u<16> rows8; // 8-bit rows.
  explicit Gemm(const command_t& c) {
    source = u<2>(bits(c, 0, 6, 2));
    frame = u<1>(bits(c, 0, 8, 1));
    wait_load = u<1>(bits(c, 0, 9, 1));
    wait_norm = u<1>(bits(c, 0, 10, 1));
    wait_drain_tiles = u<1>(bits(c, 0, 11, 1));
    wait_drain = u<8>(bits(c, 0, 12, 8));
    post_load = u<1>(bits(c, 0, 20, 1));
    tokens = u<11>(bits(c, 0, 21, 11));
    columns = u<13>(bits(c, 1, 0, 13));
    pass = u<13>(bits(c, 1, 13, 13));
    rows4 = u<16>(bits(c, 2, 0, 16));
    rows8 = u<16>(bits(c, 2, 16, 16));
  }
};

// Scores of a unit: queries by keys.
struct Scores {
  static constexpr unsigned UNIT = 1;
  static constexpr unsigned CODE = 1;
  u<1> parity; // Score buffer.
  u<8> wait_drain; // Drain tokens to take first.
  u<11> tile; // Tile of tokens.
  u<11> tokens; // Tokens in the tile.
  u<11> keys; // Keys N.
  u<8> columns; // Dimensions of the head.
  u<13> base; // First dimension of the head.
  u<13> stride; // Dimensions of all heads I.
  explicit Scores(const command_t& c) {
    parity = u<1>(bits(c, 0, 6, 1));
    wait_drain = u<8>(bits(c, 0, 7, 8));
    tile = u<11>(bits(c, 0, 15, 11));
    tokens = u<11>(bits(c, 1, 0, 11));
    keys = u<11>(bits(c, 1, 11, 11));
    columns = u<8>(bits(c, 1, 22, 8));
    base = u<13>(bits(c, 2, 0, 13));
    stride = u<13>(bits(c, 2, 13, 13));
  }
};

// Context of a unit: probabilities by values.
struct Context {
  static constexpr unsigned UNIT = 1;
  static constexpr unsigned CODE = 2;
  u<1> parity; // Probability buffer.
  u<8> wait_drain; // Drain tokens to take first.
  u<11> tile; // Tile of tokens.
  u<11> tokens; // Tokens in the tile.
  u<11> keys; // Keys N.
  u<8> rows; // Dimensions of the head.
  u<13> base; // First dimension of the head.
  u<11> pass; // Columns of a pass.
  explicit Context(const command_t& c) {
    parity = u<1>(bits(c, 0, 6, 1));
    wait_drain = u<8>(bits(c, 0, 7, 8));
    tile = u<11>(bits(c, 0, 15, 11));
    tokens = u<11>(bits(c, 1, 0, 11));
    keys = u<11>(bits(c, 1, 11, 11));
    rows = u<8>(bits(c, 1, 22, 8));
    base = u<13>(bits(c, 2, 0, 13));
    pass = u<11>(bits(c, 2, 13, 11));
  }
};

// Stores a `Gemm`'s rows.
struct Rows {
  static constexpr unsigned UNIT = 2;
  static constexpr unsigned CODE = 0;
  u<2> kind; // 0 codes, 1 residual, 2 logits.
  u<1> frame; // Frame slot of the residual.
  u<1> table; // 1: codes go through GELU's table.
  u<1> moments; // 1: send the moments.
  u<1> post_tiles; // 1: a token to the array for each tile of tokens of the last tile of row pairs.
  u<1> post; // 1: a token to the array at the end.
  u<11> tokens; // Tokens, from 0 on.
  s<8> zero_point; // Zero point of codes.
  u<11> skip; // Tokens below it keep their residual.
  u<13> stride; // Words between two tiles of tokens in the destination.
  u<16> rows4; // 4-bit rows.
  u<16> rows8; // 8-bit rows.
  u<21> reciprocal; // round(2^20/N), for the means of value columns.
  explicit Rows(const command_t& c) {
    kind = u<2>(bits(c, 0, 6, 2));
    frame = u<1>(bits(c, 0, 8, 1));
    table = u<1>(bits(c, 0, 9, 1));
    moments = u<1>(bits(c, 0, 10, 1));
    post_tiles = u<1>(bits(c, 0, 11, 1));
    post = u<1>(bits(c, 0, 12, 1));
    tokens = u<11>(bits(c, 0, 13, 11));
    zero_point = s<8>(bits(c, 0, 24, 8));
    skip = u<11>(bits(c, 1, 0, 11));
    stride = u<13>(bits(c, 1, 11, 13));
    rows4 = u<16>(bits(c, 2, 0, 16));
    rows8 = u<16>(bits(c, 2, 16, 16));
    reciprocal = u<21>(bits(c, 3, 0, 21));
  }
};

// Stores a `Context`'s rows in `query`.
struct Attend {
  static constexpr unsigned UNIT = 2;
  static constexpr unsigned CODE = 1;
  u<1> post; // 1: a token to the array at the end.
  u<11> tile; // Tile of tokens.
  u<11> tokens; // Tokens in the tile.
  u<8> rows; // Dimensions of the head.
  u<13> base; // First dimension of the head.
  u<13> stride; // Dimensions of all heads I.
  explicit Attend(const command_t& c) {
    post = u<1>(bits(c, 0, 6, 1));
    tile = u<11>(bits(c, 0, 7, 11));
    tokens = u<11>(bits(c, 0, 18, 11));
    rows = u<8>(bits(c, 1, 0, 8));
    base = u<13>(bits(c, 1, 8, 13));
    stride = u<13>(bits(c, 2, 0, 13));
  }
};

// Fills the residual from memory.
struct Fill {
  static constexpr unsigned UNIT = 2;
  static constexpr unsigned CODE = 2;
  u<1> frame; // Frame slot.
  u<20> words; // Words.
  explicit Fill(const command_t& c) {
    frame = u<1>(bits(c, 0, 6, 1));
    words = u<20>(bits(c, 0, 7, 20));
  }
};

// Takes GELU's table from memory.
struct Table {
  static constexpr unsigned UNIT = 2;
  static constexpr unsigned CODE = 3;
  explicit Table(const command_t&) {}
};

// `LayerNorm`, with pooling for the head.
struct LayerNorm {
  static constexpr unsigned UNIT = 3;
  static constexpr unsigned CODE = 0;
  u<1> frame; // Frame slot.
  u<2> pool; // 0 none, 1 mean before, 2 mean after.
  u<4> frac; // Output shift f.
  u<11> tokens; // Tokens, from 0 on.
  u<11> first; // First token of the mean.
  u<11> embed; // Embedding size D.
  u<50> epsilon; // E.
  explicit LayerNorm(const command_t& c) {
    frame = u<1>(bits(c, 0, 6, 1));
    pool = u<2>(bits(c, 0, 7, 2));
    frac = u<4>(bits(c, 0, 9, 4));
    tokens = u<11>(bits(c, 0, 13, 11));
    first = u<11>(bits(c, 1, 0, 11));
    embed = u<11>(bits(c, 1, 11, 11));
    epsilon = u<50>(bits(c, 2, 0, 50));
  }
};

// Probabilities of a unit.
struct Softmax {
  static constexpr unsigned UNIT = 4;
  static constexpr unsigned CODE = 0;
  u<1> parity; // Score and probability buffer.
  u<11> tokens; // Tokens.
  u<11> keys; // Keys N.
  u<5> out_shift; // po.
  u<15> out_mult; // Mo.
  u<25> mult; // Multiplier of logits.
  u<31> cap; // Largest difference of logits.
  explicit Softmax(const command_t& c) {
    parity = u<1>(bits(c, 0, 6, 1));
    tokens = u<11>(bits(c, 0, 7, 11));
    keys = u<11>(bits(c, 0, 18, 11));
    out_shift = u<5>(bits(c, 1, 0, 5));
    out_mult = u<15>(bits(c, 1, 5, 15));
    mult = u<25>(bits(c, 2, 0, 25));
    cap = u<31>(bits(c, 3, 0, 31));
  }
};

} // namespace isa
