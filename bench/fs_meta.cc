// SPDX-License-Identifier: BSD-3-Clause
// fs_meta NAME=DIR... [--clients N] [--files F] [--rounds R]: operations a second on names.
// Every round visits all targets, in turn forwards and backwards, so that whatever else the machine
// does in the meantime meets all of them. Each client is a process with a directory of its own; all
// start a phase together, and the phase lasts until the slowest is done. Prints one JSON object:
// {"create": {"NAME": [ops/s of each round], ...}, "stat": ..., ...}.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kPhases[] = {"create", "stat", "readdir", "rename", "unlink"};
constexpr size_t kPhaseCount = std::size(kPhases);
constexpr long kMaxClients = 64;

struct Target {
  std::string name, dir;
};

/// Shared by all clients: where they wait for each other, and what they took.
struct Board {
  pthread_barrier_t barrier;
  double seconds[kMaxClients][kPhaseCount];
};

[[noreturn]] void Die(const char* what, const std::string& path) {
  std::fprintf(stderr, "fs_meta: %s %s: %s\n", what, path.c_str(), std::strerror(errno));
  std::_Exit(1);
}

std::string Name(const char* kind, long i) { return kind + std::to_string(i); }

void Create(int dir, long files) {
  for (long i = 0; i < files; ++i) {
    const std::string name = Name("file", i);
    const int fd = ::openat(dir, name.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) Die("create", name);
    if (::close(fd) != 0) Die("close", name);
  }
}

void StatAll(int dir, long files) {
  struct stat st{};
  for (long i = 0; i < files; ++i) {
    const std::string name = Name("file", i);
    if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) Die("stat", name);
  }
}

void ReadAll(int dir, long files) {
  const int own = ::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* stream = own < 0 ? nullptr : ::fdopendir(own);
  if (stream == nullptr) Die("opendir", ".");
  long seen = 0;
  while (::readdir(stream) != nullptr) ++seen;
  ::closedir(stream);
  if (seen != files + 2) Die("count the entries of", ".");
}

void RenameAll(int dir, long files) {
  for (long i = 0; i < files; ++i) {
    const std::string from = Name("file", i);
    const std::string to = Name("moved", i);
    if (::renameat(dir, from.c_str(), dir, to.c_str()) != 0) Die("rename", from);
  }
}

void UnlinkAll(int dir, long files) {
  for (long i = 0; i < files; ++i) {
    const std::string name = Name("moved", i);
    if (::unlinkat(dir, name.c_str(), 0) != 0) Die("unlink", name);
  }
}

void Client(Board& board, long id, const std::string& target, long files) {
  static void (*const kRun[])(int, long) = {Create, StatAll, ReadAll, RenameAll, UnlinkAll};
  const std::string path =
      target + "/fs_meta." + std::to_string(::getppid()) + "." + std::to_string(id);
  if (::mkdir(path.c_str(), 0755) != 0) Die("mkdir", path);
  const int dir = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) Die("open", path);
  for (size_t phase = 0; phase < kPhaseCount; ++phase) {
    ::pthread_barrier_wait(&board.barrier);
    const auto start = Clock::now();
    kRun[phase](dir, files);
    board.seconds[id][phase] = std::chrono::duration<double>(Clock::now() - start).count();
  }
  ::close(dir);
  if (::rmdir(path.c_str()) != 0) Die("rmdir", path);
}

/// One visit of one target; adds operations a second of each phase to `results`.
void Visit(Board& board, const Target& target, long clients, long files,
           std::map<std::string, std::map<std::string, std::vector<double>>>& results) {
  pthread_barrierattr_t attributes;
  ::pthread_barrierattr_init(&attributes);
  ::pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ::pthread_barrier_init(&board.barrier, &attributes, static_cast<unsigned>(clients));
  for (long id = 0; id < clients; ++id) {
    if (::fork() == 0) {
      Client(board, id, target.dir, files);
      std::_Exit(0);
    }
  }
  int status = 0;
  while (::wait(&status) > 0) {
    if (status != 0) std::_Exit(1);
  }
  for (size_t phase = 0; phase < kPhaseCount; ++phase) {
    double slowest = 0;
    for (long id = 0; id < clients; ++id) slowest = std::max(slowest, board.seconds[id][phase]);
    results[kPhases[phase]][target.name].push_back(static_cast<double>(clients * files) / slowest);
  }
}

long Number(const char* text) { return std::strtol(text, nullptr, 10); }

}  // namespace

int main(int argc, char** argv) {
  std::vector<Target> targets;
  long clients = 1;
  long files = 5000;
  long rounds = 5;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const size_t equals = arg.find('=');
    if (i + 1 < argc && arg == "--clients") {
      clients = Number(argv[++i]);
    } else if (i + 1 < argc && arg == "--files") {
      files = Number(argv[++i]);
    } else if (i + 1 < argc && arg == "--rounds") {
      rounds = Number(argv[++i]);
    } else if (equals != std::string::npos) {
      targets.push_back({arg.substr(0, equals), arg.substr(equals + 1)});
    }
  }
  if (targets.empty() || clients < 1 || clients > kMaxClients || files < 1 || rounds < 1) {
    std::fprintf(stderr, "usage: fs_meta NAME=DIR... [--clients 1..%ld] [--files F] [--rounds R]\n",
                 kMaxClients);
    return 2;
  }
  void* memory =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("map", "memory");
  auto& board = *static_cast<Board*>(memory);
  std::map<std::string, std::map<std::string, std::vector<double>>> results;
  for (long round = 0; round < rounds; ++round) {
    for (const Target& target : targets) Visit(board, target, clients, files, results);
    std::reverse(targets.begin(), targets.end());
  }
  std::string out = "{";
  for (const auto& [phase, by_target] : results) {
    out += (out.size() > 1 ? ", \"" : "\"") + phase + "\": {";
    for (const auto& [name, rates] : by_target) {
      out += (out.back() == '{' ? "\"" : ", \"") + name + "\": [";
      for (const double rate : rates) {
        out += (out.back() == '[' ? "" : ", ") + std::to_string(rate);
      }
      out += "]";
    }
    out += "}";
  }
  std::printf("%s}\n", out.c_str());
  return 0;
}
