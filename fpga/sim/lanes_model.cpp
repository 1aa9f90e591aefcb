// Models the lanes (fpga/rtl/lanes.sv) in value and time: the processes of the simulated device in
// place of the SystemVerilog. tests/fpga/test_lanes.py compares them.
#include "lanes_core.hpp"

#include <vector>

#include "arithmetic.hpp"
#include "lanes.hpp"
#include "value_banks.hpp"

namespace sim {

namespace {

using config::LANES;
using config::PAIRS;
using config::TOKENS;

namespace destination = isa::destination;

constexpr unsigned BEAT = sizeof(beat_t);
constexpr unsigned MAX_ROWS = 2 * PAIRS;
constexpr unsigned KEY_BANKS = config::KEY_BANKS;
constexpr unsigned VALUE_BANKS = config::VALUE_BANKS;
static_assert(LANES <= KEY_BANKS);
// Words of one value dimension that a group of lanes may write to.
constexpr unsigned VALUE_SPAN = ceil_div(LANES + CASCADE - 1, CASCADE);
static_assert(VALUE_SPAN <= VALUE_BANKS);
constexpr unsigned WORD_BEATS = ceil_div(2 * TOKENS, BEAT); // beats of a residual word

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

using ScaleWords = Stream<vec<scale_t, LANES>, 2 * GROUPS>;
using Stored = Stream<stored_t, 4>;
using Notices = Stream<notice_t, 4>;
// Moments until their notice. Holds more items than results and notices can be in flight, so it
// never fills.
using Waiting = Stream<moments_t, 16>;
// Logits that have found room.
using LaneLogits = Stream<s<32>, 32>;

// Gathers the scales of an attention tile into words of LANES tokens.
void gather_scales(AttentionTiles& attention_tiles, Scales& scales, ScaleWords& words) {
  while (alive()) {
    const unsigned tokens = attention_tiles.read();
    vec<scale_t, LANES> word{};
    up_to<LANES> lane = 0;
    for (unsigned token = 0; token < tokens; ++token) {
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
  stored_t item;
  item.destination = destination::LOGIT;
  item.bank = 0;
  item.byte = 0;
  item.address = 0;
  item.wrapped = 0;
  item.lanes = LANES;
  for (unsigned lane = 0; lane < LANES; ++lane) {
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
  stored_t item = nothing();
  item.ends = 1;
  return item;
}

// State of the lanes between commands. Each value dimension is a column of the projection's
// weights, so WEIGHT_WORDS bounds the means too.
using Means = Memory<s<13>, 1, least(config::QUERY_WORDS, config::WEIGHT_WORDS)>;
using Lookup = Memory<code_t, LANES, 256>; // the activation's table, one copy for each lane
using Saved = Memory<moments_t, 1, ceil_div(config::SCORE_WORDS, TOKENS) * GROUPS>;

// The angles of a group of lanes.
struct angle_t {
  s<16> cosine, sine;
};
using angles_t = vec<angle_t, LANES>;
using Angles = std::vector<angles_t>; // by group and address
constexpr unsigned RATIO = config::CLOCK_RATIO;
constexpr unsigned FAST_LANES = ceil_div(LANES, RATIO); // on the array's clock

// Two rows that are rotated: the second one, and the values of both.
struct pair_t {
  lane_row_t step{};
  s<16> z[2][GROUPS][LANES];
};

// Stores the codes of a pair. Each group of lanes takes a cycle for each row. `ends`: the command
// ends here.
void turn(const pair_t& pair, const lane_job_t& job, Angles& angles, Stored& stored, bool ends) {
  // lanes.sv turns a pair later, while others pass; the last one when its values are kept.
  for (unsigned cycle = 1; ends && cycle < ceil_div(13, RATIO); ++cycle)
    interval("drain.settle");
  const lane_row_t& step = pair.step;
  unsigned key_bank = step.key_bank, key_address = step.key_address;
  const unsigned tokens = step.tokens, groups = ceil_div(tokens, LANES);
  for (unsigned group = 0; group < groups; ++group) {
    const angles_t angle = angles.at(group * config::ANGLE_WORDS + unsigned(step.row.value_block));
    for (unsigned row = 0; row < 2; ++row) {
      interval("drain.turns");
      stored_t item = nothing();
      const unsigned column = unsigned(step.row.column) - 1 + row;
      for (unsigned lane = 0; lane < LANES; ++lane) {
        const int64_t even = int(pair.z[0][group][lane]), odd = int(pair.z[1][group][lane]);
        const int64_t c = int(angle[lane].cosine), s = int(angle[lane].sine);
        const int64_t sum = row == 0 ? even * c - odd * s : odd * c + even * s;
        item.code[lane] = clamp8(int((sum + (1 << 19)) >> 20));
      }
      item.destination = step.row.destination;
      item.lanes = least(LANES, tokens - group * LANES);
      item.byte = column % CASCADE;
      if (step.row.destination == destination::KEY) {
        item.bank = key_bank;
        item.address = (key_address + column) / CASCADE;
        item.wrapped = unsigned(item.address) + bank_words(job.stride);
      } else {
        item.bank = group * CASCADE + column % CASCADE;
        item.address = (unsigned(step.address) + column) / CASCADE;
        item.wrapped = item.address;
      }
      item.ends = ends && group + 1 == groups && row == 1;
      item.credits = item.ends == 1 && job.post == 1 ? 1 : 0;
      stored.write(item);
    }
    key_bank += LANES;
    if (key_bank >= KEY_BANKS) {
      key_bank -= KEY_BANKS;
      key_address += unsigned(job.stride);
    }
  }
}

// Requantizes the sums of Rows or Attend. In an Attend each lane has its own scale, and the
// rounding residue times the value's mean replaces the bias.
void drain_rows(const lane_job_t& job, LaneRows& rows, ScaleWords& words, Sums& sums,
                LaneLogits& logits, Read::Residual residual, Write::Residual residual_write,
                Means& means, Lookup& lookup, Saved& saved, Angles& angles, Waiting& waiting,
                Stored& stored) {
  const bool attends = job.operation == isa::Attend::CODE;
  scale_t scale[GROUPS][LANES];
  for (unsigned group = 0; group < GROUPS; ++group) {
    for (unsigned lane = 0; lane < LANES; ++lane) {
      scale[group][lane] = {0, 0, 0};
    }
  }
  moment_t now[GROUPS][LANES]; // moments of the tile so far
  s<19> column_sum[MAX_ROWS];  // of values, over the earlier tiles of tokens
  s<19> running = 0;
  lane_row_t step{};
  sums_t sum{};
  up_to<GROUPS - 1> group = 0;
  up_to<LANES - 1> logit = 0; // lane of the group's next logit
  up_to<KEY_BANKS - 1> key_bank = 0;
  decltype(lane_row_t::key_address) key_address = 0;
  up_to<VALUE_BANKS - 1> value_bank = 0;
  pair_t pair;
  const s<8> zero_point = attends ? s<8>(0) : job.zero_point;
  const unsigned value_words = bank_words(job.tokens);
  const unsigned key_stride = bank_words(job.stride);
  bool more = true;
  while (more) {
    if (group == 0 && logit == 0)
      step = receive_item<lane_row_t>(rows);
    interval(attends ? "drain.attend" : "drain.rows");
    if (group == 0 && logit == 0) {
      key_bank = step.key_bank;
      key_address = step.key_address;
      const unsigned first_bank = unsigned(step.tile_value_bank) + unsigned(step.row.value_bank);
      value_bank = first_bank >= VALUE_BANKS ? first_bank - VALUE_BANKS : first_bank;
    }
    if (attends && step.begin_tile == 1) {
      const vec<scale_t, LANES> word = words.read();
      for (unsigned lane = 0; lane < LANES; ++lane) {
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
    const unsigned bank = unsigned(job.frame) * GROUPS + unsigned(group);
    const unsigned address = unsigned(step.address) + column;

    residual_t before{};
    if (job.residual == 1)
      before = residual[bank][address];
    moments_t moments;
    const bool fresh = step.begin_tile == 1 && step.first_rows == 1;
    const bool resume = step.begin_tile == 1 && step.first_rows == 0 && step.one_tile == 0;
    moments_t earlier{};
    if (job.moments == 1 && resume)
      earlier = saved[0][unsigned(step.tile) * GROUPS + unsigned(group)];

    stored_t item = nothing();
    s<15> total = 0; // of the lanes' codes
    for (unsigned lane = 0; lane < LANES; ++lane) {
      scale_t factor = scale[group][lane];
      const s<28> product = multiply<s<28>>(factor.residue, mean);
      s<31> added = s<25>((product + 8) >> 4);
      if (!attends) {
        factor.shift = row.shift;
        added = row.bias * 16;
      }
      const s<16> mult = attends ? s<16>(factor.mantissa) : row.mult;
      const s<18> z = requantize(s<31>(sum[lane] * 16 + added), factor.shift, mult);
      pair.z[column % 2][group][lane] = z;
      const s<8> y = code_of(z, zero_point);
      s<8> code = y;
      if (job.activation == 1)
        code = lookup[lane][unsigned(int(y) + 128)];
      item.code[lane] = code;
      if (lane < lanes)
        total += code;

      s<19> x = before[lane];
      if (first + lane >= unsigned(job.skip))
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

    if (step.rotates == 0)
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
      if (last_group && first + lanes == unsigned(job.tokens))
        means[0][column] = s<40>(running * job.reciprocal + 32768) >> 16;
    } else if (row.destination == destination::RESIDUAL) {
      item.bank = bank;
      item.address = address;
      // A later command begins COMMAND_GAP cycles behind this one; lanes.sv has stored it by then.
      residual_write[bank][address] = item.residual;
    }

    const bool tile_ends = step.end_tile == 1 && step.last_rows == 1;
    if (job.moments == 1 && step.end_tile == 1) {
      if (step.last_rows == 1) {
        waiting.write(moments);
        item.has_moments = 1;
      } else if (step.one_tile == 0) {
        saved[0][unsigned(step.tile) * GROUPS + unsigned(group)] = moments;
      }
    }
    // A group's logits leave one by one.
    if (job.logits == 1) {
      const s<27> acc = sum[logit] + row.bias;
      logits.write(s<32>(s<44>(acc * row.mult + 16384) >> 15));
      logit = unsigned(logit) + 1 == lanes ? 0 : unsigned(logit) + 1;
      if (logit != 0)
        continue;
    }
    more = !(step.last == 1 && last_group);
    const bool closes = step.rotates == 1 && column % 2 == 1 && last_group;
    item.ends = !more && !closes;
    item.credits = (last_group && tile_ends && job.post_tiles == 1 ? 1 : 0) +
                   (item.ends == 1 && job.post == 1 ? 1 : 0);
    stored.write(item);
    if (closes) {
      pair.step = step;
      turn(pair, job, angles, stored, !more);
    }

    if constexpr (GROUPS > 1)
      group = last_group ? 0 : unsigned(group) + 1;
    const unsigned next_bank = unsigned(key_bank) + LANES;
    key_bank = next_bank >= KEY_BANKS ? next_bank - KEY_BANKS : next_bank;
    if (next_bank >= KEY_BANKS)
      key_address += unsigned(job.stride);
    value_bank = value_bank_after<LANES>(value_bank, first % CASCADE);
  }
}

// Fills the residual from memory: receives a word while it stores the previous one.
void fill(const lane_job_t& job, Beats<isa::depth::lane_beats>& beats,
          Write::Residual residual_write, Stored& stored) {
  constexpr unsigned STEPS = WORD_BEATS > GROUPS ? WORD_BEATS : GROUPS;
  s<16> arriving[WORD_BEATS * BEAT / 2 + GROUPS * LANES];
  s<16> leaving[GROUPS * LANES];
  for (unsigned t = 0; t < GROUPS * LANES; ++t) {
    leaving[t] = 0;
    arriving[t] = 0;
  }
  for (up_to<most<decltype(isa::Fill::words)> + 1> word = 0; word <= job.words; ++word) {
    for (up_to<STEPS> i = 0; unsigned(i) < STEPS; ++i) {
      interval("drain.fill");
      if (word < job.words && unsigned(i) < WORD_BEATS) {
        const beat_t beat = receive_item<beat_t>(beats);
        for (unsigned j = 0; j < BEAT / 2; ++j) {
          set_group_item<WORD_BEATS, BEAT / 2>(arriving, unsigned(i), j,
                                               s<16>(int32_t(little_endian(&beat.byte[2 * j], 2))));
        }
      }
      if (word > 0 && unsigned(i) < GROUPS) {
        stored_t item = nothing();
        for (unsigned lane = 0; lane < LANES; ++lane) {
          item.residual[lane] = group_item<GROUPS, LANES>(leaving, unsigned(i), lane);
        }
        item.destination = destination::RESIDUAL;
        item.bank = unsigned(job.frame) * GROUPS + unsigned(i);
        item.address = word - 1;
        residual_write[item.bank][item.address] = item.residual;
        item.filled = word == job.words && unsigned(i) + 1 == GROUPS;
        item.ends = item.filled;
        stored.write(item);
      }
    }
    for (unsigned t = 0; t < TOKENS; ++t) {
      leaving[t] = arriving[t];
    }
  }
}

// Takes the angles of all places of a tile, for each address: parts of four lanes.
void take_angles(unsigned parts, Beats<isa::depth::lane_beats>& beats, Angles& angles) {
  constexpr unsigned LANE_PARTS = ceil_div(FAST_LANES, 4), PLACES = GROUPS * RATIO;
  beat_t beat{};
  for (unsigned i = 0; i < parts; ++i) {
    interval("drain.angles");
    if (16 * i % BEAT == 0)
      beat = receive_item<beat_t>(beats);
    const unsigned place = i / LANE_PARTS % PLACES, address = i / LANE_PARTS / PLACES;
    for (unsigned j = 0; j < 4; ++j) {
      const unsigned lane = i % LANE_PARTS * 4 + j, token = place % RATIO * FAST_LANES + lane;
      if (lane >= FAST_LANES || token >= LANES)
        continue;
      const auto* bytes = &beat.byte[16 * i % BEAT + 4 * j];
      angle_t& angle = angles.at(place / RATIO * config::ANGLE_WORDS + address)[token];
      angle.cosine = int(int16_t(little_endian(bytes, 2)));
      angle.sine = int(int16_t(little_endian(bytes + 2, 2)));
    }
  }
}

void take_table(Beats<isa::depth::lane_beats>& beats, Lookup& lookup) {
  beat_t beat{};
  for (up_to<256> i = 0; i < 256; ++i) {
    interval("drain.table");
    if (unsigned(i) % BEAT == 0)
      beat = receive_item<beat_t>(beats);
    for (unsigned lane = 0; lane < LANES; ++lane) {
      lookup[lane][i] = beat.byte[unsigned(i) % BEAT];
    }
  }
}

void requantize(LaneJobs& jobs, LaneRows& rows, Sums& sums, ScaleWords& scales,
                Beats<isa::depth::lane_beats>& beats, Stream<credit_t, 2>& refilled,
                LaneLogits& logits, Read::Residual residual, Write::Residual residual_write,
                Waiting& waiting, Stored& stored) {
  Means means;
  Lookup lookup;
  Saved saved;
  Angles angles(size_t(GROUPS) * config::ANGLE_WORDS);
  while (alive()) {
    const lane_job_t job = receive_item<lane_job_t>(jobs);
    gap(isa::declared::COMMAND_GAP);
    const unsigned code = job.operation;
    if (code == isa::Rows::CODE || code == isa::Attend::CODE) {
      drain_rows(job, rows, scales, sums, logits, residual, residual_write, means, lookup, saved,
                 angles, waiting, stored);
    } else if (code == isa::Fill::CODE) {
      fill(job, beats, residual_write, stored);
      if (job.words != 0)
        refilled.read(); // the next command waits until the residual is stored
      else
        stored.write(end_alone());
    } else {
      if (job.words != 0)
        take_angles(job.words, beats, angles);
      else
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
  masked_t<cascade_t> word;
  word.enable = 1u << byte;
  for (unsigned c = 0; c < CASCADE; ++c)
    word.code[c] = code;
  return word;
}

// Returns the codes of a group by the bank of `key` of their lanes.
vec<lane_t, KEY_BANKS> keys_of(const stored_t& item) {
  vec<lane_t, KEY_BANKS> keys;
  for (unsigned b = 0; b < KEY_BANKS; ++b)
    keys[b].used = 0;
  for (unsigned lane = 0; lane < unsigned(item.lanes); ++lane)
    keys[(unsigned(item.bank) + lane) % KEY_BANKS] = {item.code[lane], 1};
  return keys;
}

// Returns the words of `value` that hold the codes of a group, by bank.
vec<masked_t<cascade_t>, VALUE_BANKS> values_of(const stored_t& item) {
  vec<masked_t<cascade_t>, VALUE_BANKS> words;
  for (unsigned b = 0; b < VALUE_BANKS; ++b)
    words[b].enable = 0;
  for (unsigned lane = 0; lane < unsigned(item.lanes); ++lane) {
    const unsigned place = unsigned(item.byte) + lane;
    auto& word = words[(unsigned(item.bank) + place / CASCADE) % VALUE_BANKS];
    word.code[place % CASCADE] = item.code[lane];
    word.enable = unsigned(word.enable) | 1u << place % CASCADE;
  }
  return words;
}

// Stores results where other kernels read them; no other process writes these memories. `announce`
// forwards the notices, so that the results are stored before another kernel receives a credit.
void store_groups(Stored& stored, Write::Residual norm_residual, Write::Query query, Write::Key key,
                  Write::Value value, Write::Hidden hidden, Stream<credit_t, 2>& refilled,
                  Notices& notices) {
  while (alive()) {
    interval("drain.store");
    stored_t item;
    if (!poll(stored, item))
      continue;
    const unsigned bank = item.bank;
    if (item.destination == destination::QUERY)
      query[bank][item.address] = item.code;
    if (item.destination == destination::HIDDEN)
      hidden[bank][item.address] = item.code;
    if (item.destination == destination::RESIDUAL)
      norm_residual[bank][item.address] = item.residual;
    if (item.destination == destination::KEY) {
      const vec<lane_t, KEY_BANKS> keys = keys_of(item);
      for (unsigned b = 0; b < KEY_BANKS; ++b) {
        if (keys[b].used == 1)
          key[b][b < bank ? item.wrapped : item.address] = key_word(keys[b].code, item.byte);
      }
    }
    if (item.destination == destination::VALUE) {
      const vec<masked_t<cascade_t>, VALUE_BANKS> words = values_of(item);
      for (unsigned b = 0; b < VALUE_BANKS; ++b) {
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
  while (alive()) {
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

void send_logits(LaneLogits& held, Logits& logits) {
  while (alive()) {
    interval("drain.logits");
    send_item(logits, held.read());
  }
}

} // namespace

void run_lanes(const LaneQueues& queues, const LaneMemories& memories) {
  const LaneQueues& q = queues;
  const LaneMemories& m = memories;
  ScaleWords scale_words("lanes.scale_words");
  Stored stored("lanes.stored");
  Stream<credit_t, 2> refilled("lanes.refilled");
  Notices notices("lanes.notices");
  Waiting waiting("lanes.waiting");
  LaneLogits logits("lanes.logits");
  QUASAR_PROCESS(gather_scales(q.attention_tiles, q.scales, scale_words));
  QUASAR_PROCESS(requantize(q.jobs, q.rows, q.sums, scale_words, q.beats, refilled, logits,
                            Read::Residual(m.residual), Write::Residual(m.residual), waiting,
                            stored));
  QUASAR_PROCESS(store_groups(stored, Write::Residual(m.norm_residual), Write::Query(m.query),
                              Write::Key(m.key), Write::Value(m.value), Write::Hidden(m.hidden),
                              refilled, notices));
  QUASAR_PROCESS(announce(notices, waiting, q.moments, q.drain_to_array, q.retired));
  QUASAR_PROCESS(send_logits(logits, q.logits));
  QUASAR_JOIN();
}

} // namespace sim
