// cc -std=c11 serve.c -lpsld -o serve && ./serve model.onnx
#include <math.h>
#include <psld.h>
#include <stdio.h>

int main(int argc, char **argv) {
  psld_model *model = NULL;
  psld_engine *engine = NULL;
  psld_sampler *samplers[2] = {NULL, NULL};
  psld_ticket *tickets[4] = {NULL, NULL, NULL, NULL};
  psld_error *err = NULL;
  psld_sampler_options how;
  psld_sampler_options_init(&how, sizeof how);
  psld_run_options what;
  psld_run_options_init(&what, sizeof what);

  int failed = psld_model_load_file(NULL, argc > 1 ? argv[1] : "model.onnx", NULL, &model, &err) ||
               psld_engine_create(model, NULL, &engine, &err);
  for (int i = 0; i < 2 && !failed; i++) {
    how.sampler = i ? "sscs" : "euler";
    how.nfe = i ? 50 : 12;
    failed = psld_sampler_create(model, &how, &samplers[i], &err);
  }
  for (int i = 0; i < 4 && !failed; i++) { // on any thread, at any time
    what.n = 1 + i;
    what.seed = 10 * (uint64_t)i;
    failed = psld_engine_submit(engine, samplers[i % 2], &what, 0, &tickets[i], &err);
  }
  for (int i = 0; i < 4 && !failed; i++) {
    psld_progress p;
    psld_progress_init(&p, sizeof p);
    failed = psld_ticket_wait(tickets[i], INFINITY, &p, &err); // then psld_ticket_read
    if (!failed) printf("%d samples in %d network calls\n", (int)p.samples_done, (int)p.nfe);
  }
  char stats[256];
  if (!failed && !psld_engine_stats_json(engine, stats, sizeof stats, NULL, &err)) puts(stats);
  if (err) fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));

  psld_error_free(err);
  for (int i = 0; i < 4; i++) psld_ticket_free(tickets[i]); // one that has not ended is cancelled
  psld_engine_free(engine);
  for (int i = 0; i < 2; i++) psld_sampler_free(samplers[i]);
  psld_model_free(model);
  return failed != 0;
}
