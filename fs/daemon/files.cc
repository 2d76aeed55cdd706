#include "fs/daemon/files.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <cstring>

#include "fs/daemon/protocol.h"

namespace btd {

namespace {
constexpr std::size_t kPruneBatch = 256;
}

FileTable::FileTable(StateTable& state, Namespace& names, const BackingStore& backing,
                     unsigned idle_limit)
    : state_(state),
      names_(names),
      backing_(backing),
      erasure_(names, backing),
      idle_limit_(idle_limit) {}

FileTable::~FileTable() {
  {
    std::lock_guard lock(idle_mutex_);
    stopping_ = true;
  }
  idle_changed_.notify_all();
  if (pruner_.joinable()) pruner_.join();
}

std::string FileTable::enable_passthrough(int fuse_fd, int probe_fd) {
  proto::BackingMap map{probe_fd, 0, 0};
  const int id = ioctl(fuse_fd, proto::kBackingOpen, &map);
  if (id <= 0) {
    if (errno == EPERM) return "it needs CAP_SYS_ADMIN in the initial user namespace";
    if (errno == ELOOP) return "the pool is on a stacked file system such as overlayfs";
    if (errno == ENOTTY || errno == EINVAL) return "the kernel is older than 6.9";
    return std::string("the kernel refused the pool's files: ") + strerrordesc_np(errno);
  }
  auto closed = static_cast<std::uint32_t>(id);
  ioctl(fuse_fd, proto::kBackingClose, &closed);
  fuse_fd_ = fuse_fd;
  pruner_ = std::thread([this] { prune_loop(); });
  return {};
}

Result<int> FileTable::register_backing(int fd) const {
  proto::BackingMap map{fd, 0, 0};
  const int id = ioctl(fuse_fd_, proto::kBackingOpen, &map);
  if (id <= 0) return fail(errno != 0 ? errno : EIO);
  return id;
}

Result<int> FileTable::open(std::uint32_t slot, InodeId id, int dlookup, int fd) {
  std::lock_guard lock(stripe(id));
  const auto entry = state_.find(id);
  if (entry && (entry->flags & kStateDataGone) != 0) return fail(ESTALE);
  int backing_id = entry ? entry->backing_id : 0;
  if (passthrough() && backing_id == 0) {
    UniqueFd own;
    if (fd < 0) {
      BTD_ASSIGN(own, backing_.open(id, O_RDWR));
      fd = own.get();
    }
    BTD_ASSIGN(backing_id, register_backing(fd));
    BTD_TRY(state_.set_backing(id, backing_id));
  }
  BTD_TRY(state_.add(slot, id, dlookup, 1));
  return backing_id;
}

void FileTable::release(std::uint32_t slot, InodeId id) {
  std::lock_guard lock(stripe(id));
  auto entry = state_.add(slot, id, 0, -1);
  if (!entry || entry->opens != 0) return;
  drop_descriptor(id);
  if ((entry->flags & kStateOrphan) != 0 && passthrough()) {
    drop_data_locked(*entry);
    entry->backing_id = 0;
  }
  if (entry->nlookup == 0) {
    drop_if_idle_locked(*entry);
  } else if (entry->backing_id != 0) {
    note_idle(id);
  }
}

void FileTable::forget(InodeId id, std::uint64_t n) {
  std::lock_guard lock(stripe(id));
  const StateEntry entry = state_.forget(id, n);
  if (entry.id != 0 && entry.nlookup == 0 && entry.opens == 0) drop_if_idle_locked(entry);
}

void FileTable::orphaned(InodeId id) {
  std::lock_guard lock(stripe(id));
  const auto entry = state_.set_flags(id, kStateOrphan);
  if (!entry) {
    (void)backing_.remove(id);
    erasure_.add(id);
  } else if (entry->opens == 0 && passthrough()) {
    drop_data_locked(*entry);
  }
}

// The number is taken from the table before the kernel closes it: a worker killed in between leaks
// one id until unmount, the other order would answer an open with an id that is not ours any more.
void FileTable::close_backing_locked(const StateEntry& entry) {
  if (entry.backing_id == 0) return;
  (void)state_.set_backing(entry.id, 0);
  auto number = static_cast<std::uint32_t>(entry.backing_id);
  if (passthrough() && ioctl(fuse_fd_, proto::kBackingClose, &number) != 0)
    spdlog::debug("closing backing id {}: {}", number, strerrordesc_np(errno));
}

void FileTable::drop_data_locked(const StateEntry& entry) {
  if ((entry.flags & kStateDataGone) == 0) (void)state_.set_flags(entry.id, kStateDataGone);
  close_backing_locked(entry);
  if (auto removed = backing_.remove(entry.id); !removed)
    spdlog::warn("the data of file {} stays until the next mount: {}", entry.id,
                 strerrordesc_np(removed.error().code));
}

void FileTable::drop_if_idle_locked(const StateEntry& entry) {
  close_backing_locked(entry);
  if ((entry.flags & kStateOrphan) != 0) {
    drop_descriptor(entry.id);
    if ((entry.flags & kStateDataGone) == 0) (void)backing_.remove(entry.id);
    erasure_.add(entry.id);
  }
  state_.drop_if_idle(entry.id);
}

Result<SharedFd> FileTable::descriptor(InodeId id) {
  {
    std::lock_guard lock(cache_mutex_);
    if (auto found = cache_index_.find(id); found != cache_index_.end()) {
      cache_.splice(cache_.begin(), cache_, found->second);
      return cache_.front().second;
    }
  }
  const auto entry = state_.find(id);
  if (entry && (entry->flags & kStateDataGone) != 0) return fail(ESTALE);
  BTD_ASSIGN(UniqueFd fd, backing_.open(id, O_RDWR));
  auto shared = std::make_shared<UniqueFd>(std::move(fd));
  if (!entry || entry->opens == 0) return shared;  // an idle file keeps no descriptor
  std::lock_guard lock(cache_mutex_);
  if (!cache_index_.contains(id)) {
    cache_.emplace_front(id, shared);
    cache_index_[id] = cache_.begin();
    if (cache_.size() > kCachedDescriptors) {
      cache_index_.erase(cache_.back().first);
      cache_.pop_back();
    }
  }
  return shared;
}

Result<UniqueFd> FileTable::descriptor_to_pass(InodeId id, int flags) {
  if (!passthrough())
    return fail(EOPNOTSUPP, "files go through the page cache here, not to their backing files");
  // Under the lock the data of an open file cannot go, and open() make an empty file in its place.
  std::lock_guard lock(stripe(id));
  const auto entry = state_.find(id);
  if (!entry || entry->opens == 0 || (entry->flags & kStateDataGone) != 0)
    return fail(ESTALE, "the file is not open any more; open it again");
  return backing_.open(id, flags);
}

void FileTable::drop_descriptor(InodeId id) {
  std::lock_guard lock(cache_mutex_);
  auto found = cache_index_.find(id);
  if (found == cache_index_.end()) return;
  cache_.erase(found->second);
  cache_index_.erase(found);
}

void FileTable::recover(const std::vector<InodeId>& orphans) {
  std::vector<StateEntry> entries;
  state_.for_each([&](const StateEntry& entry) {
    if (entry.opens == 0) entries.push_back(entry);
  });
  for (InodeId id : orphans) {
    const auto inode = names_.get(id);
    if (inode && inode->nlink == 0) orphaned(id);  // a request sent again may have linked it
  }
  for (const StateEntry& seen : entries) {
    std::lock_guard lock(stripe(seen.id));
    const auto entry = state_.find(seen.id);
    if (!entry || entry->opens != 0) continue;
    if (entry->nlookup == 0) {
      drop_if_idle_locked(*entry);
    } else if (entry->backing_id != 0) {
      note_idle(entry->id);
    }
  }
}

void FileTable::note_idle(InodeId id) {
  std::lock_guard lock(idle_mutex_);
  if (!prune_) return;
  idle_.push_back(id);
  if (idle_.size() > idle_limit_) idle_changed_.notify_one();
}

// Asks the kernel to forget the files that were closed longest ago. A file that is mapped stays:
// it is not asked about again until its next close. Runs in its own thread, since the kernel may
// send requests of its own before it has taken the notification.
void FileTable::prune_loop() {
  std::unique_lock lock(idle_mutex_);
  for (;;) {
    idle_changed_.wait(lock, [this] { return stopping_ || idle_.size() > idle_limit_; });
    if (stopping_) return;
    std::vector<std::uint64_t> batch;
    while (!idle_.empty() && batch.size() < kPruneBatch) {
      const InodeId id = idle_.front();
      idle_.pop_front();
      const auto entry = state_.find(id);
      if (entry && entry->opens == 0 && entry->backing_id != 0) batch.push_back(id);
    }
    pruned_ += batch.size();
    lock.unlock();
    if (!batch.empty()) {
      proto::PruneOut body{static_cast<std::uint32_t>(batch.size()), 0, 0};
      const std::size_t bytes = batch.size() * sizeof batch[0];
      proto::OutHeader header{static_cast<std::uint32_t>(sizeof header + sizeof body + bytes),
                              proto::kNotifyPrune, 0};
      iovec parts[] = {{&header, sizeof header}, {&body, sizeof body}, {batch.data(), bytes}};
      if (writev(fuse_fd_, parts, 3) < 0)
        spdlog::debug("asking the kernel to forget files: {}", strerrordesc_np(errno));
    }
    lock.lock();
  }
}

FileTable::Counts FileTable::counts() const {
  Counts counts;
  state_.for_each([&](const StateEntry& entry) {
    ++counts.known;
    counts.open += entry.opens;
    counts.registered += entry.backing_id != 0 ? 1 : 0;
  });
  std::lock_guard lock(idle_mutex_);
  counts.pruned = pruned_;
  return counts;
}

}  // namespace btd
