/*
 * psld: samplers of phase-space diffusion models (PSLD, CLD, VP and their kin) over ONNX Runtime.
 *
 * A complete program, sixteen samples from a model file:
 *
 *     // cc -std=c11 sample16.c -lpsld -o sample16 && ./sample16 model.onnx
 *     #include <psld.h>
 *     #include <stdio.h>
 *     #include <stdlib.h>
 *
 *     int main(int argc, char **argv) {
 *       psld_model *model = NULL;
 *       psld_sampler *sampler = NULL;
 *       psld_error *err = NULL;
 *       int64_t shape[8]; // of one sample: channels, height, width
 *       size_t dims, count = 16;
 *       psld_run_options options;
 *       psld_run_options_init(&options, sizeof options);
 *       options.n = 16;
 *       options.seed = 7;
 *       float *x = NULL;
 *       if (!psld_model_load_file(NULL, argc > 1 ? argv[1] : "model.onnx", NULL, &model, &err) &&
 *           !psld_model_shape(model, PSLD_OUTPUT_DATA, shape, 8, &dims, &err) &&
 *           !psld_sampler_create(model, NULL, &sampler, &err)) {
 *         for (size_t i = 0; i < dims; i++) count *= (size_t)shape[i];
 *         x = malloc(count * sizeof *x);
 *         psld_sample(model, sampler, &options, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, count, NULL, NULL, &err);
 *       }
 *       if (err) fprintf(stderr, "%s\n%s\n", psld_error_message(err), psld_error_hint(err));
 *       else for (size_t i = 0; i < count; i += count / 16) printf("%g\n", x[i]);
 *       int failed = err != NULL;
 *       free(x);
 *       psld_error_free(err); // in any order, and NULL is fine
 *       psld_sampler_free(sampler);
 *       psld_model_free(model);
 *       return failed;
 *     }
 *
 * A network is called hundreds of times, so work is long. A program that wants to show progress, look at previews, save
 * or stop takes the steps itself, or passes callbacks to psld_run_finish:
 *
 *     while (!p.done) {
 *       if (psld_run_step(run, 1, &p, &err)) break;
 *       draw(p.step, p.of);
 *     }
 *
 * Rules
 *
 * Status   Functions return an int32_t: PSLD_STATUS_OK (0) or another value of psld_status. Outputs are written on
 *          success only, with two exceptions: a buffer too small still learns the size needed, and a psld_progress is
 *          written whenever the run or request can be read afterwards. That is with every status (PSLD_STATUS_CANCELLED,
 *          PSLD_STATUS_DEADLINE_EXCEEDED, PSLD_STATUS_PARTIAL, PSLD_STATUS_NON_FINITE, a failure of the network, ...) but
 *          those of a call that is refused (PSLD_STATUS_NULL_POINTER, PSLD_STATUS_INVALID_HANDLE, PSLD_STATUS_FORKED,
 *          PSLD_STATUS_INVALID_ARGUMENT, PSLD_STATUS_BUSY), and PSLD_STATUS_PANIC of a run.
 * Errors   The last argument `err` may be NULL. Otherwise a failure writes a new psld_error to *err, which you free;
 *          success leaves *err alone. Nothing is printed, and no error ends the process: a defect of the library is
 *          PSLD_STATUS_PANIC, and where a function has no status, "" or 0.
 * Handles  Opaque and checked: one that was freed, or is of another type, or was never given out, is
 *          PSLD_STATUS_INVALID_HANDLE and no undefined behaviour. Free them in any order, also parents before
 *          children. Freeing NULL is fine.
 * Structs  Options are passed by pointer. Call the struct's _init with its sizeof, then set fields. Structs grow at
 *          their end, so a program compiled with an older header keeps working.
 * Text     UTF-8 with a NUL at its end, paths included. Size-query form: with a NULL buffer and capacity 0 a function
 *          only writes the number of bytes needed, the NUL included; call it again with such a buffer. A saved run is
 *          bytes in the same form, without a NUL.
 * Arrays   Dense and row-major, channels first; counts are of elements, not of bytes. Arrays and strings that you
 *          pass are not needed after the call.
 * Threads  Each function says so in one line. A run is one thread at a time; all else may be shared. Callbacks
 *          must return: no exception, no longjmp.
 * Fork     A child of fork() loads models and makes what it needs itself, also where its parent has used ONNX Runtime. Of its
 *          parent's handles a psld_runtime, a psld_sampler and a psld_error work in it; the others, which live by threads
 *          that it does not have, are PSLD_STATUS_FORKED at once, and a call that the child leaves its parent's callback
 *          into ends with that. Freeing them there is harmless, returns at once and does nothing to the parent's.
 * Unload   What holds psld (libpsld.so, or a plugin that libpsld.a was linked into) stays in memory from the first call on,
 *          whoever unloads it: threads on their way out and ONNX Runtime, which is never unloaded, would jump into nothing.
 *          Loaded again it is what it was. Before you unload a plugin of yours take back your callbacks: free what holds
 *          them, and call psld_set_log_callback(PSLD_LOG_OFF, NULL, NULL).
 * Numbers  n samples, C channels, k blocks of a state (1 VP, 2 position and momentum). Forward time t runs from 0
 *          (data) to 1 (noise): sampling goes from t_start down to t_end.
 */

#ifndef PSLD_H
#define PSLD_H

/* Generated from src/capi/ by cbindgen: change it there, then `make header`. */

#include <stddef.h>
#include <stdint.h>

/**
 * The version of the C ABI that this header describes. It grows when functions or fields are appended; a program
 * runs with any library whose psld_abi_version() is at least the one that it was compiled with.
 */
#define PSLD_ABI_VERSION 1

/**
 * What a call came to, for programs.
 *
 * In blocks of a hundred: 1xx argument, 2xx model, 3xx runtime or provider, 4xx numeric, 5xx run control,
 * 9xx internal. Numbers are never reused.
 */
enum psld_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Success; never the status of an error.
   */
  PSLD_STATUS_OK = 0,
  /**
   * An argument or option is out of range or contradicts another one.
   */
  PSLD_STATUS_INVALID_ARGUMENT = 100,
  /**
   * A required pointer is NULL.
   */
  PSLD_STATUS_NULL_POINTER = 101,
  /**
   * A handle is stale, of another type, or was never given out.
   */
  PSLD_STATUS_INVALID_HANDLE = 102,
  /**
   * A caller's buffer is smaller than the result.
   */
  PSLD_STATUS_BUFFER_TOO_SMALL = 103,
  /**
   * A string is not UTF-8.
   */
  PSLD_STATUS_INVALID_UTF8 = 104,
  /**
   * A JSON document (sampler options, plan, configuration) is malformed or has an unknown field.
   */
  PSLD_STATUS_INVALID_CONFIG = 105,
  /**
   * A tensor has the wrong shape or type.
   */
  PSLD_STATUS_SHAPE_MISMATCH = 106,
  /**
   * The request needs more memory than its `max_memory`.
   */
  PSLD_STATUS_MEMORY_LIMIT = 107,
  /**
   * An input file cannot be read.
   */
  PSLD_STATUS_READ_FAILED = 108,
  /**
   * An output file cannot be written.
   */
  PSLD_STATUS_WRITE_FAILED = 109,
  /**
   * The combination is valid but this build does not offer it.
   */
  PSLD_STATUS_UNSUPPORTED = 110,
  /**
   * The object is of the process that this one was forked from.
   */
  PSLD_STATUS_FORKED = 111,
  /**
   * The model file is not an ONNX model, or is damaged.
   */
  PSLD_STATUS_MODEL_INVALID = 200,
  /**
   * The model carries no `psld.spec` and none was given.
   */
  PSLD_STATUS_SPEC_MISSING = 201,
  /**
   * The model's spec is malformed or inconsistent.
   */
  PSLD_STATUS_SPEC_INVALID = 202,
  /**
   * The model's inputs or outputs are not what its spec says.
   */
  PSLD_STATUS_MODEL_MISMATCH = 203,
  /**
   * No ONNX Runtime library was found.
   */
  PSLD_STATUS_RUNTIME_NOT_FOUND = 300,
  /**
   * The library found is no ONNX Runtime, or one of an unsupported version.
   */
  PSLD_STATUS_RUNTIME_INCOMPATIBLE = 301,
  /**
   * Another ONNX Runtime library is loaded in this process already.
   */
  PSLD_STATUS_RUNTIME_CONFLICT = 302,
  /**
   * The execution provider asked for cannot be had.
   */
  PSLD_STATUS_PROVIDER_UNAVAILABLE = 303,
  /**
   * ONNX Runtime reported a failure.
   */
  PSLD_STATUS_RUNTIME_FAILURE = 304,
  /**
   * A value became NaN or infinite.
   */
  PSLD_STATUS_NON_FINITE = 400,
  /**
   * A computation is not possible at the given numbers (a covariance that is not positive definite, say).
   */
  PSLD_STATUS_NUMERIC = 401,
  /**
   * An adaptive solver reached its limit of network calls.
   */
  PSLD_STATUS_MAX_NFE = 402,
  /**
   * The run was cancelled; it can be continued.
   */
  PSLD_STATUS_CANCELLED = 500,
  /**
   * The object is in use by another thread.
   */
  PSLD_STATUS_BUSY = 501,
  /**
   * The deadline passed; the run can be continued.
   */
  PSLD_STATUS_DEADLINE_EXCEEDED = 502,
  /**
   * The run is not in the state that the call needs.
   */
  PSLD_STATUS_RUN_STATE = 503,
  /**
   * A checkpoint is torn, edited, or of another model or plan.
   */
  PSLD_STATUS_CHECKPOINT_INVALID = 504,
  /**
   * The deadline of an anytime run passed: there is a data estimate, and the run can be continued.
   */
  PSLD_STATUS_PARTIAL = 505,
  /**
   * As many requests are in the engine as it was made for.
   */
  PSLD_STATUS_QUEUE_FULL = 506,
  /**
   * A defect of this library.
   */
  PSLD_STATUS_INTERNAL = 900,
  /**
   * A panic was caught at the C boundary: a defect of this library.
   */
  PSLD_STATUS_PANIC = 901,
  /**
   * Memory could not be allocated.
   */
  PSLD_STATUS_OUT_OF_MEMORY = 902,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum psld_status psld_status;
#else
typedef int32_t psld_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The type of an array's elements.
 */
enum psld_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * float
   */
  PSLD_DTYPE_F32 = 0,
  /**
   * double
   */
  PSLD_DTYPE_F64 = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum psld_dtype psld_dtype;
#else
typedef int32_t psld_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What to read from a run.
 */
enum psld_output
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The position half of the state, [n, C, ...]; after the last step, the samples.
   */
  PSLD_OUTPUT_DATA = 0,
  /**
   * The whole state, [n, k*C, ...]: position, then momentum (then what else the process has).
   */
  PSLD_OUTPUT_STATE = 1,
  /**
   * The data estimate E[x_0 | z_t] at the last network call, [n, C, ...]: a preview. Needs
   * psld_run_options.previews, and at least one step done.
   */
  PSLD_OUTPUT_X0 = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum psld_output psld_output;
#else
typedef int32_t psld_output;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What noise is for. Draws of different purposes are independent, and each purpose counts its own from 0.
 */
enum psld_noise
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The initial state.
   */
  PSLD_NOISE_PRIOR = 0,
  /**
   * The noise of a solver's steps.
   */
  PSLD_NOISE_SOLVER = 1,
  /**
   * The known region of an image that is completed.
   */
  PSLD_NOISE_INPAINT = 2,
  /**
   * Random directions of a trace estimate.
   */
  PSLD_NOISE_PROBE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum psld_noise psld_noise;
#else
typedef int32_t psld_noise;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How serious a message is; the numbers increase with detail.
 */
enum psld_log
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing.
   */
  PSLD_LOG_OFF = 0,
  /**
   * A failure, which is also returned as a status.
   */
  PSLD_LOG_ERROR = 1,
  /**
   * Something unexpected that was coped with.
   */
  PSLD_LOG_WARN = 2,
  /**
   * What was loaded, what ran.
   */
  PSLD_LOG_INFO = 3,
  /**
   * Details.
   */
  PSLD_LOG_DEBUG = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum psld_log psld_log;
#else
typedef int32_t psld_log;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A request to stop. Made by psld_cancel_create; any thread, at once.
 */
typedef struct psld_cancel psld_cancel;

/**
 * A network that serves many callers. Made by psld_engine_create; any thread, at once.
 */
typedef struct psld_engine psld_engine;

/**
 * Why a call failed. Made by any function that has an `err`; any thread, at once.
 */
typedef struct psld_error psld_error;

/**
 * A network with its spec. Made by psld_model_load_file, psld_model_load_memory and psld_model_create; any thread, at once.
 */
typedef struct psld_model psld_model;

/**
 * One batch of samples in flight. Made by psld_run_start; one thread at a time, a second one gets
 * PSLD_STATUS_BUSY.
 */
typedef struct psld_run psld_run;

/**
 * ONNX Runtime, loaded. Made by psld_runtime_load.
 */
typedef struct psld_runtime psld_runtime;

/**
 * A compiled sampler. Made by psld_sampler_create and psld_sampler_create_from_plan; any thread, at once.
 */
typedef struct psld_sampler psld_sampler;

/**
 * A request in an engine. Made by psld_engine_submit; any thread, at once.
 */
typedef struct psld_ticket psld_ticket;

/**
 * An array that the caller lends for the length of one call: dense, row-major, and copied where it is kept. After
 * psld_tensor_init set data, ndim and shape, and dtype unless it is PSLD_DTYPE_F32.
 */
typedef struct psld_tensor {
  /**
   * sizeof(psld_tensor); set by psld_tensor_init.
   */
  size_t struct_size;
  /**
   * The first element, aligned as its type asks for.
   */
  const void *data;
  /**
   * One of psld_dtype.
   */
  int32_t dtype;
  /**
   * The number of sizes in `shape`, 1 to 16.
   */
  int32_t ndim;
  /**
   * `ndim` sizes.
   */
  const int64_t *shape;
} psld_tensor;

/**
 * How far a run is.
 */
typedef struct psld_progress {
  /**
   * sizeof(psld_progress); set by psld_progress_init.
   */
  size_t struct_size;
  /**
   * Steps done; an adaptive sampler counts attempted steps.
   */
  int32_t step;
  /**
   * Steps in all, the closing one included; 0 where an adaptive sampler cannot know.
   */
  int32_t of;
  /**
   * Network calls so far.
   */
  int32_t nfe;
  /**
   * 1 after the last step, else 0.
   */
  int32_t done;
  /**
   * Share of the work that is done, 0 to 1; of psld_sample, over all its batches.
   */
  double fraction;
  /**
   * Forward time of the last network call, 0 to 1; it decreases, and increases where the sampler encodes.
   */
  double t;
  /**
   * Samples that are finished.
   */
  int64_t samples_done;
  /**
   * Samples in all.
   */
  int64_t samples;
} psld_progress;

/**
 * How a model is loaded. Fill it with psld_model_options_init, then change what you need.
 */
typedef struct psld_model_options {
  /**
   * sizeof(psld_model_options); set by psld_model_options_init.
   */
  size_t struct_size;
  /**
   * A spec (JSON) that replaces the one in the file, for networks exported by others; default NULL: the file's.
   */
  const char *spec_json;
  /**
   * Execution providers in order of preference, such as "cuda" or "cuda,cpu", by these names or by ONNX
   * Runtime's ("CUDAExecutionProvider"); default NULL: "cpu". The model runs on
   * the first, or loading fails: a fallback is only what is listed behind it.
   */
  const char *providers;
  /**
   * Which device of the provider; default 0.
   */
  int32_t device;
  /**
   * Threads for network and solver, which take turns, 1 to 1024; default 0: all CPUs that this process may use.
   * 1 starts none: all is computed on the threads that call. (ONNX Runtime may keep one asleep for its environment.)
   */
  int32_t threads;
  /**
   * Network calls that may be in flight at once, for several runs on one model, 1 to 1024; others wait for their
   * turn; default 0: 1. More than one needs the provider "cpu", and pays where `threads` is less than the CPUs.
   */
  int32_t concurrent_calls;
} psld_model_options;

/**
 * One evaluation that a psld_network_callback computes, of `n` samples. All arrays are dense, row-major and live through
 * the call; `z` and `out` have the type that the run's states have.
 */
typedef struct psld_evaluation {
  /**
   * sizeof(psld_evaluation) of the library.
   */
  size_t struct_size;
  /**
   * Samples.
   */
  int64_t n;
  /**
   * One of psld_dtype: the type of `z` and `out`.
   */
  int32_t dtype;
  /**
   * 0.
   */
  int32_t reserved;
  /**
   * The states, [n, k*C, ...], position channels first; [n, C, ...] where the spec's network has a process of its own.
   */
  const void *z;
  /**
   * Elements of `z` in all.
   */
  size_t z_elements;
  /**
   * The time of each sample, [n], as the spec says that the network takes it (`time` and `time_scale` are applied); the
   * forward time in (0, 1] where it says nothing.
   */
  const double *t;
  /**
   * Class of each sample, [n], `classes` for the null class; NULL where the spec has no label input.
   */
  const int64_t *labels;
  /**
   * Receives what the spec says the network predicts, all of it.
   */
  void *out;
  /**
   * Elements of `out` in all.
   */
  size_t out_elements;
  /**
   * Receives, if need be, why the callback returns another value than 0: UTF-8 with a NUL, for the error's message.
   */
  char *message;
  /**
   * Bytes of `message`, the NUL included.
   */
  size_t message_capacity;
  /**
   * Which samples these are, [n]: of each the number that its sample had, from 0, when its run was started (of psld_sample
   * and psld_likelihood: among all `n`, whatever the batch). So conditions of the caller's own are looked up: a sample keeps
   * its number when psld_run_gather moves or copies it, and when the run is saved and loaded; one that is evaluated with
   * its class and without in one call comes twice.
   */
  const int64_t *indices;
  /**
   * The psld_run_options.tag of each sample's run, [n]: it tells the requests apart that an engine has in one call.
   */
  const uint64_t *tags;
} psld_evaluation;

/**
 * Computes a network, on a thread that steps a run of its model; where several are stepped at once, on several threads at
 * once; of an engine, on the engine's thread, which must not wait for its tickets. A return value other than 0 ends the
 * step with PSLD_STATUS_RUNTIME_FAILURE, and the error tells the value and what `evaluation->message` was set to. It may
 * call any function of psld but on the run that is stepped, and must return: no exception, no longjmp.
 */
typedef int32_t (*psld_network_callback)(void *user, const struct psld_evaluation *evaluation);

/**
 * Told that `user` is needed no more: once, on the thread that frees the last thing that uses the network. It must return.
 */
typedef void (*psld_release_callback)(void *user);

/**
 * Which sampler, and its options. Fill it with psld_sampler_options_init, then change what you need. A field at the
 * value that init gave it is "not given"; an option that the chosen sampler does not know is an error.
 */
typedef struct psld_sampler_options {
  /**
   * sizeof(psld_sampler_options); set by psld_sampler_options_init.
   */
  size_t struct_size;
  /**
   * All options as a JSON object, with the names of these fields; NULL: none. A field given below replaces the
   * one in here. Only in here: "lower_order_final" (of "dpmpp" and "unipc", as diffusers has it; default false).
   */
  const char *options_json;
  /**
   * Name of the sampler, one of psld_samplers_json; NULL: "auto", with `encode` "unipc".
   */
  const char *sampler;
  /**
   * Solver steps, the closing one not included; 0: not given. Excludes `nfe`.
   */
  int32_t steps;
  /**
   * All network calls, the closing one included; 0: not given, which is 30 without `steps`, with `encode` 100.
   */
  int32_t nfe;
  /**
   * Name of the time grid ("uniform", "quadratic", "order2", "order2.5", "log_snr", "logistic", "karras") or path of a grid file;
   * NULL: "quadratic".
   */
  const char *time_grid;
  /**
   * The time grid itself: decreasing forward times in [1e-7, 1]; NULL: not given. Excludes `time_grid`.
   */
  const double *time_points;
  /**
   * Number of elements of `time_points`.
   */
  size_t time_points_len;
  /**
   * Forward time at which sampling starts, at most 1; NaN: 1, or the largest that the network knows. Of tables of betas with
   * prediction epsilon or score it is the largest entry with alpha of at least 0.005 ("t_start" of `psld info --json`).
   */
  double t_start;
  /**
   * Forward time at which the solver's steps end, at least 1e-7; NaN: 0.001.
   */
  double t_end;
  /**
   * Whether a noise-free step of length `t_end` closes the run, 0 or 1; -1: 1.
   */
  int32_t denoise;
  /**
   * Limit of network calls of adaptive samplers; 0: 10000.
   */
  int32_t max_nfe;
  /**
   * Times of the closing step, "exact" or "float32" (the published code's rounding); NULL: "exact".
   */
  const char *denoise_time;
  /**
   * Relative tolerance of adaptive samplers; NaN: 1e-4.
   */
  double rtol;
  /**
   * Absolute tolerance of adaptive samplers; NaN: 1e-4.
   */
  double atol;
  /**
   * Over what adaptive samplers take their error norm: "run" (all samples share their steps) or "sample" (each has
   * its own, and does not depend on the others); NULL: "run".
   */
  const char *error_norm;
  /**
   * Seed of the first sample of runs that give none; sample i has seed + i; default 0.
   */
  uint64_t seed;
  /**
   * Compiles for the completion of images, by this method: "corrected" (known pixels are kept exactly) or "published"
   * (the code of the paper); NULL: no completion. Runs then need psld_run_options.inpaint_image and inpaint_mask.
   */
  const char *inpaint;
  /**
   * Order of the scheme; 0: the sampler's default.
   */
  int32_t order;
  /**
   * For k = 1, the sampler as its paper publishes it, 0 or 1; -1: 0.
   */
  int32_t published;
  /**
   * Share of the reverse-time noise, 0 (deterministic) to 1 (ancestral); NaN: the sampler's default.
   */
  double eta;
  /**
   * Strength of the conjugate integrator's `matrix`; NaN: the sampler's default.
   */
  double lambda;
  /**
   * Strength of the position's noise in stochastic splittings; NaN: the sampler's default.
   */
  double lambda_s;
  /**
   * The conjugate integrator's matrix, "zero", "identity" or "ones"; NULL: "zero".
   */
  const char *matrix;
  /**
   * Form of a sampler that has several ("bh1", "bh2"); NULL: the sampler's default.
   */
  const char *variant;
  /**
   * Whether every data estimate is clipped to the data range, the closing one included, 0 or 1; -1: 0. Dynamic thresholding
   * is said in `options_json`, as "clip": {"percentile": 0.995, "max": 1}. Not with `encode`, nor for likelihoods.
   */
  int32_t clip;
  /**
   * With `inpaint`, how often each step is taken, the state taken back by the forward process in between; it
   * multiplies the network calls. 0: 1.
   */
  int32_t inpaint_resample;
  /**
   * Compiles with guidance: "cfg" (classifier-free, or by a second, weaker network) or "classifier" (by the gradient of
   * one); NULL: none. Runs then need psld_run_options.scales. A guided evaluation is two network calls, and `nfe` counts
   * both.
   */
  const char *guidance;
  /**
   * Forward time from which on guidance acts; NaN: 0.
   */
  double guidance_from;
  /**
   * Forward time up to which guidance acts; NaN: 1.
   */
  double guidance_to;
  /**
   * For "cfg", how far outputs are brought back to the spread that they have without guidance, 0 to 1; NaN: 0.
   */
  double guidance_rescale;
  /**
   * 1: follows the probability flow from data to noise, from `t_end` to `t_start`, by a deterministic sampler (NULL:
   * "unipc" of order 3): runs take images (psld_run_options.from_image) and end with latents (PSLD_OUTPUT_STATE), which are
   * initial states (psld_run_options.init) of samplers that decode. 0 or -1: from noise to data.
   */
  int32_t encode;
  /**
   * Compiles for the restoration of images from linear measurements: a JSON object, {"operator": {"kind": "average", "factor":
   * 4}, "noise": 0.05, "data_std": 0.5, "resample": 1}, of which the operator must be given: "mask"; "average" with its
   * "factor"; "blur" with its "std", in pixels; or "convolve" with its "kernel", rows of numbers. Without noise samples give
   * the measurement exactly. NULL: none. Runs then need psld_run_options.measurement. Excludes `inpaint`.
   */
  const char *restore;
} psld_sampler_options;

/**
 * What a run is started with, the sampler's options aside. Fill it with psld_run_options_init, then change what you
 * need. Arrays are copied before the call returns.
 */
typedef struct psld_run_options {
  /**
   * sizeof(psld_run_options); set by psld_run_options_init.
   */
  size_t struct_size;
  /**
   * Number of samples; default 1.
   */
  int64_t n;
  /**
   * Seed of the first sample; sample i has seed + i. Default 0: the sampler's seed.
   */
  uint64_t seed;
  /**
   * Precision of the state, one of psld_dtype; default PSLD_DTYPE_F32.
   */
  int32_t precision;
  /**
   * 1 keeps the data estimate of each step for PSLD_OUTPUT_X0; default 0.
   */
  int32_t previews;
  /**
   * Samples of one network call; default 0: all in a run, at most 64 in psld_sample.
   */
  int64_t batch;
  /**
   * Bytes that the arrays may take, or PSLD_STATUS_MEMORY_LIMIT; default 0: nine tenths of the machine's memory, or of what
   * the control groups (cgroups) that the process is in allow it.
   */
  uint64_t max_memory;
  /**
   * Seconds from the start after which the run stops with PSLD_STATUS_DEADLINE_EXCEEDED; default 0: none.
   */
  double deadline_seconds;
  /**
   * A token that stops the run; default NULL. It may be freed while the run lives.
   */
  const struct psld_cancel *cancel;
  /**
   * Initial state [n, k*C, ...]; default NULL: a draw of the prior.
   */
  const struct psld_tensor *init;
  /**
   * Noise [draws, n, k*C, ...] in the order in which the plan consumes it; default NULL: psld_noise_fill's.
   */
  const struct psld_tensor *noise;
  /**
   * Class of each sample, of a class-conditional model; default NULL: the null class. With classifier guidance it is the
   * guidance network's, and the model runs with the null class.
   */
  const int64_t *labels;
  /**
   * Number of labels: n, or 1 for all.
   */
  size_t labels_len;
  /**
   * Image to complete, [n or 1, C, ...] in the data's range; for a sampler compiled with `inpaint`.
   */
  const struct psld_tensor *inpaint_image;
  /**
   * What of it is known, [n or 1, 1 or C, ...]: 1 known, 0 unknown.
   */
  const struct psld_tensor *inpaint_mask;
  /**
   * 1: when the deadline passes, the best data estimate so far is there, with PSLD_STATUS_PARTIAL: PSLD_OUTPUT_X0 of a
   * run, the result of psld_sample. At least one network call is made. Default 0: the run stops, and that is all.
   */
  int32_t anytime;
  /**
   * Guidance scale of each sample, of a sampler compiled with `guidance`; 0 leaves a sample to the model. Default NULL:
   * none.
   */
  const double *scales;
  /**
   * Number of scales: n, or 1 for all.
   */
  size_t scales_len;
  /**
   * The guidance network: a classifier's gradient, or for "cfg" a second, weaker network; default NULL: for "cfg" the
   * model with the null class. It may be freed while the run lives.
   */
  const struct psld_model *guide;
  /**
   * Images to start from, [n or 1, C, ...] in the data's range; default NULL: none. The initial state is a draw of the
   * exact perturbation kernel at the sampler's first time: a(t) x_0 + L(t) xi, with the noise xi that the prior would be
   * drawn with. With psld_sampler_options.t_start below 1 samples keep what of the image is left there. A sampler
   * compiled with `encode` starts from the image itself, with momenta drawn as they are at t_end. Excludes `init`.
   */
  const struct psld_tensor *from_image;
  /**
   * What was measured, for a sampler compiled with `restore`: [n or 1, C, H, W] in the data's range, for "average" by F [n or
   * 1, C, H/F, W/F]; default NULL: none.
   */
  const struct psld_tensor *measurement;
  /**
   * For "mask", which elements were measured: [n or 1, 1 or C, H, W], 1 measured, 0 not.
   */
  const struct psld_tensor *measurement_mask;
  /**
   * A number of the caller's, which a psld_network_callback is told with each sample (psld_evaluation.tags); default 0.
   */
  uint64_t tag;
} psld_run_options;

/**
 * Hears after each step of psld_sample how far it is, on the thread that called it; `progress` lives through the call.
 * A return value other than 0 stops the sampling with PSLD_STATUS_CANCELLED. It may call any function of psld, and
 * must return: no exception, no longjmp.
 */
typedef int32_t (*psld_progress_callback)(void *user, const struct psld_progress *progress);

/**
 * Hears of a run's data estimate, on the thread that called psld_run_finish: `x0` is PSLD_OUTPUT_X0 of the run, as
 * float, row-major, and lives through the call like `progress`. A return value other than 0 stops the run with
 * PSLD_STATUS_CANCELLED. It must return: no exception, no longjmp.
 */
typedef int32_t (*psld_preview_callback)(void *user,
                                         const struct psld_progress *progress,
                                         const float *x0,
                                         size_t elements);

/**
 * Who is told while a run goes on. Fill it with psld_observer_init, then set what you need.
 */
typedef struct psld_observer {
  /**
   * sizeof(psld_observer); set by psld_observer_init.
   */
  size_t struct_size;
  /**
   * Passed to the callbacks; default NULL.
   */
  void *user;
  /**
   * Called after each step; default NULL: nobody is. It may call any function of psld, on this run, too.
   */
  psld_progress_callback progress;
  /**
   * Called with the data estimate; default NULL: nobody is. Needs a run with `previews` or `anytime`.
   */
  psld_preview_callback preview;
  /**
   * Steps from one preview to the next, at least 1; default 1. The last step always has one.
   */
  int32_t preview_every;
} psld_observer;

/**
 * How an engine works. Fill it with psld_engine_options_init, then change what you need.
 */
typedef struct psld_engine_options {
  /**
   * sizeof(psld_engine_options); set by psld_engine_options_init.
   */
  size_t struct_size;
  /**
   * Samples of one network call at most; default 0: 64. Where a model is its own guide ("cfg") a sample counts twice.
   */
  int32_t max_batch;
  /**
   * Requests that may be in the engine at once; one more is PSLD_STATUS_QUEUE_FULL. All of them are worked on, and hold
   * their arrays; default 0: 256.
   */
  int32_t queue;
  /**
   * Seconds that the first call after a pause waits for company, unless `max_batch` samples are there, or somebody's
   * deadline passes, before; default 0. Later calls never wait: who comes while one is made joins the next.
   */
  double max_wait_seconds;
} psld_engine_options;

/**
 * Receives a message: `message` is one line of UTF-8 that lives through the call. Called on the thread that has
 * something to say, on several at once if need be. It must return: no exception, no longjmp.
 */
typedef void (*psld_log_callback)(void *user, int32_t level, const char *message);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Sets `tensor` to one without data.
 *
 * Threads: any.
 *
 * @param[out] tensor       the struct.
 * @param[in]  struct_size  sizeof(psld_tensor).
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
 */
int32_t psld_tensor_init(struct psld_tensor *tensor, size_t struct_size);

/**
 * Sets `progress` to the state before the first step: all zero, not done.
 *
 * Threads: any.
 *
 * @param[out] progress     the struct.
 * @param[in]  struct_size  sizeof(psld_progress).
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
 */
int32_t psld_progress_init(struct psld_progress *progress, size_t struct_size);

/**
 * The library's version, such as "0.1.0".
 *
 * Threads: any.
 *
 * @return a static string, never NULL.
 */
const char *psld_version(void);

/**
 * The version of the library's C ABI; compare it with PSLD_ABI_VERSION where the library is loaded at run time.
 *
 * Threads: any.
 */
int32_t psld_abi_version(void);

/**
 * The name of a status, such as "PSLD_STATUS_INVALID_ARGUMENT".
 *
 * Threads: any.
 *
 * @param[in] status  any number.
 * @return a static string, never NULL; "PSLD_STATUS_UNKNOWN" for a number that this version does not know.
 */
const char *psld_status_name(int32_t status);

/**
 * The number of handles that this process gave out and that were not freed yet, for leak checks in tests.
 *
 * Threads: any.
 */
size_t psld_debug_live_handles(void);

/**
 * The status that the failed call returned.
 *
 * Threads: any.
 *
 * @param[in] error  an error.
 * @return that status, or PSLD_STATUS_NULL_POINTER or PSLD_STATUS_INVALID_HANDLE where `error` is none.
 */
int32_t psld_error_status(const struct psld_error *error);

/**
 * What went wrong: what, where, expected and got. UTF-8, without a final newline.
 *
 * Threads: any.
 *
 * @param[in] error  an error.
 * @return a string that lives until psld_error_free; never NULL ("" where `error` is no error).
 */
const char *psld_error_message(const struct psld_error *error);

/**
 * What can be done about it.
 *
 * Threads: any.
 *
 * @param[in] error  an error.
 * @return a string that lives until psld_error_free; never NULL ("" where there is no advice).
 */
const char *psld_error_hint(const struct psld_error *error);

/**
 * Frees an error.
 *
 * Threads: any.
 *
 * @param[in] error  an error, or NULL.
 * @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_error_free(struct psld_error *error);

/**
 * Loads ONNX Runtime, which executes ONNX models. It is loaded once and stays until the process ends; further
 * calls return further handles of it.
 *
 * With `path` NULL these places are looked at, and the first that names a library decides: the environment variables
 * PSLD_ONNXRUNTIME and ORT_DYLIB_PATH, the folder of this library, the system's loader.
 *
 * ONNX Runtime 1.29 and later write below the home folder and send events to its makers as soon as they are loaded. So this
 * sets the environment variable ORT_DISABLE_TELEMETRY to 1 just before, unless it is set to anything (also to nothing)
 * already. setenv() races with another thread's getenv(): a host whose threads read the environment at that time exports
 * the variable itself, before it starts them, and then nothing is set here.
 *
 * Threads: any.
 *
 * @param[in]  path  file of the library (libonnxruntime.so), UTF-8, or NULL.
 * @param[out] out   the runtime; free it with psld_runtime_free.
 * @param[out] err   NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_RUNTIME_NOT_FOUND (the message names every place looked at),
 *         PSLD_STATUS_RUNTIME_INCOMPATIBLE (no ONNX Runtime, or too old), PSLD_STATUS_RUNTIME_CONFLICT (another one is
 *         loaded already), PSLD_STATUS_UNSUPPORTED (a build without ONNX Runtime).
 */
int32_t psld_runtime_load(const char *path,
                          struct psld_runtime **out,
                          struct psld_error **err);

/**
 * Version, file and execution providers of ONNX Runtime, as a JSON object. Size-query form.
 *
 * Threads: any.
 *
 * @param[in]  runtime   a runtime.
 * @param[out] buffer    receives the text with its NUL; or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed, the NUL included.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_runtime_info_json(const struct psld_runtime *runtime,
                               char *buffer,
                               size_t capacity,
                               size_t *needed,
                               struct psld_error **err);

/**
 * Frees the handle of a runtime. ONNX Runtime itself, and models that use it, stay.
 *
 * Threads: any.
 *
 * @param[in] runtime  a runtime, or NULL.
 * @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_runtime_free(struct psld_runtime *runtime);

/**
 * Fills `options` with the defaults.
 *
 * Threads: any.
 *
 * @param[out] options      the struct.
 * @param[in]  struct_size  sizeof(psld_model_options).
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
 */
int32_t psld_model_options_init(struct psld_model_options *options, size_t struct_size);

/**
 * Loads a model: an ONNX file with a `psld.spec` in its metadata, or, with the extension .json, the exact network of a
 * Gaussian mixture, which needs no ONNX Runtime.
 *
 * Threads: any.
 *
 * @param[in]  runtime  a runtime; or NULL for the one that is loaded already, or that psld_runtime_load(NULL)
 *                      would find.
 * @param[in]  path     the file, UTF-8. External data of an ONNX model is looked for beside it; files that are
 *                      missing or too short are PSLD_STATUS_READ_FAILED.
 * @param[in]  options  NULL for the defaults.
 * @param[out] out      the model; free it with psld_model_free.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_READ_FAILED, a 2xx status for the model or its spec, a 3xx status for the
 *         runtime or a provider, or another error.
 */
int32_t psld_model_load_file(const struct psld_runtime *runtime,
                             const char *path,
                             const struct psld_model_options *options,
                             struct psld_model **out,
                             struct psld_error **err);

/**
 * Loads a model from memory; as psld_model_load_file, but an ONNX model cannot have external data
 * (PSLD_STATUS_MODEL_INVALID).
 *
 * Threads: any.
 *
 * @param[in]  runtime  a runtime or NULL, as in psld_model_load_file.
 * @param[in]  bytes    the content of the file; not needed any more after the call.
 * @param[in]  size     its number of bytes.
 * @param[in]  options  NULL for the defaults.
 * @param[out] out      the model; free it with psld_model_free.
 * @param[out] err      NULL, or receives the error.
 * @return as psld_model_load_file.
 */
int32_t psld_model_load_memory(const struct psld_runtime *runtime,
                               const void *bytes,
                               size_t size,
                               const struct psld_model_options *options,
                               struct psld_model **out,
                               struct psld_error **err);

/**
 * All about a model, as a JSON object: `spec` (with the defaults filled in), `given` (the spec as it was given, of which
 * hashes are), `k` (blocks of a state), `backend` (what runs it: name, version, the provider really used, library) and `hash`
 * (SHA-256 of the model; with external data, of the hashes of its files). Size-query form.
 *
 * Threads: any.
 *
 * @param[in]  model     a model.
 * @param[out] buffer    receives the text with its NUL; or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed, the NUL included.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_model_info_json(const struct psld_model *model,
                             char *buffer,
                             size_t capacity,
                             size_t *needed,
                             struct psld_error **err);

/**
 * The shape of one sample. Size-query form.
 *
 * Threads: any.
 *
 * @param[in]  model     a model.
 * @param[in]  what      PSLD_OUTPUT_DATA for [C, ...], PSLD_OUTPUT_STATE for [k*C, ...].
 * @param[out] shape     receives the sizes; or NULL. There are at most 8.
 * @param[in]  capacity  elements of `shape`; 0 with NULL.
 * @param[out] ndim      NULL, or receives the number of sizes.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_model_shape(const struct psld_model *model,
                         int32_t what,
                         int64_t *shape,
                         size_t capacity,
                         size_t *ndim,
                         struct psld_error **err);

/**
 * Latents on the way through others, by spherical interpolation of each block (position, momentum) in the coordinates in
 * which the prior is white.
 *
 * Threads: any.
 *
 * @param[in]  model     the model.
 * @param[in]  latents   states [m, k*C, ...], such as a sampler compiled with `encode` makes them.
 * @param[in]  at        `n` places on the way: p is between latents floor(p) and floor(p) + 1, 0 to m - 1; a whole number is
 *                       that latent itself.
 * @param[in]  n         the number of places.
 * @param[in]  dtype     type of the buffer's elements, one of psld_dtype.
 * @param[out] buffer    receives [n, k*C, ...], row-major: initial states for psld_run_options.init.
 * @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of that shape.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_SHAPE_MISMATCH, PSLD_STATUS_INVALID_ARGUMENT for a place outside of the way,
 *         PSLD_STATUS_NUMERIC between opposite latents, or another error.
 */
int32_t psld_model_interpolate(const struct psld_model *model,
                               const struct psld_tensor *latents,
                               const double *at,
                               size_t n,
                               int32_t dtype,
                               void *buffer,
                               size_t elements,
                               struct psld_error **err);

/**
 * Frees a model. Runs that use it go on.
 *
 * Threads: any.
 *
 * @param[in] model  a model, or NULL.
 * @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_model_free(struct psld_model *model);

/**
 * Makes a model of a network that the caller computes: of another inference engine, a framework, or a formula. All that
 * works with an ONNX model works with it; a cancel token stops it between its calls.
 *
 * Threads: any.
 *
 * @param[in]  network  computes the network.
 * @param[in]  user     passed to the callbacks; or NULL.
 * @param[in]  release  NULL, or told when `user` is needed no more; where this function fails, before it returns.
 * @param[in]  name     tells this network from others in hashes, plans and saved runs: change it with the weights.
 * @param[in]  options  `spec_json` is needed, and `threads` are the solver's; the rest must be as it was initialised.
 * @param[out] out      the model; free it with psld_model_free.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_SPEC_MISSING, PSLD_STATUS_SPEC_INVALID, or another error.
 */
int32_t psld_model_create(psld_network_callback network,
                          void *user,
                          psld_release_callback release,
                          const char *name,
                          const struct psld_model_options *options,
                          struct psld_model **out,
                          struct psld_error **err);

/**
 * Fills `options` with the defaults.
 *
 * Threads: any.
 *
 * @param[out] options      the struct.
 * @param[in]  struct_size  sizeof(psld_sampler_options).
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
 */
int32_t psld_sampler_options_init(struct psld_sampler_options *options, size_t struct_size);

/**
 * The samplers of this library, as a JSON array of objects: `name`, `title`, `order`, `nfe_per_step`, `stochastic`,
 * `adaptive`, `paper`, `equation`. Size-query form.
 *
 * Threads: any.
 *
 * @param[out] buffer    receives the text with its NUL; or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed, the NUL included.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_samplers_json(char *buffer,
                           size_t capacity,
                           size_t *needed,
                           struct psld_error **err);

/**
 * Compiles a sampler for models of this spec: all its mathematics is done here, once.
 *
 * Threads: any.
 *
 * @param[in]  model    the model, or another one of the same spec.
 * @param[in]  options  NULL for the defaults.
 * @param[out] out      the sampler; free it with psld_sampler_free.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_INVALID_CONFIG naming the option and the
 *         rule, PSLD_STATUS_UNSUPPORTED where the sampler is not defined for the model's process, or another error.
 */
int32_t psld_sampler_create(const struct psld_model *model,
                            const struct psld_sampler_options *options,
                            struct psld_sampler **out,
                            struct psld_error **err);

/**
 * Makes a sampler of a plan: one that psld_sampler_plan_json gave, or of your own making.
 *
 * Threads: any.
 *
 * @param[in]  model      the model, or another one of the same spec.
 * @param[in]  plan_json  the plan.
 * @param[out] out        the sampler; free it with psld_sampler_free.
 * @param[out] err        NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_CONFIG naming the row and the rule, or another error.
 */
int32_t psld_sampler_create_from_plan(const struct psld_model *model,
                                      const char *plan_json,
                                      struct psld_sampler **out,
                                      struct psld_error **err);

/**
 * The plan of a sampler as JSON, one row a line: every coefficient, in double precision. Size-query form.
 *
 * Threads: any.
 *
 * @param[in]  sampler   a sampler that is not adaptive.
 * @param[out] buffer    receives the text with its NUL; or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed, the NUL included.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_UNSUPPORTED (an adaptive sampler has no plan),
 *         or another error.
 */
int32_t psld_sampler_plan_json(const struct psld_sampler *sampler,
                               char *buffer,
                               size_t capacity,
                               size_t *needed,
                               struct psld_error **err);

/**
 * SHA-256 of what the sampler does (of its plan, or of an adaptive sampler's options), 64 hexadecimal digits. Equal
 * hashes are equal numbers, on every platform. Size-query form.
 *
 * Threads: any.
 *
 * @param[in]  sampler   a sampler.
 * @param[out] buffer    receives the text with its NUL (65 bytes); or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed, the NUL included.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_sampler_hash(const struct psld_sampler *sampler,
                          char *buffer,
                          size_t capacity,
                          size_t *needed,
                          struct psld_error **err);

/**
 * The network calls that a run of this sampler makes, the closing one included.
 *
 * Threads: any.
 *
 * @param[in]  sampler  a sampler.
 * @param[out] nfe      the calls; 0 for an adaptive sampler, which cannot know before it runs.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK or an error.
 */
int32_t psld_sampler_nfe(const struct psld_sampler *sampler, int32_t *nfe, struct psld_error **err);

/**
 * Frees a sampler. Runs that use it go on.
 *
 * Threads: any.
 *
 * @param[in] sampler  a sampler, or NULL.
 * @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_sampler_free(struct psld_sampler *sampler);

/**
 * Fills `options` with the defaults.
 *
 * Threads: any.
 *
 * @param[out] options      the struct.
 * @param[in]  struct_size  sizeof(psld_run_options).
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
 */
int32_t psld_run_options_init(struct psld_run_options *options, size_t struct_size);

/**
 * Makes a token by which runs can be stopped. It is sticky: a request that comes before the run starts is not lost, and
 * nothing takes it back.
 *
 * Threads: any.
 *
 * @param[out] out  the token; free it with psld_cancel_free.
 * @param[out] err  NULL, or receives the error.
 * @return PSLD_STATUS_OK or an error.
 */
int32_t psld_cancel_create(struct psld_cancel **out,
                           struct psld_error **err);

/**
 * Asks all runs that hold this token to stop with PSLD_STATUS_CANCELLED: before their next network call, and, where ONNX
 * Runtime runs the network, within the one in flight, between two nodes of its graph. It takes a lock, so a signal
 * handler should set a flag instead and leave this call to a thread.
 *
 * Threads: any.
 *
 * @param[in] cancel  a token.
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_cancel_cancel(const struct psld_cancel *cancel);

/**
 * Frees a token. Runs that hold it keep its state.
 *
 * Threads: any.
 *
 * @param[in] cancel  a token, or NULL.
 * @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_cancel_free(struct psld_cancel *cancel);

/**
 * Begins a run: allocates all that it needs and draws (or takes) the initial state. No network call yet.
 *
 * Threads: any.
 *
 * @param[in]  model    the model; it may be freed while the run lives.
 * @param[in]  sampler  a sampler compiled for the model's spec; it may be freed while the run lives.
 * @param[in]  options  NULL for the defaults.
 * @param[out] out      the run; free it with psld_run_free.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_SHAPE_MISMATCH naming the option,
 *         PSLD_STATUS_MEMORY_LIMIT, PSLD_STATUS_OUT_OF_MEMORY, or another error.
 */
int32_t psld_run_start(const struct psld_model *model,
                       const struct psld_sampler *sampler,
                       const struct psld_run_options *options,
                       struct psld_run **out,
                       struct psld_error **err);

/**
 * The bytes of the arrays that a run of psld_run_start with these arguments holds, those among them that it is given and
 * copies to keep (images to complete, measurements, noise), and that psld_run_options.max_memory bounds. The network's own
 * memory, which ONNX Runtime manages, is not part of it.
 *
 * Threads: any.
 *
 * @param[in]  sampler  a sampler.
 * @param[in]  options  NULL for the defaults. Only `n` and `precision` matter.
 * @param[out] bytes    the bytes; UINT64_MAX for more.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK or an error.
 */
int32_t psld_run_memory(const struct psld_sampler *sampler,
                        const struct psld_run_options *options,
                        uint64_t *bytes,
                        struct psld_error **err);

/**
 * The number by which log messages call a run ("run 7: ..."); it counts from 1 in each process.
 *
 * Threads: any.
 *
 * @param[in]  run  a run.
 * @param[out] id   the number.
 * @param[out] err  NULL, or receives the error.
 * @return PSLD_STATUS_OK or an error.
 */
int32_t psld_run_id(const struct psld_run *run, uint64_t *id, struct psld_error **err);

/**
 * Advances a run by at most `max_steps` solver steps.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in]  run        a run.
 * @param[in]  max_steps  at least 0; 0 only tells how far the run is.
 * @param[out] progress   NULL, or receives how far the run is, also where it was interrupted or failed ("Status" above); its
 *                        struct_size must be set. `progress->done` is 1 after the last step.
 * @param[out] err        NULL, or receives the error.
 * @return PSLD_STATUS_OK; PSLD_STATUS_CANCELLED, PSLD_STATUS_DEADLINE_EXCEEDED or PSLD_STATUS_PARTIAL (the run can be
 *         read and saved, and continued after psld_run_resume); PSLD_STATUS_NON_FINITE, PSLD_STATUS_MAX_NFE or another error (the run
 *         can only be read); PSLD_STATUS_PANIC (the run can only be freed).
 */
int32_t psld_run_step(struct psld_run *run,
                      int32_t max_steps,
                      struct psld_progress *progress,
                      struct psld_error **err);

/**
 * Makes sample i of a run what its sample `indices[i]` was, between two steps: its state and all that goes with it (what a
 * multistep sampler remembers, class, scale, image and mask, data estimate). An index that comes several times makes
 * copies, one that does not come drops its sample. So a caller does sequential Monte Carlo: after each step it weighs
 * the samples by a reward of its own and draws indices by the weights; see bindings/c/examples/steering.c. It works after
 * the last step, too.
 *
 * Draws go on counting: a copy with its original's seed stays a copy of it to the bit, and takes a way of its own, where
 * the sampler is stochastic, with a seed that no other sample has or had.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in] run        a run.
 * @param[in] indices    `n` indices of samples, 0 to the run's number of samples less one.
 * @param[in] n          the number of samples from here on: 1 to as many as there are.
 * @param[in] new_seeds  `n` seeds, the sample's from here on; NULL: seeds follow their samples.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK; PSLD_STATUS_INVALID_ARGUMENT naming the index or the number; PSLD_STATUS_UNSUPPORTED for a run
 *         whose noise the caller gave; PSLD_STATUS_RUN_STATE after a failure, or where the run was interrupted within a
 *         step; or another error. After an error the run is as it was.
 */
int32_t psld_run_gather(struct psld_run *run,
                        const int64_t *indices,
                        size_t n,
                        const uint64_t *new_seeds,
                        struct psld_error **err);

/**
 * Fills `observer` with the defaults: nobody.
 *
 * Threads: any.
 *
 * @param[out] observer     the struct.
 * @param[in]  struct_size  sizeof(psld_observer).
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
 */
int32_t psld_observer_init(struct psld_observer *observer, size_t struct_size);

/**
 * Advances a run to its end: psld_run_step in a loop, with callbacks between the steps.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in]  run       a run.
 * @param[in]  observer  NULL, or who is told.
 * @param[out] progress  NULL, or receives how far the run is, also where it was interrupted or failed ("Status" above); its
 *                       struct_size must be set.
 * @param[out] err       NULL, or receives the error.
 * @return as psld_run_step; PSLD_STATUS_CANCELLED also where a callback returns another value than 0;
 *         PSLD_STATUS_RUN_STATE where previews are wanted of a run that makes none.
 */
int32_t psld_run_finish(struct psld_run *run,
                        const struct psld_observer *observer,
                        struct psld_progress *progress,
                        struct psld_error **err);

/**
 * The run as bytes, from which psld_run_load makes it again, in any process: what it has computed, and what it was
 * started with (the arrays of psld_run_options among it), with a checksum and the hashes of model and sampler.
 * Between any two steps, and after an interruption. Size-query form; the size changes with the run's progress only.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in]  run       a run.
 * @param[out] buffer    receives the bytes; or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_RUN_STATE (after a failure),
 *         PSLD_STATUS_READ_FAILED (the model's file, which is hashed once, has changed), or another error.
 */
int32_t psld_run_save(const struct psld_run *run,
                      void *buffer,
                      size_t capacity,
                      size_t *needed,
                      struct psld_error **err);

/**
 * Makes a run again of what psld_run_save gave. It goes on as if it had never stopped: with the same bits on an analytic
 * model, and through ONNX Runtime for the same number of threads. Deadline and token are not part of it: psld_run_resume
 * sets them.
 *
 * Threads: any.
 *
 * @param[in]  model    the model that the run was started with.
 * @param[in]  sampler  a sampler of the same options, or of the same plan.
 * @param[in]  bytes    what psld_run_save gave; not needed any more after the call.
 * @param[in]  size     its number of bytes.
 * @param[out] out      the run; free it with psld_run_free.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_CHECKPOINT_INVALID (torn, edited, of another model, another sampler, or a later
 *         version), or another error.
 */
int32_t psld_run_load(const struct psld_model *model,
                      const struct psld_sampler *sampler,
                      const void *bytes,
                      size_t size,
                      struct psld_run **out,
                      struct psld_error **err);

/**
 * psld_run_load of a run that had a guidance network (psld_run_options.guide).
 *
 * Threads: any.
 *
 * @param[in]  model    the model that the run was started with.
 * @param[in]  sampler  a sampler of the same options, or of the same plan.
 * @param[in]  guide    the guidance network that the run was started with; it may be freed while the run lives. NULL: none.
 * @param[in]  bytes    what psld_run_save gave; not needed any more after the call.
 * @param[in]  size     its number of bytes.
 * @param[out] out      the run; free it with psld_run_free.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_CHECKPOINT_INVALID (torn, edited, of another model, sampler or guidance network, or a
 *         later version), or another error.
 */
int32_t psld_run_load_guided(const struct psld_model *model,
                             const struct psld_sampler *sampler,
                             const struct psld_model *guide,
                             const void *bytes,
                             size_t size,
                             struct psld_run **out,
                             struct psld_error **err);

/**
 * What made a run's samples, as a JSON object: `psld` (version), `sampler` (name, options), `plan` and `model` (hashes),
 * `process`, `backend` (what runs the network), `noise` ("philox" or "caller"), `seeds` (first, count: at the start),
 * `gathered` (step, indices, seeds of each psld_run_gather), `conditioning`, `scales`, `guide`, `precision`, `batch`,
 * `labels`, `steps`, `nfe`, `t`, `done`, `network_seconds`. Size-query form.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in]  run       a run.
 * @param[out] buffer    receives the text with its NUL; or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed, the NUL included.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_READ_FAILED (the model's file, which is hashed
 *         once, has changed), or another error.
 */
int32_t psld_run_provenance_json(const struct psld_run *run,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *needed,
                                 struct psld_error **err);

/**
 * Gives an interrupted run another token and another deadline, so that psld_run_step can continue it.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in]  run               a run.
 * @param[in]  cancel            a token, or NULL for none.
 * @param[in]  deadline_seconds  seconds from now, or 0 for none.
 * @param[out] err               NULL, or receives the error.
 * @return PSLD_STATUS_OK or an error.
 */
int32_t psld_run_resume(struct psld_run *run,
                        const struct psld_cancel *cancel,
                        double deadline_seconds,
                        struct psld_error **err);

/**
 * The shape of what psld_run_read gives. Size-query form.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in]  run       a run.
 * @param[in]  what      one of psld_output.
 * @param[out] shape     receives the sizes, n first; or NULL.
 * @param[in]  capacity  elements of `shape`; 0 with NULL.
 * @param[out] ndim      NULL, or receives the number of sizes.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_run_shape(const struct psld_run *run,
                       int32_t what,
                       int64_t *shape,
                       size_t capacity,
                       size_t *ndim,
                       struct psld_error **err);

/**
 * Copies out what a run holds; also between steps, and after an error other than PSLD_STATUS_PANIC.
 *
 * Threads: one at a time per run; a second one gets PSLD_STATUS_BUSY.
 *
 * @param[in]  run       a run.
 * @param[in]  what      one of psld_output.
 * @param[in]  dtype     type of the buffer's elements, one of psld_dtype; converted where the state has another.
 * @param[out] buffer    receives the array, row-major.
 * @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of psld_run_shape.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_INVALID_ARGUMENT for a buffer of more elements,
 *         PSLD_STATUS_RUN_STATE (no data estimate), or another error.
 */
int32_t psld_run_read(const struct psld_run *run,
                      int32_t what,
                      int32_t dtype,
                      void *buffer,
                      size_t elements,
                      struct psld_error **err);

/**
 * Frees a run.
 *
 * Threads: any; while another thread is in a call on this run it gets PSLD_STATUS_BUSY, and the run stays.
 *
 * @param[in] run  a run, or NULL.
 * @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_HANDLE or PSLD_STATUS_BUSY.
 */
int32_t psld_run_free(struct psld_run *run);

/**
 * Draws samples, the whole way at once: psld_run_start, psld_run_step and psld_run_read, in batches of
 * psld_run_options.batch. Sample i has the same noise whatever the batch.
 *
 * Threads: any.
 *
 * @param[in]  model     the model.
 * @param[in]  sampler   a sampler compiled for the model's spec.
 * @param[in]  options   NULL for the defaults: one sample.
 * @param[in]  what      PSLD_OUTPUT_DATA or PSLD_OUTPUT_STATE.
 * @param[in]  dtype     type of the buffer's elements, one of psld_dtype.
 * @param[out] buffer    receives the samples, [n, C, ...] or [n, k*C, ...] row-major. After an error it holds the
 *                       batches that were finished, and is otherwise as it was.
 * @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of that shape.
 * @param[in]  progress  NULL, or is called after each step; not where the sampling fails or is interrupted.
 * @param[in]  user      passed to `progress`.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK; PSLD_STATUS_PARTIAL where the deadline of an anytime call passed and `buffer` holds data
 *         estimates of some samples (with several batches each has its share of the time); or as psld_run_start,
 *         psld_run_step and psld_run_read.
 */
int32_t psld_sample(const struct psld_model *model,
                    const struct psld_sampler *sampler,
                    const struct psld_run_options *options,
                    int32_t what,
                    int32_t dtype,
                    void *buffer,
                    size_t elements,
                    psld_progress_callback progress,
                    void *user,
                    struct psld_error **err);

/**
 * Likelihoods of images in bits per dimension, -log2 p(x)/d of each, along the probability flow: the lower the likelier. The
 * divergence is estimated by random directions and central differences, at each time of the grid.
 *
 * In phase space momenta are drawn, and the bits are an upper bound, tight where data are smooth on the scale of the noise
 * at t_end. With classes, likelihoods given the class; not with guidance or inpainting.
 *
 * Threads: any.
 *
 * @param[in]  model       the model.
 * @param[in]  sampler     whose options (nfe, time_grid, t_end, ...) the flow is followed with: a sampler that can be compiled
 *                         with `encode` (one without a name is taken for "gddim", one that "auto" chose for what it
 *                         chose, which may not encode); psld_sampler_options.encode and denoise do not matter.
 * @param[in]  options     `n` images `from_image`, and what else the run takes; psld_run_options.precision PSLD_DTYPE_F64
 *                         takes smaller differences of a network that computes in double precision.
 * @param[in]  probes      random directions at each time, of two network calls each, at least 1.
 * @param[in]  dequantise  1: the images' values are levels of 0 to 255 over the data range, each is spread over its bin of
 *                         256, and the bits are those of 8-bit images; 0: of the density.
 * @param[out] bits        `n` numbers; after an error as they were.
 * @param[out] errors      NULL, or `n` numbers: the standard error of each by the directions; needs two probes or more.
 * @param[in]  n           psld_run_options.n.
 * @param[in]  progress    NULL, or is called after each step.
 * @param[in]  user        passed to `progress`.
 * @param[out] err         NULL, or receives the error.
 * @return PSLD_STATUS_OK; PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_SHAPE_MISMATCH naming the option;
 *         PSLD_STATUS_UNSUPPORTED for a sampler that does not encode by fixed steps; or as psld_run_start and psld_run_step.
 */
int32_t psld_likelihood(const struct psld_model *model,
                        const struct psld_sampler *sampler,
                        const struct psld_run_options *options,
                        int32_t probes,
                        int32_t dequantise,
                        double *bits,
                        double *errors,
                        size_t n,
                        psld_progress_callback progress,
                        void *user,
                        struct psld_error **err);

/**
 * Chooses sampler, order and grid for a model: tries some sixty on a few starts against a converged solution, and gives the
 * options with the best filled in, as the JSON that psld_sampler_options.options_json takes. Size-query form: the model keeps
 * the answer, so that the second call, as any with the same question, gives it at once.
 *
 * Threads: any. It takes as long as some tens of network calls on 64 samples for each 10 of `nfe`.
 *
 * @param[in]  model         a model.
 * @param[in]  options_json  options of the sampler as a JSON object: `nfe` or `steps`, and what else the samples will be drawn
 *                           with. Of sampler, order and grid, what is given is kept. NULL: none, as in
 *                           psld_sampler_options.
 * @param[in]  labels        classes of the starts, which take them in turn; NULL: the null class.
 * @param[in]  labels_len    number of labels.
 * @param[in]  cancel        a token that stops it with PSLD_STATUS_CANCELLED; NULL: none.
 * @param[in]  progress      NULL, or is called after each step of each candidate: `fraction`, and as `nfe` the network calls so
 *                           far, of one sample each. A return value other than 0 stops the probe with
 *                           PSLD_STATUS_CANCELLED.
 * @param[in]  user          passed to `progress`.
 * @param[out] buffer        receives the text with its NUL; or NULL.
 * @param[in]  capacity      bytes in `buffer`; 0 with NULL.
 * @param[out] needed        NULL, or receives the bytes needed, the NUL included.
 * @param[out] err           NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_CANCELLED, PSLD_STATUS_INVALID_ARGUMENT for a sampler that
 *         is no candidate, or as psld_sampler_create and psld_run_step.
 */
int32_t psld_model_probe(const struct psld_model *model,
                         const char *options_json,
                         const int64_t *labels,
                         size_t labels_len,
                         const struct psld_cancel *cancel,
                         psld_progress_callback progress,
                         void *user,
                         char *buffer,
                         size_t capacity,
                         size_t *needed,
                         struct psld_error **err);

/**
 * Fills `options` with the defaults.
 *
 * Threads: any.
 *
 * @param[out] options      the struct.
 * @param[in]  struct_size  sizeof(psld_engine_options).
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER, or PSLD_STATUS_INVALID_ARGUMENT for another size.
 */
int32_t psld_engine_options_init(struct psld_engine_options *options, size_t struct_size);

/**
 * Starts an engine, which serves many callers with one network: requests of any size, sampler, length and class are
 * submitted on any thread at any time, and the network calls that are due are made together, as one batch of samples at
 * different times t. Each request gets what a run of it alone would get: bit for bit on an analytic model, within
 * rounding through ONNX Runtime.
 *
 * An engine has one thread of its own (also where the model was loaded with `threads` 1), which makes the network's calls
 * and executes the steps in between. Requests are served in the order in which they began to wait for a network call; a
 * level of priority is worth a head start of 8 calls. A call takes samples from one after the other until it has
 * `max_batch`; who has had that many and needs more goes to the end of the queue. So nobody is kept waiting by large
 * requests, nor for good by higher priorities. A sample that becomes non-finite fails its request only; a network call that
 * fails, fails the requests that have samples in it.
 *
 * Threads: any.
 *
 * @param[in]  model    the model; it may be freed while the engine lives.
 * @param[in]  options  NULL for the defaults.
 * @param[out] out      the engine; free it with psld_engine_free.
 * @param[out] err      NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT naming the option, PSLD_STATUS_OUT_OF_MEMORY, or another error.
 */
int32_t psld_engine_create(const struct psld_model *model,
                           const struct psld_engine_options *options,
                           struct psld_engine **out,
                           struct psld_error **err);

/**
 * Hands in a request: what psld_run_start takes, and a priority. The arrays are allocated, and the initial state is drawn,
 * in this call, and all that can be wrong with the request is said here; it does not wait for the network.
 *
 * Threads: any.
 *
 * @param[in]  engine    an engine.
 * @param[in]  sampler   a sampler compiled for the model's spec; it may be freed while the request lives.
 * @param[in]  options   NULL for the defaults. `batch` must be 0: network calls are shared, and the engine's `max_batch` bounds
 *                       them. `deadline_seconds` counts from this call. `cancel` stops the request before its next
 *                       network call, or within the one in flight where all who have samples in it are cancelled.
 * @param[in]  priority  -10 to 10; more is served earlier.
 * @param[out] out       the ticket; free it with psld_ticket_free.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK; PSLD_STATUS_QUEUE_FULL (submit again when a request has ended); as psld_run_start;
 *         PSLD_STATUS_CANCELLED where the engine is closed.
 */
int32_t psld_engine_submit(const struct psld_engine *engine,
                           const struct psld_sampler *sampler,
                           const struct psld_run_options *options,
                           int32_t priority,
                           struct psld_ticket **out,
                           struct psld_error **err);

/**
 * What an engine has done so far, as a JSON object of numbers: `requests` (in the engine now), `submitted`, `completed`,
 * `failed` (also those that were cancelled or late), `calls` (of the network), `samples` (in all those calls together).
 * Size-query form.
 *
 * Threads: any.
 *
 * @param[in]  engine    an engine.
 * @param[out] buffer    receives the text with its NUL; or NULL. 256 bytes are always enough.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed, the NUL included. While the engine works it may grow.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_engine_stats_json(const struct psld_engine *engine,
                               char *buffer,
                               size_t capacity,
                               size_t *needed,
                               struct psld_error **err);

/**
 * Ends an engine, also while it works: the network call in flight is ended, where ONNX Runtime runs it between two nodes of
 * its graph, the tickets of requests that have not ended end with PSLD_STATUS_CANCELLED, and this returns when the engine's
 * thread is gone (called on that thread, by a network, it returns before). More requests are refused with
 * PSLD_STATUS_CANCELLED; tickets stay, and can be read and freed.
 *
 * Threads: any.
 *
 * @param[in]  engine  an engine.
 * @param[out] err     NULL, or receives the error.
 * @return PSLD_STATUS_OK or an error.
 */
int32_t psld_engine_close(const struct psld_engine *engine,
                          struct psld_error **err);

/**
 * Frees an engine. Its tickets keep it at work: requests that were submitted go on to their ends (psld_engine_close ends them
 * at once). Without tickets this returns when the engine's thread is gone; otherwise the last psld_ticket_free does.
 *
 * Threads: any.
 *
 * @param[in] engine  an engine, or NULL.
 * @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_engine_free(struct psld_engine *engine);

/**
 * Waits for the end of a request, at most for a time.
 *
 * Threads: any; several at once, if need be.
 *
 * @param[in]  ticket           a ticket.
 * @param[in]  timeout_seconds  seconds to wait at most: 0 only looks, INFINITY waits as long as it takes.
 * @param[out] progress         NULL, or receives how far the request is, also where it failed; its struct_size must be set.
 *                              `progress->done` is 1 where it is complete, and 0 where the time is over.
 * @param[out] err              NULL, or receives the error.
 * @return PSLD_STATUS_OK (complete, or not yet: see `progress`); why the request ended otherwise, the same at each call:
 *         PSLD_STATUS_CANCELLED (also by psld_engine_close), PSLD_STATUS_DEADLINE_EXCEEDED, PSLD_STATUS_PARTIAL (of
 *         an `anytime` request: read PSLD_OUTPUT_X0), PSLD_STATUS_NON_FINITE, PSLD_STATUS_MAX_NFE, or what a network call
 *         failed with; PSLD_STATUS_INVALID_ARGUMENT for a negative time.
 */
int32_t psld_ticket_wait(const struct psld_ticket *ticket,
                         double timeout_seconds,
                         struct psld_progress *progress,
                         struct psld_error **err);

/**
 * Asks for the end of a request, with PSLD_STATUS_CANCELLED; as a psld_cancel that was passed with it. It does nothing to one
 * that has ended.
 *
 * Threads: any.
 *
 * @param[in] ticket  a ticket.
 * @return PSLD_STATUS_OK, PSLD_STATUS_NULL_POINTER or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_ticket_cancel(const struct psld_ticket *ticket);

/**
 * The number by which messages call a request ("request 7: ..."); it counts from 1 in each process.
 *
 * Threads: any.
 *
 * @param[in]  ticket  a ticket.
 * @param[out] id      the number.
 * @param[out] err     NULL, or receives the error.
 * @return PSLD_STATUS_OK or an error.
 */
int32_t psld_ticket_id(const struct psld_ticket *ticket, uint64_t *id, struct psld_error **err);

/**
 * The shape of what psld_ticket_read gives. Size-query form.
 *
 * Threads: any.
 *
 * @param[in]  ticket    a ticket.
 * @param[in]  what      one of psld_output.
 * @param[out] shape     receives the sizes, n first; or NULL.
 * @param[in]  capacity  elements of `shape`; 0 with NULL.
 * @param[out] ndim      NULL, or receives the number of sizes.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, or an error.
 */
int32_t psld_ticket_shape(const struct psld_ticket *ticket,
                          int32_t what,
                          int64_t *shape,
                          size_t capacity,
                          size_t *ndim,
                          struct psld_error **err);

/**
 * Copies out the samples of a request that is complete; or, at any time and also after a failure, the data estimate of one
 * that was submitted with `previews` or `anytime`.
 *
 * Threads: any.
 *
 * @param[in]  ticket    a ticket.
 * @param[in]  what      one of psld_output.
 * @param[in]  dtype     type of the buffer's elements, one of psld_dtype; converted where the state has another.
 * @param[out] buffer    receives the array, row-major.
 * @param[in]  elements  elements (not bytes) of `buffer`: exactly the product of psld_ticket_shape.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_RUN_STATE (not complete, or no data estimate), PSLD_STATUS_BUFFER_TOO_SMALL,
 *         PSLD_STATUS_INVALID_ARGUMENT for a buffer of more elements, or another error.
 */
int32_t psld_ticket_read(const struct psld_ticket *ticket,
                         int32_t what,
                         int32_t dtype,
                         void *buffer,
                         size_t elements,
                         struct psld_error **err);

/**
 * What made a request's samples: a JSON object as psld_run_provenance_json gives it, in which `batch` is null. Size-query
 * form.
 *
 * Threads: any.
 *
 * @param[in]  ticket    a ticket.
 * @param[out] buffer    receives the text with its NUL; or NULL.
 * @param[in]  capacity  bytes in `buffer`; 0 with NULL.
 * @param[out] needed    NULL, or receives the bytes needed.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_BUFFER_TOO_SMALL, PSLD_STATUS_READ_FAILED (the model's file, which is hashed
 *         once, has changed), or another error.
 */
int32_t psld_ticket_provenance_json(const struct psld_ticket *ticket,
                                    char *buffer,
                                    size_t capacity,
                                    size_t *needed,
                                    struct psld_error **err);

/**
 * Frees a ticket, and what its request holds. A request that has not ended is cancelled; a thread that waits for it is told
 * so. The last ticket of an engine that was freed before waits for the network call in flight.
 *
 * Threads: any.
 *
 * @param[in] ticket  a ticket, or NULL.
 * @return PSLD_STATUS_OK or PSLD_STATUS_INVALID_HANDLE.
 */
int32_t psld_ticket_free(struct psld_ticket *ticket);

/**
 * Writes the standard normals that a sample of this seed meets: a pure function of seed, purpose, draw and element
 * (Philox4x32-10 and Box-Muller), the same for every batch, thread count, processor and language.
 *
 * Threads: any.
 *
 * @param[in]  seed      the sample's seed.
 * @param[in]  purpose   one of psld_noise.
 * @param[in]  draw      which draw, counted from 0 within the purpose.
 * @param[in]  first     first element: a flat index into one sample's whole state, k*C*...
 * @param[in]  dtype     one of psld_dtype; F32 is F64 rounded once.
 * @param[out] buffer    receives elements first, first + 1, ...
 * @param[in]  elements  number of elements of `buffer`; first + elements is at most 2^34.
 * @param[out] err       NULL, or receives the error.
 * @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_NULL_POINTER.
 */
int32_t psld_noise_fill(uint64_t seed,
                        int32_t purpose,
                        uint32_t draw,
                        uint64_t first,
                        int32_t dtype,
                        void *buffer,
                        size_t elements,
                        struct psld_error **err);

/**
 * Sends messages to `callback`, for the whole process; without one the library says nothing. When this returns, the
 * callback set before is not running and will not be called again.
 *
 * Threads: any; not from inside of the callback (PSLD_STATUS_BUSY).
 *
 * @param[in] level     the most detailed level wanted, one of psld_log.
 * @param[in] callback  receives messages of that level and below; NULL: none.
 * @param[in] user      passed to the callback.
 * @return PSLD_STATUS_OK, PSLD_STATUS_INVALID_ARGUMENT or PSLD_STATUS_BUSY.
 */
int32_t psld_set_log_callback(int32_t level,
                              psld_log_callback callback,
                              void *user);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PSLD_H */
