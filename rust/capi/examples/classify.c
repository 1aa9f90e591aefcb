/* Classifies one gray picture of 28 x 28 pixels: classify SUBNET PICTURE (its raw bytes). */
#include <quasar_rt.h>
#include <stdio.h>

int main(int argc, char **argv) {
  unsigned char pixels[28 * 28];
  int32_t logits[10];
  QuasarScore best;
  QuasarEngine *engine;
  FILE *file = argc == 3 ? fopen(argv[2], "rb") : NULL;
  if (!file || fread(pixels, 1, sizeof pixels, file) != sizeof pixels) return 2;
  QuasarImage image = {.data = pixels, .bytes = sizeof pixels, .width = 28, .height = 28};
  if (quasar_engine_open(argv[1], 0, &engine) || quasar_engine_infer(engine, &image, logits, 10) ||
      quasar_engine_top(engine, logits, 10, &best, 1)) {
    fprintf(stderr, "%s\n", quasar_last_error());
    return 1;
  }
  printf("%s %.3f\n", quasar_engine_class_name(engine, best.index), best.probability);
  quasar_engine_close(engine);
  return 0;
}
