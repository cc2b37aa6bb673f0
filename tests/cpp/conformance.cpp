// One case of tests/conformance.json through psld.hpp: MODEL SAMPLER_JSON N SEED PRECISION OUTPUT FORM. Prints the hash of
// the result, or with FORM "values" its values, or the status and the message.
#include <psld.hpp>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

template <class T> static void print(const psld::Array<T> &out, bool values) {
  if (values) {
    for (T value : out.values) std::printf("%.9g\n", double(value));
    return;
  }
  std::uint64_t hash = 0xcbf29ce484222325u;
  auto bytes = reinterpret_cast<const unsigned char *>(out.values.data());
  for (std::size_t i = 0; i < out.values.size() * sizeof(T); i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  std::printf("%016" PRIx64 "\n", hash);
}

static void run(char **argv) {
  const psld::Model model = psld::Model::load(argv[1]);
  psld::SamplerOptions how;
  how.options_json = argv[2];
  const psld::Sampler sampler = psld::Sampler::create(model, how);
  psld::RunOptions what(std::stoll(argv[3]));
  what.seed = std::stoull(argv[4]);
  const bool f64 = std::strcmp(argv[5], "f64") == 0;
  what.precision = f64 ? PSLD_DTYPE_F64 : PSLD_DTYPE_F32;
  const std::int32_t output = std::strcmp(argv[6], "state") ? PSLD_OUTPUT_DATA : PSLD_OUTPUT_STATE;
  psld::Run run = psld::Run::start(model, sampler, what);
  run.finish();
  const bool values = std::strcmp(argv[7], "values") == 0;
  if (f64) print(run.read<double>(output), values);
  else print(run.read<float>(output), values);
}

int main(int argc, char **argv) {
  if (argc != 8) return 1;
  try {
    run(argv);
  } catch (const psld::Error &e) {
    std::printf("%" PRId32 " %s\n", e.status(), e.what());
  }
  return psld_debug_live_handles() == 0 ? 0 : 2;
}
