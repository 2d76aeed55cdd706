// Runs the mount tests in a mount namespace of their own: whatever they mount ends with them.
// Without root or /dev/fuse there is nothing to test: exit code 77, which CTest shows as skipped.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdio>

#include "mount_fixture.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s DAEMON_PROGRAM\n", argv[0]);
    return 2;
  }
  btd::g_program = argv[1];
  if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0) {
    std::fprintf(stderr, "skipped: mounting needs root and /dev/fuse\n");
    return 77;
  }
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    std::perror("a private mount namespace");
    return 77;
  }
  return RUN_ALL_TESTS();
}
