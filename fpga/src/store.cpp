// store: writes the logits of a frame to memory, then a trailer with their check. The host starts
// store once for each frame; its end raises the frame's interrupt.
#include "check.hpp"
#include "kernels.hpp"

namespace {

constexpr unsigned PORT_WORDS = isa::PORT_BYTES / 4;
static_assert(isa::trailer::CHECK == PORT_WORDS - 1);

void place(uint32_t word, unsigned index, port_t& port) {
#pragma HLS INLINE
  for (unsigned i = 0; i < 4; ++i) {
#pragma HLS UNROLL
    port.byte[4 * index + i] = uint8_t(word >> (8 * i));
  }
}

} // namespace

void store(Bus<port_t> memory, uint32_t count, Logits& logits, Checks& checks, Retired& retired) {
#pragma HLS INTERFACE mode = ap_ctrl_hs port = return
#pragma HLS INTERFACE mode = s_axilite port = return bundle = control
  // clang-format off
#pragma HLS INTERFACE mode = m_axi port = memory bundle = memory offset = slave depth = 8193 max_write_burst_length = 64 num_write_outstanding = 2 num_read_outstanding = 1
// clang-format on
#pragma HLS INTERFACE mode = s_axilite port = memory bundle = control offset = 0x10
#pragma HLS INTERFACE mode = s_axilite port = count bundle = control offset = 0x1c
#pragma HLS INTERFACE mode = axis port = logits
#pragma HLS INTERFACE mode = axis port = checks
#pragma HLS INTERFACE mode = axis port = retired
  retired.write(0);
  const uint32_t ports = (count + PORT_WORDS - 1) / PORT_WORDS;
  memory.write_request(0, ports + 1);
  uint32_t state = ~uint32_t(0);
  frame_check_t check{0, 0};
  port_t port;
#pragma HLS ARRAY_PARTITION variable = port.byte complete
store_words:
  for (uint32_t i = 0; i < (ports + 1) * PORT_WORDS; ++i) {
#pragma HLS PIPELINE II = 1
    interval("store.words");
    const unsigned part = i % PORT_WORDS;
    const bool trailer = i >= ports * PORT_WORDS;
    if (trailer && part == 0)
      check = receive_item<frame_check_t>(checks);
    uint32_t word = 0;
    if (i < count)
      word = uint32_t(int32_t(logits.read()));
    else if (trailer && part == isa::trailer::NONCE)
      word = uint32_t(check.nonce);
    else if (trailer && part == isa::trailer::COUNT)
      word = count;
    else if (trailer && part == isa::trailer::STATUS)
      word = check.sound ? 0 : 1;
    // The check covers all words before it.
    place(trailer && part == isa::trailer::CHECK ? ~state : word, part, port);
    const uint32_t words[1] = {word};
    state = check_behind<1>(state, check_share(words));
    if (part == PORT_WORDS - 1)
      send<port_t>(memory, port);
  }
  // Waits for the write response: the whole output is in memory before the interrupt.
  memory.write_response();
  retired.write(1);
}
