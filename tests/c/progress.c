/* A psld_progress is written with every status after which the run or request can be read, and with no other. */
#include "check.h"
#include <math.h>
#include <pthread.h>

static const char *const spec =
    "{\"format\": 1, \"process\": {\"kind\": \"vp\"}, \"data\": {\"shape\": [4]}, \"network\": {\"prediction\": \"x0\"}}";

enum { FINE, FAILS, SPOILS };

/* What the network does from its call number `from` on. */
static struct {
  int call, from, what;
  psld_cancel *cancels;
} plan;

static int32_t network(void *user, const psld_evaluation *e) {
  (void)user;
  for (size_t i = 0; i < e->out_elements; i++) ((float *)e->out)[i] = 0.25f;
  if (++plan.call < plan.from) return 0;
  if (plan.cancels) psld_cancel_cancel(plan.cancels);
  if (plan.what == SPOILS) ((float *)e->out)[0] = NAN;
  return plan.what == FAILS;
}

static void does(int what, int from, psld_cancel *cancels) {
  plan.call = 0;
  plan.what = what;
  plan.from = from;
  plan.cancels = cancels;
}

static psld_model *model;
static psld_sampler *sampler, *adaptive;

static psld_progress fresh(void) {
  psld_progress p;
  OK(psld_progress_init(&p, sizeof p));
  p.step = p.of = p.nfe = -1;
  return p;
}

/* Written: `step` steps of 11, on two samples. */
static void says(psld_progress p, int32_t step) {
  CHECK(p.struct_size == sizeof p && p.step == step && p.of == 11 && p.nfe >= step && p.samples == 2);
  CHECK(p.done == (step == 11) && p.samples_done == (step == 11 ? 2 : 0) && p.t > 0.0 && p.t <= 1.0);
}

static void untouched(psld_progress p) { CHECK(p.step == -1 && p.of == -1 && p.nfe == -1 && p.samples == 0); }

static psld_run *start(psld_run_options options) {
  psld_run *run = NULL;
  OK(psld_run_start(model, sampler, &options, &run, NULL));
  return run;
}

/* The same, whichever function tells. */
static void tells(psld_run *run, int32_t status, int32_t step) {
  psld_progress p = fresh();
  EXPECT(status, psld_run_step(run, 1, &p, NULL));
  says(p, step);
  p = fresh();
  EXPECT(status, psld_run_finish(run, NULL, &p, NULL));
  says(p, step);
}

static int32_t stops(void *user, const psld_progress *p) { return p->step == *(int32_t *)user; }

static int32_t busy(void *run, const psld_evaluation *e) {
  psld_progress p = fresh();
  EXPECT(PSLD_STATUS_BUSY, psld_run_step(*(psld_run **)run, 1, &p, NULL));
  untouched(p);
  EXPECT(PSLD_STATUS_BUSY, psld_run_finish(*(psld_run **)run, NULL, &p, NULL));
  untouched(p);
  memset(e->out, 0, e->out_elements * sizeof(float));
  return 0;
}

/* Waits for a request of which the network does so. */
static void request(psld_engine *engine, psld_run_options options, int32_t status, int32_t step) {
  psld_ticket *ticket = NULL;
  psld_progress p = fresh();
  OK(psld_engine_submit(engine, sampler, &options, 0, &ticket, NULL));
  for (int i = 0; i < 2; i++) {
    p = fresh();
    EXPECT(status, psld_ticket_wait(ticket, i ? 0.0 : INFINITY, &p, NULL));
    says(p, step);
  }
  p = fresh();
  EXPECT(PSLD_STATUS_INVALID_ARGUMENT, psld_ticket_wait(ticket, -1.0, &p, NULL));
  untouched(p);
  OK(psld_ticket_free(ticket));
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_ticket_wait(ticket, 0.0, &p, NULL));
  untouched(p);
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  psld_model_options of_model;
  OK(psld_model_options_init(&of_model, sizeof of_model));
  of_model.spec_json = spec;
  OK(psld_model_create(network, NULL, NULL, "network", &of_model, &model, NULL));
  sampler = compile(model, "ddim", 10);
  psld_progress p;

  /* Cancelled between two steps, and in a network call. */
  psld_run_options options = samples(2, 1);
  for (int within = 0; within < 2; within++) {
    psld_cancel *cancel = NULL;
    OK(psld_cancel_create(&cancel, NULL));
    options.cancel = cancel;
    psld_run *run = start(options);
    does(FINE, 99, NULL);
    OK(psld_run_step(run, 3, NULL, NULL));
    if (within) {
      does(FAILS, 1, cancel); /* a call that fails while it is cancelled was ended by that */
    } else {
      OK(psld_cancel_cancel(cancel));
    }
    tells(run, PSLD_STATUS_CANCELLED, 3);
    p = fresh();
    OK(psld_run_step(run, 0, &p, NULL));
    says(p, 3);
    does(FINE, 99, NULL);
    OK(psld_run_resume(run, NULL, 0.0, NULL));
    OK(psld_run_finish(run, NULL, &p, NULL));
    says(p, 11);
    OK(psld_run_free(run));
    OK(psld_cancel_free(cancel));
  }
  options.cancel = NULL;

  /* By a callback, and by one of another kind. */
  int32_t at = 4;
  psld_observer observer;
  OK(psld_observer_init(&observer, sizeof observer));
  observer.user = &at;
  observer.progress = stops;
  psld_run *run = start(options);
  p = fresh();
  EXPECT(PSLD_STATUS_CANCELLED, psld_run_finish(run, &observer, &p, NULL));
  says(p, 4);

  /* Past the deadline, also with an estimate. */
  for (int anytime = 0; anytime < 2; anytime++) {
    options.anytime = anytime;
    psld_run *late = start(options);
    OK(psld_run_step(late, 2, NULL, NULL));
    OK(psld_run_resume(late, NULL, 1e-9, NULL));
    tells(late, anytime ? PSLD_STATUS_PARTIAL : PSLD_STATUS_DEADLINE_EXCEEDED, 2);
    OK(psld_run_free(late));
  }
  options.anytime = 0;

  /* Failures; then the run can only be read, and says so. */
  const int32_t statuses[2] = {PSLD_STATUS_RUNTIME_FAILURE, PSLD_STATUS_NON_FINITE};
  for (int i = 0; i < 2; i++) {
    float x[8];
    psld_run *failed = start(options);
    does(i ? SPOILS : FAILS, 6, NULL);
    p = fresh();
    EXPECT(statuses[i], i ? psld_run_finish(failed, NULL, &p, NULL) : psld_run_step(failed, 11, &p, NULL));
    says(p, 5);
    tells(failed, PSLD_STATUS_RUN_STATE, 5);
    p = fresh();
    EXPECT(PSLD_STATUS_RUN_STATE, psld_run_step(failed, 0, &p, NULL) ? PSLD_STATUS_RUN_STATE : PSLD_STATUS_OK);
    says(p, 5);
    OK(psld_run_read(failed, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 8, NULL));
    OK(psld_run_free(failed));
  }
  does(FINE, 99, NULL);

  /* An adaptive sampler's limit. */
  psld_sampler_options of_adaptive;
  OK(psld_sampler_options_init(&of_adaptive, sizeof of_adaptive));
  of_adaptive.sampler = "rk45";
  of_adaptive.max_nfe = 20;
  OK(psld_sampler_create(model, &of_adaptive, &adaptive, NULL));
  psld_run *limited = NULL;
  OK(psld_run_start(model, adaptive, &options, &limited, NULL));
  p = fresh();
  EXPECT(PSLD_STATUS_MAX_NFE, psld_run_finish(limited, NULL, &p, NULL));
  CHECK(p.step > 0 && p.of == 0 && p.nfe > 0 && p.nfe <= 20 && !p.done && p.samples == 2);
  OK(psld_run_free(limited));

  /* Previews of a run that makes none: it can be read, and nothing has happened to it. */
  observer.preview = (psld_preview_callback)NULL;
  p = fresh();
  OK(psld_run_step(run, 0, &p, NULL));
  says(p, 4);

  /* Refused. */
  p = fresh();
  EXPECT(PSLD_STATUS_INVALID_ARGUMENT, psld_run_step(run, -1, &p, NULL));
  untouched(p);
  observer.preview_every = 0;
  EXPECT(PSLD_STATUS_INVALID_ARGUMENT, psld_run_finish(run, &observer, &p, NULL));
  untouched(p);
  EXPECT(PSLD_STATUS_NULL_POINTER, psld_run_step(NULL, 1, &p, NULL));
  untouched(p);
  OK(psld_run_free(run));
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_run_step(run, 1, &p, NULL));
  untouched(p);
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_run_finish(run, NULL, &p, NULL));
  untouched(p);
  psld_model *asks = NULL;
  psld_run *asked = NULL;
  OK(psld_model_create(busy, &asked, NULL, "busy", &of_model, &asks, NULL));
  OK(psld_run_start(asks, sampler, &options, &asked, NULL));
  OK(psld_run_step(asked, 1, NULL, NULL));
  OK(psld_run_free(asked));
  OK(psld_model_free(asks));

  /* Requests. */
  psld_engine *engine = NULL;
  OK(psld_engine_create(model, NULL, &engine, NULL));
  request(engine, options, PSLD_STATUS_OK, 11);
  psld_cancel *cancel = NULL;
  OK(psld_cancel_create(&cancel, NULL));
  options.cancel = cancel;
  does(FINE, 4, cancel);
  request(engine, options, PSLD_STATUS_CANCELLED, 4);
  options.cancel = NULL;
  does(FAILS, 6, NULL);
  request(engine, options, PSLD_STATUS_RUNTIME_FAILURE, 5);
  does(SPOILS, 6, NULL);
  request(engine, options, PSLD_STATUS_NON_FINITE, 5);
  OK(psld_engine_free(engine));

  OK(psld_cancel_free(cancel));
  OK(psld_sampler_free(sampler));
  OK(psld_sampler_free(adaptive));
  OK(psld_model_free(model));
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
