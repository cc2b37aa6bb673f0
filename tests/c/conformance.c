/* One case of tests/conformance.json: MODEL SAMPLER_JSON N SEED PRECISION OUTPUT FORM. Prints the hash of the result, or with
 * FORM "values" its values, or the status and the message. */
#include "check.h"
#include <inttypes.h>

static int failed(int32_t status, psld_error *err) {
  printf("%" PRId32 " %s\n", status, psld_error_message(err));
  psld_error_free(err);
  return 0;
}

int main(int argc, char **argv) {
  CHECK(argc == 8);
  psld_model *model = NULL;
  psld_sampler *sampler = NULL;
  psld_error *err = NULL;
  int32_t status = psld_model_load_file(NULL, argv[1], NULL, &model, &err);
  if (status) return failed(status, err);
  psld_sampler_options how;
  OK(psld_sampler_options_init(&how, sizeof how));
  how.options_json = argv[2];
  status = psld_sampler_create(model, &how, &sampler, &err);
  if (status) return failed(status, err);
  psld_run_options what = samples(strtoll(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
  what.precision = strcmp(argv[5], "f64") ? PSLD_DTYPE_F32 : PSLD_DTYPE_F64;
  int32_t output = strcmp(argv[6], "state") ? PSLD_OUTPUT_DATA : PSLD_OUTPUT_STATE;

  int64_t shape[8];
  size_t dims, count = (size_t)what.n;
  OK(psld_model_shape(model, output, shape, 8, &dims, NULL));
  for (size_t i = 0; i < dims; i++) count *= (size_t)shape[i];
  size_t size = count * (what.precision == PSLD_DTYPE_F64 ? sizeof(double) : sizeof(float));
  unsigned char *x = malloc(size + 1);
  CHECK(x);
  status = psld_sample(model, sampler, &what, output, what.precision, x, count, NULL, NULL, &err);
  if (status) return failed(status, err);
  if (strcmp(argv[7], "values") == 0) {
    for (size_t i = 0; i < count; i++) {
      double value = what.precision == PSLD_DTYPE_F64 ? ((double *)(void *)x)[i] : ((float *)(void *)x)[i];
      printf("%.9g\n", value);
    }
  } else {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ x[i]) * 0x100000001b3u;
    printf("%016" PRIx64 "\n", hash);
  }
  free(x);
  psld_sampler_free(sampler);
  psld_model_free(model);
  return 0;
}
