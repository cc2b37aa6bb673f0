/*
 * Samples images and writes them as one picture.
 *
 *     cc -std=c11 -Iinclude bindings/c/examples/sample.c -Ltarget/release -lpsld \
 *        -Wl,-rpath,$PWD/target/release -o sample
 *     ./sample models/cifar10-exact.onnx samples.ppm 64
 */
#include "picture.h"
#include <psld.h>
#include <stdio.h>
#include <stdlib.h>

static int32_t show(void *user, const psld_progress *p) {
  (void)user;
  fprintf(stderr, "\r%3.0f %%  %d network calls", 100.0 * p->fraction, (int)p->nfe);
  if (p->done) fputc('\n', stderr);
  return 0; /* anything else stops the sampling */
}

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "models/cifar10-exact.onnx";
  const char *out = argc > 2 ? argv[2] : "samples.ppm";
  psld_model *model = NULL;
  psld_sampler *sampler = NULL;
  psld_error *err = NULL;
  float *x = NULL;
  int failed = 1;

  psld_sampler_options how;
  psld_sampler_options_init(&how, sizeof how);
  how.sampler = "em";
  how.nfe = 100;
  psld_run_options what;
  psld_run_options_init(&what, sizeof what);
  what.n = argc > 3 ? atoll(argv[3]) : 64;

  int64_t shape[8];
  size_t ndim = 0;
  if (psld_model_load_file(NULL, path, NULL, &model, &err)) goto end;
  if (psld_model_shape(model, PSLD_OUTPUT_DATA, shape, 8, &ndim, &err)) goto end;
  if (psld_sampler_create(model, &how, &sampler, &err)) goto end;
  if (ndim != 3) {
    fprintf(stderr, "%s makes no images\n", path);
    goto end;
  }
  size_t count = (size_t)(what.n * shape[0] * shape[1] * shape[2]);
  x = malloc(count * sizeof *x);
  if (psld_sample(model, sampler, &what, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, count, show, NULL, &err)) goto end;
  failed = write_ppm(out, x, what.n, shape);
  if (failed) perror(out);

end:
  if (err) fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));
  free(x);
  psld_error_free(err);
  psld_sampler_free(sampler);
  psld_model_free(model);
  return failed;
}
