// The packed multiply-accumulate of fpga/rtl/mac.v as an RTL black box: `add_files -blackbox
// packed_mac.json`.
//
// P = first ? W*a : P + W*a. W holds two 4-bit operands (pack.sv). The sum stays in the slice, so a design
// has one such call; each further accumulator needs a copy under a name of its own, as the model's static P
// does.
#pragma once

#include <ap_int.h>

ap_int<48> packed_mac(ap_int<27> w, ap_int<9> a, ap_uint<1> first);
