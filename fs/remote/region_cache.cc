#include "fs/remote/region_cache.h"

#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace btd::remote {

namespace {

constexpr net::Time kAgain = std::chrono::milliseconds(1);  // to an engine that still uses a region

// On the engine's thread. The mapping lives until the engine has let go, which it does in bounded
// time: it breaks the connections of peers that stall.
void let_go(net::Engine& engine, std::shared_ptr<Mapping> mapping, std::uint64_t key,
            EngineThread::Finish finish) {
  const Status gone = engine.deregister_region(key);
  if (!gone && gone.error().code == EBUSY) {
    engine.at(engine.now() + kAgain,
              [&engine, mapping = std::move(mapping), key, finish = std::move(finish)] {
                let_go(engine, mapping, key, finish);
              });
    return;
  }
  if (finish) finish();
}

std::shared_ptr<sem_t> make_semaphore() {
  std::shared_ptr<sem_t> made(new sem_t, [](sem_t* semaphore) {
    ::sem_destroy(semaphore);
    delete semaphore;
  });
  ::sem_init(made.get(), 0, 0);
  return made;
}

}  // namespace

RegionCache::RegionCache(net::Engine& engine, EngineThread& thread, RegionLimits limits)
    : engine_(engine), thread_(thread), limits_(limits), told_(make_semaphore()) {
  tidier_ = std::thread([this] { tidy(); });
}

RegionCache::~RegionCache() {
  stop_tidying();
  end();
}

Result<RegionCache::Entry*> RegionCache::take(InodeId id, Deadline deadline) {
  std::unique_lock lock(mutex_);
  // Looked up again each time: an entry goes when nobody needs it.
  while (entries_[id].is_busy)
    if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && entries_[id].is_busy)
      return fail(ETIMEDOUT, "A file of this node could not be mapped for peers in time.");
  Entry& entry = entries_[id];  // its place does not move
  entry.is_busy = true;
  return &entry;
}

void RegionCache::give_back(InodeId id) {
  const std::lock_guard lock(mutex_);
  entries_[id].is_busy = false;
  forget_if_empty_locked(id);
  changed_.notify_all();
}

void RegionCache::forget_if_empty_locked(InodeId id) {
  const auto found = entries_.find(id);
  const Entry& entry = found->second;
  if (!entry.mapping && entry.unmapped == 0 && !entry.is_busy) entries_.erase(found);
}

Result<RegionCache::Attached> RegionCache::attach(InodeId id, int fd) {
  const Deadline deadline = Clock::now() + limits_.patience;
  BTD_ASSIGN(Entry* const entry, take(id, deadline));
  const auto attached = [&]() -> Result<Attached> {
    Attached done;
    if (::fstat(fd, &done.facts) != 0) return fail(errno);
    const bool is_good =
        entry->mapping && !entry->mapping->is_broken() && entry->mapping->is_of(done.facts);
    const bool is_fit = Mapping::is_whole(done.facts) &&
                        static_cast<std::uint64_t>(done.facts.st_size) <= limits_.bytes;
    const bool is_wanted = is_fit && !is_unmapped(*entry);
    done.is_for_now = is_fit;
    if (entry->mapping && (!is_good || !is_wanted)) BTD_TRY(drop_region(*entry, deadline));
    if (!is_wanted) return done;
    if (!is_good && !make_region(*entry, fd, done.facts, deadline)) return done;
    const std::lock_guard lock(mutex_);
    entry->used = Clock::now();
    entry->unused_since.reset();
    done.region = entry->region;
    done.is_for_now = false;
    return done;
  }();
  give_back(id);
  return attached;
}

Status RegionCache::make_region(Entry& entry, int fd, const struct stat& facts, Deadline deadline) {
  const auto bytes = static_cast<std::uint64_t>(facts.st_size);
  make_room(bytes, deadline);
  BTD_ASSIGN(const std::shared_ptr<Mapping> mapping, Mapping::make(fd, facts, told_));
  const std::uint32_t access =
      net::kRemoteRead | (mapping->is_written_one_sided() ? net::kRemoteWrite : 0U);
  auto made = std::make_shared<Result<net::RegionDescriptor>>(fail(ETIMEDOUT));
  const Status ran = thread_.run(
      [&engine = engine_, mapping, access, made](const EngineThread::Finish& finish) {
        *made = engine.register_region(mapping->memory(), access, &mapping->persist());
        finish();
      },
      deadline);
  if (!ran) {
    // It may just have been registered.
    if (ran.error().code == EBUSY)
      thread_.post([&engine = engine_, mapping, made] {
        if (*made) let_go(engine, mapping, (*made)->key, {});
      });
    return ran;
  }
  BTD_ASSIGN(const net::RegionDescriptor region, *made);
  const std::lock_guard lock(mutex_);
  entry.mapping = mapping;
  entry.region = region;
  ++files_;
  bytes_ += bytes;
  return {};
}

Status RegionCache::drop_region(Entry& entry, Deadline deadline) {
  std::shared_ptr<Mapping> mapping;
  {
    const std::lock_guard lock(mutex_);
    mapping = std::exchange(entry.mapping, nullptr);
    if (!mapping) return {};
    --files_;
    bytes_ -= mapping->memory().size();
    entry.unused_since.reset();
  }
  const std::uint64_t key = entry.region.key;
  const Status gone =
      thread_.run([&engine = engine_, mapping, key](
                      const EngineThread::Finish& finish) { let_go(engine, mapping, key, finish); },
                  deadline);
  // It was not even begun: later, then.
  if (!gone && gone.error().code == ETIMEDOUT)
    thread_.post([&engine = engine_, mapping, key] { let_go(engine, mapping, key, {}); });
  if (mapping->is_broken()) broken_.fetch_add(1, std::memory_order_relaxed);
  return gone;
}

Result<RegionCache::Unmapped> RegionCache::unmap(InodeId id) {
  const Deadline deadline = Clock::now() + limits_.patience;
  BTD_ASSIGN(Entry* const entry, take(id, deadline));
  {
    const std::lock_guard lock(mutex_);
    ++entry->unmapped;
  }
  Unmapped held(*this, id);
  const Status gone = drop_region(*entry, deadline);
  give_back(id);
  BTD_TRY(gone);
  return held;
}

// allow() asks nobody whether the entry is busy.
bool RegionCache::is_unmapped(const Entry& entry) const {
  const std::lock_guard lock(mutex_);
  return entry.unmapped > 0;
}

void RegionCache::allow(InodeId id) {
  const std::lock_guard lock(mutex_);
  --entries_[id].unmapped;
  forget_if_empty_locked(id);
}

void RegionCache::unused(InodeId id) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end() || !found->second.mapping || found->second.unused_since) return;
  found->second.unused_since = Clock::now();
  ::sem_post(told_.get());
}

void RegionCache::gone(InodeId id) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end() || !found->second.mapping) return;
  found->second.unused_since = Clock::now() - limits_.idle;
  ::sem_post(told_.get());
}

std::size_t RegionCache::mapped() const {
  const std::lock_guard lock(mutex_);
  return files_;
}

// --- What goes by itself ---

std::optional<InodeId> RegionCache::victim() {
  const std::lock_guard lock(mutex_);
  const auto order = [](const auto& one) {
    const Entry& entry = one.second;
    return std::tuple{!entry.mapping || entry.is_busy, !entry.unused_since.has_value(), entry.used};
  };
  const auto found = std::ranges::min_element(entries_, {}, order);
  if (found == entries_.end() || !found->second.mapping || found->second.is_busy)
    return std::nullopt;
  return found->first;
}

void RegionCache::make_room(std::uint64_t bytes, Deadline deadline) {
  const auto is_full = [&] {
    const std::lock_guard lock(mutex_);
    return files_ >= limits_.files || bytes_ > limits_.bytes - std::min(bytes, limits_.bytes);
  };
  while (is_full() && Clock::now() < deadline) {
    const auto id = victim();
    if (!id) return;
    drop(*id, deadline);
  }
}

void RegionCache::drop(InodeId id, Deadline deadline) {
  auto entry = take(id, deadline);
  if (!entry) return;
  static_cast<void>(drop_region(**entry, deadline));
  give_back(id);
}

std::vector<InodeId> RegionCache::due_locked(Clock::time_point now) {
  std::vector<InodeId> due;
  for (const auto& [id, entry] : entries_) {
    if (!entry.mapping || entry.is_busy) continue;
    const bool is_old = entry.unused_since && *entry.unused_since + limits_.idle <= now;
    if (is_old || entry.mapping->is_broken()) due.push_back(id);
  }
  return due;
}

std::optional<Clock::time_point> RegionCache::next_due_locked() const {
  std::optional<Clock::time_point> next;
  for (const auto& [id, entry] : entries_)
    if (entry.mapping && entry.unused_since)
      next = std::min(next.value_or(Clock::time_point::max()), *entry.unused_since + limits_.idle);
  return next;
}

void RegionCache::tidy() {
  for (;;) {
    std::vector<InodeId> due;
    std::optional<Clock::time_point> next;
    {
      const std::lock_guard lock(mutex_);
      if (is_stopping_) break;
      due = due_locked(Clock::now());
      next = next_due_locked();
    }
    // One that a peer attached again meanwhile goes too: it attaches once more.
    for (const InodeId id : due) drop(id, Clock::now() + limits_.patience);
    if (!due.empty()) continue;
    if (!next) {
      while (::sem_wait(told_.get()) != 0) {
      }
      continue;
    }
    // The semaphore's clock is the wall's: if that is set, an unused region goes early or late.
    timespec until{};
    ::clock_gettime(CLOCK_REALTIME, &until);
    const auto left =
        std::max(std::chrono::nanoseconds(*next - Clock::now()), std::chrono::nanoseconds(1));
    const auto at =
        std::chrono::seconds(until.tv_sec) + std::chrono::nanoseconds(until.tv_nsec) + left;
    until.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(at).count();
    until.tv_nsec = (at - std::chrono::seconds(until.tv_sec)).count();
    while (::sem_timedwait(told_.get(), &until) != 0 && errno == EINTR) {
    }
  }
  is_tidying_.store(false, std::memory_order_release);
}

void RegionCache::stop_tidying() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  ::sem_post(told_.get());
}

void RegionCache::end() {
  if (!tidier_.joinable()) return;
  tidier_.join();
  for (auto& [id, entry] : entries_)
    if (entry.mapping) let_go(engine_, std::move(entry.mapping), entry.region.key, {});
  entries_.clear();
}

}  // namespace btd::remote
