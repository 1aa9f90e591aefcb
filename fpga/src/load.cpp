// load: reads weights, row parameters, tables and patches from memory. It sends beats to their unit
// unchanged, but gathers patches into words of all tokens. After a reset the host writes the
// arena's addresses and starts load once; load never ends.
#include "check.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

namespace {

constexpr unsigned BEAT_BYTES = isa::PORT_BYTES * config::PORTS;
constexpr unsigned BEAT_WORDS = BEAT_BYTES / 4;
// Transfers that load requests ahead of the current one. The adapter of a master with latency 0
// accepts five requests. A sixth would block load, which must read the beats of the first: a
// deadlock.
constexpr unsigned AHEAD = isa::TRANSFERS_AHEAD;
static_assert(AHEAD + 1 <= 5);
// Beats of one word of all tokens.
constexpr unsigned PATCH_BEATS = ceil_div(config::TOKENS, BEAT_BYTES);

uint32_t word_of(const beat_t& beat, unsigned i) {
#pragma HLS INLINE
  return beat.byte[4 * i] | beat.byte[4 * i + 1] << 8 | beat.byte[4 * i + 2] << 16 |
         uint32_t(beat.byte[4 * i + 3]) << 24;
}

// Returns the XOR contribution of a beat to the check.
uint32_t share(const beat_t& beat) {
#pragma HLS INLINE
  uint32_t words[BEAT_WORDS];
#pragma HLS ARRAY_PARTITION variable = words complete
  for (unsigned i = 0; i < BEAT_WORDS; ++i) {
#pragma HLS UNROLL
    words[i] = word_of(beat, i);
  }
  return check_share(words);
}

void place(const port_t& stripe, unsigned port, beat_t& beat) {
#pragma HLS INLINE
  for (unsigned i = 0; i < isa::PORT_BYTES; ++i) {
#pragma HLS UNROLL
    beat.byte[isa::PORT_BYTES * port + i] = stripe.byte[i];
  }
}

// Fields of a command that load still needs after requesting its beats.
struct Taken {
  bool transfer;
  uint8_t target;
  uint8_t frame;
  bool begins;
  bool wait_array;
  bool post_array;
  bool own; // the key equals `seed`: the command is of the driver that started load
  decltype(isa::Load::beats) beats; // of a transfer; of LoadEnd: the frame's transfers
};

// Requests a command's beats, plus one for their check, on the ports of the configuration.
Taken take(const fields_t& command, uint32_t seed, Bus<port_t>& memory0, Bus<port_t>& memory1,
           Bus<port_t>& memory2, Bus<port_t>& memory3) {
#pragma HLS INLINE
  if (operation(command) != isa::Load::CODE) {
    const isa::LoadEnd end = isa::LoadEnd::decode(command);
    return {false, 0, uint8_t(end.frame), false, false, false, true, uint32_t(end.transfers)};
  }
  const isa::Load transfer = isa::Load::decode(command);
  const uint64_t first = uint32_t(transfer.address);
  const uint32_t beats = uint32_t(transfer.beats);
  memory0.read_request(first, beats + 1);
  if constexpr (config::PORTS > 1)
    memory1.read_request(first, beats + 1);
  if constexpr (config::PORTS > 2)
    memory2.read_request(first, beats + 1);
  if constexpr (config::PORTS > 3)
    memory3.read_request(first, beats + 1);
  return {true,
          uint8_t(transfer.target),
          uint8_t(transfer.frame),
          transfer.begins != 0,
          transfer.wait_array != 0,
          transfer.post_array != 0,
          uint32_t(transfer.key) == seed,
          beats};
}

} // namespace

void load(Bus<port_t> memory0, Bus<port_t> memory1, Bus<port_t> memory2, Bus<port_t> memory3,
          uint32_t seed, Commands<isa::depth::load_commands>& commands,
          Beats<isa::depth::weights>& weights, Beats<isa::depth::rows>& rows,
          Beats<isa::depth::gains>& gains, Credits<isa::depth::array_to_load>& array_to_load,
          Credits<isa::depth::load_to_array>& load_to_array, Checks& checks, Retired& retired,
          Write::Input patches) {
#pragma HLS INTERFACE mode = ap_ctrl_hs port = return
#pragma HLS INTERFACE mode = s_axilite port = return bundle = control
  // clang-format off
#pragma HLS INTERFACE mode = m_axi port = memory0 bundle = memory0 offset = slave depth = 65536 max_read_burst_length = 64 latency = 0 num_read_outstanding = 8 num_write_outstanding = 1
#pragma HLS INTERFACE mode = m_axi port = memory1 bundle = memory1 offset = slave depth = 65536 max_read_burst_length = 64 latency = 0 num_read_outstanding = 8 num_write_outstanding = 1
#pragma HLS INTERFACE mode = m_axi port = memory2 bundle = memory2 offset = slave depth = 65536 max_read_burst_length = 64 latency = 0 num_read_outstanding = 8 num_write_outstanding = 1
#pragma HLS INTERFACE mode = m_axi port = memory3 bundle = memory3 offset = slave depth = 65536 max_read_burst_length = 64 latency = 0 num_read_outstanding = 8 num_write_outstanding = 1
// clang-format on
#pragma HLS INTERFACE mode = s_axilite port = memory0 bundle = control offset = 0x10
#pragma HLS INTERFACE mode = s_axilite port = memory1 bundle = control offset = 0x1c
#pragma HLS INTERFACE mode = s_axilite port = memory2 bundle = control offset = 0x28
#pragma HLS INTERFACE mode = s_axilite port = memory3 bundle = control offset = 0x34
#pragma HLS INTERFACE mode = s_axilite port = seed bundle = control offset = 0x40
#pragma HLS INTERFACE mode = axis port = commands
#pragma HLS INTERFACE mode = axis port = weights
#pragma HLS INTERFACE mode = axis port = rows
#pragma HLS INTERFACE mode = axis port = gains
#pragma HLS INTERFACE mode = axis port = array_to_load
#pragma HLS INTERFACE mode = axis port = load_to_array
#pragma HLS INTERFACE mode = axis port = checks
#pragma HLS INTERFACE mode = axis port = retired
#pragma HLS INTERFACE mode = ap_memory port = patches storage_type = ram_1p latency = 1
#pragma HLS ARRAY_PARTITION variable = patches complete dim = 1
#pragma HLS AGGREGATE variable = patches compact = bit

  bool own = true;              // all commands so far had the right key
  bool sound[2] = {true, true}; // by frame slot: all transfers so far had the right check
#pragma HLS ARRAY_PARTITION variable = sound complete
  uint16_t number[2] = {0, 0}; // by frame slot: transfers from the arena so far, modulo 2^16
#pragma HLS ARRAY_PARTITION variable = number complete
  uint32_t nonce[2] = {0, 0}; // by frame slot: nonce of the input
#pragma HLS ARRAY_PARTITION variable = nonce complete
  Taken pending[AHEAD + 1];
#pragma HLS ARRAY_PARTITION variable = pending complete
  unsigned held = 0;
  for (volatile bool running = true; running;) {
    if (held == 0) {
      pending[0] = take(receive_item<fields_t>(commands), seed, memory0, memory1, memory2, memory3);
      held = 1;
    }
    gap(isa::declared::COMMAND_GAP);
    // Requests the next transfers before it reads this one, to hide the latency of memory.
  requests:
    for (; held <= AHEAD; ++held) {
      fields_t next;
      if (!take_item(commands, next))
        break;
      pending[held] = take(next, seed, memory0, memory1, memory2, memory3);
    }
    const Taken command = pending[0];
    for (unsigned i = 0; i < AHEAD; ++i) {
#pragma HLS UNROLL
      pending[i] = pending[i + 1];
    }
    --held;

    if (!command.transfer) {
      const bool all = number[command.frame] == command.beats;
      send_item<frame_check_t>(
          checks, {u<1>(own && sound[command.frame] && all), u<32>(nonce[command.frame])});
      sound[command.frame] = true;
      number[command.frame] = 0;
      nonce[command.frame] = 0;
      retired.write(1);
      continue;
    }
    own = own && command.own;
    if (command.wait_array)
      array_to_load.read();

    uint32_t state = ~uint32_t(0);
    up_to<PATCH_BEATS - 1> part = 0;
    up_to<config::INPUT_WORDS> word = 0;
    uint8_t gathered[PATCH_BEATS * BEAT_BYTES];
#pragma HLS ARRAY_PARTITION variable = gathered complete
  load_beats:
    for (up_to<most<decltype(isa::Load::beats)> + 1> i = 0; i <= command.beats; ++i) {
#pragma HLS PIPELINE II = 1
      interval("load.beats");
      beat_t beat;
      place(receive<port_t>(memory0), 0, beat);
      if constexpr (config::PORTS > 1)
        place(receive<port_t>(memory1), 1, beat);
      if constexpr (config::PORTS > 2)
        place(receive<port_t>(memory2), 2, beat);
      if constexpr (config::PORTS > 3)
        place(receive<port_t>(memory3), 3, beat);
      if (i == command.beats) {
        // Memory holds the check XOR a key. The key of an input is the frame's nonce, the key of an
        // arena transfer is the arena's seed XOR the transfer's number.
        const uint32_t key = word_of(beat, 0) ^ ~state;
        if (command.begins) {
          nonce[command.frame] = key;
        } else if (command.target == isa::target::PATCHES) {
          if (key != nonce[command.frame])
            sound[command.frame] = false;
        } else {
          if (key != (seed ^ number[command.frame]))
            sound[command.frame] = false;
          ++number[command.frame];
        }
        continue;
      }
      state = check_behind<BEAT_WORDS>(state, share(beat));
      switch (command.target) {
      case isa::target::WEIGHTS:
        send_item(weights, beat);
        break;
      case isa::target::PARAMETERS:
      case isa::target::TABLE:
      case isa::target::RESIDUAL:
        send_item(rows, beat);
        break;
      case isa::target::GAINS:
        send_item(gains, beat);
        break;
      default: // patches
        for (unsigned j = 0; j < BEAT_BYTES; ++j) {
#pragma HLS UNROLL
          set_group_item<PATCH_BEATS, BEAT_BYTES>(gathered, unsigned(part), j, beat.byte[j]);
        }
        if (unsigned(part) + 1 < PATCH_BEATS) {
          ++part;
          break;
        }
        for (unsigned group = 0; group < GROUPS; ++group) {
#pragma HLS UNROLL
          codes_t codes;
          for (unsigned lane = 0; lane < config::LANES; ++lane) {
            const unsigned token = group * config::LANES + lane;
            codes[lane] = token < config::TOKENS ? code_t(gathered[token]) : code_t(0);
          }
          for (unsigned c = 0; c < CASCADE; ++c) {
#pragma HLS UNROLL
            if (unsigned(word) % CASCADE == c)
              patches[group * CASCADE + c][unsigned(word) / CASCADE] = codes;
          }
        }
        part = 0;
        ++word;
      }
    }
    if (command.post_array)
      load_to_array.write(1);
    retired.write(1);
  }
}
