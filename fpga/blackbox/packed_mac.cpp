#include "packed_mac.hpp"

ap_int<48> packed_mac(ap_int<27> w, ap_int<9> a, ap_uint<1> first) {
  static ap_int<48> p = 0;
  p = (first ? ap_int<48>(0) : p) + w * a;
  return p;
}
