#include "net/random.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <random>

namespace btd::net {

namespace {

bool draw(std::uint64_t& number) {
  ssize_t size = 0;
  do {
    size = ::getrandom(&number, sizeof(number), 0);
  } while (size < 0 && errno == EINTR);
  return size == sizeof(number);
}

}  // namespace

Result<Random> system_random() {
  std::uint64_t first = 0;
  if (!draw(first)) return fail(EIO, "The system gives no random bytes.");
  return Random([] {
    std::uint64_t number = 0;
    // It gave some before, so this can't be; and a number that can be guessed must not be.
    if (!draw(number)) std::abort();
    return number;
  });
}

Random seeded_random(std::uint64_t seed) {
  return [numbers = std::make_shared<std::mt19937_64>(seed)] { return (*numbers)(); };
}

}  // namespace btd::net
