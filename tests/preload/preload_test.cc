// The functions that libbtd_malloc.so takes over, as a program meets them. Run with it preloaded.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "libbtd/windows.h"

namespace {

constexpr std::size_t kMiB = 1024 * 1024;

bool served(const void* block) {
  const auto at = reinterpret_cast<std::uintptr_t>(block);
  const auto base = reinterpret_cast<std::uintptr_t>(btd::window_base(btd::kPrivateWindow));
  return at - base < btd::kWindowBytes;
}
bool aligned(const void* block, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(block) % alignment == 0;
}
// Keeps what the compiler knows of malloc out of the tests.
template <class T>
T hidden(T value) {
  volatile T copy = value;
  return copy;
}
struct Freer {
  void operator()(void* block) const { std::free(block); }
};
using Block = std::unique_ptr<char, Freer>;
Block block_of(std::size_t bytes) { return Block(static_cast<char*>(std::malloc(hidden(bytes)))); }

// Runs `body` in a child; true if it returned true.
bool in_child(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Preload, ServesBlocksOfAllSizesAlignedTo16) {
  std::vector<Block> all;
  for (std::size_t bytes = 0; bytes < 3 * kMiB; bytes += bytes / 3 + 1) {
    all.push_back(block_of(bytes));
    ASSERT_TRUE(served(all.back().get())) << bytes;
    ASSERT_TRUE(aligned(all.back().get(), 16)) << bytes;
    ASSERT_GE(malloc_usable_size(all.back().get()), bytes);
    std::memset(all.back().get(), static_cast<int>(bytes), bytes);
  }
  ASSERT_NE(block_of(0).get(), all.front().get());
}

TEST(Preload, GivesTheAlignmentAskedFor) {
  for (std::size_t alignment = 8; alignment <= 4 * kMiB; alignment *= 2) {
    for (const std::size_t bytes :
         {std::size_t{0}, std::size_t{1}, std::size_t{100}, 40 * 1024UL}) {
      void* made = nullptr;
      ASSERT_EQ(posix_memalign(&made, alignment, bytes), 0);
      const Block one(static_cast<char*>(made));
      const Block two(static_cast<char*>(aligned_alloc(alignment, bytes)));
      const Block three(static_cast<char*>(memalign(alignment, bytes)));
      for (const auto* each : {&one, &two, &three}) {
        ASSERT_TRUE(aligned(each->get(), alignment));
        ASSERT_EQ(served(each->get()), alignment <= 64 * 1024) << alignment;
        std::memset(each->get(), 1, bytes);
      }
    }
  }
  void* none = nullptr;
  EXPECT_EQ(posix_memalign(&none, hidden(24UL), 8), EINVAL);
  EXPECT_EQ(posix_memalign(&none, hidden(4UL), 8), EINVAL);
  const Block page(static_cast<char*>(valloc(10)));
  const Block pages(static_cast<char*>(pvalloc(4097)));
  EXPECT_TRUE(aligned(page.get(), 4096) && aligned(pages.get(), 4096));
  EXPECT_GE(malloc_usable_size(pages.get()), 8192U);
}

TEST(Preload, CallocIsZeroAlsoWhereMemoryWasUsed) {
  for (const std::size_t bytes : {24UL, 1000UL, 100'000UL}) {
    std::memset(block_of(bytes).get(), 0xAB, bytes);
    const Block zero(static_cast<char*>(std::calloc(1, bytes)));
    for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(zero.get()[i], 0);
  }
}

TEST(Preload, ReallocKeepsWhatItHeld) {
  auto* block = static_cast<std::uint32_t*>(std::realloc(nullptr, 4));
  block[0] = 0;
  for (std::size_t n = 2; n < 5'000'000; n += n / 2) {
    const std::size_t before = malloc_usable_size(block) / 4;
    block = static_cast<std::uint32_t*>(std::realloc(block, n * 4));
    ASSERT_NE(block, nullptr);
    for (std::size_t i = 0; i < std::min(before, n); i += 97) {
      ASSERT_EQ(block[i], i % before == i ? i : 0) << n;
    }
    for (std::size_t i = 0; i < malloc_usable_size(block) / 4; ++i)
      block[i] = static_cast<std::uint32_t>(i);
  }
  block = static_cast<std::uint32_t*>(std::realloc(block, 40));
  ASSERT_LT(malloc_usable_size(block), 1000U);
  for (std::uint32_t i = 0; i < 10; ++i) ASSERT_EQ(block[i], i);
  EXPECT_EQ(std::realloc(block, hidden(0UL)), nullptr);
}

TEST(Preload, RefusesWhatIsTooLargeWithEnomem) {
  errno = 0;
  EXPECT_EQ(std::malloc(hidden(std::size_t{PTRDIFF_MAX} + 1)), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  errno = 0;
  EXPECT_EQ(std::calloc(hidden(SIZE_MAX / 2), 3), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  errno = 0;
  EXPECT_EQ(reallocarray(nullptr, hidden(SIZE_MAX / 2), 3), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(pvalloc(hidden(SIZE_MAX - 10)), nullptr);
  bool caught = false;
  try {
    ::operator delete(::operator new(hidden(std::size_t{PTRDIFF_MAX})));
  } catch (const std::bad_alloc&) {
    caught = true;
  }
  EXPECT_TRUE(caught);
  EXPECT_EQ(::operator new(hidden(std::size_t{PTRDIFF_MAX}), std::nothrow), nullptr);
}

TEST(Preload, NewAndDeleteAreServed) {
  struct alignas(256) Wide {
    char bytes[300];
  };
  const auto one = std::make_unique<int>(1);
  const auto many = std::make_unique<std::uint64_t[]>(1000);
  const auto wide = std::make_unique<Wide>();
  EXPECT_TRUE(served(one.get()) && served(many.get()) && served(wide.get()));
  EXPECT_TRUE(aligned(wide.get(), 256));
}

TEST(Preload, FreeKeepsErrno) {
  std::vector<Block> all;
  for (int i = 0; i < 2000; ++i) all.push_back(block_of(70'000));
  errno = 77;
  all.clear();
  std::free(nullptr);
  EXPECT_EQ(errno, 77);
}

TEST(PreloadDeathTest, InvalidFreesAbortWithAMessage) {
  Block block = block_of(100);
  Block large = block_of(kMiB);
  EXPECT_DEATH(std::free(hidden(block.get()) + 16), "libbtd_malloc: free\\(\\): invalid pointer");
  EXPECT_DEATH(
      {
        std::free(hidden(block.get()));
        std::free(hidden(block.get()));
      },
      "libbtd_malloc: free\\(\\): .*released twice");
  EXPECT_DEATH(
      {
        std::free(hidden(large.get()));
        std::free(hidden(large.get()));
      },
      "libbtd_malloc: free\\(\\)");
  EXPECT_DEATH(std::free(std::realloc(hidden(block.get()) + 32, 5)),
               "libbtd_malloc: realloc\\(\\): invalid pointer");
}

TEST(Preload, ThreadsFreeEachOthersBlocks) {
  constexpr int kRounds = 200;
  constexpr int kBlocks = 500;
  std::vector<std::atomic<char*>> shared(kBlocks);
  const auto work = [&](unsigned seed) {
    for (int i = 0; i < kRounds * kBlocks; ++i) {
      seed = seed * 1664525 + 1013904223;
      const std::size_t bytes = 1 + (seed >> 8) % (i % 512 == 0 ? 100'000 : 600);
      auto* made = static_cast<char*>(std::malloc(bytes));
      made[0] = made[bytes - 1] = 7;
      const Block old(shared[seed % kBlocks].exchange(made));
      if (old && old.get()[0] != 7) std::abort();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < 3; ++i) threads.emplace_back(work, i);
  }
  for (auto& each : shared) std::free(each.load());
}

TEST(Preload, EndingThreadsAllocateInTheirDestructors) {
  static pthread_key_t key;
  pthread_key_create(&key, [](void* block) {
    std::free(block);
    std::free(std::malloc(hidden(33UL)));
  });
  struct Late {
    std::vector<Block> kept;
    ~Late() {
      kept.push_back(block_of(100));
      kept.push_back(block_of(100'000));
    }
  };
  for (int i = 0; i < 200; ++i) {
    std::jthread([] {
      thread_local Late late;
      late.kept.push_back(block_of(50));
      pthread_setspecific(key, std::malloc(hidden(20UL)));
    });
  }
  pthread_key_delete(key);
}

TEST(PreloadFork, ChildAndParentHaveMemoryOfTheirOwn) {
  constexpr std::size_t kBytes = 8 * kMiB;
  Block block = block_of(kBytes);
  std::memset(block.get(), 1, kBytes);
  int ready[2];
  int go[2];
  ASSERT_EQ(pipe(ready) + pipe(go), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte = 0;
    bool right = read(go[0], &byte, 1) == 1;  // the parent has changed its block
    for (std::size_t i = 0; i < kBytes; i += 512) right = right && block.get()[i] == 1;
    std::memset(block.get(), 3, kBytes);
    // More than what was reserved at the fork, and a child of its own.
    std::vector<Block> more;
    for (int i = 0; i < 40; ++i) {
      more.push_back(block_of(kMiB));
      right = right && served(more.back().get());
      std::memset(more.back().get(), i, kMiB);
    }
    right = right && in_child([&] {
              bool same = block.get()[kBytes - 1] == 3;
              for (int i = 0; i < 40; ++i) same = same && more[i].get()[kMiB - 1] == i;
              return same && served(block_of(100).get());
            });
    right = right && write(ready[1], "x", 1) == 1;
    _exit(right ? 0 : 1);
  }
  std::memset(block.get(), 2, kBytes);
  std::vector<Block> more;
  for (int i = 0; i < 40; ++i) {
    more.push_back(block_of(kMiB));
    std::memset(more.back().get(), 80 + i, kMiB);
  }
  EXPECT_EQ(write(go[1], "x", 1), 1);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (std::size_t i = 0; i < kBytes; i += 512) ASSERT_EQ(block.get()[i], 2);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(more[i].get()[kMiB / 2], 80 + i);
  for (const int fd : {ready[0], ready[1], go[0], go[1]}) close(fd);
}

TEST(PreloadFork, ChildSeesOneInstantWhileThreadsWrite) {
  // A thread counts up in two words far apart, one after the other: no view has them further apart
  // than one, and in a child nothing moves.
  Block block = block_of(4 * kMiB);
  auto* const first = reinterpret_cast<std::atomic<std::uint64_t>*>(block.get());
  auto* const last = reinterpret_cast<std::atomic<std::uint64_t>*>(block.get() + 3 * kMiB);
  first->store(0);
  last->store(0);
  std::jthread writer([&](const std::stop_token& stop) {
    std::vector<Block> churn(64);
    for (std::uint64_t n = 1; !stop.stop_requested(); ++n) {
      first->store(n);
      last->store(n);
      churn[n % 64] = block_of(n % 3000);
    }
  });
  for (int round = 0; round < 50; ++round) {
    EXPECT_TRUE(in_child([&] {
      const std::uint64_t a = first->load();
      const std::uint64_t b = last->load();
      std::vector<Block> mine;
      for (std::size_t i = 0; i < 3000; ++i) mine.push_back(block_of(i));
      mine.clear();
      return a - b <= 1 && first->load() == a && last->load() == b;
    }));
  }
}

TEST(PreloadFork, LosingAllDescriptorsHarmsNothing) {
  EXPECT_TRUE(in_child([] {
    std::vector<Block> all;
    // Before the next fork new memory is needed, so that there is a file to lose.
    for (int i = 0; i < 64; ++i) all.push_back(block_of(kMiB));
    close_range(3, ~0U, 0);
    // What gets the file's number now must stay as it is.
    char path[] = "/tmp/btd_preload_XXXXXX";
    const int other = mkstemp(path);
    unlink(path);
    if (other < 0) return false;
    for (int fd = 500; fd < 530; ++fd) dup2(other, fd);
    for (int i = 0; i < 64; ++i) {
      all.push_back(block_of(kMiB));
      if (!served(all.back().get())) return false;
    }
    for (int i = 0; i < 128; ++i) std::memset(all[i].get(), i, kMiB);
    const bool inherited = in_child([&] {
      for (int i = 0; i < 128; ++i) {
        if (all[i].get()[kMiB - 1] != i) return false;
        std::memset(all[i].get(), 1, kMiB);
      }
      return true;
    });
    for (int i = 0; i < 128; ++i) {
      if (all[i].get()[7] != i) return false;
    }
    return inherited && lseek(other, 0, SEEK_END) == 0;
  }));
}

TEST(PreloadFork, SpawnVforkAndExecWork) {
  const char* const argv[] = {"sh", "-c", "exit 5", nullptr};
  pid_t child = 0;
  ASSERT_EQ(posix_spawnp(&child, "sh", nullptr, nullptr, const_cast<char* const*>(argv), environ),
            0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 5);
  EXPECT_EQ(WEXITSTATUS(std::system("exit 6")), 6);  // NOLINT(cert-env33-c)
}

TEST(Preload, BlocksLargerThanAnArenaComeFromTheSystem) {
  const Block block = block_of(3UL << 30);
  ASSERT_NE(block, nullptr);
  EXPECT_FALSE(served(block.get()));
  block.get()[(3UL << 30) - 1] = 1;
  auto* moved = static_cast<char*>(std::malloc(100));
  moved[99] = 5;
  moved = static_cast<char*>(std::realloc(moved, hidden(2UL << 30)));
  EXPECT_EQ(moved[99], 5);
  moved = static_cast<char*>(std::realloc(moved, 50));
  std::free(moved);
}

TEST(Preload, MallinfoCountsTheHeap) {
  const std::size_t before = mallinfo2().uordblks;
  const Block block = block_of(10 * kMiB);
  EXPECT_GE(mallinfo2().uordblks, before + 10 * kMiB);
  EXPECT_GE(malloc_trim(0), 0);
}

}  // namespace
