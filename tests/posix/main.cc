// SPDX-License-Identifier: BSD-3-Clause
// posix_suite DIR: what POSIX and Linux promise of a file system, checked on the directory DIR.
// Works in a directory of its own inside DIR, removed at the end. Needs root (exit code 77
// without).
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/posix/posix_env.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  std::string target;
  if (const char* env = std::getenv("BTD_TEST_DIR")) target = env;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    target = arg.rfind("--dir=", 0) == 0 ? arg.substr(6) : arg;
  }
  if (target.empty()) {
    std::fprintf(stderr,
                 "usage: posix_suite DIR [--gtest_filter=...]; DIR is a directory on the "
                 "file system to check (or set BTD_TEST_DIR)\n");
    return 2;
  }
  if (::geteuid() != 0) {
    std::fprintf(stderr, "posix_suite needs root: it acts as several users\n");
    return 77;
  }
  std::string root = target + "/posix.XXXXXX";
  if (::mkdtemp(root.data()) == nullptr || ::chmod(root.c_str(), 0755) != 0) {
    std::fprintf(stderr, "cannot make a directory in %s: %s\n", target.c_str(),
                 std::strerror(errno));
    return 2;
  }
  if (char* full = ::realpath(root.c_str(), nullptr)) {
    root = full;
    std::free(full);
  }
  btd::posix::SetRoot(root);
  const int result = RUN_ALL_TESTS();
  if (::chdir("/") != 0 || ::rmdir(root.c_str()) != 0) {
    std::fprintf(stderr, "cannot remove %s: %s\n", root.c_str(), std::strerror(errno));
    return result == 0 ? 1 : result;
  }
  return result;
}
