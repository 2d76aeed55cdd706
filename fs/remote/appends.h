// Appends: what became of the latest append of each thread of each peer, so that one that is asked
// for again is done once.
//
// An append has no offset that would make it safe to do again. Its request has a number that it
// keeps when the connection breaks and when the peer's worker dies; it is done in parts, in order.
// A thread asks for one request at a time, so its latest is all that can come again. What is known
// goes with this process: an append that home did and could not answer before it died may be there
// twice.
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <unordered_map>

#include "alloc/result.h"
#include "fs/namespace/inode.h"
#include "fs/remote/wire.h"

namespace btd::remote {

class Appends {
 public:
  static constexpr std::size_t kMostSessions = 256;  // the longest unused makes room
  static constexpr std::size_t kMostSlots = 4096;    // of a session; more share

  // True: it is the caller's to do, and to end. False: it is done. Errors: EBUSY it is being done;
  // EPROTO parts before it are missing.
  Result<bool> begin(NodeId peer, const wire::AppendRequest& request);
  void end(NodeId peer, const wire::AppendRequest& request, bool is_done);

 private:
  struct Latest {
    std::uint64_t unique = 0;
    std::uint32_t parts = 0;  // done
    bool is_under_way = false;
  };
  struct Session {
    NodeId peer = 0;
    std::uint64_t number = 0;
    std::unordered_map<std::uint32_t, Latest> slots;
  };

  Session& session(NodeId peer, std::uint64_t number);
  static Latest& latest(Session& session, const wire::AppendRequest& request);

  std::mutex mutex_;
  std::list<Session> sessions_;  // latest use first
};

}  // namespace btd::remote
