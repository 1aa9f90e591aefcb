// The array: weights, issue, the systolic array, unpack_lanes ("The array" in docs/accelerator.md).
#include "delay.hpp"
#include "kernels.hpp"

namespace {

using config::LANES;
using config::PAIRS;
using config::SHIFT;
using config::TOKENS;

// Kinds of a tile pass.
constexpr unsigned GEMM = isa::Gemm::CODE, SCORES = isa::Scores::CODE, CONTEXT = isa::Context::CODE;

// The weights of a Gemm: columns, and tiles of row pairs.
struct demand_t {
  u<13> columns;
  u<16> tiles;
};

// A column of a tile of row pairs: a byte for each position.
using column_t = vec<u<8>, PAIRS>;
using DoubleBuffer = Memory<column_t, 2, config::WEIGHT_WORDS>;

// A tile pass: columns that add up in the slices before the chain takes the sums.
struct tile_t {
  u<2> kind;
  u<10> pairs;
  u<10> pairs4; // the first of them: two 4-bit rows each
  u<1> single;  // the last of these is one row
  u<10> groups; // of the tile's tokens
  u<1> first;   // pass of the tile
  u<1> last;
  u<1> parity; // score buffer
  u<11> key;   // the first pair's
  u<1> last_keys;
};

// The operands that enter the array in a cycle.
struct issued_t {
  vec<s<9>, TOKENS> activation;
  column_t operand;
  u<1> begin; // of a tile pass
  u<1> end;
  tile_t tile;
};

// A row pair whose sums leave the array.
struct pair_t {
  u<2> kind;
  u<1> four_bit;
  u<1> two; // rows
  u<10> groups;
  u<1> first;
  u<1> last;
  u<10> index; // in its tile
  u<1> closes; // is the tile's last
  u<1> parity;
  u<11> key;
  u<1> last_key;
};

struct product_t {
  vec<s<48>, TOKENS> sum;
  pair_t pair;
};

// Returns operands that add nothing to any sum.
issued_t bubble() {
#pragma HLS INLINE
  issued_t item;
  for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
    item.activation[t] = 0;
  }
  for (unsigned r = 0; r < PAIRS; ++r) {
#pragma HLS UNROLL
    item.operand[r] = 0;
  }
  item.begin = 0;
  item.end = 0;
  item.tile = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  return item;
}

constexpr unsigned JOBS = 64;   // commands that wait for issue while a later Gemm's weights load
constexpr unsigned DEMANDS = 8; // Gemms among them
constexpr unsigned ISSUED = 16;
constexpr unsigned PARTIAL_DISTANCE =
    4; // intervals between a partial sum's write and its next read, at least

// A key's scores.
struct scored_t {
  vec<s<24>, TOKENS> score;
  u<1> parity;
  u<11> key;
  u<1> last;
};

using Issued = Stream<issued_t, ISSUED>;
using Products = Stream<product_t, 2>;
using Scored = Stream<scored_t, 2>;
using Largest = Stream<vec<s<24>, TOKENS>, 2>;

// Hands commands on. The loader of the weights sees a Gemm long before it runs.
void dispatch(Commands<isa::depth::array_commands>& commands, Stream<command_t, JOBS>& jobs,
              Stream<demand_t, DEMANDS>& demands) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("array.dispatch");
    const command_t command = commands.read();
    if (operation(command) == GEMM) {
      const isa::Gemm gemm = isa::Gemm::decode(command);
      demands.write({gemm.columns, ceil_div(row_pairs(gemm), PAIRS)});
    }
    jobs.write(command);
  }
}

// Loads weights: turns beats into columns through a reservoir of bytes. In a cycle at most one beat
// enters and one column leaves.
void load_weights(Stream<demand_t, DEMANDS>& demands, Beats<isa::depth::weights>& beats,
                  DoubleBuffer& halves, Stream<credit_t, 2>& filled, Stream<credit_t, 2>& freed) {
  constexpr unsigned BEAT = sizeof(beat_t);
  unsigned half = 0;
  unsigned free_halves = 2;
  for (volatile bool running = true; running;) {
    const demand_t demand = demands.read();
    for (unsigned tile = 0; tile < unsigned(demand.tiles); ++tile) {
      if (free_halves > 0)
        --free_halves;
      else
        freed.read();
      uint8_t reservoir[PAIRS + BEAT];
#pragma HLS ARRAY_PARTITION variable = reservoir complete
      unsigned held = 0;
      for (unsigned column = 0; column < unsigned(demand.columns);) {
#pragma HLS PIPELINE II = 1
        interval("array.weights");
        if (held < PAIRS) {
          const beat_t beat = beats.read();
          for (unsigned i = 0; i < PAIRS + BEAT; ++i) {
#pragma HLS UNROLL
            if (i >= held && i < held + BEAT)
              reservoir[i] = beat.byte[i - held];
          }
          held += BEAT;
        }
        if (held >= PAIRS) {
          column_t bytes;
          for (unsigned i = 0; i < PAIRS; ++i) {
#pragma HLS UNROLL
            bytes[i] = reservoir[i];
          }
          halves[half][column] = bytes;
          for (unsigned i = 0; i < BEAT; ++i) {
#pragma HLS UNROLL
            reservoir[i] = reservoir[i + PAIRS];
          }
          held -= PAIRS;
          ++column;
        }
      }
      filled.write(1);
      half ^= 1;
    }
  }
}

// Reads the activations of a column from a memory of LANES_ tokens a bank.
template <typename Port, unsigned BANKS, unsigned LANES_>
void read_activations(Port port, unsigned bank, unsigned address, vec<s<9>, TOKENS>& activation) {
#pragma HLS INLINE
  for (unsigned group = 0; group < BANKS; ++group) {
#pragma HLS UNROLL
    const auto word = port[bank + group][address];
    for (unsigned lane = 0; lane < LANES_; ++lane) {
#pragma HLS UNROLL
      if (group * LANES_ + lane < TOKENS)
        activation[group * LANES_ + lane] = word[lane];
    }
  }
}

// A tile pass for issue. With `idle` its columns add nothing.
struct pass_t {
  u<1> idle;
  u<17> columns;
  u<13> column; // first
  u<2> source;
  u<1> bank;         // frame slot of `normed`
  u<24> address;     // of the first column's activations
  u<24> row_address; // of the keys or values
  u<8> row_bank;     // of the first key; of the first value in column 0
  u<8> rotation;     // bank of the first value in the first column
  u<11> keys;
  u<1> frees;     // half of the weights
  u<1> post_load; // `input` is free
  tile_t tile;
};

using Passes = Stream<pass_t, 4>;

// Goes through a command's tile passes: tiles of row pairs, tiles of tokens, passes. Takes a credit
// before it sends on what the credit guards, so that no address can be ahead of its credit.
void plan(Stream<command_t, JOBS>& jobs, Stream<credit_t, 2>& filled,
          Credits<isa::depth::load_to_array>& load_to_array,
          Credits<isa::depth::drain_to_array>& drain_to_array,
          Credits<isa::depth::norm_to_array>& norm_to_array,
          Credits<isa::depth::softmax_to_array>& softmax_to_array, Passes& passes) {
  constexpr unsigned KEY_BANKS = config::KEY_BANKS;
  constexpr unsigned VALUE_BANKS = config::VALUE_BANKS;
  unsigned owed = 0; // cycles that the chain takes for the last tile pass
  for (volatile bool running = true; running;) {
    const command_t command = jobs.read();
    const isa::Gemm gemm = isa::Gemm::decode(command);
    const isa::Scores scores = isa::Scores::decode(command);
    const isa::Context context = isa::Context::decode(command);
    const unsigned kind = operation(command);
    const bool is_gemm = kind == GEMM;
    const bool is_scores = kind == SCORES;
    unsigned tokens, columns, most, row_count, rows4 = 0, wait_drain, bank, start = 0;
    if (is_gemm) {
      tokens = gemm.tokens;
      columns = gemm.columns;
      most = gemm.pass;
      row_count = row_pairs(gemm);
      rows4 = gemm.rows4;
      wait_drain = gemm.wait_drain;
      bank = gemm.frame;
    } else if (is_scores) {
      tokens = scores.tokens;
      columns = scores.columns;
      most = scores.columns;
      row_count = scores.keys;
      wait_drain = scores.wait_drain;
      bank = scores.parity;
      start = unsigned(scores.tile) * unsigned(scores.stride) + unsigned(scores.base);
    } else {
      tokens = context.tokens;
      columns = context.keys;
      most = context.pass;
      row_count = context.rows;
      wait_drain = context.wait_drain;
      bank = context.parity;
    }
    const unsigned tiles = ceil_div(tokens, TOKENS);
    const unsigned last_groups = ceil_div(tile_tokens(tokens, tiles - 1), LANES);
    bool waits = true; // for the command's credits
    unsigned key_bank = 0;
    unsigned key_address = scores.base;
    unsigned value_bank = unsigned(context.base) % VALUE_BANKS;
    // The rotation of a pass. It is not used after the last pass.
    const unsigned turn = most % VALUE_BANKS;
    unsigned value_address = unsigned(context.base) / VALUE_BANKS * unsigned(context.keys);

    for (unsigned pair = 0; pair < row_count; pair += PAIRS) {
      const row_tile_t rows = row_tile(rows4, row_count, pair);
      unsigned address = start;
      for (unsigned tile = 0; tile < tiles; ++tile) {
        const unsigned groups = tile + 1 == tiles ? last_groups : GROUPS;
        unsigned rotation = value_bank;
        unsigned pass_columns;
        for (unsigned column = 0; column < columns; column += pass_columns) {
          interval("array.plan");
          pass_columns = least(most, columns - column);
          pass_t pass;
          pass.tile = bubble().tile;
          pass.idle = 1;
          pass.columns = owed > pass_columns ? owed - pass_columns : 0;
          if (pass.columns > 0)
            passes.write(pass);

          if (waits) {
            if (is_gemm && gemm.wait_load == 1)
              load_to_array.read();
            if (kind == CONTEXT)
              softmax_to_array.read();
            for (unsigned i = 0; i < wait_drain; ++i) {
              interval("array.wait");
              drain_to_array.read();
            }
            waits = false;
          }
          if (is_gemm && column == 0) {
            if (pair == 0 && gemm.wait_norm == 1)
              norm_to_array.read();
            if (pair == 0 && gemm.wait_drain_tiles == 1)
              drain_to_array.read();
            if (tile == 0)
              filled.read();
          }

          const bool last = column + pass_columns == columns;
          pass.idle = 0;
          pass.columns = pass_columns;
          pass.column = column;
          pass.source = gemm.source;
          pass.bank = bank;
          pass.address = address;
          pass.row_address = is_scores ? key_address + column : value_address + column;
          pass.row_bank = is_scores ? key_bank : value_bank;
          pass.rotation = rotation;
          pass.keys = context.keys;
          pass.frees = is_gemm && last && tile + 1 == tiles;
          pass.post_load = is_gemm && gemm.post_load == 1 && last && tile + 1 == tiles &&
                           pair + PAIRS >= row_count;
          pass.tile.kind = kind;
          pass.tile.pairs = rows.pairs;
          pass.tile.pairs4 = rows.pairs4;
          pass.tile.single = rows.single;
          pass.tile.groups = groups;
          pass.tile.first = column == 0;
          pass.tile.last = last;
          pass.tile.parity = bank;
          pass.tile.key = pair;
          pass.tile.last_keys = pair + PAIRS >= row_count;
          passes.write(pass);
          owed = is_scores ? rows.pairs : rows.rows * groups;
          address += pass_columns;
          rotation += turn;
          if (rotation >= VALUE_BANKS)
            rotation -= VALUE_BANKS;
        }
      }
      key_bank += PAIRS;
      if (key_bank == KEY_BANKS) {
        key_bank = 0;
        key_address += scores.stride;
      }
      value_bank += PAIRS;
      if (value_bank >= VALUE_BANKS) {
        value_bank -= VALUE_BANKS;
        value_address += context.keys;
      }
    }
  }
}

// Reads the operands of a column a cycle, tile pass after tile pass without a gap.
void issue(Passes& passes, DoubleBuffer& halves, Stream<credit_t, 2>& freed,
           Credits<isa::depth::array_to_load>& array_to_load, Read::Input patches,
           Read::Normed normed, Read::Query query, Read::Key key, Read::Value value,
           Read::Probability probability, Read::Hidden hidden, Issued& issued) {
  constexpr unsigned KEY_BANKS = config::KEY_BANKS;
  constexpr unsigned VALUE_BANKS = config::VALUE_BANKS;
  array_to_load.write(1); // `input` is free at first
  unsigned half = 0;
  pass_t pass{};
  unsigned column = 0; // of the pass
  unsigned columns = 0;
  unsigned rotation = 0;
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("array.issue");
    if (column == columns) {
      if (!poll(passes, pass))
        continue;
      column = 0;
      columns = pass.columns;
      rotation = pass.rotation;
    }
    issued_t item = bubble();
    if (pass.idle == 0) {
      item.begin = column == 0;
      item.end = column + 1 == columns;
      item.tile = pass.tile;
      const unsigned address = unsigned(pass.address) + column;
      const unsigned row_address = unsigned(pass.row_address) + column;
      // Each memory is read in one place, since it has one port.
      if (pass.tile.kind == CONTEXT)
        read_activations<Read::Probability, EXP_GROUPS, config::EXP_LANES>(
            probability, unsigned(pass.bank) * EXP_GROUPS, address, item.activation);
      else if (pass.tile.kind == SCORES || pass.source == isa::source::QUERY)
        read_activations<Read::Query, GROUPS, LANES>(query, 0, address, item.activation);
      else if (pass.source == isa::source::INPUT)
        read_activations<Read::Input, GROUPS, LANES>(patches, 0, address, item.activation);
      else if (pass.source == isa::source::NORMED)
        read_activations<Read::Normed, NORM_GROUPS, config::NORM_LANES>(
            normed, unsigned(pass.bank) * NORM_GROUPS, address, item.activation);
      else
        read_activations<Read::Hidden, GROUPS, LANES>(hidden, 0, address, item.activation);
      if (pass.tile.kind == GEMM) {
        item.operand = halves[half][unsigned(pass.column) + column];
      } else if (pass.tile.kind == SCORES) {
        u<8> word[KEY_BANKS];
#pragma HLS ARRAY_PARTITION variable = word complete
        for (unsigned bank = 0; bank < KEY_BANKS; ++bank) {
#pragma HLS UNROLL
          word[bank] = key[bank][row_address];
        }
        for (unsigned i = 0; i < PAIRS; ++i) {
#pragma HLS UNROLL
          item.operand[PAIRS - 1 - i] = word[unsigned(pass.row_bank) + i];
        }
      } else {
        u<8> word[VALUE_BANKS];
#pragma HLS ARRAY_PARTITION variable = word complete
        for (unsigned bank = 0; bank < VALUE_BANKS; ++bank) {
#pragma HLS UNROLL
          const unsigned i = bank >= rotation ? bank - rotation : bank + VALUE_BANKS - rotation;
          const bool next_block = unsigned(pass.row_bank) + i >= VALUE_BANKS;
          word[bank] = 0;
          if (i < unsigned(pass.tile.pairs))
            word[bank] = value[bank][row_address + (next_block ? unsigned(pass.keys) : 0)];
        }
        for (unsigned i = 0; i < PAIRS; ++i) {
#pragma HLS UNROLL
          const unsigned bank = rotation + i;
          item.operand[PAIRS - 1 - i] = word[bank >= VALUE_BANKS ? bank - VALUE_BANKS : bank];
        }
      }
      if (item.end == 1 && pass.frees == 1) {
        freed.write(1);
        half ^= 1;
      }
      if (item.end == 1 && pass.post_load == 1)
        array_to_load.write(1);
    }
    issued.write(item);
    ++column;
    ++rotation;
    if (rotation == VALUE_BANKS)
      rotation = 0;
  }
}

// The operand of a position, with marks for the slices of its row pair.
struct row_t {
  u<8> byte;
  u<1> four_bit;
  u<1> begin;
  u<1> end;
};

struct control_t {
  u<1> begin;
  u<1> end;
};

// A step of a token's chain. Registers from `from` on take their lower neighbour's sum; the others
// may already hold sums of later tile passes.
struct shift_t {
  u<1> valid;
  u<8> from;
};

// Packs two weights for a slice's 27-bit port. The high nibble is signed; the low nibble is signed
// if it is a row of its own.
s<SHIFT + 4> pack(const row_t& row) {
#pragma HLS INLINE
  const s<4> high = unsigned(row.byte) >> 4;
  const u<4> nibble = unsigned(row.byte) & 15;
  const s<5> low = int(nibble) - (row.four_bit == 1 && nibble >= 8 ? 16 : 0);
  return s<SHIFT + 4>((int(high) << SHIFT) + int(low));
}

pair_t pair_of(const tile_t& tile, unsigned index) {
#pragma HLS INLINE
  const bool four_bit = index < unsigned(tile.pairs4);
  pair_t pair;
  pair.kind = tile.kind;
  pair.four_bit = four_bit;
  pair.two = four_bit && !(tile.single == 1 && index + 1 == unsigned(tile.pairs4));
  pair.groups = tile.groups;
  pair.first = tile.first;
  pair.last = tile.last;
  pair.index = index;
  pair.closes = index + 1 == unsigned(tile.pairs);
  pair.parity = tile.parity;
  pair.key = unsigned(tile.key) + index;
  pair.last_key = tile.last_keys == 1 && index + 1 == unsigned(tile.pairs);
  return pair;
}

// The systolic array. Without operands it goes on with bubbles. Registers hold nothing that is used
// before the first operands arrive, so only the valid bits are cleared.
void multiply(Issued& issued, Products& products) {
  s<SHIFT + 4> weight[PAIRS][TOKENS];
  s<9> activation[PAIRS][TOKENS];
  control_t control[PAIRS][TOKENS];
  s<48> sum[PAIRS][TOKENS];
  s<48> chain[PAIRS][TOKENS];
#pragma HLS ARRAY_PARTITION variable = weight complete dim = 0
#pragma HLS ARRAY_PARTITION variable = activation complete dim = 0
#pragma HLS ARRAY_PARTITION variable = control complete dim = 0
#pragma HLS ARRAY_PARTITION variable = sum complete dim = 0
#pragma HLS ARRAY_PARTITION variable = chain complete dim = 0
  shift_t shift[TOKENS];
  u<1> arriving[PAIRS]; // a tile pass is on its way to the last row pair
#pragma HLS ARRAY_PARTITION variable = shift complete
#pragma HLS ARRAY_PARTITION variable = arriving complete
  for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
    shift[t] = {0, 0};
  }
  for (unsigned r = 0; r < PAIRS; ++r) {
#pragma HLS UNROLL
    arriving[r] = 0;
  }
  Skew<s<9>, TOKENS, false> skew_tokens;
  Skew<row_t, PAIRS, false> skew_pairs;
  Skew<s<48>, TOKENS, true> align_tokens;
  Delay<tile_t, PAIRS - 1> arriving_tile;
  Delay<pair_t, TOKENS - 1> leaving_pair;
  unsigned outstanding = 0;       // row pairs that have yet to leave
  tile_t leaving = bubble().tile; // tile pass that the chain shifts out
  unsigned index = 0;             // its next row pair
  unsigned pause = 0;
  pair_t pair = pair_of(leaving, 0); // leaves token 0's chain

  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("array.multiply");
    issued_t item;
    if (!poll(issued, item, outstanding > 0))
      item = bubble();

    // The chain of token t is t steps behind token 0's. It gives the row pair at its end and moves
    // the others up.
    vec<s<48>, TOKENS> end_of_chain;
    for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
      end_of_chain[t] = chain[PAIRS - 1][t];
      if (shift[t].valid == 1) {
        for (unsigned r = PAIRS - 1; r > 0; --r) {
#pragma HLS UNROLL
          if (r >= unsigned(shift[t].from))
            chain[r][t] = chain[r - 1][t];
        }
      }
    }
    product_t product;
    product.sum = align_tokens.step(end_of_chain);
    product.pair = leaving_pair.step(pair);
    const bool leaves = shift[TOKENS - 1].valid == 1;
    if (leaves)
      products.write(product);

    vec<row_t, PAIRS> rows;
    for (unsigned r = 0; r < PAIRS; ++r) {
#pragma HLS UNROLL
      rows[r].byte = item.operand[r];
      rows[r].four_bit = PAIRS - 1 - r < unsigned(item.tile.pairs4);
      rows[r].begin = item.begin;
      rows[r].end = item.end;
    }
    const vec<row_t, PAIRS> entering_rows = skew_pairs.step(rows);
    const vec<s<9>, TOKENS> entering = skew_tokens.step(item.activation);
    for (unsigned r = PAIRS; r-- > 0;) {
#pragma HLS UNROLL
      for (unsigned t = TOKENS - 1; t > 0; --t) {
#pragma HLS UNROLL
        weight[r][t] = weight[r][t - 1];
        control[r][t] = control[r][t - 1];
      }
      weight[r][0] = pack(entering_rows[r]);
      control[r][0] = {entering_rows[r].begin, entering_rows[r].end};
      for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
        activation[r][t] = r == 0 ? entering[t] : activation[r - 1][t];
      }
      for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
        // The choice comes before the addition, so that product and addition fit one slice.
        s<48> before = sum[r][t];
        if (control[r][t].begin == 1)
          before = 0;
        const s<SHIFT + 13> added = weight[r][t] * activation[r][t];
        sum[r][t] = before + added;
        if (control[r][t].end == 1)
          chain[r][t] = sum[r][t];
      }
    }

    // A tile pass begins to leave when the chain holds its last row pair's sum of token 0.
    const tile_t arrived = arriving_tile.step(item.tile);
    const bool arrives = (PAIRS == 1 ? item.end : arriving[PAIRS == 1 ? 0 : PAIRS - 2]) == 1;
    for (unsigned r = PAIRS - 1; r > 0; --r) {
#pragma HLS UNROLL
      arriving[r] = arriving[r - 1];
    }
    arriving[0] = item.end;
    for (unsigned t = TOKENS - 1; t > 0; --t) {
#pragma HLS UNROLL
      shift[t] = shift[t - 1];
    }
    if (arrives) {
      leaving = arrived;
      index = 0;
      pause = 0;
    }
    shift[0].valid = 0;
    if (index < unsigned(leaving.pairs)) {
      if (pause > 0) {
        --pause;
      } else {
        pair = pair_of(leaving, index);
        ++index;
        shift[0].valid = 1;
        shift[0].from = PAIRS - unsigned(leaving.pairs) + index;
        const unsigned groups = leaving.groups;
        pause = leaving.kind == SCORES ? 0 : (pair.two == 1 ? 2 * groups : groups) - 1;
      }
    }

    if (item.end == 1)
      outstanding += item.tile.pairs;
    if (leaves)
      --outstanding;
  }
}

// Unpacks the slices' sums into rows, adds passes, and gives a row group after group; scores leave
// for all tokens at once.
void unpack_lanes(Products& products, Sums& sums, Scored& scored) {
  Memory<vec<s<27>, TOKENS>, 2, PAIRS> partial;
#pragma HLS ARRAY_PARTITION variable = partial complete dim = 1
#pragma HLS AGGREGATE variable = partial compact = bit
#pragma HLS BIND_STORAGE variable = partial type = ram_2p impl = lutram
  distance(partial, PARTIAL_DISTANCE);
  vec<s<27>, GROUPS * LANES> row{}; // rest of the row that leaves
  vec<s<27>, TOKENS> second{};
  unsigned groups = 0; // of a row
  unsigned group = 0;
  unsigned left = 0;  // groups that have yet to leave
  unsigned pause = 0; // until the last pass's sums can be read
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = partial type = inter direction = RAW distance =                  \
    PARTIAL_DISTANCE dependent = true
    interval("array.unpack_lanes");
    if (pause > 0) {
      --pause;
    } else if (left == 0) {
      product_t product;
      if (!poll(products, product))
        continue;
      const pair_t& pair = product.pair;
      vec<s<27>, TOKENS> first;
      for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
        const s<48> sum = product.sum[t];
        s<SHIFT + 1> low;
        if (pair.kind == CONTEXT)
          low = u<SHIFT>(sum);
        else
          low = s<SHIFT>(sum);
        const s<48 - SHIFT> high = s<49>(sum - low) >> SHIFT;
        if (pair.four_bit == 1)
          first[t] = low;
        else
          first[t] = high * 16 + low;
        second[t] = high;
      }
      if (pair.first == 0) {
        const vec<s<27>, TOKENS> before = partial[0][pair.index];
        const vec<s<27>, TOKENS> second_before = partial[1][pair.index];
        for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
          first[t] = first[t] + before[t];
          second[t] = second[t] + second_before[t];
        }
      }
      if (pair.last == 0) {
        partial[0][pair.index] = first;
        partial[1][pair.index] = second;
        if (pair.closes == 1)
          pause = PARTIAL_DISTANCE - 1;
      } else if (pair.kind == SCORES) {
        scored_t item;
        for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
          item.score[t] = first[t];
        }
        item.parity = pair.parity;
        item.key = pair.key;
        item.last = pair.last_key;
        scored.write(item);
      } else {
        groups = pair.groups;
        group = 0;
        left = pair.two == 1 ? 2 * groups : groups;
        for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
          row[t] = first[t];
        }
      }
    }
    if (left > 0) {
      sums_t word;
      for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
        word[lane] = row[lane];
      }
      sums.write(word);
      --left;
      ++group;
      for (unsigned t = 0; t + LANES < GROUPS * LANES; ++t) {
#pragma HLS UNROLL
        row[t] = row[t + LANES];
      }
      if (group == groups) {
        group = 0;
        for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
          row[t] = second[t];
        }
      }
    }
  }
}

// Stores scores, and keeps each token's largest score.
void store_scores(Scored& scored, Write::Score score, Largest& largest) {
  vec<s<24>, TOKENS> most;
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("array.scores");
    scored_t item;
    if (!poll(scored, item))
      continue;
    for (unsigned bank = 0; bank < EXP_GROUPS; ++bank) {
#pragma HLS UNROLL
      scores_t word;
      for (unsigned lane = 0; lane < config::EXP_LANES; ++lane) {
#pragma HLS UNROLL
        const unsigned t = bank * config::EXP_LANES + lane;
        word[lane] = 0;
        if (t < TOKENS)
          word[lane] = item.score[t];
      }
      score[unsigned(item.parity) * EXP_GROUPS + bank][item.key] = word;
    }
    for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
      if (item.key == 0 || item.score[t] > most[t])
        most[t] = item.score[t];
    }
    if (item.last == 1)
      largest.write(most);
  }
}

// Sends maxima. A process of its own, so that the scores are stored when their maxima arrive.
void send_maxima(Largest& largest, Maxima& maxima) {
  for (volatile bool running = true; running;) {
    const vec<s<24>, TOKENS> most = largest.read();
    for (unsigned group = 0; group < EXP_GROUPS; ++group) {
#pragma HLS PIPELINE II = 1
      interval("array.maxima");
      maxima_t word;
      for (unsigned lane = 0; lane < config::EXP_LANES; ++lane) {
#pragma HLS UNROLL
        const unsigned t = group * config::EXP_LANES + lane;
        word[lane] = 0;
        if (t < TOKENS)
          word[lane] = most[t];
      }
      maxima.write(word);
    }
  }
}

} // namespace

void systolic(Commands<isa::depth::array_commands>& commands, Beats<isa::depth::weights>& weights,
              Credits<isa::depth::load_to_array>& load_to_array,
              Credits<isa::depth::array_to_load>& array_to_load,
              Credits<isa::depth::drain_to_array>& drain_to_array,
              Credits<isa::depth::norm_to_array>& norm_to_array,
              Credits<isa::depth::softmax_to_array>& softmax_to_array, Sums& sums, Maxima& maxima,
              Read::Input patches, Read::Normed normed, Read::Query query, Read::Key key,
              Read::Value value, Read::Probability probability, Read::Hidden hidden,
              Write::Score score) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = weights
#pragma HLS INTERFACE axis port = load_to_array
#pragma HLS INTERFACE axis port = array_to_load
#pragma HLS INTERFACE axis port = drain_to_array
#pragma HLS INTERFACE axis port = norm_to_array
#pragma HLS INTERFACE axis port = softmax_to_array
#pragma HLS INTERFACE axis port = sums
#pragma HLS INTERFACE axis port = maxima
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = patches
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = normed
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = query
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = key
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = value
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = probability
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = hidden
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = score
#pragma HLS ARRAY_PARTITION variable = patches complete dim = 1
#pragma HLS ARRAY_PARTITION variable = normed complete dim = 1
#pragma HLS ARRAY_PARTITION variable = query complete dim = 1
#pragma HLS ARRAY_PARTITION variable = key complete dim = 1
#pragma HLS ARRAY_PARTITION variable = value complete dim = 1
#pragma HLS ARRAY_PARTITION variable = probability complete dim = 1
#pragma HLS ARRAY_PARTITION variable = hidden complete dim = 1
#pragma HLS ARRAY_PARTITION variable = score complete dim = 1
#pragma HLS AGGREGATE variable = patches compact = bit
#pragma HLS AGGREGATE variable = normed compact = bit
#pragma HLS AGGREGATE variable = query compact = bit
#pragma HLS AGGREGATE variable = key compact = bit
#pragma HLS AGGREGATE variable = value compact = bit
#pragma HLS AGGREGATE variable = probability compact = bit
#pragma HLS AGGREGATE variable = hidden compact = bit
#pragma HLS AGGREGATE variable = score compact = bit
#pragma HLS AGGREGATE variable = sums compact = bit
#pragma HLS AGGREGATE variable = maxima compact = bit
#pragma HLS AGGREGATE variable = commands compact = bit
#pragma HLS AGGREGATE variable = weights compact = bit
#pragma HLS DATAFLOW
  Stream<command_t, JOBS> jobs("array.jobs");
  Stream<demand_t, DEMANDS> demands("array.demands");
  Stream<credit_t, 2> filled("array.filled");
  Stream<credit_t, 2> freed("array.freed");
  Passes passes("array.passes");
  Issued issued("array.issued");
  Products products("array.products");
  Scored scored("array.scored");
  Largest largest("array.largest");
  // `load_weights` owns a half until `filled`, `issue` until `freed`.
  DoubleBuffer halves;
#pragma HLS ARRAY_PARTITION variable = halves complete dim = 1
#pragma HLS AGGREGATE variable = halves compact = bit
#pragma HLS STREAM variable = halves type = unsync
  QUASAR_PROCESS(dispatch(commands, jobs, demands));
  QUASAR_PROCESS(load_weights(demands, weights, halves, filled, freed));
  QUASAR_PROCESS(
      plan(jobs, filled, load_to_array, drain_to_array, norm_to_array, softmax_to_array, passes));
  QUASAR_PROCESS(issue(passes, halves, freed, array_to_load, patches, normed, query, key, value,
                       probability, hidden, issued));
  QUASAR_PROCESS(multiply(issued, products));
  QUASAR_PROCESS(unpack_lanes(products, sums, scored));
  QUASAR_PROCESS(store_scores(scored, score, largest));
  QUASAR_PROCESS(send_maxima(largest, maxima));
  QUASAR_JOIN();
}
