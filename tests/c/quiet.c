/* Samples from the ONNX model argv[1] and lives for argv[2] seconds more; argv[3] is what ORT_DISABLE_TELEMETRY is then. */
#include "check.h"
#include <unistd.h>

int main(int argc, char **argv) {
  CHECK(argc > 3);
  psld_model *model = load(argv[1]);
  psld_sampler *sampler = compile(model, "em", 2);
  psld_run_options one = samples(1, 1);
  psld_run *run = NULL;
  OK(psld_run_start(model, sampler, &one, &run, NULL));
  OK(psld_run_finish(run, NULL, NULL, NULL));
  OK(psld_run_free(run));
  OK(psld_sampler_free(sampler));
  OK(psld_model_free(model));
  sleep((unsigned)atoi(argv[2]));
  const char *telemetry = getenv("ORT_DISABLE_TELEMETRY");
  CHECK(telemetry && strcmp(telemetry, argv[3]) == 0);
  return 0;
}
