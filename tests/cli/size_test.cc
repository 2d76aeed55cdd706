// Sizes: every unit, every way to write one wrong, and back to text.
#include "fs/cli/size.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <utility>

namespace btd::cli {
namespace {

TEST(ParseSize, TakesWholeNumbersWithUnits) {
  const std::pair<const char*, std::uint64_t> cases[] = {
      {"0", 0},
      {"4096", 4096},
      {"17B", 17},
      {"1K", 1024},
      {"1KiB", 1024},
      {"512M", 512ULL << 20},
      {"512MiB", 512ULL << 20},
      {"1G", 1ULL << 30},
      {"3GiB", 3ULL << 30},
      {"2T", 2ULL << 40},
      {"2TiB", 2ULL << 40},
      {"7kB", 7'000},
      {"7MB", 7'000'000},
      {"7GB", 7'000'000'000},
      {"7TB", 7'000'000'000'000},
      {"9223372036854775807", 9223372036854775807ULL},
      {"007", 7},
  };
  for (const auto& [text, bytes] : cases) {
    const auto parsed = parse_size(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(ParseSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", " ", "G", "-1", "+1", "1.5G", "1 G", "1g", "1m", "1k", "1GB ", " 1G",
                           "1Gi", "1KB", "0x10", "1e9", "12monkeys", "1G1", "１G"}) {
    const auto parsed = parse_size(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, EINVAL) << text;
    EXPECT_EQ(parsed.error().message,
              std::string("'") + text +
                  "' is no size; write a whole number of bytes, or one with K, M, G or T, such as "
                  "512M");
  }
}

TEST(ParseSize, RefusesWhatNoFileCanHold) {
  for (const char* text : {"9223372036854775808", "18446744073709551616", "8388608T",
                           "99999999999999999999999G", "9223372036854775807K"}) {
    const auto parsed = parse_size(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ERANGE) << text;
  }
}

TEST(ParseSize, NumbersComeBackFromTheirText) {
  for (std::uint64_t number = 0; number < 1'000'000; number += 37)
    ASSERT_EQ(*parse_size(std::to_string(number) + "MiB"), number << 20);
}

TEST(FormatSize, ShowsThreeDigits) {
  const std::pair<std::uint64_t, const char*> cases[] = {
      {0, "0 B"},
      {7, "7 B"},
      {999, "999 B"},
      {1000, "0.98 KiB"},
      {1024, "1.00 KiB"},
      {1536, "1.50 KiB"},
      {10 * 1024, "10.0 KiB"},
      {100 * 1024, "100 KiB"},
      {1ULL << 20, "1.00 MiB"},
      {(1ULL << 20) - 1, "1.00 MiB"},
      {3ULL << 30, "3.00 GiB"},
      {1ULL << 40, "1.00 TiB"},
      {~0ULL, "16.0 EiB"},
  };
  for (const auto& [bytes, text] : cases) EXPECT_EQ(format_size(bytes), text) << bytes;
}

}  // namespace
}  // namespace btd::cli
