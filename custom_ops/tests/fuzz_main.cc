// What libFuzzer does, without guidance, for compilers that do not have it:
//
//   program FILE|FOLDER...                     runs these inputs
//   program --random COUNT SEED FOLDER...      and COUNT more: random bytes, and those inputs changed
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Input = std::vector<std::uint8_t>;

void read(const std::filesystem::path& path, std::vector<Input>* inputs) {
  if (std::filesystem::is_directory(path)) {
    for (const auto& entry : std::filesystem::directory_iterator(path)) read(entry.path(), inputs);
    return;
  }
  std::ifstream file(path, std::ios::binary);
  inputs->emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

Input drawn(const std::vector<Input>& known, std::mt19937_64& random) {
  const auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % end); };
  Input input;
  if (!known.empty() && below(4) != 0) input = known[below(known.size())];
  if (input.empty()) input.resize(1 + below(200));
  if (known.empty() || below(4) == 0) {
    for (std::uint8_t& b : input) b = static_cast<std::uint8_t>(random());
  }
  for (std::size_t changes = 1 + below(8); changes > 0; --changes) {
    input[below(input.size())] = static_cast<std::uint8_t>(random());
  }
  if (below(4) == 0) input.erase(input.begin() + static_cast<std::ptrdiff_t>(below(input.size())));
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Input> inputs;
  std::size_t count = 0;
  std::mt19937_64 random(0);
  int first = 1;
  if (argc > 3 && std::strcmp(argv[1], "--random") == 0) {
    count = std::strtoull(argv[2], nullptr, 10);
    random.seed(std::strtoull(argv[3], nullptr, 10));
    first = 4;
  }
  for (int i = first; i < argc; ++i) read(argv[i], &inputs);
  for (const Input& input : inputs) LLVMFuzzerTestOneInput(input.data(), input.size());
  for (std::size_t i = 0; i < count; ++i) {
    const Input input = drawn(inputs, random);
    if (FILE* last =
            std::getenv("GN_LAST_INPUT") != nullptr ? std::fopen(std::getenv("GN_LAST_INPUT"), "wb") : nullptr) {
      std::fwrite(input.data(), 1, input.size(), last);
      std::fclose(last);
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%zu known inputs, %zu drawn\n", inputs.size(), count);
  return 0;
}
