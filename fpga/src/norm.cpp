// norm: LayerNorm and pooling ("LayerNorm" and "Head" in docs/integer-model.md).
//
// `collect` receives the moments and `read` reads the residual. `root` computes the reciprocal
// standard deviations of a group while `normalise` works on the previous group.
#include "arithmetic.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

namespace {

using config::LANES;
using config::NORM_LANES;
using config::TOKENS;

constexpr unsigned MAX_EMBED = least(isa::MAX_EMBED, config::NORM_WORDS);
constexpr unsigned BEAT = sizeof(beat_t);
constexpr unsigned SUMS_DISTANCE =
    4; // least intervals between the write of a column's sum and its next read

struct gain_t {
  s<16> gain;
  s<16> offset;
};
using DoubleBuffer = Memory<gain_t, 2, MAX_EMBED>;

// Moments of NORM_LANES tokens.
using group_t = vec<moment_t, NORM_LANES>;

// Statistics of a token: sum, bit pairs of the variance, inverse of the root.
struct root_t {
  s<27> sum;
  u<5> bits;
  u<15> inverse;
};
using roots_t = vec<root_t, NORM_LANES>;

using word_t = vec<s<16>, NORM_LANES>;

struct stored_t {
  normed_t code;
  u<13> bank;
  u<24> address;
  u<1> last; // of a tile
  u<1> ends; // the command
};

// The fields of a command that each process needs. `pools`: the mean of the tokens is taken before
// LayerNorm.
struct collect_job_t {
  u<11> tokens;
  u<1> pools;
};
struct read_job_t {
  u<1> frame;
  u<1> pools;
  u<11> tokens;
  u<11> first;
  u<11> embed;
};
struct root_job_t {
  u<11> tokens;
  u<1> pools;
  u<11> embed;
  u<50> epsilon;
};
struct normalise_job_t {
  u<1> frame;
  u<2> pool;
  u<4> frac;
  u<11> tokens;
  u<11> first;
  u<11> embed;
};
// Types of loop counters: columns, tokens, tiles and groups.
using embed_t = decltype(isa::LayerNorm::embed);
using tokens_t = decltype(isa::LayerNorm::tokens);
using tile_t = up_to<ceil_div(most<tokens_t>, TOKENS)>;
using groups_t = up_to<NORM_GROUPS>;
static_assert(SUMS_DISTANCE <= most<embed_t>);

using GainJobs = Stream<u<11>, isa::NORM_JOBS>; // columns
using CollectJobs = Stream<collect_job_t, isa::NORM_JOBS>;
using ReadJobs = Stream<read_job_t, isa::NORM_JOBS>;
using RootJobs = Stream<root_job_t, isa::NORM_JOBS>;
using NormaliseJobs = Stream<normalise_job_t, isa::NORM_JOBS>;

using Tiles = Stream<credit_t, 2>;
using Groups = Stream<group_t, 2>;
using Pooled = Stream<moment_t, 2>;
using Roots = Stream<roots_t, 2>;
using Words = Stream<word_t, 16>;
using Stored = Stream<stored_t, 2>;
using Done = Stream<u<1>, 2>; // an item for each stored tile; 1: the last tile of a command

void dispatch(Commands<isa::depth::norm_commands>& commands, GainJobs& gain_jobs,
              CollectJobs& collect_jobs, ReadJobs& read_jobs, RootJobs& root_jobs,
              NormaliseJobs& normalise_jobs) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("norm.dispatch");
    const isa::LayerNorm command = isa::LayerNorm::decode(receive_item<fields_t>(commands));
    const u<1> pools = command.pool == isa::pooling::BEFORE;
    gain_jobs.write(command.embed);
    collect_jobs.write({command.tokens, pools});
    read_jobs.write({command.frame, pools, command.tokens, command.first, command.embed});
    root_jobs.write({command.tokens, pools, command.embed, command.epsilon});
    normalise_jobs.write(
        {command.frame, command.pool, command.frac, command.tokens, command.first, command.embed});
  }
}

void load_gains(GainJobs& jobs, Beats<isa::depth::gains>& beats, DoubleBuffer& double_buffer,
                Stream<credit_t, 2>& filled, Stream<credit_t, 2>& freed) {
  u<1> half = 0;
  unsigned free_buffers = 2;
  for (volatile bool running = true; running;) {
    const embed_t embed = jobs.read();
    if (free_buffers > 0)
      --free_buffers;
    else
      freed.read();
    beat_t beat{};
#pragma HLS ARRAY_PARTITION variable = beat.byte complete
    up_to<BEAT / 4 - 1> place = 0;
    for (embed_t d = 0; d < embed; ++d) {
#pragma HLS PIPELINE II = 1
      interval("norm.gains");
      if (place == 0)
        beat = receive_item<beat_t>(beats);
      const uint8_t* bytes = &beat.byte[4 * unsigned(place)];
      gain_t gain;
      gain.gain = int(bytes[0]) | int(bytes[1]) << 8;
      gain.offset = int(bytes[2]) | int(bytes[3]) << 8;
      double_buffer[half][d] = gain;
      place = unsigned(place) + 1 == BEAT / 4 ? 0 : unsigned(place) + 1;
    }
    filled.write(1);
    half = half == 0 ? 1 : 0;
  }
}

// Returns the number of groups of a tile's tokens.
unsigned groups_of(unsigned tokens, unsigned tile) {
  return parts_of<NORM_LANES, NORM_GROUPS>(tile_tokens(tokens, tile));
}

// Regroups the drain's moments for the norm's lanes. An item of `tiles` reports that the residual
// of a tile is stored.
void collect(CollectJobs& jobs, Moments& moments, Tiles& tiles, Groups& groups) {
  moment_t tile_moments[GROUPS * LANES > NORM_GROUPS * NORM_LANES ? GROUPS * LANES
                                                                  : NORM_GROUPS * NORM_LANES];
#pragma HLS ARRAY_PARTITION variable = tile_moments complete
  for (auto& moment : tile_moments) {
#pragma HLS UNROLL
    moment = {0, 0};
  }
  for (volatile bool running = true; running;) {
    const collect_job_t command = jobs.read();
    const unsigned tokens = command.tokens;
    for (tile_t tile = 0; unsigned(tile) * TOKENS < tokens; ++tile) {
      const up_to<GROUPS> arriving = parts_of<LANES, GROUPS>(tile_tokens(tokens, tile));
      for (up_to<GROUPS> group = 0; group < arriving; ++group) {
#pragma HLS PIPELINE II = 1
        interval("norm.collect");
        const moments_t word = receive_item<moments_t>(moments);
        for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
          set_group_item<GROUPS, LANES>(tile_moments, unsigned(group), lane, word[lane]);
        }
      }
      tiles.write(1);
      const groups_t leaving = command.pools == 1 ? 0 : groups_of(tokens, tile);
      for (groups_t group = 0; group < leaving; ++group) {
#pragma HLS PIPELINE II = 1
        interval("norm.regroup");
        group_t word;
        for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          word[lane] = group_item<NORM_GROUPS, NORM_LANES>(tile_moments, unsigned(group), lane);
        }
        groups.write(word);
      }
    }
  }
}

// Reads the residuals of a group's tokens.
word_t read_group(Read::Residual residual, unsigned frame, unsigned address, unsigned group) {
#pragma HLS INLINE
  s<16> x[NORM_GROUPS * NORM_LANES];
#pragma HLS ARRAY_PARTITION variable = x complete
  for (unsigned t = TOKENS; t < NORM_GROUPS * NORM_LANES; ++t) {
#pragma HLS UNROLL
    x[t] = 0;
  }
  for (unsigned bank = 0; bank < GROUPS; ++bank) {
#pragma HLS UNROLL
    // Each access has a constant bank: HLS counts an access with a variable bank as one access to
    // every bank.
    residual_t word{};
    for (unsigned f = 0; f < config::FRAMES; ++f) {
#pragma HLS UNROLL
      if (f == frame)
        word = residual[f * GROUPS + bank][address];
    }
    for (unsigned lane = 0; lane < LANES; ++lane) {
#pragma HLS UNROLL
      if (bank * LANES + lane < TOKENS)
        x[bank * LANES + lane] = word[lane];
    }
  }
  word_t word;
  for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
    word[lane] = group_item<NORM_GROUPS, NORM_LANES>(x, group, lane);
  }
  return word;
}

// Computes a mean of residuals, floor(numerator / divisor), one bit of its magnitude a cycle.
s<17> mean_of_residuals(const s<27>& numerator, const u<11>& divisor) {
#pragma HLS INLINE
  u<27> rest = magnitude(numerator, divisor);
  u<27> part = unsigned(divisor) << 15;
  u<16> quotient = 0;
  for (unsigned i = 0; i < 16; ++i) {
#pragma HLS PIPELINE II = 1
    interval("norm.divide");
    divide_step<27>(rest, quotient, part);
    part = unsigned(part) >> 1;
  }
  return numerator < 0 ? -int(quotient) : int(quotient);
}

// Sends the residual group by group. If the command pools first, sends the means of the columns and
// their moments instead.
void read(ReadJobs& jobs, Tiles& stored_tiles, Read::Residual residual, Pooled& pooled,
          Words& words) {
  Memory<s<16>, 1, MAX_EMBED> means;
  for (volatile bool running = true; running;) {
    const read_job_t command = jobs.read();
    const unsigned tokens = command.tokens;
    const embed_t embed = command.embed;
    if (command.pools == 1) {
      for (unsigned first = 0; first < tokens; first += TOKENS)
        stored_tiles.read();
      const unsigned count = tokens - unsigned(command.first);
      s<27> mean_sum = 0;
      u<41> mean_squares = 0;
      for (embed_t d = 0; d < embed; ++d) {
        s<27> sum = count / 2;
        groups_t group = 0;
        up_to<most<tokens_t> + TOKENS + NORM_LANES> first = 0; // of the group
        up_to<most<tokens_t> + TOKENS> tile_first = 0;
        up_to<config::RESIDUAL_WORDS + most<embed_t>> address = unsigned(d);
        while (unsigned(first) < tokens) {
#pragma HLS PIPELINE II = 1
          interval("norm.pool");
          const word_t word = read_group(residual, command.frame, address, group);
          s<27> total = 0;
          for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
            const unsigned t = unsigned(group) * NORM_LANES + lane;
            const unsigned token = unsigned(first) + lane;
            if (t < TOKENS && token >= unsigned(command.first) && token < tokens)
              total += word[lane];
          }
          sum += total;
          ++group;
          first += NORM_LANES;
          if (unsigned(group) == NORM_GROUPS) {
            group = 0;
            tile_first += TOKENS;
            first = tile_first;
            address += embed;
          }
        }
        gap(isa::declared::LOOP_GAP);
        const s<16> mean = mean_of_residuals(sum, count);
        means[0][d] = mean;
        mean_sum += mean;
        mean_squares += u<31>(mean * mean);
      }
      pooled.write({mean_sum, mean_squares});
      for (embed_t d = 0; d < embed; ++d) {
#pragma HLS PIPELINE II = 1
        interval("norm.read");
        word_t word{};
        for (unsigned lane = 1; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          word[lane] = 0;
        }
        word[0] = means[0][d];
        words.write(word);
      }
    } else {
      unsigned first = 0; // word of the tile
      for (tile_t tile = 0; unsigned(tile) * TOKENS < tokens; ++tile) {
        // The credit is a factor of the loop bound, so that HLS cannot schedule a read before it.
        const groups_t groups = groups_of(tokens, tile) * unsigned(stored_tiles.read());
        for (groups_t group = 0; group < groups; ++group) {
          for (embed_t d = 0; d < embed; ++d) {
#pragma HLS PIPELINE II = 1
            interval("norm.read");
            words.write(read_group(residual, command.frame, first + unsigned(d), group));
          }
        }
        first += unsigned(embed);
      }
    }
  }
}

// Computes (S, b, inv) of NORM_LANES tokens in parallel, one bit of each root or quotient a cycle.
void root(RootJobs& jobs, Groups& groups, Pooled& pooled, Roots& roots) {
  for (volatile bool running = true; running;) {
    const root_job_t command = jobs.read();
    const unsigned embed = command.embed;
    const bool pools = command.pools == 1;
    const unsigned tokens = pools ? 1 : unsigned(command.tokens);
    for (unsigned tile = 0; tile * TOKENS < tokens; ++tile) {
      const unsigned count = groups_of(tokens, tile);
      for (unsigned group = 0; group < count; ++group) {
#pragma HLS PIPELINE off
        interval("norm.group");
        group_t moments;
        for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          moments[lane] = {0, 0};
        }
        if (pools)
          moments[0] = pooled.read();
        else
          moments = groups.read();
        roots_t result;
        u<52> radicand[NORM_LANES];
        u<28> remainder[NORM_LANES];
        u<26> value[NORM_LANES];
        u<28> rest[NORM_LANES]; // remainder of 2^40 divided by the root
        u<16> quotient[NORM_LANES];
#pragma HLS ARRAY_PARTITION variable = radicand complete
#pragma HLS ARRAY_PARTITION variable = remainder complete
#pragma HLS ARRAY_PARTITION variable = value complete
#pragma HLS ARRAY_PARTITION variable = rest complete
#pragma HLS ARRAY_PARTITION variable = quotient complete
        for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          const s<27> sum = moments[lane].sum;
          const u<52> scaled = multiply_in_norm<u<52>>(moments[lane].squares, u<11>(embed));
          const u<52> square = multiply_in_norm<s<54>>(sum, sum);
          const u<52> variance = scaled - square + command.epsilon;
          const radicand_t high = radicand_of(variance);
          radicand[lane] = high.bits;
          remainder[lane] = 0;
          value[lane] = 0;
          result[lane].sum = sum;
          result[lane].bits = high.pairs;
        }
        for (unsigned i = 0; i < 26; ++i) {
#pragma HLS PIPELINE II = 1
          interval("norm.root");
          for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
            root_step(radicand[lane], remainder[lane], value[lane]);
          }
        }
        for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          rest[lane] = INVERT_REST;
          quotient[lane] = 0;
        }
        for (unsigned i = 0; i < 16; ++i) {
#pragma HLS PIPELINE II = 1
          interval("norm.invert");
          for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
            invert_step(rest[lane], quotient[lane], value[lane]);
          }
        }
        for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          result[lane].inverse =
              unsigned(quotient[lane]) > 32767 ? 32767 : unsigned(quotient[lane]);
        }
        roots.write(result);
      }
    }
  }
}

// Returns the bank of `normed` that holds a column of a group.
unsigned bank_of(unsigned frame, unsigned group, unsigned column) {
#pragma HLS INLINE
  return (frame * NORM_GROUPS + group) * CASCADE + column % CASCADE;
}

void normalise(NormaliseJobs& jobs, DoubleBuffer& double_buffer, Stream<credit_t, 2>& filled,
               Stream<credit_t, 2>& freed, Roots& roots, Words& words, Stored& stored) {
  Memory<s<18>, 1, MAX_EMBED> sums; // of codes, if the mean is taken after LayerNorm
  distance(sums, SUMS_DISTANCE);
  u<1> half = 0;
  for (volatile bool running = true; running;) {
    const normalise_job_t command = jobs.read();
    gap(isa::declared::COMMAND_GAP);
    const unsigned tokens = command.tokens;
    const unsigned normalised = command.pool == isa::pooling::BEFORE ? 1 : tokens;
    // The credit is a factor of the loop bound, so that HLS cannot schedule a read before it.
    const embed_t embed = unsigned(command.embed) * unsigned(filled.read());
    unsigned first = 0; // word of the tile
    for (tile_t tile = 0; unsigned(tile) * TOKENS < normalised; ++tile) {
      const groups_t groups = groups_of(normalised, tile);
      const bool last_tile = normalised - unsigned(tile) * TOKENS <= TOKENS;
      const bool pads = command.pool == isa::pooling::AFTER && unsigned(embed) < SUMS_DISTANCE;
      const embed_t period = pads ? SUMS_DISTANCE : unsigned(embed);
      roots_t root{};
      groups_t group = 0;
      embed_t d = 0;
      while (group < groups) {
#pragma HLS PIPELINE II = 1
        // The next group reads a column's sum again, one period later.
#pragma HLS DEPENDENCE variable = sums type = inter direction = RAW distance =                     \
    SUMS_DISTANCE dependent = true
        interval("norm.normalise");
        if (d >= embed) {
          if (++d == period) {
            d = 0;
            ++group;
          }
          continue;
        }
        if (d == 0)
          root = roots.read();
        const word_t word = words.read();
        const gain_t gain = double_buffer[half][d];
        stored_t item;
        s<18> total = 0;
        for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          const unsigned t = unsigned(group) * NORM_LANES + lane;
          const unsigned token = unsigned(tile) * TOKENS + t;
          const s<8> code = normalise_value(
              word[lane], root[lane].sum, root[lane].bits, root[lane].inverse, gain.gain,
              gain.offset, command.embed, command.frac, command.pool != isa::pooling::UNNORMALISED);
          item.code[lane] = code;
          if (t < TOKENS && token >= unsigned(command.first) && token < tokens)
            total += code;
        }
        item.bank = bank_of(unsigned(command.frame), group, d);
        item.address = first + unsigned(d) / CASCADE;
        item.last = group + 1 == groups && d + 1 == embed;
        item.ends = item.last == 1 && last_tile;
        if (command.pool == isa::pooling::AFTER) {
          if (tile != 0 || group != 0) {
            const s<18> before = sums[0][d];
            total += before;
          }
          sums[0][d] = total;
        } else {
          stored.write(item);
        }
        if (++d == period) {
          d = 0;
          ++group;
        }
      }
      first += bank_words(embed);
      gap(isa::declared::LOOP_GAP);
    }
    if (command.pool == isa::pooling::AFTER) {
      const unsigned count = tokens - unsigned(command.first);
      for (embed_t d = 0; d < embed; ++d) {
#pragma HLS PIPELINE II = 1
        interval("norm.mean");
        stored_t item;
        for (unsigned lane = 0; lane < NORM_LANES; ++lane) {
#pragma HLS UNROLL
          item.code[lane] = 0;
        }
        const s<18> sum = sums[0][d];
        item.code[0] = mean_of_codes(s<19>(sum + int(count / 2)), count);
        item.bank = bank_of(unsigned(command.frame), 0, d);
        item.address = unsigned(d) / CASCADE;
        item.last = d + 1 == embed;
        item.ends = item.last;
        stored.write(item);
      }
    }
    freed.write(1);
    half = half == 0 ? 1 : 0;
  }
}

void store_codes(Stored& stored, Write::Normed normed, Done& done) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("norm.store");
    stored_t item;
    if (!poll(stored, item))
      continue;
    normed[item.bank][item.address] = item.code;
    if (item.last == 1)
      done.write(item.ends);
  }
}

// Sends credits. A separate process, so that a tile is stored before plan receives its credit.
void announce(Done& done, Credits<isa::depth::norm_to_array>& norm_to_array, Retired& retired) {
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE off
    interval("norm.announce");
    const u<1> ends = done.read();
    norm_to_array.write(1);
    if (ends == 1)
      retired.write(1);
  }
}

} // namespace

void norm(Commands<isa::depth::norm_commands>& commands, Beats<isa::depth::gains>& gains,
          Moments& moments, Credits<isa::depth::norm_to_array>& norm_to_array, Retired& retired,
          Read::Residual residual, Write::Normed normed) {
#pragma HLS INTERFACE ap_ctrl_hs port = return
#pragma HLS INTERFACE axis port = commands
#pragma HLS INTERFACE axis port = gains
#pragma HLS INTERFACE axis port = moments
#pragma HLS INTERFACE axis port = norm_to_array
#pragma HLS INTERFACE axis port = retired
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = residual
#pragma HLS INTERFACE ap_memory storage_type = ram_1p latency = 1 port = normed
#pragma HLS ARRAY_PARTITION variable = residual complete dim = 1
#pragma HLS ARRAY_PARTITION variable = normed complete dim = 1
#pragma HLS AGGREGATE variable = residual compact = bit
#pragma HLS AGGREGATE variable = normed compact = bit
#pragma HLS DATAFLOW
  GainJobs gain_jobs("norm.gain_jobs");
  CollectJobs collect_jobs("norm.collect_jobs");
  ReadJobs read_jobs("norm.read_jobs");
  RootJobs root_jobs("norm.root_jobs");
  NormaliseJobs normalise_jobs("norm.normalise_jobs");
  Stream<credit_t, 2> filled("norm.filled");
  Stream<credit_t, 2> freed("norm.freed");
  Tiles tiles("norm.tiles");
  Groups groups("norm.groups");
  Pooled pooled("norm.pooled");
  Roots roots("norm.roots");
  Words words("norm.words");
  Stored stored("norm.stored");
  Done done("norm.done");
  // `load_gains` owns a buffer until it writes `filled`, `normalise` until it writes `freed`.
  DoubleBuffer double_buffer;
#pragma HLS ARRAY_PARTITION variable = double_buffer complete dim = 1
#pragma HLS AGGREGATE variable = double_buffer compact = bit
#pragma HLS STREAM variable = double_buffer type = unsync
  QUASAR_PROCESS(dispatch(commands, gain_jobs, collect_jobs, read_jobs, root_jobs, normalise_jobs));
  QUASAR_PROCESS(load_gains(gain_jobs, gains, double_buffer, filled, freed));
  QUASAR_PROCESS(collect(collect_jobs, moments, tiles, groups));
  QUASAR_PROCESS(read(read_jobs, tiles, residual, pooled, words));
  QUASAR_PROCESS(root(root_jobs, groups, pooled, roots));
  QUASAR_PROCESS(normalise(normalise_jobs, double_buffer, filled, freed, roots, words, stored));
  QUASAR_PROCESS(store_codes(stored, normed, done));
  QUASAR_PROCESS(announce(done, norm_to_array, retired));
  QUASAR_JOIN();
}
