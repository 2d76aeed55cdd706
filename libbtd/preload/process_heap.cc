#include "libbtd/preload/process_heap.h"

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "alloc/heap.h"
#include "libbtd/cluster.h"
#include "libbtd/preload/flush.h"
#include "libbtd/preload/glibc.h"
#include "libbtd/preload/private_arenas.h"
#include "libbtd/windows.h"

namespace btd::preload {

constinit Window g_window;
thread_local constinit Thread t_thread{};

namespace {

// Nothing of contract T is used, so the journal is as small as it may be.
constexpr Heap::Options kOptions{
    .lanes = 1,
    .lane_bytes = 4 * kPageBytes,
    .window_gib = static_cast<std::uint32_t>(
        (kRegion + (std::uintptr_t{kPrivateWindow} << kWindowShift)) >> 30)};

struct ProcessHeap {
  std::unique_ptr<PrivateArenas> arenas;  // null: the heap is a kept one
  std::unique_ptr<Heap> own;
  btd_cluster* kept = nullptr;
  Heap* heap = nullptr;
  std::size_t largest = 0;             // block that an arena holds
  std::atomic<bool> allocates{false};  // else it only takes back
  bool frozen = true;                  // the last fork's child has a private view
  unsigned forks = 0;
  std::atomic<std::uint64_t> from_system{0};  // blocks that the C library gave instead
};
// Never destroyed: exit handlers and other libraries' destructors still allocate.
constinit ProcessHeap* g_process = nullptr;

[[gnu::format(printf, 1, 2)]] void say(const char* format, ...) {
  std::array<char, 512> line{};
  va_list arguments;
  va_start(arguments, format);
  const int len = std::vsnprintf(line.data(), line.size() - 1, format, arguments);
  va_end(arguments);
  const std::size_t put = std::min<std::size_t>(line.size() - 2, static_cast<std::size_t>(len));
  line.at(put) = '\n';
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), put + 1);
}

bool is_set(const char* variable) {
  const char* const value = secure_getenv(variable);
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

// An errno and the memory of libraries stay as they are for who calls free().
class KeepErrno {
 public:
  KeepErrno() : errno_(errno) {}
  ~KeepErrno() { errno = errno_; }
  KeepErrno(const KeepErrno&) = delete;
  KeepErrno& operator=(const KeepErrno&) = delete;

 private:
  const int errno_;
};

[[noreturn]] void die(const char* call, const void* block, const std::string& why) {
  say("libbtd_malloc: %s: invalid pointer %p: %s", call, block, why.c_str());
  abort();
}

void release(void* block) {
  const Status released = g_process->heap->release(offset_of(block));
  if (!released && released.error().code == EINVAL) die("free()", block, released.error().message);
}

void enter() {
  ++t_thread.inside;
  t_thread.serving = nullptr;
}

void leave() {
  while (t_thread.deferred != nullptr) {
    void* const block = t_thread.deferred;
    std::memcpy(static_cast<void*>(&t_thread.deferred), block, sizeof(void*));
    release(block);
  }
  if (--t_thread.inside > 0) return;
  if (g_process->allocates.load(std::memory_order_relaxed))
    t_thread.serving = &g_process->heap->recoverable();
}

// While one of these lives, this thread's allocations come from the C library: what the heap's own
// code calls must not come back to the heap.
class Inside {
 public:
  Inside() { enter(); }
  ~Inside() { leave(); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

void* from_system(std::size_t bytes, std::size_t alignment) {
  if (g_process != nullptr && t_thread.inside == 0) ++g_process->from_system;
  return alignment > alignof(std::max_align_t) ? __libc_memalign(alignment, bytes)
                                               : __libc_malloc(bytes);
}

Result<Offset> take(std::size_t bytes, std::size_t alignment) {
  const Inside inside;
  try {
    return g_process->heap->allocate(alignment > alignof(std::max_align_t)
                                         ? aligned_bytes(alignment, bytes)
                                         : std::max<std::size_t>(bytes, 1));
  } catch (const std::bad_alloc&) {
    return fail(ENOSPC, "The process has no memory left.");
  }
}

}  // namespace

void* allocate_slowly(std::size_t bytes, std::size_t alignment) {
  if (g_process == nullptr || t_thread.inside != 0 ||
      !g_process->allocates.load(std::memory_order_relaxed))
    return from_system(bytes, alignment);
  if (bytes > g_process->largest || alignment > kSegmentBytes) return from_system(bytes, alignment);
  const int before = errno;
  const Result<Offset> block = take(bytes, alignment);
  if (block) {
    errno = before;
    return address_of(*block);
  }
  if (block.error().code != ENOSPC) {
    // The heap cannot grow where it lies: after a change of user or of root directory, for one.
    static std::atomic<bool> told{false};
    if (!told.exchange(true) && !is_set("BTD_QUIET")) {
      say("libbtd_malloc: the heap cannot grow (%s) The C library's allocator serves instead.",
          block.error().message.c_str());
    }
    errno = before;
    return from_system(bytes, alignment);
  }
  errno = ENOMEM;
  return nullptr;
}

void free_slowly(void* block) {
  const KeepErrno keep;
  if (t_thread.inside != 0) {
    std::memcpy(block, static_cast<const void*>(&t_thread.deferred), sizeof(void*));
    t_thread.deferred = block;
    return;
  }
  const Inside inside;
  release(block);
}

std::size_t usable_size(const void* block, const char* call) {
  const Slot slot = g_process->heap->block_of(offset_of(block));
  if (slot.segment != nullptr && slot.offset() == offset_of(block)) return slot.bytes();
  const Inside inside;
  die(call, block, "no block of the heap begins there.");
}

Usage usage() {
  if (g_process == nullptr) return {};
  const Inside inside;
  g_process->heap->pause();
  const std::uint64_t used = g_process->heap->recoverable().live_bytes();
  g_process->heap->resume();
  if (g_process->arenas != nullptr)
    return {.reserved = g_process->arenas->reserved_bytes(), .used = used};
  return {.reserved = g_process->heap->stats().total_bytes, .used = used};
}

namespace {

Result<Settings> place(const char* name) {
  btd_config config{};
  config.single_node = 1;
  BTD_ASSIGN(Settings settings, read_config(config));
  if (name == nullptr) return settings;
  // The same directory, and all that is said of a name.
  btd_config named{};
  named.directory = settings.directory.c_str();
  named.heap = name;
  named.create = 1;
  named.durability = is_set("BTD_MALLOC_DURABLE") ? BTD_DURABLE : BTD_PROCESS;
  named.gc = BTD_GC_MANUAL;
  named.gc_threads = 1;
  BTD_ASSIGN(Settings kept, read_config(named));
  kept.own_directory = settings.own_directory;
  kept.watched = false;
  return kept;
}

Status make_private(ProcessHeap& process) {
  BTD_ASSIGN(Settings settings, place(nullptr));
  const std::uint64_t journal =
      Journal::media_bytes({.lanes = kOptions.lanes, .lane_bytes = kOptions.lane_bytes});
  BTD_ASSIGN(process.arenas, PrivateArenas::create(std::move(settings), journal));
  BTD_ASSIGN(process.own, Heap::format(*process.arenas, kOptions));
  process.heap = process.own.get();
  return {};
}

// A heap that stays. What an earlier run left in it is reclaimed, as no root reaches it.
Status open_kept(ProcessHeap& process, const char* name) {
  BTD_ASSIGN(const Settings settings, place(name));
  if (settings.flush) BTD_TRY(load_flush());
  BTD_ASSIGN(process.kept, open_cluster(settings));
  BTD_TRY(reclaim(*process.kept));
  process.heap = process.kept->heap;
  // From here on it is this library's: fork and exit are seen to below.
  g_windows[process.kept->files->window()].store(nullptr);
  return {};
}

Status make_heap(ProcessHeap& process) {
  const char* const name = secure_getenv("BTD_MALLOC_KEEP");
  if (name == nullptr || *name == '\0') return make_private(process);
  Status opened = open_kept(process, name);
  // A child of the program finds the heap in use, and is served all the same.
  if (!opened && opened.error().code == EBUSY) return make_private(process);
  return opened;
}

void before_fork() {
  enter();
  g_process->heap->pause();
  if (g_process->arenas == nullptr) {
    g_process->frozen = g_process->kept->files->freeze().has_value();
    return;
  }
  g_process->arenas->hold();
  g_process->frozen = g_process->arenas->freeze().has_value();
}

void let_go() {
  ++g_process->forks;
  if (g_process->arenas != nullptr) g_process->arenas->let_go();
  g_process->heap->resume();
}

void after_fork_in_parent() {
  const KeepErrno keep;
  let_go();
  leave();
}

void after_fork_in_child() {
  if (!g_process->frozen) {
    say("libbtd_malloc: there is no memory for the child's own view of the heap; it ends.");
    _exit(127);
  }
  let_go();
  if (g_process->kept != nullptr && g_process->allocates.exchange(false)) {
    // The files are the parent's.
    g_process->kept->files->forget();
  }
  leave();
}

void tell() {
  const Usage now = usage();
  say("libbtd_malloc: process %d: %llu bytes in use of %llu reserved in %s; "
      "%llu blocks came from the C library; %u forks",
      static_cast<int>(getpid()), static_cast<unsigned long long>(now.used),
      static_cast<unsigned long long>(now.reserved),
      g_process->arenas != nullptr ? g_process->arenas->directory().c_str()
                                   : g_process->kept->name.c_str(),
      static_cast<unsigned long long>(g_process->from_system.load()), g_process->forks);
}

[[gnu::constructor]] void start() {
  ++t_thread.inside;  // no heap yet: nothing to leave
  auto* const process = new ProcessHeap;
  Status made;
  try {
    made = make_heap(*process);
  } catch (const std::exception& error) {
    made = fail(ENOMEM, error.what());
  }
  --t_thread.inside;
  if (!made) {
    if (!is_set("BTD_QUIET")) {
      say("libbtd_malloc: no heap can be made (%s) The C library's allocator serves instead.",
          made.error().message.c_str());
    }
    return;
  }
  process->largest =
      SegmentTable::plan(process->heap->arena_bytes(), sizeof(ArenaHeader)).segment_count *
      kSegmentBytes;
  g_process = process;
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  g_window = {.base = reinterpret_cast<std::uintptr_t>(process->heap->at(0)),
              .bytes = kWindowBytes};
  process->allocates.store(true);
}

[[gnu::destructor]] void end() {
  if (g_process != nullptr && is_set("BTD_MALLOC_STATS")) tell();
}

}  // namespace
}  // namespace btd::preload
