// The daemons, the home and the channels between them.
#include "tests/coherence/world.h"

#include <algorithm>
#include <cerrno>

namespace btd::coherence::model {
namespace {

// Requests are named by what waits, so that the names do not grow.
constexpr Request kFillBase = 1, kWriteBase = 32, kOpenBase = 64, kDirect = 80;

template <class T>
T removed(std::vector<T>& from, std::size_t index) {
  T taken = std::move(from[index]);
  from.erase(from.begin() + static_cast<std::ptrdiff_t>(index));
  return taken;
}

ClientEvent event_of(const Upcall& call) {
  switch (call.kind) {
    case Upcall::Kind::kFill:
      return client_event::FillRead{kFillBase + call.page, {call.page, 1}};
    case Upcall::Kind::kWrite:
      return client_event::PageWrite{kWriteBase + call.page, call.page, kPageBytes};
    case Upcall::Kind::kOpen:
      return client_event::Open{kOpenBase + call.page, call.value != 0};
    case Upcall::Kind::kRelease:
      return client_event::ReleaseWriter{};
    case Upcall::Kind::kDirectRead:
      return client_event::Direct{DirectRead{.first = call.page, .request = kDirect}};
    case Upcall::Kind::kDirectWrite:
      return client_event::Direct{
          DirectWrite{.first = call.page, .end = (call.page + 1) * kPageBytes, .request = kDirect}};
    case Upcall::Kind::kResize:
      return client_event::Direct{Resize{.bytes = call.page * kPageBytes, .request = kDirect}};
    case Upcall::Kind::kNotified:
      return client_event::Notified{call.page, call.number};
    case Upcall::Kind::kChecked:
      return client_event::Checked{call.page, call.number, call.value != 0};
    case Upcall::Kind::kRefreshed:
      return client_event::SizeRefreshed{call.number};
    case Upcall::Kind::kRetryWrite:
      return client_event::RetryWrite{kWriteBase + call.page};
  }
  return client_event::ReleaseWriter{};
}

}  // namespace

World::World(const Scope& scope)
    : scope_(&scope), home_(scope.limits, scope.rules, scope.pages * kPageBytes) {
  const std::uint8_t initial = scope.values ? 0 : 1;
  stored_.fill(initial);
  latest_.fill(initial);
  for (std::uint8_t i = 0; i < scope.nodes; ++i) {
    Node& node = nodes_.emplace_back(
        Node{.client = Client(scope.rules, scope.pages * kPageBytes), .size = scope.pages});
    home_.on(home_event::Attached{i}, now);
    if (i < scope.opening) continue;
    const bool is_writer = i >= scope.readers;
    node.openers[0] = is_writer ? Opener::kWrite : Opener::kRead;
    node.client.state().writers = is_writer ? 1 : 0;
  }
}

void World::make_stale(std::uint8_t page) {
  if (scope_->values) return;
  stored_[page] = 0;
  for (Node& node : nodes_) {
    node.folios[page].content = 0;
    node.held[page] = 0;
    for (Upcall& call : node.up)
      if (call.kind == Upcall::Kind::kWrite && call.page == page) call.value = 0;
    for (Downcall& call : node.down)
      if (call.kind == Downcall::Kind::kFilled && call.page == page) call.value = 0;
    for (auto& wire : node.to_home)
      if (const auto* at = std::get_if<WriteBack>(&wire.message); at && at->first == page)
        wire.content = 0;
    for (auto& wire : node.to_client)
      if (const auto* at = std::get_if<Grant>(&wire.message); at && at->page == page)
        wire.content = 0;
  }
}

void World::new_contents_at_home(std::uint8_t page) {
  make_stale(page);
  stored_[page] = latest_[page];
}

// ---- a daemon

void World::daemon_takes(Node& node, const Upcall& call) {
  if (call.kind == Upcall::Kind::kWrite) node.held[call.page] = call.value;
  client_does(node, node.client.on(event_of(call)), 0);
}

void World::client_does(Node& node, const ClientOutput& output, std::uint8_t content) {
  for (const ClientAction& action : output.actions) {
    if (const auto* send = std::get_if<client_action::Send>(&action)) {
      const auto* back = std::get_if<WriteBack>(&send->message);
      if (node.link == Node::Link::kUp)
        node.to_home.push_back(
            {send->message, back != nullptr ? node.held[back->first] : std::uint8_t{0}});
    } else if (const auto* reply = std::get_if<client_action::Answer>(&action)) {
      answer(node, *reply, content);
    } else if (const auto* notify = std::get_if<client_action::Notify>(&action)) {
      node.down.push_back({.kind = Downcall::Kind::kNotify,
                           .page = static_cast<std::uint8_t>(notify->page),
                           .number = notify->notice});
    } else if (const auto* check = std::get_if<client_action::CheckCached>(&action)) {
      node.down.push_back({.kind = Downcall::Kind::kCheck,
                           .page = static_cast<std::uint8_t>(check->page),
                           .number = check->notice});
    } else if (const auto* refresh = std::get_if<client_action::RefreshSize>(&action)) {
      node.down.push_back({.kind = Downcall::Kind::kRefreshSize, .number = refresh->version});
    } else if (const auto* retry = std::get_if<client_action::RetryWrite>(&action)) {
      node.up.push_back({.kind = Upcall::Kind::kRetryWrite,
                         .page = static_cast<std::uint8_t>(retry->request - kWriteBase)});
    } else if (const auto* report = std::get_if<client_action::Report>(&action)) {
      wrong("a client reports " + std::to_string(static_cast<int>(report->what)));
    }
  }
}

void World::answer(Node& node, const client_action::Answer& answer, std::uint8_t content) {
  const auto error = static_cast<std::uint8_t>(answer.error);
  const auto reply = [&](Downcall::Kind kind, Request base) {
    node.down.push_back(
        {.kind = kind, .page = static_cast<std::uint8_t>(answer.request - base), .error = error});
  };
  if (answer.request >= kDirect) return reply(Downcall::Kind::kDirectDone, kDirect);
  if (answer.request >= kOpenBase) return reply(Downcall::Kind::kOpened, kOpenBase);
  if (answer.request >= kWriteBase) return reply(Downcall::Kind::kWritten, kWriteBase);
  reply(Downcall::Kind::kFilled, kFillBase);
  if (error == 0) node.down.back().value = content;
}

// ---- the home

void World::home_does(const HomeEvent& event, std::uint8_t content) {
  const HomeOutput output = home_.on(event, now);
  for (const HomeAction& action : output.actions) {
    if (const auto* send = std::get_if<home_action::Send>(&action)) {
      home_sends(*send);
    } else if (const auto* back = std::get_if<home_action::StoreBack>(&action)) {
      if (back->message.bytes > 0) stored_[back->message.first] = content;
      home_sends({back->node, Done{.request = back->message.request}});
    } else if (const auto* apply = std::get_if<home_action::Apply>(&action)) {
      applying_.push_back(
          {apply->node, apply->is_resize, apply->bytes, nodes_[apply->node].direct.page});
    } else if (const auto* report = std::get_if<home_action::Report>(&action)) {
      if (report->what == home_action::Report::What::kPageLost) {
        latest_[report->page] = stored_[report->page];
        if (!scope_->values) latest_[report->page] = 1;
        new_contents_at_home(static_cast<std::uint8_t>(report->page));
      } else {
        wrong("the home reports " + std::to_string(static_cast<int>(report->what)));
      }
    }
  }
}

void World::home_sends(const home_action::Send& send) {
  Node& node = nodes_[send.node];
  if (node.link != Node::Link::kUp) return;
  std::uint8_t content = 0;
  if (send.contents.count > 0) {
    content = stored_[send.contents.first];
    if (std::holds_alternative<Done>(send.message) && !node.direct.saw_latest)
      wrong("read(2) got stale contents");
  }
  if (const auto* done = std::get_if<Done>(&send.message);
      done != nullptr && done->error == 0 && done->request == kDirect &&
      node.direct.kind == DirectCall::Kind::kResize)
    check_sizes();
  node.to_client.push_back({send.message, content});
}

void World::home_takes(Node& node, std::size_t index, bool refuse) {
  const Wire<ToHome> wire = removed(node.to_home, index);
  if (!refuse) return home_does(home_event::Arrived{slot(node), wire.message}, wire.content);
  home_sends(
      {slot(node), Done{.request = std::get<WriteBack>(wire.message).request, .error = EAGAIN}});
}

void World::applied(std::size_t index) {
  const PendingApply done = removed(applying_, index);
  if (done.is_resize) {
    for (std::uint64_t page = pages_of(done.bytes); page < scope_->pages; ++page)
      new_contents_at_home(static_cast<std::uint8_t>(page));
  } else {
    new_contents_at_home(done.page);
  }
  home_does(home_event::Applied{done.node, kDirect}, 0);
}

void World::fence(Node& node) {
  if (!scope_->fence_early) {
    node = Node{.link = Node::Link::kFenced, .client = Client(scope_->rules, 0)};
  }
  home_does(home_event::Fenced{slot(node)}, 0);
}

// ---- steps

// With `prompt_notify`, the daemon has seen every READ that is older than a recall.
bool World::is_late(const Node& node, const ToClient& message) const {
  const auto* recall = std::get_if<Recall>(&message);
  return recall != nullptr && scope_->prompt_notify &&
         std::any_of(node.up.begin(), node.up.end(), [&](const Upcall& at) {
           return at.kind == Upcall::Kind::kFill && at.page == recall->page;
         });
}

void World::protocol_steps(std::vector<Step>& steps) const {
  using Kind = Step::Kind;
  const auto add = [&](Kind kind, std::size_t node, std::size_t at) {
    steps.push_back({kind, static_cast<std::uint8_t>(node), static_cast<std::uint8_t>(at)});
  };
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    const Node& node = nodes_[n];
    if (node.link == Node::Link::kFenced) continue;
    for (std::size_t i = 0; i < node.to_home.size(); ++i)
      if (i == 0 || scope_->unordered_to_home) add(Kind::kHomeTakes, n, i);
    for (std::size_t i = 0; i < node.to_client.size(); ++i)
      if ((i == 0 || scope_->unordered_to_client) && !is_late(node, node.to_client[i].message))
        add(Kind::kClientTakes, n, i);
    for (std::size_t i = 0; i < node.up.size(); ++i) add(Kind::kDaemonTakes, n, i);
    for (std::size_t i = 0; i < node.down.size(); ++i)
      if (is_kernel_ready(node, node.down[i])) add(Kind::kKernelTakes, n, i);
    for (std::size_t i = 0; i < node.invalidators.size(); ++i)
      if (can_invalidate(node, node.invalidators[i])) add(Kind::kInvalidate, n, i);
    if (can_flush(node)) add(Kind::kFlushForRead, n, 0);
    if (node.link == Node::Link::kCut && home_.state().users.has(static_cast<NodeSlot>(n)))
      add(Kind::kFence, n, 0);
    if (n < scope_->programs.size() && node.counter < scope_->programs[n].size() &&
        can_run(node, scope_->programs[n][node.counter]))
      add(Kind::kInstruction, n, 0);
  }
  for (std::size_t i = 0; i < applying_.size(); ++i) add(Kind::kApplied, 0, i);
  for (const Transaction& at : home_.state().transactions)
    if (at.phase == Transaction::Phase::kResiding) return add(Kind::kTimer, 0, 0);
}

void World::environment_steps(std::vector<Step>& steps) const {
  using Kind = Step::Kind;
  const auto try_add = [&](Kind kind, std::size_t node, std::size_t at) {
    const Step step{kind, static_cast<std::uint8_t>(node), static_cast<std::uint8_t>(at)};
    if (is_environment_enabled(step)) steps.push_back(step);
  };
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    for (std::size_t page = 0; page < scope_->pages; ++page)
      for (const Kind kind : {Kind::kFault, Kind::kStore, Kind::kReclaim, Kind::kWriteback,
                              Kind::kDirectRead, Kind::kDirectWrite})
        try_add(kind, n, page);
    for (std::size_t opener = 0; opener < scope_->openers; ++opener)
      for (const Kind kind : {Kind::kOpenRead, Kind::kOpenWrite, Kind::kClose})
        try_add(kind, n, opener);
    for (std::size_t i = 0; i < nodes_[n].invalidators.size(); ++i)
      try_add(Kind::kInvalidateBusy, n, i);
    try_add(Kind::kMmap, n, 0);
    try_add(Kind::kResize, n, 1);
    try_add(Kind::kResize, n, scope_->pages);
    try_add(Kind::kRefuseStore, n, 0);
    try_add(Kind::kCut, n, 0);
  }
  for (std::size_t page = 0; page < scope_->pages; ++page) try_add(Kind::kAcceptLoss, 0, page);
}

bool World::is_enabled(const Step& step) const { return is_environment_enabled(step); }

void World::take(const Step& step) {
  Node& node = nodes_[step.node];
  switch (step.kind) {
    case Step::Kind::kHomeTakes:
      home_takes(node, step.at, false);
      break;
    case Step::Kind::kClientTakes: {
      const Wire<ToClient> wire = removed(node.to_client, step.at);
      client_does(node, node.client.on(client_event::Arrived{wire.message}), wire.content);
      break;
    }
    case Step::Kind::kDaemonTakes:
      daemon_takes(node, removed(node.up, step.at));
      break;
    case Step::Kind::kKernelTakes:
      kernel_takes(node, step.at);
      break;
    case Step::Kind::kInvalidate:
      invalidate(node, step.at, false);
      break;
    case Step::Kind::kFlushForRead:
      flush_for_read(node);
      break;
    case Step::Kind::kApplied:
      applied(step.at);
      break;
    case Step::Kind::kTimer:
      now += scope_->limits.residency;
      home_does(home_event::Timer{}, 0);
      break;
    case Step::Kind::kFence:
      fence(node);
      break;
    case Step::Kind::kInstruction:
      run_instruction(node, scope_->programs[step.node][node.counter]);
      break;
    default:
      take_environment(step);
      break;
  }
  check();
}

bool World::is_program_done() const {
  for (std::size_t n = 0; n < scope_->programs.size(); ++n)
    if (nodes_[n].counter < scope_->programs[n].size()) return false;
  return true;
}

}  // namespace btd::coherence::model
