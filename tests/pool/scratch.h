// A directory for one test: unmounts and removes all that is in it when the test ends, however.
#pragma once

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace btd {

class Scratch {
 public:
  enum class On { kDisk, kMemory };  // kMemory where there is such a place
  explicit Scratch(On on = On::kMemory) {
    const bool shm = on == On::kMemory && ::access("/dev/shm", W_OK) == 0;
    std::string name =
        (shm ? "/dev/shm" : std::filesystem::temp_directory_path().string()) + "/btd-pool-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    root_ = name;
    // Small, so that the arenas of pools in it are small too.
    if (on == On::kMemory && ::geteuid() == 0 &&
        ::mount("scratch", root_.c_str(), "tmpfs", 0, "size=160m") != 0)
      std::abort();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    unmount_all();
    ::umount2(root_.c_str(), 0);
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }

  [[nodiscard]] std::string path(const std::string& name) const { return root_ + "/" + name; }
  [[nodiscard]] std::string pool() const { return path("pool"); }

  // Mounts are found in the table, so those of a test that failed half-way go too.
  void unmount_all() const {
    for (bool again = true; again;) {
      again = false;
      std::ifstream table("/proc/self/mounts");
      for (std::string source, point, rest; table >> source >> point && std::getline(table, rest);)
        if (point.starts_with(root_ + "/") && ::umount2(point.c_str(), 0) == 0) again = true;
    }
  }

 private:
  std::string root_;
};

[[nodiscard]] inline bool is_root() { return ::geteuid() == 0; }

[[nodiscard]] inline std::string read_whole(const std::string& path) {
  std::error_code none;
  const auto size = std::filesystem::file_size(path, none);
  std::string bytes(none ? 0 : size, '\0');
  std::ifstream(path, std::ios::binary)
      .read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

inline void write_whole(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// The error of a call that must fail; its sentence must hold `part`.
#define EXPECT_FAILS(expr, errno_code, part)                                      \
  do {                                                                            \
    const auto btd_failed = (expr);                                               \
    ASSERT_FALSE(btd_failed.has_value());                                         \
    EXPECT_EQ(btd_failed.error().code, errno_code) << btd_failed.error().message; \
    EXPECT_NE(btd_failed.error().message.find(part), std::string::npos)           \
        << btd_failed.error().message;                                            \
  } while (false)

#define ASSERT_WORKS(expr)                                             \
  do {                                                                 \
    const auto& btd_worked = (expr);                                   \
    ASSERT_TRUE(btd_worked.has_value()) << btd_worked.error().message; \
  } while (false)

}  // namespace btd
