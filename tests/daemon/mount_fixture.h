// A pool on a tmpfs of its own and a mount of it, for one test. Everything happens in a private
// mount namespace (see mount_main.cc), so nothing is left behind however the test ends.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "alloc/unique_fd.h"
#include "fs/daemon/request.h"

namespace btd {

extern std::string g_program;  // daemon_program

class MountFixture : public testing::TestWithParam<bool> {
 protected:
  [[nodiscard]] static bool passthrough() { return GetParam(); }
  void SetUp() override;
  void TearDown() override;

  // Starts the supervisor and waits until it says READY=1.
  void start(std::vector<std::string> options = {});
  // Stops it as a service manager does; the value is its exit code.
  int stop();
  int wait_for_exit();
  // Runs the program to its end; returns exit code and what it wrote to stderr.
  static std::pair<int, std::string> run(const std::vector<std::string>& arguments);

  [[nodiscard]] std::string path(const std::string& name) const { return mnt_ + "/" + name; }
  [[nodiscard]] nlohmann::json status() const;
  [[nodiscard]] int worker_pid() const { return status()["worker"]["pid"].get<int>(); }
  void kill_worker() const;
  [[nodiscard]] std::uint64_t known() const {
    return status()["files"]["known"].get<std::uint64_t>();
  }
  [[nodiscard]] std::size_t backing_files() const;

  // The worker kills itself at the next such point.
  void arm(KillPoint point, std::uint32_t opcode) const;
  [[nodiscard]] bool fired() const;  // whether the point was reached
  void disarm() const;

  static bool eventually(const std::function<bool()>& condition, int deadline_ms = 5000);
  static int write_file(const std::string& name, const std::string& bytes);
  static std::string read_file(const std::string& name);
  static struct stat stat_of(const std::string& name);

  std::string root_, pool_, mnt_;
  pid_t supervisor_ = 0;

 private:
  void map_state();
  UniqueFd notify_;
  StateHeader* header_ = nullptr;
};

}  // namespace btd
