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
  return 0;
}
