// Random input to every parser: no crash, no undefined behaviour, and every refusal has a sentence.
// The seed is fixed, so that a failure can be repeated.
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>
#include <string_view>

#include "fs/cli/config.h"
#include "fs/cli/mount_args.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/size.h"

namespace btd::cli {
namespace {

constexpr int kRounds = 20'000;

class Source {
 public:
  explicit Source(unsigned seed) : random_(seed) {}

  std::size_t below(std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_);
  }

  // Words of the language with bytes in between, so that parsers get past their first check.
  template <std::size_t N>
  std::string text(const std::array<std::string_view, N>& words, std::size_t most) {
    std::string out;
    for (std::size_t left = below(most + 1); left > 0; --left) {
      if (below(4) == 0) {
        out += static_cast<char>(below(256));
      } else {
        out += words[below(N)];
      }
    }
    return out;
  }

 private:
  std::mt19937 random_;
};

TEST(Fuzz, Sizes) {
  constexpr std::array<std::string_view, 12> kWords = {
      "0", "1", "9", "18446744073709551615", "K", "G", "iB", "B", "T", "-", " ", "."};
  Source source(1);
  for (int i = 0; i < kRounds; ++i) {
    const std::string text = source.text(kWords, 5);
    const auto size = parse_size(text);
    if (size) {
      EXPECT_LE(*size, static_cast<std::uint64_t>(INT64_MAX)) << text;
    } else {
      EXPECT_FALSE(size.error().message.empty()) << text;
    }
  }
}

TEST(Fuzz, SizesComeBackFromTheirText) {
  Source source(2);
  for (int i = 0; i < kRounds; ++i) {
    const std::uint64_t number = source.below(1'000'000);
    EXPECT_EQ(*parse_size(std::to_string(number) + "MiB"), number << 20);
  }
}

TEST(Fuzz, MountOptions) {
  constexpr std::array<std::string_view, 14> kWords = {
      ",",     ",",  "=", "no", "threads", "io_uring", "log_level",
      "debug", "-1", "7", "ro", "noatime", "x-",       "99999999999999999999"};
  Source source(3);
  for (int i = 0; i < kRounds; ++i) {
    const std::string text = source.text(kWords, 8);
    MountOptions options;
    if (const Status applied = apply_mount_options(text, Unknown::kRefuse, options); !applied) {
      EXPECT_FALSE(applied.error().message.empty()) << text;
    }
    EXPECT_LE(options.threads, 256U) << text;
    EXPECT_GE(options.spin_us, -1) << text;
  }
}

TEST(Fuzz, Configuration) {
  constexpr std::array<std::string_view, 18> kWords = {
      "[mount]\n", "[format]\n", "\n", " = ", "threads", "size", "options",    "\"1G\"", "true",
      "7",         "[",          "]",  "\"",  "'''",     "{",    "1979-05-27", "pool",   "#"};
  Source source(4);
  for (int i = 0; i < kRounds; ++i) {
    const std::string text = source.text(kWords, 10);
    const auto config = parse_config(text, "fuzz");
    if (!config) {
      EXPECT_TRUE(config.error().message.starts_with("fuzz:")) << text;
    }
  }
}

TEST(Fuzz, MountInfo) {
  constexpr std::array<std::string_view, 10> kWords = {
      "1 2 3:4 / /mnt rw", " ", "-", "\n", "fuse.bartender", "\\040", "\\0", "\\", "/", " - a b c"};
  Source source(5);
  for (int i = 0; i < kRounds; ++i) {
    const auto mounts = parse_mountinfo(source.text(kWords, 12));
    const auto chosen = choose_mount(mounts, "/mnt/x");
    if (!chosen) {
      EXPECT_FALSE(chosen.error().message.empty());
    }
  }
}

}  // namespace
}  // namespace btd::cli
