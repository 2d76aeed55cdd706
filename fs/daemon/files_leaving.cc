// FileTable: what it has to do with moves of files to other nodes.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>

#include "fs/daemon/files.h"
#include "fs/daemon/request.h"

namespace btd {

namespace {

// A commit ends sooner, or its outcome is unknown because etcd is away.
constexpr std::chrono::seconds kPatience{10};

// Nobody has it open or mapped, this process neither: the kernel grants a lease for writing to the
// only one that has a file open.
Status judge_unused(int fd) {
  if (::fcntl(fd, F_SETLEASE, F_WRLCK) != 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK)
      return fail(ETXTBSY, "a program at its home has it mapped, or open by its backing file");
    return fail(EOPNOTSUPP, "the file system of its home does not tell whether it is mapped");
  }
  ::fcntl(fd, F_SETLEASE, F_UNLCK);
  return {};
}

bool is_same(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && Timestamp::from(a.st_ctim) == Timestamp::from(b.st_ctim) &&
         Timestamp::from(a.st_mtim) == Timestamp::from(b.st_mtim);
}

}  // namespace

// Waits while the move of the file is committed.
Status FileTable::stays_locked(Lock& lock, InodeId id) {
  const auto& leaving = leaving_[id % kStripes];
  const auto is_committing = [&] {
    const auto found = leaving.find(id);
    return found != leaving.end() && found->second.is_committing;
  };
  if (!is_committing()) return {};
  about_to_sleep();
  if (left_[id % kStripes].wait_for(lock, kPatience, [&] { return !is_committing(); })) return {};
  return fail(ETIMEDOUT, "the file is being moved to another node, and etcd does not answer");
}

// A reservation ends; what is committed just now is not.
void FileTable::used_locked(InodeId id) {
  auto& leaving = leaving_[id % kStripes];
  const auto found = leaving.find(id);
  if (found != leaving.end() && !found->second.is_committing) leaving.erase(found);
}

void FileTable::used(InodeId id) {
  const Lock lock(stripe(id));
  used_locked(id);
}

bool FileTable::is_open(InodeId id) const {
  const auto entry = state_.find(id);
  return entry && entry->opens != 0;
}

Result<struct stat> FileTable::unused_locked(InodeId id, std::size_t holds) {
  if (!is_home(id)) return fail(ESTALE, "the file was moved already");
  const auto entry = state_.find(id);
  if (entry && entry->opens != 0) return fail(ETXTBSY, "it is open at its home");
  const auto held = held_[id % kStripes].find(id);
  if (held != held_[id % kStripes].end() && held->second > holds)
    return fail(ETXTBSY, "it is in use at another node");
  drop_descriptor(id);
  if (entry) close_backing_locked(*entry);
  BTD_ASSIGN(const UniqueFd fd, backing_.open(id, O_RDONLY));
  BTD_TRY(judge_unused(fd.get()));
  struct stat facts{};
  if (::fstat(fd.get(), &facts) != 0) return fail(errno);
  return facts;
}

Status FileTable::reserve(InodeId id, std::uint64_t number, std::size_t holds) {
  Lock lock(stripe(id));
  BTD_TRY(stays_locked(lock, id));
  BTD_ASSIGN(const struct stat facts, unused_locked(id, holds));
  leaving_[id % kStripes][id] = {.number = number, .reserved = facts, .holds = holds};
  return {};
}

Status FileTable::begin_leaving(InodeId id, std::uint64_t number) {
  Lock lock(stripe(id));
  BTD_TRY(stays_locked(lock, id));
  auto& leaving = leaving_[id % kStripes];
  const auto found = leaving.find(id);
  if (found == leaving.end() || found->second.number != number)
    return fail(ECONNABORTED, "somebody used it while it was moved");
  BTD_ASSIGN(const struct stat facts, unused_locked(id, found->second.holds));
  if (!is_same(facts, found->second.reserved)) {
    leaving.erase(found);
    return fail(ECONNABORTED, "somebody changed it while it was moved");
  }
  found->second.is_committing = true;
  return {};
}

void FileTable::end_leaving(InodeId id) {
  {
    const Lock lock(stripe(id));
    leaving_[id % kStripes].erase(id);
    // A copy that comes back has another time.
    if (!is_home(id)) state_.set_suid_watch(id, 0);
  }
  left_[id % kStripes].notify_all();
}

Status FileTable::remove_copy(InodeId id) {
  const Lock lock(stripe(id));
  BTD_TRY(remove_data(id));
  return backing_.sync_removals({&id, 1});
}

}  // namespace btd
