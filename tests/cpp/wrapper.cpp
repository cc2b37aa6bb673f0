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
static_assert(!std::is_copy_constructible_v<psld::Engine> && std::is_nothrow_move_constructible_v<psld::Engine>);
static_assert(!std::is_copy_assignable_v<psld::Ticket> && std::is_nothrow_move_assignable_v<psld::Ticket>);

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

/* Many callers on one network. */
static void serve(const char *path) {
  auto model = psld::Model::load(path);
  psld::EngineOptions options;
  options.max_batch = 5;
  options.queue = 3;
  auto engine = psld::Engine::create(model, options);
  auto sampler = psld::Sampler::create(model, {{"sampler", "sscs"}, {"nfe", "20"}});
  auto slow = psld::Sampler::create(model, {{"sampler", "em"}, {"steps", "20000"}});
  std::vector<std::thread> callers;
  for (std::int64_t n = 1; n <= 3; n++) {
    callers.emplace_back([&, n] {
      psld::RunOptions what(n);
      what.seed = static_cast<std::uint64_t>(10 * n);
      auto ticket = engine.submit(sampler, what, 1);
      const auto end = ticket.wait();
      CHECK(end.done && end.nfe == 20 && end.samples_done == n && ticket.progress().done);
      CHECK((ticket.shape(PSLD_OUTPUT_STATE) == std::vector<std::int64_t>{n, 6, 2, 2}));
      const auto samples = ticket.read();
      CHECK((samples.shape == std::vector<std::int64_t>{n, 3, 2, 2}));
      const std::string seed = std::to_string(10 * n);
      CHECK(samples.values == model.sample(n, {{"sampler", "sscs"}, {"nfe", "20"}, {"seed", seed.c_str()}}).values);
      std::vector<double> wide(samples.values.size());
      ticket.read_into<double>(wide);
      CHECK(static_cast<float>(wide.back()) == samples.values.back());
      CHECK(ticket.provenance_json().find("\"plan\"") != std::string::npos);
    });
  }
  for (auto &caller : callers) caller.join();
  CHECK(engine.stats_json().find("\"completed\":3,\"failed\":0") != std::string::npos);

  // A wait that ends before the request; an estimate meanwhile; a cancel; a place for the next.
  psld::RunOptions what(2);
  what.previews = 1;
  std::vector<psld::Ticket> tickets;
  for (int i = 0; i < 3; i++) tickets.push_back(engine.submit(slow, what));
  CHECK(thrown([&] { engine.submit(slow); }).status() == PSLD_STATUS_QUEUE_FULL);
  CHECK(tickets[0].id() + 1 == tickets[1].id());
  while (tickets[0].progress().nfe == 0) CHECK(!tickets[0].wait(std::chrono::milliseconds(1)).done);
  CHECK(tickets[0].read(PSLD_OUTPUT_X0).values.size() == 24 && tickets[0].progress().samples_done == 0);
  CHECK(thrown([&] { tickets[0].read(); }).status() == PSLD_STATUS_RUN_STATE);
  CHECK(thrown([&] { tickets[0].wait(-1.0); }).status() == PSLD_STATUS_INVALID_ARGUMENT);
  tickets[0].cancel();
  CHECK(thrown([&] { tickets[0].wait(); }).status() == PSLD_STATUS_CANCELLED);
  CHECK(tickets[0].progress().nfe > 0 && !tickets[0].progress().done);
  tickets[2] = engine.submit(sampler, what);
  CHECK(tickets[2].wait(60.0).done);
  psld::RunOptions late(1);
  late.deadline_seconds = 0.01;
  late.anytime = 1;
  psld::Ticket partial = engine.submit(slow, late);
  CHECK(thrown([&] { partial.wait(); }).status() == PSLD_STATUS_PARTIAL && partial.read(PSLD_OUTPUT_X0).values.size() == 12);

  // Moved, closed at work, and read afterwards.
  psld::Engine moved = std::move(engine);
  CHECK(!engine && thrown([&] { engine.submit(sampler); }).status() == PSLD_STATUS_NULL_POINTER);
  CHECK(thrown([&] { psld::Ticket().progress(); }).status() == PSLD_STATUS_NULL_POINTER);
  tickets[0] = moved.submit(sampler, what);
  { psld::Engine freed = std::move(moved); }
  CHECK(tickets[0].wait().done && !tickets[1].progress().done); // Its tickets keep it at work.
  moved = psld::Engine::create(model, options);
  tickets[1] = moved.submit(slow, what);
  moved.close();
  CHECK(thrown([&] { moved.submit(sampler); }).status() == PSLD_STATUS_CANCELLED);
  CHECK(thrown([&] { tickets[1].wait(); }).status() == PSLD_STATUS_CANCELLED && tickets[2].read().values.size() == 24);
  options.max_batch = -1;
  CHECK(thrown([&] { psld::Engine::create(model, options); }).status() == PSLD_STATUS_INVALID_ARGUMENT);
}

/* The exact network of unit normal data along VP, eps = sigma(t) z, as a function. */
static void own_network() {
  const std::string spec =
      R"({"format": 1, "process": {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}, "data": {"shape": [4]},
          "network": {"prediction": "epsilon"}})";
  auto calls = std::make_shared<int>(0);
  std::weak_ptr<int> alive = calls;
  const auto normal = [calls](const auto &e) {
    CHECK(e.z.size() == 4 * static_cast<std::size_t>(e.n) && e.labels.size() == 0 && e.out.size() == e.z.size());
    if (++*calls < 0) throw std::runtime_error("mine");
    for (std::size_t i = 0; i < e.z.size(); i++) {
      const double t = e.t[i / 4], sigma = std::sqrt(-std::expm1(-(0.1 * t + 0.5 * 19.9 * t * t)));
      e.out[i] = static_cast<std::decay_t<decltype(e.out[i])>>(sigma * e.z[i]);
    }
  };
  {
    auto model = psld::Model::create(normal, spec, "normal");
    const psld::SamplerOptions heun = {{"sampler", "heun"}, {"steps", "10"}};
    const auto wide = model.sample<double>(3, heun), narrow = psld::Model::create(normal, spec, "x").sample<double>(3, heun);
    CHECK(*calls == 42 && wide.values == narrow.values);
    const std::string exact = R"({"psld.spec": )" + spec +
                              R"(, "mixture": {"weights": [1], "means": [[0, 0, 0, 0]], "variances": [1]}})";
    const auto same = psld::Model::load_memory(psld::View<const unsigned char>(
        reinterpret_cast<const unsigned char *>(exact.data()), exact.size()));
    const auto known = same.sample<double>(3, heun);
    bool rounded = true;
    for (std::size_t i = 0; i < 12; i++) {
      CHECK(std::fabs(known.values[i] - wide.values[i]) < 1e-12);
      rounded = rounded && known.values[i] == static_cast<double>(static_cast<float>(known.values[i]));
    }
    CHECK(!rounded); /* Not what a state in single precision gives. */

    // -log2 of the density, a dimension.
    psld::Array<double> images{{0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 1.0, 0.5}, {2, 4}};
    psld::RunOptions precise;
    precise.precision = PSLD_DTYPE_F64;
    const auto found = model.likelihood(images, 4, false, {{"nfe", "100"}}, precise);
    CHECK(found.bits.size() == 2 && found.errors.size() == 2 && model.likelihood(images, 1, true).errors.empty());
    const double squares[2] = {0.0, 3.25};
    for (int i = 0; i < 2; i++)
      CHECK(std::fabs(found.bits[i] - (std::log(2 * 3.14159265358979) / 2 + squares[i] / 8) / std::log(2.0)) < 0.02);
    CHECK(thrown([&] { model.likelihood(psld::Array<float>()); }).status() == PSLD_STATUS_INVALID_ARGUMENT);
    CHECK(thrown([&] { model.likelihood(images, 1, false, {}, precise, [](const psld_progress &) { return false; }); })
              .status() == PSLD_STATUS_CANCELLED);

    // What it throws comes out of the call that stepped, as it is; and the model is as before.
    auto sampler = psld::Sampler::create(model, heun);
    auto stepped = psld::Run::start(model, sampler, psld::RunOptions(2)), range = psld::Run::start(model, sampler);
    const std::function<void()> all[] = {[&] { model.sample(2, heun); }, [&] { stepped.step(); },
                                         [&] { for (const auto &p : range.steps()) CHECK(p.step < 0); },
                                         [&] { model.likelihood(images); }};
    *calls = -1000;
    for (const auto &one : all) {
      try {
        one();
        CHECK(!"nothing was thrown");
      } catch (const std::runtime_error &e) {
        CHECK(std::strcmp(e.what(), "mine") == 0);
      }
    }
    // On the engine's thread, for who waits elsewhere.
    auto engine = psld::Engine::create(model);
    auto ticket = engine.submit(sampler);
    const auto error = thrown([&] { ticket.wait(); });
    CHECK(error.status() == PSLD_STATUS_RUNTIME_FAILURE && error.message().find(": mine") != std::string::npos);
    *calls = 0;
    CHECK(model.sample<double>(3, heun).values == wide.values && engine.submit(sampler).wait().done);
    psld_model *raw = model.get();
    *calls = -1000;
    psld_error *err = nullptr;
    float x[4];
    psld_run_options one = psld::RunOptions(1);
    CHECK(psld_sample(raw, sampler.get(), &one, PSLD_OUTPUT_DATA, PSLD_DTYPE_F32, x, 4, nullptr, nullptr, &err) ==
          PSLD_STATUS_RUNTIME_FAILURE);
    psld_error_free(err);
    // What a C call left behind is not taken for a later failure's.
    CHECK(thrown([&] { psld::Model::load("nowhere.json"); }).status() == PSLD_STATUS_READ_FAILED);
    *calls = 0;
  }
  // Precisions that it does not have; long texts; and no network outlives its model.
  auto narrow = psld::Model::create([](const psld::Evaluation<float> &e) { for (float &x : e.out) x = 0; }, spec, "narrow");
  CHECK(narrow.sample(1).values.size() == 4);
  psld::RunOptions wide;
  wide.precision = PSLD_DTYPE_F64;
  auto refused = psld::Run::start(narrow, psld::Sampler::create(narrow), wide);
  CHECK(thrown([&] { refused.step(); }).message().find("single precision only") != std::string::npos);
  auto odd = psld::Model::create([](const auto &) { throw 7; }, spec, "odd");
  try {
    odd.sample(1);
    CHECK(!"nothing was thrown");
  } catch (int seven) {
    CHECK(seven == 7);
  }
  auto wordy = psld::Model::create([](const auto &) { throw std::runtime_error(std::string(5000, 'x')); }, spec, "wordy");
  auto engine = psld::Engine::create(wordy);
  auto ticket = engine.submit(psld::Sampler::create(wordy));
  CHECK(thrown([&] { ticket.wait(); }).message().size() < 1200);
  CHECK(thrown([&] { psld::Model::create(normal, "{}", "x"); }).status() == PSLD_STATUS_SPEC_INVALID);
  CHECK(calls.use_count() == 2);
  calls.reset();
  CHECK(alive.use_count() == 1);
}

int main(int argc, char **argv) {
  if (argc < 2) return 1;
  run(argv[1]);
  guide();
  serve(argv[1]);
  own_network();
  if (int failed = elsewhere(argv[1])) return failed;
  return psld_debug_live_handles() == 0 ? 0 : 5;
}
