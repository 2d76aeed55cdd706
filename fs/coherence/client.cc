#include "fs/coherence/client.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace btd::coherence {

using Report = client_action::Report;

struct Client::Step {
  const Rules& rules;
  ClientState& state;
  ClientOutput out;

  void act(const ClientAction& action) { out.actions.push_back(action); }
  void send(ToHome message) { act(client_action::Send{message}); }
  void answer(Request request, int error) { act(client_action::Answer{request, error}); }

  [[nodiscard]] Rights want() const { return state.writers > 0 ? Rights::kOwned : Rights::kShared; }
  [[nodiscard]] ClientPage page(Page at) const {
    const auto found = state.pages.find(at);
    return found == state.pages.end() ? ClientPage{} : found->second;
  }

  // Takes a page's step, and does what it says.
  void take(Page at, const PageOutput& step, int error = 0) {
    const Request fill = page(at).fill;
    out.reasons.push_back(step.reason);
    if (step.next == ClientPage{}) {
      state.pages.erase(at);
    } else {
      state.pages[at] = step.next;
    }
    if (step.ack != 0) {
      send(RecallAck{.page = at, .version = step.ack});
      send_late_writes(at);
    }
    if (step.acquire != Rights::kNone) send(Acquire{.page = at, .rights = step.acquire});
    if (step.answer_fill) answer(fill, error);
    if (step.notify) act(client_action::Notify{at, step.next.notice});
    if (step.check) act(client_action::CheckCached{at, step.next.notice});
    if (step.reason == ClientReason::kFillPending) act(Report{Report::What::kOddRead, at});
    if (step.reason == ClientReason::kRecallTwice) act(Report{Report::What::kOddRecall, at});
  }

  // ---- the kernel

  void on(const client_event::FillRead& event) {
    // The kernel asks again by single pages; a short answer to many would cut its file.
    if (event.range.count != 1) return answer(event.request, EAGAIN);
    if (state.is_fenced || event.range.first >= pages_of(state.bytes))
      return answer(event.request, EIO);
    const ClientPage old = page(event.range.first);
    const PageOutput step = on_fill(old, event.request, want(), rules);
    take(event.range.first, step);
    if (step.reason == ClientReason::kFillPending) return answer(event.request, EAGAIN);
    settle_opens();
  }

  void on(const client_event::PageWrite& event) {
    if (state.is_fenced) return lose(event.request, event.first);
    const std::uint64_t at = event.first * kPageBytes;
    WriteBack message{.first = event.first, .bytes = event.bytes, .request = event.request};
    message.bytes = std::min(event.bytes, state.bytes > at ? state.bytes - at : 0);
    if (message.bytes == 0) return answer(event.request, 0);  // cut off meanwhile
    if (!rules.hold_launder && page(event.first).recall != 0) {
      answer(event.request, 0);
      state.writes.push_back(message);
      return;
    }
    state.writes.push_back(message);
    send(message);
  }

  // Where the checker has launders not held: they leave after the acknowledgement.
  void send_late_writes(Page at) {
    if (rules.hold_launder) return;
    for (const WriteBack& late : state.writes)
      if (late.first == at) send(late);
  }

  void lose(Request request, Page at) {
    act(Report{Report::What::kWriteLost, at});
    answer(request, EIO);
  }

  void on(const client_event::Open& event) {
    if (state.is_fenced) return answer(event.request, EIO);
    if (!event.is_writer) return answer(event.request, 0);
    if (state.writers++ == 0 && rules.purge_at_first_writer) purge_shared();
    state.opens.push_back(event.request);
    settle_opens();
  }

  void purge_shared() {
    std::vector<Page> shared;
    for (const auto& [at, now] : state.pages)
      if (now.state == PageState::kShared) shared.push_back(at);
    for (const Page at : shared) take(at, on_first_writer(page(at), ++state.last_notice));
  }

  // While a writer is open no page becomes shared, so what it waits for ends.
  void settle_opens() {
    if (state.opens.empty()) return;
    const bool waits = rules.purge_at_first_writer &&
                       std::any_of(state.pages.begin(), state.pages.end(),
                                   [](const auto& at) { return may_be_shared(at.second.state); });
    if (waits) return;
    for (const Request request : std::exchange(state.opens, {})) answer(request, 0);
  }

  void on(const client_event::ReleaseWriter&) {
    if (state.writers > 0) --state.writers;
  }

  void on(const client_event::Direct& event) { send(event.message); }

  void on(const client_event::Notified& event) {
    take(event.page, on_notified(page(event.page), event.notice, rules));
    settle_opens();
  }

  void on(const client_event::Checked& event) {
    take(event.page, on_checked(page(event.page), event.notice, event.is_cached, rules));
    settle_opens();
  }

  void on(const client_event::SizeRefreshed& event) { send(SizeAck{.version = event.version}); }

  // ---- home

  void on(const client_event::Arrived& event) {
    if (state.is_fenced) return;
    std::visit([&](const auto& message) { arrived(message); }, event.message);
  }

  void arrived(const Grant& message) {
    if (message.rights == Rights::kNone && message.error == EBUSY)
      return act(client_action::RetryFill{message.page});
    take(message.page, on_grant(page(message.page), message.rights, want(), rules), message.error);
    if (message.rights == Rights::kOwned) {
      for (std::uint32_t i = 0; i < message.count; ++i)
        if (const Page at = message.first + i; at != message.page) take(at, on_run(page(at)));
    }
    settle_opens();
  }

  void arrived(const Recall& message) {
    take(message.page, on_recall(page(message.page), message.version, ++state.last_notice, rules));
  }

  void arrived(const Done& message) {
    const auto write = std::find_if(state.writes.begin(), state.writes.end(),
                                    [&](const auto& at) { return at.request == message.request; });
    if (write == state.writes.end()) return answer(message.request, message.error);
    // A launder that fails loses its contents: the kernel drops them all the same.
    if (message.error == EAGAIN || message.error == EBUSY)
      return act(client_action::RetryWrite{message.request});
    if (message.error != 0) act(Report{Report::What::kWriteRefused, write->first});
    state.writes.erase(write);
    answer(message.request, message.error);
  }

  void arrived(const SizeChange& message) {
    state.bytes = message.bytes;
    act(client_action::RefreshSize{message.version});
  }

  // ---- later

  void on(const client_event::RetryFill& event) {
    if (is_filling(page(event.page).state)) send(Acquire{.page = event.page, .rights = want()});
  }

  void on(const client_event::RetryWrite& event) {
    for (const WriteBack& write : state.writes)
      if (write.request == event.request) send(write);
  }

  // Everything that waits fails, and the kernel drops what it has: it must not be read on.
  void on(const client_event::Fenced&) {
    state.is_fenced = true;
    for (const auto& [at, now] : std::exchange(state.pages, {})) {
      if (is_filling(now.state)) {
        answer(now.fill, EIO);
      } else {
        act(client_action::Notify{at, ++state.last_notice});
      }
    }
    for (const WriteBack& write : std::exchange(state.writes, {})) lose(write.request, write.first);
    for (const Request request : std::exchange(state.opens, {})) answer(request, EIO);
  }
};

ClientOutput Client::on(const ClientEvent& event) {
  Step step{.rules = *rules_, .state = state_, .out = {}};
  std::visit([&](const auto& happened) { step.on(happened); }, event);
  return std::move(step.out);
}

}  // namespace btd::coherence
