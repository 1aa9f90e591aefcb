// Runs the network of each golden vector on the computing kernels, connected as in the block
// design, and compares each stage with the oracle. The argument is the file written by
// scripts/golden.py.
#include <algorithm>
#include <fstream>
#include <map>
#include <string>

#include "fabric.hpp"
#include "kernel_bench.hpp"

namespace {

using config::LANES;
using config::TOKENS;

namespace destination = isa::destination;
namespace kind = isa::kind;
namespace source = isa::source;

using Tensor = std::vector<int64_t>;

// The tensors of a subnet, and the oracle's results for it.
class Vectors {
  std::map<std::string, Tensor> tensors_;

public:
  void add(const std::string& name, Tensor tensor) { tensors_[name] = std::move(tensor); }
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  const Tensor& operator[](const std::string& name) const {
    if (!has(name))
      throw std::out_of_range("no tensor " + name);
    return tensors_.at(name);
  }
  unsigned number(const std::string& name) const { return unsigned((*this)[name].at(0)); }

  // Returns the rows of a layer, unpacked (docs/subnet-file.md), without their destinations.
  std::vector<MatrixRow> rows(const std::string& layer, unsigned columns) const {
    const Tensor &bits = (*this)[layer + ".bits"], &weight = (*this)[layer + ".weight"];
    std::vector<MatrixRow> rows;
    size_t at = 0;
    for (size_t r = 0; r < bits.size(); ++r) {
      MatrixRow row{};
      row.eight_bit = bits[r] == 8;
      row.bias = int((*this)[layer + ".bias"][r]);
      row.mult = int((*this)[layer + ".mult"][r]);
      row.shift = has(layer + ".shift") ? unsigned((*this)[layer + ".shift"][r]) : 0;
      for (unsigned k = 0; k < columns; ++k) {
        const unsigned byte = unsigned(weight[at + (row.eight_bit ? k : k / 2)]);
        const unsigned nibble = k % 2 == 0 ? byte & 15 : byte >> 4;
        row.weights.push_back(row.eight_bit ? int8_t(byte) : int(nibble ^ 8) - 8);
      }
      at += row.eight_bit ? columns : ceil_div(columns, 2);
      rows.push_back(std::move(row));
    }
    return rows;
  }
};

void put16(std::vector<uint8_t>& bytes, int64_t value) {
  bytes.push_back(uint8_t(value));
  bytes.push_back(uint8_t(value >> 8));
}

class Network : public sim::Fabric {
  Verdict& verdict;
  bench::Digest& digest;
  const std::string subnet;
  const Vectors& vectors;
  const unsigned embed = number("config.embed"), prefix = number("config.prefix_tokens"),
                 kernel = number("config.patch.kernel"), channels = number("config.image.channels"),
                 grid = unsigned(vectors["position"].size()) / embed, tokens = prefix + grid,
                 tiles = ceil_div(tokens, TOKENS);
  std::vector<s<32>> logits;

  unsigned number(const std::string& field) const { return vectors.number(field); }

  // Compares the stored values of a stage, [rows][columns], with the oracle's.
  template <typename Stored>
  void holds(const std::string& stage, unsigned rows, unsigned columns, const Stored& stored) {
    const Tensor& golden = vectors["golden." + stage];
    verdict.equal(golden.size(), size_t(rows) * columns, subnet + ": values of " + stage);
    for (size_t i = 0; i < golden.size(); ++i) {
      const unsigned row = unsigned(i) / columns, column = unsigned(i) % columns;
      const int64_t value = stored(row, column);
      digest.add(value);
      verdict.equal(value, golden[i],
                    subnet + ": " + stage + "[" + std::to_string(row) + "][" +
                        std::to_string(column) + "]");
    }
  }
  // Returns a function that reads the code of (token, column) in a memory of tokens.
  template <unsigned BANK_LANES = LANES, typename Ram>
  static auto token_words(Ram& ram, unsigned columns) {
    return [&ram, columns](unsigned token, unsigned column) {
      const unsigned lane = token % TOKENS,
                     address = token / TOKENS * bench::padded(columns) + column;
      return int64_t(bench::column_word(ram, lane / BANK_LANES, address)[lane % BANK_LANES]);
    };
  }
  static auto residual_words(bench::Rams::Residual& ram, unsigned columns) {
    return [&ram, columns](unsigned token, unsigned column) {
      const unsigned lane = token % TOKENS;
      return int64_t(ram.at(lane / LANES, token / TOKENS * columns + column)[lane % LANES]);
    };
  }

  void run() {
    scheduler().run();
    verdict.expect(array_commands_.empty() && drain_commands_.empty() && norm_commands_.empty() &&
                       softmax_commands_.empty() && weights_.empty() && rows_.empty() &&
                       gains_.empty() && sums_.empty() && maxima_.empty() && scales_.empty(),
                   subnet + ": something was not taken\n" + dump());
  }

  // Runs Gemm and Rows. `place` maps a row's index to its destination and column. Every `part`
  // columns begin a new word of CASCADE columns; 0: all columns are one part.
  void product(const std::string& layer, unsigned from, unsigned columns, isa::Rows fields,
               const std::function<std::pair<unsigned, unsigned>(unsigned)>& place,
               unsigned part = 0) {
    std::vector<MatrixRow> rows = vectors.rows(layer, columns);
    for (unsigned r = 0; r < rows.size(); ++r)
      std::tie(rows[r].destination, rows[r].column) = place(r);
    if (part != 0) {
      const unsigned all = columns / part * bench::padded(part);
      for (MatrixRow& row : rows) {
        std::vector<int> weights(all);
        for (unsigned k = 0; k < columns; ++k)
          weights[k / part * bench::padded(part) + k % part] = row.weights[k];
        row.weights = std::move(weights);
      }
      columns = all;
    }
    const auto eight = std::stable_partition(rows.begin(), rows.end(),
                                             [](const MatrixRow& row) { return !row.eight_bit; });
    const uint64_t rows4 = uint64_t(eight - rows.begin()), rows8 = rows.size() - rows4;
    const isa::Gemm gemm{.source = from,
                         .wait_norm = from == source::NORMED,
                         .tokens = fields.tokens,
                         .columns = columns,
                         .pass = columns,
                         .rows4 = rows4,
                         .rows8 = rows8,
                         .row_tiles =
                             ceil_div(row_pairs(unsigned(rows4), unsigned(rows8)), config::PAIRS)};
    array_commands_.write(gemm.encode());
    fields.moments = fields.kind == kind::RESIDUAL;
    fields.rows4 = rows4;
    fields.rows8 = rows8;
    fields.reciprocal = ((2 << 20) + tokens) / (2 * tokens);
    drain_commands_.write(fields.encode());
    std::vector<beat_t> weights, parameters;
    for (const RowTile& tile : row_tiles(rows)) {
      bench::append(weights, tile.weights);
      bench::append(parameters, tile.parameters);
    }
    bench::feed(scheduler(), weights_, weights);
    bench::feed(scheduler(), rows_, parameters);
    run();
  }
  void update(const std::string& layer, unsigned from, unsigned columns, unsigned skip,
              const std::string& stage, unsigned part = 0) {
    product(
        layer, from, columns,
        {.kind = kind::RESIDUAL, .tokens = tokens, .skip = skip, .stride = embed},
        [](unsigned r) { return std::pair(destination::RESIDUAL, r); }, part);
    holds(stage, tokens, embed, residual_words(residual_, embed));
    holds(stage, tokens, embed, residual_words(norm_residual_, embed));
  }

  void norm(const std::string& layer, unsigned pool, const std::string& stage, unsigned kept) {
    std::vector<uint8_t> bytes;
    for (unsigned d = 0; d < embed; ++d) {
      put16(bytes, vectors[layer + ".gain"][d]);
      put16(bytes, vectors[layer + ".bias"][d]);
    }
    const std::vector<beat_t> beats = bench::beats_of(bytes);
    const isa::LayerNorm command{.pool = pool,
                                 .frac = number(layer + ".frac"),
                                 .tokens = tokens,
                                 .first = pool == isa::pooling::NONE ? 0 : prefix,
                                 .embed = embed,
                                 .epsilon = vectors[layer + ".epsilon"][0]};
    norm_commands_.write(command.encode());
    bench::feed(scheduler(), gains_, beats);
    run();
    holds(stage, kept, embed, token_words<config::NORM_LANES>(normed_, embed));
  }

  void patches() {
    const Tensor& image = vectors["golden.image"];
    const int height = int(number("config.image.height")),
              width = int(number("config.image.width")),
              stride = int(number("config.patch.stride")), pad = int(number("config.patch.pad"));
    const int columns = (width + 2 * pad - int(kernel)) / stride + 1;
    const unsigned length = channels * kernel * kernel;
    for (unsigned p = 0; p < grid; ++p)
      for (unsigned k = 0; k < length; ++k) {
        const int y = int(p) / columns * stride - pad + int(k / kernel % kernel),
                  x = int(p) % columns * stride - pad + int(k % kernel);
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        const int64_t pixel = inside
                                  ? image[size_t(y * width + x) * channels + k / (kernel * kernel)]
                                  : number("config.patch.pad_value");
        const unsigned token = prefix + p, lane = token % TOKENS;
        const unsigned address = token / TOKENS * bench::padded(length) + k;
        bench::column_word(input_, lane / LANES, address)[lane % LANES] = pixel - 128;
      }
  }

  void fill() {
    std::vector<beat_t> beats;
    for (unsigned tile = 0; tile < tiles; ++tile)
      for (unsigned d = 0; d < embed; ++d) {
        std::vector<uint8_t> bytes;
        for (unsigned t = 0; t < TOKENS; ++t) {
          const unsigned token = tile * TOKENS + t;
          put16(bytes, token < prefix   ? vectors["prefix"][token * embed + d]
                       : token < tokens ? vectors["position"][(token - prefix) * embed + d]
                                        : 0);
        }
        bench::append(beats, bytes);
      }
    drain_commands_.write(isa::Fill{.words = tiles * embed}.encode());
    bench::feed(scheduler(), rows_, beats);
    run();
  }

  // Returns the column of a dimension in query, key and value, with each head padded to whole
  // words.
  static unsigned of_head(unsigned column, unsigned dimensions) {
    return column / dimensions * bench::padded(dimensions) + column % dimensions;
  }

  void attention(const std::string& block, unsigned heads, unsigned dimensions) {
    const unsigned inner = heads * bench::padded(dimensions);
    for (unsigned head = 0; head < heads; ++head)
      for (unsigned tile = 0; tile < tiles; ++tile) {
        const unsigned parity = (head * tiles + tile) % 2,
                       here = std::min(TOKENS, tokens - tile * TOKENS),
                       base = head * bench::padded(dimensions);
        const uint64_t mult = uint64_t(vectors[block + ".attn.mult"][head]);
        const isa::Scores scores{.parity = parity,
                                 .tile = tile,
                                 .tokens = here,
                                 .keys = tokens,
                                 .columns = dimensions,
                                 .base = base,
                                 .stride = inner};
        array_commands_.write(scores.encode());
        const isa::Softmax softmax{.parity = parity,
                                   .tokens = here,
                                   .keys = tokens,
                                   .out_shift = vectors[block + ".attn.out_shift"][head],
                                   .out_mult = vectors[block + ".attn.out_mult"][head],
                                   .mult = mult,
                                   .cap = ((uint64_t(1) << 31) - (1 << 20)) / mult};
        softmax_commands_.write(softmax.encode());
        const isa::Context context{.parity = parity,
                                   .tile = tile,
                                   .tokens = here,
                                   .keys = tokens,
                                   .rows = dimensions,
                                   .block = base / config::VALUE_BANKS,
                                   .bank = base % config::VALUE_BANKS,
                                   .pass = tokens,
                                   .turn = ceil_div(tokens, CASCADE) % config::VALUE_BANKS};
        array_commands_.write(context.encode());
        const isa::Attend attend{
            .tile = tile, .tokens = here, .rows = dimensions, .base = base, .stride = inner};
        drain_commands_.write(attend.encode());
        run();
      }
    holds(block + ".attn", tokens, heads * dimensions, [&](unsigned token, unsigned c) {
      return token_words(query_, inner)(token, of_head(c, dimensions));
    });
  }

  void block(unsigned index) {
    const std::string layer = "blocks." + std::to_string(index), config = "config." + layer;
    const unsigned heads = number(config + ".heads"), dimensions = number(config + ".head_dim"),
                   inner = heads * dimensions, stride = heads * bench::padded(dimensions),
                   hidden = number(config + ".hidden");
    norm(layer + ".norm1", 0, layer + ".norm1", tokens);
    product(layer + ".qkv", source::NORMED, embed, {.tokens = tokens, .stride = stride},
            [=](unsigned r) { // query, key, value
              return std::pair(r / inner, of_head(r % inner, dimensions));
            });
    holds(layer + ".qkv", tokens, 3 * inner, [&](unsigned token, unsigned row) {
      const unsigned c = of_head(row % inner, dimensions);
      return row < inner       ? token_words(query_, stride)(token, c)
             : row < 2 * inner ? int64_t(bench::key_code(key_, token, c, stride))
                               : int64_t(bench::value_code(value_, token, c, tokens));
    });
    attention(layer, heads, dimensions);
    update(layer + ".proj", source::QUERY, inner, 0, layer + ".mid", dimensions);
    norm(layer + ".norm2", 0, layer + ".norm2", tokens);
    std::vector<uint8_t> table;
    for (const int64_t code : vectors[layer + ".gelu"])
      table.push_back(uint8_t(code));
    const std::vector<beat_t> beats = bench::beats_of(table);
    drain_commands_.write(isa::Table{}.encode());
    bench::feed(scheduler(), rows_, beats);
    run();
    product(layer + ".fc1", source::NORMED, embed,
            {.activation = 1,
             .tokens = tokens,
             .zero_point = vectors[config + ".fc1_zero_point"][0],
             .stride = bench::padded(hidden)},
            [](unsigned r) { return std::pair(destination::HIDDEN, r); });
    holds(layer + ".act", tokens, hidden, token_words(hidden_, hidden));
    update(layer + ".fc2", source::HIDDEN, hidden, 0, layer + ".x");
  }

public:
  Network(sim::Dram& dram, uint64_t seed, Verdict& v, bench::Digest& d, std::string name,
          const Vectors& tensors)
      : Fabric(dram, seed), verdict(v), digest(d), subnet(std::move(name)), vectors(tensors) {}

  void frame() {
    patches();
    fill();
    update("embed", source::INPUT, channels * kernel * kernel, prefix, "embed");
    unsigned blocks = 0;
    while (vectors.has("config.blocks." + std::to_string(blocks) + ".heads"))
      block(blocks++);
    norm("norm", number("config.pool"), "pooled", 1);
    bench::collect(scheduler(), logits_, logits);
    product("head", source::NORMED, embed, {.kind = kind::LOGITS, .tokens = 1},
            [](unsigned r) { return std::pair(destination::LOGIT, r); });
    std::vector<unsigned> sorted, order; // 4-bit rows first; as logits arrive
    for (const int64_t bits : {4, 8})
      for (unsigned r = 0; r < number("config.outputs"); ++r)
        if (vectors["head.bits"][r] == bits)
          sorted.push_back(r);
    const unsigned rows4 = unsigned(std::ranges::count(vectors["head.bits"], 4));
    for (const auto& tile : tiles_of(rows4, unsigned(sorted.size()) - rows4))
      for (const auto& pair : tile)
        for (const unsigned row : pair)
          order.push_back(sorted[row]);
    std::vector<int64_t> by_class(order.size());
    verdict.equal(logits.size(), order.size(), subnet + ": logits");
    for (size_t i = 0; i < std::min(logits.size(), order.size()); ++i)
      by_class[order[i]] = int64_t(logits[i]);
    holds("logits", 1, unsigned(order.size()), [&](unsigned, unsigned c) { return by_class[c]; });
  }
};

} // namespace

int main(int argc, char** argv) {
  Verdict verdict("golden");
  bench::Digest digest;
  std::map<std::string, Vectors> subnets;
  std::ifstream in(argc == 2 ? argv[1] : "");
  std::string subnet, tensor;
  for (size_t count; in >> subnet >> tensor >> count;) {
    Tensor values(count);
    for (int64_t& value : values)
      in >> value;
    subnets[subnet].add(tensor, std::move(values));
  }
  verdict.expect(in.eof() && !subnets.empty(), "the golden vectors are there");
  sim::Dram dram(1); // no kernel that runs here reads it
  for (const auto& [name, vectors] : subnets)
    for (const uint64_t seed : {0u, 1u})
      Network(dram, seed, verdict, digest, name, vectors).frame();
  std::printf("golden digest %016llx\n", static_cast<unsigned long long>(digest.value()));
  return verdict.end();
}
