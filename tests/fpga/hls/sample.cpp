// A kernel of functions of the kernels, whose netlist is simulated: it says whether their results
// are those of the item.
#include "arithmetic.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

struct sample_t {
  s<31> x;
  u<5> shift;
  s<16> mult;
  s<8> zero;
  u<22> sum12;
  u<15> out_mult;
  u<19> numerator;
  u<11> divisor;
  u<24> below;
  u<25> exponent_mult;
  s<16> value;
  s<27> sum;
  u<5> bits;
  vec<u<8>, 5> items;
  u<3> by;
  // Expected.
  s<8> code;
  u<15> mantissa;
  u<5> scale_shift;
  s<9> mean;
  u<12> e12;
  s<8> normal;
  u<5> pairs;
  u<8> picked;
};

void sample(hls::stream<sample_t>& samples, hls::stream<u<1>>& right) {
#pragma HLS INTERFACE axis port = samples
#pragma HLS INTERFACE axis port = right
#pragma HLS BIND_STORAGE variable = POWERS type = rom_np impl = lutram
  for (volatile bool running = true; running;) {
#pragma HLS PIPELINE II = 1
    interval("sample");
    const sample_t given = samples.read();
    const reciprocal_t scale = reciprocal(given.sum12, given.out_mult, u<5>(21));
    bool same = code_of(requantize(given.x, given.shift, given.mult), given.zero) == given.code;
    same = same && scale.mantissa == given.mantissa && scale.shift == given.scale_shift;
    same = same && mean_of_codes(s<19>(int(given.numerator) - 262144), given.divisor) == given.mean;
    same = same && exponential(given.below, u<31>(9000000), given.exponent_mult) == given.e12;
    same = same && normalise_value(given.value, given.sum, given.bits, given.out_mult, given.mult,
                                   given.value, given.divisor, u<4>(3)) == given.normal;
    same = same && radicand_of(u<52>(given.sum12)).pairs == given.pairs;
    same = same && group_item<5, 1>(given.items.v, given.by, 0) == given.picked;
    u<1> verdict = 0;
    if (same)
      verdict = 1;
    right.write(verdict);
  }
}
