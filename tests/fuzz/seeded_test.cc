// A short run of every fuzz target with any compiler: its seeds, what once did harm, and both with
// seeded damage. A failure says which run it was.
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "tests/fuzz/target.h"

namespace btd::fuzz {
namespace {

using Random = std::mt19937_64;

constexpr int kMostRuns = 20'000;
constexpr std::chrono::seconds kMostTime(3);  // of a target

// As libFuzzer does it: bits, bytes, words of the language, pieces lost and repeated.
void damage(Random& random, const Target& target, std::string& input) {
  const auto place = [&] { return random() % (input.size() + 1); };
  switch (random() % 6) {
    case 0:
      if (!input.empty()) {
        char& byte = input[random() % input.size()];
        byte = static_cast<char>(byte ^ (1 << random() % 8));
      }
      break;
    case 1:
      if (!input.empty()) input[random() % input.size()] = static_cast<char>(random());
      break;
    case 2:
      input.erase(place(), random() % 16);
      break;
    case 3:
      input.insert(place(), input.substr(place(), random() % 64));
      break;
    case 4:
      if (random() % 4 == 0) input.resize(place());
      break;
    default:
      if (!target.words.empty())
        input.insert(place(), target.words[random() % target.words.size()]);
  }
  if (input.size() > target.most_bytes) input.resize(target.most_bytes);
}

class Seeded : public testing::TestWithParam<std::string> {
 protected:
  const Target& target_ = *find_target(GetParam());
};

TEST_P(Seeded, BearsItsSeedsAndWhatOnceDidHarm) {
  ASSERT_FALSE(target_.seeds.empty());
  for (const std::string& input : target_.seeds) target_.run(input_of(input));
  for (const std::string& input : regressions(GetParam())) target_.run(input_of(input));
}

TEST_P(Seeded, BearsDamage) {
  const auto until = std::chrono::steady_clock::now() + kMostTime;
  int runs = 0;
  for (; runs < kMostRuns && std::chrono::steady_clock::now() < until; ++runs) {
    SCOPED_TRACE(runs);
    Random random(static_cast<std::uint64_t>(runs));
    std::string input = random() % 16 == 0 ? "" : target_.seeds[random() % target_.seeds.size()];
    for (std::uint64_t left = random() % 6; left > 0; --left) damage(random, target_, input);
    target_.run(input_of(input));
  }
  EXPECT_GT(runs, 20);
}

INSTANTIATE_TEST_SUITE_P(Fuzz, Seeded, testing::ValuesIn(target_names()),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace btd::fuzz
