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

// What StateEntry::suid_watch has of a backing file. Never 0. The file system below stamps a change
// after a stat with a new time, however soon.
std::uint32_t ctime_mark(const struct stat& backing) {
  const auto ns = static_cast<std::uint64_t>(Timestamp::from(backing.st_ctim).nanoseconds);
  return static_cast<std::uint32_t>(ns ^ (ns >> 32)) | 1U;
}

}  // namespace

FileTable::FileTable(StateTable& state, Namespace& names, const BackingStore& backing,
                     unsigned idle_limit, std::optional<NodeId> node, HomeOf home_of)
    : state_(state),
      names_(names),
      backing_(backing),
      erasure_(names, backing, node.has_value()),
      idle_limit_(idle_limit),
      node_(node.value_or(0)),
      home_of_(std::move(home_of)) {}

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

Result<int> FileTable::open(std::uint32_t slot, InodeId id, int dlookup, int fd, bool at_home,
                            bool passes_through) {
  Lock lock(stripe(id));
  BTD_TRY(stays_locked(lock, id));
  if (is_home(id) != at_home) return fail(ESTALE);
  used_locked(id);
  const auto entry = state_.find(id);
  if (entry && (entry->flags & kStateDataGone) != 0) return fail(ESTALE);
  int backing_id = entry ? entry->backing_id : 0;
  if (passes_through && passthrough() && backing_id == 0 && at_home) {
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

Status FileTable::watch_writes(InodeId id) {
  if (!is_home(id)) return {};  // all writes to it come to the daemons
  const auto entry = state_.find(id);
  if (!entry || entry->opens == 0) return {};
  BTD_ASSIGN(const struct stat backing, backing_.stat(id));
  state_.set_suid_watch(id, ctime_mark(backing));
  return {};
}

Result<std::optional<Inode>> FileTable::notice_writes(InodeId id, const struct stat& backing) {
  const auto entry = state_.find(id);
  if (!entry || entry->suid_watch == 0 || !is_home(id)) return std::nullopt;
  if (entry->suid_watch == ctime_mark(backing)) return std::nullopt;
  // No tag: no request asked for this, and doing it twice is harmless.
  BTD_ASSIGN(const Inode dropped, names_.change(id, {.clear_suid = true}, {}));
  state_.set_suid_watch(id, 0);
  return dropped;
}

// The kernel may forget it, or it may be moved, before anybody looks at its bits.
void FileTable::notice_at_close(InodeId id) {
  const auto entry = state_.find(id);
  if (!entry || entry->suid_watch == 0) return;
  const auto backing = backing_.stat(id);
  if (!backing) return;
  if (const auto noticed = notice_writes(id, *backing); !noticed)
    spdlog::warn("file {} keeps its setuid bit, though it was written: {}", id,
                 noticed.error().message);
}

void FileTable::release(std::uint32_t slot, InodeId id) {
  notice_at_close(id);
  std::lock_guard lock(stripe(id));
  auto entry = state_.add(slot, id, 0, -1);
  if (!entry || entry->opens != 0) return;
  drop_descriptor(id);
  if ((entry->flags & kStateOrphan) != 0 && passthrough() && !is_held_locked(id)) {
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
  if (!is_home(id)) return;  // its home hears of it
  std::lock_guard lock(stripe(id));
  orphaned_locked(id);
}

void FileTable::orphaned_locked(InodeId id) {
  const auto entry = state_.set_flags(id, kStateOrphan);
  if (is_held_locked(id)) return;
  if (!entry) {
    (void)remove_data(id);
    erasure_.add(id);
  } else if (entry->opens == 0 && passthrough()) {
    drop_data_locked(*entry);
  }
}

void FileTable::named(InodeId id) {
  std::lock_guard lock(stripe(id));
  (void)state_.clear_flags(id, kStateOrphan);
}

bool FileTable::is_held_locked(InodeId id) const { return held_[id % kStripes].contains(id); }

bool FileTable::is_nameless(InodeId id) const {
  const auto inode = names_.get(id);
  return inode ? inode->nlink == 0 : inode.error().code == ENOENT;
}

Status FileTable::hold(InodeId id) {
  Lock lock(stripe(id));
  BTD_TRY(stays_locked(lock, id));
  if (!is_home(id)) return fail(EXDEV, "the file was moved just now");
  if (is_gone_locked(id)) return fail(ESTALE);
  ++held_[id % kStripes][id];
  return {};
}

// The kernel here may have forgotten it meanwhile, so the namespace says whether it has a name.
void FileTable::unhold(InodeId id) {
  std::lock_guard lock(stripe(id));
  auto& held = held_[id % kStripes];
  const auto found = held.find(id);
  if (found == held.end() || --found->second != 0) return;
  held.erase(found);
  used_locked(id);  // who wanted to move it is gone
  if (is_home(id) && is_nameless(id)) orphaned_locked(id);
}

bool FileTable::is_gone_locked(InodeId id) const {
  const auto entry = state_.find(id);
  return entry ? (entry->flags & kStateDataGone) != 0 : !names_.get(id);
}

Result<UniqueFd> FileTable::descriptor_for_peers(InodeId id) {
  Lock lock(stripe(id));
  BTD_TRY(stays_locked(lock, id));
  if (!is_home(id)) return fail(EXDEV, "the file was moved just now");
  if (is_gone_locked(id)) return fail(ESTALE);
  return backing_.open(id, O_RDWR);
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

Status FileTable::remove_data(InodeId id) const {
  BTD_TRY(backing_.remove(id));
  if (gone_) gone_(id);
  return {};
}

void FileTable::drop_data_locked(const StateEntry& entry) {
  if ((entry.flags & kStateDataGone) == 0) (void)state_.set_flags(entry.id, kStateDataGone);
  close_backing_locked(entry);
  if (auto removed = remove_data(entry.id); !removed)
    spdlog::warn("the data of file {} stays until the next mount: {}", entry.id,
                 strerrordesc_np(removed.error().code));
}

void FileTable::drop_if_idle_locked(const StateEntry& entry) {
  close_backing_locked(entry);
  if ((entry.flags & kStateOrphan) != 0 && !is_held_locked(entry.id)) {
    drop_descriptor(entry.id);
    if ((entry.flags & kStateDataGone) == 0) (void)remove_data(entry.id);
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
  Lock lock(stripe(id));
  BTD_TRY(stays_locked(lock, id));
  if (!is_home(id)) return fail(ESTALE);
  used_locked(id);
  const auto entry = state_.find(id);
  if (entry && (entry->flags & kStateDataGone) != 0) return fail(ESTALE);
  BTD_ASSIGN(UniqueFd fd, backing_.open(id, O_RDWR));
  lock.unlock();
  auto shared = std::make_shared<UniqueFd>(std::move(fd));
  if (!entry || entry->opens == 0) return shared;  // an idle file keeps no descriptor
  std::lock_guard cache_lock(cache_mutex_);
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
  if (!is_home(id) || !entry || entry->opens == 0 || (entry->flags & kStateDataGone) != 0)
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
