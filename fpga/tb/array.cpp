// Tests plan, the array and scores together against sums in int64: every command, 4-bit and 8-bit
// rows, ragged shapes, several passes, the most products that a packed sum holds, and one more.
#include <algorithm>
#include <string>

#include "array_core.hpp"
#include "kernel_bench.hpp"

namespace {

using bench::sample;
using config::LANES;
using config::PAIRS;
using config::TOKENS;

enum class Fill { RANDOM, WORST };

struct Bench {
  Verdict& verdict;
  Random random;
  bench::Digest digest;
  bool must_match = true;
  bool differs = false;

  Bench(Verdict& v, uint64_t seed) : verdict(v), random(seed) {}

  std::unique_ptr<bench::Rams::Input> input = std::make_unique<bench::Rams::Input>("input");
  std::unique_ptr<bench::Rams::Normed> normed = std::make_unique<bench::Rams::Normed>("normed");
  std::unique_ptr<bench::Rams::Query> query = std::make_unique<bench::Rams::Query>("query");
  std::unique_ptr<bench::Rams::Key> key = std::make_unique<bench::Rams::Key>("key");
  std::unique_ptr<bench::Rams::Value> value = std::make_unique<bench::Rams::Value>("value");
  std::unique_ptr<bench::Rams::Score> score = std::make_unique<bench::Rams::Score>("score");
  std::unique_ptr<bench::Rams::Probability> probability =
      std::make_unique<bench::Rams::Probability>("probability");
  std::unique_ptr<bench::Rams::Hidden> hidden = std::make_unique<bench::Rams::Hidden>("hidden");

  std::vector<command_t> commands;
  std::vector<beat_t> weights;
  unsigned load_tokens = 0, drain_tokens = 0, norm_tokens = 0, softmax_tokens = 0, input_tokens = 1;
  std::vector<int64_t> sums; // LANES each
  std::vector<std::string> names;
  std::vector<unsigned> valid; // lanes of each item that hold a token
  std::vector<int64_t> maxima;
  struct Expected {
    unsigned parity, key, token;
    int64_t score;
  };
  std::vector<Expected> scores;
  uint64_t words = 0; // of all passes

  void fill_memories(Fill fill) {
    auto codes = [&](auto& ram, unsigned banks, unsigned words, unsigned lanes) {
      for (unsigned b = 0; b < banks; ++b)
        for (unsigned w = 0; w < words; ++w)
          for (unsigned l = 0; l < lanes; ++l)
            ram.at(b, w)[l] = fill == Fill::WORST ? -128 : sample(random, -128, 127);
    };
    codes(*input, GROUPS * CASCADE, bank_words(config::INPUT_WORDS), LANES);
    codes(*normed, config::FRAMES * NORM_GROUPS * CASCADE, bank_words(config::NORM_WORDS),
          config::NORM_LANES);
    codes(*query, GROUPS * CASCADE, bank_words(config::QUERY_WORDS), LANES);
    codes(*hidden, GROUPS * CASCADE, bank_words(config::HIDDEN_WORDS), LANES);
    codes(*key, config::KEY_BANKS, bank_words(config::KEY_WORDS), CASCADE);
    for (unsigned b = 0; b < config::VALUE_BANKS; ++b)
      for (unsigned w = 0; w < bank_words(config::VALUE_WORDS); ++w)
        for (unsigned c = 0; c < CASCADE; ++c)
          value->at(b, w)[c] = fill == Fill::WORST ? -1 : sample(random, -128, 127);
    for (unsigned b = 0; b < 2 * EXP_GROUPS * CASCADE; ++b)
      for (unsigned w = 0; w < bank_words(config::SCORE_WORDS); ++w)
        for (unsigned l = 0; l < config::EXP_LANES; ++l)
          probability->at(b, w)[l] = fill == Fill::WORST ? 255 : sample(random, 0, 255);
  }

  int64_t activation(unsigned source, unsigned frame, unsigned token, unsigned word) {
    const unsigned t = token % TOKENS;
    switch (source) {
    case isa::source::INPUT:
      return bench::column_word(*input, t / LANES, word)[t % LANES];
    case isa::source::NORMED:
      return bench::column_word(*normed, frame * NORM_GROUPS + t / config::NORM_LANES,
                                word)[t % config::NORM_LANES];
    case isa::source::QUERY:
      return bench::column_word(*query, t / LANES, word)[t % LANES];
    default:
      return bench::column_word(*hidden, t / LANES, word)[t % LANES];
    }
  }

  void expect_row(const std::string& name, unsigned first_token, unsigned tokens,
                  const std::function<int64_t(unsigned)>& sum) {
    for (unsigned group = 0; group < ceil_div(tokens, LANES); ++group) {
      const unsigned lanes = std::min(LANES, tokens - group * LANES);
      valid.push_back(lanes);
      names.push_back(name);
      for (unsigned lane = 0; lane < LANES; ++lane)
        sums.push_back(lane < lanes ? sum(first_token + group * LANES + lane) : 0);
    }
  }

  void gemm(unsigned source, unsigned tokens, unsigned total, unsigned pass, unsigned rows4,
            unsigned rows8, bool worst) {
    const unsigned frame = unsigned(random.between(0, config::FRAMES - 1));
    const bool wait_load = random.between(0, 1), wait_norm = random.between(0, 1),
               wait_tiles = random.between(0, 1), post_load = random.between(0, 1);
    const unsigned wait_drain = unsigned(random.between(0, 3));
    const unsigned tiles = ceil_div(tokens, TOKENS);
    const bool normed = source == isa::source::NORMED;
    const unsigned most =
        normed ? std::min(config::NORM_WORDS / bench::padded(total) - tiles, 2047u) : 9;
    const unsigned first_tile = unsigned(random.between(0, most));
    const unsigned start = normed ? first_tile * bench::padded(total) : 0;
    const isa::Gemm gemm{.source = source,
                         .frame = frame,
                         .wait_load = wait_load,
                         .wait_norm = wait_norm,
                         .wait_drain_tiles = wait_tiles,
                         .wait_drain = wait_drain,
                         .post_load = post_load,
                         .tokens = tokens,
                         .columns = total,
                         .pass = pass,
                         .rows4 = rows4,
                         .rows8 = rows8,
                         .row_tiles = ceil_div(row_pairs(rows4, rows8), PAIRS),
                         .tile = first_tile};
    commands.push_back(gemm.encode());
    load_tokens += wait_load;
    norm_tokens += wait_norm ? tiles : 0;
    drain_tokens += wait_drain + (wait_tiles ? tiles : 0);
    input_tokens += post_load;

    std::vector<std::vector<int64_t>> weight(rows4 + rows8, std::vector<int64_t>(total));
    for (unsigned r = 0; r < rows4 + rows8; ++r)
      for (int64_t& w : weight[r])
        w = r < rows4 ? (worst ? (r % 2 ? -7 : 7) : sample(random, -7, 7))
            : worst   ? 127
                      : sample(random, -127, 127);
    const std::string name = "gemm " + std::to_string(tokens) + "x" + std::to_string(total) + "x" +
                             std::to_string(rows4) + "+" + std::to_string(rows8);
    for (const auto& pairs : tiles_of(rows4, rows8)) {
      std::vector<uint8_t> bytes(size_t(bench::padded(total)) * PAIRS);
      for (size_t i = size_t(total) * PAIRS; i < bytes.size(); ++i)
        bytes[i] = uint8_t(random.next()); // bytes after the last column are arbitrary
      for (unsigned i = 0; i < pairs.size(); ++i)
        for (unsigned k = 0; k < total; ++k) {
          const int64_t first = weight[pairs[i][0]][k];
          const int64_t second = pairs[i].size() > 1 ? weight[pairs[i][1]][k] * 16 : 0;
          const int64_t byte = pairs[i][0] < rows4 ? (first & 15) | second : first;
          bytes[size_t(k) * PAIRS + PAIRS - 1 - i] = uint8_t(byte);
        }
      bench::append(weights, bytes);
      for (unsigned tile = 0; tile < tiles; ++tile) {
        const unsigned here_tokens = std::min(TOKENS, tokens - tile * TOKENS);
        words += ceil_div(total, CASCADE);
        for (const auto& pair : pairs)
          for (const unsigned row : pair) {
            expect_row(name + " row " + std::to_string(row), tile * TOKENS, here_tokens,
                       [&](unsigned token) {
                         int64_t sum = 0;
                         for (unsigned k = 0; k < total; ++k)
                           sum +=
                               weight[row][k] * activation(source, frame, token,
                                                           start + tile * bench::padded(total) + k);
                         return sum;
                       });
          }
      }
    }
  }

  void unit_scores(unsigned parity, unsigned tile, unsigned tokens, unsigned keys, unsigned total,
                   unsigned base, unsigned stride) {
    const unsigned wait_drain = unsigned(random.between(0, 2));
    drain_tokens += wait_drain;
    const isa::Scores command{.parity = parity,
                              .wait_drain = wait_drain,
                              .tile = tile,
                              .tokens = tokens,
                              .keys = keys,
                              .columns = total,
                              .base = base,
                              .stride = stride};
    commands.push_back(command.encode());
    std::erase_if(scores, [&](const Expected& e) { return e.parity == parity && e.key < keys; });
    std::vector<int64_t> largest(EXP_GROUPS * config::EXP_LANES, INT64_MIN);
    for (unsigned j = 0; j < keys; ++j)
      for (unsigned t = 0; t < tokens; ++t) {
        int64_t sum = 0;
        for (unsigned k = 0; k < total; ++k)
          sum += activation(isa::source::QUERY, 0, t, tile * stride + base + k) *
                 bench::key_code(*key, j, base + k, stride);
        scores.push_back({parity, j, t, sum});
        largest[t] = std::max(largest[t], sum);
      }
    maxima.insert(maxima.end(), largest.begin(), largest.end());
    words += ceil_div(keys, PAIRS) * ceil_div(total, CASCADE);
  }

  void unit_context(unsigned parity, unsigned tile, unsigned tokens, unsigned keys, unsigned rows,
                    unsigned base, unsigned pass) {
    const unsigned wait_drain = unsigned(random.between(0, 2));
    drain_tokens += wait_drain;
    ++softmax_tokens;
    const isa::Context command{.parity = parity,
                               .wait_drain = wait_drain,
                               .tile = tile,
                               .tokens = tokens,
                               .keys = keys,
                               .rows = rows,
                               .block = base / config::VALUE_BANKS,
                               .bank = base % config::VALUE_BANKS,
                               .pass = pass,
                               .turn = ceil_div(pass, CASCADE) % config::VALUE_BANKS};
    commands.push_back(command.encode());
    words += ceil_div(rows, PAIRS) * ceil_div(keys, CASCADE);
    for (unsigned i = 0; i < rows; ++i) {
      const unsigned c = base + i;
      expect_row("context row " + std::to_string(i), 0, tokens, [&](unsigned t) {
        int64_t sum = 0;
        for (unsigned j = 0; j < keys; ++j)
          sum +=
              int64_t(bench::column_word(*probability, parity * EXP_GROUPS + t / config::EXP_LANES,
                                         j)[t % config::EXP_LANES]) *
              bench::value_code(*value, j, c, keys);
        return sum;
      });
    }
  }

  void run(uint64_t seed) {
    sim::Scheduler scheduler(seed);
    Commands<isa::depth::array_commands> command_stream;
    Beats<isa::depth::weights> weight_stream;
    Credits<isa::depth::load_to_array> load_to_array;
    Credits<isa::depth::array_to_load> array_to_load;
    Credits<isa::depth::drain_to_array> drain_to_array;
    Credits<isa::depth::norm_to_array> norm_to_array;
    Credits<isa::depth::softmax_to_array> softmax_to_array;
    ScoreCommands score_commands;
    Passes passes;
    Demands demands;
    Sums sum_stream;
    ScoreRows score_rows;
    Maxima maxima_stream;
    Retired plan_retired, scores_retired;
    const std::unique_ptr<sim::ArrayCore> array =
        sim::make_array({*input, *normed, *query, *hidden, *probability, *key, *value});
    scheduler.spawn("plan", [&] {
      plan(command_stream, load_to_array, drain_to_array, norm_to_array, softmax_to_array, passes,
           demands, score_commands, plan_retired);
    });
    scheduler.spawn("array", [&] {
      sim::drive_array(*array, passes, demands, weight_stream, array_to_load, sum_stream,
                       score_rows);
    });
    scheduler.spawn("scores", [&] {
      ::scores(score_commands, score_rows, maxima_stream, scores_retired, Write::Score(*score));
    });
    const std::vector<credit_t> loads(load_tokens, 1), drains_done(drain_tokens, 1),
        norms(norm_tokens, 1), softmaxes(softmax_tokens, 1);
    std::vector<credit_t> inputs;
    std::vector<sums_t> got;
    std::vector<maxima_t> got_maxima;
    bench::feed(scheduler, command_stream, commands);
    bench::feed(scheduler, weight_stream, weights);
    bench::feed(scheduler, load_to_array, loads);
    bench::feed(scheduler, drain_to_array, drains_done);
    bench::feed(scheduler, norm_to_array, norms);
    bench::feed(scheduler, softmax_to_array, softmaxes);
    bench::collect(scheduler, array_to_load, inputs);
    bench::collect(scheduler, sum_stream, got);
    bench::collect(scheduler, maxima_stream, got_maxima);
    scheduler.run();

    verdict.expect(command_stream.empty() && weight_stream.empty() && load_to_array.empty() &&
                       drain_to_array.empty() && norm_to_array.empty() && softmax_to_array.empty(),
                   "something was not taken\n" + scheduler.dump());
    verdict.equal(inputs.size(), size_t(input_tokens), "tokens to load");
    verdict.equal(plan_retired.written(), uint64_t(commands.size()), "commands that plan ended");
    const auto is_scores = [](const command_t& command) {
      return operation(command) == isa::Scores::CODE;
    };
    verdict.equal(scores_retired.written(),
                  uint64_t(std::count_if(commands.begin(), commands.end(), is_scores)),
                  "commands that scores ended");
    verdict.equal(got.size(), valid.size(), "items of sums");
    for (size_t i = 0; i < std::min(got.size(), valid.size()); ++i)
      for (unsigned lane = 0; lane < valid[i]; ++lane) {
        const int64_t wanted = sums[i * LANES + lane];
        digest.add(got[i][lane]);
        if (must_match)
          verdict.equal(int64_t(got[i][lane]), wanted, names[i] + ", item " + std::to_string(i));
        else
          differs |= int64_t(got[i][lane]) != wanted;
      }
    verdict.equal(got_maxima.size() * config::EXP_LANES, maxima.size(), "maxima");
    for (size_t i = 0; i < std::min(maxima.size(), got_maxima.size() * config::EXP_LANES); ++i)
      if (maxima[i] != INT64_MIN) {
        digest.add(got_maxima[i / config::EXP_LANES][i % config::EXP_LANES]);
        verdict.equal(int64_t(got_maxima[i / config::EXP_LANES][i % config::EXP_LANES]), maxima[i],
                      "maximum " + std::to_string(i));
      }
    for (const Expected& e : scores)
      verdict.equal(int64_t(score->at(e.parity * EXP_GROUPS + e.token / config::EXP_LANES,
                                      e.key)[e.token % config::EXP_LANES]),
                    e.score,
                    "score of key " + std::to_string(e.key) + ", token " + std::to_string(e.token));

    verdict.equal(scheduler.loops().at("array.issue").count, words, "words of all passes");
    scheduler.stop();
  }
};

// Samples the number of columns of a pass: all columns, or whole words.
unsigned pass_of(Random& random, unsigned columns) {
  return random.between(0, 1)
             ? columns
             : std::min(columns, bench::padded(unsigned(random.between(1, columns))));
}

uint64_t shapes(Verdict& verdict, uint64_t seed) {
  Bench bench(verdict, seed);
  Random& random = bench.random;
  bench.fill_memories(Fill::RANDOM);
  for (unsigned n = 0; n < 6; ++n) {
    switch (n == 0 ? 0 : random.between(0, 2)) {
    case 0: {
      const unsigned tokens = unsigned(random.between(1, 3 * TOKENS));
      const unsigned most = std::min({config::INPUT_WORDS, config::NORM_WORDS, config::QUERY_WORDS,
                                      config::HIDDEN_WORDS, config::WEIGHT_WORDS}) /
                            ceil_div(tokens, TOKENS) / CASCADE * CASCADE;
      const unsigned columns =
          unsigned(random.between(1, std::min(most, random.between(0, 3) == 0 ? most : 40)));
      const unsigned pass = pass_of(random, columns);
      const unsigned rows4 = unsigned(random.between(0, 5 * PAIRS));
      const unsigned rows8 = unsigned(random.between(rows4 == 0 ? 1 : 0, 2 * PAIRS));
      bench.gemm(unsigned(random.between(0, 3)), tokens, columns, pass, rows4, rows8, false);
      break;
    }
    case 1: {
      const unsigned heads = unsigned(random.between(1, 3)),
                     dimensions = unsigned(random.between(1, 12));
      const unsigned parity = unsigned(random.between(0, 1)), tile = unsigned(random.between(0, 2)),
                     tokens = unsigned(random.between(1, TOKENS)),
                     keys = unsigned(random.between(1, 5 * PAIRS)),
                     head = unsigned(random.between(0, heads - 1));
      bench.unit_scores(parity, tile, tokens, keys, dimensions, head * bench::padded(dimensions),
                        heads * bench::padded(dimensions));
      break;
    }
    default: {
      const unsigned parity = unsigned(random.between(0, 1)),
                     tokens = unsigned(random.between(1, TOKENS)),
                     keys = unsigned(random.between(1, 40)), pass = pass_of(random, keys),
                     dimensions = unsigned(random.between(1, 3 * PAIRS)),
                     head = unsigned(random.between(0, 2));
      bench.unit_context(parity, 0, tokens, keys, dimensions, head * bench::padded(dimensions),
                         pass);
    }
    }
  }
  bench.run(seed);
  return bench.digest.value();
}

// Tests the largest sums that fit a packed sum and the memories, with operands that bring the low
// field to its limit. One product more must overflow visibly.
void bounds(Verdict& verdict) {
  const int64_t half = int64_t(1) << (config::SHIFT - 1);
  const unsigned two4 = unsigned((half - 1) / (7 * 128)), one8 = unsigned(half / (15 * 128)),
                 context = unsigned((2 * half - 1) / (15 * 255));
  for (const unsigned beyond : {0u, 1u}) {
    for (unsigned kind = 0; kind < 3; ++kind) {
      const unsigned most =
          kind == 2 ? config::SCORE_WORDS : std::min(config::WEIGHT_WORDS, config::HIDDEN_WORDS);
      const unsigned bound = kind == 0 ? two4 : kind == 1 ? one8 : context;
      if (beyond == 1 && bound >= most)
        continue;
      const unsigned columns = std::min(bound, most) + beyond;
      Bench bench(verdict, 7);
      bench.must_match = beyond == 0;
      bench.fill_memories(Fill::WORST);
      if (kind == 2)
        bench.unit_context(1, 0, TOKENS, columns, PAIRS, 0, columns);
      else
        bench.gemm(isa::source::HIDDEN, TOKENS, columns, columns, kind == 0 ? 2 * PAIRS : 0,
                   kind == 0 ? 0 : PAIRS, true);
      bench.run(0);
      if (beyond == 1)
        verdict.expect(bench.differs, "one product beyond the bound goes unnoticed");
    }
  }
}

} // namespace

int main() {
  Verdict verdict("array");
  bench::Digest digest;
  for (uint64_t seed = 0; seed < 40; ++seed)
    digest.add(int64_t(shapes(verdict, seed)));
  bounds(verdict);
  std::printf("array digest %016llx\n", static_cast<unsigned long long>(digest.value()));
  return verdict.end();
}
