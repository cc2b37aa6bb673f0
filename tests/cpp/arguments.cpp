// psld.hpp keeps what it is given as long as it needs it, and passes values on as what they are.
#include <psld.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                           \
    }                                                                         \
  } while (0)

template <class F> static psld::Error thrown(F &&f) {
  try {
    f();
  } catch (const psld::Error &error) {
    return error;
  }
  return psld::Error(0, "nothing was thrown");
}

/* Memory that is taken up again at once, where it was freed. */
static void churn() {
  for (int i = 0; i < 64; i++) std::vector<double> other(static_cast<std::size_t>(i % 8 + 1), -77.0);
}

static psld::RunOptions options_of_a_function(std::int64_t n) {
  std::vector<std::int64_t> classes(static_cast<std::size_t>(n), 1);
  const double weights[] = {1.5};
  psld::RunOptions options(n);
  options.guided(classes, psld::View<const double>(weights, 1));
  return options;
}

static void temporaries() {
  const auto model = psld::Model::load("tests/data/models/labelled.json");
  psld::SamplerOptions how;
  how.sampler = "em";
  how.nfe = 8;
  how.guidance = "cfg";
  const auto sampler = psld::Sampler::create(model, how);
  const auto sample = [&](const psld::RunOptions &options) {
    churn();
    auto run = psld::Run::start(model, sampler, options);
    run.finish();
    return run.read().values;
  };
  const std::vector<std::int64_t> classes = {1};
  const std::vector<double> weights = {1.5};
  psld::RunOptions lasting(4);
  lasting.guided(classes, weights);
  const auto expected = sample(lasting);

  psld::RunOptions options(4);
  options.guided(std::vector<std::int64_t>{1}, std::vector<double>{1.5});
  CHECK(sample(options) == expected);
  CHECK(sample(options_of_a_function(4)) == expected);
  /* Copied, moved, and set anew. */
  auto other = std::make_unique<psld::RunOptions>(4);
  other->guided(std::vector<std::int64_t>(4, 1), std::vector<double>(4, 1.5));
  psld::RunOptions copy = *other, assigned;
  assigned = *other;
  psld::RunOptions moved = std::move(*other);
  other.reset();
  CHECK(sample(copy) == expected && sample(assigned) == expected && sample(moved) == expected);
  copy.guided(std::vector<std::int64_t>{2}, std::vector<double>{0.5});
  CHECK(sample(copy) != expected && sample(moved) == expected);
  /* Pairs of a function, too. */
  psld::SamplerOptions pairs;
  {
    const std::string steps = std::to_string(7);
    pairs = psld::SamplerOptions{{"sampler", "em"}, {"steps", steps.c_str()}};
  }
  churn();
  CHECK(psld::Sampler::create(model, pairs).plan_json().find("\"nfe\":8") != std::string::npos);
}

static void values() {
  const auto model = psld::Model::load("tests/data/capi/mixture.json");
  const auto refusal = [&](const char *value) {
    const psld::Error error = thrown([&] { psld::Sampler::create(model, {{"sampler", value}, {"nfe", "5"}}); });
    CHECK(error.status() != 0);
    return error.message();
  };
  /* No JSON: names that there are not, and not a torn document. */
  for (const char *value : {"2.5d", "1e", "0-9", "007", "+1", "inf", "1.", "-", "-inf", ".5", "1e+", "0x10", "nan", "[1", "[1,]",
                            "{\"a\" 1}", "truex", "nul", "em\n", "\"em", "a\\", "a\"b", "1 2", "[1]]", "\t\x01"}) {
    const std::string said = refusal(value);
    if (said.find("sampler") == std::string::npos || said.find("JSON") != std::string::npos) {
      std::fprintf(stderr, "%s: %s\n", value, said.c_str());
      std::exit(1);
    }
  }
  /* JSON: numbers, truth values, null, strings, arrays, objects, with white space. */
  using Pairs = std::initializer_list<std::pair<const char *, const char *>>;
  for (const Pairs &pairs : {Pairs{{"sampler", "\"em\""}, {"nfe", " 5 "}}, Pairs{{"sampler", "em"}, {"time_grid", "[1.0, 5e-1, 1E-3]"}},
                             Pairs{{"sampler", "em"}, {"nfe", "5"}, {"t_start", "0.9"}, {"denoise", "false"}},
                             Pairs{{"sampler", "e\\u006d"}}}) {
    const bool escaped = std::string(pairs.begin()->second).find('\\') != std::string::npos;
    const psld::Error error = thrown([&] { psld::Sampler::create(model, pairs); });
    /* A backslash outside of a string of JSON is itself. */
    CHECK((error.status() != 0) == escaped);
  }

  /* What C would read up to the NUL in it. */
  const std::string path("tests/data/capi/mixture.json\0.bak", 33);
  CHECK(thrown([&] { psld::Model::load(path); }).message() == "path has a NUL in it");
  CHECK(thrown([&] { psld::Sampler::from_plan(model, std::string("{}\0", 3)); }).status() == PSLD_STATUS_INVALID_ARGUMENT);
  const auto network = [](const auto &) {};
  CHECK(thrown([&] { psld::Model::create(network, "{}", std::string("a\0b", 3)); }).message() == "name has a NUL in it");
  CHECK(thrown([&] { psld::Model::create(network, std::string("{\0}", 3), "a"); }).message() == "spec_json has a NUL in it");
  /* And what is no UTF-8. */
  const psld::Error error = thrown([&] { psld::Model::load("tests/\xff.json"); });
  CHECK(error.status() == PSLD_STATUS_INVALID_UTF8 && error.message().find("path is not UTF-8") == 0);
}

int main() {
  temporaries();
  values();
  CHECK(psld_debug_live_handles() == 0);
  return 0;
}
