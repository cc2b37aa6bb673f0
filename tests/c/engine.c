/* Many callers on one network: each gets what it would get alone, and an engine can be left at any time. */
#include "check.h"
#include <math.h>
#include <pthread.h>

enum { THREADS = 4, ROUNDS = 3, MOST = 3, ELEMENTS = MOST * 12 };

static psld_model *model;
static psld_sampler *samplers[3];
static psld_engine *engine;

static psld_ticket *submit(psld_sampler *sampler, psld_run_options options) {
  psld_ticket *ticket = NULL;
  psld_error *err = NULL;
  if (psld_engine_submit(engine, sampler, &options, 0, &ticket, &err)) {
    fprintf(stderr, "%s\n", psld_error_message(err));
    exit(1);
  }
  return ticket;
}

/* Requests of different sizes and samplers, all in flight at once. */
static void *one_caller(void *argument) {
  uint64_t seed = *(uint64_t *)argument;
  for (int round = 0; round < ROUNDS; round++) {
    psld_ticket *tickets[3];
    for (int i = 0; i < 3; i++) tickets[i] = submit(samplers[i], samples(1 + (i + round) % MOST, seed + (uint64_t)i));
    for (int i = 0; i < 3; i++) {
      int64_t n = 1 + (i + round) % MOST, shape[4];
      size_t ndim = 0, elements = (size_t)n * 12;
      float made[ELEMENTS], alone[ELEMENTS];
      psld_progress progress;
      OK(psld_progress_init(&progress, sizeof progress));
      OK(psld_ticket_wait(tickets[i], INFINITY, &progress, NULL));
      CHECK(progress.done && progress.samples == n && progress.samples_done == n && progress.fraction == 1.0);
      OK(psld_ticket_shape(tickets[i], PSLD_OUTPUT_DATA, shape, 4, &ndim, NULL));
      CHECK(ndim == 4 && shape[0] == n && shape[1] == 3 && shape[2] == 2 && shape[3] == 2);
      OK(psld_ticket_read(tickets[i], PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, made, elements, NULL));
      psld_run_options options = samples(n, seed + (uint64_t)i);
      OK(psld_sample(model, samplers[i], &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, alone, elements, NULL, NULL,
                     NULL));
      CHECK(memcmp(made, alone, elements * sizeof *made) == 0);
      OK(psld_ticket_free(tickets[i]));
    }
  }
  return NULL;
}

static void *wait_for(void *ticket) {
  static int32_t status;
  status = psld_ticket_wait((psld_ticket *)ticket, INFINITY, NULL, NULL);
  return &status;
}

static psld_engine *start(int32_t max_batch, int32_t queue) {
  psld_engine_options options;
  OK(psld_engine_options_init(&options, sizeof options));
  options.max_batch = max_batch;
  options.queue = queue;
  psld_engine *made = NULL;
  OK(psld_engine_create(model, &options, &made, NULL));
  return made;
}

int main(int argc, char **argv) {
  CHECK(argc > 1);
  model = load(argv[1]);
  const char *names[3] = {"sscs", "heun", "em"};
  for (int i = 0; i < 3; i++) samplers[i] = compile(model, names[i], 4 + i);

  engine = start(5, 0);
  pthread_t threads[THREADS];
  uint64_t seeds[THREADS] = {10, 20, 30, 40};
  for (int i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, one_caller, &seeds[i]));
  for (int i = 0; i < THREADS; i++) CHECK(!pthread_join(threads[i], NULL));
  char stats[256];
  OK(psld_engine_stats_json(engine, stats, sizeof stats, NULL, NULL));
  CHECK(strstr(stats, "{\"requests\":0,\"submitted\":36,\"completed\":36,\"failed\":0,\"calls\":"));

  /* A deadline, also of who is content with an estimate. */
  psld_sampler *slow = compile(model, "em", 20000);
  psld_run_options late = samples(2, 1);
  late.deadline_seconds = 0.02;
  psld_ticket *ticket = submit(slow, late);
  EXPECT(PSLD_STATUS_DEADLINE_EXCEEDED, psld_ticket_wait(ticket, INFINITY, NULL, NULL));
  float x[24];
  EXPECT(PSLD_STATUS_RUN_STATE, psld_ticket_read(ticket, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 24, NULL));
  OK(psld_ticket_free(ticket));
  late.anytime = 1;
  ticket = submit(slow, late);
  psld_progress progress;
  OK(psld_progress_init(&progress, sizeof progress));
  EXPECT(PSLD_STATUS_PARTIAL, psld_ticket_wait(ticket, INFINITY, &progress, NULL));
  CHECK(!progress.done && progress.nfe > 0 && progress.of == 20001);
  OK(psld_ticket_read(ticket, PSLD_OUTPUT_X0, PSLD_DTYPE_F32, x, 24, NULL));
  OK(psld_ticket_free(ticket));
  OK(psld_engine_free(engine));

  /* A full queue; a cancel by token and by ticket; a ticket that is freed at work. */
  engine = start(0, 3);
  psld_cancel *cancel = NULL;
  OK(psld_cancel_create(&cancel, NULL));
  psld_run_options options = samples(2, 1);
  options.cancel = cancel;
  psld_ticket *tickets[3] = {submit(slow, options), submit(slow, samples(2, 1)), submit(slow, samples(2, 1))};
  psld_ticket *more = NULL;
  psld_error *err = NULL;
  EXPECT(PSLD_STATUS_QUEUE_FULL, psld_engine_submit(engine, slow, NULL, 0, &more, &err));
  CHECK(more == NULL && strstr(psld_error_message(err), "queue is full"));
  OK(psld_error_free(err));
  OK(psld_ticket_wait(tickets[0], 0.0, &progress, NULL));
  CHECK(!progress.done && progress.samples_done == 0);
  pthread_t waiting;
  CHECK(!pthread_create(&waiting, NULL, wait_for, tickets[2]));
  OK(psld_cancel_cancel(cancel));
  OK(psld_ticket_cancel(tickets[1]));
  for (int i = 0; i < 2; i++) EXPECT(PSLD_STATUS_CANCELLED, psld_ticket_wait(tickets[i], INFINITY, NULL, NULL));
  /* The other thread may not be in its call yet. */
  while (psld_ticket_wait(tickets[2], 0.01, &progress, NULL) == PSLD_STATUS_OK && progress.nfe < 10) {
  }
  void *result = NULL;
  OK(psld_ticket_cancel(tickets[2]));
  CHECK(!pthread_join(waiting, &result));
  EXPECT(PSLD_STATUS_CANCELLED, *(int32_t *)result);
  for (int i = 0; i < 3; i++) OK(psld_ticket_free(tickets[i]));
  OK(psld_ticket_free(submit(slow, samples(1, 1))));
  OK(psld_cancel_free(cancel));

  /* Freed while it works, parents first: its tickets keep it at work. */
  float alone[24];
  options = samples(2, 9);
  psld_sampler *medium = compile(model, "em", 2000);
  OK(psld_sample(model, medium, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, alone, 24, NULL, NULL, NULL));
  tickets[0] = submit(medium, samples(2, 9));
  tickets[1] = submit(slow, samples(1, 1));
  OK(psld_sampler_free(medium));
  CHECK(!pthread_create(&waiting, NULL, wait_for, tickets[0]));
  OK(psld_engine_free(engine));
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_engine_submit(engine, samplers[0], NULL, 0, &more, NULL));
  CHECK(!pthread_join(waiting, &result));
  OK(*(int32_t *)result);
  OK(psld_ticket_wait(tickets[0], INFINITY, &progress, NULL));
  CHECK(progress.done && progress.samples_done == 2);
  OK(psld_ticket_read(tickets[0], PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 24, NULL));
  CHECK(memcmp(x, alone, sizeof x) == 0);
  OK(psld_ticket_cancel(tickets[1]));
  EXPECT(PSLD_STATUS_CANCELLED, psld_ticket_wait(tickets[1], INFINITY, NULL, NULL));
  OK(psld_ticket_free(tickets[0]));
  OK(psld_ticket_free(tickets[1]));
  /* Also where nobody waits any more. */
  engine = start(0, 3);
  ticket = submit(slow, samples(3, 1));
  OK(psld_engine_free(engine));
  OK(psld_ticket_free(ticket));

  /* Closed while it works, and then freed. */
  engine = start(0, 3);
  ticket = submit(slow, samples(3, 1));
  OK(psld_model_free(model));
  OK(psld_sampler_free(slow));
  CHECK(!pthread_create(&waiting, NULL, wait_for, ticket));
  OK(psld_engine_close(engine, NULL));
  CHECK(!pthread_join(waiting, &result));
  EXPECT(PSLD_STATUS_CANCELLED, *(int32_t *)result);
  EXPECT(PSLD_STATUS_CANCELLED, psld_ticket_wait(ticket, 0.0, NULL, NULL));
  EXPECT(PSLD_STATUS_CANCELLED, psld_engine_submit(engine, samplers[0], NULL, 0, &more, NULL));
  OK(psld_engine_close(engine, NULL));
  OK(psld_engine_free(engine));
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_engine_close(engine, NULL));
  OK(psld_ticket_free(ticket));

  for (int i = 0; i < 3; i++) OK(psld_sampler_free(samplers[i]));
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
