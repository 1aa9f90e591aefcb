/* The simulated device: the HLS sources of one configuration behind registers, memory, caches and
 * an interrupt. It runs in a thread of its own. Every function may be called from any thread; one
 * device serves one caller at a time.
 *
 * Its processes have clocks, which declared intervals, gaps and depths move on
 * (docs/hardware-model.md): the cycles that the counters' registers hold are simulated, intervals
 * declared. They do not depend on the seed. The host's time is that of the last end of a kernel
 * that it has seen in AP_CTRL; what it starts begins config::SEGMENT_GAP cycles later. */
#ifndef QUASAR_SIM_H
#define QUASAR_SIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QSIM_API __attribute__((visibility("default")))

typedef struct qsim qsim;

/* Returns isa::ABI of the sources. */
QSIM_API uint32_t qsim_abi(void);
/* Returns the hardware configuration (TOML) that the library was built from, verbatim. */
QSIM_API const char* qsim_configuration(void);

/* Opens a device with `memory_bytes` of memory. `seed` determines the random order in which its
 * processes run; 0: in turn. Returns NULL on failure, and describes the failure in `error`. */
QSIM_API qsim* qsim_open(uint64_t seed, uint64_t memory_bytes, char* error, uint64_t error_bytes);
QSIM_API void qsim_close(qsim*);

/* Read and write a register, as isa.hpp declares it; bit 7 of AP_CTRL is auto-restart. An offset
 * that no register has reads as all ones and leaves a message in qsim_trap. */
QSIM_API uint32_t qsim_read(qsim*, uint32_t offset);
QSIM_API void qsim_write(qsim*, uint32_t offset, uint32_t value);

/* Allocates `bytes` of memory. Returns the host's copy, and writes the address of the device's copy
 * to `physical`. Returns NULL where there is no room. */
QSIM_API uint8_t* qsim_alloc(qsim*, uint64_t bytes, uint64_t* physical);
QSIM_API void qsim_free(qsim*, uint64_t physical);
/* Copy whole cache lines from the host's copy to the device's, and back. Return -1 if the range is
 * not within one allocation. */
QSIM_API int qsim_flush(qsim*, uint64_t physical, uint64_t bytes);
QSIM_API int qsim_invalidate(qsim*, uint64_t physical, uint64_t bytes);

/* Waits for a rising edge of the interrupt of `store` or `fetch` since the last wait. Returns 1 if
 * one came, and 0 if time is over or the device has trapped. */
QSIM_API int qsim_wait(qsim*, uint32_t timeout_ms);

/* Injects a fault once, into the frame after `after_frames` more (0: the next one; a frame begins
 * when `store` is started): lost_interrupt, hang, bus_error and short_dma (of the next transfer
 * that load requests), flipped_command (a bit, chosen by the device's seed, of the commands of the
 * segment that `fetch` is started for next; the bit stays flipped in memory), corrupt_output, late
 * (by 300 ms), spurious_interrupt; and wrong_identity, which lasts from then until reset. Returns
 * -1 if there is no such fault. */
QSIM_API int qsim_fault(qsim*, const char* kind, uint64_t after_frames);

/* qsim_counter returns the initiation intervals that a loop has begun since reset. qsim_counters
 * returns those of all loops, as lines "name intervals". array.issue counts the words of all passes
 * that the array took. */
QSIM_API uint64_t qsim_counter(qsim*, const char* loop);
QSIM_API const char* qsim_counters(qsim*);

/* Returns the last trap, or the dump of a deadlock; "" if there was none since reset. After a trap
 * the device does nothing until `reset` is written 1 and 0. If a wait of at least 200 ms timed out
 * and no process can go on, the text names what each process waits for. The text is valid until the
 * next call. */
QSIM_API const char* qsim_trap(qsim*);

#ifdef __cplusplus
}
#endif

#endif
