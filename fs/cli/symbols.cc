#include "fs/cli/symbols.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "alloc/unique_fd.h"

namespace btd::cli {
namespace {

// What the program wrote to its standard output; empty where it could not be run.
std::string output_of(std::vector<std::string> command) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return {};
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to.get(), STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int code = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  to.reset();
  if (code != 0) return {};
  std::string out;
  std::array<char, 4096> part{};
  for (;;) {
    const ssize_t got = ::read(from.get(), part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    out.append(part.data(), static_cast<std::size_t>(got));
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? out : std::string();
}

}  // namespace

std::vector<std::string> symbolise(const std::string& path,
                                   const std::vector<std::uint64_t>& addresses) {
  std::vector<std::string> words(addresses.size());
  std::vector<std::string> command = {"addr2line", "-Cfp", "-e", path};
  for (std::size_t i = 0; i < std::min(addresses.size(), kMaxAddresses); ++i)
    command.push_back(fmt::format("{:#x}", addresses[i]));
  const std::string out = output_of(std::move(command));
  std::size_t from = 0;
  for (std::string& word : words) {
    const std::size_t end = out.find('\n', from);
    if (end == std::string::npos) break;
    word = out.substr(from, end - from);
    from = end + 1;
    if (word.starts_with("??")) word.clear();
  }
  return words;
}

}  // namespace btd::cli
