// PoolLock: flock(2) on the superblock. It belongs to the open file description, so every process
// that inherited the descriptor holds it, and it ends with the last of them, however they end.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <memory>

#include "fs/pool/emulate.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"

namespace btd {

namespace {

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

bool holds(const std::string& process, const struct stat& file) {
  Directory fds(::opendir((process + "/fd").c_str()), ::closedir);
  if (!fds) return false;
  while (const dirent* entry = ::readdir(fds.get())) {
    struct stat held{};
    if (::fstatat(::dirfd(fds.get()), entry->d_name, &held, 0) != 0) continue;
    if (held.st_dev != file.st_dev || held.st_ino != file.st_ino) continue;
    std::ifstream info(process + "/fdinfo/" + entry->d_name);
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("lock:") && line.find("FLOCK") != std::string::npos) return true;
  }
  return false;
}

// Who holds the lock now: /proc/locks would name who took it, who may be gone.
std::string holder_of(int fd) {
  struct stat file{};
  Directory proc(::opendir("/proc"), ::closedir);
  if (!proc || ::fstat(fd, &file) != 0) return "another process";
  while (const dirent* entry = ::readdir(proc.get())) {
    const std::string_view name = entry->d_name;
    int pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc()) continue;
    const std::string process = "/proc/" + std::string(name);
    if (!holds(process, file)) continue;
    std::string command;
    std::getline(std::ifstream(process + "/comm"), command);
    return command + " (process " + std::to_string(pid) + ")";
  }
  return "another process";
}

Result<UniqueFd> open_superblock(const std::string& path) {
  const std::string file = path + "/superblock";
  UniqueFd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!fd && errno == EROFS) fd.reset(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (fd) return fd;
  const int code = errno;
  struct stat there{};
  if (::stat(path.c_str(), &there) != 0) {
    if (errno != ENOENT) return cannot("look at " + path, errno);
    return fail(ENOENT, "there is no directory " + path + "; make a pool with btd format " + path);
  }
  if (!S_ISDIR(there.st_mode)) return fail(ENOTDIR, path + " is not a directory: a pool is one");
  if (code != ENOENT) return cannot("open the superblock of " + path, code);
  if (::access((path + "/superblock.new").c_str(), F_OK) == 0)
    return fail(EINVAL, path + " is not a pool: its formatting was cut short; repeat btd format");
  return fail(EINVAL, path + " is not a pool: it has no superblock. If it was a pool in RAM, it " +
                          "went with the machine's restart; make a new one with btd format " +
                          path);
}

}  // namespace

Result<PoolLock> PoolLock::acquire(const std::string& path) {
  BTD_TRY(emulation::attach(path));
  BTD_ASSIGN(UniqueFd fd, open_superblock(path));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return cannot("lock the pool " + path, errno);
    return fail(EBUSY, "the pool " + path + " is in use by " + holder_of(fd.get()) +
                           "; stop it first, or use another pool");
  }
  // Between open and lock, a format may have put another pool here.
  struct stat locked{}, there{};
  if (::fstat(fd.get(), &locked) != 0 || ::stat((path + "/superblock").c_str(), &there) != 0 ||
      locked.st_ino != there.st_ino || locked.st_dev != there.st_dev)
    return fail(EBUSY, "the pool " + path + " is being formatted; try again when that is done");
  return PoolLock(std::move(fd));
}

}  // namespace btd
