// drain: adds the bias, requantizes, applies GELU's table, adds the residual, computes moments, and
// scales the context ("Commands" in docs/accelerator.md; "Requantize", "Attention" and "Residual"
// in docs/integer-model.md).
#include "arithmetic.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

namespace {

using config::LANES;
using config::PAIRS;
using config::TOKENS;

namespace destination = isa::destination;
namespace kind = isa::kind;

constexpr unsigned BEAT = sizeof(beat_t);
constexpr unsigned MAX_ROWS = 2 * PAIRS;
constexpr unsigned KEY_BANKS = config::KEY_BANKS;
constexpr unsigned VALUE_BANKS = config::VALUE_BANKS;
static_assert(LANES <= KEY_BANKS);
// Words of one value dimension that a group of lanes may write to.
constexpr unsigned VALUE_SPAN = ceil_div(LANES + CASCADE - 1, CASCADE);
static_assert(VALUE_SPAN <= VALUE_BANKS);

// A row's parameters.
struct row_t {
  s<27> bias;
  s<16> mult;
  u<5> shift;
  u<3> destination;
  u<16> column;
  u<8> value_bank; // for a value: bank and block of words of the column
  u<16> value_block;
};
using DoubleBuffer = Memory<row_t, 2, MAX_ROWS>;

// A row of a tile of tokens, with its addresses.
struct step_t {
  row_t row;
  u<9> index;  // of the row in its tile of row pairs
  u<11> tile;  // of tokens
  u<11> first; // token
  u<11> tokens;
  u<24> address; // of column 0 of the tile in the destination
  u<8> key_bank; // of the first token
  u<24> key_address;
  u<8> value_bank;
  u<1> one_tile; // the command has one tile of tokens
  u<1> begin;    // first row of the tile
  u<1> end;      // last row of the tile
  u<1> first_rows;
  u<1> last_rows;
  u<1> last; // last step of the command
};

// Results of a group of lanes, and the events to report after they are stored.
struct stored_t {
  u<3> destination; // LOGIT stores nothing
  u<13> bank;       // of the first lane
  u<4> byte;        // in a word of `value`: of the first lane; in words of `key`: of all lanes
  u<24> address;
  u<24> wrapped; // address of lanes that wrap from the last bank to the first
  u<8> lanes;
  codes_t code;
  residual_t residual;
  u<1> has_moments; // the moments are in the queue `waiting`
  u<2> credits;     // to the array
  u<1> filled;      // a Fill ends
  u<1> ends;        // the command
};

struct notice_t {
  u<1> has_moments;
  u<2> credits; // to the array
  u<1> ends;    // the command
};

// The fields of a command that each process needs.
struct parameter_job_t {
  u<isa::HEAD_BITS> code;
  u<16> rows4;
  u<16> rows8;
  u<20> words;
};
struct row_job_t {
  u<1> attends;
  u<11> tokens;
  u<13> stride;
  u<16> rows4; // Attend: rows
  u<16> rows8; // Attend: base
  u<11> tile;  // first tile of tokens in the destination
};
// Types of loop counters: rows and tokens of an Attend, forwarded beats.
using attend_rows_t = decltype(isa::Attend::rows);
using attend_tokens_t = decltype(isa::Attend::tokens);
constexpr unsigned WORD_BEATS = ceil_div(2 * TOKENS, BEAT); // beats of a residual word
using passed_t = up_to<most<decltype(isa::Fill::words)> * WORD_BEATS>;
static_assert(ceil_div(256, BEAT) <= most<passed_t>);

using Jobs = Stream<fields_t, isa::DRAIN_JOBS>;
using ParameterJobs = Stream<parameter_job_t, isa::DRAIN_JOBS>;
using RowJobs = Stream<row_job_t, isa::DRAIN_JOBS>;
using ScaleJobs = Stream<u<11>, isa::DRAIN_JOBS>; // tokens
using Steps = Stream<step_t, 4>;
using ScaleWords = Stream<vec<scale_t, LANES>, 2 * GROUPS>;
using Stored = Stream<stored_t, 4>;
using Notices = Stream<notice_t, 4>;
// Moments until their notice. Holds more items than results and notices can be in flight, so it
// never fills.
using Waiting = Stream<moments_t, 16>;

void dispatch(Commands<isa::depth::drain_commands>& commands, Jobs& jobs,
              ParameterJobs& parameter_jobs, RowJobs& row_jobs, ScaleJobs& scale_jobs) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("drain.dispatch");
    const fields_t command = receive_item<fields_t>(commands);
    const unsigned code = operation(command);
    const isa::Rows rows = isa::Rows::decode(command);
    const isa::Attend attend = isa::Attend::decode(command);
    if (code == isa::Attend::CODE)
      scale_jobs.write(attend.tokens);
    else
      parameter_jobs.write({code, rows.rows4, rows.rows8, isa::Fill::decode(command).words});
    if (code == isa::Rows::CODE)
      row_jobs.write({0, rows.tokens, rows.stride, rows.rows4, rows.rows8,
                      rows.kind == kind::RESIDUAL ? rows.tile : u<11>(0)});
    else if (code == isa::Attend::CODE)
      row_jobs.write({1, attend.tokens, attend.stride, attend.rows, attend.base, attend.tile});
    jobs.write(command);
  }
}

// Loads row parameters into their double buffer; forwards the beats of tables and fills.
void load_parameters(ParameterJobs& jobs, Beats<isa::depth::rows>& beats,
                     DoubleBuffer& double_buffer, Stream<credit_t, 2>& filled,
                     Stream<credit_t, 2>& freed, Stream<beat_t, 2>& passed) {
  u<1> half = 0;
  unsigned free_buffers = 2;
  for (volatile bool running = true; running;) {
    const parameter_job_t job = jobs.read();
    if (job.code == isa::Rows::CODE) {
      const unsigned all = row_pairs(job);
      for (unsigned pair = 0; pair < all; pair += PAIRS) {
        if (free_buffers > 0)
          --free_buffers;
        else
          freed.read();
        const up_to<MAX_ROWS> count = row_tile(job.rows4, all, pair).rows;
        beat_t beat{};
#pragma HLS ARRAY_PARTITION variable = beat.byte complete
        up_to<config::PORTS - 1> port = 0;
        for (up_to<MAX_ROWS> i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
          interval("drain.parameters");
          if (port == 0)
            beat = receive_item<beat_t>(beats);
          const auto given =
              isa::RowParameters::decode(&beat.byte[unsigned(port) * isa::ROW_BYTES]);
          row_t row;
          row.bias = given.bias;
          row.mult = given.mult;
          row.shift = given.shift;
          row.destination = given.destination;
          row.column = given.column;
          row.value_bank = given.value_bank;
          row.value_block = given.value_block;
          double_buffer[half][i] = row;
          port = unsigned(port) + 1 == config::PORTS ? 0 : unsigned(port) + 1;
        }
        filled.write(1);
        half = half == 0 ? 1 : 0;
      }
    } else {
      const passed_t count =
          job.code == isa::Table::CODE ? ceil_div(256, BEAT) : unsigned(job.words) * WORD_BEATS;
      for (passed_t i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
        interval("drain.pass");
        passed.write(receive_item<beat_t>(beats));
      }
    }
  }
}

// Returns the bank of the value word that holds the token COUNT tokens after byte `byte` of a word
// in `bank`.
template <unsigned COUNT> unsigned value_bank_after(unsigned bank, unsigned byte) {
#pragma HLS INLINE
  const unsigned next =
      bank + COUNT / CASCADE % VALUE_BANKS + (byte + COUNT % CASCADE >= CASCADE ? 1 : 0);
  return next >= VALUE_BANKS ? next - VALUE_BANKS : next;
}

// Sends a step for each row of a command, in the order of the sums. Reads row parameters only after
// the credit from `load_parameters`.
void walk(RowJobs& jobs, DoubleBuffer& double_buffer, Stream<credit_t, 2>& filled,
          Stream<credit_t, 2>& freed, Steps& steps) {
  u<1> half = 0;
  for (volatile bool running = true; running;) {
    const row_job_t command = jobs.read();
    const unsigned tokens = command.tokens;
    const unsigned start = unsigned(command.tile) * unsigned(command.stride);
    if (command.attends == 1) {
      const attend_rows_t rows = command.rows4;
      for (attend_rows_t i = 0; i < rows; ++i) {
#pragma HLS PIPELINE II = 1
        interval("drain.walk");
        step_t step{};
        step.row.destination = destination::QUERY;
        step.row.column = unsigned(command.rows8) + unsigned(i);
        step.tokens = tokens;
        step.address = start;
        step.one_tile = 1;
        step.begin = i == 0;
        step.last = i + 1 == rows;
        steps.write(step);
      }
      continue;
    }
    const unsigned all = row_pairs(command);
    for (unsigned pair = 0; pair < all; pair += PAIRS) {
      filled.read();
      const up_to<MAX_ROWS> rows = row_tile(command.rows4, all, pair).rows;
      unsigned address = start;
      unsigned key_bank = 0;
      unsigned key_address = 0;
      unsigned value_bank = 0;
      unsigned tile = 0;
      for (unsigned first = 0; first < tokens; first += TOKENS) {
        const bool last_tile = tokens - first <= TOKENS;
        for (up_to<MAX_ROWS> i = 0; i < rows; ++i) {
#pragma HLS PIPELINE II = 1
          interval("drain.walk");
          step_t step;
          step.row = double_buffer[half][i];
          step.index = i;
          step.tile = tile;
          step.first = first;
          step.tokens = least(TOKENS, tokens - first);
          step.address = address;
          step.key_bank = key_bank;
          step.key_address = key_address;
          step.value_bank = value_bank;
          step.one_tile = tokens <= TOKENS;
          step.begin = i == 0;
          step.end = i + 1 == rows;
          step.first_rows = pair == 0;
          step.last_rows = pair + PAIRS >= all;
          step.last = pair + PAIRS >= all && last_tile && i + 1 == rows;
          steps.write(step);
        }
        address += command.stride;
        const unsigned next = key_bank + TOKENS % KEY_BANKS;
        key_address +=
            (TOKENS / KEY_BANKS + (next >= KEY_BANKS ? 1 : 0)) * unsigned(command.stride);
        key_bank = next >= KEY_BANKS ? next - KEY_BANKS : next;
        value_bank = value_bank_after<TOKENS>(value_bank, first % CASCADE);
        ++tile;
      }
      freed.write(1);
      half = half == 0 ? 1 : 0;
    }
  }
}

// Gathers the scales of an attention tile into words of LANES tokens.
void gather_scales(ScaleJobs& jobs, Scales& scales, ScaleWords& words) {
  for (volatile bool running = true; running;) {
    const attend_tokens_t tokens = jobs.read();
    vec<scale_t, LANES> word{};
    up_to<LANES> lane = 0;
    for (attend_tokens_t token = 0; token < tokens; ++token) {
#pragma HLS PIPELINE II = 1
      interval("drain.scales");
      word[lane] = receive_item<scale_t>(scales);
      ++lane;
      if (unsigned(lane) == LANES || token + 1 == tokens) {
        words.write(word);
        lane = 0;
      }
    }
  }
}

stored_t nothing() {
#pragma HLS INLINE
  stored_t item;
  item.destination = destination::LOGIT;
  item.bank = 0;
  item.byte = 0;
  item.address = 0;
  item.wrapped = 0;
  item.lanes = LANES;
  for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
    item.code[lane] = 0;
    item.residual[lane] = 0;
  }
  item.has_moments = 0;
  item.credits = 0;
  item.filled = 0;
  item.ends = 0;
  return item;
}

// Returns an item that ends a command and stores nothing.
stored_t end_alone() {
#pragma HLS INLINE
  stored_t item = nothing();
  item.ends = 1;
  return item;
}

// State of the lanes between commands. Each value dimension is a column of the projection's
// weights, so WEIGHT_WORDS bounds the means too.
using Means = Memory<s<13>, 1, least(config::QUERY_WORDS, config::WEIGHT_WORDS)>;
using Lookup = Memory<code_t, LANES, 256>; // GELU's table, one copy for each lane
using Saved = Memory<moments_t, 1, ceil_div(config::SCORE_WORDS, TOKENS) * GROUPS>;
// Least intervals between the write of a tile's moments and their next read. Between these, the
// lanes work on the other tiles of tokens: at least one row of one whole tile.
constexpr unsigned SAVED_DISTANCE = GROUPS + 1;

// Requantizes the sums of Rows or Attend. In an Attend each lane has its own scale, and the
// rounding residue times the value's mean replaces the bias.
void drain_rows(const fields_t& fields, Steps& steps, ScaleWords& words, Sums& sums, Logits& logits,
                Read::Residual residual, Means& means, Lookup& lookup, Saved& saved,
                Waiting& waiting, Stored& stored) {
  const bool attends = operation(fields) == isa::Attend::CODE;
  isa::Rows command;
  if (attends) {
    const isa::Attend attend = isa::Attend::decode(fields);
    command.tokens = attend.tokens;
    command.post = attend.post;
  } else {
    command = isa::Rows::decode(fields);
  }
  scale_t scale[GROUPS][LANES];
#pragma HLS ARRAY_PARTITION variable = scale complete dim = 0
  for (unsigned group = 0; group < GROUPS; ++group) {
#pragma HLS UNROLL
    for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
      scale[group][lane] = {0, 0, 0};
    }
  }
  moment_t now[GROUPS][LANES]; // moments of the tile so far
#pragma HLS ARRAY_PARTITION variable = now complete dim = 0
  s<19> column_sum[MAX_ROWS]; // of values, over the earlier tiles of tokens
#pragma HLS ARRAY_PARTITION variable = column_sum complete
  s<19> running = 0;
  step_t step{};
  sums_t sum{};
#pragma HLS ARRAY_PARTITION variable = sum complete
  up_to<GROUPS - 1> group = 0;
  up_to<LANES - 1> logit = 0; // lane of the group's next logit
  up_to<KEY_BANKS - 1> key_bank = 0;
  decltype(step_t::key_address) key_address = 0;
  up_to<VALUE_BANKS - 1> value_bank = 0;
  const unsigned value_words = bank_words(command.tokens);
  const unsigned key_stride = bank_words(command.stride);
  bool more = true;
  while (more) {
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = saved type = inter direction = RAW distance =                    \
    SAVED_DISTANCE dependent = true
    // No command both writes and reads means.
#pragma HLS DEPENDENCE variable = means type = inter dependent = false
    interval(attends ? "drain.attend" : "drain.rows");
    if (group == 0 && logit == 0) {
      step = steps.read();
      key_bank = step.key_bank;
      key_address = step.key_address;
      const unsigned first_bank = unsigned(step.value_bank) + unsigned(step.row.value_bank);
      value_bank = first_bank >= VALUE_BANKS ? first_bank - VALUE_BANKS : first_bank;
    }
    if (attends && step.begin == 1) {
      const vec<scale_t, LANES> word = words.read();
      for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
        scale[group][lane] = word[lane];
      }
    }
    if (logit == 0)
      sum = receive_item<sums_t>(sums);
    const row_t& row = step.row;
    const unsigned column = row.column;
    s<13> mean = 0;
    if (attends)
      mean = means[0][column];
    const unsigned done = unsigned(group) * LANES;
    const unsigned left = unsigned(step.tokens) - done;
    const unsigned lanes = least(LANES, left);
    const unsigned first = unsigned(step.first) + done;
    const bool last_group = GROUPS == 1 || left <= LANES;
    const unsigned bank = unsigned(command.frame) * GROUPS + unsigned(group);
    const unsigned address = unsigned(step.address) + column;

    residual_t before{};
    if (command.kind == kind::RESIDUAL)
      before = residual[bank][address];
    moments_t moments;
    const bool fresh = step.begin == 1 && step.first_rows == 1;
    const bool resume = step.begin == 1 && step.first_rows == 0 && step.one_tile == 0;
    moments_t earlier{};
    if (command.moments == 1 && resume)
      earlier = saved[0][unsigned(step.tile) * GROUPS + unsigned(group)];

    stored_t item = nothing();
    s<15> total = 0; // of the lanes' codes
    for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
      scale_t factor = scale[group][lane];
      const s<28> product = multiply<s<28>>(factor.residue, mean);
      s<31> added = s<25>((product + 8) >> 4);
      if (!attends) {
        factor.shift = row.shift;
        added = row.bias * 16;
      }
      const s<16> mult = attends ? s<16>(factor.mantissa) : row.mult;
      const s<18> z = requantize(s<31>(sum[lane] * 16 + added), factor.shift, mult);
      const s<8> y = code_of(z, command.zero_point);
      s<8> code = y;
      if (command.table == 1)
        code = lookup[lane][unsigned(int(y) + 128)];
      item.code[lane] = code;
      if (lane < lanes)
        total += code;

      s<19> x = before[lane];
      if (first + lane >= unsigned(command.skip))
        x = before[lane] + z;
      if (x > 32767)
        x = 32767;
      if (x < -32767)
        x = -32767;
      item.residual[lane] = x;
      const s<16> kept = x;
      const u<31> square = multiply<s<32>>(kept, kept);
      moment_t moment = now[group][lane];
      if (fresh)
        moment = {0, 0};
      else if (resume)
        moment = earlier[lane];
      moment.sum = moment.sum + kept;
      moment.squares = moment.squares + square;
      now[group][lane] = moment;
      moments[lane] = moment;
    }

    item.destination = row.destination;
    item.lanes = lanes;
    item.bank = unsigned(group) * CASCADE + column % CASCADE;
    item.byte = column % CASCADE;
    item.address = address / CASCADE;
    item.wrapped = item.address;
    if (row.destination == destination::KEY) {
      item.bank = key_bank;
      item.address = (unsigned(key_address) + column) / CASCADE;
      item.wrapped = item.address + key_stride;
    } else if (row.destination == destination::VALUE) {
      item.bank = value_bank;
      item.byte = first % CASCADE;
      item.address = unsigned(row.value_block) * value_words + first / CASCADE;
      s<19> sum_before = running;
      if (group == 0) {
        sum_before = 0;
        if (step.first != 0)
          sum_before = column_sum[step.index];
      }
      running = sum_before + total;
      column_sum[step.index] = running;
      if (last_group && first + lanes == unsigned(command.tokens))
        means[0][column] = s<40>(running * command.reciprocal + 32768) >> 16;
    } else if (row.destination == destination::RESIDUAL) {
      item.bank = bank;
      item.address = address;
    }

    const bool tile_ends = step.end == 1 && step.last_rows == 1;
    if (command.moments == 1 && step.end == 1) {
      if (step.last_rows == 1) {
        waiting.write(moments);
        item.has_moments = 1;
      } else if (step.one_tile == 0) {
        saved[0][unsigned(step.tile) * GROUPS + unsigned(group)] = moments;
      }
    }
    // A group's logits leave one by one.
    if (command.kind == kind::LOGITS) {
      const s<27> acc = sum[logit] + row.bias;
      logits.write(s<32>(s<44>(acc * row.mult + 16384) >> 15));
      logit = unsigned(logit) + 1 == lanes ? 0 : unsigned(logit) + 1;
      if (logit != 0)
        continue;
    }
    more = !(step.last == 1 && last_group);
    item.credits = (last_group && tile_ends && command.post_tiles == 1 ? 1 : 0) +
                   (!more && command.post == 1 ? 1 : 0);
    item.ends = !more;
    stored.write(item);

    if constexpr (GROUPS > 1)
      group = last_group ? 0 : unsigned(group) + 1;
    const unsigned next_bank = unsigned(key_bank) + LANES;
    key_bank = next_bank >= KEY_BANKS ? next_bank - KEY_BANKS : next_bank;
    if (next_bank >= KEY_BANKS)
      key_address += unsigned(command.stride);
    value_bank = value_bank_after<LANES>(value_bank, first % CASCADE);
  }
}

// Fills the residual from memory: receives a word while it stores the previous one.
void fill(const isa::Fill& command, Stream<beat_t, 2>& beats, Stored& stored) {
  constexpr unsigned STEPS = WORD_BEATS > GROUPS ? WORD_BEATS : GROUPS;
  s<16> arriving[WORD_BEATS * BEAT / 2 + GROUPS * LANES];
  s<16> leaving[GROUPS * LANES];
#pragma HLS ARRAY_PARTITION variable = arriving complete
#pragma HLS ARRAY_PARTITION variable = leaving complete
  for (unsigned t = 0; t < GROUPS * LANES; ++t) {
#pragma HLS UNROLL
    leaving[t] = 0;
    arriving[t] = 0;
  }
  for (up_to<most<decltype(isa::Fill::words)> + 1> word = 0; word <= command.words; ++word) {
    for (up_to<STEPS> i = 0; unsigned(i) < STEPS; ++i) {
#pragma HLS PIPELINE II = 1
      interval("drain.fill");
      if (word < command.words && unsigned(i) < WORD_BEATS) {
        const beat_t beat = beats.read();
        for (unsigned j = 0; j < BEAT / 2; ++j) {
#pragma HLS UNROLL
          set_group_item<WORD_BEATS, BEAT / 2>(arriving, unsigned(i), j,
                                               s<16>(int32_t(little_endian(&beat.byte[2 * j], 2))));
        }
      }
      if (word > 0 && unsigned(i) < GROUPS) {
        stored_t item = nothing();
        for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
          item.residual[lane] = group_item<GROUPS, LANES>(leaving, unsigned(i), lane);
        }
        item.destination = destination::RESIDUAL;
        item.bank = unsigned(command.frame) * GROUPS + unsigned(i);
        item.address = word - 1;
        item.filled = word == command.words && unsigned(i) + 1 == GROUPS;
        item.ends = item.filled;
        stored.write(item);
      }
    }
    for (unsigned t = 0; t < TOKENS; ++t) {
#pragma HLS UNROLL
      leaving[t] = arriving[t];
    }
  }
}

void take_table(Stream<beat_t, 2>& beats, Lookup& lookup) {
  beat_t beat{};
#pragma HLS ARRAY_PARTITION variable = beat.byte complete
  for (up_to<256> i = 0; i < 256; ++i) {
#pragma HLS PIPELINE II = 1
    interval("drain.table");
    if (unsigned(i) % BEAT == 0)
      beat = beats.read();
    for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
      lookup[lane][i] = beat.byte[unsigned(i) % BEAT];
    }
  }
}

void requantize(Jobs& jobs, Steps& steps, Sums& sums, ScaleWords& scales, Stream<beat_t, 2>& beats,
                Stream<credit_t, 2>& refilled, Logits& logits, Read::Residual residual,
                Waiting& waiting, Stored& stored) {
  Means means;
  Lookup lookup;
#pragma HLS ARRAY_PARTITION variable = lookup complete dim = 1
  Saved saved;
#pragma HLS ARRAY_PARTITION variable = saved complete dim = 1
#pragma HLS AGGREGATE variable = saved compact = bit
  distance(saved, SAVED_DISTANCE);
  distance(means, ~0u);
  for (volatile bool running = true; running;) {
    const fields_t command = jobs.read();
    gap(isa::declared::COMMAND_GAP);
    const unsigned code = operation(command);
    if (code == isa::Rows::CODE || code == isa::Attend::CODE) {
      drain_rows(command, steps, scales, sums, logits, residual, means, lookup, saved, waiting,
                 stored);
    } else if (code == isa::Fill::CODE) {
      const isa::Fill job = isa::Fill::decode(command);
      fill(job, beats, stored);
      if (job.words != 0)
        refilled.read(); // the next command reads the filled residual
      else
        stored.write(end_alone());
    } else {
      take_table(beats, lookup);
      stored.write(end_alone());
    }
  }
}

// A lane's code on its way to a bank.
struct lane_t {
  code_t code;
  u<1> used;
};

// Returns a word of `key` that enables one byte.
masked_t<cascade_t> key_word(const code_t& code, unsigned byte) {
#pragma HLS INLINE
  masked_t<cascade_t> word;
  word.enable = 1u << byte;
  for (unsigned c = 0; c < CASCADE; ++c) {
#pragma HLS UNROLL
    word.code[c] = code;
  }
  return word;
}

// Returns the codes of a group by the bank of `key` of their lanes.
vec<lane_t, KEY_BANKS> keys_of(const stored_t& item) {
#pragma HLS INLINE
  vec<lane_t, KEY_BANKS> keys;
  for (unsigned b = 0; b < KEY_BANKS; ++b) {
#pragma HLS UNROLL
    keys[b] = {0, 0};
    if (b < LANES)
      keys[b] = {item.code[b < LANES ? b : 0], b < unsigned(item.lanes)};
  }
  rotate(keys, item.bank);
  return keys;
}

// Returns the words of `value` that hold the codes of a group, by bank.
vec<masked_t<cascade_t>, VALUE_BANKS> values_of(const stored_t& item) {
#pragma HLS INLINE
  vec<lane_t, VALUE_SPAN * CASCADE> codes;
  for (unsigned i = 0; i < VALUE_SPAN * CASCADE; ++i) {
#pragma HLS UNROLL
    codes[i] = {0, 0};
    if (i < LANES)
      codes[i] = {item.code[i < LANES ? i : 0], i < unsigned(item.lanes)};
  }
  shift_up<CASCADE>(codes, item.byte, lane_t{0, 0});
  vec<masked_t<cascade_t>, VALUE_BANKS> words;
  for (unsigned b = 0; b < VALUE_BANKS; ++b) {
#pragma HLS UNROLL
    unsigned enable = 0;
    for (unsigned c = 0; c < CASCADE; ++c) {
#pragma HLS UNROLL
      words[b].code[c] = 0;
      if (b < VALUE_SPAN) {
        const lane_t lane = codes[b < VALUE_SPAN ? b * CASCADE + c : 0];
        words[b].code[c] = lane.code;
        enable |= unsigned(lane.used) << c;
      }
    }
    words[b].enable = enable;
  }
  rotate(words, item.bank);
  return words;
}

// Stores results; no other process writes these memories. `announce` forwards the notices, so that
// the results are stored before another kernel receives a credit.
void store_groups(Stored& stored, Write::Residual own_residual, Write::Residual norm_residual,
                  Write::Query query, Write::Key key, Write::Value value, Write::Hidden hidden,
                  Stream<credit_t, 2>& refilled, Notices& notices) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("drain.store");
    stored_t item;
    if (!poll(stored, item))
      continue;
    const unsigned bank = item.bank;
    if (item.destination == destination::QUERY)
      query[bank][item.address] = item.code;
    if (item.destination == destination::HIDDEN)
      hidden[bank][item.address] = item.code;
    if (item.destination == destination::RESIDUAL) {
      own_residual[bank][item.address] = item.residual;
      norm_residual[bank][item.address] = item.residual;
    }
    if (item.destination == destination::KEY) {
      const vec<lane_t, KEY_BANKS> keys = keys_of(item);
      for (unsigned b = 0; b < KEY_BANKS; ++b) {
#pragma HLS UNROLL
        if (keys[b].used == 1)
          key[b][b < bank ? item.wrapped : item.address] = key_word(keys[b].code, item.byte);
      }
    }
    if (item.destination == destination::VALUE) {
      const vec<masked_t<cascade_t>, VALUE_BANKS> words = values_of(item);
      for (unsigned b = 0; b < VALUE_BANKS; ++b) {
#pragma HLS UNROLL
        const unsigned i = b < bank ? b + VALUE_BANKS - bank : b - bank;
        if (words[b].enable != 0)
          value[b][unsigned(item.address) + i] = words[b];
      }
    }
    if (item.filled == 1)
      refilled.write(1);
    if (item.has_moments == 1 || item.credits != 0 || item.ends == 1)
      notices.write({item.has_moments, item.credits, item.ends});
  }
}

void announce(Notices& notices, Waiting& waiting, Moments& moments,
              Credits<isa::depth::drain_to_array>& drain_to_array, Retired& retired) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("drain.announce");
    const notice_t notice = notices.read();
    if (notice.has_moments == 1)
      send_item(moments, waiting.read());
    for (unsigned i = 0; i < unsigned(notice.credits); ++i)
      drain_to_array.write(1);
    if (notice.ends == 1)
      retired.write(1);
  }
}

} // namespace

void drain(Commands<isa::depth::drain_commands>& commands, Beats<isa::depth::rows>& rows,
           Sums& sums, Scales& scales, Moments& moments, Logits& logits,
           Credits<isa::depth::drain_to_array>& drain_to_array, Retired& retired,
           Read::Residual residual, Write::Residual own_residual, Write::Residual norm_residual,
           Write::Query query, Write::Key key, Write::Value value, Write::Hidden hidden) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = rows
#pragma HLS INTERFACE axis port = sums
#pragma HLS INTERFACE axis port = scales
#pragma HLS INTERFACE axis port = moments
#pragma HLS INTERFACE axis port = logits
#pragma HLS INTERFACE axis port = drain_to_array
#pragma HLS INTERFACE axis port = retired
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = residual
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = own_residual
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = norm_residual
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = query
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = key
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = value
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = hidden
#pragma HLS ARRAY_PARTITION variable = residual complete dim = 1
#pragma HLS ARRAY_PARTITION variable = own_residual complete dim = 1
#pragma HLS ARRAY_PARTITION variable = norm_residual complete dim = 1
#pragma HLS ARRAY_PARTITION variable = query complete dim = 1
#pragma HLS ARRAY_PARTITION variable = key complete dim = 1
#pragma HLS ARRAY_PARTITION variable = value complete dim = 1
#pragma HLS ARRAY_PARTITION variable = hidden complete dim = 1
#pragma HLS AGGREGATE variable = residual compact = bit
#pragma HLS AGGREGATE variable = own_residual compact = bit
#pragma HLS AGGREGATE variable = norm_residual compact = bit
#pragma HLS AGGREGATE variable = query compact = bit
#pragma HLS AGGREGATE variable = key compact = bit
#pragma HLS AGGREGATE variable = value compact = bit
#pragma HLS AGGREGATE variable = hidden compact = bit
#pragma HLS DATAFLOW
  Jobs jobs("drain.jobs");
  ParameterJobs parameter_jobs("drain.parameter_jobs");
  RowJobs row_jobs("drain.row_jobs");
  ScaleJobs scale_jobs("drain.scale_jobs");
  Stream<credit_t, 2> filled("drain.filled");
  Stream<credit_t, 2> freed("drain.freed");
  Stream<beat_t, 2> passed("drain.passed");
  Steps steps("drain.steps");
  ScaleWords scale_words("drain.scale_words");
  Stored stored("drain.stored");
  Stream<credit_t, 2> refilled("drain.refilled");
  Notices notices("drain.notices");
  Waiting waiting("drain.waiting");
  // `load_parameters` owns a buffer until it writes `filled`, `walk` until it writes `freed`.
  DoubleBuffer double_buffer;
#pragma HLS ARRAY_PARTITION variable = double_buffer complete dim = 1
#pragma HLS AGGREGATE variable = double_buffer compact = bit
#pragma HLS STREAM variable = double_buffer type = unsync
  QUASAR_PROCESS(dispatch(commands, jobs, parameter_jobs, row_jobs, scale_jobs));
  QUASAR_PROCESS(load_parameters(parameter_jobs, rows, double_buffer, filled, freed, passed));
  QUASAR_PROCESS(walk(row_jobs, double_buffer, filled, freed, steps));
  QUASAR_PROCESS(gather_scales(scale_jobs, scales, scale_words));
  QUASAR_PROCESS(requantize(jobs, steps, sums, scale_words, passed, refilled, logits, residual,
                            waiting, stored));
  QUASAR_PROCESS(store_groups(stored, own_residual, norm_residual, query, key, value, hidden,
                              refilled, notices));
  QUASAR_PROCESS(announce(notices, waiting, moments, drain_to_array, retired));
  QUASAR_JOIN();
}
