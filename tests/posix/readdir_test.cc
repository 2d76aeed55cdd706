// SPDX-License-Identifier: BSD-3-Clause
// Reading directories: every stable entry exactly once whatever happens beside it, positions that
// can be returned to, large directories. BTD_TEST_ENTRIES sets the size of the large one.
#include <sys/syscall.h>

#include <atomic>
#include <map>
#include <set>
#include <thread>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Readdir = PosixTest;

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, DirCloser>;

Dir OpenDir(const char* path) {
  Dir dir(::opendir(path));
  EXPECT_NE(nullptr, dir) << path << ": " << std::strerror(errno);
  return dir;
}

std::map<std::string, int> Count(DIR* dir) {
  std::map<std::string, int> seen;
  while (const dirent* entry = ::readdir(dir)) ++seen[entry->d_name];
  return seen;
}

std::string Name(long i) { return "entry" + std::to_string(i); }

void Fill(const char* dir, long count) {
  const Fd at = OpenFd(dir, O_RDONLY | O_DIRECTORY);
  for (long i = 0; i < count; ++i) {
    ASSERT_OK(::mknodat(at.get(), Name(i).c_str(), S_IFREG | 0644, 0));
  }
}

TEST_F(Readdir, DotsInodesAndTypes) {
  ASSERT_OK(::mkdir("d", 0755));
  for (const Kind kind : kAllKinds) ASSERT_OK(Make(kind, std::string("d/") + KindName(kind)));
  const Dir dir = OpenDir("d");
  std::map<std::string, int> seen;
  const int types[] = {DT_REG, DT_DIR, DT_FIFO, DT_BLK, DT_CHR, DT_SOCK, DT_LNK};
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string name = entry->d_name;
    ++seen[name];
    EXPECT_EQ(Stat("d/" + name).st_ino, entry->d_ino) << name;
    for (const Kind kind : kAllKinds) {
      if (name == KindName(kind) && entry->d_type != DT_UNKNOWN) {
        EXPECT_EQ(types[static_cast<int>(kind)], entry->d_type) << name;
      }
    }
  }
  EXPECT_EQ(9U, seen.size());
  for (const auto& [name, count] : seen) EXPECT_EQ(1, count) << name;
  EXPECT_EQ(1U, seen.count("."));
  EXPECT_EQ(1U, seen.count(".."));
}

TEST_F(Readdir, RewindSeesChanges) {
  ASSERT_OK(::mkdir("d", 0755));
  ASSERT_OK(Touch("d/a"));
  const Dir dir = OpenDir("d");
  EXPECT_EQ(3U, Count(dir.get()).size());
  ASSERT_OK(Touch("d/b"));
  ASSERT_OK(::unlink("d/a"));
  ::rewinddir(dir.get());
  const auto seen = Count(dir.get());
  EXPECT_EQ(3U, seen.size());
  EXPECT_EQ(1U, seen.count("b"));
}

TEST_F(Readdir, PositionsCanBeReturnedTo) {
  constexpr long kEntries = 3000;
  ASSERT_OK(::mkdir("d", 0755));
  Fill("d", kEntries);
  const Dir dir = OpenDir("d");
  std::vector<std::pair<long, std::string>> order;
  for (;;) {
    const long at = ::telldir(dir.get());
    const dirent* entry = ::readdir(dir.get());
    if (entry == nullptr) break;
    order.emplace_back(at, entry->d_name);
  }
  ASSERT_EQ(static_cast<size_t>(kEntries) + 2, order.size());
  for (const size_t i : {size_t{2500}, size_t{0}, size_t{1}, size_t{3001}, size_t{777}}) {
    ::seekdir(dir.get(), order[i].first);
    for (size_t j = i; j < std::min(i + 5, order.size()); ++j) {
      const dirent* entry = ::readdir(dir.get());
      ASSERT_NE(nullptr, entry) << i;
      EXPECT_EQ(order[j].second, entry->d_name);
    }
  }
}

TEST_F(Readdir, PositionsSurviveRemovalOfOtherEntries) {
  ASSERT_OK(::mkdir("d", 0755));
  Fill("d", 1000);
  const Dir dir = OpenDir("d");
  std::set<std::string> first;
  for (int i = 0; i < 500; ++i) first.insert(::readdir(dir.get())->d_name);
  const long at = ::telldir(dir.get());
  for (const std::string& name : first) {
    if (name[0] != '.') {
      ASSERT_OK(::unlink(("d/" + name).c_str()));
    }
  }
  ::seekdir(dir.get(), at);
  const auto rest = Count(dir.get());
  for (long i = 0; i < 1000; ++i) {
    if (first.count(Name(i)) == 0) {
      EXPECT_EQ(1U, rest.count(Name(i))) << Name(i);
    }
  }
}

TEST_F(Readdir, RemovingWhileReadingEmptiesTheDirectory) {
  ASSERT_OK(::mkdir("d", 0755));
  Fill("d", 5000);
  const Dir dir = OpenDir("d");
  int removed = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    if (entry->d_name[0] == '.') continue;
    ASSERT_OK(::unlink((std::string("d/") + entry->d_name).c_str()));
    ++removed;
  }
  EXPECT_EQ(5000, removed);
  EXPECT_OK(::rmdir("d"));
}

TEST_F(Readdir, StableEntriesAppearExactlyOnceBesideChurn) {
  constexpr long kStable = 2000;
  ASSERT_OK(::mkdir("d", 0755));
  Fill("d", kStable);
  std::atomic<bool> stop{false};
  std::atomic<int> churned{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (long i = 0; !stop.load(); ++i) {
        const std::string name = "d/churn" + std::to_string(t) + "_" + std::to_string(i % 400);
        Touch(name);
        ::rename(name.c_str(), (name + "_moved").c_str());
        if (i % 3 != 0) ::unlink((name + "_moved").c_str());
        ++churned;
      }
    });
  }
  for (int round = 0; round < 25; ++round) {
    const Dir dir = OpenDir("d");
    const auto seen = Count(dir.get());
    for (long i = 0; i < kStable; ++i) {
      const auto it = seen.find(Name(i));
      EXPECT_EQ(1, it == seen.end() ? 0 : it->second) << Name(i) << " in round " << round;
    }
    if (HasFailure()) break;
  }
  stop = true;
  for (std::thread& t : threads) t.join();
  EXPECT_GT(churned.load(), 10);
}

TEST_F(Readdir, SmallBuffersWork) {
  ASSERT_OK(::mkdir("d", 0755));
  std::set<std::string> expected = {".", ".."};
  for (char c = 'a'; c < 'a' + 20; ++c) {
    ASSERT_OK(Touch("d/" + LongName(255, c)));
    expected.insert(LongName(255, c));
  }
  struct Entry {
    uint64_t ino;
    int64_t off;
    unsigned short length;
    unsigned char type;
    char name[1];
  };
  const Fd fd = OpenFd("d", O_RDONLY | O_DIRECTORY);
  alignas(8) char buffer[320];
  std::multiset<std::string> seen;
  for (;;) {
    const long n = ::syscall(SYS_getdents64, fd.get(), buffer, sizeof buffer);
    ASSERT_GE(n, 0) << std::strerror(errno);
    if (n == 0) break;
    for (long at = 0; at < n;) {
      const auto* entry = reinterpret_cast<const Entry*>(buffer + at);
      seen.insert(buffer + at + offsetof(Entry, name));
      at += entry->length;
    }
  }
  EXPECT_EQ(expected, std::set<std::string>(seen.begin(), seen.end()));
  EXPECT_EQ(expected.size(), seen.size());
}

TEST_F(Readdir, LargeDirectory) {
  const long entries = EnvNumber("BTD_TEST_ENTRIES", 100'000);
  ASSERT_OK(::mkdir("d", 0755));
  Fill("d", entries);
  std::vector<bool> seen(static_cast<size_t>(entries));
  size_t total = 0;
  {
    const Dir dir = OpenDir("d");
    while (const dirent* entry = ::readdir(dir.get())) {
      ++total;
      if (entry->d_name[0] == '.') continue;
      const auto i = static_cast<size_t>(std::strtol(entry->d_name + 5, nullptr, 10));
      ASSERT_LT(i, seen.size());
      ASSERT_FALSE(seen[i]) << entry->d_name << " twice";
      seen[i] = true;
    }
  }
  EXPECT_EQ(static_cast<size_t>(entries) + 2, total);
  for (long i = 0; i < entries; i += entries / 100 + 1) EXPECT_TRUE(Exists("d/" + Name(i)));
  const Fd at = OpenFd("d", O_RDONLY | O_DIRECTORY);
  for (long i = 0; i < entries; ++i) ASSERT_OK(::unlinkat(at.get(), Name(i).c_str(), 0));
  EXPECT_TRUE(List("d").empty());
}

}  // namespace
}  // namespace btd::posix
