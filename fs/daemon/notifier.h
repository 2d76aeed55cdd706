// The notifier: a process beside each worker of a cluster's node, that says to the kernel what may
// block there (kernel_word.h).
//
// A notification may wait for requests that the worker has read and not answered. Were it said by a
// thread of the worker, a worker that is killed meanwhile could not end, nobody would replace it,
// and the requests would never be answered. Nobody waits for the end of a notifier. Its successor
// begins with the next worker; what is blocked in it ends when that one answers.
//
// A few threads wait for words; another one begins whenever a word waited for a moment while all
// were blocked. They are bounded; beyond, words wait until a request fails or is answered, which
// all do in time. Thread-safety: run by its owner thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "fs/daemon/kernel_word.h"

namespace btd {

// What the notifier answers a word with, as it lies on the socket. It also says by itself how many
// threads it has, where that changes.
struct NotifierAnswer {
  std::uint64_t number;  // 0: of no word
  std::int32_t error;
  std::uint32_t threads;  // now
  std::uint32_t most;     // at any time
  std::uint32_t spare;
};
static_assert(sizeof(NotifierAnswer) == 24);

class Notifier {
 public:
  static constexpr unsigned kIdle = 4;     // threads that stay while they have nothing to do
  static constexpr unsigned kMost = 1024;  // threads at all

  // `say`: as kernel_word.h; it may block. Words come by `socket`, and answers go there.
  Notifier(UniqueFd socket, std::function<int(const KernelWord&)> say);
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  enum class End {
    kDone,       // the worker is gone, and nothing is under way
    kAbandoned,  // something is, and `lifeline` has ended: there is no other worker
  };
  End serve(int lifeline);
  // Whether nothing is under way any more, in time.
  bool rests_within(int milliseconds);

 private:
  struct Shared;
  static void begin_locked(const std::shared_ptr<Shared>& shared);
  static void run(Shared& shared);
  static void serve_word(Shared& shared, const KernelWord& word);
  void help();

  std::shared_ptr<Shared> shared_;  // outlives this where a thread is blocked
};

// What the supervisor tells it on its command line.
struct NotifierArgs {
  int fuse_fd = -1;
  int socket = -1;
  int lifeline = -1;        // ends with the supervisor
  unsigned connection = 0;  // mounting.h
  std::string mountpoint;

  [[nodiscard]] std::string to_argument() const;
  static Result<NotifierArgs> parse(std::string_view argument);
};

// Serves one worker: `btd notifier ARGUMENT`. The value is the exit code. Where neither a worker
// nor a supervisor is left and something is blocked, it ends the connection: that would live on by
// the blocked descriptor, and programs would wait for good.
Result<int> run_notifier(const NotifierArgs& args);

}  // namespace btd
