#include "libbtd/reserve.h"

#include <fcntl.h>

#include <cerrno>

#include "libbtd/no_signals.h"

namespace btd {

int reserve_in_file(int fd, std::uint64_t from, std::uint64_t len) {
  const NoSignals quiet;
  int error = 0;
  do {
    error = fallocate(fd, 0, static_cast<off_t>(from), static_cast<off_t>(len)) == 0 ? 0 : errno;
  } while (error == EINTR);
  return error;
}

}  // namespace btd
