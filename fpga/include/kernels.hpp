// Declares the kernels, the items of the queues and the words of the memories
// (docs/accelerator.md).
//
// A memory of tokens has one bank for each group of tokens, so that storing a group needs no byte
// enables. Column d of tile t of a frame (or parity) f is word `t * D + d` of bank `f * GROUPS +
// group`.
#pragma once

#include "commands.hpp"
#include "lane_items.hpp"
#include "memory.hpp"
#include "stream.hpp"
#include "types.hpp"

// Groups of a tile's tokens: one group is the input of the drain, the norm or the softmax in a
// cycle.
constexpr unsigned GROUPS = ceil_div(config::TOKENS, config::LANES);
constexpr unsigned NORM_GROUPS = ceil_div(config::TOKENS, config::NORM_LANES);
constexpr unsigned EXP_GROUPS = ceil_div(config::TOKENS, config::EXP_LANES);

// Slices in a cascade. Column k of a memory is in bank k mod CASCADE of its group, at word k div
// CASCADE.
constexpr unsigned CASCADE = config::CASCADE;
constexpr unsigned bank_words(unsigned columns) { return ceil_div(columns, CASCADE); }

using code_t = s<8>;
using codes_t = vec<code_t, config::LANES>;
using normed_t = vec<code_t, config::NORM_LANES>;
using residual_t = vec<s<16>, config::LANES>;
using scores_t = vec<s<24>, config::EXP_LANES>;
using probabilities_t = vec<u<8>, config::EXP_LANES>;
using cascade_t = vec<code_t, CASCADE>; // C dimensions of a key, or C tokens of one value dimension

using sums_t = vec<s<27>, config::LANES>;
struct moment_t {
  s<27> sum;
  u<41> squares;
};
using moments_t = vec<moment_t, config::LANES>;
using maxima_t = scores_t;                      // of one group
using score_row_t = vec<s<24>, config::TOKENS>; // one key's scores
// Size of a Gemm's weights: words of C columns, and tiles of row pairs.
struct demand_t {
  u<13> words;
  u<16> tiles;
};
using isa::packed_pass_t;
// Reports a frame to `store`: `sound` is 1 if the checks of all its transfers were right; `nonce`
// is that of its input (0: no input was read).
struct frame_check_t {
  u<1> sound;
  u<32> nonce;
};
struct scale_t {
  u<15> mantissa;
  u<5> shift;
  s<15> residue;
};

// Bits and numbers of the items of several fields.
template <> struct item_bits<moment_t> {
  static constexpr int value =
      ITEM_BITS<decltype(moment_t::sum)> + ITEM_BITS<decltype(moment_t::squares)>;
};
template <> struct item_bits<demand_t> {
  static constexpr int value =
      ITEM_BITS<decltype(demand_t::words)> + ITEM_BITS<decltype(demand_t::tiles)>;
};
template <> struct item_bits<frame_check_t> {
  static constexpr int value =
      ITEM_BITS<decltype(frame_check_t::sound)> + ITEM_BITS<decltype(frame_check_t::nonce)>;
};
template <> struct item_bits<scale_t> {
  static constexpr int value = ITEM_BITS<decltype(scale_t::mantissa)> +
                               ITEM_BITS<decltype(scale_t::shift)> +
                               ITEM_BITS<decltype(scale_t::residue)>;
};
template <> struct item_bits<fields_t> {
  static constexpr int value = ITEM_BITS<decltype(fields_t::word)>;
};
template <> struct item_bits<packed_pass_t> {
  static constexpr int value = ITEM_BITS<decltype(packed_pass_t::word)>;
};
template <> struct item_bits<beat_t> {
  static constexpr int value = ITEM_BITS<decltype(beat_t::byte)>;
};

template <typename F> void each_number(F& f, moment_t& moment) {
#pragma HLS INLINE
  f(moment.sum);
  f(moment.squares);
}
template <typename F> void each_number(F& f, demand_t& demand) {
#pragma HLS INLINE
  f(demand.words);
  f(demand.tiles);
}
template <typename F> void each_number(F& f, frame_check_t& check) {
#pragma HLS INLINE
  f(check.sound);
  f(check.nonce);
}
template <typename F> void each_number(F& f, scale_t& scale) {
#pragma HLS INLINE
  f(scale.mantissa);
  f(scale.shift);
  f(scale.residue);
}
template <typename F> void each_number(F& f, fields_t& fields) {
#pragma HLS INLINE
  each_number(f, fields.word);
}
template <typename F> void each_number(F& f, packed_pass_t& pass) {
#pragma HLS INLINE
  each_number(f, pass.word);
}
template <typename F> void each_number(F& f, beat_t& beat) {
#pragma HLS INLINE
  each_number(f, beat.byte);
}

template <unsigned DEPTH> using Commands = Queue<fields_t, DEPTH>;
template <unsigned DEPTH> using Beats = Queue<beat_t, DEPTH>;
template <unsigned DEPTH> using Credits = Stream<credit_t, DEPTH>;
using ScoreCommands = Commands<isa::depth::score_commands>;
using Passes = Queue<packed_pass_t, isa::depth::passes>;
using Demands = Queue<demand_t, isa::depth::demands>;
using Sums = Queue<sums_t, isa::depth::sums>;
using ScoreRows = Queue<score_row_t, isa::depth::scores>;
using Moments = Queue<moments_t, config::MOMENTS_DEPTH>;
using Maxima = Queue<maxima_t, config::MAXIMA_DEPTH>;
using Scales = Queue<scale_t, config::SCALES_DEPTH>;
using LaneJobs = Queue<lane_job_t, isa::depth::lane_jobs>;
using LaneRows = Queue<lane_row_t, isa::depth::lane_rows>;
using AttentionTiles = Queue<u<11>, isa::depth::attention_tiles>; // their tokens
using Logits = Stream<s<32>, isa::depth::logits>;
using Checks = Queue<frame_check_t, isa::depth::checks>;
// The widest item of an AXI4-Stream: 512 bytes.
static_assert(ITEM_BITS<sums_t> <= 4096 && ITEM_BITS<score_row_t> <= 4096 &&
              ITEM_BITS<moments_t> <= 4096 && ITEM_BITS<maxima_t> <= 4096);
// Events for the counters. A kernel writes 1 when it ends a command. The host starts fetch and
// store, so these also write 0 when they begin.
using Retired = UnqueuedStream<u<1>>;

// `Masked` is the port of a memory with byte enables.
template <template <typename, unsigned, unsigned> class Port,
          template <typename, unsigned, unsigned> class Masked>
struct Memories {
  using Input = Port<codes_t, GROUPS * CASCADE, bank_words(config::INPUT_WORDS)>;
  using Residual = Port<residual_t, config::FRAMES * GROUPS, config::RESIDUAL_WORDS>;
  using Normed =
      Port<normed_t, config::FRAMES * NORM_GROUPS * CASCADE, bank_words(config::NORM_WORDS)>;
  using Query = Port<codes_t, GROUPS * CASCADE, bank_words(config::QUERY_WORDS)>;
  using Key = Masked<cascade_t, config::KEY_BANKS, bank_words(config::KEY_WORDS)>;
  using Value = Masked<cascade_t, config::VALUE_BANKS, bank_words(config::VALUE_WORDS)>;
  using Score = Port<scores_t, 2 * EXP_GROUPS, config::SCORE_WORDS>;
  using Probability =
      Port<probabilities_t, 2 * EXP_GROUPS * CASCADE, bank_words(config::SCORE_WORDS)>;
  using Hidden = Port<codes_t, GROUPS * CASCADE, bank_words(config::HIDDEN_WORDS)>;
};
using Read = Memories<ReadPort, ReadPort>;
using Write = Memories<WritePort, MaskedPort>;

void fetch(Bus<port_t> commands, uint32_t count, uint32_t base, uint32_t seed,
           Commands<isa::depth::load_commands>& load_commands,
           Commands<isa::depth::array_commands>& array_commands,
           Commands<isa::depth::drain_commands>& drain_commands,
           Commands<isa::depth::norm_commands>& norm_commands,
           Commands<isa::depth::softmax_commands>& softmax_commands, Retired& retired,
           uint32_t* magic, uint32_t* abi, uint32_t* hash_low, uint32_t* hash_high,
           uint32_t* error);

void load(Bus<port_t> memory0, Bus<port_t> memory1, Bus<port_t> memory2, Bus<port_t> memory3,
          uint32_t seed, Commands<isa::depth::load_commands>& commands,
          Beats<isa::depth::weights>& weights, Beats<isa::depth::rows>& rows,
          Beats<isa::depth::gains>& gains, Credits<isa::depth::array_to_load>& array_to_load,
          Credits<isa::depth::load_to_array>& load_to_array, Checks& checks, Retired& retired,
          Write::Input patches);

void plan(Commands<isa::depth::array_commands>& commands,
          Credits<isa::depth::load_to_array>& load_to_array,
          Credits<isa::depth::drain_to_array>& drain_to_array,
          Credits<isa::depth::norm_to_array>& norm_to_array,
          Credits<isa::depth::softmax_to_array>& softmax_to_array, Passes& passes, Demands& demands,
          ScoreCommands& score_commands, Retired& retired);

void scores(ScoreCommands& commands, ScoreRows& scores, Maxima& maxima, Retired& retired,
            Write::Score score);

// Plans the work of the lanes (fpga/rtl/lanes.sv): sends them commands, rows, the tokens of
// attention tiles, and the beats of tables and fills.
void drain(Commands<isa::depth::drain_commands>& commands, Beats<isa::depth::rows>& rows,
           LaneJobs& lane_jobs, LaneRows& lane_rows, AttentionTiles& attention_tiles,
           Beats<isa::depth::lane_beats>& lane_beats);

void norm(Commands<isa::depth::norm_commands>& commands, Beats<isa::depth::gains>& gains,
          Moments& moments, Credits<isa::depth::norm_to_array>& norm_to_array, Retired& retired,
          Read::Residual residual, Write::Normed normed);

void softmax(Commands<isa::depth::softmax_commands>& commands, Maxima& maxima, Scales& scales,
             Credits<isa::depth::softmax_to_array>& softmax_to_array, Retired& retired,
             Read::Score score, Write::Probability probability);

void store(Bus<port_t> memory, uint32_t count, Logits& logits, Checks& checks, Retired& retired);
