/* Everything that a caller can do wrong and a library can notice. */
#include "check.h"

#define NULL_POINTER(call) EXPECT(PSLD_STATUS_NULL_POINTER, call)
#define INVALID(call) EXPECT(PSLD_STATUS_INVALID_HANDLE, call)
#define ARGUMENT(call) EXPECT(PSLD_STATUS_INVALID_ARGUMENT, call)

static void nulls(const char *path) {
  psld_model *model = load(path);
  psld_sampler *sampler = compile(model, NULL, 2);
  psld_sampler *other = NULL;
  psld_run *run = NULL;
  OK(psld_run_start(model, sampler, NULL, &run, NULL));
  float x[12];

  CHECK(psld_error_status(NULL) == PSLD_STATUS_NULL_POINTER);
  CHECK(strcmp(psld_error_message(NULL), "") == 0 && strcmp(psld_error_hint(NULL), "") == 0);
  NULL_POINTER(psld_runtime_load(NULL, NULL, NULL));
  NULL_POINTER(psld_runtime_info_json(NULL, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_model_options_init(NULL, sizeof(psld_model_options)));
  NULL_POINTER(psld_model_load_file(NULL, path, NULL, NULL, NULL));
  NULL_POINTER(psld_model_load_file(NULL, NULL, NULL, &model, NULL));
  NULL_POINTER(psld_model_load_memory(NULL, NULL, 3, NULL, &model, NULL));
  NULL_POINTER(psld_model_load_memory(NULL, "{}", 2, NULL, NULL, NULL));
  NULL_POINTER(psld_model_create(NULL, NULL, NULL, "", NULL, &model, NULL));
  NULL_POINTER(psld_model_info_json(NULL, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_model_info_json(model, NULL, 10, NULL, NULL));
  OK(psld_model_info_json(model, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_model_shape(NULL, 0, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_model_shape(model, 0, NULL, 3, NULL, NULL));
  OK(psld_model_shape(model, 0, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_model_probe(NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_model_probe(model, NULL, NULL, 2, NULL, NULL, NULL, NULL, 0, NULL, NULL));
  ARGUMENT(psld_model_probe(model, "{\"sampler\": \"em\"}", NULL, 0, NULL, NULL, NULL, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_sampler_options_init(NULL, sizeof(psld_sampler_options)));
  OK(psld_samplers_json(NULL, 0, NULL, NULL));
  NULL_POINTER(psld_sampler_create(NULL, NULL, &other, NULL));
  NULL_POINTER(psld_sampler_create(model, NULL, NULL, NULL));
  NULL_POINTER(psld_sampler_create_from_plan(NULL, "{}", &other, NULL));
  NULL_POINTER(psld_sampler_create_from_plan(model, NULL, &other, NULL));
  NULL_POINTER(psld_sampler_create_from_plan(model, "{}", NULL, NULL));
  NULL_POINTER(psld_sampler_plan_json(NULL, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_sampler_hash(NULL, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_sampler_nfe(NULL, NULL, NULL));
  NULL_POINTER(psld_sampler_nfe(sampler, NULL, NULL));
  NULL_POINTER(psld_tensor_init(NULL, sizeof(psld_tensor)));
  NULL_POINTER(psld_progress_init(NULL, sizeof(psld_progress)));
  NULL_POINTER(psld_run_options_init(NULL, sizeof(psld_run_options)));
  NULL_POINTER(psld_run_start(NULL, sampler, NULL, &run, NULL));
  NULL_POINTER(psld_run_start(model, NULL, NULL, &run, NULL));
  NULL_POINTER(psld_run_start(model, sampler, NULL, NULL, NULL));
  NULL_POINTER(psld_run_step(NULL, 1, NULL, NULL));
  OK(psld_run_step(run, 1, NULL, NULL));
  NULL_POINTER(psld_run_resume(NULL, NULL, 0.0, NULL));
  NULL_POINTER(psld_run_shape(NULL, 0, NULL, 0, NULL, NULL));
  OK(psld_run_shape(run, 0, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_run_read(NULL, 0, 0, x, 12, NULL));
  NULL_POINTER(psld_run_read(run, 0, 0, NULL, 12, NULL));
  NULL_POINTER(psld_sample(NULL, sampler, NULL, 0, 0, x, 12, NULL, NULL, NULL));
  NULL_POINTER(psld_sample(model, NULL, NULL, 0, 0, x, 12, NULL, NULL, NULL));
  NULL_POINTER(psld_sample(model, sampler, NULL, 0, 0, NULL, 12, NULL, NULL, NULL));
  OK(psld_sample(model, sampler, NULL, 0, 0, x, 12, NULL, NULL, NULL));
  NULL_POINTER(psld_cancel_create(NULL, NULL));
  NULL_POINTER(psld_cancel_cancel(NULL));
  NULL_POINTER(psld_noise_fill(0, 0, 0, 0, 0, NULL, 1, NULL));
  OK(psld_set_log_callback(PSLD_LOG_OFF, NULL, NULL));

  psld_engine *engine = NULL;
  psld_ticket *ticket = NULL;
  uint64_t id;
  OK(psld_engine_create(model, NULL, &engine, NULL));
  OK(psld_engine_submit(engine, sampler, NULL, 0, &ticket, NULL));
  NULL_POINTER(psld_engine_options_init(NULL, sizeof(psld_engine_options)));
  NULL_POINTER(psld_engine_create(NULL, NULL, &engine, NULL));
  NULL_POINTER(psld_engine_create(model, NULL, NULL, NULL));
  NULL_POINTER(psld_engine_submit(NULL, sampler, NULL, 0, &ticket, NULL));
  NULL_POINTER(psld_engine_submit(engine, NULL, NULL, 0, &ticket, NULL));
  NULL_POINTER(psld_engine_submit(engine, sampler, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_engine_stats_json(NULL, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_ticket_wait(NULL, 0.0, NULL, NULL));
  OK(psld_ticket_wait(ticket, 60.0, NULL, NULL));
  NULL_POINTER(psld_ticket_cancel(NULL));
  NULL_POINTER(psld_ticket_id(NULL, &id, NULL));
  NULL_POINTER(psld_ticket_id(ticket, NULL, NULL));
  OK(psld_ticket_id(ticket, &id, NULL));
  CHECK(id == 1);
  NULL_POINTER(psld_ticket_shape(NULL, 0, NULL, 0, NULL, NULL));
  NULL_POINTER(psld_ticket_read(NULL, 0, 0, x, 12, NULL));
  NULL_POINTER(psld_ticket_read(ticket, 0, 0, NULL, 12, NULL));
  OK(psld_ticket_read(ticket, 0, 0, x, 12, NULL));
  NULL_POINTER(psld_ticket_provenance_json(NULL, NULL, 0, NULL, NULL));
  OK(psld_ticket_provenance_json(ticket, NULL, 0, NULL, NULL));

  OK(psld_engine_free(NULL));
  OK(psld_ticket_free(NULL));
  OK(psld_engine_free(engine));
  OK(psld_ticket_free(ticket));
  OK(psld_error_free(NULL));
  OK(psld_runtime_free(NULL));
  OK(psld_cancel_free(NULL));
  OK(psld_run_free(NULL));
  OK(psld_sampler_free(NULL));
  OK(psld_model_free(NULL));
  OK(psld_run_free(run));
  OK(psld_sampler_free(sampler));
  OK(psld_model_free(model));
}

static void handles(const char *path) {
  psld_model *model = load(path), *stale = load(path);
  psld_sampler *sampler = compile(model, NULL, 2);
  psld_run *run = NULL;
  psld_cancel *cancel = NULL;
  psld_error *err = NULL, *old;
  OK(psld_run_start(model, sampler, NULL, &run, NULL));
  OK(psld_cancel_create(&cancel, NULL));
  OK(psld_model_free(stale));
  int local = 0;
  void *heap = malloc(64);
  psld_model *foreign[] = {stale,         (psld_model *)sampler, (psld_model *)run, (psld_model *)cancel,
                           (psld_model *)(void *)&local, (psld_model *)heap,    (psld_model *)(uintptr_t)1,
                           (psld_model *)UINTPTR_MAX};
  psld_sampler *out = NULL;
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
    INVALID(psld_model_free(foreign[i]));
    INVALID(psld_model_info_json(foreign[i], NULL, 0, NULL, NULL));
    INVALID(psld_sampler_create(foreign[i], NULL, &out, &err));
    CHECK(out == NULL && psld_error_status(err) == PSLD_STATUS_INVALID_HANDLE);
    CHECK(strstr(psld_error_message(err), "psld_model"));
    old = err;
    OK(psld_error_free(err));
    INVALID(psld_error_free(old));
    CHECK(psld_error_status(old) == PSLD_STATUS_INVALID_HANDLE && strcmp(psld_error_message(old), "") == 0);
  }
  INVALID(psld_run_step((psld_run *)model, 1, NULL, NULL));
  INVALID(psld_cancel_cancel((psld_cancel *)model));
  psld_engine *engine = NULL;
  psld_ticket *ticket = NULL;
  OK(psld_engine_create(model, NULL, &engine, NULL));
  OK(psld_engine_submit(engine, sampler, NULL, 0, &ticket, NULL));
  INVALID(psld_engine_submit((psld_engine *)ticket, sampler, NULL, 0, &ticket, NULL));
  INVALID(psld_engine_submit(engine, (psld_sampler *)engine, NULL, 0, &ticket, NULL));
  INVALID(psld_engine_stats_json((psld_engine *)run, NULL, 0, NULL, NULL));
  INVALID(psld_ticket_wait((psld_ticket *)engine, 0.0, NULL, NULL));
  INVALID(psld_ticket_cancel((psld_ticket *)run));
  INVALID(psld_ticket_free((psld_ticket *)engine));
  INVALID(psld_engine_free((psld_engine *)ticket));
  INVALID(psld_model_load_file((psld_runtime *)model, path, NULL, &stale, NULL));

  /* Parents first: the run goes on. */
  OK(psld_model_free(model));
  OK(psld_sampler_free(sampler));
  OK(psld_ticket_wait(ticket, 60.0, NULL, NULL));
  OK(psld_engine_free(engine));
  INVALID(psld_engine_free(engine));
  INVALID(psld_engine_stats_json(engine, NULL, 0, NULL, NULL));
  OK(psld_ticket_wait(ticket, 0.0, NULL, NULL));
  OK(psld_ticket_free(ticket));
  INVALID(psld_ticket_free(ticket));
  INVALID(psld_ticket_wait(ticket, 0.0, NULL, NULL));
  INVALID(psld_ticket_cancel(ticket));
  OK(psld_run_step(run, 100, NULL, NULL));
  INVALID(psld_model_free(model));
  INVALID(psld_sampler_free(sampler));
  OK(psld_run_free(run));
  INVALID(psld_run_free(run));
  INVALID(psld_run_step(run, 1, NULL, NULL));
  OK(psld_cancel_free(cancel));
  INVALID(psld_cancel_free(cancel));
  INVALID(psld_cancel_cancel(cancel));
  free(heap);
}

static void sizes(const char *path) {
  psld_model *model = load(path);
  psld_sampler *sampler = compile(model, NULL, 2);
  psld_run *run = NULL;
  psld_run_options options = samples(2, 0);
  OK(psld_run_start(model, sampler, &options, &run, NULL));
  double x[49];
  EXPECT(PSLD_STATUS_BUFFER_TOO_SMALL, psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, x, 23, NULL));
  OK(psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, x, 24, NULL));
  ARGUMENT(psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, x, 25, NULL));
  OK(psld_run_read(run, PSLD_OUTPUT_STATE, PSLD_DTYPE_F64, x, 48, NULL));
  ARGUMENT(psld_run_read(run, 3, PSLD_DTYPE_F64, x, 24, NULL));
  ARGUMENT(psld_run_read(run, -1, PSLD_DTYPE_F64, x, 24, NULL));
  ARGUMENT(psld_run_read(run, PSLD_OUTPUT_DATA, 2, x, 24, NULL));
  ARGUMENT(psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, x, SIZE_MAX, NULL));
  ARGUMENT(psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, (char *)x + 1, 24, NULL));
  EXPECT(PSLD_STATUS_RUN_STATE, psld_run_read(run, PSLD_OUTPUT_X0, PSLD_DTYPE_F64, x, 24, NULL));
  ARGUMENT(psld_run_step(run, -1, NULL, NULL));
  int64_t shape[4];
  size_t ndim = 0;
  EXPECT(PSLD_STATUS_BUFFER_TOO_SMALL, psld_run_shape(run, PSLD_OUTPUT_DATA, shape, 3, &ndim, NULL));
  CHECK(ndim == 4);

  psld_progress p;
  memset(&p, 0, sizeof p); /* struct_size 0: nobody called init */
  ARGUMENT(psld_run_step(run, 1, &p, NULL));
  CHECK(p.step == 0);
  memset(&p, 0x5a, sizeof p);
  ARGUMENT(psld_run_step(run, 1, &p, NULL));
  OK(psld_progress_init(&p, sizeof p));
  OK(psld_run_step(run, 0, &p, NULL));
  CHECK(p.step == 0 && !p.done);

  psld_run *other = NULL;
  psld_run_options bad = options;
  bad.struct_size = 0;
  ARGUMENT(psld_run_start(model, sampler, &bad, &other, NULL));
  bad.struct_size = sizeof bad - 1;
  ARGUMENT(psld_run_start(model, sampler, &bad, &other, NULL));
  bad = options;
  bad.n = INT64_MAX;
  EXPECT(PSLD_STATUS_MEMORY_LIMIT, psld_run_start(model, sampler, &bad, &other, NULL));
  bad.max_memory = UINT64_MAX;
  CHECK(psld_run_start(model, sampler, &bad, &other, NULL) != PSLD_STATUS_OK);
  CHECK(other == NULL);
  psld_model_options o;
  ARGUMENT(psld_model_options_init(&o, sizeof o - 1));
  ARGUMENT(psld_model_options_init(&o, 0));
  OK(psld_model_options_init(&o, sizeof o));
  o.threads = -1;
  psld_model *none = NULL;
  ARGUMENT(psld_model_load_file(NULL, path, &o, &none, NULL));
  o.threads = 1000000;
  ARGUMENT(psld_model_load_file(NULL, path, &o, &none, NULL));
  o.threads = 1;
  o.spec_json = "{";
  EXPECT(PSLD_STATUS_SPEC_INVALID, psld_model_load_file(NULL, path, &o, &none, NULL));
  EXPECT(PSLD_STATUS_READ_FAILED, psld_model_load_file(NULL, "nowhere.json", NULL, &none, NULL));
  EXPECT(PSLD_STATUS_READ_FAILED, psld_model_load_file(NULL, "nowhere.onnx", NULL, &none, NULL));
  EXPECT(PSLD_STATUS_READ_FAILED, psld_model_load_file(NULL, "", NULL, &none, NULL));
  EXPECT(PSLD_STATUS_READ_FAILED, psld_model_load_file(NULL, "/", NULL, &none, NULL));
  EXPECT(PSLD_STATUS_INVALID_UTF8, psld_model_load_file(NULL, "\xff", NULL, &none, NULL));
  CHECK(none == NULL);

  psld_engine *engine = NULL, *no_engine = NULL;
  psld_engine_options e;
  ARGUMENT(psld_engine_options_init(&e, sizeof e - 1));
  OK(psld_engine_options_init(&e, sizeof e));
  e.struct_size = 0;
  ARGUMENT(psld_engine_create(model, &e, &no_engine, NULL));
  OK(psld_engine_options_init(&e, sizeof e));
  e.max_batch = -1;
  ARGUMENT(psld_engine_create(model, &e, &no_engine, NULL));
  e.max_batch = 0;
  e.queue = -1;
  ARGUMENT(psld_engine_create(model, &e, &no_engine, NULL));
  e.queue = 0;
  e.max_wait_seconds = -1.0;
  ARGUMENT(psld_engine_create(model, &e, &no_engine, NULL));
  CHECK(no_engine == NULL);
  OK(psld_engine_create(model, NULL, &engine, NULL));
  psld_ticket *ticket = NULL;
  ARGUMENT(psld_engine_submit(engine, sampler, &options, 11, &ticket, NULL));
  ARGUMENT(psld_engine_submit(engine, sampler, &options, INT32_MIN, &ticket, NULL));
  bad = options;
  bad.batch = 1;
  ARGUMENT(psld_engine_submit(engine, sampler, &bad, 0, &ticket, NULL));
  bad = options;
  bad.n = INT64_MAX;
  EXPECT(PSLD_STATUS_MEMORY_LIMIT, psld_engine_submit(engine, sampler, &bad, 0, &ticket, NULL));
  CHECK(ticket == NULL);
  OK(psld_engine_submit(engine, sampler, &options, -10, &ticket, NULL));
  ARGUMENT(psld_ticket_wait(ticket, -0.5, NULL, NULL));
  memset(&p, 0, sizeof p);
  ARGUMENT(psld_ticket_wait(ticket, 0.0, &p, NULL));
  OK(psld_ticket_wait(ticket, 60.0, NULL, NULL));
  ARGUMENT(psld_ticket_read(ticket, 3, PSLD_DTYPE_F64, x, 24, NULL));
  ARGUMENT(psld_ticket_read(ticket, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, x, 25, NULL));
  EXPECT(PSLD_STATUS_BUFFER_TOO_SMALL, psld_ticket_read(ticket, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, x, 23, NULL));
  EXPECT(PSLD_STATUS_BUFFER_TOO_SMALL, psld_ticket_shape(ticket, PSLD_OUTPUT_DATA, shape, 3, &ndim, NULL));
  EXPECT(PSLD_STATUS_RUN_STATE, psld_ticket_read(ticket, PSLD_OUTPUT_X0, PSLD_DTYPE_F64, x, 24, NULL));
  OK(psld_ticket_free(ticket));
  OK(psld_engine_free(engine));
  OK(psld_run_free(run));
  OK(psld_sampler_free(sampler));
  OK(psld_model_free(model));
}

int main(int argc, char **argv) {
  CHECK(argc > 1);
  nulls(argv[1]);
  handles(argv[1]);
  sizes(argv[1]);
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
