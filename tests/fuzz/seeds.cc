// fuzz_seeds DIRECTORY TARGET: what a fuzzer begins with: DIRECTORY/seeds/ with a file for each,
// and DIRECTORY/words, its dictionary. Prints the most bytes that the target takes. Without
// arguments it prints the names of all targets.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/fuzz/target.h"

namespace {

void write(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  btd::fuzz::check(file.good());
}

std::string dictionary(const btd::fuzz::Target& target) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::string& word : target.words) {
    text += '"';
    for (const char c : word) {
      const auto byte = static_cast<unsigned char>(c);
      text += {'\\', 'x', kDigits[byte / 16U], kDigits[byte % 16U]};
    }
    text += "\"\n";
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 1) {
    for (const std::string& name : btd::fuzz::target_names()) std::puts(name.c_str());
    return 0;
  }
  const auto* const target = argc == 3 ? btd::fuzz::find_target(argv[2]) : nullptr;
  if (target == nullptr) {
    std::fputs("usage: fuzz_seeds [DIRECTORY TARGET]\n", stderr);
    return 64;
  }
  const std::filesystem::path directory = argv[1];
  std::filesystem::create_directories(directory / "seeds");
  std::size_t number = 0;
  for (const std::string& seed : target->seeds)
    write(directory / "seeds" / std::to_string(number++), seed);
  for (const std::string& input : btd::fuzz::regressions(argv[2]))
    write(directory / "seeds" / std::to_string(number++), input);
  write(directory / "words", dictionary(*target));
  std::printf("%zu\n", target->most_bytes);
}
