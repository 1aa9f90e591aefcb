/* Classifies one gray picture of 28 x 28 pixels: classify SUBNET PICTURE (its raw bytes). */
#include <quasar_rt.h>
#include <stdio.h>

#define PIXELS (28 * 28)

int main(int argc, char **argv) {
  unsigned char pixels[PIXELS + 1];
  int32_t logits[10];
  QuasarScore best;
  QuasarEngine *engine;
  if (argc != 3) {
    fprintf(stderr, "usage: classify SUBNET.qvit PICTURE.gray\n");
    return 2;
  }
  FILE *file = fopen(argv[2], "rb");
  if (!file) {
    perror(argv[2]);
    return 2;
  }
  if (fread(pixels, 1, sizeof pixels, file) != PIXELS) {
    fprintf(stderr, "%s: not the %d bytes of a gray picture of 28 x 28 pixels\n", argv[2], PIXELS);
    return 2;
  }
  fclose(file);
  QuasarImage image = {.data = pixels, .bytes = PIXELS, .width = 28, .height = 28};
  if (quasar_engine_open(argv[1], 0, &engine) || quasar_engine_infer(engine, &image, logits, 10) ||
      quasar_engine_top(engine, logits, 10, &best, 1)) {
    fprintf(stderr, "%s\n", quasar_last_error());
    return 1;
  }
  printf("%s %.3f\n", quasar_engine_class_name(engine, best.index), best.probability);
  quasar_engine_close(engine);
  return 0;
}
