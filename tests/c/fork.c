/* A child of fork(): its parent's handles are refused at once and freed at once, and its own work. argv[1] is a model. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { N = 2, MANY = 20000, MOST = MANY * 12 };

static const char *path;
static int64_t per_sample;

static size_t elements(int64_t n) { return (size_t)(n * per_sample); }

static void sample(psld_model *model, psld_sampler *sampler, int64_t n, float *out) {
  psld_run_options options = samples(n, 7);
  options.batch = n;
  OK(psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, out, elements(n), NULL, NULL, NULL));
}

/* Waits for a child that must end well. It is ended by a signal where it hangs. */
static void ends(pid_t child) {
  CHECK(child > 0);
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status)) fprintf(stderr, "the child was ended by signal %d\n", WTERMSIG(status));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

struct inherited {
  psld_model *model;
  psld_sampler *sampler;
  psld_run *run;
  psld_engine *engine;
  psld_ticket *ticket, *working;
  psld_cancel *cancel;
  psld_error *error;
};

static void refused(const struct inherited *of) {
  const int32_t forked = PSLD_STATUS_FORKED;
  psld_model *model = NULL;
  psld_run *run = NULL;
  psld_engine *engine = NULL;
  psld_ticket *ticket = NULL;
  psld_sampler *sampler = NULL;
  psld_error *err = NULL;
  psld_progress progress;
  float x[8];
  size_t size;
  int64_t id[1] = {0};
  uint64_t number;
  OK(psld_progress_init(&progress, sizeof progress));
  psld_run_options options = samples(1, 1);

  EXPECT(forked, psld_run_step(of->run, 1, &progress, &err));
  CHECK(psld_error_status(err) == forked && strstr(psld_error_message(err), "run: this psld_run"));
  CHECK(strstr(psld_error_message(err), "forked from") && *psld_error_hint(err));
  OK(psld_error_free(err));
  EXPECT(forked, psld_run_step(of->run, 0, NULL, NULL));
  EXPECT(forked, psld_run_finish(of->run, NULL, NULL, NULL));
  EXPECT(forked, psld_run_read(of->run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 8, NULL));
  EXPECT(forked, psld_run_save(of->run, NULL, 0, &size, NULL));
  EXPECT(forked, psld_run_gather(of->run, id, 1, NULL, NULL));
  EXPECT(forked, psld_run_resume(of->run, NULL, 0.0, NULL));
  EXPECT(forked, psld_run_provenance_json(of->run, NULL, 0, &size, NULL));
  EXPECT(forked, psld_model_info_json(of->model, NULL, 0, &size, NULL));
  EXPECT(forked, psld_sampler_create(of->model, NULL, &sampler, NULL));
  EXPECT(forked, psld_run_start(of->model, of->sampler, &options, &run, NULL));
  EXPECT(forked, psld_sample(of->model, of->sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 8, NULL, NULL, NULL));
  EXPECT(forked, psld_engine_create(of->model, NULL, &engine, NULL));
  EXPECT(forked, psld_engine_submit(of->engine, of->sampler, &options, 0, &ticket, NULL));
  EXPECT(forked, psld_engine_stats_json(of->engine, NULL, 0, &size, NULL));
  for (int i = 0; i < 2; i++) {
    EXPECT(forked, psld_ticket_wait(i ? of->ticket : of->working, INFINITY, &progress, NULL));
    EXPECT(forked, psld_ticket_wait(i ? of->ticket : of->working, 0.0, NULL, NULL));
    EXPECT(forked, psld_ticket_cancel(i ? of->ticket : of->working));
  }
  EXPECT(forked, psld_ticket_read(of->ticket, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 8, NULL));
  EXPECT(forked, psld_ticket_id(of->ticket, &number, NULL));
  EXPECT(forked, psld_cancel_cancel(of->cancel));
  CHECK(!model && !run && !engine && !ticket && !sampler);

  /* Also as an argument of what is this process' own. */
  model = load(path);
  options.cancel = of->cancel;
  EXPECT(forked, psld_run_start(model, of->sampler, &options, &run, NULL));
  OK(psld_model_free(model));

  /* A wrong type stays a wrong type. */
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_run_step((psld_run *)of->model, 1, NULL, NULL));
  /* Plain text is plain text. */
  CHECK(strstr(psld_error_message(of->error), "nowhere.json"));
}

static void freed(const struct inherited *of) {
  OK(psld_ticket_free(of->working));
  OK(psld_engine_free(of->engine));
  OK(psld_ticket_free(of->ticket));
  OK(psld_run_free(of->run));
  OK(psld_sampler_free(of->sampler));
  OK(psld_model_free(of->model));
  OK(psld_cancel_free(of->cancel));
  OK(psld_error_free(of->error));
}

/* Which is not told of handles that a thread of the parent's was giving out while it forked. */
static void freed_once(const struct inherited *of) {
  freed(of);
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_model_free(of->model));
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_run_free(of->run));
}

/* Everything that a process does, with handles of its own. */
static void works(psld_sampler *sampler, int64_t n, const float *expected) {
  float *x = (float *)malloc(elements(n) * sizeof *x);
  CHECK(x);
  psld_model *model = load(path);
  sample(model, sampler, n, x); /* of the parent, or not */
  CHECK(memcmp(x, expected, elements(n) * sizeof *x) == 0);
  psld_engine *engine = NULL;
  psld_ticket *ticket = NULL;
  psld_run_options options = samples(n, 7);
  OK(psld_engine_create(model, NULL, &engine, NULL));
  OK(psld_engine_submit(engine, sampler, &options, 0, &ticket, NULL));
  OK(psld_ticket_wait(ticket, INFINITY, NULL, NULL));
  OK(psld_ticket_free(ticket));
  OK(psld_engine_free(engine));
  OK(psld_model_free(model));
  free(x);
}

static atomic_int stop;

/* Keeps the library's locks busy while its process forks. */
static void *busy(void *model) {
  while (!stop) {
    psld_cancel *cancel = NULL;
    psld_error *err = NULL;
    psld_sampler *sampler = NULL;
    OK(psld_cancel_create(&cancel, NULL));
    OK(psld_cancel_free(cancel));
    EXPECT(PSLD_STATUS_NULL_POINTER, psld_sampler_create(NULL, NULL, &sampler, &err));
    OK(psld_error_free(err));
    CHECK(psld_model_info_json((psld_model *)model, NULL, 0, NULL, NULL) == PSLD_STATUS_OK);
  }
  return NULL;
}

static void *says(void *log) {
  while (!stop) psld_set_log_callback(PSLD_LOG_DEBUG, *(psld_log_callback *)log, NULL);
  return NULL;
}

static void hears(void *user, int32_t level, const char *message) {
  (void)user, (void)level, (void)message;
  const struct timespec time = {0, 100000};
  nanosleep(&time, NULL);
}

static int32_t forks(void *user, const psld_progress *progress) {
  if (progress->step == 2) *(pid_t *)user = fork();
  return 0;
}

int main(int argc, char **argv) {
  CHECK(argc > 1);
  path = argv[1];
  const int exact = strstr(path, ".json") != NULL;
  static float few[2 * 3 * 32 * 32], many[MOST];
  struct inherited of;
  memset(&of, 0, sizeof of);
  of.model = load(path);
  of.sampler = compile(of.model, "em", 6);
  int64_t shape[8];
  size_t ndim;
  OK(psld_model_shape(of.model, PSLD_OUTPUT_DATA, shape, 8, &ndim, NULL));
  per_sample = 1;
  for (size_t i = 0; i < ndim; i++) per_sample *= shape[i];
  CHECK(per_sample * N <= (int64_t)(sizeof few / sizeof *few) && (!exact || per_sample == 12));
  sample(of.model, of.sampler, N, few);
  /* So many that the solver uses its threads. */
  const int64_t n = exact ? MANY : N;
  sample(of.model, of.sampler, n, many);

  psld_run_options options = samples(N, 7);
  OK(psld_cancel_create(&of.cancel, NULL));
  OK(psld_run_start(of.model, of.sampler, &options, &of.run, NULL));
  OK(psld_run_step(of.run, 1, NULL, NULL));
  OK(psld_engine_create(of.model, NULL, &of.engine, NULL));
  OK(psld_engine_submit(of.engine, of.sampler, &options, 0, &of.ticket, NULL));
  OK(psld_ticket_wait(of.ticket, INFINITY, NULL, NULL));
  psld_sampler *slow = compile(of.model, "em", 100000);
  psld_run_options long_work = samples(exact ? 2000 : 64, 7);
  OK(psld_engine_submit(of.engine, slow, &long_work, 0, &of.working, NULL));
  psld_model *none = NULL;
  EXPECT(PSLD_STATUS_READ_FAILED, psld_model_load_file(NULL, "nowhere.json", NULL, &none, &of.error));

  pid_t child;
  /* A child that only leaves. */
  if ((child = fork()) == 0) {
    alarm(60);
    exit(0);
  }
  ends(child);

  if ((child = fork()) == 0) {
    alarm(120);
    CHECK(psld_debug_live_handles() == 0);
    refused(&of);
    works(of.sampler, n, many);
    /* And its own child. */
    psld_model *own = load(path);
    if ((child = fork()) == 0) {
      alarm(60);
      EXPECT(PSLD_STATUS_FORKED, psld_model_info_json(own, NULL, 0, NULL, NULL));
      OK(psld_model_free(own));
      refused(&of);
      freed_once(&of);
      exit(0);
    }
    ends(child);
    freed_once(&of);
    psld_sampler *sampler = compile(own, "em", 6);
    works(sampler, N, few);
    OK(psld_sampler_free(sampler));
    OK(psld_model_free(own));
    CHECK(psld_debug_live_handles() == 0);
    exit(0);
  }
  ends(child);

  /* A child that leaves its parent's call. */
  child = -1;
  float x[2 * 3 * 32 * 32];
  const int32_t status = psld_sample(of.model, of.sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, elements(N),
                                     forks, &child, NULL);
  if (child == 0) {
    EXPECT(PSLD_STATUS_FORKED, status);
    exit(0);
  }
  OK(status);
  CHECK(memcmp(x, few, elements(N) * sizeof *x) == 0);
  ends(child);

  /* Whatever other threads are at. */
  pthread_t threads[3];
  psld_log_callback log = hears;
  CHECK(!pthread_create(&threads[0], NULL, busy, of.model) && !pthread_create(&threads[1], NULL, busy, of.model));
  CHECK(!pthread_create(&threads[2], NULL, says, &log));
  for (int i = 0; i < 40; i++) {
    if ((child = fork()) == 0) {
      alarm(60);
      OK(psld_set_log_callback(PSLD_LOG_OFF, NULL, NULL));
      freed(&of);
      psld_cancel *cancel = NULL;
      OK(psld_cancel_create(&cancel, NULL));
      OK(psld_cancel_cancel(cancel));
      OK(psld_cancel_free(cancel));
      _exit(0);
    }
    ends(child);
  }
  stop = 1;
  for (int i = 0; i < 3; i++) CHECK(!pthread_join(threads[i], NULL));
  OK(psld_set_log_callback(PSLD_LOG_OFF, NULL, NULL));

  /* Nothing of that is felt here. */
  OK(psld_run_finish(of.run, NULL, NULL, NULL));
  OK(psld_ticket_cancel(of.working));
  EXPECT(PSLD_STATUS_CANCELLED, psld_ticket_wait(of.working, INFINITY, NULL, NULL));
  OK(psld_sampler_free(slow));
  freed_once(&of);
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
