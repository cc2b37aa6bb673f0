// psld.hpp, from the first of two translation units.
#include <psld.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) {                                                               \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);    \
      std::exit(1);                                                                   \
    }                                                                                 \
  } while (0)

static_assert(!std::is_copy_constructible_v<psld::Run> && std::is_nothrow_move_constructible_v<psld::Run>);
static_assert(!std::is_copy_assignable_v<psld::Model> && std::is_nothrow_move_assignable_v<psld::Model>);
static_assert(std::is_base_of_v<std::exception, psld::Error>);

int elsewhere(const char *path);

template <class F> static psld::Error thrown(F f) {
  try {
    f();
  } catch (const psld::Error &e) {
    return e;
  }
  CHECK(!"nothing was thrown");
  std::abort();
}

static void run(const char *path) {
  auto model = psld::Model::load(path);
  CHECK((model.shape() == std::vector<std::int64_t>{3, 2, 2}));
  CHECK(model.info_json().find("\"spec\"") != std::string::npos);

  // By pairs and by fields: the same sampler.
  auto sampler = psld::Sampler::create(model, {{"sampler", "heun"}, {"nfe", "21"}, {"t_end", "0.01"}, {"seed", "7"}});
  psld::SamplerOptions fields;
  fields.sampler = "heun";
  fields.nfe = 21;
  fields.t_end = 0.01;
  CHECK(sampler.hash() == psld::Sampler::create(model, fields).hash());
  CHECK(sampler.hash() == psld::Sampler::from_plan(model, sampler.plan_json()).hash());
  auto points = psld::Sampler::create(model, {{"time_grid", "[1.0, 0.5, 0.001]"}, {"denoise", "false"}});

  // Stepping as a range; saved, loaded, moved.
  psld::RunOptions options(4);
  options.previews = 1;
  auto first = psld::Run::start(model, sampler, options);
  int steps = 0;
  for (const auto &p : first.steps()) {
    CHECK(p.step == ++steps);
    if (steps == 5) break;
  }
  auto saved = first.save();
  auto again = psld::Run::load(model, sampler, saved);
  for (const auto &p : first.steps()) CHECK(p.step == ++steps);
  CHECK(steps == 11);
  for (const auto &p : first.steps()) CHECK(!"a run that is done has no steps" && p.step);
  psld::Run moved = std::move(again);
  CHECK(!again && moved);
  int previews = 0;
  auto end = moved.finish([](const psld_progress &) { return true; },
                          [&](const psld_progress &, psld::View<const float> x0) {
                            CHECK(x0.size() == 48);
                            return ++previews > 0;
                          },
                          2);
  CHECK(end.done && previews == 4);
  auto a = first.read<double>(PSLD_OUTPUT_STATE), b = moved.read<double>(PSLD_OUTPUT_STATE);
  CHECK(a.values == b.values && (a.shape == std::vector<std::int64_t>{4, 6, 2, 2}));
  std::vector<float> x(48);
  moved.read_into<float>(x);
  CHECK(moved.read().values == x);
  CHECK(moved.provenance_json().find("\"plan\"") != std::string::npos);
  CHECK(model.sample(4, {{"sampler", "heun"}, {"nfe", "21"}, {"t_end", "0.01"}, {"seed", "7"}}).values == x);

  // Samples reordered between two steps.
  auto gathered = psld::Run::load(model, sampler, saved);
  const std::vector<std::int64_t> indices{3, 1, 1};
  const std::vector<std::uint64_t> seeds{7, 8, 9};
  gathered.gather(indices, seeds);
  gathered.finish();
  const auto kept = gathered.read();
  CHECK(kept.shape[0] == 3);
  for (std::size_t i = 0; i < 36; i++)
    CHECK(kept.values[i] == x[12 * static_cast<std::size_t>(indices[i / 12]) + i % 12]);
  CHECK(thrown([&] { gathered.gather(indices, psld::View<const std::uint64_t>(seeds.data(), 2)); }).status() ==
        PSLD_STATUS_INVALID_ARGUMENT);

  // To latents, between them, and back.
  psld::SamplerOptions to_latents;
  to_latents.sampler = "gddim";
  to_latents.nfe = 150;
  to_latents.encode = 1;
  const std::int64_t image_shape[4] = {4, 3, 2, 2};
  psld_tensor images;
  psld_tensor_init(&images, sizeof images);
  images.data = x.data();
  images.ndim = 4;
  images.shape = image_shape;
  psld::RunOptions encoding(4);
  encoding.from_image = &images;
  auto encode = psld::Run::start(model, psld::Sampler::create(model, to_latents), encoding);
  encode.finish();
  const auto latents = encode.read(PSLD_OUTPUT_STATE);
  const std::vector<double> places{0.0, 0.5, 3.0};
  const auto way = model.interpolate(latents, places);
  CHECK((way.shape == std::vector<std::int64_t>{3, 6, 2, 2}));
  psld_tensor starts;
  psld_tensor_init(&starts, sizeof starts);
  starts.data = way.values.data();
  starts.ndim = 4;
  starts.shape = way.shape.data();
  psld::RunOptions decoding(3);
  decoding.init = &starts;
  to_latents.encode = 0;
  auto decode = psld::Run::start(model, psld::Sampler::create(model, to_latents), decoding);
  decode.finish();
  const auto back = decode.read();
  for (std::size_t i = 0; i < 12; i++) {
    CHECK(std::fabs(back.values[i] - x[i]) < 0.02f);
    CHECK(std::fabs(back.values[24 + i] - x[36 + i]) < 0.02f);
  }
  CHECK(thrown([&] { model.interpolate(latents, std::vector<double>{3.5}); }).status() == PSLD_STATUS_INVALID_ARGUMENT);

  // Failures say what and why, and a callback's exception comes out where it was called from.
  auto error = thrown([&] { psld::Sampler::create(model, {{"sampler", "huen"}}); });
  CHECK(error.status() == PSLD_STATUS_INVALID_ARGUMENT && error.hint().find("heun") != std::string::npos);
  CHECK(std::strcmp(error.what(), "unknown sampler `huen`") == 0);
  saved[30] ^= 1;
  CHECK(thrown([&] { psld::Run::load(model, sampler, saved); }).status() == PSLD_STATUS_CHECKPOINT_INVALID);
  CHECK(thrown([&] { model.sample(4, {}, [](const psld_progress &) { return false; }); }).status() ==
        PSLD_STATUS_CANCELLED);
  CHECK(thrown([&] { model.sample(0); }).status() == PSLD_STATUS_INVALID_ARGUMENT);
  CHECK(thrown([&] { psld::Model::load("nowhere.json"); }).status() == PSLD_STATUS_READ_FAILED);
  try {
    model.sample(4, {}, [](const psld_progress &) -> bool { throw std::runtime_error("mine"); });
    CHECK(!"nothing was thrown");
  } catch (const std::runtime_error &e) {
    CHECK(std::strcmp(e.what(), "mine") == 0);
  }

  // A cancel from another thread, and on.
  auto cancel = psld::Cancel::create();
  psld::RunOptions stoppable(2);
  stoppable.cancel = cancel.get();
  auto long_run = psld::Run::start(model, psld::Sampler::create(model, {{"steps", "200"}}), stoppable);
  std::thread([&] { cancel.cancel(); }).join();
  CHECK(thrown([&] {
          for (const auto &p : long_run.steps()) CHECK(p.step < 0);
        }).status() == PSLD_STATUS_CANCELLED);
  long_run.resume();
  CHECK(long_run.finish().done);
}

/* Of a mixture whose classes are its components, -0.6, 0 and 0.6 everywhere. */
static void guide() {
  auto model = psld::Model::load("tests/data/models/labelled.json");
  auto classifier = psld::Model::load("tests/data/models/classifier.json");
  const std::vector<std::int64_t> labels = {0, 1, 2};
  const std::vector<double> scales = {1.0}, two = {1.0, 2.0};
  psld::SamplerOptions how({{"sampler", "sscs"}, {"steps", "30"}});
  for (const char *kind : {"cfg", "classifier"}) {
    how.guidance = kind;
    auto sampler = psld::Sampler::create(model, how);
    psld::RunOptions what(3);
    what.guided(labels, scales, std::strcmp(kind, "cfg") ? classifier.get() : nullptr);
    auto start = psld::Run::start(model, sampler, what);
    start.step(10);
    auto run = psld::Run::load(model, sampler, start.save(), what.guide ? &classifier : nullptr);
    CHECK(run.finish().done && start.finish().done);
    auto images = run.read();
    CHECK(images.values == start.read().values);
    for (int i = 0; i < 3; i++) {
      float mean = 0;
      for (int j = 0; j < 16; j++) mean += images.values[16 * i + j] / 16;
      CHECK(std::fabs(mean - 0.6 * (i - 1)) < 0.2);
    }
    what.guided(labels, two, what.guide);
    CHECK(thrown([&] { psld::Run::start(model, sampler, what); }).status() == PSLD_STATUS_INVALID_ARGUMENT);
  }
}

int main(int argc, char **argv) {
  if (argc < 2) return 1;
  run(argv[1]);
  guide();
  if (int failed = elsewhere(argv[1])) return failed;
  return psld_debug_live_handles() == 0 ? 0 : 5;
}
