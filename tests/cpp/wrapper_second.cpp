// psld.hpp without exceptions, from the second translation unit: both modes live in one program.
#define PSLD_NO_EXCEPTIONS
#include <psld.hpp>

int elsewhere(const char *path) {
  auto missing = psld::Model::load("nowhere.json");
  if (missing || missing.error().status() != PSLD_STATUS_READ_FAILED) return 11;
  auto model = psld::Model::load(path);
  if (!model) return 12;
  auto sampler = psld::Sampler::create(*model, {{"steps", "5"}});
  if (!sampler || sampler->hash()->size() != 64) return 13;
  auto run = psld::Run::start(*model, *sampler, psld::RunOptions(2));
  if (!run) return 14;
  auto steps = run->steps();
  int count = 0;
  for (const auto &p : steps) count += p.step > 0;
  if (count != 6 || steps.error()) return 15;
  auto samples = run->read();
  if (!samples || samples->values.size() != 24) return 16;
  auto again = model->sample(2, {{"steps", "5"}}, [](const psld_progress &) { return true; });
  if (!again || again->values != samples->values) return 17;
  if (run->read(PSLD_OUTPUT_X0)) return 18;
  auto stopped = model->sample(2, {}, [](const psld_progress &) { return false; });
  if (stopped || stopped.error().status() != PSLD_STATUS_CANCELLED) return 19;
  auto cancel = psld::Cancel::create();
  if (!cancel || !run->resume(0.0, &*cancel)) return 20;

  auto engine = psld::Engine::create(*model);
  if (!engine) return 21;
  auto ticket = engine->submit(*sampler, psld::RunOptions(2));
  if (!ticket) return 22;
  auto end = ticket->wait();
  if (!end || !end->done || ticket->progress()->nfe != 6) return 23;
  auto served = ticket->read();
  if (!served || served->values != samples->values) return 24;
  if (engine->stats_json()->find("\"completed\":1") == std::string::npos) return 25;
  auto none = psld::Ticket().wait();
  if (none || none.error().status() != PSLD_STATUS_NULL_POINTER) return 26;

  // A network of one's own that fails.
  const std::string spec = R"({"format": 1, "process": {"kind": "vp"}, "data": {"shape": [4]},
                               "network": {"prediction": "epsilon", "label_input": "y", "classes": 2}})";
  int calls = 0;
  auto own = psld::Model::create(
      [&](const auto &e) -> psld::Outcome<void> {
        for (auto &x : e.out) x = 0;
        if (e.labels.size() != 2 || e.labels[0] != 2) return psld::Error(0, "no null class");
        if (++calls > 3) return psld::Error(0, "no more");
        return {};
      },
      spec, "own");
  if (!own) return 27;
  auto few = own->sample(2, {{"steps", "2"}}), more = own->sample(2, {{"steps", "2"}});
  if (!few || more || more.error().message().find("returned 1: no more") == std::string::npos) return 28;
  auto plain = psld::Model::create([](const auto &e) { for (auto &x : e.out) x = 0; }, spec, "plain");
  psld::Array<float> images{std::vector<float>(8), {2, 4}};
  auto bits = plain->likelihood(images);
  if (!bits || bits->bits.size() != 2 || plain->likelihood(images, 0)) return 29;
  return 0;
}
