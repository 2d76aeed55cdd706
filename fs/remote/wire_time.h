// Times as they travel: nanoseconds since the epoch; those out of their range are its end.
#pragma once

#include <cstdint>
#include <ctime>
#include <limits>

namespace btd::remote::wire {

inline constexpr std::int64_t kSecond = 1'000'000'000;

[[nodiscard]] inline std::int64_t nanoseconds_of(const timespec& time) {
  std::int64_t ns = 0;
  if (!__builtin_mul_overflow(std::int64_t{time.tv_sec}, kSecond, &ns) &&
      !__builtin_add_overflow(ns, std::int64_t{time.tv_nsec}, &ns))
    return ns;
  return time.tv_sec < 0 ? std::numeric_limits<std::int64_t>::min()
                         : std::numeric_limits<std::int64_t>::max();
}

[[nodiscard]] inline timespec timespec_of(std::int64_t ns) {
  timespec time{.tv_sec = ns / kSecond, .tv_nsec = ns % kSecond};
  if (time.tv_nsec < 0) {
    --time.tv_sec;
    time.tv_nsec += kSecond;
  }
  return time;
}

}  // namespace btd::remote::wire
