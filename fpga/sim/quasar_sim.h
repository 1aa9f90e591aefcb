/* The C ABI of a simulated device: the HLS sources of one configuration with registers, memory,
 * caches and an interrupt. The device runs in its own thread. Every function may be called from any
 * thread, but only one thread may use a device at a time.
 *
 * The processes of a device have clocks that advance by the declared intervals, gaps and depths
 * (docs/hardware-model.md). So the counters' registers hold simulated cycles with declared
 * intervals. They do not depend on the seed. The host's time is the last end of a kernel that it
 * has read in AP_CTRL. A kernel that it starts begins config::SEGMENT_GAP cycles later. */
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
 * processes run; 0: round robin. Returns NULL on failure and writes a message to `error`. */
QSIM_API qsim* qsim_open(uint64_t seed, uint64_t memory_bytes, char* error, uint64_t error_bytes);
QSIM_API void qsim_close(qsim*);

/* Read and write a register of isa.hpp; bit 7 of AP_CTRL is auto-restart. An unknown offset reads
 * as all ones and sets the message of qsim_trap. */
QSIM_API uint32_t qsim_read(qsim*, uint32_t offset);
QSIM_API void qsim_write(qsim*, uint32_t offset, uint32_t value);

/* Allocates `bytes` of memory. Returns the host's copy, and writes the address of the device's copy
 * to `physical`. Returns NULL if there is no room. */
QSIM_API uint8_t* qsim_alloc(qsim*, uint64_t bytes, uint64_t* physical);
QSIM_API void qsim_free(qsim*, uint64_t physical);
/* Copy whole cache lines from the host's copy to the device's, and back. Return -1 if the range is
 * not within one allocation. */
QSIM_API int qsim_flush(qsim*, uint64_t physical, uint64_t bytes);
QSIM_API int qsim_invalidate(qsim*, uint64_t physical, uint64_t bytes);

/* Waits for a rising edge of the interrupt of `store` or `fetch` since the last wait. Returns 1 at
 * an edge, and 0 at the timeout or after a trap. */
QSIM_API int qsim_wait(qsim*, uint32_t timeout_ms);

/* Injects a fault once, into the frame after the next `after_frames` frames (0: the next frame). A
 * frame begins when `store` is started. Kinds: lost_interrupt; hang; bus_error and short_dma, of
 * the next transfer that load requests; flipped_command, a bit of the next segment's commands,
 * chosen by the device's seed, which stays flipped in memory; corrupt_output; late, by 300 ms;
 * spurious_interrupt; wrong_identity, until the next reset. Returns -1 for an unknown kind. */
QSIM_API int qsim_fault(qsim*, const char* kind, uint64_t after_frames);

/* Returns a line "name intervals" for each loop: its initiation intervals since reset. array.issue
 * counts the words of all passes that the array took. */
QSIM_API const char* qsim_counters(qsim*);

/* Returns the host's time since reset, in simulated cycles. */
QSIM_API uint64_t qsim_cycle(qsim*);

/* Returns the last trap or the dump of a deadlock; "" if there was none since reset. After a trap
 * the device is stopped until `reset` is written 1 and then 0. If a wait of at least 200 ms timed
 * out and no process can continue, the text names the queue that each process waits for. The text
 * is valid until the next call. */
QSIM_API const char* qsim_trap(qsim*);

#ifdef __cplusplus
}
#endif

#endif
