/* Samples through the C ABI into a .npy file: MODEL OUT.npy N, em with 50 network calls, seed 1. */
#include <psld.h>
#include <stdio.h>
#include <stdlib.h>

static int write_npy(const char *path, const float *x, size_t count, int64_t n, const int64_t *shape, size_t ndim) {
  char header[256];
  int len = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld,", (long long)n);
  for (size_t i = 0; i < ndim; i++)
    len += snprintf(header + len, sizeof header - (size_t)len, " %lld,", (long long)shape[i]);
  len += snprintf(header + len, sizeof header - (size_t)len, "), }");
  while ((10 + len + 1) % 64) header[len++] = ' ';
  header[len++] = '\n';
  FILE *file = fopen(path, "wb");
  if (!file) return 1;
  const unsigned char magic[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)len, 0};
  fwrite(magic, 1, sizeof magic, file);
  fwrite(header, 1, (size_t)len, file);
  fwrite(x, sizeof *x, count, file);
  int failed = ferror(file);
  return fclose(file) || failed;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  psld_model *model = NULL;
  psld_sampler *sampler = NULL;
  psld_error *err = NULL;
  psld_sampler_options how;
  psld_sampler_options_init(&how, sizeof how);
  how.sampler = "em";
  how.nfe = 50;
  psld_run_options options;
  psld_run_options_init(&options, sizeof options);
  options.n = atoll(argv[3]);
  options.seed = 1;
  int64_t shape[8];
  size_t dims = 0, count = (size_t)options.n;
  float *x = NULL;
  int failed = 1;
  if (!psld_model_load_file(NULL, argv[1], NULL, &model, &err) &&
      !psld_model_shape(model, PSLD_OUTPUT_DATA, shape, 8, &dims, &err) &&
      !psld_sampler_create(model, &how, &sampler, &err)) {
    for (size_t i = 0; i < dims; i++) count *= (size_t)shape[i];
    x = malloc(count * sizeof *x);
    if (x && !psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, count, NULL, NULL, &err))
      failed = write_npy(argv[2], x, count, options.n, shape, dims);
  }
  if (err) fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));
  free(x);
  psld_error_free(err);
  psld_sampler_free(sampler);
  psld_model_free(model);
  return failed;
}
