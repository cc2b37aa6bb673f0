// c++ -std=c++17 serve.cpp -lpsld -pthread -o serve && ./serve model.onnx
#include <psld.hpp>
#include <iostream>

int main(int argc, char **argv) try {
  auto model = psld::Model::load(argc > 1 ? argv[1] : "model.onnx");
  auto sampler = psld::Sampler::create(model, {{"sampler", "sscs"}, {"nfe", "50"}});
  auto engine = psld::Engine::create(model);
  std::vector<psld::Ticket> tickets; // from any thread, at any time
  for (int n = 1; n <= 4; n++) tickets.push_back(engine.submit(sampler, psld::RunOptions(n)));
  for (auto &ticket : tickets) {
    auto end = ticket.wait(); // throws what the request failed with
    std::cout << ticket.read<float>().shape[0] << " samples in " << end.nfe << " network calls\n";
  }
  std::cout << engine.stats_json() << "\n";
} catch (const psld::Error &e) {
  std::cerr << e.what() << "\n" << e.hint() << "\n";
  return 1;
}
