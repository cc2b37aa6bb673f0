/*
 * Completes an image: draws one, forgets its right half, and draws what could have been there.
 *
 *     cc -std=c11 -Iinclude bindings/c/examples/inpaint.c -Ltarget/release -lpsld \
 *        -Wl,-rpath,$PWD/target/release -o inpaint
 *     ./inpaint models/cifar10-exact.onnx inpaint.ppm 7
 */
#include "picture.h"
#include <psld.h>
#include <stdio.h>
#include <stdlib.h>

#define N 15

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "models/cifar10-exact.onnx";
  const char *out = argc > 2 ? argv[2] : NULL;
  psld_model *model = NULL;
  psld_sampler *plain = NULL, *sampler = NULL;
  psld_error *err = NULL;
  float *x = NULL, *mask = NULL;
  int failed = 1;

  if (psld_model_load_file(NULL, path, NULL, &model, &err)) goto end;
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
  how.nfe = 100;
  if (psld_sampler_create(model, &how, &plain, &err)) goto end;
  how.inpaint = "corrected";
  if (psld_sampler_create(model, &how, &sampler, &err)) goto end;

  int64_t height = shape[1], width = shape[2], pixels = height * width;
  size_t image = (size_t)(shape[0] * pixels);
  x = malloc((N + 1) * image * sizeof *x);
  mask = malloc((size_t)pixels * sizeof *mask);
  if (!x || !mask) goto end;
  psld_run_options what;
  psld_run_options_init(&what, sizeof what);
  what.seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
  if (psld_sample(model, plain, &what, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, image, NULL, NULL, &err)) goto end;

  /* 1 is known. One mask for all channels and samples, one image for all samples. */
  for (int64_t i = 0; i < pixels; i++) mask[i] = i % width < width / 2 ? 1.0f : 0.0f;
  int64_t image_shape[4] = {1, shape[0], height, width}, mask_shape[4] = {1, 1, height, width};
  psld_tensor known, where;
  psld_tensor_init(&known, sizeof known);
  known.data = x;
  known.ndim = 4;
  known.shape = image_shape;
  psld_tensor_init(&where, sizeof where);
  where.data = mask;
  where.ndim = 4;
  where.shape = mask_shape;
  what.n = N;
  what.seed++;
  what.inpaint_image = &known;
  what.inpaint_mask = &where;
  if (psld_sample(model, sampler, &what, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x + image, N * image, NULL, NULL, &err))
    goto end;

  /* What was known is kept to the bit. */
  for (size_t i = image; i < (N + 1) * image; i++) {
    if ((int64_t)i % width < width / 2 && x[i] != x[i % image]) {
      fprintf(stderr, "a known pixel changed\n");
      goto end;
    }
  }
  failed = out ? write_ppm(out, x, N + 1, shape) : 0;
  if (failed) perror(out);

end:
  if (err) fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));
  free(x);
  free(mask);
  psld_error_free(err);
  psld_sampler_free(plain);
  psld_sampler_free(sampler);
  psld_model_free(model);
  return failed;
}
