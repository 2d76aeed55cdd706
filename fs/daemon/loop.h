// RequestLoop: reads requests from /dev/fuse and executes them.
//
// One thread at a time, the leader, waits for the kernel; the others sleep on its mutex. The leader
// executes short requests itself and keeps the lead, so one client costs no hand-over and idle
// threads cost nothing. It hands the lead on before a request that may take long, before it
// sleeps for another node (about_to_sleep()), or when requests keep coming without a wait. It moves
// to the processor of a client that asks alone (companion.h); else it looks for the next request
// for a moment before it sleeps. Nothing wakes up while there are no requests. Thread-safety: run
// by its owner thread; stop() from any. Lock order: lead_ is outermost.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "alloc/unique_fd.h"
#include "fs/daemon/state_table.h"
#include "fs/namespace/inode.h"

struct fuse_session;

namespace btd {

class Companion;

class RequestLoop {
 public:
  struct Options {
    unsigned threads = 4;
    unsigned spin_us = 0;
    bool share_processor = true;  // fs/daemon/companion.h
    std::optional<NodeId> node;   // of a cluster: requests wait for others, and for its store
    HomeOf home_of = node_of;
    std::size_t buffer_bytes = 0;  // for the largest request
    // Who takes the signals for programs that wait, by the numbers of their requests; else libfuse.
    std::function<void(std::uint64_t unique)> interrupted;
    // Who asked the kernel what it has of a range, by a retrieve of that number.
    std::function<void(std::uint64_t number, std::size_t bytes)> notified;
  };
  // `ended` is called once, from a serving thread, when the connection is gone.
  RequestLoop(fuse_session* session, int fuse_fd, StateTable& state, const Options& options,
              std::function<void()> ended);
  ~RequestLoop();
  RequestLoop(const RequestLoop&) = delete;
  RequestLoop& operator=(const RequestLoop&) = delete;

  // Executes, alone and in order, the requests that the kernel sends again, up to the first that
  // is new; calls `settled` before that one is executed.
  void execute_resent(const std::function<void()>& settled);
  void start();
  // Requests in hand are finished; join() returns when they are.
  void stop();
  void join();

 private:
  class Worker;

  const Options options_;
  fuse_session* session_;
  int fuse_fd_;
  StateTable& state_;
  std::function<void()> ended_;
  std::once_flag ended_once_;
  UniqueFd wake_;
  std::atomic<bool> stopping_{false};
  std::mutex lead_;
  std::unique_ptr<Companion> companion_;  // of the leader
  std::vector<std::thread> threads_;
};

}  // namespace btd
