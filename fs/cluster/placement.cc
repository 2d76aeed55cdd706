#include "fs/cluster/placement.h"

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>

#include "fs/namespace/layout.h"
#include "fs/namespace/retries.h"

namespace btd::cluster {
namespace {

// What settle_copy() leaves: of no attempt.
constexpr std::uint64_t kFenced = 0;

std::optional<std::string_view> view(const std::optional<std::string>& bytes) {
  return bytes ? std::optional<std::string_view>(*bytes) : std::nullopt;
}

// The rows that say where the file is, which a change of that requires.
struct Rows {
  std::optional<std::string> inode, home, copy;

  void require(Batch& batch, InodeId id) const {
    batch.require(rows::inode_key(id), view(inode));
    batch.require(rows::home_key(id), view(home));
  }
};

Result<Rows> read(const MetaStore& store, InodeId id, NodeId node) {
  Rows found;
  BTD_ASSIGN(found.copy, store.get(rows::copy_key(id, node)));
  BTD_ASSIGN(found.inode, store.get(rows::inode_key(id)));
  BTD_ASSIGN(found.home, store.get(rows::home_key(id)));
  return found;
}

Status judge(const Rows& found, const Attempt& attempt) {
  rows::InodeRow inode{};
  if (!found.inode || !rows::parse(*found.inode, inode) || inode.nlink == 0)
    return fail(ENOENT, "the file is gone");
  if (!S_ISREG(inode.mode)) return fail(EINVAL, "only regular files have a home");
  if (rows::home_in(attempt.id, found.home) != attempt.from)
    return fail(ESTALE, "the file was moved meanwhile");
  return {};
}

std::uint64_t number_in(std::optional<std::string_view> copy) {
  std::uint64_t number = kFenced;
  if (copy) static_cast<void>(rows::parse(*copy, number));
  return number;
}

// What the old home has is not the file any more.
void take_over(Batch& batch, const Attempt& attempt) {
  batch.put(rows::copy_key(attempt.id, attempt.from), rows::bytes_of(kFenced));
  if (attempt.to == node_of(attempt.id)) {
    batch.erase(rows::home_key(attempt.id));
  } else {
    batch.put(rows::home_key(attempt.id), rows::bytes_of(std::uint64_t{attempt.to}));
  }
}

}  // namespace

Placement::Placement(MetaStore& store)
    : watch_(store.watch(rows::kHomePrefix, [this](const WatchEvent& event) { heard(event); })) {
  // The watch may already have told of newer ones.
  static_cast<void>(store.scan(rows::kHomePrefix, prefix_end(rows::kHomePrefix),
                               [this](std::string_view key, std::string_view value) {
                                 const InodeId id = rows::number_at(key, 1);
                                 const std::unique_lock lock(mutex_);
                                 homes_.try_emplace(id, rows::home_in(id, std::string(value)));
                                 moved_.store(homes_.size(), std::memory_order_release);
                                 return true;
                               }));
  const std::unique_lock lock(mutex_);
  is_loaded_ = true;
}

void Placement::heard(const WatchEvent& event) {
  if (event.key.size() != 1 + sizeof(InodeId)) return;
  const InodeId id = rows::number_at(event.key, 1);
  const std::unique_lock lock(mutex_);
  // Until all are loaded an entry stays, so that the scan does not bring back what is gone.
  if (!event.value && is_loaded_) {
    homes_.erase(id);
  } else {
    homes_[id] = rows::home_in(id, event.value);
  }
  moved_.store(homes_.size(), std::memory_order_release);
}

bool Placement::is_home(NodeId node) const {
  const std::shared_lock lock(mutex_);
  return std::ranges::any_of(homes_, [&](const auto& one) { return one.second == node; });
}

NodeId Placement::find(InodeId id) const {
  const std::shared_lock lock(mutex_);
  const auto found = homes_.find(id);
  return found == homes_.end() ? node_of(id) : found->second;
}

// A commit that only requires what this node knows: one that is refused shows what refused it.
Status catch_up(MetaStore& store, InodeId id) {
  return with_retries([&]() -> Status {
    BTD_ASSIGN(const auto inode, store.get(rows::inode_key(id)));
    BTD_ASSIGN(const auto home, store.get(rows::home_key(id)));
    Batch nothing;
    nothing.require(rows::inode_key(id), view(inode));
    nothing.require(rows::home_key(id), view(home));
    return store.commit(nothing);
  });
}

Status note_copy(MetaStore& store, const Attempt& attempt) {
  return with_retries([&]() -> Status {
    BTD_ASSIGN(const Rows found, read(store, attempt.id, attempt.to));
    BTD_TRY(judge(found, attempt));
    const auto key = rows::copy_key(attempt.id, attempt.to);
    Batch batch;
    found.require(batch, attempt.id);
    batch.require(key, view(found.copy));
    batch.put(key, rows::bytes_of(attempt.number));
    return store.commit(batch);
  });
}

// The note of the attempt may not have come to this node yet; a commit that was refused shows what
// refused it.
Status commit_move(MetaStore& store, const Attempt& attempt) {
  bool was_refused = false;
  return with_retries([&]() -> Status {
    BTD_ASSIGN(const Rows found, read(store, attempt.id, attempt.to));
    BTD_TRY(judge(found, attempt));
    if (std::exchange(was_refused, true) && number_in(view(found.copy)) != attempt.number)
      return fail(EBUSY, "another attempt to move the file took the place of this one");
    const auto key = rows::copy_key(attempt.id, attempt.to);
    Batch batch;
    found.require(batch, attempt.id);
    batch.require(key, rows::bytes_of(attempt.number));
    batch.erase(key);
    take_over(batch, attempt);
    return store.commit(batch);
  });
}

Status commit_gift(MetaStore& store, const Attempt& attempt) {
  return with_retries([&]() -> Status {
    BTD_ASSIGN(const Rows found, read(store, attempt.id, attempt.to));
    BTD_TRY(judge(found, attempt));
    if (found.copy) return fail(EBUSY, "what an earlier move left at the node is not removed yet");
    Batch batch;
    found.require(batch, attempt.id);
    batch.require(rows::copy_key(attempt.id, attempt.to), std::nullopt);
    take_over(batch, attempt);
    return store.commit(batch);
  });
}

Result<bool> settle_copy(MetaStore& store, InodeId id, NodeId node) {
  return with_retries([&]() -> Result<bool> {
    BTD_ASSIGN(const Rows found, read(store, id, node));
    const bool is_home = found.inode && rows::home_in(id, found.home) == node;
    // Committed even where it changes nothing: what this node has read may be old.
    const auto key = rows::copy_key(id, node);
    Batch batch;
    found.require(batch, id);
    batch.require(key, view(found.copy));
    if (is_home) {
      batch.erase(key);
    } else {
      batch.put(key, rows::bytes_of(kFenced));
    }
    BTD_TRY(store.commit(batch));
    return is_home;
  });
}

Status forget_copy(MetaStore& store, InodeId id, NodeId node) {
  const auto key = rows::copy_key(id, node);
  Batch batch;
  batch.require(key, rows::bytes_of(kFenced));
  batch.erase(key);
  const Status done = store.commit(batch);
  if (!done && done.error().code == EAGAIN) return {};  // another attempt has begun
  return done;
}

Result<std::vector<Copy>> copies(const MetaStore& store) {
  std::vector<Copy> found;
  const auto keep = [&](std::string_view key, std::string_view value) {
    if (key.size() == 17)
      found.push_back({.id = rows::number_at(key, 1),
                       .node = static_cast<NodeId>(rows::number_at(key, 9)),
                       .is_fenced = number_in(value) == kFenced});
    return true;
  };
  BTD_TRY(store.scan(rows::kCopyPrefix, prefix_end(rows::kCopyPrefix), keep));
  return found;
}

Result<std::vector<InodeId>> copies_at(const MetaStore& store, NodeId node) {
  BTD_ASSIGN(const auto all, copies(store));
  std::vector<InodeId> ids;
  for (const Copy& copy : all)
    if (copy.node == node) ids.push_back(copy.id);
  return ids;
}

}  // namespace btd::cluster
