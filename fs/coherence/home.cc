#include "fs/coherence/home.h"

#include <algorithm>
#include <cerrno>

namespace btd::coherence {
namespace {

using Kind = Transaction::Kind;
using Phase = Transaction::Phase;
using Report = home_action::Report;

constexpr PageRange kAllPages{0, std::numeric_limits<Page>::max()};

}  // namespace

struct Home::Step {
  const HomeLimits& limits;
  const Rules& rules;
  HomeState& state;
  Time now;
  HomeOutput out;

  void because(HomeReason reason) { out.reasons.push_back(reason); }
  void send(NodeSlot node, ToClient message, PageRange contents = {0, 0}) {
    out.actions.emplace_back(home_action::Send{node, message, contents});
  }
  void report(Report::What what, NodeSlot node, Page page) {
    out.actions.emplace_back(Report{what, node, page});
  }

  [[nodiscard]] Entry entry(Page page) const {
    const auto found = state.pages.find(page);
    return found == state.pages.end() ? Entry{} : found->second;
  }
  void set(Page page, const Entry& next) {
    if (is_idle(next)) {
      state.pages.erase(page);
    } else {
      state.pages[page] = next;
    }
  }

  // ---- what arrives

  void take(NodeSlot node, const Acquire& message) {
    // Its fill is pending, so its kernel has nothing of the page; older write-backs came before.
    if (const Entry old = entry(message.page); holders(old).has(node)) {
      set(message.page, dropped(old, node));
      because(HomeReason::kAskerHoldsNothing);
    }
    if (message.page >= pages_of(state.bytes))
      return refuse(node, message.page, EIO, HomeReason::kBeyondEnd);
    queue({.kind = Kind::kAcquire,
           .rights = message.rights,
           .node = node,
           .range = {message.page, 1}});
  }

  void take(NodeSlot node, const RecallAck& message) {
    const Entry old = entry(message.page);
    if (!old.awaited.has(node) || old.version != message.version) {
      because(HomeReason::kUnexpectedAck);
      return report(Report::What::kUnexpectedAck, node, message.page);
    }
    set(message.page, acknowledged(old, node, message.kept));
    because(HomeReason::kAckCame);
  }

  void take(NodeSlot node, const WriteBack& message) {
    const PageRange range{message.first, pages_of(message.bytes)};
    for (Page page = range.first; page < range.end(); ++page) {
      if (is_owner(entry(page), node)) continue;
      because(HomeReason::kForeignWriteBack);
      report(Report::What::kForeignWriteBack, node, page);
      return send(node, Done{.request = message.request, .error = EPERM});
    }
    WriteBack kept = message;
    const std::uint64_t at = message.first * kPageBytes;
    kept.bytes = std::min(message.bytes, state.bytes > at ? state.bytes - at : 0);
    for (Page page = range.first; page < range.end(); ++page)
      if (entry(page).is_cut) {
        kept.bytes = std::min(kept.bytes, (page - range.first) * kPageBytes);
        break;
      }
    because(HomeReason::kOwnerWroteBack);
    out.actions.emplace_back(home_action::StoreBack{node, kept});
  }

  void take(NodeSlot node, const DirectRead& message) {
    queue({.kind = Kind::kDirectRead,
           .node = node,
           .range = {message.first, message.count},
           .request = message.request});
  }

  void take(NodeSlot node, const DirectWrite& message) {
    queue({.kind = Kind::kDirectWrite,
           .node = node,
           .range = {message.first, message.count},
           .request = message.request,
           .bytes = message.end});
  }

  void take(NodeSlot node, const Resize& message) {
    queue({.kind = Kind::kResize,
           .node = node,
           .range = kAllPages,
           .request = message.request,
           .bytes = message.bytes});
  }

  void take(NodeSlot node, const SizeAck& message) {
    for (Transaction& transaction : state.transactions) {
      if (transaction.phase != Phase::kSizing || transaction.version != message.version) continue;
      transaction.unsized = transaction.unsized.without(node);
    }
  }

  void refuse(NodeSlot node, Page page, int error, HomeReason why) {
    because(why);
    send(node, Grant{.page = page, .first = page, .error = static_cast<std::uint16_t>(error)});
  }

  void queue(const Transaction& transaction) {
    if (state.transactions.size() < limits.transactions) {
      because(HomeReason::kQueued);
      state.transactions.insert(place_of(transaction), transaction);
    } else if (transaction.kind == Kind::kAcquire) {
      refuse(transaction.node, transaction.range.first, EBUSY, HomeReason::kTooMany);
    } else {
      because(HomeReason::kTooMany);
      send(transaction.node, Done{.request = transaction.request, .error = EBUSY});
    }
  }

  [[nodiscard]] std::vector<Transaction>::iterator place_of(const Transaction& transaction) const {
    if (transaction.kind != Kind::kResize) return state.transactions.end();
    return std::find_if(state.transactions.begin(), state.transactions.end(),
                        [](const Transaction& older) {
                          return older.kind != Kind::kResize && older.phase < Phase::kApplying;
                        });
  }

  // Nodes whose kernels write nothing back before their resize is over.
  [[nodiscard]] NodeSet frozen() const {
    NodeSet nodes;
    for (const Transaction& transaction : state.transactions)
      if (transaction.kind == Kind::kResize) nodes = nodes.with(transaction.node);
    return nodes;
  }

  // ---- transactions

  // Lets every transaction go as far as it can. Each pass ends one or none can move.
  void advance() {
    for (std::size_t i = 0; i < state.transactions.size();) {
      if (is_blocked(i) || !move(state.transactions[i])) {
        ++i;
        continue;
      }
      state.transactions.erase(state.transactions.begin() + static_cast<std::ptrdiff_t>(i));
      i = 0;  // who waited for it may stand anywhere behind it
    }
  }

  [[nodiscard]] bool is_blocked(std::size_t index) const {
    const Transaction& mine = state.transactions[index];
    if (mine.phase >= Phase::kApplying) return false;
    const bool is_change = mine.kind == Kind::kDirectWrite || mine.kind == Kind::kResize;
    for (std::size_t i = 0; i < state.transactions.size(); ++i) {
      const Transaction& other = state.transactions[i];
      // A resize passed those that did not take effect then, but not one that takes effect now.
      const bool is_before =
          i < index || (mine.kind == Kind::kResize && other.phase >= Phase::kApplying);
      // One that has taken effect waits for kernels only, which may wait for fills.
      const bool is_in_the_way = is_change || other.phase != Phase::kSizing;
      if (i != index && is_before && is_in_the_way && other.range.overlaps(mine.range)) return true;
    }
    return false;
  }

  // True: it is over.
  bool move(Transaction& transaction) {
    if (transaction.kind == Kind::kNothing) return true;  // acknowledgements end its recalls
    if (transaction.phase == Phase::kQueued) begin(transaction);
    if (transaction.phase == Phase::kResiding && now >= transaction.ready_at) recall(transaction);
    if (transaction.phase == Phase::kRecalling && !is_awaited(transaction))
      return take_effect(transaction);
    if (transaction.phase == Phase::kSizing && transaction.unsized.empty()) {
      because(HomeReason::kSizeTaken);
      send(transaction.node, Done{.request = transaction.request});
      return true;
    }
    return false;
  }

  // The pages whose holders matter. A change of size concerns those from the smaller end on.
  [[nodiscard]] PageRange affected(const Transaction& transaction) const {
    if (transaction.kind != Kind::kResize) return transaction.range;
    const Page first = std::min(state.bytes, transaction.bytes) / kPageBytes;
    return {first, kAllPages.count - first};
  }

  template <class Visit>
  void for_entries(PageRange range, Visit visit) {
    for (auto at = state.pages.lower_bound(range.first);
         at != state.pages.end() && range.has(at->first); ++at)
      visit(at->first, at->second);
  }

  bool is_awaited(const Transaction& transaction) {
    const NodeSet ignored = transaction.kind == Kind::kResize ? frozen() : NodeSet{};
    bool awaited = false;
    for_entries(affected(transaction),
                [&](Page, const Entry& at) { awaited |= !at.awaited.without(ignored).empty(); });
    return awaited;
  }

  // Who may not hold the page on when the transaction takes effect.
  [[nodiscard]] NodeSet to_recall(const Transaction& transaction, const Entry& at) const {
    switch (transaction.kind) {
      case Kind::kAcquire:
        if (transaction.rights == Rights::kOwned) return holders(at).without(transaction.node);
        break;
      case Kind::kDirectRead:
        if (!rules.recall_before_direct_read) return {};
        break;
      case Kind::kDirectWrite:
        // The writer's node too: its other threads may have filled the page meanwhile.
        return rules.recall_direct_writer ? holders(at) : holders(at).without(transaction.node);
      case Kind::kResize:
        return holders(at).without(frozen());
      case Kind::kNothing:
        return {};
    }
    return at.state == Rights::kOwned ? holders(at).without(transaction.node) : NodeSet{};
  }

  void begin(Transaction& transaction) {
    transaction.ready_at = Time::min();
    for_entries(affected(transaction), [&](Page, const Entry& at) {
      if (!to_recall(transaction, at).empty())
        transaction.ready_at = std::max(transaction.ready_at, at.granted_at + limits.residency);
    });
    transaction.phase = Phase::kResiding;
    if (transaction.ready_at <= now) return;
    because(HomeReason::kHeldTooShortly);
    out.actions.emplace_back(home_action::SetTimer{transaction.ready_at});
  }

  void recall(Transaction& transaction) {
    transaction.phase = Phase::kRecalling;
    // A reader leaves an owner that can write-protect its page the right to read it.
    const bool is_read =
        transaction.kind == Kind::kAcquire && transaction.rights == Rights::kShared;
    for_entries(affected(transaction), [&](Page page, Entry& at) {
      // A resize may find the recall of a transaction that it passed: it adds who is missing.
      const NodeSet from = to_recall(transaction, at).without(at.awaited);
      if (from.empty()) return;
      if (at.state == Rights::kOwned) state.contended[page / limits.units[1]] = now;
      const Version version = at.awaited.empty() ? ++state.last_version : at.version;
      from.for_each([&](NodeSlot node) {
        send(node, Recall{.page = page,
                          .version = version,
                          .to = is_read ? Rights::kShared : Rights::kNone});
      });
      at = recalled(at, rules.await_acks ? from.with(at.awaited) : NodeSet{}, version);
      because(HomeReason::kHeldByOthers);
    });
  }

  bool take_effect(Transaction& transaction) {
    switch (transaction.kind) {
      case Kind::kAcquire:
        grant(transaction);
        return true;
      case Kind::kDirectRead:
        serve_read(transaction);
        return true;
      case Kind::kDirectWrite:
        if (refuse_lost(transaction)) return true;
        because(HomeReason::kDirectWriteAlone);
        transaction.bytes = std::max(transaction.bytes, state.bytes);
        apply(transaction);
        return false;
      case Kind::kResize:
        because(HomeReason::kSizeAlone);
        apply(transaction);
        return false;
      case Kind::kNothing:
        break;
    }
    return true;
  }

  void apply(Transaction& transaction) {
    transaction.phase = Phase::kApplying;
    out.actions.emplace_back(home_action::Apply{.node = transaction.node,
                                                .request = transaction.request,
                                                .is_resize = transaction.kind == Kind::kResize,
                                                .bytes = transaction.bytes});
  }

  void serve_read(const Transaction& transaction) {
    if (refuse_lost(transaction)) return;
    because(HomeReason::kDirectReadServed);
    send(transaction.node, Done{.request = transaction.request}, transaction.range);
  }

  bool refuse_lost(const Transaction& transaction) {
    bool is_lost = false;
    for_entries(transaction.range, [&](Page, const Entry& at) { is_lost |= at.is_lost; });
    if (!is_lost) return false;
    because(HomeReason::kLost);
    send(transaction.node, Done{.request = transaction.request, .error = EIO});
    return true;
  }

  void grant(const Transaction& transaction) {
    const Page page = transaction.range.first;
    const Entry old = entry(page);
    if (page >= pages_of(state.bytes))
      return refuse(transaction.node, page, EIO, HomeReason::kBeyondEnd);
    if (old.is_lost) return refuse(transaction.node, page, EIO, HomeReason::kLost);
    Grant message{.page = page, .first = page, .rights = transaction.rights};
    if (transaction.rights == Rights::kOwned) {
      const PageRange run = unit_for(transaction);
      message.first = run.first;
      message.count = static_cast<std::uint32_t>(run.count);
      for (Page at = run.first; at < run.end(); ++at) grant_page(at, transaction);
      because(run.count > 1 ? HomeReason::kGrantedRun : HomeReason::kGrantedOwned);
    } else {
      grant_page(page, transaction);
      because(HomeReason::kGrantedShared);
    }
    send(transaction.node, message, {page, 1});
  }

  void grant_page(Page page, const Transaction& transaction) {
    Entry next = entry(page);
    if (transaction.rights == Rights::kOwned) {
      next = owned_by(next, transaction.node);
    } else {
      if (!rules.remember_all_sharers) next.sharers = {};
      next = shared_with(next, transaction.node);
    }
    next.granted_at = now;
    set(page, next);
  }

  // The largest unit around the page that the node may get as a whole, and has the half of already.
  [[nodiscard]] PageRange unit_for(const Transaction& transaction) {
    const Page page = transaction.range.first;
    PageRange best = transaction.range;
    for (const std::uint32_t unit : limits.units) {
      const PageRange wider{page / unit * unit, unit};
      if (unit == 1) continue;
      if (wider.end() > pages_of(state.bytes) || !is_free_for(transaction, wider)) break;
      best = wider;
    }
    return best;
  }

  [[nodiscard]] bool is_free_for(const Transaction& transaction, const PageRange& run) {
    for (const Transaction& other : state.transactions)
      if (&other != &transaction && other.range.overlaps(run)) return false;
    const std::uint32_t unit = limits.units[1];
    for (auto at = state.contended.lower_bound(run.first / unit);
         at != state.contended.end() && at->first * unit < run.end(); ++at)
      if (now < at->second + limits.calm) return false;
    std::uint64_t owned = 0, foreign = 0;
    for_entries(run, [&](Page page, const Entry& at) {
      if (page == transaction.range.first) return;
      if (at.is_lost || !is_owner(at, transaction.node)) {
        ++foreign;
      } else {
        ++owned;
      }
    });
    return foreign == 0 && owned >= run.count / 2;
  }

  // ---- sizes

  void applied(const home_event::Applied& event) {
    for (Transaction& transaction : state.transactions) {
      if (transaction.phase != Phase::kApplying || transaction.node != event.node ||
          transaction.request != event.request)
        continue;
      if (event.error != 0) {
        because(HomeReason::kNotApplied);
        send(event.node, Done{.request = event.request, .error = event.error});
        transaction.kind = Kind::kNothing;
        return;
      }
      const bool is_resize = transaction.kind == Kind::kResize;
      transaction.bytes = is_resize ? transaction.bytes : std::max(transaction.bytes, state.bytes);
      transaction.phase = Phase::kSizing;
      if (transaction.bytes != state.bytes) publish_size(transaction);
      return;
    }
  }

  void publish_size(Transaction& transaction) {
    state.bytes = transaction.bytes;
    transaction.version = ++state.last_version;
    answer_beyond_end();
    cut_off();
    state.users.for_each([&](NodeSlot user) {
      send(user, SizeChange{.bytes = state.bytes, .version = transaction.version});
    });
    if (rules.await_size_acks) transaction.unsized = state.users;
    because(HomeReason::kSizePublished);
  }

  // Kernels that wait for a resize have pages beyond the end, and keep them until it is over.
  void cut_off() {
    for_entries({pages_of(state.bytes), kAllPages.count}, [&](Page page, Entry& at) {
      at.is_lost = false;
      const NodeSet from = holders(at).without(at.awaited);
      if (holders(at).empty()) return;
      const Version version = at.awaited.empty() ? ++state.last_version : at.version;
      from.for_each([&](NodeSlot node) { send(node, Recall{.page = page, .version = version}); });
      at = recalled(at, from.with(at.awaited), version);
      at.is_cut = true;
    });
    std::erase_if(state.pages, [](const auto& at) { return is_idle(at.second); });
  }

  // A kernel that takes the new size waits for its fills beyond it: they cannot wait for a node
  // whose resize this is, nor for another change. All of them stand behind the transaction that
  // changes the size, which so keeps its place.
  void answer_beyond_end() {
    std::erase_if(state.transactions, [&](const Transaction& waiting) {
      if (waiting.kind != Kind::kAcquire || waiting.range.first < pages_of(state.bytes))
        return false;
      refuse(waiting.node, waiting.range.first, EIO, HomeReason::kBeyondEnd);
      return true;
    });
  }

  // ---- nodes

  enum class Loss { kNone, kOpen, kAccepted };

  void fence(NodeSlot node, Loss loss) {
    state.users = state.users.without(node);
    because(HomeReason::kNodeFenced);
    for_entries(kAllPages, [&](Page page, Entry& at) {
      if (loss != Loss::kNone && rules.report_lost && is_owner(at, node)) {
        at.is_lost = loss == Loss::kOpen;
        report(Report::What::kPageLost, node, page);
      }
      at = acknowledged(at, node, Rights::kNone);
    });
    std::erase_if(state.pages, [](const auto& at) { return is_idle(at.second); });
    for (Transaction& transaction : state.transactions) {
      transaction.unsized = transaction.unsized.without(node);
      // What is being stored takes effect; nobody is there to be told.
      if (transaction.node == node && transaction.phase < Phase::kApplying)
        transaction.kind = Kind::kNothing;
    }
  }

  void tell_again(NodeSlot node) {
    because(HomeReason::kToldAgain);
    for (Transaction& transaction : state.transactions) {
      if (transaction.node == node && transaction.phase < Phase::kApplying)
        transaction.kind = Kind::kNothing;
      if (transaction.unsized.has(node))
        send(node, SizeChange{.bytes = state.bytes, .version = transaction.version});
    }
    for_entries(kAllPages, [&](Page page, const Entry& at) {
      if (at.awaited.has(node)) send(node, Recall{.page = page, .version = at.version});
    });
  }

  void accept_loss(Page page) {
    Entry next = entry(page);
    next.is_lost = false;
    set(page, next);
    because(HomeReason::kLossAccepted);
  }

  // ---- events

  void on(const home_event::Arrived& event) {
    if (!state.users.has(event.node)) {
      because(HomeReason::kNotAUser);
      return report(Report::What::kNotAUser, event.node, 0);
    }
    std::visit([&](const auto& message) { take(event.node, message); }, event.message);
  }
  void on(const home_event::Applied& event) { applied(event); }
  void on(const home_event::Timer&) {}
  void on(const home_event::Attached& event) { state.users = state.users.with(event.node); }
  void on(const home_event::Resumed& event) { tell_again(event.node); }
  void on(const home_event::Detached& event) { fence(event.node, Loss::kNone); }
  void on(const home_event::Fenced& event) {
    fence(event.node, event.is_loss_accepted ? Loss::kAccepted : Loss::kOpen);
  }
  void on(const home_event::LossAccepted& event) { accept_loss(event.page); }
};

HomeOutput Home::on(const HomeEvent& event, Time now) {
  Step step{.limits = *limits_, .rules = *rules_, .state = state_, .now = now, .out = {}};
  std::visit([&](const auto& happened) { step.on(happened); }, event);
  step.advance();
  return std::move(step.out);
}

}  // namespace btd::coherence
