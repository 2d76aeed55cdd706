#include "fs/remote/lock_table.h"

#include <algorithm>
#include <cerrno>
#include <set>
#include <string>

namespace btd::remote {

namespace {

bool overlaps(const Lock& lock, std::uint64_t start, std::uint64_t end) {
  return lock.start <= end && start <= lock.end;
}

bool excludes(const Lock& held, const Lock& wanted) {
  return held.owner != wanted.owner && (held.is_exclusive || wanted.is_exclusive) &&
         overlaps(held, wanted.start, wanted.end);
}

bool is_range(std::uint64_t start, std::uint64_t end) { return start <= end && end <= kLastByte; }

}  // namespace

// --- Ranges ---

// The owner's bytes [start, end] become as `lock` says, or free.
void LockTable::set(File& file, const Lock* lock, const LockOwner& owner, std::uint64_t start,
                    std::uint64_t end) {
  const std::size_t before = file.held.size();
  std::vector<Lock> kept;
  Lock merged = lock != nullptr ? *lock : Lock{};
  for (const Lock& held : file.held) {
    if (held.owner != owner) {
      kept.push_back(held);
      continue;
    }
    // Touching is enough to merge; neither end overflows, for kLastByte is no more than 63 bits.
    const bool touches = held.start <= end + 1 && start <= held.end + 1;
    if (lock != nullptr && touches && held.is_exclusive == lock->is_exclusive) {
      merged.start = std::min(merged.start, held.start);
      merged.end = std::max(merged.end, held.end);
      continue;
    }
    if (!overlaps(held, start, end)) {
      kept.push_back(held);
      continue;
    }
    if (held.start < start) {
      kept.push_back(held);
      kept.back().end = start - 1;
    }
    if (held.end > end) {
      kept.push_back(held);
      kept.back().start = end + 1;
    }
  }
  if (lock != nullptr) kept.push_back(merged);
  std::ranges::stable_sort(kept, {}, &Lock::start);
  file.held = std::move(kept);
  count(owner.client, before, file.held.size());
}

void LockTable::count(const LockClient& client, std::size_t before, std::size_t now) {
  std::size_t& sum = locks_[client];
  sum += now - before;
  if (sum == 0) locks_.erase(client);
}

std::size_t LockTable::locks_of(const LockClient& client) const {
  const auto found = locks_.find(client);
  return found == locks_.end() ? 0 : found->second;
}

std::size_t LockTable::waits_of(const LockClient& client) const {
  const auto first = waits_.lower_bound({client, 0});
  std::size_t sum = 0;
  for (auto at = first; at != waits_.end() && at->first.client == client; ++at) ++sum;
  return sum;
}

// --- Locking ---

Result<bool> LockTable::lock(const Request& request) {
  const Lock& wanted = request.lock;
  const LockClient& client = wanted.owner.client;
  if (!is_range(wanted.start, wanted.end)) return fail(EINVAL);
  const Wait wait{client, request.wait};
  if (request.wait != 0 && waits_.contains(wait)) return false;
  if (locks_of(client) >= kMostLocks)
    return fail(ENOLCK, "The node has " + std::to_string(kMostLocks) +
                            " locks on files of this home already; release some.");
  const FileKey key{request.id, request.kind};
  if (request.kind == LockKind::kFile) {
    const std::vector<Lock> all = held(request.id, request.kind);
    const auto own = std::ranges::find(all, wanted.owner, &Lock::owner);
    if (own != all.end() && own->is_exclusive == wanted.is_exclusive) return true;
    if (own != all.end())
      static_cast<void>(unlock(request.id, request.kind, wanted.owner, 0, kLastByte));
  }
  if (!conflict(request.id, request.kind, wanted)) {
    set(files_[key], &wanted, wanted.owner, wanted.start, wanted.end);
    settle(key);  // a downgrade may let others in
    return true;
  }
  if (request.wait == 0) return fail(EAGAIN);
  if (request.kind == LockKind::kRecord && would_deadlock(request)) return fail(EDEADLK);
  if (waits_of(client) >= kMostWaits)
    return fail(ENOLCK, "Too many programs of the node wait for locks of this home.");
  files_[key].queue.push_back(wait);
  waits_.emplace(wait, request);
  waits_of_owner_.emplace(wanted.owner, wait);
  return false;
}

// Whether somebody that the request would wait for waits, over any number of others, for its owner.
// Of the files of this home: no home sees the waits of another.
bool LockTable::would_deadlock(const Request& request) const {
  std::set<LockOwner> seen;
  std::vector<const Request*> next{&request};
  while (!next.empty()) {
    const Request& waiting = *next.back();
    next.pop_back();
    const auto file = files_.find({waiting.id, waiting.kind});
    if (file == files_.end()) continue;
    for (const Lock& held : file->second.held) {
      if (!excludes(held, waiting.lock)) continue;
      if (held.owner == request.lock.owner) return true;
      if (!seen.insert(held.owner).second) continue;
      const auto [first, last] = waits_of_owner_.equal_range(held.owner);
      for (auto at = first; at != last; ++at) next.push_back(&waits_.at(at->second));
    }
  }
  return false;
}

Status LockTable::unlock(InodeId id, LockKind kind, const LockOwner& owner, std::uint64_t start,
                         std::uint64_t end) {
  if (!is_range(start, end)) return fail(EINVAL);
  const auto file = files_.find({id, kind});
  if (file == files_.end()) return {};
  set(file->second, nullptr, owner, start, end);
  settle(file->first);
  return {};
}

void LockTable::release(InodeId id, const LockOwner& owner) {
  static_cast<void>(unlock(id, LockKind::kRecord, owner, 0, kLastByte));
  static_cast<void>(unlock(id, LockKind::kFile, owner, 0, kLastByte));
}

void LockTable::settle(FileKey key) {
  const auto found = files_.find(key);
  if (found == files_.end()) return;
  File& file = found->second;
  // Again after each: a grant may be a downgrade of its owner's, which lets an earlier one in.
  for (std::size_t at = 0; at < file.queue.size();) {
    const Wait wait = file.queue[at];
    const Lock wanted = waits_.at(wait).lock;
    if (conflict(key.first, key.second, wanted)) {
      ++at;
      continue;
    }
    remove_wait(wait);
    set(file, &wanted, wanted.owner, wanted.start, wanted.end);
    granted_.push_back(wait);
    at = 0;
  }
  if (file.held.empty() && file.queue.empty()) files_.erase(found);
}

// --- Ends ---

void LockTable::remove_wait(const Wait& wait) {
  const auto found = waits_.find(wait);
  const Request& request = found->second;
  std::erase(files_.at({request.id, request.kind}).queue, wait);
  const auto [first, last] = waits_of_owner_.equal_range(request.lock.owner);
  waits_of_owner_.erase(
      std::find_if(first, last, [&](const auto& entry) { return entry.second == wait; }));
  waits_.erase(found);
}

bool LockTable::cancel(const Wait& wait) {
  const auto found = waits_.find(wait);
  if (found == waits_.end()) return false;
  const FileKey key{found->second.id, found->second.kind};
  remove_wait(wait);
  settle(key);
  return true;
}

void LockTable::end(const LockClient& client) {
  std::vector<Wait> waits;
  for (auto at = waits_.lower_bound({client, 0}); at != waits_.end(); ++at) {
    if (at->first.client != client) break;
    waits.push_back(at->first);
  }
  for (const Wait& wait : waits) cancel(wait);
  for (const Held& held : held_by(client)) release(held.id, held.lock.owner);
}

void LockTable::inherit(const LockClient& from, const LockClient& to) {
  const std::vector<Held> all = held_by(from);
  std::set<FileKey> keys;
  for (const Held& held : all) keys.insert({held.id, held.kind});
  for (const FileKey& key : keys)
    for (Lock& lock : files_.at(key).held)
      if (lock.owner.client == from) lock.owner.client = to;
  locks_.erase(from);
  if (!all.empty()) locks_[to] += all.size();
  end(from);  // its waits
}

// --- Questions ---

std::optional<Lock> LockTable::conflict(InodeId id, LockKind kind, const Lock& lock) const {
  const auto file = files_.find({id, kind});
  if (file == files_.end()) return {};
  for (const Lock& held : file->second.held)
    if (excludes(held, lock)) return held;
  return {};
}

std::vector<Lock> LockTable::held(InodeId id, LockKind kind) const {
  const auto file = files_.find({id, kind});
  return file == files_.end() ? std::vector<Lock>{} : file->second.held;
}

std::vector<LockTable::Held> LockTable::held_by(const LockClient& client) const {
  std::vector<Held> all;
  if (!locks_.contains(client)) return all;
  for (const auto& [key, file] : files_)
    for (const Lock& lock : file.held)
      if (lock.owner.client == client)
        all.push_back({.id = key.first, .kind = key.second, .lock = lock});
  return all;
}

std::vector<LockTable::Held> LockTable::held_by(InodeId id, const LockOwner& owner) const {
  std::vector<Held> all;
  for (const LockKind kind : {LockKind::kRecord, LockKind::kFile}) {
    const auto file = files_.find({id, kind});
    if (file == files_.end()) continue;
    for (const Lock& lock : file->second.held)
      if (lock.owner == owner) all.push_back({.id = id, .kind = kind, .lock = lock});
  }
  return all;
}

LockTable::Counts LockTable::counts() const {
  Counts counts{.waits = waits_.size()};
  for (const auto& [client, locks] : locks_) counts.locks += locks;
  return counts;
}

bool LockTable::is_used(InodeId id) const {
  return files_.contains({id, LockKind::kRecord}) || files_.contains({id, LockKind::kFile});
}

}  // namespace btd::remote
