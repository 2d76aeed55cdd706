#include "fs/remote/appends.h"

#include <algorithm>

namespace btd::remote {

Appends::Session& Appends::session(NodeId peer, std::uint64_t number) {
  const auto found = std::ranges::find_if(sessions_, [&](const Session& known) {
    return known.peer == peer && known.number == number;
  });
  if (found != sessions_.end()) {
    sessions_.splice(sessions_.begin(), sessions_, found);
  } else {
    if (sessions_.size() == kMostSessions) sessions_.pop_back();
    sessions_.push_front({.peer = peer, .number = number});
  }
  return sessions_.front();
}

// A new worker sends what its predecessor had begun from another slot.
Appends::Latest& Appends::latest(Session& session, const wire::AppendRequest& request) {
  Latest& own = session.slots[request.slot % kMostSlots];
  if (own.unique == request.unique) return own;
  if ((request.flags & wire::kAppendAgain) != 0)
    for (auto& [slot, known] : session.slots)
      if (known.unique == request.unique) return known;
  return own;
}

Result<bool> Appends::begin(NodeId peer, const wire::AppendRequest& request) {
  const std::scoped_lock lock(mutex_);
  Latest& known = latest(session(peer, request.session), request);
  if (known.is_under_way) return fail(EBUSY, "The append is being done.");
  if (known.unique != request.unique) known = {.unique = request.unique};
  if (request.part < known.parts) return false;
  if (request.part > known.parts)
    return fail(EPROTO, "An append came without the parts before it.");
  known.is_under_way = true;
  return true;
}

void Appends::end(NodeId peer, const wire::AppendRequest& request, bool is_done) {
  const std::scoped_lock lock(mutex_);
  Latest& known = latest(session(peer, request.session), request);
  if (known.unique != request.unique) return;
  known.is_under_way = false;
  if (is_done) known.parts = request.part + 1;
}

}  // namespace btd::remote
