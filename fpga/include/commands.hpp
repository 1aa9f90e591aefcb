// Reads fields that several kinds of commands share.
#pragma once

#include "isa.hpp"

inline unsigned unit_of(const fields_t& command) {
#pragma HLS INLINE
  return unsigned(bits(command, 0, 0, isa::HEAD_BITS));
}

// Returns a command's operation code within its unit.
inline unsigned operation(const fields_t& command) {
#pragma HLS INLINE
  return unsigned(bits(command, 0, isa::HEAD_BITS, isa::HEAD_BITS));
}

// Returns the row pairs of `Gemm` or `Rows`.
template <typename Fields> unsigned row_pairs(const Fields& fields) {
#pragma HLS INLINE
  return row_pairs(fields.rows4, fields.rows8);
}
