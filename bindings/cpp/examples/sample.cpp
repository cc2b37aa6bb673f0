// c++ -std=c++17 sample.cpp -lpsld -o sample && ./sample model.onnx
#include <psld.hpp>
#include <iostream>

int main(int argc, char **argv) try {
  auto model = psld::Model::load(argc > 1 ? argv[1] : "model.onnx");
  auto sampler = psld::Sampler::create(model, {{"sampler", "sscs"}, {"nfe", "50"}, {"seed", "7"}});
  auto run = psld::Run::start(model, sampler, psld::RunOptions(16));
  for (const auto &p : run.steps()) std::cerr << "step " << p.step << " of " << p.of << "\r";
  auto samples = run.read<float>();
  for (std::size_t i = 0; i < samples.values.size(); i += samples.values.size() / 16)
    std::cout << samples.values[i] << "\n";
} catch (const psld::Error &e) {
  std::cerr << e.what() << "\n" << e.hint() << "\n";
  return 1;
}
