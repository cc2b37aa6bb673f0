/* What the test programs share. A failed check ends the program with status 1. */
#ifndef CHECK_H
#define CHECK_H

#include <psld.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);       \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

/* Evaluates to a status; says what went wrong when it is not the one expected. */
#define EXPECT(expected, call)                                                      \
  do {                                                                              \
    int32_t got_ = (call);                                                          \
    if (got_ != (expected)) {                                                       \
      fprintf(stderr, "%s:%d: %s: %s, not %s\n", __FILE__, __LINE__, #call,         \
              psld_status_name(got_), psld_status_name(expected));                  \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

#define OK(call) EXPECT(PSLD_STATUS_OK, call)

static inline psld_model *load(const char *path) {
  psld_model *model = NULL;
  psld_error *err = NULL;
  if (psld_model_load_file(NULL, path, NULL, &model, &err)) {
    fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));
    exit(1);
  }
  return model;
}

static inline psld_sampler *compile(const psld_model *model, const char *name, int32_t steps) {
  psld_sampler *sampler = NULL;
  psld_sampler_options options;
  OK(psld_sampler_options_init(&options, sizeof options));
  options.sampler = name;
  options.steps = steps;
  OK(psld_sampler_create(model, &options, &sampler, NULL));
  return sampler;
}

static inline psld_run_options samples(int64_t n, uint64_t seed) {
  psld_run_options options;
  OK(psld_run_options_init(&options, sizeof options));
  options.n = n;
  options.seed = seed;
  return options;
}

#endif
