// The header from C++17: with RAII of one line a type, and a lambda for the callback.
#include <psld.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

static_assert(std::is_same_v<std::underlying_type_t<psld_status>, int32_t>);
static_assert(std::is_same_v<decltype(psld_run_step(nullptr, 0, nullptr, nullptr)), int32_t>);
static_assert(std::is_standard_layout_v<psld_run_options> && std::is_trivially_copyable_v<psld_run_options>);

template <auto free> struct Free {
  template <class T> void operator()(T *handle) const { free(handle); }
};
using Model = std::unique_ptr<psld_model, Free<psld_model_free>>;
using Sampler = std::unique_ptr<psld_sampler, Free<psld_sampler_free>>;
using Error = std::unique_ptr<psld_error, Free<psld_error_free>>;

template <class F> void call(F f) {
  psld_error *err = nullptr;
  if (f(&err) == PSLD_STATUS_OK) return;
  Error owned(err);
  throw std::runtime_error(psld_error_message(err));
}

template <class T, class F> auto make(F f) {
  typename T::pointer handle = nullptr;
  call([&](psld_error **err) { return f(&handle, err); });
  return T(handle);
}

static int run(const char *path) {
  auto model = make<Model>([&](auto out, auto err) { return psld_model_load_file(nullptr, path, nullptr, out, err); });
  psld_sampler_options options;
  psld_sampler_options_init(&options, sizeof options);
  options.sampler = "heun";
  options.nfe = 21;
  auto sampler =
      make<Sampler>([&](auto out, auto err) { return psld_sampler_create(model.get(), &options, out, err); });

  std::vector<int64_t> shape(8);
  size_t dims = 0;
  call([&](auto err) { return psld_model_shape(model.get(), PSLD_OUTPUT_DATA, shape.data(), 8, &dims, err); });
  shape.resize(dims);
  psld_run_options batch;
  psld_run_options_init(&batch, sizeof batch);
  batch.n = 4;
  auto count = std::accumulate(shape.begin(), shape.end(), size_t{4}, [](size_t a, int64_t b) { return a * size_t(b); });
  std::vector<double> samples(count);
  std::vector<double> fractions;
  auto progress = [](void *user, const psld_progress *p) -> int32_t {
    static_cast<std::vector<double> *>(user)->push_back(p->fraction);
    return 0;
  };
  call([&](auto err) {
    return psld_sample(model.get(), sampler.get(), &batch, PSLD_OUTPUT_DATA, PSLD_DTYPE_F64, samples.data(),
                       samples.size(), progress, &fractions, err);
  });
  if (fractions.size() != 11 || fractions.back() != 1.0) return 2;

  options.sampler = "huen";
  try {
    make<Sampler>([&](auto out, auto err) { return psld_sampler_create(model.get(), &options, out, err); });
    return 3;
  } catch (const std::runtime_error &e) {
    if (std::string(e.what()) != "unknown sampler `huen`") return 4;
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 2) return 1;
  try {
    if (int failed = run(argv[1])) return failed;
  } catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return psld_debug_live_handles() == 0 ? 0 : 5;
}
