// What must hold in every state, and the state as bytes.
#include <algorithm>
#include <array>

#include "tests/coherence/world.h"

namespace btd::coherence::model {

void World::check() {
  for (std::uint8_t page = 0; page < scope_->pages; ++page) check_page(page);
  for (Node& node : nodes_)
    if (node.direct.kind == DirectCall::Kind::kRead &&
        stored_[node.direct.page] == latest_[node.direct.page])
      node.direct.saw_latest = true;
  if (is_quiet()) check_quiet();
}

// Until its recall is over, where another node changed the size at the same time.
bool World::is_cut_off(std::uint8_t page) const {
  const auto entry = home_.state().pages.find(page);
  return entry != home_.state().pages.end() && entry->second.is_cut;
}

// One writer or many readers over what can be loaded, and all of it is the latest store.
void World::check_page(std::uint8_t page) {
  std::size_t usable = 0, storable = 0;
  for (const Node& node : nodes_) {
    if (!is_usable(node.folios[page])) continue;
    // What it cuts off may be there until it hears that it is done.
    if (page >= 1 && node.direct.kind == DirectCall::Kind::kResize) continue;
    if (is_cut_off(page)) continue;
    ++usable;
    storable += has_writer(node) ? 1 : 0;
    if (node.folios[page].content != latest_[page]) wrong("stale contents can be loaded");
  }
  if (storable > 0 && usable > 1) wrong("what one node may store to, another has");
}

void World::check_quiet() {
  for (std::uint8_t page = 0; page < scope_->pages; ++page) {
    const bool is_dirty = std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) {
      return node.folios[page].state == Folio::State::kDirty;
    });
    if (!is_dirty && stored_[page] != latest_[page]) wrong("a store is lost");
  }
}

// Who is told that a truncate is done finds every kernel with its size.
void World::check_sizes() {
  for (const Node& node : nodes_)
    if (node.link == Node::Link::kUp && node.size != pages_of(home_.state().bytes))
      wrong("a size is not everywhere");
}

bool World::is_quiet() const {
  if (!home_.state().transactions.empty() || !applying_.empty() || !is_program_done()) return false;
  for (const Node& node : nodes_) {
    if (node.link == Node::Link::kFenced) continue;
    if (node.link == Node::Link::kCut && home_.state().users.has(slot(node))) return false;
    if (node.link == Node::Link::kCut) continue;
    const ClientState& client = node.client.state();
    if (!node.up.empty() || !node.down.empty() || !node.invalidators.empty() ||
        !node.to_home.empty() || !node.to_client.empty() || !client.writes.empty() ||
        !client.opens.empty() || node.direct.kind != DirectCall::Kind::kNone)
      return false;
    for (const Opener opener : node.openers)
      if (opener == Opener::kOpeningRead || opener == Opener::kOpeningWrite) return false;
    for (const Folio& folio : node.folios)
      if (folio.state != Folio::State::kAbsent && folio.state != Folio::State::kClean &&
          folio.state != Folio::State::kDirty)
        return false;
    for (const auto& [at, page] : client.pages)
      if (is_filling(page.state) || is_dropping(page.state) || page.recall != 0) return false;
  }
  return true;
}

// ---- the state as bytes

namespace {

// Numbers in the order of their size: 1, 2, ... for those that occur.
class Ranks {
 public:
  void note(std::uint64_t number) {
    if (number != 0) seen_[count_++ % seen_.size()] = number;
  }
  void close() {
    count_ = std::min(count_, seen_.size());
    std::sort(seen_.begin(), seen_.begin() + count_);
    count_ = static_cast<std::size_t>(std::unique(seen_.begin(), seen_.begin() + count_) -
                                      seen_.begin());
  }
  [[nodiscard]] std::uint64_t of(std::uint64_t number) const {
    if (number == 0) return 0;
    return static_cast<std::uint64_t>(
               std::lower_bound(seen_.begin(), seen_.begin() + count_, number) - seen_.begin()) +
           1;
  }
  [[nodiscard]] std::uint64_t last() const { return count_; }

 private:
  std::array<std::uint64_t, 256> seen_{};
  std::size_t count_ = 0;
};

template <class Wires, class Visit>
void for_versions(Wires& wires, Visit visit) {
  for (auto& wire : wires)
    std::visit(
        [&](auto& message) {
          if constexpr (requires { message.version; }) visit(message.version);
        },
        wire.message);
}

template <class Visit>
void for_versions(HomeState& home, std::vector<Node>& nodes, Visit visit) {
  for (auto& [page, entry] : home.pages) visit(entry.version);
  for (Transaction& at : home.transactions) visit(at.version);
  for (Node& node : nodes) {
    for_versions(node.to_home, visit);
    for_versions(node.to_client, visit);
    for (auto& [page, at] : node.client.state().pages) visit(at.recall);
    for (Upcall& call : node.up)
      if (call.kind == Upcall::Kind::kRefreshed) visit(call.number);
    for (Downcall& call : node.down)
      if (call.kind == Downcall::Kind::kRefreshSize) visit(call.number);
  }
}

template <class Visit>
void for_notices(Node& node, Visit visit) {
  for (auto& [page, at] : node.client.state().pages) visit(at.notice);
  for (Invalidator& at : node.invalidators) visit(at.notice);
  for (Upcall& call : node.up)
    if (call.kind != Upcall::Kind::kRefreshed) visit(call.number);
  for (Downcall& call : node.down)
    if (call.kind != Downcall::Kind::kRefreshSize) visit(call.number);
}

void append(std::string& to, std::uint64_t value) {
  to.push_back(static_cast<char>(std::min<std::uint64_t>(value, 255)));
}

struct AppendMessage {
  std::string& to;

  void put(auto... values) const { (append(to, static_cast<std::uint64_t>(values)), ...); }
  void operator()(const Acquire& at) const { put(at.page, at.rights); }
  void operator()(const RecallAck& at) const { put(at.page, at.version, at.kept); }
  void operator()(const WriteBack& at) const { put(at.first); }
  void operator()(const DirectRead& at) const { put(at.first); }
  void operator()(const DirectWrite& at) const { put(at.first); }
  void operator()(const Resize& at) const { put(at.bytes / kPageBytes); }
  void operator()(const SizeAck& at) const { put(at.version); }
  void operator()(const Grant& at) const { put(at.page, at.first, at.count, at.rights, at.error); }
  void operator()(const Recall& at) const { put(at.page, at.version, at.to); }
  void operator()(const Done& at) const { put(at.request, at.error); }
  void operator()(const SizeChange& at) const { put(at.bytes / kPageBytes, at.version); }
};

template <class Wires>
void append_wires(std::string& to, const Wires& wires) {
  append(to, wires.size());
  for (const auto& wire : wires) {
    append(to, wire.message.index());
    std::visit(AppendMessage{to}, wire.message);
    append(to, wire.content);
  }
}

void append_client(std::string& to, const ClientState& client) {
  for (const std::uint64_t value : {client.bytes / kPageBytes, std::uint64_t{client.writers},
                                    client.pages.size(), client.opens.size(), client.writes.size()})
    append(to, value);
  for (const auto& [page, at] : client.pages)
    for (const std::uint64_t value :
         {page, static_cast<std::uint64_t>(at.state), at.recall, at.notice})
      append(to, value);
  for (const Request at : client.opens) append(to, at);
  for (const WriteBack& at : client.writes) append(to, at.first);
}

void append_home(std::string& to, const HomeState& home) {
  for (const std::uint64_t value :
       {home.bytes / kPageBytes, home.users.bits(), home.pages.size(), home.transactions.size()})
    append(to, value);
  for (const auto& [page, at] : home.pages)
    for (const std::uint64_t value :
         {page, static_cast<std::uint64_t>(at.state), std::uint64_t{at.owner}, at.sharers.bits(),
          at.awaited.bits(), at.version, std::uint64_t{at.is_lost} | std::uint64_t{at.is_cut} << 1})
      append(to, value);
  for (const Transaction& at : home.transactions)
    for (const std::uint64_t value :
         {static_cast<std::uint64_t>(at.kind), static_cast<std::uint64_t>(at.phase),
          static_cast<std::uint64_t>(at.rights), std::uint64_t{at.node}, at.range.first,
          at.range.count, at.bytes / kPageBytes, at.version, at.unsized.bits()})
      append(to, value);
}

void append_node(std::string& to, const Node& node, std::size_t pages) {
  for (std::size_t page = 0; page < pages; ++page) {
    append(to, static_cast<std::uint64_t>(node.folios[page].state));
    append(to, node.folios[page].content);
    append(to, node.held[page]);
  }
  for (const std::uint64_t value :
       {static_cast<std::uint64_t>(node.link), static_cast<std::uint64_t>(node.openers[0]),
        static_cast<std::uint64_t>(node.openers[1]), std::uint64_t{node.size},
        static_cast<std::uint64_t>(node.direct.kind), std::uint64_t{node.direct.page},
        std::uint64_t{node.direct.is_sent}, std::uint64_t{node.direct.saw_latest},
        std::uint64_t{node.counter}, std::uint64_t{node.loaded}, node.up.size(), node.down.size(),
        node.invalidators.size()})
    append(to, value);
  for (const Upcall& at : node.up)
    for (const std::uint64_t value : {static_cast<std::uint64_t>(at.kind), std::uint64_t{at.page},
                                      std::uint64_t{at.value}, at.number})
      append(to, value);
  for (const Downcall& at : node.down)
    for (const std::uint64_t value : {static_cast<std::uint64_t>(at.kind), std::uint64_t{at.page},
                                      std::uint64_t{at.value}, std::uint64_t{at.error}, at.number})
      append(to, value);
  for (const Invalidator& at : node.invalidators)
    for (const std::uint64_t value :
         {static_cast<std::uint64_t>(at.purpose), std::uint64_t{at.page},
          std::uint64_t{at.is_laundering}, at.notice})
      append(to, value);
}

}  // namespace

void World::normalise() {
  HomeState& home = home_.state();
  Ranks versions;
  for_versions(home, nodes_, [&](std::uint64_t& at) { versions.note(at); });
  versions.close();
  for_versions(home, nodes_, [&](std::uint64_t& at) { at = versions.of(at); });
  home.last_version = versions.last();
  for (auto& [page, entry] : home.pages) entry.granted_at = {};
  for (Transaction& at : home.transactions)
    at.ready_at = at.phase == Transaction::Phase::kResiding ? scope_->limits.residency : Time{0};
  home.contended.clear();
  now = {};
  for (Node& node : nodes_) {
    Ranks notices;
    for_notices(node, [&](std::uint64_t& at) { notices.note(at); });
    notices.close();
    for_notices(node, [&](std::uint64_t& at) { at = notices.of(at); });
    node.client.state().last_notice = notices.last();
    // What is not read any more.
    for (std::size_t page = 0; page < scope_->pages; ++page) {
      const auto& writes = node.client.state().writes;
      if (std::none_of(writes.begin(), writes.end(),
                       [&](const WriteBack& at) { return at.first == page; }))
        node.held[page] = 0;
      if (!is_usable(node.folios[page]) && node.folios[page].state != Folio::State::kLaundering)
        node.folios[page].content = 0;
    }
    std::sort(node.up.begin(), node.up.end());
    std::sort(node.down.begin(), node.down.end());
    std::sort(node.invalidators.begin(), node.invalidators.end());
    std::sort(node.client.state().opens.begin(), node.client.state().opens.end());
    std::sort(node.client.state().writes.begin(), node.client.state().writes.end(),
              [](const WriteBack& a, const WriteBack& b) { return a.first < b.first; });
  }
}

std::string World::encode() const {
  std::string bytes;
  bytes.reserve(256);
  append_home(bytes, home_.state());
  for (std::size_t page = 0; page < scope_->pages; ++page) {
    append(bytes, stored_[page]);
    append(bytes, latest_[page]);
  }
  append(bytes, applying_.size());
  for (const PendingApply& at : applying_)
    for (const std::uint64_t value : {std::uint64_t{at.node}, std::uint64_t{at.is_resize},
                                      at.bytes / kPageBytes, std::uint64_t{at.page}})
      append(bytes, value);
  for (const Node& node : nodes_) {
    append_node(bytes, node, scope_->pages);
    append_client(bytes, node.client.state());
    append_wires(bytes, node.to_home);
    append_wires(bytes, node.to_client);
  }
  return bytes;
}

std::string text(const Step& step) {
  static constexpr const char* kNames[] = {"the home takes a message",
                                           "the client takes a message",
                                           "the daemon takes a request",
                                           "the kernel takes an answer",
                                           "an invalidation runs",
                                           "read(2) flushes",
                                           "a change is durable",
                                           "residency is over",
                                           "the node is fenced",
                                           "an instruction",
                                           "a fault",
                                           "a store",
                                           "reclaim",
                                           "writeback",
                                           "open for reading",
                                           "open for writing",
                                           "close",
                                           "mmap",
                                           "read(2)",
                                           "write(2)",
                                           "truncate",
                                           "an invalidation fails",
                                           "the home cannot store",
                                           "the node is cut off",
                                           "a loss is accepted"};
  return "node " + std::to_string(step.node) + ": " + kNames[static_cast<std::size_t>(step.kind)] +
         " (" + std::to_string(step.at) + ")";
}

}  // namespace btd::coherence::model
