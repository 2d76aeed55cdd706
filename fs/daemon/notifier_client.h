// NotifierClient: the worker's side of its notifier (notifier.h).
//
// Every word is answered: by the notifier, or by the kernel (retrieved()). A notifier that dies is
// replaced by the supervisor; what was not answered is said again to the next, since nothing of it
// does harm twice. Where there is none and will be none, the worker says the words itself: it may
// then not be able to end while one of them is blocked.
// As many words wait as whoever posts them has reasons: each is of a page that is recalled, or of a
// request. Thread-safety: any thread, but start() and stop() in this order by one. No lock of the
// caller's may be held that an answer takes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "alloc/unique_fd.h"
#include "fs/daemon/elastic.h"
#include "fs/daemon/kernel_word.h"

namespace btd {

struct NotifierLink {
  UniqueFd socket;  // none: there is no notifier
  pid_t pid = 0;
};

class NotifierClient {
 public:
  // An errno, or 0 and the bytes that the kernel has of the range, of kDropAndLook.
  using Answer = std::function<void(int error, std::size_t bytes)>;

  // `life`: of this worker, among those of the mount; so answers to an earlier one are known.
  NotifierClient(int fuse_fd, std::string mountpoint, std::uint32_t life);
  ~NotifierClient() { stop(); }
  NotifierClient(const NotifierClient&) = delete;
  NotifierClient& operator=(const NotifierClient&) = delete;

  void start(NotifierLink link);
  // No answer comes when this has returned, but where retrieved() is at it.
  void stop();
  // The next one, after the end of the one before.
  void use(NotifierLink link);
  // The supervisor is gone, so there will be no other one.
  void last_one();

  // Called on a thread of its own, or in retrieved(). The word's number is set here.
  void post(KernelWord word, Answer answer);
  // The kernel says what it has. False: to nobody here.
  bool retrieved(std::uint64_t number, std::size_t bytes);
  // Whether that thread is the notifier's, or this process's.
  [[nodiscard]] bool is_own(pid_t thread) const;

  struct Counts {
    pid_t pid = 0;  // 0: the worker says the words itself
    std::uint64_t said = 0, waiting = 0, threads = 0, most = 0, replaced = 0;
    std::chrono::nanoseconds oldest{};
  };
  [[nodiscard]] Counts counts() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    KernelWord word;
    Answer answer;
    Clock::time_point since;
  };

  void run();
  void wake() const;
  [[nodiscard]] bool send_locked(const KernelWord& word);
  void say_here_locked(const KernelWord& word);
  void send_all_locked();
  void change_locked(NotifierLink link);
  void send_unsent();
  void hear();
  void lost_locked();
  void answered(std::uint64_t number, int error, std::size_t bytes);

  const int fuse_fd_;
  const std::string mountpoint_;
  UniqueFd wake_;
  std::thread thread_;
  Elastic here_;

  mutable std::mutex mutex_;  // of the rest
  NotifierLink link_;
  bool is_here_ = false;  // the words are said by this process
  bool is_last_ = false, is_stopped_ = true;
  std::uint64_t next_;
  std::map<std::uint64_t, Waiting> waiting_;
  std::deque<std::uint64_t> unsent_;
  Counts counts_;
};

}  // namespace btd
