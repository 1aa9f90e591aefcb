// Every function of leaves.hpp and crc.hpp with a plain signature, as another HLS front end would
// take them: no header but <stdint.h>, no library, no exception.
#include "plain_int.hpp"

#include "crc.hpp"
#include "leaves.hpp"

#include "root_of.hpp"

extern "C" {

int16_t leaf_requantize(int32_t x, uint8_t shift, int16_t mult, int8_t zero_point) {
  return code_of(requantize(x, shift, mult), zero_point);
}

int16_t leaf_mean(int32_t numerator, uint16_t divisor) { return mean_of_codes(numerator, divisor); }

uint16_t leaf_inverse_root(uint64_t variance, uint8_t* pairs) {
  const root_t root = root_of(variance);
  *pairs = root.bits;
  return root.quotient;
}

int8_t leaf_normalise(int16_t x, int32_t sum, uint8_t bits, uint16_t inverse, int16_t gain,
                      int16_t offset, uint16_t embed, uint8_t frac, bool normalises) {
  return normalise_value(x, sum, bits, inverse, gain, offset, embed, frac, normalises);
}

uint16_t leaf_exponential(uint32_t below, uint32_t cap, uint32_t mult, uint8_t* e8) {
  const u<12> e12 = exponential(below, cap, mult);
  *e8 = rounded8(e12);
  return e12;
}

uint16_t leaf_reciprocal(uint32_t sum12, uint16_t out_mult, uint8_t out_shift, uint8_t* shift) {
  const reciprocal_t scale = reciprocal(sum12, out_mult, out_shift);
  *shift = scale.shift;
  return scale.mantissa;
}

uint32_t leaf_crc(uint32_t state, uint32_t word) {
  const uint32_t words[1] = {word};
  return crc_behind<0xedb88320, 1>(state, crc_share<0xedb88320>(words));
}
}
