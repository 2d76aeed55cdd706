// The request that the calling thread is executing: its tag, its slot, and the points at which a
// test may have the worker killed. Each thread has one, so nothing here is shared.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>

#include "fs/daemon/metrics.h"
#include "fs/daemon/state_table.h"
#include "fs/namespace/namespace.h"

namespace btd {

struct NameAt {
  InodeId directory = 0;  // 0: none
  const char* name = "";
};

struct CurrentRequest {
  RequestTag tag;  // session 0 over io_uring: such requests are never sent again
  std::uint32_t slot = kNoSlot;
  bool resent = false;
  int result = 0;                 // the errno that was answered
  std::array<NameAt, 2> changes;  // the names that it changes, or tries to
};

CurrentRequest& current_request();

// The thread is about to wait for others, such as another node or the cluster's store: lets another
// thread wait for requests meanwhile, if this one does.
void about_to_sleep();

// As long as it lives, about_to_sleep() of this thread calls `hook` once.
class BeforeSleep {
 public:
  explicit BeforeSleep(const std::function<void()>& hook);
  ~BeforeSleep();
  BeforeSleep(const BeforeSleep&) = delete;
  BeforeSleep& operator=(const BeforeSleep&) = delete;
};

// Where a test can have the worker killed.
enum class KillPoint : std::uint32_t { kNone, kReceived, kCommitted, kCounted, kReplied };

inline std::uint32_t kill_word(KillPoint point, std::uint32_t opcode) {
  return static_cast<std::uint32_t>(point) << 16 | opcode;
}

inline constexpr std::uint32_t kKillAlways = 1U << 31;

// Kills this process if the state's header asks for it here: once, or each time with kKillAlways.
void kill_if_asked(StateHeader& header, KillPoint point, std::uint32_t opcode);

// Measures one request from construction to destruction and enters it into the trace.
class RequestScope {
 public:
  RequestScope(Metrics& metrics, StateHeader& header, std::uint32_t opcode, std::uint64_t id,
               std::string_view name);
  ~RequestScope();
  void reached(KillPoint point) const { kill_if_asked(header_, point, record_.opcode); }
  RequestScope(const RequestScope&) = delete;
  RequestScope& operator=(const RequestScope&) = delete;

 private:
  Metrics& metrics_;
  StateHeader& header_;
  TraceRecord record_;
  std::uint64_t start_;
};

}  // namespace btd
