// The kernel's page cache and FUSE, as far as they matter.
#include <algorithm>

#include "tests/coherence/world.h"

namespace btd::coherence::model {

using State = Folio::State;

bool is_usable(const Folio& folio) {
  return folio.state == State::kClean || folio.state == State::kDirty ||
         folio.state == State::kWriteback;
}

bool has_writer(const Node& node) {
  return std::find(node.openers.begin(), node.openers.end(), Opener::kWrite) != node.openers.end();
}

bool has_opener(const Node& node) {
  return has_writer(node) ||
         std::find(node.openers.begin(), node.openers.end(), Opener::kRead) != node.openers.end();
}

namespace {

bool is_locked(const Folio& folio) {
  return folio.state == State::kReading || folio.state == State::kLaundering;
}

// From the SETATTR that sets a size until its answer (fuse_set_nowrite).
bool writes_nothing(const Node& node) { return node.direct.kind == DirectCall::Kind::kResize; }

std::size_t notices_of(const Node& node, std::uint8_t page) {
  std::size_t count = 0;
  for (const Invalidator& at : node.invalidators) count += at.page == page;
  for (const Upcall& at : node.up)
    count += at.page == page &&
             (at.kind == Upcall::Kind::kNotified || at.kind == Upcall::Kind::kChecked);
  for (const Downcall& at : node.down)
    count += at.page == page &&
             (at.kind == Downcall::Kind::kNotify || at.kind == Downcall::Kind::kCheck);
  return count;
}

}  // namespace

void World::start_write(Node& node, std::uint8_t page) {
  node.up.push_back(
      {.kind = Upcall::Kind::kWrite, .page = page, .value = node.folios[page].content});
}

// ---- invalidate_inode_pages2_range on one page

bool World::can_invalidate(const Node& node, const Invalidator& invalidator) const {
  const Folio& folio = node.folios[invalidator.page];
  if (folio.state == State::kDirty && writes_nothing(node)) return false;
  return !invalidator.is_laundering && !is_locked(folio) && folio.state != State::kWriteback;
}

void World::invalidate(Node& node, std::size_t index, bool is_busy) {
  Folio& folio = node.folios[node.invalidators[index].page];
  if (folio.state == State::kDirty && !is_busy) {
    folio.state = State::kLaundering;
    node.invalidators[index].is_laundering = true;
    return start_write(node, node.invalidators[index].page);
  }
  if (!is_busy) folio = {};
  finish(node, index);
}

void World::finish(Node& node, std::size_t index) {
  const Invalidator done = node.invalidators[index];
  node.invalidators.erase(node.invalidators.begin() + static_cast<std::ptrdiff_t>(index));
  switch (done.purpose) {
    case Invalidator::For::kNotice:
      node.up.push_back(
          {.kind = Upcall::Kind::kNotified, .page = done.page, .number = done.notice});
      break;
    case Invalidator::For::kMmap:
      break;
    case Invalidator::For::kDirectWrite:
      node.direct.is_sent = true;
      node.up.push_back({.kind = Upcall::Kind::kDirectWrite, .page = done.page});
      break;
  }
}

// ---- what the daemon answers

bool World::is_kernel_ready(const Node& node, const Downcall& call) const {
  const bool is_resized = call.kind == Downcall::Kind::kDirectDone && writes_nothing(node);
  const bool is_told = call.kind == Downcall::Kind::kRefreshSize && !writes_nothing(node);
  if (!is_resized && !is_told) return true;
  // Truncation of the cache waits for locked folios.
  const std::uint64_t size = is_told ? pages_of(node.client.state().bytes) : node.size;
  for (std::uint64_t page = size; page < scope_->pages; ++page)
    if (is_locked(node.folios[page]) || node.folios[page].state == State::kWriteback) return false;
  return true;
}

void World::kernel_takes(Node& node, std::size_t index) {
  const Downcall call = node.down[index];
  node.down.erase(node.down.begin() + static_cast<std::ptrdiff_t>(index));
  Folio& folio = node.folios[call.page];
  switch (call.kind) {
    case Downcall::Kind::kFilled:
      if (folio.state != State::kReading) wrong("a READ was answered twice");
      folio = call.error != 0 ? Folio{} : Folio{State::kClean, call.value};
      break;
    case Downcall::Kind::kWritten:
      written(node, call);
      break;
    case Downcall::Kind::kOpened: {
      Opener& opener = node.openers[call.page];
      opener = opener == Opener::kOpeningWrite ? Opener::kWrite : Opener::kRead;
      break;
    }
    case Downcall::Kind::kDirectDone:
      // The kernel that resized has kept its pages till now.
      if (node.direct.kind == DirectCall::Kind::kResize)
        for (std::size_t page = node.size; page < scope_->pages; ++page) node.folios[page] = {};
      node.direct = {};
      break;
    case Downcall::Kind::kNotify:
      node.invalidators.push_back({.page = call.page, .notice = call.number});
      break;
    case Downcall::Kind::kCheck: {
      const bool is_cached = is_usable(folio) || folio.state == State::kLaundering ||
                             (scope_->ask_cachestat && folio.state == State::kReading);
      node.up.push_back({.kind = Upcall::Kind::kChecked,
                         .page = call.page,
                         .value = is_cached,
                         .number = call.number});
      break;
    }
    case Downcall::Kind::kRefreshSize:
      refresh_size(node, call);
      break;
  }
}

void World::written(Node& node, const Downcall& call) {
  Folio& folio = node.folios[call.page];
  if (call.error != 0) wrong("a launder was refused");
  if (folio.state == State::kWriteback) {
    folio.state = State::kClean;
  } else if (folio.state == State::kLaundering) {
    folio = {};
    for (std::size_t i = 0; i < node.invalidators.size(); ++i)
      if (node.invalidators[i].page == call.page && node.invalidators[i].is_laundering)
        return finish(node, i);
  } else {
    wrong("a WRITE was answered twice");
  }
}

void World::refresh_size(Node& node, const Downcall& call) {
  node.size = static_cast<std::uint8_t>(pages_of(node.client.state().bytes));
  if (writes_nothing(node)) {  // its own resize says it, and then it drops what is beyond
    node.up.push_back({.kind = Upcall::Kind::kRefreshed, .number = call.number});
    return;
  }
  for (std::size_t page = node.size; page < scope_->pages; ++page) node.folios[page] = {};
  node.up.push_back({.kind = Upcall::Kind::kRefreshed, .number = call.number});
}

// ---- read(2): what is dirty goes first

bool World::can_flush(const Node& node) const {
  return node.direct.kind == DirectCall::Kind::kRead && !node.direct.is_sent &&
         node.folios[node.direct.page].state != State::kWriteback &&
         node.folios[node.direct.page].state != State::kLaundering;
}

void World::flush_for_read(Node& node) {
  Folio& folio = node.folios[node.direct.page];
  if (folio.state == State::kDirty) {
    folio.state = State::kWriteback;
    return start_write(node, node.direct.page);
  }
  node.direct.is_sent = true;
  node.up.push_back({.kind = Upcall::Kind::kDirectRead, .page = node.direct.page});
}

// ---- programs

bool World::can_fault(const Node& node, std::uint8_t page) const {
  if (!has_opener(node) || page >= node.size || node.folios[page].state != State::kAbsent)
    return false;
  if (scope_->prompt_notify) {
    for (const Downcall& at : node.down)
      if (at.kind == Downcall::Kind::kNotify && at.page == page) return false;
    for (const Invalidator& at : node.invalidators)
      if (at.page == page) return false;
  }
  return notices_of(node, page) < scope_->notices;
}

void World::store(Node& node, std::uint8_t page, std::uint8_t value) {
  if (node.folios[page].content != latest_[page]) wrong("a store to stale contents");
  make_stale(page);
  node.folios[page] = {State::kDirty, value};
  latest_[page] = value;
}

bool World::can_run(const Node& node, const Instruction& instruction) const {
  const Folio& folio = node.folios[instruction.page];
  if (folio.state == State::kAbsent) return can_fault(node, instruction.page);
  if (instruction.what == Instruction::Do::kLoad) return is_usable(folio);
  return folio.state == State::kClean || folio.state == State::kDirty;
}

void World::run_instruction(Node& node, const Instruction& instruction) {
  Folio& folio = node.folios[instruction.page];
  if (folio.state == State::kAbsent) {
    folio.state = State::kReading;
    node.up.push_back({.kind = Upcall::Kind::kFill, .page = instruction.page});
    return;
  }
  if (instruction.what == Instruction::Do::kStore) {
    store(node, instruction.page, instruction.value);
  } else {
    node.loaded = static_cast<std::uint8_t>(node.loaded << 2 | folio.content);
  }
  ++node.counter;
}

void World::open(Node& node, std::uint8_t opener, bool is_writer) {
  node.openers[opener] = is_writer ? Opener::kOpeningWrite : Opener::kOpeningRead;
  node.up.push_back({.kind = Upcall::Kind::kOpen, .page = opener, .value = is_writer});
}

bool World::is_environment_enabled(const Step& step) const {
  const Node& node = nodes_[step.node];
  const Folio& folio = node.folios[step.at];
  const bool is_free = node.direct.kind == DirectCall::Kind::kNone && has_opener(node);
  if (node.link == Node::Link::kFenced && step.kind != Step::Kind::kAcceptLoss) return false;
  switch (step.kind) {
    case Step::Kind::kFault:
      return scope_->programs.empty() && can_fault(node, step.at);
    case Step::Kind::kStore:
      // What a resize may cut off is not stored to while the kernel waits for it: it is lost.
      return scope_->programs.empty() && has_writer(node) && step.at < node.size &&
             (step.at == 0 || !writes_nothing(node)) && !is_cut_off(step.at) &&
             (folio.state == State::kClean || folio.state == State::kDirty);
    case Step::Kind::kReclaim:
      return scope_->reclaim && folio.state == State::kClean;
    case Step::Kind::kWriteback:
      return scope_->writeback && folio.state == State::kDirty && !writes_nothing(node);
    case Step::Kind::kOpenRead:
    case Step::Kind::kOpenWrite:
      // Without this bound, releases that nobody takes would pile up.
      return step.node < scope_->opening && node.openers[step.at] == Opener::kClosed &&
             std::none_of(
                 node.up.begin(), node.up.end(),
                 [](const Upcall& at) { return at.kind == Upcall::Kind::kRelease; });
    case Step::Kind::kClose: {
      if (step.node >= scope_->opening || node.direct.kind != DirectCall::Kind::kNone) return false;
      const bool clean = std::none_of(node.folios.begin(), node.folios.end(), [](const Folio& at) {
        return at.state == State::kDirty || at.state == State::kWriteback ||
               at.state == State::kLaundering;
      });
      return node.openers[step.at] == Opener::kRead ||
             (node.openers[step.at] == Opener::kWrite && clean);
    }
    case Step::Kind::kMmap:
      return scope_->mmap && has_opener(node) &&
             std::none_of(
                 node.invalidators.begin(), node.invalidators.end(),
                 [](const Invalidator& at) { return at.purpose == Invalidator::For::kMmap; });
    case Step::Kind::kDirectRead:
      return scope_->direct_read && is_free;
    case Step::Kind::kDirectWrite:
      return scope_->direct_write && is_free && has_writer(node);
    case Step::Kind::kResize:
      // One at a time: see docs/design/coherence.md, what is not covered.
      return scope_->resize && is_free && has_writer(node) &&
             std::none_of(nodes_.begin(), nodes_.end(), writes_nothing);
    case Step::Kind::kInvalidateBusy:
      return scope_->busy && step.at < node.invalidators.size() &&
             can_invalidate(node, node.invalidators[step.at]) &&
             node.invalidators[step.at].purpose == Invalidator::For::kNotice &&
             is_usable(node.folios[node.invalidators[step.at].page]);
    case Step::Kind::kRefuseStore:
      return scope_->refuse_store && !node.to_home.empty() &&
             std::holds_alternative<WriteBack>(node.to_home.front().message);
    case Step::Kind::kCut:
      return scope_->lose_node && std::all_of(nodes_.begin(), nodes_.end(), [](const Node& at) {
               return at.link == Node::Link::kUp;
             });
    case Step::Kind::kAcceptLoss: {
      const auto found = home_.state().pages.find(step.at);
      return found != home_.state().pages.end() && found->second.is_lost;
    }
    default:
      return false;
  }
}

void World::take_environment(const Step& step) {
  Node& node = nodes_[step.node];
  Folio& folio = node.folios[step.at];
  switch (step.kind) {
    case Step::Kind::kFault:
      folio.state = State::kReading;
      node.up.push_back({.kind = Upcall::Kind::kFill, .page = step.at});
      break;
    case Step::Kind::kStore:
      store(node, step.at, 1);
      break;
    case Step::Kind::kReclaim:
      folio = {};
      break;
    case Step::Kind::kWriteback:
      folio.state = State::kWriteback;
      start_write(node, step.at);
      break;
    case Step::Kind::kOpenRead:
    case Step::Kind::kOpenWrite:
      open(node, step.at, step.kind == Step::Kind::kOpenWrite);
      break;
    case Step::Kind::kClose:
      if (node.openers[step.at] == Opener::kWrite)
        node.up.push_back({.kind = Upcall::Kind::kRelease, .page = step.at});
      node.openers[step.at] = Opener::kClosed;
      break;
    case Step::Kind::kMmap:
      for (std::uint8_t page = 0; page < scope_->pages; ++page)
        node.invalidators.push_back({.purpose = Invalidator::For::kMmap, .page = page});
      break;
    case Step::Kind::kDirectRead:
      node.direct = {.kind = DirectCall::Kind::kRead, .page = step.at};
      break;
    case Step::Kind::kDirectWrite:
      node.direct = {.kind = DirectCall::Kind::kWrite, .page = step.at};
      node.invalidators.push_back({.purpose = Invalidator::For::kDirectWrite, .page = step.at});
      break;
    case Step::Kind::kResize:
      node.direct = {.kind = DirectCall::Kind::kResize, .page = step.at, .is_sent = true};
      node.up.push_back({.kind = Upcall::Kind::kResize, .page = step.at});
      break;
    case Step::Kind::kInvalidateBusy:
      invalidate(node, step.at, true);
      break;
    case Step::Kind::kRefuseStore:
      home_takes(node, 0, true);
      break;
    case Step::Kind::kCut:
      node.link = Node::Link::kCut;
      node.to_home.clear();
      node.to_client.clear();
      break;
    case Step::Kind::kAcceptLoss:
      home_does(home_event::LossAccepted{step.at}, 0);
      break;
    default:
      break;
  }
}

}  // namespace btd::coherence::model
