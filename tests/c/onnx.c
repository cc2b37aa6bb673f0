/* ONNX Runtime and an ONNX model: argv[1] is a model of [3, 32, 32] images. */
#include "check.h"
#include <dirent.h>

/* The threads of this process. */
static int threads(void) {
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks);
  for (struct dirent *task; (task = readdir(tasks));) count += task->d_name[0] != '.';
  closedir(tasks);
  return count;
}

enum { ELEMENTS = 2 * 3072 };

static void said(void *user, int32_t level, const char *message) {
  (void)level;
  if (strstr(message, "onnxruntime")) ++*(int *)user;
}

/* The file's bytes, and a NUL. */
static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  CHECK(file && !fseek(file, 0, SEEK_END));
  *size = (size_t)ftell(file);
  rewind(file);
  char *bytes = (char *)calloc(*size + 1, 1);
  CHECK(bytes && fread(bytes, 1, *size, file) == *size);
  fclose(file);
  return bytes;
}

int main(int argc, char **argv) {
  CHECK(argc > 1);
  int lines = 0;
  OK(psld_set_log_callback(PSLD_LOG_INFO, said, &lines));

  psld_error *err = NULL;
  psld_runtime *runtime = NULL, *again = NULL, *other = NULL;
  OK(psld_runtime_load(NULL, &runtime, &err));
  OK(psld_runtime_load(NULL, &again, &err));
  int threads_before = threads(); /* with the one that ONNX Runtime 1.31 keeps asleep for its environment */
  CHECK(psld_runtime_load("/nowhere/libonnxruntime.so", &other, &err) / 100 == 3 && other == NULL);
  CHECK(strstr(psld_error_message(err), "/nowhere/libonnxruntime.so"));
  OK(psld_error_free(err));
  OK(psld_runtime_free(again));
  char info[8192];
  OK(psld_runtime_info_json(runtime, info, sizeof info, NULL, NULL));
  CHECK(strstr(info, "CPUExecutionProvider") && strstr(info, "\"version\":\"1."));

  psld_model_options options;
  OK(psld_model_options_init(&options, sizeof options));
  psld_model *model = NULL, *copy = NULL;
  options.providers = "gpu";
  EXPECT(PSLD_STATUS_INVALID_ARGUMENT, psld_model_load_file(runtime, argv[1], &options, &model, NULL));
  options.providers = "CUDAExecutionProvider, CPUExecutionProvider"; /* a fallback, by ONNX Runtime's names */
  OK(psld_model_load_file(runtime, argv[1], &options, &model, NULL));
  OK(psld_model_free(model));
  options.providers = "cpu";
  options.threads = 1;
  OK(psld_model_load_file(runtime, argv[1], &options, &model, NULL));
  OK(psld_runtime_free(runtime));
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_runtime_info_json(runtime, NULL, 0, NULL, NULL));
  EXPECT(PSLD_STATUS_INVALID_HANDLE, psld_model_load_file(runtime, argv[1], NULL, &copy, NULL));
  OK(psld_model_info_json(model, info, sizeof info, NULL, NULL));
  CHECK(strstr(info, "\"name\":\"onnxruntime\"") && strstr(info, "\"provider\":\"cpu\""));

  size_t size;
  char *bytes = read_file(argv[1], &size);
  OK(psld_model_load_memory(NULL, bytes, size, &options, &copy, NULL));
  psld_model *none = NULL;
  EXPECT(PSLD_STATUS_MODEL_INVALID, psld_model_load_memory(NULL, bytes, size / 2, NULL, &none, NULL));
  CHECK(none == NULL);
  free(bytes);

  static float x[ELEMENTS], y[ELEMENTS];
  psld_sampler *sampler = compile(model, "em", 5);
  psld_run_options two = samples(2, 1);
  OK(psld_sample(model, sampler, &two, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, ELEMENTS, NULL, NULL, NULL));
  OK(psld_sample(copy, sampler, &two, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, y, ELEMENTS, NULL, NULL, NULL));
  CHECK(memcmp(x, y, sizeof x) == 0);
  CHECK(threads() == threads_before); /* options.threads = 1: all on this thread */

  /* Saved, and loaded into the other model: the same bytes make the same model. */
  psld_run *run = NULL, *loaded = NULL;
  OK(psld_run_start(model, sampler, &two, &run, NULL));
  OK(psld_run_step(run, 2, NULL, NULL));
  OK(psld_run_save(run, NULL, 0, &size, NULL));
  void *saved = malloc(size);
  CHECK(saved);
  OK(psld_run_save(run, saved, size, NULL, NULL));
  OK(psld_run_free(run));
  OK(psld_run_load(copy, sampler, saved, size, &loaded, NULL));
  OK(psld_run_finish(loaded, NULL, NULL, NULL));
  OK(psld_run_read(loaded, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, y, ELEMENTS, NULL));
  CHECK(memcmp(x, y, sizeof x) == 0);
  OK(psld_run_free(loaded));
  free(saved);
  OK(psld_set_log_callback(PSLD_LOG_OFF, NULL, NULL));
  CHECK(lines >= 2);
  OK(psld_model_free(model));
  OK(psld_model_free(copy));
  OK(psld_sampler_free(sampler));
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
