// Tests the drain and the lanes alone against docs/integer-model.md in int64: every command, 4-bit
// and 8-bit rows, every destination, ragged shapes, clamps at both ends, dead rows, the largest
// shifts.
#include <algorithm>
#include <array>
#include <string>
#include <unordered_set>

#include "kernel_bench.hpp"
#include "lanes_core.hpp"
#include "reference.hpp"

namespace {

using bench::sample;
using config::LANES;
using config::PAIRS;
using config::TOKENS;
using reference::clamp8;
using reference::requant16;
using reference::rshift;
using reference::sat16;
namespace destination = isa::destination;
namespace kind = isa::kind;

struct Row {
  int64_t bias, mult, shift;
  unsigned destination, column;
  int pair = -1; // of the head, if it is rotated
};

// The inputs, and the expected contents of memories and queues.
struct Bench {
  Verdict& verdict;
  Random random;
  bench::Digest digest;
  static constexpr unsigned MOST_TOKENS = 3 * TOKENS;

  std::unique_ptr<bench::Rams::Residual> residual =
      std::make_unique<bench::Rams::Residual>("residual");
  std::unique_ptr<bench::Rams::Residual> norm_residual =
      std::make_unique<bench::Rams::Residual>("norm residual");
  std::unique_ptr<bench::Rams::Query> query = std::make_unique<bench::Rams::Query>("query");
  std::unique_ptr<bench::Rams::Key> key = std::make_unique<bench::Rams::Key>("key");
  std::unique_ptr<bench::Rams::Value> value = std::make_unique<bench::Rams::Value>("value");
  std::unique_ptr<bench::Rams::Hidden> hidden = std::make_unique<bench::Rams::Hidden>("hidden");

  inline static uint64_t cycles = 0; // of all runs, up to the last results
  uint64_t ends = 0;

  std::vector<command_t> commands;
  std::vector<beat_t> beats;
  std::vector<sums_t> sums;
  std::vector<scale_t> scales;
  std::vector<int64_t> logits;
  std::vector<std::array<int64_t, 2>> moments; // LANES for each group; squares < 0: no token
  unsigned credits = 0;                        // to the array
  std::array<int64_t, 256> table{};
  std::vector<int64_t> means = std::vector<int64_t>(config::QUERY_WORDS);
  // [frame * RESIDUAL_WORDS + word][token of the tile]
  std::vector<std::vector<int64_t>> expected_residual;
  // An expected code, and its place in a memory.
  struct Code {
    std::string name;
    const code_t* stored;
    int64_t code;
  };
  std::vector<Code> codes;
  // These places, and those of lanes without a token in the same words.
  std::unordered_set<const code_t*> written;
  uint64_t opens = 0; // cycle from which credits are taken

  Bench(Verdict& v, uint64_t seed) : verdict(v), random(seed) {
    clear(*query);
    clear(*hidden);
    clear(*key);
    clear(*value);
    expected_residual.assign(size_t(config::FRAMES) * config::RESIDUAL_WORDS,
                             std::vector<int64_t>(TOKENS));
    for (unsigned frame = 0; frame < config::FRAMES; ++frame)
      for (unsigned word = 0; word < config::RESIDUAL_WORDS; ++word)
        for (unsigned g = 0; g < GROUPS; ++g)
          for (unsigned lane = 0; lane < LANES; ++lane) {
            const int64_t x = sample(random, -32767, 32767);
            residual->at(frame * GROUPS + g, word)[lane] = x;
            norm_residual->at(frame * GROUPS + g, word)[lane] = x;
            if (g * LANES + lane < TOKENS)
              expected_residual[size_t(frame) * config::RESIDUAL_WORDS + word][g * LANES + lane] =
                  x;
          }
  }

  void take_table() {
    commands.push_back(isa::Table{}.encode());
    std::vector<uint8_t> bytes(256);
    for (unsigned i = 0; i < 256; ++i) {
      table[i] = sample(random, -128, 127);
      bytes[i] = uint8_t(table[i]);
    }
    bench::append(beats, bytes);
  }

  // Random angles of some tokens, for heads of `pairs` pairs. [token][pair]: cosine, sine.
  std::vector<std::vector<std::array<int64_t, 2>>> angle;
  void take_angles(unsigned tokens, unsigned pairs) {
    constexpr unsigned RATIO = config::CLOCK_RATIO, FAST = ceil_div(LANES, RATIO);
    angle.assign(tokens, std::vector<std::array<int64_t, 2>>(pairs));
    for (auto& of_token : angle)
      for (auto& [c, s] : of_token) {
        c = sample(random, -(1 << 14), 1 << 14);
        s = sample(random, -(1 << 14), 1 << 14);
      }
    std::vector<uint8_t> bytes;
    for (unsigned tile = 0; tile < ceil_div(tokens, TOKENS); ++tile)
      for (unsigned pair = 0; pair < pairs; ++pair)
        for (unsigned group = 0; group < GROUPS; ++group)
          for (unsigned cycle = 0; cycle < RATIO; ++cycle)
            for (unsigned lane = 0; lane < ceil_div(FAST, 4) * 4; ++lane) {
              const unsigned of_item = cycle * FAST + lane, t = group * LANES + of_item,
                             token = tile * TOKENS + t;
              const bool is_there = lane < FAST && of_item < LANES && t < TOKENS && token < tokens;
              for (unsigned i = 0; i < 2; ++i) {
                const int64_t x = is_there ? angle[token][pair][i] : 0;
                bytes.push_back(uint8_t(x));
                bytes.push_back(uint8_t(x >> 8));
              }
            }
    commands.push_back(isa::Table{.words = bytes.size() / 16}.encode());
    bench::append(beats, bytes);
  }

  void fill(unsigned frame, unsigned words) {
    commands.push_back(isa::Fill{.frame = frame, .words = words}.encode());
    for (unsigned word = 0; word < words; ++word) {
      std::vector<uint8_t> bytes(2 * TOKENS);
      for (unsigned t = 0; t < TOKENS; ++t) {
        const int64_t x = sample(random, -32767, 32767);
        expected_residual[size_t(frame) * config::RESIDUAL_WORDS + word][t] = x;
        bytes[2 * t] = uint8_t(x);
        bytes[2 * t + 1] = uint8_t(x >> 8);
      }
      bench::append(beats, bytes);
    }
  }

  void fill_all(unsigned frame, unsigned words, int64_t x) {
    commands.push_back(isa::Fill{.frame = frame, .words = words}.encode());
    for (unsigned word = 0; word < words; ++word) {
      std::vector<uint8_t> bytes(2 * TOKENS);
      for (unsigned t = 0; t < TOKENS; ++t) {
        expected_residual[size_t(frame) * config::RESIDUAL_WORDS + word][t] = x;
        bytes[2 * t] = uint8_t(x);
        bytes[2 * t + 1] = uint8_t(x >> 8);
      }
      bench::append(beats, bytes);
    }
  }

  int64_t sample_sum(const Row& row, bool wild) {
    // Either up to the integer model's bound, or close to the clamps of the result.
    const int64_t bound = (int64_t(1) << 26) - 1 - std::abs(row.bias);
    if (wild || row.mult == 0)
      return sample(random, -bound, bound);
    const int64_t span = std::min(bound, (int64_t(1) << row.shift) * 64);
    return sample(random, -span, span);
  }

  Row sample_row(unsigned destination, unsigned column) {
    const int64_t kind = random.between(0, 9);
    Row row;
    row.bias = sample(random, -(1 << 20), 1 << 20);
    row.mult = kind == 0 ? 0 : sample(random, 1 << 14, (1 << 15) - 1);
    row.shift = sample(random, kind < 5 ? 1 : 8, kind < 5 ? 30 : 16);
    row.destination = destination;
    row.column = column;
    return row;
  }

  void rows(isa::Rows task, const std::function<Row(unsigned)>& row_at, bool wild) {
    const int64_t n = task.tokens, reciprocal = ((int64_t(1) << 20) + n / 2) / n;
    task.reciprocal = reciprocal;
    commands.push_back(task.encode());
    const unsigned tiles = ceil_div(task.tokens, TOKENS);
    credits += (task.post_tiles == 1 ? tiles : 0) + unsigned(task.post);
    const unsigned rows4 = task.rows4;
    const auto row_tiles = tiles_of(rows4, unsigned(task.rows8));
    unsigned next_row = 0;
    std::vector<int64_t> value_sum(rows4 + unsigned(task.rows8));
    std::vector<std::array<int64_t, 2>> moment(static_cast<size_t>(n));
    std::vector<int64_t> even(static_cast<size_t>(n)); // z of a pair's first row
    for (size_t row_tile = 0; row_tile < row_tiles.size(); ++row_tile) {
      std::vector<Row> here;
      for (const auto& pair : row_tiles[row_tile])
        for (size_t i = 0; i < pair.size(); ++i)
          here.push_back(row_at(next_row++));
      std::vector<uint8_t> bytes;
      for (const Row& row : here)
        append_parameters(bytes, {int(row.bias), int(row.mult), unsigned(row.shift),
                                  row.destination, row.column, row.pair});
      bench::append(beats, bytes);
      const unsigned row_base = next_row - unsigned(here.size());
      for (unsigned tile = 0; tile < tiles; ++tile) {
        const unsigned tokens = tile_tokens(task.tokens, tile);
        for (unsigned r = 0; r < here.size(); ++r) {
          const Row& row = here[r];
          for (unsigned group = 0; group < ceil_div(tokens, LANES); ++group) {
            sums_t item;
            for (unsigned lane = 0; lane < LANES; ++lane) {
              const unsigned in_tile = group * LANES + lane, token = tile * TOKENS + in_tile;
              const int64_t sum = sample_sum(row, wild);
              item[lane] = sum;
              if (in_tile < tokens && row.pair >= 0) {
                const int64_t z = requant16(row.bias + sum, row.shift, row.mult);
                if (row.column % 2 == 1)
                  expect_rotated(row, token, {even[token], z}, unsigned(task.stride));
                even[token] = z;
              } else if (in_tile < tokens &&
                         (task.pairs == 0 || row.destination != destination::LOGIT)) {
                expect(task, row, token, row.bias + sum, value_sum[row_base + r], moment[token]);
              }
              if (task.kind == kind::LOGITS && in_tile < tokens)
                logits.push_back(((row.bias + sum) * row.mult + (1 << 14)) >> 15);
            }
            sums.push_back(item);
          }
          if (row.destination == destination::VALUE && tile + 1 == tiles)
            means[row.column] = (value_sum[row_base + r] * reciprocal + (1 << 15)) >> 16;
        }
        if (task.moments == 1 && row_tile + 1 == row_tiles.size())
          for (unsigned group = 0; group < ceil_div(tokens, LANES); ++group)
            for (unsigned lane = 0; lane < LANES; ++lane)
              moments.push_back(group * LANES + lane < tokens
                                    ? moment[tile * TOKENS + group * LANES + lane]
                                    : std::array<int64_t, 2>{0, -1});
      }
    }
  }

  void expect(const isa::Rows& task, const Row& row, unsigned token, int64_t acc,
              int64_t& value_sum, std::array<int64_t, 2>& moment) {
    if (task.kind == kind::LOGITS)
      return;
    const int64_t z = requant16(acc, row.shift, row.mult);
    const unsigned tile = token / TOKENS, t = token % TOKENS, c = row.column, stride = task.stride;
    if (task.kind == kind::RESIDUAL) {
      const size_t address = (size_t(task.tile) + tile) * stride + c;
      int64_t& x = expected_residual[size_t(task.frame) * config::RESIDUAL_WORDS + address][t];
      if (token >= unsigned(task.skip))
        x = std::clamp<int64_t>(x + z, -32767, 32767);
      moment[0] += x;
      moment[1] += x * x;
      return;
    }
    int64_t code = clamp8(rshift(z, 6) + int64_t(task.zero_point));
    if (task.activation == 1)
      code = table[size_t(code + 128)];
    const std::string name = "destination " + std::to_string(row.destination) + ", token " +
                             std::to_string(token) + ", column " + std::to_string(c);
    if (row.destination == destination::QUERY) {
      expect_word(name, bench::column_word(*query, t / LANES, tile * stride + c), t % LANES, code);
    } else if (row.destination == destination::HIDDEN) {
      expect_word(name, bench::column_word(*hidden, t / LANES, tile * stride + c), t % LANES, code);
    } else if (row.destination == destination::KEY) {
      expect_code(name, bench::key_code(*key, token, c, stride), code);
    } else {
      value_sum += code;
      expect_code(name, bench::value_code(*value, token, c, unsigned(task.tokens)), code);
    }
  }

  // Expects the codes of both rows of a pair, the first of which has the column before.
  void expect_rotated(const Row& row, unsigned token, std::array<int64_t, 2> z, unsigned stride) {
    const auto [c, s] = angle[token][size_t(row.pair)];
    const std::array<int64_t, 2> codes = {clamp8(rshift(z[0] * c - z[1] * s, 20)),
                                          clamp8(rshift(z[1] * c + z[0] * s, 20))};
    const unsigned tile = token / TOKENS, t = token % TOKENS;
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned column = row.column - 1 + i;
      const std::string name =
          "rotated: token " + std::to_string(token) + ", column " + std::to_string(column);
      if (row.destination == destination::QUERY)
        expect_word(name, bench::column_word(*query, t / LANES, tile * stride + column), t % LANES,
                    codes[i]);
      else
        expect_code(name, bench::key_code(*key, token, column, stride), codes[i]);
    }
  }

  void expect_code(const std::string& name, const code_t& stored, int64_t code) {
    codes.push_back({name, &stored, code});
    written.insert(&stored);
  }

  void expect_word(const std::string& name, const codes_t& word, unsigned lane, int64_t code) {
    expect_code(name, word[lane], code);
    for (const code_t& other : word.v)
      written.insert(&other);
  }

  // Fills a memory with zeros: ap_int has no value of its own at first.
  template <typename T, unsigned BANKS, unsigned WORDS>
  static void clear(bench::Ram<T, BANKS, WORDS>& ram) {
    for (unsigned bank = 0; bank < BANKS; ++bank)
      for (unsigned word = 0; word < WORDS; ++word)
        for (code_t& code : ram.at(bank, word).v)
          code = 0;
  }

  // Expects that a memory holds codes only where they were expected.
  template <typename T, unsigned BANKS, unsigned WORDS>
  void expect_no_more(bench::Ram<T, BANKS, WORDS>& ram) {
    for (unsigned bank = 0; bank < BANKS; ++bank)
      for (unsigned word = 0; word < WORDS; ++word)
        for (const code_t& code : ram.at(bank, word).v)
          if (code != 0 && written.count(&code) == 0)
            return verdict.expect(false, ram.name_ + " holds a code that nobody sent there");
  }

  void attend(unsigned tile, unsigned tokens, unsigned rows, unsigned base, unsigned stride) {
    const unsigned post = unsigned(random.between(0, 1));
    credits += post;
    const isa::Attend command{
        .post = post, .tile = tile, .tokens = tokens, .rows = rows, .base = base, .stride = stride};
    commands.push_back(command.encode());
    const bool edges = random.between(0, 1) == 1;
    std::vector<std::array<int64_t, 3>> scale(tokens);
    for (auto& [r, p, residue] : scale) {
      r = sample(random, 1 << 14, (1 << 15) - 1);
      p = sample(random, 1, 30);
      residue = sample(random, -(1 << 13), 1 << 13);
      // In the first dimension the residue's product ends in a half.
      for (int64_t x = 1; edges && x < 4096; ++x)
        if (((x * means[base]) & 255) == 232) {
          r = (1 << 15) - 1, p = 1, residue = x;
          break;
        }
      scale_t item;
      item.mantissa = r;
      item.shift = p;
      item.residue = residue;
      scales.push_back(item);
    }
    for (unsigned d = 0; d < rows; ++d)
      for (unsigned group = 0; group < ceil_div(tokens, LANES); ++group) {
        sums_t item;
        for (unsigned lane = 0; lane < LANES; ++lane) {
          const unsigned t = group * LANES + lane;
          const auto [r, p, residue] = scale[std::min(t, tokens - 1)];
          const int64_t span = random.between(0, 1) ? int64_t(1) << 24
                                                    : std::min<int64_t>(1 << 24, int64_t(512) << p);
          int64_t a = sample(random, -span, span);
          if (edges && d == 0 && p == 1)
            a = (63 - ((residue * means[base] + 8) >> 4)) / 16 + 8 * random.between(-60, 60);
          item[lane] = a;
          if (t >= tokens)
            continue;
          const int64_t numerator = 16 * a + ((residue * means[base + d] + 8) >> 4);
          const int64_t code = clamp8(rshift(rshift(sat16(rshift(numerator, p)) * r, 15), 6));
          const unsigned address = tile * stride + base + d;
          expect_word("context of token " + std::to_string(t) + ", dimension " + std::to_string(d),
                      bench::column_word(*query, t / LANES, address), t % LANES, code);
        }
        sums.push_back(item);
      }
  }

  void run(uint64_t seed) {
    sim::Scheduler scheduler(seed);
    Commands<isa::depth::drain_commands> command_stream;
    Beats<isa::depth::rows> row_stream;
    Sums sum_stream;
    Scales scale_stream;
    Moments moment_stream;
    Logits logit_stream;
    Credits<isa::depth::drain_to_array> drain_to_array;
    LaneJobs lane_jobs("lane_jobs");
    LaneRows lane_rows("lane_rows");
    AttentionTiles attention_tiles("attention_tiles");
    Beats<isa::depth::lane_beats> lane_beats("lane_beats");
    Retired retired;
    scheduler.spawn("drain", [&] {
      drain(command_stream, row_stream, lane_jobs, lane_rows, attention_tiles, lane_beats);
    });
    scheduler.spawn("lanes", [&] {
      sim::run_lanes({lane_jobs, lane_rows, attention_tiles, scale_stream, lane_beats, sum_stream,
                      moment_stream, logit_stream, drain_to_array, retired},
                     {*residual, *norm_residual, *query, *key, *value, *hidden});
    });
    std::vector<moments_t> got_moments;
    std::vector<s<32>> got_logits;
    std::vector<credit_t> got_credits;
    // Both sides of the queues stall.
    const auto offers = [seed](uint64_t queue) {
      return bench::pauses(5 * seed + queue, seed % 2 == 0 ? 0 : 30);
    };
    const auto takes = bench::pauses(5 * seed + 4, seed % 3 == 0 ? 0 : seed % 3 == 1 ? 20 : 90);
    const auto last = [this, takes] {
      ends = std::max(ends, sim::running->now);
      takes();
      sim::running->now = std::max(sim::running->now, opens);
    };
    bench::feed(scheduler, command_stream, commands, offers(0));
    bench::feed(scheduler, row_stream, beats, offers(1));
    bench::feed(scheduler, sum_stream, sums, offers(2));
    bench::feed(scheduler, scale_stream, scales,
                seed % 3 == 2 ? bench::pauses(5 * seed + 3, 97) : offers(3));
    bench::collect(scheduler, moment_stream, got_moments, last);
    bench::collect(scheduler, logit_stream, got_logits, last);
    bench::collect(scheduler, drain_to_array, got_credits, last);
    scheduler.run();
    verdict.expect(command_stream.empty() && row_stream.empty() && sum_stream.empty() &&
                       scale_stream.empty(),
                   "something was not taken\n" + scheduler.dump());
    verdict.equal(got_credits.size(), size_t(credits), "credits to the array");
    verdict.equal(retired.written(), uint64_t(commands.size()), "commands ended");
    verdict.equal(got_logits.size(), logits.size(), "logits");
    for (size_t i = 0; i < std::min(logits.size(), got_logits.size()); ++i) {
      digest.add(int64_t(got_logits[i]));
      verdict.equal(int64_t(got_logits[i]), logits[i], "logit " + std::to_string(i));
    }
    verdict.equal(got_moments.size() * LANES, moments.size(), "moments");
    for (size_t i = 0; i < std::min(moments.size(), got_moments.size() * LANES); ++i)
      if (moments[i][1] >= 0) {
        const moment_t& moment = got_moments[i / LANES][i % LANES];
        digest.add(int64_t(moment.sum));
        digest.add(int64_t(moment.squares));
        verdict.equal(int64_t(moment.sum), moments[i][0], "sum of token " + std::to_string(i));
        verdict.equal(int64_t(moment.squares), moments[i][1],
                      "squares of token " + std::to_string(i));
      }
    for (const Code& code : codes) {
      digest.add(int64_t(*code.stored));
      verdict.equal(int64_t(*code.stored), code.code, code.name);
    }
    codes.clear();
    expect_no_more(*query);
    expect_no_more(*hidden);
    expect_no_more(*key);
    expect_no_more(*value);
    for (size_t i = 0; i < expected_residual.size(); ++i)
      for (unsigned t = 0; t < TOKENS; ++t) {
        const size_t bank = i / config::RESIDUAL_WORDS * GROUPS + t / LANES,
                     word = i % config::RESIDUAL_WORDS;
        const int64_t wanted = expected_residual[i][t];
        if (defined(i, t)) {
          verdict.equal(int64_t(residual->at(bank, word)[t % LANES]), wanted, "residual");
          verdict.equal(int64_t(norm_residual->at(bank, word)[t % LANES]), wanted,
                        "norm's residual");
        }
      }
    scheduler.stop();
    cycles += ends;
    ends = 0;
  }

  // Returns true if a residual is defined. Residuals of a ragged tile's missing tokens are not.
  std::function<bool(size_t, unsigned)> defined = [](size_t, unsigned) { return true; };
};

uint64_t attention_inputs(Verdict& verdict, uint64_t seed) {
  Bench bench(verdict, seed);
  Random& random = bench.random;
  const bool wild = random.between(0, 1);
  const unsigned tokens = unsigned(random.between(1, Bench::MOST_TOKENS));
  const unsigned heads = unsigned(random.between(1, 3)),
                 dimensions = unsigned(random.between(1, 9));
  const unsigned inner = heads * dimensions;
  // Rows of keys, values and queries, in random order and with random widths.
  std::vector<std::array<unsigned, 2>> outputs;
  for (const unsigned to : {destination::KEY, destination::VALUE, destination::QUERY})
    for (unsigned c = 0; c < inner; ++c)
      outputs.push_back({to, c});
  for (size_t i = outputs.size(); i > 1; --i)
    std::swap(outputs[i - 1], outputs[size_t(random.between(0, int64_t(i) - 1))]);
  const unsigned rows4 = unsigned(random.between(0, 3 * inner));
  bench.rows(
      {.post_tiles = random.between(0, 1),
       .post = random.between(0, 1),
       .tokens = tokens,
       .stride = bench::padded(inner),
       .rows4 = rows4,
       .rows8 = 3 * inner - rows4},
      [&](unsigned r) { return bench.sample_row(outputs[r][0], outputs[r][1]); }, wild);
  bench.run(seed);
  return bench.digest.value();
}

// Tests rotated queries and keys, in pairs, 4-bit ones first; then values, which are not rotated.
uint64_t rotated(Verdict& verdict, uint64_t seed) {
  if (config::ANGLE_WORDS == 0)
    return 0;
  Bench bench(verdict, seed);
  Random& random = bench.random;
  const unsigned tokens = unsigned(random.between(1, Bench::MOST_TOKENS));
  const unsigned pairs = unsigned(random.between(1, 4)), heads = unsigned(random.between(1, 3)),
                 head = bench::padded(2 * pairs), stride = heads * head;
  // The second time with other angles, into the same columns.
  for (unsigned n = 0; n < 2; ++n) {
    bench.codes.clear();
    bench.take_angles(tokens, pairs);
    struct Pair {
      unsigned to, head, pair;
    };
    std::vector<Pair> all;
    for (const unsigned to : {destination::KEY, destination::QUERY})
      for (unsigned h = 0; h < heads; ++h)
        for (unsigned pair = 0; pair < pairs; ++pair)
          all.push_back({to, h, pair});
    for (size_t i = all.size(); i > 1; --i)
      std::swap(all[i - 1], all[size_t(random.between(0, int64_t(i) - 1))]);
    const size_t four = size_t(random.between(0, int64_t(all.size())));
    // Rows of zeros keep the pairs in one tile.
    const size_t whole = PAIRS / 2, eight = all.size() - four, room = PAIRS - four % PAIRS;
    const bool divided = 2 * (eight % whole) > room && room % 2 == 1;
    const bool last = eight > 0 && eight % whole == 0 && room == PAIRS;
    const size_t rows8 = 2 * eight + (eight / whole - last) * (PAIRS % 2) + divided;
    std::vector<Row> rows;
    const size_t rows4 = 2 * four;
    size_t row4 = 0, row8 = rows4;
    const auto add = [&](size_t i) {
      const Pair& pair = all[i / 2];
      Row row = bench.sample_row(pair.to, pair.head * head + 2 * pair.pair + unsigned(i % 2));
      row.pair = int(pair.pair);
      rows.push_back(row);
    };
    for (const auto& tile : tiles_of(unsigned(rows4), unsigned(rows8)))
      for (size_t i = 0; i < tile.size(); ++i)
        if (tile[i][0] >= rows4 && row8 % 2 == 0 && i + 1 == PAIRS)
          rows.push_back({0, 0, 1, destination::LOGIT, 0});
        else
          for (const unsigned row : tile[i])
            add(row < rows4 ? row4++ : row8++);
    bench.rows(
        {.post = 1,
         .tokens = tokens,
         .stride = stride,
         .pairs = pairs,
         .rows4 = rows4,
         .rows8 = rows8},
        [&](unsigned r) { return rows[r]; }, random.between(0, 1));
    const int32_t zero = sample(random, -99, 99);
    if (random.between(0, 1))
      bench.rows(
          {.post = 1, .tokens = tokens, .zero_point = zero, .stride = stride, .rows4 = stride},
          [&](unsigned r) { return bench.sample_row(destination::VALUE, r); }, false);
  }
  bench.run(seed);
  return bench.digest.value();
}

// Seeds from here on test the longest sequence that fits `hidden`, and values of one column.
constexpr uint64_t EDGES = 12;

// Tests attention tiles with means of values. The first item after a single column needs its mean;
// rows behind an attention tile need none.
uint64_t context(Verdict& verdict, uint64_t seed) {
  Bench bench(verdict, seed);
  Random& random = bench.random;
  const unsigned tokens = unsigned(random.between(1, Bench::MOST_TOKENS));
  const unsigned most = seed < EDGES ? 9 : 1;
  const unsigned heads = unsigned(random.between(1, std::min(most, 3u))),
                 dimensions = unsigned(random.between(1, most));
  const unsigned inner = heads * dimensions, stride = heads * bench::padded(dimensions);
  const unsigned rows4 = unsigned(random.between(0, inner));
  const bool wild = random.between(0, 1);
  bench.rows(
      {.post = 1, .tokens = tokens, .stride = stride, .rows4 = rows4, .rows8 = inner - rows4},
      [&](unsigned r) {
        const unsigned column = r / dimensions * bench::padded(dimensions) + r % dimensions;
        return bench.sample_row(destination::VALUE, column);
      },
      wild);
  for (unsigned head = 0; head < heads; ++head)
    for (unsigned tile = 0; tile < ceil_div(tokens, TOKENS); ++tile)
      bench.attend(tile, std::min(TOKENS, tokens - tile * TOKENS), dimensions,
                   head * bench::padded(dimensions), stride);
  bench.rows(
      {.tokens = tokens, .stride = stride, .rows8 = stride},
      [&](unsigned r) { return bench.sample_row(destination::HIDDEN, r); }, wild);
  bench.run(seed);
  return bench.digest.value();
}

// Tests keys up to the last word of their memory. The last group has lanes without a token; a write
// of such a lane would be outside the memory.
uint64_t full_keys(Verdict& verdict, uint64_t seed) {
  bench::Digest digest;
  for (unsigned tokens = config::KEY_BANKS; tokens <= Bench::MOST_TOKENS;
       tokens += config::KEY_BANKS) {
    if (tokens % TOKENS % LANES == 0)
      continue;
    Bench bench(verdict, seed);
    const unsigned stride = config::KEY_WORDS / (tokens / config::KEY_BANKS) / CASCADE * CASCADE;
    bench.rows(
        {.post = 1, .tokens = tokens, .stride = stride, .rows4 = 3},
        [&](unsigned r) { return bench.sample_row(destination::KEY, stride - 1 - r); }, false);
    bench.run(seed);
    digest.add(int64_t(bench.digest.value()));
  }
  return digest.value();
}

uint64_t hidden(Verdict& verdict, uint64_t seed) {
  Bench bench(verdict, seed);
  Random& random = bench.random;
  const int64_t most = seed >= EDGES ? 3 : 30;
  const unsigned rows4 = unsigned(random.between(0, most)),
                 rows8 = unsigned(random.between(rows4 == 0, most));
  const unsigned held = config::HIDDEN_WORDS / bench::padded(rows4 + rows8) * TOKENS;
  const unsigned tokens = seed >= EDGES ? std::min(bench::MAX_TOKENS, held)
                                        : unsigned(random.between(1, Bench::MOST_TOKENS));
  const int64_t zero_point = sample(random, -128, 127);
  const bool wild = random.between(0, 1);
  bench.take_table();
  bench.rows(
      {.activation = 1,
       .post_tiles = 1,
       .tokens = tokens,
       .zero_point = zero_point,
       .stride = bench::padded(rows4 + rows8),
       .rows4 = rows4,
       .rows8 = rows8,
       .tile = random.between(0, 2047)},
      [&](unsigned r) { return bench.sample_row(destination::HIDDEN, rows4 + rows8 - 1 - r); },
      wild);
  bench.run(seed);
  return bench.digest.value();
}

// Tests a fill, two updates, then logits.
uint64_t residual(Verdict& verdict, uint64_t seed) {
  Bench bench(verdict, seed);
  Random& random = bench.random;
  const unsigned tokens = seed % 4 == 0 ? 1 : unsigned(random.between(1, Bench::MOST_TOKENS));
  // After a single row the next command reads the residual soon.
  const unsigned embed = seed == 1 ? 1 : unsigned(random.between(1, 40)),
                 frame = unsigned(random.between(0, config::FRAMES - 1));
  const unsigned tiles = ceil_div(tokens, TOKENS);
  if (random.between(0, 3) != 0)
    bench.fill(frame, tiles * embed);
  for (unsigned n = 0; n < 2; ++n) {
    const unsigned rows4 = unsigned(random.between(0, embed));
    const bool wild = random.between(0, 1);
    const unsigned tile = n == 0 ? 0 : unsigned(random.between(0, tiles - 1));
    const unsigned here = tokens - tile * TOKENS;
    bench.rows(
        {.kind = kind::RESIDUAL,
         .frame = frame,
         .moments = random.between(0, 1),
         .post_tiles = random.between(0, 1),
         .post = random.between(0, 1),
         .tokens = here,
         .skip = random.between(0, 1) ? random.between(0, here) : 0,
         .stride = embed,
         .rows4 = rows4,
         .rows8 = embed - rows4,
         .tile = tile},
        [&](unsigned r) { return bench.sample_row(destination::RESIDUAL, embed - 1 - r); }, wild);
  }
  const unsigned classes = unsigned(random.between(1, 40)),
                 rows4 = unsigned(random.between(0, classes));
  bench.rows(
      {.kind = kind::LOGITS,
       .tokens = random.between(0, 1) ? 1 : tokens,
       .rows4 = rows4,
       .rows8 = classes - rows4},
      [&](unsigned r) {
        Row row = bench.sample_row(destination::LOGIT, r);
        row.mult = random.between(0, 3) == 0 ? 1 << 14 : sample(random, 0, (1 << 15) - 1);
        row.shift = 0;
        return row;
      },
      true);
  bench.defined = [=](size_t i, unsigned t) {
    const size_t word = i % config::RESIDUAL_WORDS;
    const bool touched = i / config::RESIDUAL_WORDS == frame && word < size_t(tiles) * embed;
    return !touched || word / embed * TOKENS + t < tokens;
  };
  bench.run(seed);
  return bench.digest.value();
}

// Tests the widths of the moments and of a value column's sum: many columns and tokens at a clamp.
uint64_t widths(Verdict& verdict, uint64_t seed) {
  bench::Digest digest;
  {
    Bench bench(verdict, seed);
    const unsigned embed = std::min<unsigned>(config::RESIDUAL_WORDS, 768);
    bench.fill_all(0, embed, seed % 2 ? 32767 : -32767);
    const auto row = [&](unsigned r) { return Row{0, 0, 1, destination::RESIDUAL, embed - 1 - r}; };
    bench.rows(
        {.kind = kind::RESIDUAL, .moments = 1, .tokens = TOKENS, .stride = embed, .rows4 = embed},
        row, false);
    bench.run(seed);
    digest.add(int64_t(bench.digest.value()));
  }
  for (const unsigned tokens : {32u, least(config::SCORE_WORDS, 300u)}) {
    Bench bench(verdict, seed);
    const bool small = tokens == 32;
    bench.rows(
        {.post = 1,
         .tokens = tokens,
         .zero_point = small ? 0 : -128,
         .stride = bench::padded(2),
         .rows4 = 2},
        [&](unsigned r) {
          Row row = bench.sample_row(destination::VALUE, r);
          row.mult = small ? row.mult : 0;
          return row;
        },
        false);
    for (unsigned n = 0; n < 9; ++n)
      bench.attend(n, TOKENS, 2, 0, bench::padded(2));
    bench.run(seed);
    digest.add(int64_t(bench.digest.value()));
  }
  return digest.value();
}

// Tests commands with more results than find room while nobody takes them: those of `needed` tiles.
uint64_t no_room(Verdict& verdict, isa::Rows task, unsigned needed) {
  constexpr uint64_t SEED = 2;
  const unsigned tiles =
      std::min({unsigned(config::RESIDUAL_WORDS), config::SCORE_WORDS / TOKENS, 40u});
  task.tokens = tiles * TOKENS;
  task.stride = 1;
  task.rows4 = 1;
  const unsigned to = task.kind == kind::LOGITS ? destination::LOGIT : destination::RESIDUAL;
  Bench bench(verdict, SEED);
  bench.opens = 20000;
  for (unsigned n = 0; n < ceil_div(needed, tiles); ++n)
    bench.rows(task, [&](unsigned) { return bench.sample_row(to, 0); }, false);
  bench.run(SEED);
  return bench.digest.value();
}

} // namespace

int main() {
  Verdict verdict("drain");
  bench::Digest digest;
  for (uint64_t seed = 0; seed < EDGES; ++seed)
    for (const auto test : {attention_inputs, full_keys, context, hidden, residual, rotated})
      digest.add(int64_t(test(verdict, seed)));
  for (const auto test : {context, hidden})
    digest.add(int64_t(test(verdict, EDGES)));
  for (uint64_t seed = 1; seed < 3; ++seed)
    digest.add(int64_t(widths(verdict, seed)));
  const std::pair<isa::Rows, unsigned> tasks[] = {
      {{.kind = kind::RESIDUAL, .moments = 1}, config::MOMENTS_DEPTH + 100},
      {{.kind = kind::RESIDUAL, .post_tiles = 1}, isa::depth::drain_to_array + 100},
      {{.kind = kind::LOGITS}, ceil_div(isa::depth::logits + 100, TOKENS)}};
  for (const auto& [task, tiles] : tasks)
    digest.add(int64_t(no_room(verdict, task, tiles)));
  std::printf("drain digest %016llx\n", static_cast<unsigned long long>(digest.value()));
  std::printf("drain cycles %llu\n", static_cast<unsigned long long>(Bench::cycles));
  return verdict.end();
}
