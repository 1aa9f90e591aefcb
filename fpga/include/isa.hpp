// Generated from rust/accelerator/src/isa.rs; do not edit.
// clang-format off
#pragma once

#include "types.hpp"

namespace isa {

constexpr unsigned ABI = 9;
constexpr unsigned MAGIC = 0x51564954;
constexpr unsigned HEAD_BITS = 3;
constexpr unsigned COMMAND_WORDS = 8;
constexpr unsigned FIELD_WORDS = 4;
constexpr unsigned CHECK_WORD = 7;
constexpr unsigned CHECK_POLYNOMIAL = 0xedb88320;
constexpr unsigned PORT_BYTES = 16;
constexpr unsigned MAX_PORTS = 4;
constexpr unsigned ROW_BYTES = 16;
constexpr unsigned MAX_EMBED = 1024;
constexpr unsigned MAX_TOKENS = 1024;
constexpr unsigned TRANSFERS_AHEAD = 4;
constexpr unsigned PLAN_JOBS = 32;
constexpr unsigned DRAIN_JOBS = 32;
constexpr unsigned NORM_JOBS = 16;

// Units.
namespace unit {
constexpr unsigned LOAD = 0;
constexpr unsigned ARRAY = 1;
constexpr unsigned DRAIN = 2;
constexpr unsigned NORM = 3;
constexpr unsigned SOFTMAX = 4;
} // namespace unit

// Depths of the queues between kernels; the configuration sets those that are 0 here.
namespace depth {
constexpr unsigned load_commands = 32;
constexpr unsigned array_commands = 32;
constexpr unsigned drain_commands = 32;
constexpr unsigned norm_commands = 16;
constexpr unsigned softmax_commands = 32;
constexpr unsigned score_commands = 16;
constexpr unsigned passes = 16;
constexpr unsigned demands = 16;
constexpr unsigned weights = 64;
constexpr unsigned rows = 64;
constexpr unsigned gains = 256;
constexpr unsigned lane_jobs = 32;
constexpr unsigned lane_rows = 16;
constexpr unsigned attention_tiles = 32;
constexpr unsigned lane_beats = 16;
constexpr unsigned sums = 32;
constexpr unsigned scores = 16;
constexpr unsigned moments = 0;
constexpr unsigned maxima = 0;
constexpr unsigned scales = 0;
constexpr unsigned logits = 64;
constexpr unsigned checks = 4;
constexpr unsigned load_to_array = 2;
constexpr unsigned array_to_load = 2;
constexpr unsigned drain_to_array = 1024;
constexpr unsigned norm_to_array = 2048;
constexpr unsigned softmax_to_array = 4;
} // namespace depth

// Words of an output's trailer.
namespace trailer {
constexpr unsigned NONCE = 0;
constexpr unsigned COUNT = 1;
constexpr unsigned CHECK = 3;
constexpr unsigned STATUS = 2;
} // namespace trailer

// Constants of the array's timing (docs/array-timing.md).
namespace timing {
constexpr unsigned TOKENS_A_STAGE = 2;
constexpr unsigned DESCRIPTORS = 8;
constexpr unsigned PREPARE = 3;
constexpr unsigned DESCRIPTOR_TO_START = 5;
constexpr unsigned ROOM_TO_START = 4;
constexpr unsigned FILLED_TO_START = 4;
constexpr unsigned ISSUE_INTERVAL = 2;
constexpr unsigned OPERAND_DEPTH = 7;
constexpr unsigned SLICE_TO_FIFO = 6;
constexpr unsigned DSP48E1_SUM = 1;
constexpr unsigned FIFO_TO_ITEM = 2;
constexpr unsigned ITEM_TO_SUMS = 7;
constexpr unsigned ITEM_TO_SCORES = 5;
constexpr unsigned OUTPUTS = 16;
constexpr unsigned FIFO_DEPTH = 64;
constexpr unsigned DEMAND_TO_FILL = 3;
constexpr unsigned END_TO_FREED = 5;
} // namespace timing

// Cycles of the kernels' loops and of memory that every model assumes.
namespace declared {
constexpr unsigned SCORE_DEPTH = 8;
constexpr unsigned EXPONENTIAL_DEPTH = 56;
constexpr unsigned NORM_DEPTH = 96;
constexpr unsigned NORM_ROOT = 64;
constexpr unsigned COMMAND_GAP = 16;
constexpr unsigned FILL_DEPTH = 2;
constexpr unsigned PLAN_INTERVAL = 8;
constexpr unsigned LOOP_GAP = 32;
constexpr unsigned FETCH_INTERVAL = 2;
constexpr unsigned MEMORY_LATENCY = 64;
constexpr unsigned BURST_BEATS = 64;
constexpr unsigned SECTION_BEATS = 256;
constexpr unsigned OPEN_BURSTS = 8;
constexpr unsigned TICKS = 16384;
} // namespace declared

// Offsets of the registers.
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
constexpr unsigned load_CTRL = 0x20000;
constexpr unsigned load_ARENA0 = 0x20010;
constexpr unsigned load_ARENA1 = 0x2001c;
constexpr unsigned load_ARENA2 = 0x20028;
constexpr unsigned load_ARENA3 = 0x20034;
constexpr unsigned load_SEED = 0x20040;
constexpr unsigned reset = 0x30000;
constexpr unsigned counters_IDENTITY = 0x40000;
constexpr unsigned counters_CONTROL = 0x40004;
constexpr unsigned counters_CYCLES = 0x40008;
} // namespace reg

// The block of counters: its identity, the bit that lets them run, the first unit's counters.
namespace counters {
constexpr unsigned IDENTITY = 0x51434e54;
constexpr unsigned RUN = 1;
constexpr unsigned FIRST = 0x40010;
constexpr unsigned UNIT_BYTES = 16;
} // namespace counters

// Units whose work is counted.
namespace counted {
constexpr unsigned FETCH = 0;
constexpr unsigned LOAD = 1;
constexpr unsigned PLAN = 2;
constexpr unsigned ARRAY = 3;
constexpr unsigned SCORES = 4;
constexpr unsigned DRAIN = 5;
constexpr unsigned NORM = 6;
constexpr unsigned SOFTMAX = 7;
constexpr unsigned STORE = 8;
} // namespace counted

// Counters of a unit.
namespace counter {
constexpr unsigned COMMANDS = 0;
constexpr unsigned BUSY = 1;
constexpr unsigned BLOCKED = 2;
constexpr unsigned STARVED = 3;
} // namespace counter

// Bits of a kernel's register AP_CTRL.
namespace ap_ctrl {
constexpr unsigned START = 1;
constexpr unsigned DONE = 2;
constexpr unsigned IDLE = 4;
} // namespace ap_ctrl

// Receiver of a transfer's beats (`Load`).
namespace target {
constexpr unsigned WEIGHTS = 0;
constexpr unsigned PARAMETERS = 1;
constexpr unsigned GAINS = 2;
constexpr unsigned TABLE = 3;
constexpr unsigned RESIDUAL = 4;
constexpr unsigned PATCHES = 5;
} // namespace target

// Memory that a `Gemm` reads its activations from.
namespace source {
constexpr unsigned INPUT = 0;
constexpr unsigned NORMED = 1;
constexpr unsigned QUERY = 2;
constexpr unsigned HIDDEN = 3;
} // namespace source

// Kind of results that the drain computes from a `Gemm`'s sums (`Rows`).
namespace kind {
constexpr unsigned CODES = 0;
constexpr unsigned RESIDUAL = 1;
constexpr unsigned LOGITS = 2;
} // namespace kind

// Destination of a row's results, in the row's parameters.
namespace destination {
constexpr unsigned QUERY = 0;
constexpr unsigned KEY = 1;
constexpr unsigned VALUE = 2;
constexpr unsigned HIDDEN = 3;
constexpr unsigned RESIDUAL = 4;
constexpr unsigned LOGIT = 5;
} // namespace destination

// Pooling of a `LayerNorm`.
namespace pooling {
constexpr unsigned NONE = 0;
constexpr unsigned BEFORE = 1;
constexpr unsigned AFTER = 2;
constexpr unsigned UNNORMALISED = 3;
} // namespace pooling

// Reads beats from memory, and one more with their check, and sends the beats to a unit.
struct Load {
  static constexpr unsigned UNIT = unit::LOAD;
  static constexpr unsigned CODE = 0;
  // Receiver of the beats. See `target`.
  u<3> target = 0;
  // `address` counts from the frame's input instead of the arena's begin.
  u<1> input = 0;
  // Waits for a credit of the array first: `input` may be written.
  u<1> wait_array = 0;
  // At the end gives the array a credit.
  u<1> post_array = 0;
  // Frame slot whose report includes the check.
  u<1> frame = 0;
  // First patches of a frame: their check's key is the nonce, as for all its patches.
  u<1> begins = 0;
  // Beats, without the check.
  u<24> beats = 0;
  // First beat.
  u<32> address = 0;
  // Seed of the arena. After a different seed, all frames are wrong until a reset.
  u<32> key = 0;
  static Load decode(const fields_t& command) {
    Load fields;
    fields.target = u<3>(bits(command, 0, 6, 3));
    fields.input = u<1>(bits(command, 0, 9, 1));
    fields.wait_array = u<1>(bits(command, 0, 10, 1));
    fields.post_array = u<1>(bits(command, 0, 11, 1));
    fields.frame = u<1>(bits(command, 0, 12, 1));
    fields.begins = u<1>(bits(command, 0, 13, 1));
    fields.beats = u<24>(bits(command, 1, 0, 24));
    fields.address = u<32>(bits(command, 2, 0, 32));
    fields.key = u<32>(bits(command, 3, 0, 32));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 3, uint64_t(int64_t(target)));
    put_bits(command, 0, 9, 1, uint64_t(int64_t(input)));
    put_bits(command, 0, 10, 1, uint64_t(int64_t(wait_array)));
    put_bits(command, 0, 11, 1, uint64_t(int64_t(post_array)));
    put_bits(command, 0, 12, 1, uint64_t(int64_t(frame)));
    put_bits(command, 0, 13, 1, uint64_t(int64_t(begins)));
    put_bits(command, 1, 0, 24, uint64_t(int64_t(beats)));
    put_bits(command, 2, 0, 32, uint64_t(int64_t(address)));
    put_bits(command, 3, 0, 32, uint64_t(int64_t(key)));
    return command;
  }
};

// Ends a frame's transfers: reports whether their number, keys and checks were right.
struct LoadEnd {
  static constexpr unsigned UNIT = unit::LOAD;
  static constexpr unsigned CODE = 1;
  // Frame slot.
  u<1> frame = 0;
  // Transfers of the arena since the slot's last `LoadEnd`, modulo 2^16.
  u<16> transfers = 0;
  static LoadEnd decode(const fields_t& command) {
    LoadEnd fields;
    fields.frame = u<1>(bits(command, 0, 6, 1));
    fields.transfers = u<16>(bits(command, 0, 7, 16));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 1, uint64_t(int64_t(frame)));
    put_bits(command, 0, 7, 16, uint64_t(int64_t(transfers)));
    return command;
  }
};

// Multiplies activations by weights.
struct Gemm {
  static constexpr unsigned UNIT = unit::ARRAY;
  static constexpr unsigned CODE = 0;
  // Memory of the activations. See `source`.
  u<2> source = 0;
  // Frame slot of `normed`.
  u<1> frame = 0;
  // Waits for a credit of load first.
  u<1> wait_load = 0;
  // Takes a credit of the norm before each tile of tokens of the first tile of row pairs.
  u<1> wait_norm = 0;
  // Takes a credit of the drain before each tile of tokens of the first tile of row pairs.
  u<1> wait_drain_tiles = 0;
  // Number of credits of the drain to wait for first.
  u<8> wait_drain = 0;
  // At the end gives load a credit: `input` may be written.
  u<1> post_load = 0;
  // Tokens, from the first of `tile` on.
  u<11> tokens = 0;
  // Columns K. A tile of tokens takes ceil(K/C) words.
  u<13> columns = 0;
  // Columns of a pass; more than one pass: a multiple of C.
  u<13> pass = 0;
  // 4-bit rows.
  u<16> rows4 = 0;
  // 8-bit rows.
  u<16> rows8 = 0;
  // Tiles of row pairs.
  u<16> row_tiles = 0;
  // First tile of tokens. `input`, `query` and `hidden` hold no earlier tiles.
  u<11> tile = 0;
  static Gemm decode(const fields_t& command) {
    Gemm fields;
    fields.source = u<2>(bits(command, 0, 6, 2));
    fields.frame = u<1>(bits(command, 0, 8, 1));
    fields.wait_load = u<1>(bits(command, 0, 9, 1));
    fields.wait_norm = u<1>(bits(command, 0, 10, 1));
    fields.wait_drain_tiles = u<1>(bits(command, 0, 11, 1));
    fields.wait_drain = u<8>(bits(command, 0, 12, 8));
    fields.post_load = u<1>(bits(command, 0, 20, 1));
    fields.tokens = u<11>(bits(command, 0, 21, 11));
    fields.columns = u<13>(bits(command, 1, 0, 13));
    fields.pass = u<13>(bits(command, 1, 13, 13));
    fields.rows4 = u<16>(bits(command, 2, 0, 16));
    fields.rows8 = u<16>(bits(command, 2, 16, 16));
    fields.row_tiles = u<16>(bits(command, 3, 0, 16));
    fields.tile = u<11>(bits(command, 3, 16, 11));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 2, uint64_t(int64_t(source)));
    put_bits(command, 0, 8, 1, uint64_t(int64_t(frame)));
    put_bits(command, 0, 9, 1, uint64_t(int64_t(wait_load)));
    put_bits(command, 0, 10, 1, uint64_t(int64_t(wait_norm)));
    put_bits(command, 0, 11, 1, uint64_t(int64_t(wait_drain_tiles)));
    put_bits(command, 0, 12, 8, uint64_t(int64_t(wait_drain)));
    put_bits(command, 0, 20, 1, uint64_t(int64_t(post_load)));
    put_bits(command, 0, 21, 11, uint64_t(int64_t(tokens)));
    put_bits(command, 1, 0, 13, uint64_t(int64_t(columns)));
    put_bits(command, 1, 13, 13, uint64_t(int64_t(pass)));
    put_bits(command, 2, 0, 16, uint64_t(int64_t(rows4)));
    put_bits(command, 2, 16, 16, uint64_t(int64_t(rows8)));
    put_bits(command, 3, 0, 16, uint64_t(int64_t(row_tiles)));
    put_bits(command, 3, 16, 11, uint64_t(int64_t(tile)));
    return command;
  }
};

// Computes the scores of an attention tile: queries by keys.
struct Scores {
  static constexpr unsigned UNIT = unit::ARRAY;
  static constexpr unsigned CODE = 1;
  // Score buffer.
  u<1> parity = 0;
  // Number of credits of the drain to wait for first.
  u<8> wait_drain = 0;
  // Tile of tokens.
  u<11> tile = 0;
  // Tokens in the tile.
  u<11> tokens = 0;
  // Keys N.
  u<11> keys = 0;
  // Dimensions of the head.
  u<8> columns = 0;
  // First dimension of the head, a multiple of C.
  u<13> base = 0;
  // Dimensions of all heads, each padded to a multiple of C.
  u<13> stride = 0;
  static Scores decode(const fields_t& command) {
    Scores fields;
    fields.parity = u<1>(bits(command, 0, 6, 1));
    fields.wait_drain = u<8>(bits(command, 0, 7, 8));
    fields.tile = u<11>(bits(command, 0, 15, 11));
    fields.tokens = u<11>(bits(command, 1, 0, 11));
    fields.keys = u<11>(bits(command, 1, 11, 11));
    fields.columns = u<8>(bits(command, 1, 22, 8));
    fields.base = u<13>(bits(command, 2, 0, 13));
    fields.stride = u<13>(bits(command, 2, 13, 13));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 1, uint64_t(int64_t(parity)));
    put_bits(command, 0, 7, 8, uint64_t(int64_t(wait_drain)));
    put_bits(command, 0, 15, 11, uint64_t(int64_t(tile)));
    put_bits(command, 1, 0, 11, uint64_t(int64_t(tokens)));
    put_bits(command, 1, 11, 11, uint64_t(int64_t(keys)));
    put_bits(command, 1, 22, 8, uint64_t(int64_t(columns)));
    put_bits(command, 2, 0, 13, uint64_t(int64_t(base)));
    put_bits(command, 2, 13, 13, uint64_t(int64_t(stride)));
    return command;
  }
};

// Computes the context of an attention tile: probabilities by values.
struct Context {
  static constexpr unsigned UNIT = unit::ARRAY;
  static constexpr unsigned CODE = 2;
  // Probability buffer.
  u<1> parity = 0;
  // Number of credits of the drain to wait for first.
  u<8> wait_drain = 0;
  // Tile of tokens.
  u<11> tile = 0;
  // Tokens in the tile.
  u<11> tokens = 0;
  // Keys N.
  u<11> keys = 0;
  // Dimensions of the head.
  u<8> rows = 0;
  // First dimension of the head div B'; it is a multiple of C.
  u<13> block = 0;
  // The same mod B'.
  u<8> bank = 0;
  // Columns of a pass; more than one pass: a multiple of C.
  u<11> pass = 0;
  // Words of a pass mod B'.
  u<8> turn = 0;
  static Context decode(const fields_t& command) {
    Context fields;
    fields.parity = u<1>(bits(command, 0, 6, 1));
    fields.wait_drain = u<8>(bits(command, 0, 7, 8));
    fields.tile = u<11>(bits(command, 0, 15, 11));
    fields.tokens = u<11>(bits(command, 1, 0, 11));
    fields.keys = u<11>(bits(command, 1, 11, 11));
    fields.rows = u<8>(bits(command, 1, 22, 8));
    fields.block = u<13>(bits(command, 2, 0, 13));
    fields.bank = u<8>(bits(command, 2, 13, 8));
    fields.pass = u<11>(bits(command, 2, 21, 11));
    fields.turn = u<8>(bits(command, 3, 0, 8));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 1, uint64_t(int64_t(parity)));
    put_bits(command, 0, 7, 8, uint64_t(int64_t(wait_drain)));
    put_bits(command, 0, 15, 11, uint64_t(int64_t(tile)));
    put_bits(command, 1, 0, 11, uint64_t(int64_t(tokens)));
    put_bits(command, 1, 11, 11, uint64_t(int64_t(keys)));
    put_bits(command, 1, 22, 8, uint64_t(int64_t(rows)));
    put_bits(command, 2, 0, 13, uint64_t(int64_t(block)));
    put_bits(command, 2, 13, 8, uint64_t(int64_t(bank)));
    put_bits(command, 2, 21, 11, uint64_t(int64_t(pass)));
    put_bits(command, 3, 0, 8, uint64_t(int64_t(turn)));
    return command;
  }
};

// Requantizes and stores the rows of a `Gemm`.
struct Rows {
  static constexpr unsigned UNIT = unit::DRAIN;
  static constexpr unsigned CODE = 0;
  // Kind of the results. See `kind`.
  u<2> kind = 0;
  // Frame slot of the residual.
  u<1> frame = 0;
  // Codes go through the activation's table.
  u<1> activation = 0;
  // Sends the moments to the norm.
  u<1> moments = 0;
  // Gives the array a credit after each tile of tokens in the last tile of row pairs.
  u<1> post_tiles = 0;
  // At the end gives the array a credit.
  u<1> post = 0;
  // Tokens, from the first of `tile` on.
  u<11> tokens = 0;
  // Zero point of codes.
  s<8> zero_point = 0;
  // First token, of these, whose residual changes.
  u<11> skip = 0;
  // Columns from one tile of tokens to the next in the destination.
  u<13> stride = 0;
  // Pairs of rows of a head, if rows are rotated: all but those for `logit`.
  u<7> pairs = 0;
  // 4-bit rows.
  u<16> rows4 = 0;
  // 8-bit rows.
  u<16> rows8 = 0;
  // round(2^20/N), for the means of value columns.
  u<21> reciprocal = 0;
  // First tile of tokens. Memories of codes hold no earlier tiles.
  u<11> tile = 0;
  static Rows decode(const fields_t& command) {
    Rows fields;
    fields.kind = u<2>(bits(command, 0, 6, 2));
    fields.frame = u<1>(bits(command, 0, 8, 1));
    fields.activation = u<1>(bits(command, 0, 9, 1));
    fields.moments = u<1>(bits(command, 0, 10, 1));
    fields.post_tiles = u<1>(bits(command, 0, 11, 1));
    fields.post = u<1>(bits(command, 0, 12, 1));
    fields.tokens = u<11>(bits(command, 0, 13, 11));
    fields.zero_point = s<8>(bits(command, 0, 24, 8));
    fields.skip = u<11>(bits(command, 1, 0, 11));
    fields.stride = u<13>(bits(command, 1, 11, 13));
    fields.pairs = u<7>(bits(command, 1, 24, 7));
    fields.rows4 = u<16>(bits(command, 2, 0, 16));
    fields.rows8 = u<16>(bits(command, 2, 16, 16));
    fields.reciprocal = u<21>(bits(command, 3, 0, 21));
    fields.tile = u<11>(bits(command, 3, 21, 11));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 2, uint64_t(int64_t(kind)));
    put_bits(command, 0, 8, 1, uint64_t(int64_t(frame)));
    put_bits(command, 0, 9, 1, uint64_t(int64_t(activation)));
    put_bits(command, 0, 10, 1, uint64_t(int64_t(moments)));
    put_bits(command, 0, 11, 1, uint64_t(int64_t(post_tiles)));
    put_bits(command, 0, 12, 1, uint64_t(int64_t(post)));
    put_bits(command, 0, 13, 11, uint64_t(int64_t(tokens)));
    put_bits(command, 0, 24, 8, uint64_t(int64_t(zero_point)));
    put_bits(command, 1, 0, 11, uint64_t(int64_t(skip)));
    put_bits(command, 1, 11, 13, uint64_t(int64_t(stride)));
    put_bits(command, 1, 24, 7, uint64_t(int64_t(pairs)));
    put_bits(command, 2, 0, 16, uint64_t(int64_t(rows4)));
    put_bits(command, 2, 16, 16, uint64_t(int64_t(rows8)));
    put_bits(command, 3, 0, 21, uint64_t(int64_t(reciprocal)));
    put_bits(command, 3, 21, 11, uint64_t(int64_t(tile)));
    return command;
  }
};

// Requantizes the rows of a `Context` and stores them in `query`.
struct Attend {
  static constexpr unsigned UNIT = unit::DRAIN;
  static constexpr unsigned CODE = 1;
  // At the end gives the array a credit.
  u<1> post = 0;
  // Tile of tokens.
  u<11> tile = 0;
  // Tokens in the tile.
  u<11> tokens = 0;
  // Dimensions of the head.
  u<8> rows = 0;
  // First dimension of the head, a multiple of C.
  u<13> base = 0;
  // Dimensions of all heads, each padded to a multiple of C.
  u<13> stride = 0;
  static Attend decode(const fields_t& command) {
    Attend fields;
    fields.post = u<1>(bits(command, 0, 6, 1));
    fields.tile = u<11>(bits(command, 0, 7, 11));
    fields.tokens = u<11>(bits(command, 0, 18, 11));
    fields.rows = u<8>(bits(command, 1, 0, 8));
    fields.base = u<13>(bits(command, 1, 8, 13));
    fields.stride = u<13>(bits(command, 2, 0, 13));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 1, uint64_t(int64_t(post)));
    put_bits(command, 0, 7, 11, uint64_t(int64_t(tile)));
    put_bits(command, 0, 18, 11, uint64_t(int64_t(tokens)));
    put_bits(command, 1, 0, 8, uint64_t(int64_t(rows)));
    put_bits(command, 1, 8, 13, uint64_t(int64_t(base)));
    put_bits(command, 2, 0, 13, uint64_t(int64_t(stride)));
    return command;
  }
};

// Fills the residual from memory.
struct Fill {
  static constexpr unsigned UNIT = unit::DRAIN;
  static constexpr unsigned CODE = 2;
  // Frame slot.
  u<1> frame = 0;
  // Words.
  u<20> words = 0;
  static Fill decode(const fields_t& command) {
    Fill fields;
    fields.frame = u<1>(bits(command, 0, 6, 1));
    fields.words = u<20>(bits(command, 0, 7, 20));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 1, uint64_t(int64_t(frame)));
    put_bits(command, 0, 7, 20, uint64_t(int64_t(words)));
    return command;
  }
};

// Loads the table of an activation, or angles, from memory.
struct Table {
  static constexpr unsigned UNIT = unit::DRAIN;
  static constexpr unsigned CODE = 3;
  // Parts of angles, 16 bytes each; 0: the table of an activation.
  u<20> words = 0;
  static Table decode(const fields_t& command) {
    Table fields;
    fields.words = u<20>(bits(command, 0, 6, 20));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 20, uint64_t(int64_t(words)));
    return command;
  }
};

// Normalises the residual; before the head, also pools.
struct LayerNorm {
  static constexpr unsigned UNIT = unit::NORM;
  static constexpr unsigned CODE = 0;
  // Frame slot.
  u<1> frame = 0;
  // Pooling. See `pooling`.
  u<2> pool = 0;
  // Output shift f.
  u<4> frac = 0;
  // Tokens, from token 0 on.
  u<11> tokens = 0;
  // First token of the mean.
  u<11> first = 0;
  // Embedding size D.
  u<11> embed = 0;
  // Epsilon E of the integer model.
  u<50> epsilon = 0;
  static LayerNorm decode(const fields_t& command) {
    LayerNorm fields;
    fields.frame = u<1>(bits(command, 0, 6, 1));
    fields.pool = u<2>(bits(command, 0, 7, 2));
    fields.frac = u<4>(bits(command, 0, 9, 4));
    fields.tokens = u<11>(bits(command, 0, 13, 11));
    fields.first = u<11>(bits(command, 1, 0, 11));
    fields.embed = u<11>(bits(command, 1, 11, 11));
    fields.epsilon = u<50>(bits(command, 2, 0, 50));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 1, uint64_t(int64_t(frame)));
    put_bits(command, 0, 7, 2, uint64_t(int64_t(pool)));
    put_bits(command, 0, 9, 4, uint64_t(int64_t(frac)));
    put_bits(command, 0, 13, 11, uint64_t(int64_t(tokens)));
    put_bits(command, 1, 0, 11, uint64_t(int64_t(first)));
    put_bits(command, 1, 11, 11, uint64_t(int64_t(embed)));
    put_bits(command, 2, 0, 50, uint64_t(int64_t(epsilon)));
    return command;
  }
};

// Computes the probabilities of an attention tile.
struct Softmax {
  static constexpr unsigned UNIT = unit::SOFTMAX;
  static constexpr unsigned CODE = 0;
  // Score and probability buffer.
  u<1> parity = 0;
  // Tokens.
  u<11> tokens = 0;
  // Keys N.
  u<11> keys = 0;
  // Shift po of the scale.
  u<5> out_shift = 0;
  // Mantissa Mo of the scale.
  u<15> out_mult = 0;
  // Multiplier of score differences.
  u<25> mult = 0;
  // Largest score difference; larger ones are clamped.
  u<31> cap = 0;
  static Softmax decode(const fields_t& command) {
    Softmax fields;
    fields.parity = u<1>(bits(command, 0, 6, 1));
    fields.tokens = u<11>(bits(command, 0, 7, 11));
    fields.keys = u<11>(bits(command, 0, 18, 11));
    fields.out_shift = u<5>(bits(command, 1, 0, 5));
    fields.out_mult = u<15>(bits(command, 1, 5, 15));
    fields.mult = u<25>(bits(command, 2, 0, 25));
    fields.cap = u<31>(bits(command, 3, 0, 31));
    return fields;
  }
  command_t encode() const {
    command_t command{};
    command.word[0] = UNIT | CODE << HEAD_BITS;
    put_bits(command, 0, 6, 1, uint64_t(int64_t(parity)));
    put_bits(command, 0, 7, 11, uint64_t(int64_t(tokens)));
    put_bits(command, 0, 18, 11, uint64_t(int64_t(keys)));
    put_bits(command, 1, 0, 5, uint64_t(int64_t(out_shift)));
    put_bits(command, 1, 5, 15, uint64_t(int64_t(out_mult)));
    put_bits(command, 2, 0, 25, uint64_t(int64_t(mult)));
    put_bits(command, 3, 0, 31, uint64_t(int64_t(cap)));
    return command;
  }
};

// The parameters of a row.
struct RowParameters {
  // Bias.
  s<32> bias = 0;
  // Mantissa m.
  s<16> mult = 0;
  // Shift.
  u<8> shift = 0;
  // Code of the `destination`.
  u<8> destination = 0;
  // Column c in the destination.
  u<16> column = 0;
  // c div B', for a value.
  u<16> value_block = 0;
  // c mod B', for a value; pair of rows of the head, for a row that is rotated.
  u<8> value_bank = 0;
  static RowParameters decode(const uint8_t* bytes) {
#pragma HLS INLINE
    RowParameters row;
    row.bias = s<32>(little_endian(bytes + 0, 4));
    row.mult = s<16>(little_endian(bytes + 4, 2));
    row.shift = u<8>(little_endian(bytes + 6, 1));
    row.destination = u<8>(little_endian(bytes + 7, 1));
    row.column = u<16>(little_endian(bytes + 8, 2));
    row.value_block = u<16>(little_endian(bytes + 10, 2));
    row.value_bank = u<8>(little_endian(bytes + 12, 1));
    return row;
  }
};

// Memories of a pass's activations.
namespace activations {
constexpr unsigned INPUT = 0;
constexpr unsigned NORMED = 1;
constexpr unsigned QUERY = 2;
constexpr unsigned HIDDEN = 3;
constexpr unsigned PROBABILITY = 4;
} // namespace activations

// Memories of a pass's row operands.
namespace operand {
constexpr unsigned WEIGHTS = 0;
constexpr unsigned KEY = 1;
constexpr unsigned VALUE = 2;
} // namespace operand

// A pass as an item of the queue `passes`, least significant word first.
struct packed_pass_t {
  uint64_t word[2];
};

// A pass of the array.
struct Pass {
  // Memory of the activations.
  u<3> source = 0;
  // Memory of the row operands.
  u<2> operand = 0;
  // Frame slot of `normed`, or parity of `probability`.
  u<1> bank = 0;
  // Words of C columns.
  u<13> words = 0;
  // Columns in the last word, 1 to C.
  u<5> tail = 0;
  // Word of the first columns' activations.
  u<22> address = 0;
  // Word of the first columns' row operands; `value`: of the first dimension's block.
  u<22> row_address = 0;
  // `key`: bank of the first key, a multiple of P; `value`: first dimension mod banks.
  u<8> row_bank = 0;
  // `value`: bank of the first dimension in the first word.
  u<8> rotation = 0;
  // `value`: words between the blocks of dimensions, ceil(N/C).
  u<11> next_block = 0;
  // Row pairs.
  u<8> pairs = 0;
  // 4-bit pairs among them; they come first.
  u<8> pairs4 = 0;
  // The last 4-bit pair has one row.
  u<1> single = 0;
  // Groups of L tokens.
  u<8> groups = 0;
  // Activations are unsigned.
  u<1> unsigned_a = 0;
  // The sums are scores: all tokens of a pair leave at once.
  u<1> scores = 0;
  // First pass of its tile.
  u<1> first = 0;
  // Last pass of its tile.
  u<1> last = 0;
  // At its end the half of the weights is free.
  u<1> frees = 0;
  // At its end load gets a credit: `input` may be written.
  u<1> post_load = 0;
  static Pass decode(const packed_pass_t& packed) {
    Pass pass;
    pass.source = u<3>(packed.word[0] >> 0 & 0x7);
    pass.operand = u<2>(packed.word[0] >> 3 & 0x3);
    pass.bank = u<1>(packed.word[0] >> 5 & 0x1);
    pass.words = u<13>(packed.word[0] >> 6 & 0x1fff);
    pass.tail = u<5>(packed.word[0] >> 19 & 0x1f);
    pass.address = u<22>(packed.word[0] >> 24 & 0x3fffff);
    pass.row_address = u<22>((packed.word[0] >> 46 & 0x3ffff) | (packed.word[1] & 0xf) << 18);
    pass.row_bank = u<8>(packed.word[1] >> 4 & 0xff);
    pass.rotation = u<8>(packed.word[1] >> 12 & 0xff);
    pass.next_block = u<11>(packed.word[1] >> 20 & 0x7ff);
    pass.pairs = u<8>(packed.word[1] >> 31 & 0xff);
    pass.pairs4 = u<8>(packed.word[1] >> 39 & 0xff);
    pass.single = u<1>(packed.word[1] >> 47 & 0x1);
    pass.groups = u<8>(packed.word[1] >> 48 & 0xff);
    pass.unsigned_a = u<1>(packed.word[1] >> 56 & 0x1);
    pass.scores = u<1>(packed.word[1] >> 57 & 0x1);
    pass.first = u<1>(packed.word[1] >> 58 & 0x1);
    pass.last = u<1>(packed.word[1] >> 59 & 0x1);
    pass.frees = u<1>(packed.word[1] >> 60 & 0x1);
    pass.post_load = u<1>(packed.word[1] >> 61 & 0x1);
    return pass;
  }
  packed_pass_t encode() const {
    packed_pass_t packed{};
    packed.word[0] |= uint64_t(source) << 0;
    packed.word[0] |= uint64_t(operand) << 3;
    packed.word[0] |= uint64_t(bank) << 5;
    packed.word[0] |= uint64_t(words) << 6;
    packed.word[0] |= uint64_t(tail) << 19;
    packed.word[0] |= uint64_t(address) << 24;
    packed.word[0] |= uint64_t(row_address) << 46;
    packed.word[1] |= uint64_t(row_address) >> 18;
    packed.word[1] |= uint64_t(row_bank) << 4;
    packed.word[1] |= uint64_t(rotation) << 12;
    packed.word[1] |= uint64_t(next_block) << 20;
    packed.word[1] |= uint64_t(pairs) << 31;
    packed.word[1] |= uint64_t(pairs4) << 39;
    packed.word[1] |= uint64_t(single) << 47;
    packed.word[1] |= uint64_t(groups) << 48;
    packed.word[1] |= uint64_t(unsigned_a) << 56;
    packed.word[1] |= uint64_t(scores) << 57;
    packed.word[1] |= uint64_t(first) << 58;
    packed.word[1] |= uint64_t(last) << 59;
    packed.word[1] |= uint64_t(frees) << 60;
    packed.word[1] |= uint64_t(post_load) << 61;
    return packed;
  }
};

} // namespace isa
