/* A network that the program computes itself: the exact one of unit normal data along VP, eps = sigma(t) z. */
#include "check.h"
#include <math.h>

enum { N = 3, ELEMENTS = N * 4 };

static const char *const spec =
    "{\"format\": 1, \"process\": {\"kind\": \"vp\", \"beta_min\": 0.1, \"beta_max\": 20.0},"
    " \"data\": {\"shape\": [4]}, \"network\": {\"prediction\": \"epsilon\", \"time_scale\": 1000.0}}";
static const char *const exact =
    "{\"psld.spec\": {\"format\": 1, \"process\": {\"kind\": \"vp\", \"beta_min\": 0.1, \"beta_max\": 20.0},"
    " \"data\": {\"shape\": [4]}, \"network\": {\"prediction\": \"epsilon\"}},"
    " \"mixture\": {\"weights\": [1], \"means\": [[0, 0, 0, 0]], \"variances\": [1]}}";

struct user {
  int calls, released, fail_at;
  const char *says;
};

static int32_t network(void *pointer, const psld_evaluation *e) {
  struct user *user = (struct user *)pointer;
  CHECK(e->struct_size >= sizeof *e && e->reserved == 0 && e->labels == NULL);
  CHECK(e->z_elements == e->out_elements && e->z_elements == (size_t)e->n * 4);
  if (++user->calls == user->fail_at) {
    CHECK(e->message && e->message_capacity >= 256 && e->message[0] == 0);
    if (user->says) snprintf(e->message, e->message_capacity, "%s", user->says);
    return 7;
  }
  for (size_t i = 0; i < e->z_elements; ++i) {
    const double t = e->t[i / 4] / 1000.0;
    const double sigma = sqrt(-expm1(-(0.1 * t + 0.5 * 19.9 * t * t)));
    if (e->dtype == PSLD_DTYPE_F32)
      ((float *)e->out)[i] = (float)(sigma * ((const float *)e->z)[i]);
    else
      ((double *)e->out)[i] = sigma * ((const double *)e->z)[i];
  }
  return 0;
}

static int32_t with_labels(void *pointer, const psld_evaluation *e) {
  CHECK(pointer == NULL && e->labels);
  for (int64_t i = 0; i < e->n; ++i) CHECK(e->labels[i] == 2);
  memset(e->out, 0, e->out_elements * sizeof(float));
  return 0;
}

static int32_t forgets(void *pointer, const psld_evaluation *e) {
  if (++*(int *)pointer < 3) memset(e->out, 0, e->out_elements * sizeof(float));
  return 0;
}

static void released(void *user) { ++((struct user *)user)->released; }

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  struct user user = {0, 0, 0, NULL};
  psld_model_options options;
  OK(psld_model_options_init(&options, sizeof options));
  options.spec_json = spec;
  psld_model *model = NULL, *same = NULL;
  OK(psld_model_create(network, &user, released, "normal", &options, &model, NULL));
  OK(psld_model_load_memory(NULL, exact, strlen(exact), NULL, &same, NULL));

  /* Their specs differ in what the network is told of the time. */
  psld_sampler *sampler = compile(model, "heun", 10), *of_same = compile(same, "heun", 10);
  psld_run_options of_run = samples(N, 3);
  of_run.precision = PSLD_DTYPE_F64;
  double x[ELEMENTS], y[ELEMENTS];
  OK(psld_sample(model, sampler, &of_run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, x, ELEMENTS, NULL, NULL, NULL));
  OK(psld_sample(same, of_same, &of_run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, y, ELEMENTS, NULL, NULL, NULL));
  for (int i = 0; i < ELEMENTS; ++i) CHECK(fabs(x[i] - y[i]) < 1e-12);
  CHECK(user.calls == 21);
  of_run = samples(N, 3);
  float narrow[ELEMENTS];
  OK(psld_sample(model, sampler, &of_run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, narrow, ELEMENTS, NULL, NULL, NULL));
  for (int i = 0; i < ELEMENTS; ++i) CHECK(fabs(x[i] - narrow[i]) < 1e-5);

  /* Its failure is the step's. */
  user.fail_at = user.calls + 2;
  psld_error *err = NULL;
  EXPECT(PSLD_STATUS_RUNTIME_FAILURE,
         psld_sample(model, sampler, &of_run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, narrow, ELEMENTS, NULL, NULL, &err));
  CHECK(strstr(psld_error_message(err), "the caller's network returned 7") && !strstr(psld_error_message(err), "7:"));
  OK(psld_error_free(err));
  err = NULL;
  user.fail_at = user.calls + 1;
  user.says = "no weights";
  EXPECT(PSLD_STATUS_RUNTIME_FAILURE,
         psld_sample(model, sampler, &of_run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, narrow, ELEMENTS, NULL, NULL, &err));
  CHECK(strstr(psld_error_message(err), "the caller's network returned 7: no weights"));
  OK(psld_error_free(err));

  /* It is told when nothing uses the network any more, and not before. */
  psld_run *run = NULL;
  OK(psld_run_start(model, sampler, &of_run, &run, NULL));
  OK(psld_model_free(model));
  OK(psld_run_step(run, 1, NULL, NULL));
  CHECK(user.released == 0);
  OK(psld_run_free(run));
  CHECK(user.released == 1);

  /* Without labels of a run, all have the null class. */
  options.spec_json =
      "{\"format\": 1, \"process\": {\"kind\": \"vp\"}, \"data\": {\"shape\": [4]},"
      " \"network\": {\"prediction\": \"epsilon\", \"label_input\": \"y\", \"classes\": 2}}";
  OK(psld_model_create(with_labels, NULL, NULL, "zero", &options, &model, NULL));
  psld_sampler *of_labelled = compile(model, "heun", 10);
  OK(psld_sample(model, of_labelled, &of_run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, narrow, ELEMENTS, NULL, NULL, NULL));

  /* An output that is not written is no number, and not what was there before. */
  psld_model *forgetful = NULL;
  psld_sampler *of_forgetful = NULL;
  int calls = 0;
  options.spec_json = spec;
  OK(psld_model_create(forgets, &calls, NULL, "forgets", &options, &forgetful, NULL));
  of_forgetful = compile(forgetful, "euler", 10);
  EXPECT(PSLD_STATUS_NON_FINITE, psld_sample(forgetful, of_forgetful, &of_run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32,
                                             narrow, ELEMENTS, NULL, NULL, NULL));
  CHECK(calls == 3);
  OK(psld_sampler_free(of_forgetful));
  OK(psld_model_free(forgetful));

  /* What is refused; the network is given back each time. */
  user.released = 0;
  psld_model *none = NULL;
  EXPECT(PSLD_STATUS_NULL_POINTER, psld_model_create(NULL, &user, released, "x", &options, &none, NULL));
  EXPECT(PSLD_STATUS_NULL_POINTER, psld_model_create(network, &user, released, NULL, &options, &none, NULL));
  EXPECT(PSLD_STATUS_NULL_POINTER, psld_model_create(network, &user, released, "x", &options, NULL, NULL));
  EXPECT(PSLD_STATUS_SPEC_MISSING, psld_model_create(network, &user, released, "x", NULL, &none, NULL));
  options.providers = "cpu";
  EXPECT(PSLD_STATUS_INVALID_ARGUMENT, psld_model_create(network, &user, released, "x", &options, &none, NULL));
  options.providers = NULL;
  options.spec_json = "{}";
  EXPECT(PSLD_STATUS_SPEC_INVALID, psld_model_create(network, &user, released, "x", &options, &none, NULL));
  CHECK(user.released == 6 && !none);

  OK(psld_model_free(model));
  OK(psld_model_free(same));
  OK(psld_sampler_free(sampler));
  OK(psld_sampler_free(of_same));
  OK(psld_sampler_free(of_labelled));
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
