/* A picture file for the examples. */
#ifndef PICTURE_H
#define PICTURE_H

#include <stdint.h>
#include <stdio.h>

/* A grid of n images [channels, height, width] with values from -1 to 1, as PPM; of one channel in grey. */
static int write_ppm(const char *path, const float *x, int64_t n, const int64_t *shape) {
  int64_t channels = shape[0], height = shape[1], width = shape[2], columns = 1;
  while (columns * columns < n) columns++;
  int64_t rows = (n + columns - 1) / columns;
  FILE *file = fopen(path, "wb");
  if (!file) return 1;
  fprintf(file, "P6\n%lld %lld\n255\n", (long long)(columns * width), (long long)(rows * height));
  for (int64_t y = 0; y < rows * height; y++) {
    for (int64_t z = 0; z < columns * width; z++) {
      int64_t image = y / height * columns + z / width;
      for (int64_t c = 0; c < 3; c++) {
        int64_t channel = image * channels + (channels < 3 ? 0 : c);
        float value = image < n ? x[(channel * height + y % height) * width + z % width] : -1.0f;
        float grey = (value + 1.0f) * 127.5f;
        fputc(grey < 0.0f ? 0 : grey > 255.0f ? 255 : (int)(grey + 0.5f), file);
      }
    }
  }
  int failed = ferror(file);
  return fclose(file) != 0 || failed;
}

#endif
