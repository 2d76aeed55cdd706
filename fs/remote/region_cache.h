// RegionCache: which files of this node are mapped and registered for peers, and for how long.
//
// One region a file, of exactly its size, shared by all peers. It is made when a peer attaches, and
// goes when the file's size changes, a fault broke it, others need its place, or nobody has used it
// for a while. A peer whose region went gets EACCES and attaches again. Who is about to shorten a
// file, or to punch holes into it, holds it unmapped meanwhile.
// Thread-safety: any thread but the engine's, whose help every change needs. Lock: mutex_, never
// held over a system call or a wait for the engine; one thread at a time works on an entry.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "fs/namespace/inode.h"
#include "fs/remote/engine_thread.h"
#include "fs/remote/mapping.h"

namespace btd::remote {

struct RegionLimits {
  std::size_t files = 1024;
  std::uint64_t bytes = std::uint64_t{1} << 44;  // of address space
  Clock::duration idle = std::chrono::seconds(30);
  Clock::duration patience = std::chrono::seconds(5);  // with peers that stall, and the engine
};

class RegionCache {
 public:
  // Both outlive this.
  RegionCache(net::Engine& engine, EngineThread& thread, RegionLimits limits);
  RegionCache(const RegionCache&) = delete;
  RegionCache& operator=(const RegionCache&) = delete;
  ~RegionCache();

  struct Attached {
    net::RegionDescriptor region;  // key 0: not one-sided
    bool is_for_now = false;       // it may be in a moment
    struct stat facts{};
  };
  // Errors: those of fstat; ETIMEDOUT, EBUSY. What can't be mapped is no error.
  Result<Attached> attach(InodeId id, int fd);
  // No peer holds it any more: it goes after a while.
  void unused(InodeId id);
  // Its data are gone: it goes soon, for it keeps their space.
  void gone(InodeId id);

  // As long as it lives, the file has no region. Move-only.
  class Unmapped {
   public:
    Unmapped(Unmapped&& other) noexcept
        : cache_(std::exchange(other.cache_, nullptr)), id_(other.id_) {}
    Unmapped& operator=(Unmapped&&) = delete;
    Unmapped(const Unmapped&) = delete;
    Unmapped& operator=(const Unmapped&) = delete;
    ~Unmapped() {
      if (cache_ != nullptr) cache_->allow(id_);
    }

   private:
    friend class RegionCache;
    Unmapped(RegionCache& cache, InodeId id) : cache_(&cache), id_(id) {}
    RegionCache* cache_;
    InodeId id_;
  };
  // Errors: ETIMEDOUT, EBUSY a peer's transfer or the engine takes too long.
  Result<Unmapped> unmap(InodeId id);

  [[nodiscard]] std::size_t mapped() const;  // files
  [[nodiscard]] std::uint64_t broken() const { return broken_.load(std::memory_order_relaxed); }

  // First: nothing goes by itself any more. Then, when no other call is under way and is_tidying()
  // is false, which may need the engine: end() on its thread. All regions go, their memory when the
  // engine has let go of it.
  void stop_tidying();
  [[nodiscard]] bool is_tidying() const { return is_tidying_.load(std::memory_order_acquire); }
  void end();

 private:
  struct Entry {
    std::shared_ptr<Mapping> mapping;  // null: none
    net::RegionDescriptor region;
    Clock::time_point used;
    std::optional<Clock::time_point> unused_since;
    unsigned unmapped = 0;  // how many want it unmapped
    bool is_busy = false;   // a thread works on it
  };

  // Its entry, kept from other threads until given back. Errors: ETIMEDOUT.
  Result<Entry*> take(InodeId id, Deadline deadline);
  void give_back(InodeId id);
  void allow(InodeId id);
  void forget_if_empty_locked(InodeId id);
  [[nodiscard]] bool is_unmapped(const Entry& entry) const;
  // Of an entry that was taken.
  Status make_region(Entry& entry, int fd, const struct stat& facts, Deadline deadline);
  Status drop_region(Entry& entry, Deadline deadline);
  // Drops others, longest not attached first, until there is room.
  void make_room(std::uint64_t bytes, Deadline deadline);
  std::optional<InodeId> victim();
  void drop(InodeId id, Deadline deadline);
  std::vector<InodeId> due_locked(Clock::time_point now);
  std::optional<Clock::time_point> next_due_locked() const;
  void tidy();

  net::Engine& engine_;
  EngineThread& thread_;
  const RegionLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<InodeId, Entry> entries_;
  std::size_t files_ = 0;
  std::uint64_t bytes_ = 0;
  std::atomic<std::uint64_t> broken_{0};
  bool is_stopping_ = false;
  const std::shared_ptr<sem_t> told_;  // of a fault, an unused region, the end
  std::atomic<bool> is_tidying_{true};
  std::thread tidier_;
};

}  // namespace btd::remote
