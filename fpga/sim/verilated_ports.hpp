// Accesses the ports of verilated modules.
#pragma once

#include <cstddef>
#include <cstdint>

#include "verilated.h"

namespace sim {

// Ends a model. Its destructor uses the thread's context, which may be that of another model.
template <typename Model> void finish(Model& model, VerilatedContext& context) {
  Verilated::threadContextp(&context);
  model.final();
}

// Accesses bits of a port. Verilator's types for ports are all little-endian.
template <typename Port> void put(Port& port, size_t offset, unsigned bits, uint64_t value) {
  auto* bytes = reinterpret_cast<uint8_t*>(&port);
  for (unsigned i = 0; i < bits; ++i) {
    const size_t at = offset + i;
    const auto mask = uint8_t(1u << at % 8);
    bytes[at / 8] = uint8_t((value >> i & 1) != 0 ? bytes[at / 8] | mask : bytes[at / 8] & ~mask);
  }
}

template <typename Port> uint64_t get(const Port& port, size_t offset, unsigned bits) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&port);
  uint64_t value = 0;
  for (unsigned i = 0; i < bits; ++i)
    value |= uint64_t(bytes[(offset + i) / 8] >> (offset + i) % 8 & 1) << i;
  return value;
}

template <typename Port> int64_t get_signed(const Port& port, size_t offset, unsigned bits) {
  return int64_t(get(port, offset, bits) << (64 - bits)) >> (64 - bits);
}

} // namespace sim
