// HeapTest: a directory of its own, on /dev/shm or in $BTD_TEST_DIRECTORY, in which a test makes
// heaps; gone with the test.
#pragma once

#include <bartender.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

namespace btd::test {

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class HeapTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* const place = std::getenv("BTD_TEST_DIRECTORY");
    directory_ = std::string(place != nullptr ? place : "/dev/shm") + "/libbtd_test.XXXXXX";
    ASSERT_NE(mkdtemp(directory_.data()), nullptr) << directory_;
  }
  void TearDown() override {
    while (heap_ != nullptr && opened_-- > 0) EXPECT_EQ(btd_cluster_destroy(heap_), 0) << why();
    std::filesystem::remove_all(directory_);
  }

  // Small arenas, so that tests grow them.
  btd_config config(const char* name = "h") const {
    btd_config config;
    btd_config_init(&config);
    config.directory = directory_.c_str();
    config.heap = name;
    config.arena_bytes = 32 * kMiB;
    return config;
  }
  btd_cluster* open() { return open(config()); }
  btd_cluster* open(btd_config with) {
    btd_cluster* const heap = btd_cluster_create(&with);
    EXPECT_NE(heap, nullptr) << why();
    heap_ = heap;
    opened_ = heap != nullptr ? 1 : 0;
    return heap;
  }
  void close() {
    EXPECT_EQ(btd_cluster_destroy(heap_), 0) << why();
    heap_ = nullptr;
  }
  // The errno of opening; 0 if that went well, and then it was closed again.
  static int open_error(btd_config with) {
    errno = 0;
    btd_cluster* const heap = btd_cluster_create(&with);
    if (heap == nullptr) return errno;
    EXPECT_EQ(btd_cluster_destroy(heap), 0);
    return 0;
  }
  std::string file(const std::string& name) const { return directory_ + "/" + name; }
  static std::string why() { return btd_strerror(); }
  btd_statistics statistics() const {
    btd_statistics now{};
    EXPECT_EQ(btd_stats(heap_, &now), 0) << why();
    return now;
  }

  std::string directory_;
  btd_cluster* heap_ = nullptr;  // closed at the end
  int opened_ = 0;
};

// Runs `body` in a child and returns how that ended: its exit code, or 128 + the signal. What the
// child's expectations say goes to standard error.
inline int in_child(const std::function<int()>& body) {
  fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    int code = body();
    if (testing::Test::HasFailure()) code = 99;
    fflush(nullptr);
    _exit(code);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace btd::test
