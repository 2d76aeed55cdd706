#include "fs/pool/run_program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "alloc/unique_fd.h"

namespace btd {

namespace {

// All that comes, of which the beginning is kept: the program must not block on a full pipe.
std::string read_all(int fd) {
  constexpr std::size_t kKept = 4096;
  std::string kept;
  char buffer[1024];
  for (;;) {
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (kept.size() < kKept) kept.append(buffer, static_cast<std::size_t>(got));
  }
  while (!kept.empty() && kept.back() == '\n') kept.pop_back();
  return kept;
}

}  // namespace

std::string find_program(const std::string& name) {
  const char* path = ::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  std::string directories = path != nullptr ? path : "";
  directories += ":/usr/sbin:/sbin:/usr/bin:/bin:";
  for (std::size_t at = 0; at < directories.size();) {
    const std::size_t end = directories.find(':', at);
    const std::string candidate = directories.substr(at, end - at) + "/" + name;
    if (end > at && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return {};
}

RunResult run_program(const std::vector<std::string>& command) {
  RunResult result;
  const std::string program = find_program(command.front());
  int pipe[2];
  if (program.empty() || ::pipe2(pipe, O_CLOEXEC) != 0) return result;
  UniqueFd in(pipe[0]), out(pipe[1]);

  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, out.get(), 2);
  pid_t child = -1;
  const int code =
      ::posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (code != 0) return result;

  result.started = true;
  out.reset();
  result.errors = read_all(in.get());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace btd
