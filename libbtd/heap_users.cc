#include "libbtd/heap_users.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace btd {
namespace {

constexpr off_t kDoor = 0;
constexpr off_t kFirstUser = 1;
constexpr off_t kFirstArena = kFirstUser + Users::kMax;
constexpr off_t kRecordBytes = 16;  // of a user, in the file's content
constexpr std::chrono::milliseconds kDoorWait{10'000};

struct flock byte_lock(short type, off_t at, off_t len = 1) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = len;
  return lock;
}

bool set_lock(int fd, short type, off_t at) {
  struct flock lock = byte_lock(type, at);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

// The lock of others that is in the way of writing to [at, at + len); F_UNLCK if there is none.
struct flock in_the_way(int fd, off_t at, off_t len) {
  struct flock lock = byte_lock(F_WRLCK, at, len);
  // What cannot be asked counts as locked: nobody is taken for dead by mistake.
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) lock.l_type = F_WRLCK;
  return lock;
}

pid_t read_process(int fd, unsigned user) {
  std::array<char, kRecordBytes + 1> text{};
  const off_t at = static_cast<off_t>(user) * kRecordBytes;
  const ssize_t got = pread(fd, text.data(), kRecordBytes, at);
  return got > 0 ? static_cast<pid_t>(std::strtol(text.data(), nullptr, 10)) : 0;
}

}  // namespace

Result<std::shared_ptr<HeapUsers>> HeapUsers::open(int dirfd, const std::string& name) {
  UniqueFd file(openat(dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) {
    return fail(errno, "Heap " + name + ": its lock cannot be opened (" + strerrordesc_np(errno) +
                           "); check the permissions of the directory.");
  }
  return std::shared_ptr<HeapUsers>(new HeapUsers(std::move(file), name));
}

Status HeapUsers::enter() {
  const auto until = std::chrono::steady_clock::now() + kDoorWait;
  std::unique_lock own(door_);
  while (!set_lock(file_.get(), F_WRLCK, kDoor)) {
    if (errno != EAGAIN && errno != EACCES) {
      return fail(errno, "Heap " + name_ + " cannot be locked: " + strerrordesc_np(errno) + ".");
    }
    // A tool holds all of it; a user the door alone, for a moment.
    if (in_the_way(file_.get(), kDoor, 1).l_type == F_RDLCK) {
      return fail(EBUSY,
                  "Heap " + name_ + " is open in another process; end that, or open another heap.");
    }
    if (std::chrono::steady_clock::now() > until) {
      return fail(EBUSY, "Heap " + name_ +
                             " is being opened, closed or grown by another process for too long; "
                             "end that.");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  static_cast<void>(own.release());
  return {};
}

void HeapUsers::leave() {
  if (file_) set_lock(file_.get(), F_UNLCK, kDoor);
  door_.unlock();
}

Status HeapUsers::join() {
  for (unsigned user = 0; user < kMax; ++user) {
    if (!set_lock(file_.get(), F_WRLCK, kFirstUser + user)) continue;
    self_ = user;
    std::array<char, kRecordBytes + 1> text{};
    std::snprintf(text.data(), text.size(), "%-*d", static_cast<int>(kRecordBytes - 1),
                  static_cast<int>(getpid()));
    // For messages only; who holds a lock is the kernel's to know.
    [[maybe_unused]] const ssize_t put =
        pwrite(file_.get(), text.data(), kRecordBytes, static_cast<off_t>(user) * kRecordBytes);
    return {};
  }
  return fail(EUSERS, "Heap " + name_ + " is open in " + std::to_string(kMax) +
                          " processes, as many as it may be; end one.");
}

bool HeapUsers::alive(unsigned user) {
  return user == self_ || in_the_way(file_.get(), kFirstUser + user, 1).l_type != F_UNLCK;
}

bool HeapUsers::alone() { return in_the_way(file_.get(), kFirstUser, kMax).l_type == F_UNLCK; }

bool HeapUsers::own(std::uint32_t arena) {
  return set_lock(file_.get(), F_WRLCK, kFirstArena + arena);
}

void HeapUsers::disown(std::uint32_t arena) { set_lock(file_.get(), F_UNLCK, kFirstArena + arena); }

int HeapUsers::process_of(unsigned user) { return read_process(file_.get(), user); }

pid_t HeapUsers::somebody(int fd) {
  const struct flock lock = in_the_way(fd, kFirstUser, kMax);
  if (lock.l_type == F_UNLCK) return 0;
  if (lock.l_type == F_RDLCK) return -1;  // tools lock it without a word
  const auto user = static_cast<unsigned>(std::max(lock.l_start, kFirstUser) - kFirstUser);
  const pid_t process = user < kMax ? read_process(fd, user) : 0;
  return process > 0 ? process : -1;
}

}  // namespace btd
