// Home: the directory of one allocation's pages, and the transactions that change it.
//
// Transactions stand in one list in the order of their arrival. One runs when none before it
// overlaps it: a first-in first-out queue for each page, in which a transaction over many pages
// takes its place in all of them at one instant, so none waits in a circle. Running, it recalls who
// may not hold its pages on, waits for their acknowledgements, and takes effect. Acknowledgements
// and write-backs pass by the list.
//
// A resize passes those that do not take effect yet. While a kernel waits for one it writes nothing
// back, so nothing may wait for it: neither the resize for others, nor it for their pages.
//
// Assumes: the caller carries out actions in their order; channels to clients keep their order.
// Not thread-safe.
#pragma once

#include <map>
#include <variant>
#include <vector>

#include "fs/coherence/directory.h"
#include "fs/coherence/messages.h"
#include "fs/coherence/types.h"

namespace btd::coherence {

struct Transaction {
  enum class Kind : std::uint8_t {
    kAcquire,
    kDirectRead,
    kDirectWrite,
    kResize,
    kNothing,  // over: its node was lost, or it could not be applied
  };
  enum class Phase : std::uint8_t {
    kQueued,
    kResiding,   // until `ready_at`, so that holders get something done
    kRecalling,  // acknowledgements are missing
    kApplying,   // the caller stores it
    kSizing,     // nodes that have not taken the new size are missing
  };
  Kind kind = Kind::kNothing;
  Phase phase = Phase::kQueued;
  Rights rights = Rights::kNone;  // that an acquire wants
  NodeSlot node = 0;
  PageRange range;
  Request request = 0;      // not of an acquire
  std::uint64_t bytes = 0;  // the size that a resize sets, or that a direct write grows to
  Time ready_at{};
  Version version = 0;  // of the change of size
  NodeSet unsized;      // whose acknowledgement of it is missing
};

namespace home_event {
struct Arrived {
  NodeSlot node = 0;
  ToHome message;
};
// What an Apply asked for is done; or it failed and changed nothing: then its node is told.
struct Applied {
  NodeSlot node = 0;
  Request request = 0;
  std::uint16_t error = 0;
};
struct Timer {};
struct Attached {
  NodeSlot node = 0;
};
// The node's channel broke and is another one now. What it asked for it asks for again, and what
// it was told may not have reached it; its kernel has what it had.
struct Resumed {
  NodeSlot node = 0;
};
// The node has nothing of the allocation any more, and said so.
struct Detached {
  NodeSlot node = 0;
};
// The node is lost and nothing maps its pages on: its mappers are stopped, its lease has expired.
// Never before that: until then they load and store as if they were here.
struct Fenced {
  NodeSlot node = 0;
  bool is_loss_accepted = false;  // of what it owned, by whoever carries this out: nobody gets EIO
};
// Whoever is responsible knows that the last stores to `page` are lost: serve what is here.
struct LossAccepted {
  Page page = 0;
};
}  // namespace home_event

using HomeEvent = std::variant<home_event::Arrived, home_event::Applied, home_event::Timer,
                               home_event::Attached, home_event::Resumed, home_event::Detached,
                               home_event::Fenced, home_event::LossAccepted>;

namespace home_action {
// With the present contents of `contents` behind it, unless that is empty.
struct Send {
  NodeSlot node = 0;
  ToClient message;
  PageRange contents{0, 0};
};
// Store the write-back's tail at once, up to `bytes`; answer Done when it is durable everywhere.
struct StoreBack {
  NodeSlot node = 0;
  WriteBack message;
};
// Store the direct write, or cut or lengthen the allocation; then say Applied.
struct Apply {
  NodeSlot node = 0;
  Request request = 0;
  bool is_resize = false;
  std::uint64_t bytes = 0;  // the new size
};
struct SetTimer {
  Time at{};
};
struct Report {
  enum class What : std::uint8_t {
    kForeignWriteBack,  // from who does not own the page: it was not stored
    kUnexpectedAck,
    kNotAUser,  // a message of a node that is fenced or was never attached
    kPageLost,  // its owner was fenced; EIO until the loss is accepted, unless it is already
  } what = What::kNotAUser;
  NodeSlot node = 0;
  Page page = 0;
};
}  // namespace home_action

using HomeAction = std::variant<home_action::Send, home_action::StoreBack, home_action::Apply,
                                home_action::SetTimer, home_action::Report>;

// Why the directory changed, or did not.
enum class HomeReason : std::uint8_t {
  kQueued,             // a transaction took its place
  kAskerHoldsNothing,  // who asks for a page has dropped it
  kHeldTooShortly,     // residency
  kHeldByOthers,       // recalls went out
  kAckCame,
  kGrantedShared,
  kGrantedOwned,
  kGrantedRun,  // a unit of which the node has the most already
  kBeyondEnd,   // no such page now
  kLost,        // EIO rather than stale
  kDirectReadServed,
  kDirectWriteAlone,  // nobody holds what it changes
  kSizeAlone,
  kSizePublished,
  kSizeTaken,  // by all users
  kOwnerWroteBack,
  kForeignWriteBack,
  kUnexpectedAck,
  kNotAUser,
  kTooMany,
  kNotApplied,
  kToldAgain,  // a node whose channel broke
  kNodeFenced,
  kLossAccepted,
};

struct HomeOutput {
  std::vector<HomeAction> actions;
  std::vector<HomeReason> reasons;
};

struct HomeState {
  std::uint64_t bytes = 0;
  NodeSet users;
  Version last_version = 0;
  std::map<Page, Entry> pages;  // those that are not idle
  std::vector<Transaction> transactions;
  std::map<Page, Time> contended;  // by units of 64 KiB: when one was last taken from an owner
};

class Home {
 public:
  Home(const HomeLimits& limits, const Rules& rules, std::uint64_t bytes)
      : limits_(&limits), rules_(&rules) {
    state_.bytes = bytes;
  }

  HomeOutput on(const HomeEvent& event, Time now);

  [[nodiscard]] const HomeState& state() const { return state_; }
  [[nodiscard]] HomeState& state() { return state_; }

 private:
  struct Step;                // one event's output, and the functions that make it
  const HomeLimits* limits_;  // outlives this
  const Rules* rules_;        // outlives this
  HomeState state_;
};

}  // namespace btd::coherence
