/* C interface of quasar_rt's CPU engine, see docs/c.md.
   Generated from rust/capi/src/lib.rs by `make c-header`: do not edit. */

#ifndef QUASAR_RT_H
#define QUASAR_RT_H

#include <stddef.h>
#include <stdint.h>

/*
 One byte a pixel.
 */
#define QUASAR_GRAY 0

/*
 R, G, B.
 */
#define QUASAR_RGB 1

/*
 B, G, R.
 */
#define QUASAR_BGR 2

/*
 A plane of Y', then a plane of half the height with Cb, Cr for each two by two pixels.
 */
#define QUASAR_NV12 3

/*
 Y', Cb, Y', Cr for each two pixels of a row.
 */
#define QUASAR_YUYV 4

/*
 BT.601, the default of `OpenCV`.
 */
#define QUASAR_BT601 0

/*
 BT.709.
 */
#define QUASAR_BT709 1

/*
 The outcome of a call.
 */
typedef enum {
  /*
   The call did what it is for.
   */
  QUASAR_STATUS_OK = 0,
  /*
   A pointer is null, a number is out of its range, or an array is too small.
   */
  QUASAR_STATUS_INVALID_ARGUMENT = 1,
  /*
   The subnet's file cannot be read.
   */
  QUASAR_STATUS_FILE = 2,
  /*
   The file is not a valid subnet.
   */
  QUASAR_STATUS_SUBNET = 3,
  /*
   The image cannot be used.
   */
  QUASAR_STATUS_IMAGE = 4,
  /*
   The engine cannot run here: threads, an instruction set or an accelerator are missing,
   another program uses the accelerator, or the subnet does not fit it.
   */
  QUASAR_STATUS_UNAVAILABLE = 5,
  /*
   A defect of the library. Please report it.
   */
  QUASAR_STATUS_INTERNAL = 6,
  /*
   The process cannot have the memory that the subnet needs.
   */
  QUASAR_STATUS_MEMORY = 7,
  /*
   An accelerator failed in this frame. It is reset; the next call is not concerned.
   */
  QUASAR_STATUS_DEVICE = 8,
} QuasarStatus;

/*
 A subnet, ready to run. Threads may share it; on the CPU, frames of several threads run at the
 same time.
 */
typedef struct QuasarEngine QuasarEngine;

/*
 A picture in the caller's memory, which a call reads and never keeps. Zero is right for each
 member that does not apply.
 */
typedef struct {
  /*
   The pixels.
   */
  const uint8_t *data;
  /*
   Number of bytes at `data`.
   */
  size_t bytes;
  /*
   NV12's second plane, if it does not follow the first; else null.
   */
  const uint8_t *chroma;
  /*
   Number of bytes at `chroma`.
   */
  size_t chroma_bytes;
  /*
   Pixels of a row.
   */
  size_t width;
  /*
   Rows.
   */
  size_t height;
  /*
   Bytes from a row to the next; 0 where nothing lies between rows.
   */
  size_t stride;
  /*
   `QUASAR_GRAY`, `QUASAR_RGB`, ...
   */
  uint32_t format;
  /*
   `QUASAR_BT601` or `QUASAR_BT709`, for NV12 and YUYV.
   */
  uint32_t matrix;
} QuasarImage;

/*
 A class and its probability.
 */
typedef struct {
  /*
   The class, from 0.
   */
  size_t index;
  /*
   Its softmax probability, within [0, 1].
   */
  double probability;
} QuasarScore;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Returns the library's version, such as "0.1.0".
 */
const char *quasar_version(void);

/*
 Returns the message of this thread's last failed call: UTF-8, valid until the thread's next
 failed call. Empty if none has failed.
 */
const char *quasar_last_error(void);

/*
 Opens a subnet for this CPU.

 `path` names a .qvit file. `threads` is the number of threads of a frame; 0 takes all cores.
 `*engine` receives the engine, or null if the call fails.

 # Safety
 `path` is null or a C string, `engine` is null or writable.
 */
QuasarStatus quasar_engine_open(const char *path, size_t threads, QuasarEngine **engine);

/*
 Opens a subnet for an accelerator.

 `path` names a .qvit file. `device` is "uio", the FPGA of this machine, whose bitstream is
 loaded, or "sim:LIBRARY", a simulated accelerator such as "sim:build/sim/tiny.so".
 `configuration` names the TOML file from which the accelerator was built, and `board` that of
 its board. `*engine` receives the engine, or null if the call fails.

 # Safety
 `path`, `device`, `configuration` and `board` are null or C strings, `engine` is null or
 writable.
 */
QuasarStatus quasar_engine_open_device(const char *path,
                                       const char *device,
                                       const char *configuration,
                                       const char *board,
                                       QuasarEngine **engine);

/*
 Closes an engine. Null is fine. No call may be using it.

 # Safety
 `engine` is null or comes from `quasar_engine_open` or `quasar_engine_open_device` and is closed
 once.
 */
void quasar_engine_close(QuasarEngine *engine);

/*
 Returns the number of classes; 0 for null, and for a subnet that has an embedding only.

 # Safety
 `engine` is null or open.
 */
size_t quasar_engine_classes(const QuasarEngine *engine);

/*
 Returns a class's name: UTF-8, valid until the engine is closed. Null if there is no such class.

 # Safety
 `engine` is null or open.
 */
const char *quasar_engine_class_name(const QuasarEngine *engine, size_t index);

/*
 Runs one image: resizes, crops, and computes the integer model's logits.

 `logits` receives `count` integers, one for each class: the same bits on every device.

 # Safety
 `engine` is null or open. `image` is null or readable, with the bytes that it names. `logits` is
 null or has `count` writable elements.
 */
QuasarStatus quasar_engine_infer(const QuasarEngine *engine,
                                 const QuasarImage *image,
                                 int32_t *logits,
                                 size_t count);

/*
 Returns the number of the embedding's values; 0 for null, and for a subnet without one.

 # Safety
 `engine` is null or open.
 */
size_t quasar_engine_embedding_size(const QuasarEngine *engine);

/*
 Runs one image, as `quasar_engine_infer` does, and computes its embedding: a vector of length 1
 that is close to those of similar images.

 `vector` receives `count` values, `quasar_engine_embedding_size` of them: the same bits on every
 device.

 # Safety
 `engine` is null or open. `image` is null or readable, with the bytes that it names. `vector` is
 null or has `count` writable elements.
 */
QuasarStatus quasar_engine_embed(const QuasarEngine *engine,
                                 const QuasarImage *image,
                                 float *vector,
                                 size_t count);

/*
 Computes the `k` most likely classes of logits, most likely first; of equals the lower class.

 `logits` has `count` integers from `quasar_engine_infer`. `scores` receives `k` of them, at most
 as many as there are classes.

 # Safety
 `engine` is null or open. `logits` is null or has `count` elements, `scores` is null or has `k`
 writable ones.
 */
QuasarStatus quasar_engine_top(const QuasarEngine *engine,
                               const int32_t *logits,
                               size_t count,
                               QuasarScore *scores,
                               size_t k);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* QUASAR_RT_H */
