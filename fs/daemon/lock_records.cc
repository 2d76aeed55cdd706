#include "fs/daemon/lock_records.h"

#include <spdlog/spdlog.h>

#include <atomic>

namespace btd {

namespace {

enum Flags : std::uint32_t { kExclusive = 1, kFile = 2, kLost = 4 };

// More are asked for at once by no node: each waits, or is asked by a thread of a program.
constexpr std::size_t kReserve = 1024;

// One store that the next worker may see as the last one.
void mark(LockRecord& record, std::uint64_t is_used) {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  std::atomic_ref<std::uint64_t>(record.is_used).store(is_used, std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void write(LockRecord& to, const remote::KeptLock& lock) {
  to.id = lock.id;
  to.owner = lock.owner;
  to.handle = lock.handle;
  to.client = lock.client;
  to.start = lock.start;
  to.end = lock.end;
  to.pid = lock.pid;
  to.flags = (lock.is_exclusive ? kExclusive : 0U) |
             (lock.kind == remote::LockKind::kFile ? kFile : 0U) | (lock.is_lost ? kLost : 0U);
  mark(to, 1);
}

remote::KeptLock read(const LockRecord& from) {
  return {.id = from.id,
          .owner = from.owner,
          .handle = from.handle,
          .client = from.client,
          .start = from.start,
          .end = from.end,
          .pid = from.pid,
          .kind = (from.flags & kFile) != 0 ? remote::LockKind::kFile : remote::LockKind::kRecord,
          .is_exclusive = (from.flags & kExclusive) != 0,
          .is_lost = (from.flags & kLost) != 0};
}

}  // namespace

LockRecords::LockRecords(LockRecord* records, StateHeader& header)
    : records_(records), header_(header) {
  for (std::size_t i = kLockRecords; i-- > 0;) {
    if (records_[i].is_used == 0) {
      free_.push_back(i);
    } else {
      used_[{records_[i].id, records_[i].owner}].push_back(i);
    }
  }
}

std::vector<remote::KeptLock> LockRecords::take_over() {
  std::vector<remote::KeptLock> all;
  for (const auto& [owner, places] : used_)
    for (const std::size_t at : places) all.push_back(read(records_[at]));
  return all;
}

bool LockRecords::has_room() {
  const std::scoped_lock lock(mutex_);
  return free_.size() > kReserve;
}

void LockRecords::keep(InodeId id, std::uint64_t owner,
                       const std::vector<remote::KeptLock>& locks) {
  const std::scoped_lock lock(mutex_);
  std::vector<std::size_t> places;
  for (const remote::KeptLock& one : locks) {
    if (free_.empty()) {
      spdlog::error("a lock on file {} will be lost if the worker dies: there are too many", id);
      break;
    }
    places.push_back(free_.back());
    free_.pop_back();
    write(records_[places.back()], one);
  }
  const std::pair key{id, owner};
  if (const auto found = used_.find(key); found != used_.end()) {
    for (const std::size_t at : found->second) mark(records_[at], 0);
    free_.insert(free_.end(), found->second.begin(), found->second.end());
    used_.erase(found);
  }
  if (!places.empty()) used_.emplace(key, std::move(places));
}

void LockRecords::note_peers() {
  std::atomic_ref<std::uint32_t>(header_.peers_locked).store(1, std::memory_order_relaxed);
}

}  // namespace btd
