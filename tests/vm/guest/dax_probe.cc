// SPDX-License-Identifier: BSD-3-Clause
// dax_probe FILE [PREFIX]: makes FILE on a mount, touches all of it through a mapping, and says
// what the mapping is, one "@btd fact PREFIX_NAME VALUE" a line:
//   page_cache_growth_mib  of the machine, while 32 MiB were touched: 0 where the mapping is DAX
//   statx              yes where the backing file has STATX_ATTR_DAX
//   map_sync_mount         whether MAP_SYNC is granted for the file of the mount (FUSE refuses)
//   map_sync_backing       the same for the descriptor that libbtd gets from the mount's socket
//   libpmem                pmem or not: what libpmem says of that descriptor
// Exit code: 0 it could be looked at, whatever it is; 1 it could not.
#include <fcntl.h>
#include <libpmem.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "libbtd/backing.h"

namespace btd::vm {

namespace {

constexpr std::size_t kBytes = std::size_t{32} << 20;
constexpr std::size_t kPage = 4096;

const char* prefix = "dax";

void fact(const char* name, const std::string& value) {
  std::printf("@btd fact %s_%s %s\n", prefix, name, value.c_str());
}

std::string said(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

// Pages of files in memory, of the whole machine.
long page_cache_kib() {
  std::ifstream meminfo("/proc/meminfo");
  std::string name, unit;
  long value = 0;
  while (meminfo >> name >> value) {
    if (name == "Cached:") return value;
    std::getline(meminfo, unit);
  }
  return 0;
}

class Mapping {
 public:
  Mapping(int fd, int flags)
      : at_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags, fd, 0)), code_(errno) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (granted()) munmap(at_, kBytes);
  }
  [[nodiscard]] bool granted() const { return at_ != MAP_FAILED; }
  [[nodiscard]] std::string text() const {
    return granted() ? "granted" : "refused (" + std::string(std::strerror(code_)) + ")";
  }
  [[nodiscard]] char* at() const { return static_cast<char*>(at_); }

 private:
  void* at_;
  int code_;
};

Status touch(int fd) {
  const Mapping map(fd, MAP_SHARED);
  if (!map.granted()) return fail(EIO, "mmap " + map.text());
  const long before = page_cache_kib();
  for (std::size_t at = 0; at < kBytes; at += kPage) map.at()[at] = static_cast<char>(at / kPage);
  const long growth = page_cache_kib() - before;
  fact("page_cache_growth_mib", std::to_string(std::max(0L, (growth + 512) / 1024)));
  return {};
}

void look_with_libpmem(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  std::size_t length = 0;
  int is_pmem = 0;
  void* at = pmem_map_file(path.c_str(), 0, 0, 0, &length, &is_pmem);
  if (at == nullptr) return fact("libpmem", std::string("no mapping: ") + pmem_errormsg());
  fact("libpmem", is_pmem != 0 && pmem_is_pmem(at, length) != 0 ? "pmem" : "not pmem");
  pmem_unmap(at, length);
}

Status probe(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) return fail(errno, said("open"));
  if (const int code = posix_fallocate(file.get(), 0, kBytes); code != 0)
    return fail(code, std::string("posix_fallocate: ") + std::strerror(code));
  BTD_TRY(touch(file.get()));
  constexpr int kSync = MAP_SHARED_VALIDATE | MAP_SYNC;
  fact("map_sync_mount", Mapping(file.get(), kSync).text());
  const auto socket = backing_socket_of(file.get());
  const UniqueFd backing = socket ? backing_of(file.get(), *socket) : UniqueFd();
  if (!backing) {
    fact("map_sync_backing", "no descriptor");
    return {};
  }
  struct statx st{};
  if (statx(backing.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) != 0)
    return fail(errno, said("statx"));
  fact("statx", (st.stx_attributes & STATX_ATTR_DAX) != 0 ? "yes" : "no");
  fact("map_sync_backing", Mapping(backing.get(), kSync).text());
  look_with_libpmem(backing.get());
  return {};
}

}  // namespace

}  // namespace btd::vm

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: dax_probe FILE [PREFIX]\n");
    return 2;
  }
  if (argc == 3) btd::vm::prefix = argv[2];
  const btd::Status status = btd::vm::probe(argv[1]);
  unlink(argv[1]);
  if (status) return 0;
  std::fprintf(stderr, "dax_probe: %s\n", status.error().message.c_str());
  return 1;
}
