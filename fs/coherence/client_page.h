// One page as a client knows it: a function (old, event) -> (new, what to do, why).
//
// What the kernel's page cache may hold in each state:
//   kInvalid   nothing.
//   kSharedFill, kOwnedFill ("IS_D", "IM_D")  a locked folio without contents: it waits for the
//              fill READ that is not answered. Nothing can be loaded, stored or laundered.
//   kShared    the contents, clean; or nothing: the kernel does not tell of what it reclaims.
//   kOwned     the contents, clean or dirty; or nothing.
//   kSharedDrop, kOwnedDrop ("SI_A", "MI_A")  as kShared and kOwned, but the kernel was told to
//              drop it (by the notice `notice`), and is laundering it if it is dirty.
// So a recall is acknowledged at once in the first three, and a fill READ in any of the others
// proves that the kernel has nothing.
#pragma once

#include "fs/coherence/types.h"

namespace btd::coherence {

enum class PageState : std::uint8_t {
  kInvalid,
  kSharedFill,
  kOwnedFill,
  kShared,
  kOwned,
  kSharedDrop,
  kOwnedDrop,
};

struct ClientPage {
  PageState state = PageState::kInvalid;
  Version recall = 0;  // of home, not acknowledged; 0: none
  Notice notice = 0;   // of a drop: the invalidation that counts
  Request fill = 0;    // of a fill: the READ that waits

  friend bool operator==(const ClientPage&, const ClientPage&) = default;
};

// Why a page changed, or did not.
enum class ClientReason : std::uint8_t {
  kFirstFill,
  kSilentDrop,      // a fill READ says that the kernel had reclaimed it
  kReadProvesDrop,  // a fill READ says that what was to be dropped is gone
  kFillPending,     // a second READ while one waits: kernels do not do that
  kGranted,
  kGrantTooWeak,  // shared, but by now the node may store: ask for ownership
  kRefused,
  kNothingWaits,  // a grant after the fill was given up
  kNotHeld,       // a recall of what the kernel cannot have
  kRecallWhileFilling,
  kRecallOfHeld,
  kRecallWhileDropping,
  kRecallTwice,  // by a home that does not know whether it was heard
  kFirstWriter,  // shared pages go before the node may store
  kOldNotice,
  kDropReturned,
  kStillCached,  // the kernel could not drop it, and did not say so
  kDropped,
  kPlainRead,
};

// What to do besides taking the new state, in this order.
struct PageOutput {
  ClientPage next;
  ClientReason reason = ClientReason::kNothingWaits;
  Version ack = 0;                 // acknowledge this recall; 0: none
  Rights acquire = Rights::kNone;  // ask home for that; kNone: nothing
  bool answer_fill = false;        // answer old.fill with the grant's contents or error
  bool notify = false;             // have the kernel drop it, under next.notice
  bool check = false;              // ask whether it is still cached
};

[[nodiscard]] constexpr bool is_filling(PageState state) {
  return state == PageState::kSharedFill || state == PageState::kOwnedFill;
}
[[nodiscard]] constexpr bool is_dropping(PageState state) {
  return state == PageState::kSharedDrop || state == PageState::kOwnedDrop;
}
// The kernel may have it cached read-only.
[[nodiscard]] constexpr bool may_be_shared(PageState state) {
  return state == PageState::kShared || state == PageState::kSharedDrop;
}

// The kernel waits for contents. `want`: what the node needs, by its open files.
[[nodiscard]] PageOutput on_fill(const ClientPage& old, Request fill, Rights want,
                                 const Rules& rules);
// Home answered the acquire. kNone: with an error.
[[nodiscard]] PageOutput on_grant(const ClientPage& old, Rights granted, Rights want,
                                  const Rules& rules);
// The page came along with another that was asked for.
[[nodiscard]] PageOutput on_run(const ClientPage& old);
[[nodiscard]] PageOutput on_recall(const ClientPage& old, Version version, Notice fresh,
                                   const Rules& rules);
// The node is about to store: what is shared must go.
[[nodiscard]] PageOutput on_first_writer(const ClientPage& old, Notice fresh);
// The invalidation `notice` came back from the kernel.
[[nodiscard]] PageOutput on_notified(const ClientPage& old, Notice notice, const Rules& rules);
// Whether contents are cached (mincore), asked after `notice` had come back.
[[nodiscard]] PageOutput on_checked(const ClientPage& old, Notice notice, bool is_cached,
                                    const Rules& rules);

}  // namespace btd::coherence
