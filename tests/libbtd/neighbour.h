// Neighbour: a process that takes turns with the test, and memory that both see.
//
// It is forked before the test opens a heap, for a child has none of its parent's. Its body runs
// when the test says so, to its next pause() or to its end. It dies with the test, and whoever
// waits for it waits no longer than kPatience.
#pragma once

#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <chrono>
#include <new>

#include "tests/libbtd/heap_fixture.h"

namespace btd::test {

inline constexpr std::chrono::seconds kPatience{60};  // sanitizers on a machine that others use

// Whether `holds` came to hold within `patience`.
template <class Condition>
bool within(std::chrono::milliseconds patience, Condition holds) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > until) return holds();
    usleep(100);
  }
  return true;
}

// A T that children of a later fork share with the test.
template <class T>
class Shared {
 public:
  Shared() {
    void* const at =
        mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    at_ = new (at) T{};
  }
  ~Shared() { munmap(at_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return at_; }
  T& operator*() const { return *at_; }

 private:
  T* at_;
};

class Neighbour {
 public:
  using Body = std::function<void(Neighbour& self)>;

  explicit Neighbour(const Body& body) {
    int ends[2] = {-1, -1};
    fflush(nullptr);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0) pid_ = fork();
    end_ = ends[pid_ == 0 ? 1 : 0];
    ::close(ends[pid_ == 0 ? 0 : 1]);
    if (pid_ == 0) live(body);
    EXPECT_GT(pid_, 0);
  }
  ~Neighbour() {
    kill();
    ::close(end_);
  }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;

  // ---- by the neighbour
  // Gives the turn to the test, until it gives it back.
  void pause() {
    say();
    if (!heard()) _exit(98);
  }

  // ---- by the test
  [[nodiscard]] pid_t pid() const { return pid_; }
  // Lets it go on, and waits for its next pause; false where it ended instead.
  bool turn() {
    go();
    return await();
  }
  void go() const { say(); }
  [[nodiscard]] bool gone() const {
    pollfd ends{.fd = end_, .events = 0, .revents = 0};
    return poll(&ends, 1, 0) != 0;
  }
  bool await() {
    pollfd ready{.fd = end_, .events = POLLIN, .revents = 0};
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience).count();
    if (poll(&ready, 1, static_cast<int>(patience)) == 1) return heard();
    ADD_FAILURE() << "a neighbour did not answer in time";
    kill();
    return false;
  }
  // Lets it run to its end; its exit code, 128 + a signal, or -1 where it paused instead.
  int end() { return turn() ? -1 : reap(); }
  // The same where it has been let go already.
  int ended() { return await() ? -1 : reap(); }
  void kill() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    reap();
  }

 private:
  // What is thrown ends it: the test's own handlers are not to run here.
  [[noreturn]] void live(const Body& body) noexcept {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!heard()) _exit(98);
    body(*this);
    fflush(nullptr);
    _exit(testing::Test::HasFailure() ? 99 : 0);
  }
  // Whom it is for may have died.
  void say() const { send(end_, "x", 1, MSG_NOSIGNAL); }
  [[nodiscard]] bool heard() const {
    char byte = 0;
    return read(end_, &byte, 1) == 1;
  }
  int reap() {
    if (pid_ > 0) {
      int status = 0;
      if (waitpid(pid_, &status, 0) != pid_) return -1;
      code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      pid_ = -1;
    }
    return code_;
  }

  pid_t pid_ = -1;
  int end_ = -1;  // of a pair of sockets; a byte gives the turn
  int code_ = -1;
};

}  // namespace btd::test
