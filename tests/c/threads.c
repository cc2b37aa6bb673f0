/* Several threads: on one model, on one run, and a cancel from outside. */
#include "check.h"
#include <pthread.h>

enum { THREADS = 4, N = 3, ELEMENTS = N * 12 };

static psld_model *model;
static psld_sampler *sampler;

static void sample_with(uint64_t seed, float *out) {
  psld_run_options options = samples(N, seed);
  OK(psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, out, ELEMENTS, NULL, NULL, NULL));
}

static void *one_of_many(void *argument) {
  uint64_t seed = *(uint64_t *)argument;
  float alone[ELEMENTS], again[ELEMENTS];
  sample_with(seed, alone);
  for (int i = 0; i < 5; i++) {
    sample_with(seed, again);
    CHECK(memcmp(alone, again, sizeof alone) == 0);
  }
  return NULL;
}

static void *step_to_the_end(void *run) {
  static int32_t status;
  do { /* the main thread may be looking */
    status = psld_run_step((psld_run *)run, INT32_MAX, NULL, NULL);
  } while (status == PSLD_STATUS_BUSY);
  return &status;
}

int main(int argc, char **argv) {
  CHECK(argc > 1);
  model = load(argv[1]);
  sampler = compile(model, "sscs", 10);

  pthread_t threads[THREADS];
  uint64_t seeds[THREADS] = {1, 2, 3, 4};
  for (int i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, one_of_many, &seeds[i]));
  for (int i = 0; i < THREADS; i++) CHECK(!pthread_join(threads[i], NULL));

  /* A run that takes long, in a thread of its own. */
  psld_sampler *slow = compile(model, "em", 20000);
  psld_run_options options = samples(100, 1);
  psld_cancel *cancel = NULL;
  OK(psld_cancel_create(&cancel, NULL));
  options.cancel = cancel;
  psld_run *run = NULL;
  OK(psld_run_start(model, slow, &options, &run, NULL));
  OK(psld_model_free(model));
  OK(psld_sampler_free(slow));
  pthread_t stepping;
  CHECK(!pthread_create(&stepping, NULL, step_to_the_end, run));
  int32_t status;
  while ((status = psld_run_step(run, 0, NULL, NULL)) == PSLD_STATUS_OK) {
  }
  CHECK(status == PSLD_STATUS_BUSY); /* the other thread is in its step now, and stays there */
  float x[1200];
  EXPECT(PSLD_STATUS_BUSY, psld_run_free(run));
  EXPECT(PSLD_STATUS_BUSY, psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 1200, NULL));
  EXPECT(PSLD_STATUS_BUSY, psld_run_resume(run, NULL, 0.0, NULL));
  OK(psld_cancel_cancel(cancel));
  void *result = NULL;
  CHECK(!pthread_join(stepping, &result));
  EXPECT(PSLD_STATUS_CANCELLED, *(int32_t *)result);

  /* Readable, sticky, and continued under another token or deadline. */
  OK(psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 1200, NULL));
  EXPECT(PSLD_STATUS_CANCELLED, psld_run_step(run, 1, NULL, NULL));
  OK(psld_run_resume(run, NULL, 0.0, NULL));
  psld_progress before, after;
  OK(psld_progress_init(&before, sizeof before));
  OK(psld_progress_init(&after, sizeof after));
  OK(psld_run_step(run, 0, &before, NULL));
  OK(psld_run_step(run, 1, &after, NULL));
  CHECK(after.step == before.step + 1);
  OK(psld_run_resume(run, NULL, 0.02, NULL));
  EXPECT(PSLD_STATUS_DEADLINE_EXCEEDED, psld_run_step(run, INT32_MAX, NULL, NULL));

  OK(psld_cancel_free(cancel));
  OK(psld_run_free(run));
  OK(psld_sampler_free(sampler));
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
