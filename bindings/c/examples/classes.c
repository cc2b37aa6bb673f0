/*
 * Samples of a class: one row of images for each guidance scale from 0 (the plain class-conditional sampler) up.
 *
 *     cc -std=c11 -Iinclude bindings/c/examples/classes.c -Ltarget/release -lpsld \
 *        -Wl,-rpath,$PWD/target/release -o classes
 *     ./classes MODEL.onnx classes.ppm 3              (classifier-free guidance to class 3)
 *     ./classes MODEL.onnx classes.ppm 3 GUIDE.onnx   (by a classifier's gradient)
 */
#include "picture.h"
#include <psld.h>
#include <stdio.h>
#include <stdlib.h>

#define SIDE 4

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "tests/data/models/labelled.json";
  const char *out = argc > 2 ? argv[2] : NULL;
  int64_t label = argc > 3 ? atoll(argv[3]) : 0;
  psld_model *model = NULL, *guide = NULL;
  psld_sampler *sampler = NULL;
  psld_error *err = NULL;
  float *x = NULL;
  int failed = 1;

  if (psld_model_load_file(NULL, path, NULL, &model, &err)) goto end;
  if (argc > 4 && psld_model_load_file(NULL, argv[4], NULL, &guide, &err)) goto end;
  int64_t shape[8];
  size_t ndim = 0;
  if (psld_model_shape(model, PSLD_OUTPUT_DATA, shape, 8, &ndim, &err)) goto end;
  if (ndim != 3) {
    fprintf(stderr, "%s makes no images\n", path);
    goto end;
  }

  psld_sampler_options how;
  psld_sampler_options_init(&how, sizeof how);
  how.sampler = "sscs";
  how.nfe = 100; /* a guided evaluation counts twice */
  how.guidance = guide ? "classifier" : "cfg";
  if (psld_sampler_create(model, &how, &sampler, &err)) goto end;

  /* Each sample has a scale of its own, and the same seed gives the same noise in every row. */
  double scales[SIDE];
  size_t row = (size_t)(SIDE * shape[0] * shape[1] * shape[2]);
  x = malloc(SIDE * row * sizeof *x);
  if (!x) goto end;
  psld_run_options what;
  psld_run_options_init(&what, sizeof what);
  what.n = SIDE;
  what.seed = 1;
  what.labels = &label;
  what.labels_len = 1;
  what.scales = scales;
  what.scales_len = SIDE;
  what.guide = guide;
  for (int i = 0; i < SIDE; i++) {
    for (int j = 0; j < SIDE; j++) scales[j] = i;
    if (psld_sample(model, sampler, &what, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x + (size_t)i * row, row, NULL, NULL,
                    &err))
      goto end;
  }
  failed = out ? write_ppm(out, x, SIDE * SIDE, shape) : 0;
  if (failed) perror(out);

end:
  if (err) fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));
  free(x);
  psld_error_free(err);
  psld_sampler_free(sampler);
  psld_model_free(guide);
  psld_model_free(model);
  return failed;
}
