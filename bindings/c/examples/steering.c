/*
 * Steers samples by a reward of one's own, without its gradient: sequential Monte Carlo. The reward here is how near an
 * image's mean is to a target; the samples then have the model's law times exp(reward).
 *
 *     cc -std=c11 -Iinclude bindings/c/examples/steering.c -Ltarget/release -lpsld -lm \
 *        -Wl,-rpath,$PWD/target/release -o steering
 *     ./steering MODEL.onnx steering.ppm 0.4      (images of a mean of about 0.4, from -1 to 1)
 */
#include "picture.h"
#include <math.h>
#include <psld.h>
#include <stdio.h>
#include <stdlib.h>

#define N 64
#define STRENGTH 400.0

static double reward(const float *image, size_t elements, double target) {
  double mean = 0.0;
  for (size_t i = 0; i < elements; i++) mean += image[i] / (double)elements;
  return -0.5 * STRENGTH * (mean - target) * (mean - target);
}

/* The weights of sum 1 for their logs, and how many equal ones are worth as much. */
static double weigh(const double *logs, double *weights) {
  double largest = logs[0], sum = 0.0, squares = 0.0;
  for (int i = 1; i < N; i++) largest = fmax(largest, logs[i]);
  for (int i = 0; i < N; i++) sum += weights[i] = exp(logs[i] - largest);
  for (int i = 0; i < N; i++) squares += (weights[i] / sum) * (weights[i] / sum);
  for (int i = 0; i < N; i++) weights[i] /= sum;
  return 1.0 / squares;
}

/* Systematic resampling: index i comes about N weights[i] times. */
static void draw(const double *weights, int64_t *indices) {
  double reached = weights[0];
  int64_t from = 0;
  for (int i = 0; i < N; i++) {
    while (reached < (i + 0.5) / N && from < N - 1) reached += weights[++from];
    indices[i] = from;
  }
}

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "tests/data/models/labelled.json";
  const char *out = argc > 2 ? argv[2] : NULL;
  double target = argc > 3 ? atof(argv[3]) : 0.4;
  psld_model *model = NULL;
  psld_sampler *sampler = NULL;
  psld_run *run = NULL;
  psld_error *err = NULL;
  float *x = NULL;
  int failed = 1;

  if (psld_model_load_file(NULL, path, NULL, &model, &err)) goto end;
  int64_t shape[8];
  size_t ndim = 0;
  if (psld_model_shape(model, PSLD_OUTPUT_DATA, shape, 8, &ndim, &err)) goto end;
  if (ndim != 3) {
    fprintf(stderr, "%s makes no images\n", path);
    goto end;
  }

  /* A stochastic sampler: copies of a sample part again only by their noise. */
  psld_sampler_options how;
  psld_sampler_options_init(&how, sizeof how);
  how.sampler = "ancestral";
  how.nfe = 60;
  if (psld_sampler_create(model, &how, &sampler, &err)) goto end;

  size_t image = (size_t)(shape[0] * shape[1] * shape[2]);
  x = malloc(N * image * sizeof *x);
  if (!x) goto end;
  psld_run_options what;
  psld_run_options_init(&what, sizeof what);
  what.n = N;
  what.seed = 1;
  what.previews = 1; /* the data estimates, which are weighed on the way */
  if (psld_run_start(model, sampler, &what, &run, &err)) goto end;

  double logs[N] = {0.0}, rewards[N] = {0.0}, weights[N];
  uint64_t next_seed = what.seed + N, seeds[N];
  psld_progress p;
  psld_progress_init(&p, sizeof p);
  while (!p.done) {
    if (psld_run_step(run, 1, &p, &err)) goto end;
    /* Weights count what the reward has gained, so that in the end they come to exp(reward of the sample). */
    int32_t output = p.done ? PSLD_OUTPUT_DATA : PSLD_OUTPUT_X0;
    if (psld_run_read(run, output, PSLD_DTYPE_F32, x, N * image, &err)) goto end;
    for (size_t i = 0; i < N; i++) {
      double now = reward(x + i * image, image, target);
      logs[i] += now - rewards[i];
      rewards[i] = now;
    }
    if (weigh(logs, weights) > 0.5 * N && !p.done) continue;
    int64_t indices[N];
    draw(weights, indices);
    double before[N];
    for (int i = 0; i < N; i++) before[i] = rewards[i];
    for (int i = 0; i < N; i++) {
      seeds[i] = next_seed++;
      rewards[i] = before[indices[i]];
      logs[i] = 0.0;
    }
    if (psld_run_gather(run, indices, N, seeds, &err)) goto end;
  }

  if (psld_run_read(run, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, N * image, &err)) goto end;
  double mean = 0.0;
  for (size_t i = 0; i < N * image; i++) mean += x[i] / (double)(N * image);
  printf("mean %.3f\n", mean);
  failed = out ? write_ppm(out, x, N, shape) : 0;
  if (failed) perror(out);

end:
  if (err) fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));
  free(x);
  psld_error_free(err);
  psld_run_free(run);
  psld_sampler_free(sampler);
  psld_model_free(model);
  return failed;
}
