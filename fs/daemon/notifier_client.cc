#include "fs/daemon/notifier_client.h"

#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "fs/daemon/notifier.h"

namespace btd {

namespace {

constexpr unsigned kLifeShift = 40;  // more words than that no worker says
constexpr std::size_t kBatch = 32;

}  // namespace

NotifierClient::NotifierClient(int fuse_fd, std::string mountpoint, std::uint32_t life)
    : fuse_fd_(fuse_fd),
      mountpoint_(std::move(mountpoint)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      next_((std::uint64_t{life} << kLifeShift) + 1) {}

void NotifierClient::start(NotifierLink link) {
  const std::scoped_lock lock(mutex_);
  is_stopped_ = false;
  change_locked(std::move(link));
  thread_ = std::thread([this] { run(); });
}

void NotifierClient::stop() {
  {
    const std::scoped_lock lock(mutex_);
    if (std::exchange(is_stopped_, true)) return;
  }
  wake();
  if (thread_.joinable()) thread_.join();
  here_.stop();
  std::map<std::uint64_t, Waiting> unanswered;  // ends without the lock
  const std::scoped_lock lock(mutex_);
  link_ = {};
  unanswered.swap(waiting_);
}

void NotifierClient::use(NotifierLink link) {
  {
    const std::scoped_lock lock(mutex_);
    ++counts_.replaced;
    change_locked(std::move(link));
  }
  wake();
}

void NotifierClient::last_one() {
  {
    const std::scoped_lock lock(mutex_);
    is_last_ = true;
    if (!link_.socket) change_locked({});
  }
  wake();
}

void NotifierClient::wake() const {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

// All that waits is said anew.
void NotifierClient::change_locked(NotifierLink link) {
  is_here_ = !link.socket;
  link_ = std::move(link);
  if (is_here_)
    spdlog::warn(
        "no process tells the kernel for this worker; if it is killed now, it may not end");
  unsent_.clear();
  for (const auto& [number, each] : waiting_) {
    if (is_here_) {
      say_here_locked(each.word);
    } else {
      unsent_.push_back(number);
    }
  }
}

void NotifierClient::post(KernelWord word, Answer answer) {
  std::unique_lock lock(mutex_);
  if (is_stopped_) return;
  const std::uint64_t number = word.number = next_++;
  ++counts_.said;
  const auto& added =
      waiting_.emplace(number, Waiting{std::move(word), std::move(answer), Clock::now()})
          .first->second;
  if (is_here_) return say_here_locked(added.word);
  if (link_.socket && unsent_.empty() && send_locked(added.word)) return;
  unsent_.push_back(number);
  lock.unlock();
  wake();
}

// False: not now. An end of the notifier is seen by the thread that hears it.
bool NotifierClient::send_locked(const KernelWord& word) {
  const std::vector<std::byte> bytes = word.encoded();
  return ::send(link_.socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

void NotifierClient::say_here_locked(const KernelWord& word) {
  here_.post([this, word] {
    const int error = say(word, fuse_fd_, mountpoint_);
    if (error != 0 || word.kind != KernelWord::Kind::kDropAndLook) answered(word.number, error, 0);
  });
}

void NotifierClient::run() {
  for (;;) {
    pollfd fds[2] = {{wake_.get(), POLLIN, 0}, {-1, POLLIN, 0}};
    {
      const std::scoped_lock lock(mutex_);
      if (is_stopped_) return;
      fds[1].fd = link_.socket.get();
      if (!unsent_.empty()) fds[1].events |= POLLOUT;
    }
    if (::poll(fds, 2, -1) < 0) continue;
    std::uint64_t calls = 0;
    if (fds[0].revents != 0) (void)!::read(wake_.get(), &calls, sizeof calls);
    if ((fds[1].revents & POLLOUT) != 0) send_unsent();
    if ((fds[1].revents & ~POLLOUT) != 0) hear();
  }
}

void NotifierClient::send_unsent() {
  const std::scoped_lock lock(mutex_);
  while (!unsent_.empty() && link_.socket) {
    const auto found = waiting_.find(unsent_.front());
    if (found != waiting_.end() && !send_locked(found->second.word)) return;
    unsent_.pop_front();
  }
}

// This thread alone hears and closes, but use() may have another socket by now: then this is a
// message of that one.
void NotifierClient::hear() {
  for (std::size_t i = 0; i < kBatch; ++i) {
    NotifierAnswer answer{};
    {
      const std::scoped_lock lock(mutex_);
      if (is_stopped_ || !link_.socket) return;
      const ssize_t n =
          ::recv(link_.socket.get(), &answer, sizeof answer, MSG_DONTWAIT | MSG_TRUNC);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (n != sizeof answer) return lost_locked();
      counts_.threads = answer.threads;
      counts_.most = answer.most;
    }
    if (answer.number != 0) answered(answer.number, answer.error, 0);
  }
}

void NotifierClient::lost_locked() {
  link_.socket.reset();
  spdlog::error("the process that tells the kernel died, with {} words unanswered",
                waiting_.size());
  if (is_last_) change_locked({});
}

void NotifierClient::answered(std::uint64_t number, int error, std::size_t bytes) {
  Answer answer;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = waiting_.find(number);
    if (is_stopped_ || found == waiting_.end()) return;
    answer = std::move(found->second.answer);
    waiting_.erase(found);
  }
  if (answer) answer(error, bytes);
}

bool NotifierClient::retrieved(std::uint64_t number, std::size_t bytes) {
  answered(number, 0, bytes);
  return true;
}

bool NotifierClient::is_own(pid_t thread) const {
  pid_t notifier = 0;
  {
    const std::scoped_lock lock(mutex_);
    notifier = link_.pid;
  }
  return (notifier != 0 && ::tgkill(notifier, thread, 0) == 0) ||
         ::tgkill(::getpid(), thread, 0) == 0;
}

NotifierClient::Counts NotifierClient::counts() const {
  const std::scoped_lock lock(mutex_);
  Counts counts = counts_;
  counts.pid = is_here_ ? 0 : link_.pid;
  counts.waiting = waiting_.size();
  if (!waiting_.empty()) counts.oldest = Clock::now() - waiting_.begin()->second.since;
  return counts;
}

}  // namespace btd
