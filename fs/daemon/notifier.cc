#include "fs/daemon/notifier.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "fs/daemon/mounting.h"

namespace btd {

namespace {

constexpr auto kMoment = std::chrono::milliseconds(1);
constexpr int kAbortMs = 1'000;

}  // namespace

struct Notifier::Shared {
  UniqueFd socket, wake;
  std::function<int(const KernelWord&)> say;
  std::mutex mutex;
  std::condition_variable ended;
  unsigned threads = 0, idle = 0, most = 0;
  std::uint64_t taken = 0;

  // The worker's status can do without one that finds no room.
  void tell_threads_locked() const {
    const NotifierAnswer counts{
        .number = 0, .error = 0, .threads = threads, .most = most, .spare = 0};
    (void)::send(socket.get(), &counts, sizeof counts, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  void call() const {
    const std::uint64_t one = 1;
    (void)!::write(wake.get(), &one, sizeof one);
  }
};

Notifier::Notifier(UniqueFd socket, std::function<int(const KernelWord&)> say)
    : shared_(std::make_shared<Shared>()) {
  shared_->socket = std::move(socket);
  shared_->wake.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  shared_->say = std::move(say);
}

void Notifier::begin_locked(const std::shared_ptr<Shared>& shared) {
  ++shared->idle;
  shared->most = std::max(shared->most, ++shared->threads);
  try {
    std::thread([shared] { run(*shared); }).detach();
  } catch (const std::system_error&) {  // tried again when the next word has waited
    --shared->idle;
    --shared->threads;
  }
  shared->tell_threads_locked();
}

// Those that are idle sleep in recv(), of which one word wakes one.
void Notifier::run(Shared& shared) {
  std::array<std::byte, KernelWord::kMaxBytes> bytes{};
  std::unique_lock lock(shared.mutex);
  for (;;) {
    lock.unlock();
    ssize_t n = 0;
    do {
      n = ::recv(shared.socket.get(), bytes.data(), bytes.size(), 0);
    } while (n < 0 && errno == EINTR);
    const bool is_word = n > 0;
    lock.lock();
    if (--shared.idle == 0 && is_word) shared.call();
    if (!is_word) break;
    ++shared.taken;
    lock.unlock();
    if (const auto word = KernelWord::decode(std::span(bytes).first(static_cast<std::size_t>(n))))
      serve_word(shared, *word);
    lock.lock();
    if (shared.idle >= kIdle) break;
    ++shared.idle;
  }
  --shared.threads;
  shared.tell_threads_locked();
  shared.call();
  shared.ended.notify_all();
}

void Notifier::serve_word(Shared& shared, const KernelWord& word) {
  NotifierAnswer answer{
      .number = word.number, .error = shared.say(word), .threads = 0, .most = 0, .spare = 0};
  if (word.kind == KernelWord::Kind::kDropAndLook && answer.error == 0)
    return;  // it is the kernel's
  {
    const std::scoped_lock lock(shared.mutex);
    answer.threads = shared.threads;
    answer.most = shared.most;
  }
  (void)::send(shared.socket.get(), &answer, sizeof answer, MSG_NOSIGNAL);
}

// A word is there, and no thread for it.
void Notifier::help() {
  std::unique_lock lock(shared_->mutex);
  const std::uint64_t taken = shared_->taken;
  lock.unlock();
  std::this_thread::sleep_for(kMoment);
  lock.lock();
  if (shared_->taken == taken && shared_->idle == 0) begin_locked(shared_);
}

Notifier::End Notifier::serve(int lifeline) {
  {
    const std::scoped_lock lock(shared_->mutex);
    for (unsigned i = 0; i < kIdle; ++i) begin_locked(shared_);
  }
  bool is_open = true;
  for (;;) {
    bool is_short = false;
    {
      const std::scoped_lock lock(shared_->mutex);
      if (!is_open && shared_->threads == 0) return End::kDone;
      is_short = shared_->idle == 0 && shared_->threads < kMost;
    }
    const auto words = static_cast<short>(is_short ? POLLIN : 0);
    pollfd fds[3] = {{is_open ? shared_->socket.get() : -1, words, 0},
                     {shared_->wake.get(), POLLIN, 0},
                     {is_open ? -1 : lifeline, 0, 0}};
    if (::poll(fds, 3, -1) < 0) continue;
    std::uint64_t calls = 0;
    if (fds[1].revents != 0) (void)!::read(shared_->wake.get(), &calls, sizeof calls);
    if (fds[2].revents != 0) return End::kAbandoned;
    if ((fds[0].revents & (POLLHUP | POLLERR)) != 0) {
      is_open = false;
    } else if (fds[0].revents != 0) {
      help();
    }
  }
}

bool Notifier::rests_within(int milliseconds) {
  std::unique_lock lock(shared_->mutex);
  return shared_->ended.wait_for(lock, std::chrono::milliseconds(milliseconds),
                                 [this] { return shared_->threads == 0; });
}

Result<int> run_notifier(const NotifierArgs& args) {
  // It ends by its sockets; the signals of a terminal or of a service manager reach it too.
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGPIPE}) sigaddset(&set, signal);
  sigprocmask(SIG_SETMASK, &set, nullptr);
  (void)!::chdir("/");
  Notifier notifier(UniqueFd(args.socket), [&args](const KernelWord& word) {
    return say(word, args.fuse_fd, args.mountpoint);
  });
  if (notifier.serve(args.lifeline) == Notifier::End::kDone) return 0;
  end_connection(args.connection, args.mountpoint);
  return notifier.rests_within(kAbortMs) ? 0 : 1;
}

}  // namespace btd
