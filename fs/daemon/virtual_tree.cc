#include "fs/daemon/virtual_tree.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fs/daemon/server.h"
#include "fs/daemon/status.h"

namespace btd {

std::optional<InodeId> VirtualTree::lookup(std::string_view name) {
  for (const Name& known : kNames)
    if (known.name == name) return known.id;
  return std::nullopt;
}

std::optional<struct stat> VirtualTree::attributes(InodeId id) const {
  if (id > kTrace) return std::nullopt;
  struct stat st{};
  st.st_ino = id;
  st.st_uid = getuid();
  st.st_gid = getgid();
  st.st_blksize = 4096;
  clock_gettime(CLOCK_REALTIME, &st.st_mtim);
  st.st_atim = st.st_ctim = st.st_mtim;
  if (id == kDir) {
    st.st_mode = S_IFDIR | 0555;
    st.st_nlink = 2;
  } else {
    st.st_mode = S_IFREG | (id == kTrace ? 0400 : 0444);  // names of files are not for everybody
    st.st_nlink = 1;
    st.st_size = static_cast<off_t>(render(id).size());
  }
  return st;
}

std::string VirtualTree::render(InodeId id) const {
  if (id == kStatus) return status_text(server_);
  if (id == kStatusJson) return status_json(server_);
  return trace_text(server_);
}

std::uint64_t VirtualTree::open(InodeId id) {
  auto text = std::make_shared<const std::string>(render(id));
  std::lock_guard lock(mutex_);
  if (snapshots_.size() >= kMaxSnapshots) return 0;
  // Handles of different workers differ, so that an old one is never taken for a new one.
  const std::uint64_t number = next_++ & ((std::uint64_t{1} << kNumberBits) - 1);
  const std::uint64_t handle = static_cast<std::uint64_t>(getpid()) << (kNumberBits + kLengthBits) |
                               number << kLengthBits |
                               std::min<std::uint64_t>(text->size(), kMaxLength);
  snapshots_[handle] = std::move(text);
  return handle;
}

void VirtualTree::release(std::uint64_t handle) {
  std::lock_guard lock(mutex_);
  snapshots_.erase(handle);
}

Result<std::shared_ptr<const std::string>> VirtualTree::text(InodeId id, std::uint64_t handle,
                                                             std::size_t offset) {
  {
    std::lock_guard lock(mutex_);
    if (auto found = snapshots_.find(handle); found != snapshots_.end()) return found->second;
  }
  if (handle != 0 && offset > 0) {
    if (offset < (handle & kMaxLength)) return fail(ESTALE);
    return std::make_shared<const std::string>();
  }
  auto fresh = std::make_shared<const std::string>(render(id));
  std::lock_guard lock(mutex_);
  if (handle != 0 && snapshots_.size() < kMaxSnapshots) snapshots_[handle] = fresh;
  return fresh;
}

}  // namespace btd
