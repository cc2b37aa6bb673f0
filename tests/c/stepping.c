/* A run taken step by step: progress, previews, and the same samples as in one call; all texts. */
#include "check.h"
#include <math.h>

enum { N = 5, ELEMENTS = N * 12 };

static int32_t count(void *user, const psld_progress *progress) {
  CHECK(progress->struct_size == sizeof *progress);
  *(double *)user = progress->fraction;
  return 0;
}

static int32_t stop_at_three(void *user, const psld_progress *progress) {
  (void)user;
  return progress->step == 3;
}

static void said(void *user, int32_t level, const char *message) {
  CHECK(level == PSLD_LOG_INFO && strlen(message) > 0);
  ++*(int *)user;
}

static char *text_of_model(const psld_model *model) {
  size_t needed = 0;
  OK(psld_model_info_json(model, NULL, 0, &needed, NULL));
  char *text = (char *)malloc(needed);
  CHECK(text);
  EXPECT(PSLD_STATUS_BUFFER_TOO_SMALL, psld_model_info_json(model, text, needed - 1, NULL, NULL));
  OK(psld_model_info_json(model, text, needed, &needed, NULL));
  CHECK(strlen(text) == needed - 1);
  return text;
}

int main(int argc, char **argv) {
  CHECK(argc > 1);
  CHECK(psld_abi_version() >= PSLD_ABI_VERSION && strlen(psld_version()) > 0);
  int lines = 0;
  OK(psld_set_log_callback(PSLD_LOG_INFO, said, &lines));

  psld_model *model = load(argv[1]);
  char *info = text_of_model(model);
  CHECK(strstr(info, "\"provider\":\"cpu\""));
  free(info);
  char list[8192], hash[65];
  OK(psld_samplers_json(list, sizeof list, NULL, NULL));
  CHECK(strstr(list, "\"name\":\"sscs\""));

  psld_sampler *sampler = compile(model, "em", 20);
  OK(psld_sampler_hash(sampler, hash, sizeof hash, NULL, NULL));
  int32_t nfe = 0;
  OK(psld_sampler_nfe(sampler, &nfe, NULL));
  CHECK(nfe == 21);

  psld_run_options options = samples(N, 3);
  options.previews = 1;
  psld_run *run = NULL;
  OK(psld_run_start(model, sampler, &options, &run, NULL));
  int64_t shape[4];
  size_t ndim = 0;
  OK(psld_run_shape(run, PSLD_OUTPUT_STATE, shape, 4, &ndim, NULL));
  CHECK(ndim == 4 && shape[0] == N && shape[1] == 6 && shape[2] == 2 && shape[3] == 2);

  float preview[ELEMENTS], stepped[ELEMENTS], whole[ELEMENTS];
  EXPECT(PSLD_STATUS_RUN_STATE, psld_run_read(run, PSLD_OUTPUT_X0, PSLD_DTYPE_F32, preview, ELEMENTS, NULL));
  psld_progress p;
  OK(psld_progress_init(&p, sizeof p));
  double t = 2.0;
  int steps = 0;
  while (!p.done) {
    OK(psld_run_step(run, 1, &p, NULL));
    CHECK(p.step == ++steps && p.of == 21 && p.t < t && p.fraction > 0.0 && p.fraction <= 1.0);
    t = p.t;
    OK(psld_run_read(run, PSLD_OUTPUT_X0, PSLD_DTYPE_F32, preview, ELEMENTS, NULL));
    for (int i = 0; i < ELEMENTS; i++) CHECK(fabs((double)preview[i]) < 2.0);
  }
  CHECK(steps == 21 && p.nfe == 21 && p.samples_done == N);
  OK(psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, stepped, ELEMENTS, NULL));
  OK(psld_run_step(run, 1, &p, NULL)); /* done: nothing happens */
  CHECK(p.step == 21 && p.done);

  double fraction = 0.0;
  OK(psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, whole, ELEMENTS, count, &fraction,
                 NULL));
  CHECK(fraction == 1.0 && memcmp(stepped, whole, sizeof whole) == 0);
  psld_error *err = NULL;
  EXPECT(PSLD_STATUS_CANCELLED, psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, whole,
                                            ELEMENTS, stop_at_three, NULL, &err));
  CHECK(psld_error_status(err) == PSLD_STATUS_CANCELLED && strstr(psld_error_message(err), "step 3"));
  OK(psld_error_free(err));

  /* The prior of sample i is noise of seed + i times the prior's standard deviation: here 1 for the position. */
  psld_run *fresh = NULL;
  OK(psld_run_start(model, sampler, &options, &fresh, NULL));
  OK(psld_run_read(fresh, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, stepped, ELEMENTS, NULL));
  float noise[12];
  for (uint64_t i = 0; i < N; i++) {
    OK(psld_noise_fill(3 + i, PSLD_NOISE_PRIOR, 0, 0, PSLD_DTYPE_F32, noise, 12, NULL));
    for (int j = 0; j < 12; j++) CHECK(fabsf(noise[j] - stepped[12 * i + (uint64_t)j]) < 1e-6f);
  }

  /* An own initial state: the one that this run began with gives its samples. */
  float state[2 * ELEMENTS];
  OK(psld_run_read(fresh, PSLD_OUTPUT_STATE, PSLD_DTYPE_F32, state, 2 * ELEMENTS, NULL));
  psld_tensor init;
  OK(psld_tensor_init(&init, sizeof init));
  init.data = state;
  init.ndim = 4;
  init.shape = shape;
  options.init = &init;
  OK(psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, stepped, ELEMENTS, NULL, NULL, NULL));
  options.init = NULL;
  OK(psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, whole, ELEMENTS, NULL, NULL, NULL));
  CHECK(memcmp(stepped, whole, sizeof whole) == 0);

  /* Two samples out of five, and a copy that its seed makes another. */
  psld_run *few = NULL;
  OK(psld_run_start(model, sampler, &options, &few, NULL));
  OK(psld_run_step(few, 8, NULL, NULL));
  int64_t kept[3] = {4, 1, 1};
  uint64_t seeds[3] = {3 + 4, 3 + 1, 1000};
  OK(psld_run_gather(few, kept, 3, seeds, NULL));
  EXPECT(PSLD_STATUS_INVALID_ARGUMENT, psld_run_gather(few, kept, 3, NULL, &err)); /* there is no sample 4 any more */
  CHECK(strstr(psld_error_message(err), "index 4 at place 0: expected 0 to 2"));
  OK(psld_error_free(err));
  OK(psld_run_finish(few, NULL, NULL, NULL));
  OK(psld_run_read(few, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, stepped, 3 * 12, NULL));
  CHECK(memcmp(stepped, whole + 4 * 12, 12 * sizeof *whole) == 0);
  CHECK(memcmp(stepped + 12, whole + 12, 12 * sizeof *whole) == 0);
  CHECK(memcmp(stepped + 24, whole + 12, 12 * sizeof *whole) != 0);
  OK(psld_run_free(few));

  OK(psld_set_log_callback(PSLD_LOG_OFF, NULL, NULL));
  CHECK(lines == 6); /* loaded, and five times samples */
  OK(psld_model_free(model));
  OK(psld_run_free(fresh));
  OK(psld_sampler_free(sampler));
  OK(psld_run_free(run));
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
