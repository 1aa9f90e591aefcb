// store: writes logits to memory, then a trailer. Its end is the frame's interrupt. The host starts
// store once for each frame.
#include "check.hpp"
#include "kernels.hpp"

namespace {

constexpr unsigned PORT_WORDS = isa::PORT_BYTES / 4;

void place(uint32_t word, unsigned index, port_t& port) {
#pragma HLS INLINE
  for (unsigned i = 0; i < 4; ++i) {
#pragma HLS UNROLL
    port.byte[4 * index + i] = uint8_t(word >> (8 * i));
  }
}

} // namespace

void store(Bus<port_t> memory, uint32_t count, Logits& logits, Checks& checks) {
#pragma HLS INTERFACE mode = ap_ctrl_hs port = return
#pragma HLS INTERFACE mode = s_axilite port = return bundle = control
  // clang-format off
#pragma HLS INTERFACE mode = m_axi port = memory bundle = memory offset = slave depth = 8193 max_write_burst_length = 64 num_write_outstanding = 2 num_read_outstanding = 1
// clang-format on
#pragma HLS INTERFACE mode = s_axilite port = memory bundle = control offset = 0x10
#pragma HLS INTERFACE mode = s_axilite port = count bundle = control offset = 0x1c
#pragma HLS INTERFACE mode = axis port = logits
#pragma HLS INTERFACE mode = axis port = checks
  const uint32_t ports = (count + PORT_WORDS - 1) / PORT_WORDS;
  memory.write_request(0, ports + 1);
  uint32_t state = ~uint32_t(0);
  port_t port;
#pragma HLS ARRAY_PARTITION variable = port.byte complete
store_logits:
  for (uint32_t i = 0; i < ports * PORT_WORDS; ++i) {
#pragma HLS PIPELINE II = 1
    interval("store.logits");
    const uint32_t logit = i < count ? uint32_t(int32_t(logits.read())) : 0;
    const uint32_t words[1] = {logit};
    state = check_behind<1>(state, check_share(words));
    place(logit, i % PORT_WORDS, port);
    if (i % PORT_WORDS == PORT_WORDS - 1)
      send<port_t>(memory, port);
  }
  const frame_check_t check = checks.read();
  place(uint32_t(check.nonce), isa::trailer::NONCE, port);
  place(count, isa::trailer::COUNT, port);
  place(~state, isa::trailer::CHECK, port);
  place(check.sound ? 0 : 1, isa::trailer::STATUS, port);
  send<port_t>(memory, port);
  // The interrupt follows the response, so that the host finds all of the output.
  memory.write_response();
}
