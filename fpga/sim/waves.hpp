// Records the signals of a verilated module that was translated with TRACE=1.
#pragma once

#if VM_TRACE
#include <cstdlib>
#include <string>

#include "fibers.hpp"
#include "verilated_vcd_c.h"
#endif

namespace sim {

#if VM_TRACE
// Writes NAME.vcd to the folder QUASAR_WAVES, in half cycles of the array's clock.
class Waves {
  VerilatedVcdC file_;
  uint64_t cycle_ = NEVER;

public:
  template <typename Model> Waves(Model& model, VerilatedContext& context, const char* name) {
    const char* folder = std::getenv("QUASAR_WAVES");
    if (folder == nullptr)
      return;
    context.traceEverOn(true);
    model.trace(&file_, 99);
    file_.open((std::string(folder) + "/" + name + ".vcd").c_str());
  }
  // Begins a cycle of the kernels. The cycles of a reset take no time, and are not recorded.
  void begin() { cycle_ = Scheduler::get().current()->now; }
  // Records a half of the array's clock in this cycle.
  void record(unsigned half) {
    if (file_.isOpen() && cycle_ != NEVER)
      file_.dump(cycle_ * 2 * config::CLOCK_RATIO + half);
  }
};
#else
struct Waves {
  template <typename Model> Waves(Model&, VerilatedContext&, const char*) {}
  void begin() {}
  void record(unsigned) {}
};
#endif

} // namespace sim
