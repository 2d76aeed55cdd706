#include "fs/daemon/notifier_keeper.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "fs/daemon/control.h"
#include "fs/daemon/metrics.h"
#include "fs/daemon/notifier.h"

namespace btd {

namespace {

constexpr unsigned kMaxDeaths = 10;
constexpr std::uint64_t kWindowNs = 30'000'000'000;
constexpr int kEndMs = 1'000;

bool has_ended(const Child& child, int wait_ms) {
  pollfd died{child.died.get(), POLLIN, 0};
  return ::poll(&died, 1, wait_ms) == 1;
}

int status_of(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

Status NotifierKeeper::make_lifeline() {
  if (lifeline_) return {};
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail(errno, "cannot make a pipe");
  their_lifeline_.reset(ends[0]);
  lifeline_.reset(ends[1]);
  return {};
}

Result<NotifierKeeper::Started> NotifierKeeper::start(const std::string& program,
                                                      const Mount& mount) {
  BTD_TRY(make_lifeline());
  BTD_ASSIGN(auto pair, control_pair());
  const NotifierArgs args{.fuse_fd = mount.fuse_fd,
                          .socket = pair.second.get(),
                          .lifeline = their_lifeline_.get(),
                          .connection = mount.connection,
                          .mountpoint = mount.mountpoint};
  BTD_ASSIGN(Child child,
             spawn(program, "notifier", args.to_argument(),
                   std::array{args.fuse_fd, args.socket, args.lifeline}, mount.is_quiet));
  const pid_t pid = child.pid;
  children_.push_back(std::move(child));
  return Started{.pid = pid, .socket = std::move(pair.first)};
}

void NotifierKeeper::add_to(std::vector<pollfd>& fds) const {
  for (const Child& child : children_) fds.push_back({child.died.get(), POLLIN, 0});
}

bool NotifierKeeper::reap() {
  bool is_latest = false;
  const pid_t latest = children_.empty() ? 0 : children_.back().pid;
  std::erase_if(children_, [&](const Child& child) {
    if (!has_ended(child, 0)) return false;
    const int status = status_of(child.pid);
    // Its worker lets it go by closing the socket, be it by dying.
    const bool is_clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    is_latest = is_latest || (child.pid == latest && !is_clean);
    return true;
  });
  if (!is_latest) return false;
  const std::uint64_t now = monotonic_ns();
  if (now - first_death_ns_ > kWindowNs) {
    deaths_ = 0;
    first_death_ns_ = now;
  }
  ++deaths_;
  return true;
}

bool NotifierKeeper::is_hopeless() const {
  return deaths_ >= kMaxDeaths && monotonic_ns() - first_death_ns_ <= kWindowNs;
}

void NotifierKeeper::wait_for_end() {
  const std::uint64_t until = monotonic_ns() + kEndMs * std::uint64_t{1'000'000};
  for (const Child& child : children_) {
    const std::uint64_t now = monotonic_ns();
    if (has_ended(child, now < until ? static_cast<int>((until - now) / 1'000'000) : 0))
      (void)status_of(child.pid);
  }
  children_.clear();
}

}  // namespace btd
