#include "fs/coherence/client_page.h"

namespace btd::coherence {
namespace {

PageOutput stays(const ClientPage& old, ClientReason why) { return {.next = old, .reason = why}; }

ClientPage filling(Request fill, Rights want) {
  return {.state = want == Rights::kOwned ? PageState::kOwnedFill : PageState::kSharedFill,
          .fill = fill};
}

PageOutput dropping(const ClientPage& old, Notice fresh, ClientReason why) {
  PageOutput out = stays(old, why);
  out.next.state = old.state == PageState::kOwned ? PageState::kOwnedDrop : PageState::kSharedDrop;
  out.next.notice = fresh;
  out.notify = true;
  return out;
}

PageOutput gone(const ClientPage& old) {
  PageOutput out = stays(old, ClientReason::kDropped);
  out.ack = old.recall;
  // A fill may wait here only where the checker switched the acknowledgement at READ off.
  if (is_filling(old.state)) {
    out.next.recall = 0;
  } else {
    out.next = ClientPage{};
  }
  return out;
}

bool counts(const ClientPage& page, Notice notice, const Rules& rules) {
  if (!rules.match_notice) return page.recall != 0 || is_dropping(page.state);
  if (page.notice != notice || notice == 0) return false;
  return is_dropping(page.state) || page.recall != 0;
}

}  // namespace

PageOutput on_fill(const ClientPage& old, Request fill, Rights want, const Rules& rules) {
  if (is_filling(old.state)) return stays(old, ClientReason::kFillPending);
  PageOutput out{.next = filling(fill, want), .acquire = want};
  if (is_dropping(old.state)) {
    out.reason = ClientReason::kReadProvesDrop;
    out.ack = old.recall;
    if (!rules.read_proves_drop) {
      out.ack = 0;
      out.next.recall = old.recall;
      out.next.notice = old.notice;
    }
  } else {
    out.reason =
        old.state == PageState::kInvalid ? ClientReason::kFirstFill : ClientReason::kSilentDrop;
  }
  return out;
}

PageOutput on_grant(const ClientPage& old, Rights granted, Rights want, const Rules& rules) {
  if (!is_filling(old.state)) return stays(old, ClientReason::kNothingWaits);
  if (granted == Rights::kShared && want == Rights::kOwned && rules.refuse_weak_grant) {
    PageOutput out{.next = old, .reason = ClientReason::kGrantTooWeak, .acquire = want};
    out.next.state = PageState::kOwnedFill;
    return out;
  }
  PageOutput out{.next = old, .reason = ClientReason::kGranted, .answer_fill = true};
  out.next.fill = 0;
  switch (granted) {
    case Rights::kNone:
      out.reason = ClientReason::kRefused;
      out.next.state = PageState::kInvalid;
      break;
    case Rights::kShared:
      out.next.state = old.recall != 0 ? PageState::kSharedDrop : PageState::kShared;
      break;
    case Rights::kOwned:
      out.next.state = old.recall != 0 ? PageState::kOwnedDrop : PageState::kOwned;
      break;
  }
  return out;
}

PageOutput on_run(const ClientPage& old) {
  PageOutput out = stays(old, ClientReason::kGranted);
  if (old.state == PageState::kInvalid) out.next.state = PageState::kOwned;
  return out;
}

PageOutput on_recall(const ClientPage& old, Version version, Notice fresh, const Rules& rules) {
  // A home that began anew numbers anew: its latest recall of a page is the one that it awaits.
  if (old.recall != 0) {
    PageOutput out = stays(old, ClientReason::kRecallTwice);
    out.next.recall = version;
    return out;
  }
  PageOutput out = stays(old, ClientReason::kNotHeld);
  switch (old.state) {
    case PageState::kInvalid:
      out.ack = version;
      return out;
    case PageState::kSharedFill:
    case PageState::kOwnedFill:
      out.reason = ClientReason::kRecallWhileFilling;
      if (rules.ack_while_fill_pending) {
        out.ack = version;
      } else {
        out.next.recall = version;
        out.next.notice = fresh;
        out.notify = true;
      }
      return out;
    case PageState::kShared:
    case PageState::kOwned:
      out = dropping(old, fresh, ClientReason::kRecallOfHeld);
      out.next.recall = version;
      return out;
    case PageState::kSharedDrop:
    case PageState::kOwnedDrop:
      out.reason = ClientReason::kRecallWhileDropping;
      out.next.recall = version;
      return out;
  }
  return out;
}

PageOutput on_first_writer(const ClientPage& old, Notice fresh) {
  if (old.state != PageState::kShared) return stays(old, ClientReason::kFirstWriter);
  return dropping(old, fresh, ClientReason::kFirstWriter);
}

PageOutput on_notified(const ClientPage& old, Notice notice, const Rules& rules) {
  if (!counts(old, notice, rules)) return stays(old, ClientReason::kOldNotice);
  if (!rules.verify_drop) return gone(old);
  PageOutput out = stays(old, ClientReason::kDropReturned);
  out.check = true;
  return out;
}

PageOutput on_checked(const ClientPage& old, Notice notice, bool is_cached, const Rules& rules) {
  if (!counts(old, notice, rules)) return stays(old, ClientReason::kOldNotice);
  if (!is_cached) return gone(old);
  PageOutput out = stays(old, ClientReason::kStillCached);
  out.notify = true;
  return out;
}

}  // namespace btd::coherence
