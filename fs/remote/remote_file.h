// What RemoteFiles knows of one open file; its own header because two files of code use it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "fs/remote/remote_files.h"

namespace btd::remote {

// What home said at one time. Shared by all threads: a region's key is good on any connection.
struct RemoteFiles::Attachment {
  net::RegionDescriptor region;
  std::uint64_t size = 0;   // the region's too, if there is one
  bool is_for_now = false;  // there may be a region in a moment

  [[nodiscard]] bool has(std::uint64_t end, std::uint32_t access) const {
    return region.key != 0 && end <= region.length && (region.access & access) != 0;
  }
};

struct RemoteFiles::View {
  std::shared_ptr<const Attachment> attachment;  // null: home is to be asked
  std::uint64_t known_size = 0;
};

struct RemoteFiles::File {
  File(InodeId file, std::uint64_t born, NodeId at) : id(file), generation(born), home_(at) {}

  const InodeId id;
  const std::uint64_t generation;
  // It stays while the file is open: what home said counts there only.
  [[nodiscard]] NodeId home() const { return home_.load(std::memory_order_relaxed); }
  // The file was moved before it was open. What it was before.
  NodeId set_home(NodeId home) { return home_.exchange(home, std::memory_order_relaxed); }

  [[nodiscard]] View view() {
    const std::lock_guard lock(mutex);
    return {.attachment = attachment, .known_size = known_size};
  }
  // Whether its size is what the open that is the latest learned, and nobody has relied on that
  // yet.
  [[nodiscard]] bool take_fresh() {
    const std::lock_guard lock(mutex);
    return std::exchange(is_fresh, false);
  }
  // If it still is what it was.
  void drop(const std::shared_ptr<const Attachment>& old) {
    const std::lock_guard lock(mutex);
    if (attachment == old) attachment = nullptr;
  }
  void drop_for(std::uint64_t size) {
    const std::lock_guard lock(mutex);
    attachment = nullptr;
    known_size = size;
    is_fresh = false;
  }
  void grown_to(std::uint64_t size) {
    const std::lock_guard lock(mutex);
    known_size = std::max(known_size, size);
    is_fresh = false;
  }

  std::mutex mutex;  // of the rest
  std::size_t opens = 0;
  bool is_attached = false;  // it once was
  bool is_writable = false;
  bool is_dirty = false;  // written since the last flush
  bool is_fresh = false;
  std::uint64_t known_size = 0;           // of the last answer that told it
  std::uint64_t asked = 0, answered = 0;  // attaches, so that an older answer replaces no newer one
  std::shared_ptr<const Attachment> attachment;

 private:
  std::atomic<NodeId> home_;
};

}  // namespace btd::remote
