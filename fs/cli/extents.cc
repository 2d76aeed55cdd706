#include "fs/cli/extents.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <limits>

namespace btd::cli {
namespace {

Result<std::uint64_t> count_data_runs(int fd) {
  std::uint64_t runs = 0;
  off_t end = 0;
  for (;;) {
    const off_t data = ::lseek(fd, end, SEEK_DATA);
    if (data < 0) {
      if (errno == ENXIO) return runs;  // only a hole is left
      return fail(errno);
    }
    ++runs;
    end = ::lseek(fd, data, SEEK_HOLE);
    if (end < 0) return fail(errno);
  }
}

}  // namespace

Result<std::uint64_t> count_extents(int fd) {
  fiemap request{};
  request.fm_length = std::numeric_limits<std::uint64_t>::max();
  request.fm_flags = FIEMAP_FLAG_SYNC;
  if (::ioctl(fd, FS_IOC_FIEMAP, &request) == 0) return request.fm_mapped_extents;
  return count_data_runs(fd);
}

}  // namespace btd::cli
