#include "alloc/nvram.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace btd {
namespace {

bool map(int fd, std::byte* at, std::size_t len, int flags) {
  return mmap(at, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) != MAP_FAILED;
}

std::unexpected<Error> map_failed() {
  const int code = errno;
  return fail(code, std::string("The arena cannot be mapped (") + strerrordesc_np(code) +
                        "); check the limits on address space and memory.");
}

}  // namespace

Result<Nvram> map_nvram(int fd, std::byte* at, std::size_t len) {
  // Granted only on DAX, where a flushed line is durable and needs no fsync.
  if (map(fd, at, len, MAP_SHARED_VALIDATE | MAP_SYNC)) {
    return Nvram{.domain = Domain::kCacheLine, .kind = "dax", .survives = "power loss"};
  }
  if (!map(fd, at, len, MAP_SHARED)) return map_failed();
  struct statfs fs{};
  if (fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)) {
    return Nvram{
        .domain = Domain::kCacheLine, .kind = "tmpfs", .survives = "process crash, not power loss"};
  }
  return Nvram{.domain = Domain::kMsync, .kind = "file", .survives = "power loss"};
}

Result<Nvram> map_private(int fd, std::byte* at, std::size_t len) {
  if (!map(fd, at, len, MAP_PRIVATE | MAP_NORESERVE)) return map_failed();
  return Nvram{.domain = Domain::kCacheLine, .kind = "private", .survives = "nothing"};
}

}  // namespace btd
