#include "libbtd/heap_users.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include "libbtd/mount_facts.h"

namespace btd {
namespace {

constexpr off_t kDoor = 0;
constexpr off_t kFirstUser = 1;
constexpr off_t kFirstArena = kFirstUser + Users::kMax;
constexpr off_t kFirstNode = 4096;
constexpr off_t kNodes = 65'536;
constexpr off_t kRecordBytes = 16;  // of a user, in the file's content
constexpr off_t kIncarnations = kRecordBytes * static_cast<off_t>(Users::kMax);
// Of an incarnation, as btd_mutex has no room for more.
constexpr std::uint64_t kIncarnationMask = (std::uint64_t{1} << 32) - 1;

off_t incarnation_at(unsigned user) {
  return kIncarnations + static_cast<off_t>(user * sizeof(std::uint64_t));
}
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

// Users of one node share a lock on its byte. Under the door, so of two nodes one comes first.
Status HeapUsers::be_on_one_node() {
  const std::optional<unsigned> node = node_where(file_.get(), "direct");
  if (!node) return {};
  const off_t mine = kFirstNode + static_cast<off_t>(*node);
  struct flock other = in_the_way(file_.get(), kFirstNode, mine - kFirstNode);
  if (mine == kFirstNode || other.l_type == F_UNLCK)
    other = in_the_way(file_.get(), mine + 1, kFirstNode + kNodes - mine - 1);
  if (other.l_type == F_UNLCK && set_lock(file_.get(), F_RDLCK, mine)) return {};
  return fail(EBUSY,
              "Heap " + name_ + " is open on node " + std::to_string(other.l_start - kFirstNode) +
                  ", and a direct one is used on one node at a time; open it with "
                  "config.reader, or make it in a directory whose user.btd.mode is coherent.");
}

Status HeapUsers::join() {
  BTD_TRY(be_on_one_node());
  for (unsigned user = 0; user < kMax; ++user) {
    if (!set_lock(file_.get(), F_WRLCK, kFirstUser + user)) continue;
    self_ = user;
    std::array<char, kRecordBytes + 1> text{};
    std::snprintf(text.data(), text.size(), "%-*d", static_cast<int>(kRecordBytes - 1),
                  static_cast<int>(getpid()));
    // For messages only; who holds a lock is the kernel's to know.
    [[maybe_unused]] const ssize_t put =
        pwrite(file_.get(), text.data(), kRecordBytes, static_cast<off_t>(user) * kRecordBytes);
    return be_somebody();
  }
  return fail(EUSERS, "Heap " + name_ + " is open in " + std::to_string(kMax) +
                          " processes, as many as it may be; end one.");
}

Status HeapUsers::be_somebody() {
  do {
    if (getrandom(&incarnation_, sizeof(incarnation_), 0) != sizeof(incarnation_))
      return fail(EIO, "The system gave no random bytes for a user of the heap; try again.");
    incarnation_ &= kIncarnationMask;
  } while (incarnation_ == 0);
  if (pwrite(file_.get(), &incarnation_, sizeof(incarnation_), incarnation_at(self_)) ==
      sizeof(incarnation_))
    return {};
  return fail(errno, "Heap " + name_ + ": its lock cannot be written (" + strerrordesc_np(errno) +
                         "); check the space of its file system.");
}

std::uint64_t HeapUsers::incarnation_of(unsigned user) const {
  std::uint64_t known = 0;
  const ssize_t got = pread(file_.get(), &known, sizeof(known), incarnation_at(user));
  return got == sizeof(known) ? known : 0;
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
