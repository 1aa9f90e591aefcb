// fetch: reads a segment of commands from memory and writes each command to its unit's queue. The
// host starts fetch once for each segment.
#include "check.hpp"
#include "kernels.hpp"

namespace {

constexpr unsigned PORT_WORDS = isa::PORT_BYTES / 4;
static_assert(isa::COMMAND_WORDS == 2 * PORT_WORDS);

// True if the command's check continues from `before`, the check of the previous command, and its
// unused words are zero.
bool is_sound(const command_t& command, uint32_t before) {
#pragma HLS INLINE
  uint32_t fields[isa::FIELD_WORDS];
#pragma HLS ARRAY_PARTITION variable = fields complete
  uint32_t unused = 0;
  for (unsigned i = 0; i < isa::CHECK_WORD; ++i) {
#pragma HLS UNROLL
    if (i < isa::FIELD_WORDS)
      fields[i] = command.word[i];
    else
      unused |= command.word[i];
  }
  const uint32_t check = ~check_behind<isa::FIELD_WORDS>(~before, check_share(fields));
  return command.word[isa::CHECK_WORD] == check && unused == 0;
}

// Receives a command: two beats of a port.
command_t receive_command(Bus<port_t>& memory) {
#pragma HLS INLINE
  command_t command;
  for (unsigned half = 0; half < 2; ++half) {
    const port_t beat = receive<port_t>(memory);
    for (unsigned i = 0; i < PORT_WORDS; ++i) {
#pragma HLS UNROLL
      command.word[PORT_WORDS * half + i] = little_endian(&beat.byte[4 * i], 4);
    }
  }
  return command;
}

} // namespace

void fetch(Bus<port_t> commands, uint32_t count, uint32_t base, uint32_t seed,
           Commands<isa::depth::load_commands>& load_commands,
           Commands<isa::depth::array_commands>& array_commands,
           Commands<isa::depth::drain_commands>& drain_commands,
           Commands<isa::depth::norm_commands>& norm_commands,
           Commands<isa::depth::softmax_commands>& softmax_commands, Retired& retired,
           uint32_t* magic, uint32_t* abi, uint32_t* hash_low, uint32_t* hash_high,
           uint32_t* error) {
#pragma HLS INTERFACE mode = ap_ctrl_hs port = return
#pragma HLS INTERFACE mode = s_axilite port = return bundle = control
  // clang-format off
#pragma HLS INTERFACE mode = m_axi port = commands bundle = commands offset = slave depth = 8192 max_read_burst_length = 64 latency = 0 num_read_outstanding = 8 num_write_outstanding = 1
// clang-format on
#pragma HLS INTERFACE mode = s_axilite port = commands bundle = control offset = 0x10
#pragma HLS INTERFACE mode = s_axilite port = count bundle = control offset = 0x1c
#pragma HLS INTERFACE mode = s_axilite port = base bundle = control offset = 0x24
#pragma HLS INTERFACE mode = s_axilite port = seed bundle = control offset = 0x2c
#pragma HLS INTERFACE mode = s_axilite port = magic bundle = control offset = 0x40
#pragma HLS INTERFACE mode = s_axilite port = abi bundle = control offset = 0x50
#pragma HLS INTERFACE mode = s_axilite port = hash_low bundle = control offset = 0x60
#pragma HLS INTERFACE mode = s_axilite port = hash_high bundle = control offset = 0x70
#pragma HLS INTERFACE mode = s_axilite port = error bundle = control offset = 0x80
#pragma HLS INTERFACE mode = axis port = load_commands
#pragma HLS INTERFACE mode = axis port = array_commands
#pragma HLS INTERFACE mode = axis port = drain_commands
#pragma HLS INTERFACE mode = axis port = norm_commands
#pragma HLS INTERFACE mode = axis port = softmax_commands
#pragma HLS INTERFACE mode = axis port = retired
  retired.write(0);
  *magic = isa::MAGIC;
  *abi = isa::ABI;
  *hash_low = config::HASH_LOW;
  *hash_high = config::HASH_HIGH;

  uint32_t bad = 0;
  uint32_t check = seed ^ count;
  if (count > 0)
    commands.read_request(0, 2 * count);
fetch_commands:
  for (uint32_t i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 2
    interval("fetch.commands");
    command_t command = receive_command(commands);
    const bool sound = is_sound(command, check);
    check = command.word[isa::CHECK_WORD];
    const unsigned unit = unit_of(command);
    if (unit == isa::unit::LOAD && operation(command) == isa::Load::CODE &&
        isa::Load::decode(command).input)
      command.word[2] += base;
    // Units receive neither a wrong command nor any later one. After an error the host resets the
    // kernels before it starts another segment.
    if (bad == 0 && !sound)
      bad = i + 1;
    if (bad == 0) {
      switch (unit) {
      case isa::unit::LOAD:
        send_item<fields_t>(load_commands, command);
        break;
      case isa::unit::ARRAY:
        send_item<fields_t>(array_commands, command);
        break;
      case isa::unit::DRAIN:
        send_item<fields_t>(drain_commands, command);
        break;
      case isa::unit::NORM:
        send_item<fields_t>(norm_commands, command);
        break;
      case isa::unit::SOFTMAX:
        send_item<fields_t>(softmax_commands, command);
        break;
      default:
        bad = i + 1;
      }
    }
  }
  *error = bad;
  retired.write(1);
}
