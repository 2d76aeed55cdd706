#include "libbtd/cluster.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "alloc/crc.h"
#include "alloc/recoverable.h"
#include "libbtd/mutex.h"
#include "libbtd/no_signals.h"
#include "libbtd/reaching.h"
#include "libbtd/text.h"
#include "libbtd/thread_state.h"

namespace btd {
namespace {

// Journal lanes of a new heap: so many threads commit at once; they take an eighth of an arena at
// most.
constexpr std::uint32_t kMaxLanes = 16;
// Address space alone: an arena's file grows as it is used.
constexpr std::uint64_t kArenaBytes = kWindowBytes / HeapFiles::kMaxFiles;
constexpr std::chrono::milliseconds kMakeWait{10'000};
constexpr std::chrono::milliseconds kRecoveryWait{10'000};
constexpr std::chrono::milliseconds kRecoveryLook{5};

// Opens, closes, forks. Never destroyed: exit() closes heaps after static objects are gone.
std::mutex& open_mutex() {
  static std::mutex* const mutex = new std::mutex;
  return *mutex;
}

Heap::Options heap_options(std::uint64_t arena_bytes, const Settings& settings, unsigned window) {
  Heap::Options options;
  const std::uint64_t most =
      settings.max_bytes == 0 ? arena_bytes : std::min(arena_bytes, settings.max_bytes);
  options.lanes = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(most / 8 / options.lane_bytes, 1, kMaxLanes));
  options.window_gib = window_gib(window);
  return options;
}

HeapFiles::Plan files_plan(const Settings& settings, unsigned window, std::uint64_t arena_bytes) {
  return {.name = settings.heap,
          .window = window,
          .arena_bytes = arena_bytes,
          .max_bytes = settings.max_bytes,
          .flush = settings.flush,
          .fast_frees = !settings.watched || !frees_watched()};
}

std::unexpected<Error> no_heap_can_be_made(const std::string& directory, int code) {
  return fail(code, "No heap can be made in " + directory + " (" + strerrordesc_np(code) +
                        "); check its permissions.");
}

Result<UniqueFd> open_subdirectory(int dirfd, const std::string& name) {
  UniqueFd dir(openat(dirfd, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return fail(errno);
  return dir;
}

// One process of a user at a time, on all nodes, makes heaps in a directory. It locks a file, since
// locks of directories do not reach other nodes; the file is there as long as heaps are made. Heaps
// of other users cannot be opened, so these share nothing but the names.
class MakeLock {
 public:
  // Bounded: making a heap takes milliseconds.
  static Result<MakeLock> acquire(int dirfd, const std::string& path) {
    std::string name = ".btd-making-" + std::to_string(geteuid());
    for (const auto until = std::chrono::steady_clock::now() + kMakeWait;;) {
      UniqueFd file(openat(dirfd, name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
      if (!file) return cannot_open(path, name, errno);
      if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
        if (is_named(dirfd, name, file.get()))
          return MakeLock(dirfd, std::move(name), std::move(file));
      } else if (errno != EWOULDBLOCK && errno != EINTR) {
        return cannot_lock(path, name, errno);
      }
      if (std::chrono::steady_clock::now() > until)
        return fail(EBUSY, "Another process makes a heap in " + path + " for too long; end it.");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  ~MakeLock() {
    if (file_) unlinkat(dirfd_, name_.c_str(), 0);
  }
  MakeLock(MakeLock&&) = default;
  MakeLock& operator=(MakeLock&&) = delete;

 private:
  MakeLock(int dirfd, std::string name, UniqueFd file)
      : dirfd_(dirfd), name_(std::move(name)), file_(std::move(file)) {}

  static std::unexpected<Error> cannot_open(const std::string& path, const std::string& name,
                                            int code) {
    if (code != EHOSTUNREACH && code != ETIMEDOUT) return no_heap_can_be_made(path, code);
    return fail(code, "Nobody can make a heap in " + path + " until the home of " + name +
                          " is back, which a program left there; if it never comes back, remove "
                          "that file.");
  }
  static std::unexpected<Error> cannot_lock(const std::string& path, const std::string& name,
                                            int code) {
    return fail(code, path + "/" + name + " cannot be locked: " + strerrordesc_np(code) + ".");
  }

  // Who had it before may have removed it meanwhile.
  static bool is_named(int dirfd, const std::string& name, int file) {
    struct stat own{}, named{};
    return fstat(file, &own) == 0 &&
           fstatat(dirfd, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           own.st_ino == named.st_ino && own.st_dev == named.st_dev;
  }

  int dirfd_;
  std::string name_;
  UniqueFd file_;
};

// Calls visit(name) for what lies in the directory.
template <class Visit>
Status for_each_entry(int dirfd, Visit&& visit) {
  const int own = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const dir = own >= 0 ? fdopendir(own) : nullptr;
  if (dir == nullptr) return fail(errno, "The directory cannot be listed.");
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") visit(name);
  }
  closedir(dir);
  return {};
}

// What a crash left half made. It holds arenas and a lock, nothing deeper.
Status remove_remains(int dirfd, const std::string& name) {
  const Result<UniqueFd> dir = open_subdirectory(dirfd, name);
  if (!dir) return {};
  BTD_TRY(for_each_entry(dir->get(),
                         [&](const std::string& file) { unlinkat(dir->get(), file.c_str(), 0); }));
  if (unlinkat(dirfd, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
    return fail(errno, name + ", left by a crash, cannot be removed; remove it by hand.");
  }
  return {};
}

// A window that no heap of the directory has and this process does not use, beginning at a hash of
// the name, so that heaps of two directories seldom want the same.
Result<unsigned> choose_window(int dirfd, const std::string& name) {
  std::bitset<kWindows> taken;
  BTD_TRY(for_each_entry(dirfd, [&](const std::string& other) {
    const Result<UniqueFd> dir = open_subdirectory(dirfd, other);
    if (!dir) return;
    const auto identity = HeapFiles::identify(dir->get(), other);
    if (identity) taken.set(identity->window);
  }));
  for (unsigned i = 0; i < kWindows; ++i) {
    if (g_windows[i].load() != nullptr || g_readers[i].load() != nullptr) taken.set(i);
  }
  const std::uint32_t first = crc32c(name.data(), name.size());
  for (unsigned i = 0; i < kWindows; ++i) {
    const unsigned window = (first + i) % kWindows;
    if (taken.test(window)) continue;
    // Something else of this process may lie there: then the next one is as good.
    if (!reserve_window(window)) continue;
    release_window(window);
    return window;
  }
  return fail(EADDRINUSE,
              "All 16 address windows are taken by heaps of this directory or by this process; "
              "remove a heap, or make this one in another directory.");
}

struct Opened {
  UniqueFd dir;
  std::unique_ptr<HeapFiles> files;
  std::unique_ptr<Heap> heap;
};

// Makes the heap under another name, with its lock held, then gives it its own: so it is there
// whole, or not at all.
Result<Opened> make_heap(int parent, const Settings& settings) {
  const std::string fresh = "." + settings.heap + ".new";
  BTD_TRY(remove_remains(parent, fresh));
  BTD_ASSIGN(const unsigned window, choose_window(parent, settings.heap));
  if (mkdirat(parent, fresh.c_str(), 0700) != 0)
    return no_heap_can_be_made(settings.directory, errno);
  BTD_ASSIGN(UniqueFd dir, open_subdirectory(parent, fresh));
  const auto build = [&]() -> Result<Opened> {
    const std::uint64_t arena = settings.arena_bytes != 0 ? settings.arena_bytes : kArenaBytes;
    BTD_ASSIGN(const std::shared_ptr<HeapUsers> users, HeapUsers::open(dir.get(), settings.heap));
    BTD_ASSIGN(const Door door, Door::enter(*users));
    BTD_TRY(users->join());
    UniqueFd own(fcntl(dir.get(), F_DUPFD_CLOEXEC, 0));
    if (!own) return fail(errno);
    const Heap::Options options = heap_options(arena, settings, window);
    BTD_ASSIGN(auto files,
               HeapFiles::create(std::move(own), users, files_plan(settings, window, arena)));
    BTD_ASSIGN(auto heap, Heap::format(*files, options));
    if (renameat(parent, fresh.c_str(), parent, settings.heap.c_str()) != 0) {
      return fail(errno, "Heap " + settings.heap +
                             " cannot be given its name: " + strerrordesc_np(errno) + ".");
    }
    fsync(parent);  // EINVAL where a directory has nothing to sync
    return Opened{.dir = {}, .files = std::move(files), .heap = std::move(heap)};
  };
  Result<Opened> made = build();
  if (!made) {
    static_cast<void>(remove_remains(parent, fresh));
    return made;
  }
  made->dir = std::move(dir);
  return made;
}

btd_cluster* find_open(int dirfd) {
  struct stat status{};
  if (fstat(dirfd, &status) != 0) return nullptr;
  for (const auto& each : {std::span(g_windows), std::span(g_readers)}) {
    for (const auto& window : each) {
      btd_cluster* const cluster = window.load();
      if (cluster != nullptr && cluster->device == status.st_dev && cluster->inode == status.st_ino)
        return cluster;
    }
  }
  return nullptr;
}

Result<std::unique_ptr<btd_cluster>> open_reader(UniqueFd dir, const Settings& settings) {
  struct stat status{};
  if (fstat(dir.get(), &status) != 0) return fail(errno);
  auto cluster = std::make_unique<btd_cluster>();
  cluster->device = status.st_dev;
  cluster->inode = status.st_ino;
  cluster->name = settings.directory + "/" + settings.heap;
  BTD_ASSIGN(cluster->files,
             HeapFiles::open_to_read(std::move(dir), files_plan(settings, kWindows, 0)));
  cluster->base = cluster->files->base();
  return cluster;
}

Result<Opened> try_open_heap(const UniqueFd& dir, const Settings& settings) {
  BTD_ASSIGN(const std::shared_ptr<HeapUsers> users, HeapUsers::open(dir.get(), settings.heap));
  BTD_ASSIGN(const Door door, Door::enter(*users));
  BTD_TRY(users->join());
  UniqueFd own(fcntl(dir.get(), F_DUPFD_CLOEXEC, 0));
  if (!own) return fail(errno);
  BTD_ASSIGN(auto files, HeapFiles::open(std::move(own), users, files_plan(settings, kWindows, 0)));
  BTD_ASSIGN(auto heap, Heap::open(*files, Heap::Own::kFew));
  return Opened{.dir = {}, .files = std::move(files), .heap = std::move(heap)};
}

// Another process may have yet to recover the heap: that takes milliseconds, and a while for large
// ones.
Result<Opened> open_heap(UniqueFd dir, const Settings& settings) {
  const auto until = std::chrono::steady_clock::now() + kRecoveryWait;
  for (;;) {
    Result<Opened> opened = try_open_heap(dir, settings);
    if (opened) {
      opened->dir = std::move(dir);
      return opened;
    }
    if (opened.error().code != EAGAIN) return opened;
    if (std::chrono::steady_clock::now() > until) {
      return fail(EBUSY, "Heap " + settings.heap + ": " + opened.error().message);
    }
    std::this_thread::sleep_for(kRecoveryLook);
  }
}

Result<std::unique_ptr<btd_cluster>> make_cluster(Opened opened, const Settings& settings) {
  auto cluster = std::make_unique<btd_cluster>();
  struct stat status{};
  if (fstat(opened.dir.get(), &status) != 0) return fail(errno);
  cluster->device = status.st_dev;
  cluster->inode = status.st_ino;
  cluster->name = settings.directory + "/" + settings.heap;
  cluster->files = std::move(opened.files);
  cluster->owned = std::move(opened.heap);
  cluster->heap = cluster->owned.get();
  cluster->recoverable = &cluster->heap->recoverable();
  if (settings.watched) BTD_TRY(start_watching(*cluster, opened.dir.get()));
  cluster->base = cluster->files->base();
  cluster->gc_threads = settings.gc_threads;
  cluster->heap->set_pointer_bias(reinterpret_cast<std::uintptr_t>(cluster->base));
  cluster->at_open = cluster->files->persist().counters();
  BTD_ASSIGN(cluster->names, Names::open(*cluster->heap));
  if (settings.recover_at_open && cluster->heap->needs_recovery()) {
    BTD_ASSIGN(TypeLayouts types, cluster->names->layouts());
    cluster->recovery.start(*cluster->heap, std::move(types), settings.gc_threads);
  }
  watch_old_blocks(*cluster);
  return cluster;
}

// Handles that stay in the program's hands though their heap is gone. Never freed: calls with them
// are answered by an error.
void keep_handle(btd_cluster* cluster) {
  static auto* const kept = new std::vector<btd_cluster*>;
  kept->push_back(cluster);
}

// A child must not touch its parent's heaps: their memory is not mapped there (MADV_DONTFORK), and
// calls say so. What it inherited in DRAM is left alone: other threads may have been changing it.
void forget_after_fork() {
  for (unsigned window = 0; window < kWindows; ++window) {
    if (btd_cluster* const reader = g_readers[window].exchange(nullptr)) {
      g_inherited.fetch_or(1U << window);
      reader->files->forget();
      keep_handle(reader);
    }
    btd_cluster* const cluster = g_windows[window].exchange(nullptr);
    if (cluster == nullptr) continue;
    g_inherited.fetch_or(1U << window);
    forget_cells(window);
    cluster->heap = nullptr;
    cluster->recoverable = nullptr;
    cluster->recovery.forget();
    cluster->files->forget();
    keep_handle(cluster);
  }
  Recoverable::forget_thread();
  forget_transaction();
  forget_thread_id();
}

bool alone() {
  std::size_t tasks = 0;
  const UniqueFd dir(open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return false;
  const Status listed = for_each_entry(dir.get(), [&](const std::string&) { ++tasks; });
  return listed && tasks == 1;
}

// At exit(), after the program's own destructors: a heap that nobody can be using is closed. Where
// other threads still run it is left unclean, as they may change it after the last look.
[[gnu::destructor]] void close_at_exit() {
  const annotate::Quiet quiet;
  const std::lock_guard lock(open_mutex());
  for (auto& each : g_windows) {
    if (btd_cluster* const cluster = each.load()) static_cast<void>(cluster->recovery.wait());
  }
  if (!alone()) return;
  for (auto& each : g_windows) {
    btd_cluster* const cluster = each.load();
    if (cluster == nullptr || in_transaction(cluster)) continue;
    each.store(nullptr);
    cluster->heap = nullptr;
    cluster->recoverable = nullptr;
    finish_watching(*cluster);
    static_cast<void>(cluster->owned->close());
    keep_handle(cluster);
  }
}

void install_hooks() {
  static std::once_flag once;
  std::call_once(once, [] {
    // The locks are held across a fork, so that a child inherits no heap half open.
    pthread_atfork(
        [] {
          open_mutex().lock();
          thread_list_mutex().lock();
        },
        [] {
          thread_list_mutex().unlock();
          open_mutex().unlock();
        },
        [] {
          thread_list_mutex().unlock();
          forget_after_fork();
          open_mutex().unlock();
        });
  });
}

Result<Opened> open_or_make(int parent, const Settings& settings, btd_cluster*& known) {
  Result<UniqueFd> dir = open_subdirectory(parent, settings.heap);
  if (!dir && dir.error().code == ENOENT && settings.create && !settings.reader) {
    BTD_ASSIGN(const MakeLock lock, MakeLock::acquire(parent, settings.directory));
    dir = open_subdirectory(parent, settings.heap);  // made meanwhile?
    if (!dir && dir.error().code == ENOENT) return make_heap(parent, settings);
  }
  if (!dir) {
    const int code = dir.error().code;
    return fail(code, "Heap " + settings.heap + " in " + settings.directory +
                          " cannot be opened (" + strerrordesc_np(code) + ")" +
                          (code == ENOENT ? "; set config.create to make it." : "."));
  }
  known = find_open(dir->get());
  if (known != nullptr && is_reader(known) != settings.reader) {
    return fail(EADDRINUSE, "Heap " + settings.heap +
                                " is open in this process already, and not with the same "
                                "config.reader; use that handle, or close it.");
  }
  if (known != nullptr) return Opened{};
  if (settings.reader) return Opened{.dir = *std::move(dir), .files = {}, .heap = {}};
  return open_heap(*std::move(dir), settings);
}

}  // namespace

Result<btd_cluster*> open_cluster(const Settings& settings) {
  install_hooks();
  const std::lock_guard lock(open_mutex());
  BTD_ASSIGN(const UniqueFd parent, open_directory(settings));
  btd_cluster* known = nullptr;
  BTD_ASSIGN(Opened opened, open_or_make(parent.get(), settings, known));
  if (known != nullptr) {
    ++known->references;
    return known;
  }
  if (settings.reader) {
    BTD_ASSIGN(std::unique_ptr<btd_cluster> reader, open_reader(std::move(opened.dir), settings));
    reader->references = 1;
    g_readers[reader->files->window()].store(reader.get(), std::memory_order_release);
    return reader.release();
  }
  if (settings.map_on_touch) BTD_TRY(map_on_touch());
  BTD_ASSIGN(std::unique_ptr<btd_cluster> cluster, make_cluster(std::move(opened), settings));
  cluster->references = 1;
  g_inherited.fetch_and(~(1U << cluster->files->window()));
  g_windows[cluster->files->window()].store(cluster.get(), std::memory_order_release);
  return cluster.release();
}

Status close_cluster(btd_cluster* cluster) {
  const std::lock_guard lock(open_mutex());
  if (cluster->references > 1) {
    --cluster->references;
    return {};
  }
  if (is_reader(cluster)) {
    g_readers[cluster->files->window()].store(nullptr);
    delete cluster;
    return {};
  }
  if (in_transaction(cluster)) {
    return fail(EBUSY, "A transaction on heap " + cluster->name +
                           " is open; commit or abort it before closing the heap.");
  }
  // A heap that could not be recovered stays unclean, to be recovered by the next open.
  Status closed = cluster->recovery.wait();
  finish_watching(*cluster);
  if (closed) closed = cluster->owned->close();
  g_windows[cluster->files->window()].store(nullptr);
  delete cluster;
  return closed;
}

Status reclaim(btd_cluster& cluster) {
  BTD_ASSIGN(const TypeLayouts types, cluster.names->layouts());
  const NoSignals quiet;  // for the threads that mark
  const Marking::Options options{.threads = cluster.gc_threads, .types = &types};
  before_reclaim(cluster);
  if (cluster.heap->needs_recovery()) {
    BTD_TRY(cluster.heap->recover(options));
  } else {
    // Nobody comes meanwhile.
    BTD_ASSIGN(const Door door, Door::enter(cluster.files->users()));
    BTD_TRY(cluster.heap->collect());
    BTD_TRY(cluster.heap->recover(options));
  }
  after_reclaim(cluster);
  return {};
}

Error unusable(const btd_cluster* cluster) {
  if (cluster == nullptr) {
    return {.code = EINVAL, .message = "The heap's handle is NULL; open it first."};
  }
  if (is_reader(cluster)) {
    return {.code = EROFS,
            .message = "Heap " + cluster->name +
                       " is open to be read only; use it on the node that has it open."};
  }
  return {.code = EOWNERDEAD,
          .message =
              "The heap belongs to the parent process: after fork() a child must not use it; "
              "open another, or exec."};
}

btd_cluster* reader_of(const void* at, std::size_t bytes) {
  const std::uintptr_t window = window_of(at);
  if (window >= kWindows) return nullptr;
  btd_cluster* const cluster = g_readers[window].load(std::memory_order_acquire);
  if (cluster == nullptr) return nullptr;
  const std::uint64_t end = cluster->files->count() * cluster->files->arena_bytes();
  return bytes <= end && cluster->offset_of(at) <= end - bytes ? cluster : nullptr;
}

bool is_reader(const btd_cluster* cluster) {
  return cluster != nullptr &&
         std::ranges::any_of(g_readers, [&](const auto& each) { return each.load() == cluster; });
}

Error foreign(const void* at) {
  const std::uintptr_t window = window_of(at);
  if (const btd_cluster* const reader = reader_of(at, 0)) return unusable(reader);
  if (window < kWindows && (g_inherited.load() >> window & 1U) != 0) {
    return {.code = EOWNERDEAD,
            .message =
                "The pointer is into a heap of the parent process; after fork() a child must "
                "not use it."};
  }
  return {.code = EINVAL, .message = address_text(at) + " is not in any open heap."};
}

btd_cluster* cluster_holding(const void* at, std::size_t bytes) {
  btd_cluster* const cluster = cluster_of(at);
  if (cluster == nullptr) [[unlikely]] {
    set_error(foreign(at));
    return nullptr;
  }
  if (Status there = reach(*cluster, at, bytes); !there) [[unlikely]] {
    set_error(there.error());
    return nullptr;
  }
  if (!cluster->holds(at, bytes) || cluster->offset_of(at) < kPageBytes) [[unlikely]] {
    set_error(EINVAL, "The range is not inside the memory of heap " + cluster->name + ".");
    return nullptr;
  }
  return cluster;
}

}  // namespace btd
