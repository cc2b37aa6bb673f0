/* A host that unloads a plugin (argv[1]: psld, or what was linked with it) after use, and loads it again; argv[2] is a model
 * of which ONNX Runtime has something to say. */
#define _GNU_SOURCE
#include "check.h"
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <sys/mman.h>

static const char *model_path;

/* On a thread that ends before the plugin is unloaded. */
static void *work(void *library) {
#define FUNCTION(name) __typeof__(&name) use_##name = (__typeof__(&name))(uintptr_t)dlsym(library, #name)
  FUNCTION(psld_model_load_file);
  FUNCTION(psld_model_free);
  FUNCTION(psld_sampler_create);
  FUNCTION(psld_sampler_free);
  FUNCTION(psld_engine_create);
  FUNCTION(psld_engine_submit);
  FUNCTION(psld_engine_free);
  FUNCTION(psld_ticket_wait);
  FUNCTION(psld_ticket_free);
  FUNCTION(psld_sample);
  FUNCTION(psld_run_options_init);
  FUNCTION(psld_model_shape);
  FUNCTION(psld_debug_live_handles);
  psld_model *model = NULL;
  psld_sampler *sampler = NULL;
  psld_engine *engine = NULL;
  psld_ticket *ticket = NULL;
  psld_run_options options;
  int64_t shape[8];
  size_t ndim, elements = 20;
  CHECK(use_psld_model_load_file(NULL, model_path, NULL, &model, NULL) == 0);
  CHECK(use_psld_model_shape(model, PSLD_OUTPUT_DATA, shape, 8, &ndim, NULL) == 0);
  for (size_t i = 0; i < ndim; i++) elements *= (size_t)shape[i];
  CHECK(use_psld_sampler_create(model, NULL, &sampler, NULL) == 0);
  CHECK(use_psld_run_options_init(&options, sizeof options) == 0);
  options.n = 20;
  float *x = (float *)malloc(elements * sizeof *x);
  CHECK(x);
  CHECK(use_psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, elements, NULL, NULL, NULL) == 0);
  free(x);
  CHECK(use_psld_engine_create(model, NULL, &engine, NULL) == 0);
  CHECK(use_psld_engine_submit(engine, sampler, &options, 0, &ticket, NULL) == 0);
  CHECK(use_psld_ticket_wait(ticket, INFINITY, NULL, NULL) == 0);
  CHECK(use_psld_ticket_free(ticket) == 0 && use_psld_engine_free(engine) == 0);
  CHECK(use_psld_sampler_free(sampler) == 0 && use_psld_model_free(model) == 0);
  CHECK(use_psld_debug_live_handles() == 0);
  return NULL;
}

int main(int argc, char **argv) {
  CHECK(argc > 2);
  model_path = argv[2];
  for (int i = 0; i < 5; i++) {
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fprintf(stderr, "%s\n", dlerror());
    CHECK(library && dlerror() == NULL);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, work, library) && !pthread_join(thread, NULL));
    CHECK(dlclose(library) == 0);
    /* So that it would come back at another address. */
    CHECK(mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
  }
  return 0;
}
