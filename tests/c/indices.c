/* A network that has a condition of its own for each sample, and is told which samples it is called for: whatever the batch,
 * in an engine, after a gather, loaded again, twice in a call, and as a guide. The network says that sample i of a run with tag
 * g is the point 10 g + i; so each sample must end there. */
#include "check.h"
#include <math.h>

enum { N = 5 };

#define SPEC(extra)                                                                                                   \
  "{\"format\": 1, \"process\": {\"kind\": \"vp\"}, \"data\": {\"shape\": [2], \"range\": [-100, 100]},"                 \
  " \"network\": {\"prediction\": \"x0\"" extra "}}"

static struct {
  int calls;
  int64_t most;
  int twice, gone;
} seen;

static int32_t network(void *user, const psld_evaluation *e) {
  const int labelled = user != NULL;
  CHECK(e->struct_size >= sizeof *e && e->indices && e->tags);
  seen.calls++;
  if (e->n > seen.most) seen.most = e->n;
  for (int64_t i = 0; i < e->n; i++) {
    CHECK(e->indices[i] >= 0);
    const double x = 10.0 * (double)e->tags[i] + (double)e->indices[i];
    for (int64_t j = 0; j < 2; j++) {
      if (e->dtype == PSLD_DTYPE_F32)
        ((float *)e->out)[2 * i + j] = (float)x;
      else
        ((double *)e->out)[2 * i + j] = x;
    }
    /* With its class and without. */
    if (labelled && e->labels[i] == 2) {
      seen.gone++;
      for (int64_t k = 0; k < e->n; k++) seen.twice += k != i && e->indices[k] == e->indices[i] && e->labels[k] == 1;
    }
  }
  return 0;
}

static void ended(const float *x, int64_t n, const int64_t *indices, uint64_t tag) {
  for (int64_t i = 0; i < 2 * n; i++) {
    const double expected = 10.0 * (double)tag + (double)(indices ? indices[i / 2] : i / 2);
    if (!(fabs((double)x[i] - expected) < 0.1)) {
      fprintf(stderr, "element %d is %g, not %g\n", (int)i, (double)x[i], expected);
      exit(1);
    }
  }
}

static psld_model *create(const char *spec, void *user) {
  psld_model_options options;
  psld_model *model = NULL;
  OK(psld_model_options_init(&options, sizeof options));
  options.spec_json = spec;
  OK(psld_model_create(network, user, NULL, "points", &options, &model, NULL));
  return model;
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
  psld_model *model = create(SPEC(""), NULL);
  psld_sampler *sampler = compile(model, "ddim", 6);
  float x[2 * N];
  psld_run_options options = samples(N, 1);

  /* Batches, of a call and within a run. */
  for (int64_t batch = 1; batch <= N; batch++) {
    options.batch = batch;
    options.tag = (uint64_t)batch;
    seen.most = 0;
    OK(psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 2 * N, NULL, NULL, NULL));
    ended(x, N, NULL, (uint64_t)batch);
    psld_run *run = NULL;
    OK(psld_run_start(model, sampler, &options, &run, NULL));
    OK(psld_run_finish(run, NULL, NULL, NULL));
    OK(psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 2 * N, NULL));
    ended(x, N, NULL, (uint64_t)batch);
    OK(psld_run_free(run));
    CHECK(seen.most == batch);
  }

  /* Moved and copied, twice; saved and loaded; and after each a sample is who it was. */
  options.batch = 2;
  options.tag = 7;
  psld_run *run = NULL, *again = NULL;
  OK(psld_run_start(model, sampler, &options, &run, NULL));
  OK(psld_run_step(run, 1, NULL, NULL));
  const int64_t first[4] = {4, 4, 1, 0}, second[3] = {3, 1, 2}, both[3] = {0, 4, 1};
  OK(psld_run_gather(run, first, 4, NULL, NULL));
  OK(psld_run_step(run, 1, NULL, NULL));
  OK(psld_run_gather(run, second, 3, NULL, NULL));
  OK(psld_run_step(run, 1, NULL, NULL));
  size_t size = 0;
  OK(psld_run_save(run, NULL, 0, &size, NULL));
  void *saved = malloc(size);
  CHECK(saved);
  OK(psld_run_save(run, saved, size, NULL, NULL));
  OK(psld_run_load(model, sampler, saved, size, &again, NULL));
  free(saved);
  psld_run *runs[2] = {run, again};
  for (int i = 0; i < 2; i++) {
    OK(psld_run_finish(runs[i], NULL, NULL, NULL));
    OK(psld_run_read(runs[i], PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 6, NULL));
    ended(x, 3, both, 7);
    OK(psld_run_free(runs[i]));
  }

  /* Requests in the calls of one engine, in pieces. */
  psld_engine_options of_engine;
  psld_engine *engine = NULL;
  psld_ticket *tickets[3];
  OK(psld_engine_options_init(&of_engine, sizeof of_engine));
  of_engine.max_batch = 4;
  of_engine.max_wait_seconds = 0.2;
  OK(psld_engine_create(model, &of_engine, &engine, NULL));
  options.batch = 0;
  seen.most = 0;
  for (int i = 0; i < 3; i++) {
    options.n = 3;
    options.tag = (uint64_t)i;
    OK(psld_engine_submit(engine, sampler, &options, 0, &tickets[i], NULL));
  }
  for (int i = 0; i < 3; i++) {
    OK(psld_ticket_wait(tickets[i], INFINITY, NULL, NULL));
    OK(psld_ticket_read(tickets[i], PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 6, NULL));
    ended(x, 3, NULL, (uint64_t)i);
    OK(psld_ticket_free(tickets[i]));
  }
  CHECK(seen.most == 4);
  OK(psld_engine_free(engine));

  /* Samples that step on their own. */
  psld_sampler_options adaptive;
  psld_sampler *each = NULL;
  OK(psld_sampler_options_init(&adaptive, sizeof adaptive));
  adaptive.sampler = "rk45";
  adaptive.error_norm = "sample";
  OK(psld_sampler_create(model, &adaptive, &each, NULL));
  options = samples(N, 3);
  options.batch = 3;
  OK(psld_sample(model, each, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 2 * N, NULL, NULL, NULL));
  ended(x, N, NULL, 0);

  /* Images, in batches. */
  float images[2 * N];
  double bits[N];
  const int64_t shape[2] = {N, 2};
  for (int i = 0; i < 2 * N; i++) images[i] = (float)(i / 2);
  psld_tensor tensor;
  OK(psld_tensor_init(&tensor, sizeof tensor));
  tensor.data = images;
  tensor.ndim = 2;
  tensor.shape = shape;
  options.batch = 2;
  options.from_image = &tensor;
  psld_sampler *encodes = compile(model, "gddim", 6);
  seen.calls = 0;
  OK(psld_likelihood(model, encodes, &options, 1, 0, bits, NULL, N, NULL, NULL, NULL));
  CHECK(seen.calls > 0);

  /* With its class and without in one call: the same sample; and a guide that is another network. */
  psld_model *labelled = create(SPEC(", \"label_input\": \"y\", \"classes\": 2"), &seen);
  psld_sampler_options guided;
  psld_sampler *guidance = NULL;
  OK(psld_sampler_options_init(&guided, sizeof guided));
  guided.sampler = "ddim";
  guided.steps = 6;
  guided.guidance = "cfg";
  OK(psld_sampler_create(labelled, &guided, &guidance, NULL));
  const int64_t label = 1;
  const double scale = 1.5;
  for (int other = 0; other < 2; other++) {
    options = samples(N, 3);
    options.batch = 3;
    options.tag = 2;
    options.labels = &label;
    options.scales = &scale;
    options.labels_len = options.scales_len = 1;
    if (other) options.guide = labelled;
    memset(&seen, 0, sizeof seen);
    OK(psld_sample(labelled, guidance, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 2 * N, NULL, NULL, NULL));
    ended(x, N, NULL, 2);
    CHECK(other || (seen.gone > 0 && seen.twice == seen.gone && seen.most == 6));
  }

  OK(psld_sampler_free(guidance));
  OK(psld_sampler_free(encodes));
  OK(psld_sampler_free(each));
  OK(psld_sampler_free(sampler));
  OK(psld_model_free(labelled));
  OK(psld_model_free(model));
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
