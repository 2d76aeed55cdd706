#include "fs/daemon/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace btd {

void redirect_standard_streams() {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd : {0, 1, 2}) dup2(null, fd);
  if (null > 2) close(null);
}

Result<Child> spawn(const std::string& program, std::string command, std::string argument,
                    std::span<const int> inherited, bool is_quiet) {
  std::string name = "btd";
  char* argv[] = {name.data(), command.data(), argument.data(), nullptr};
  const pid_t pid = fork();
  if (pid < 0) return fail(errno, "cannot start the " + command);
  if (pid == 0) {
    for (int fd : inherited) fcntl(fd, F_SETFD, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (is_quiet) redirect_standard_streams();
    execv(program.c_str(), argv);
    execv("/proc/self/exe", argv);
    _exit(127);
  }
  Child child{.pid = pid, .died = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)))};
  if (!child.died) return fail(errno, "the kernel has no pidfd_open; it must be 5.3 or newer");
  return child;
}

}  // namespace btd
