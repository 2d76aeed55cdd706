#include "fs/coherent/clients.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace btd::coherent {

namespace {

using coherence::kPageBytes;
using coherence::Page;
using coherence::PageRange;
using coherence::Request;
using coherence::Rights;
namespace action = coherence::client_action;
namespace event = coherence::client_event;
using What = Ask::What;

constexpr net::Time kRetry = std::chrono::milliseconds(2);
// A move is committed, and heard of, sooner, unless etcd is away.
constexpr net::Time kMovePatience = std::chrono::seconds(5);
constexpr net::Time kMovePause = std::chrono::milliseconds(20);
constexpr net::Time kWatch = std::chrono::seconds(1);
constexpr std::size_t kPartBytes = 14 * kPageBytes;  // a write-back that fits a send

PageRange pages_over(std::uint64_t offset, std::uint64_t length) {
  const Page first = offset / kPageBytes;
  const Page last = length == 0 ? first : (offset + length - 1) / kPageBytes;
  return {first, last - first + 1};
}

}  // namespace

Clients::Clients(net::Engine& engine, Kernel& kernel, const coherence::Rules& rules, Send send,
                 Reach reach, std::uint64_t mount, HomeOf home_of)
    : engine_(engine),
      kernel_(kernel),
      rules_(rules),
      send_(std::move(send)),
      reach_(std::move(reach)),
      mount_(mount),
      home_of_(std::move(home_of)) {}

Clients::~Clients() { *is_ended_ = true; }

// --- Attaching ---

Clients::FilePtr Clients::get(InodeId id) {
  FilePtr& file = files_[id];
  if (!file) file = std::make_shared<File>(id, home_of_(id), engine_.now());
  if (!file->is_attached && !file->is_attaching) {
    file->home = home_of_(id);
    reach_(file->home);
    if (up_.contains(file->home)) attach(*file);
  }
  return file;
}

void Clients::attach(File& file) {
  file.is_attaching = true;
  HomeMessage message{
      .file = file.id,
      .words = wire::Attach{.mount = mount_, .is_unsure = file.is_unsure ? 1U : 0U}};
  if (file.machine) {
    for (const auto& [page, now] : file.machine->state().pages) {
      if (coherence::is_filling(now.state)) continue;
      if (message.tail.size() / sizeof(wire::PageReport) >= wire::kMostReported) break;
      const bool is_shared = coherence::may_be_shared(now.state);
      const wire::PageReport report{
          .page = page,
          .rights = static_cast<std::uint64_t>(is_shared ? Rights::kShared : Rights::kOwned)};
      const auto bytes = std::as_bytes(std::span{&report, 1});
      message.tail.insert(message.tail.end(), bytes.begin(), bytes.end());
    }
  }
  send_(file.home, std::move(message));
}

void Clients::up(NodeId home) {
  up_.insert(home);
  for (const auto& [id, file] : files_)
    if (file->home == home) attach(*file);
}

void Clients::down(NodeId home) {
  up_.erase(home);
  for (const auto& [id, file] : files_)
    if (file->home == home) file->is_attached = file->is_attaching = false;
}

bool Clients::uses(NodeId home) const {
  return std::any_of(files_.begin(), files_.end(),
                     [&](const auto& each) { return each.second->home == home; });
}

void Clients::attached(const FilePtr& file, const wire::Attached& words) {
  file->is_attaching = false;
  // It is on its way to another home, of which one of both has not heard yet.
  if (words.error == EXDEV && !file->machine && engine_.now() < file->since + kMovePatience)
    return attach_again(file->id);
  if (words.error == EXDEV) return fail_waiting(*file, ESTALE);
  if (words.error != 0) return fail_waiting(*file, static_cast<int>(words.error));
  file->is_attached = true;
  if (file->machine) {
    file->machine->state().bytes = words.bytes;
    kernel_.resize(file->id, 0);
    say_again(*file);
  } else {
    file->machine.emplace(rules_, words.bytes);
    // It has been open before, perhaps to write.
    if (file->is_unsure) file->machine->state().writers = 1;
    tell_size_before_opens(*file);
  }
  while (!file->waiting.empty()) {
    Ask ask = std::move(file->waiting.front());
    file->waiting.pop_front();
    take(*file, std::move(ask));
  }
}

// The kernel has the size that a look-up found, and an open does not ask for it again: to touch a
// page that another node added since would be SIGBUS.
void Clients::tell_size_before_opens(File& file) {
  file.is_sizing = std::ranges::any_of(
      file.waiting, [](const Ask& ask) { return ask.what == What::kOpen && !ask.is_create; });
  if (file.is_sizing) kernel_.resize(file.id, 0);
}

void Clients::attach_again(InodeId id) {
  engine_.at(engine_.now() + kMovePause, [this, id, is_ended = is_ended_] {
    if (!*is_ended && files_.contains(id)) get(id);
  });
}

void Clients::fail_waiting(File& file, int error) {
  for (const Ask& ask : std::exchange(file.waiting, {}))
    if (ask.request != 0) answer(ask.request, error, {});
  if (!file.machine) files_.erase(file.id);
}

// What home was asked before, in case that it did not hear it.
void Clients::say_again(File& file) {
  const coherence::ClientState& state = file.machine->state();
  const Rights want = state.writers > 0 ? Rights::kOwned : Rights::kShared;
  for (const coherence::WriteBack& write : state.writes) act(file, action::Send{write}, nullptr);
  for (const auto& [page, now] : state.pages)
    if (coherence::is_filling(now.state))
      act(file, action::Send{coherence::Acquire{.page = page, .rights = want}}, nullptr);
  for (const auto& [request, pending] : pending_) {
    if (pending.file != file.id) continue;
    if (pending.message) act(file, action::Send{*pending.message}, nullptr);
    if (pending.what == What::kSync)
      send_(file.home, {.file = file.id, .words = wire::Sync{request}, .tail = {}});
  }
}

// --- The kernel ---

void Clients::ask(Ask what) {
  if (what.what == What::kForgotten) {
    const auto found = files_.find(what.file);
    if (found != files_.end()) forgotten(FilePtr(found->second));
    return;
  }
  if (what.what == What::kDropped || what.what == What::kAllDropped || what.what == What::kSized) {
    const auto found = files_.find(what.file);
    if (found == files_.end() || !found->second->machine) return;
    const FilePtr kept = found->second;
    return take(*kept, std::move(what));
  }
  if (what.what == What::kRecovered) {
    const auto fresh = std::make_shared<File>(what.file, home_of_(what.file), engine_.now());
    fresh->is_unsure = true;
    fresh->is_dropping = true;
    fresh->opens = what.opens;
    files_[what.file] = fresh;
    kernel_.drop_all(what.file);
    get(what.file);
    return;
  }
  const FilePtr file = get(what.file);
  if (what.request != 0) {
    pending_[what.request] = {.file = what.file,
                              .what = what.what,
                              .since = engine_.now(),
                              .offset = what.offset,
                              .length = what.length};
    watch();
  }
  if (!file->machine) {
    file->waiting.push_back(std::move(what));
    return;
  }
  take(*file, std::move(what));
}

void Clients::take(File& file, Ask ask) {
  if (ask.request != 0 && !pending_.contains(ask.request)) return;  // given up
  switch (ask.what) {
    case What::kOpen:
      if (file.is_sizing && !ask.is_create) {
        file.openers.push_back(std::move(ask));
        return;
      }
      if (ask.is_writer && file.is_dropping) {
        file.writers.push_back(std::move(ask));
        return;
      }
      ++file.opens;
      return step(file, event::Open{.request = ask.request, .is_writer = ask.is_writer});
    case What::kRelease:
      if (file.opens > 0) --file.opens;
      if (ask.is_writer) step(file, event::ReleaseWriter{});
      return;
    case What::kFill:
      ++counts_.fills;
      return step(file, event::FillRead{.request = ask.request,
                                        .range = pages_over(ask.offset, ask.length)});
    case What::kPageWrite:
      return take_page_write(file, ask);
    case What::kRead:
    case What::kWrite:
    case What::kResize:
    case What::kGrow:
      return take_direct(file, ask);
    case What::kSync:
      return send_(file.home, {.file = file.id, .words = wire::Sync{ask.request}, .tail = {}});
    case What::kDropped:
      ++counts_.dropped;
      ++counts_.checks;
      is_redropped_ = true;
      step(file, event::Notified{.page = ask.page, .notice = ask.number});
      step(file,
           event::Checked{.page = ask.page, .notice = ask.number, .is_cached = ask.is_cached});
      is_redropped_ = false;
      return;
    case What::kAllDropped:
      file.is_dropping = false;
      for (Ask& writer : std::exchange(file.writers, {})) take(file, std::move(writer));
      return;
    case What::kSized:
      if (ask.number != 0) return step(file, event::SizeRefreshed{ask.number});
      file.is_sizing = false;
      for (Ask& opener : std::exchange(file.openers, {})) take(file, std::move(opener));
      return;
    case What::kForgotten:
    case What::kRecovered:
      return;
  }
}

// Each part is a write-back; the kernel is answered when all are stored.
void Clients::take_page_write(File& file, Ask& ask) {
  const std::size_t count =
      std::max<std::size_t>(1, (ask.bytes.size() + kPartBytes - 1) / kPartBytes);
  pending_[ask.request].parts = count;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = i * kPartBytes;
    const std::size_t size = std::min(kPartBytes, ask.bytes.size() - at);
    const Request part = next_part_++;
    const auto begin = ask.bytes.begin() + static_cast<std::ptrdiff_t>(at);
    pending_[part] = {.file = file.id,
                      .what = What::kPageWrite,
                      .since = engine_.now(),
                      .bytes = Bytes(begin, begin + static_cast<std::ptrdiff_t>(size)),
                      .whole = ask.request};
    ++counts_.write_backs;
    step(file,
         event::PageWrite{.request = part, .first = (ask.offset + at) / kPageBytes, .bytes = size});
  }
}

void Clients::take_direct(File& file, Ask& ask) {
  Pending& pending = pending_[ask.request];
  const PageRange range = pages_over(ask.offset, ask.length);
  switch (ask.what) {
    case What::kRead:
      ++counts_.reads;
      pending.message =
          coherence::DirectRead{.first = range.first, .count = range.count, .request = ask.request};
      break;
    case What::kWrite:
      ++counts_.writes;
      pending.bytes = std::move(ask.bytes);
      pending.message = coherence::DirectWrite{.first = range.first,
                                               .count = range.count,
                                               .end = ask.offset + ask.length,
                                               .request = ask.request};
      break;
    case What::kGrow:
      pending.offset = ask.length;
      pending.length = 0;
      pending.message = coherence::DirectWrite{
          .first = ask.length / kPageBytes, .count = 1, .end = ask.length, .request = ask.request};
      break;
    default:
      pending.message = coherence::Resize{.bytes = ask.length, .request = ask.request};
      break;
  }
  step(file, event::Direct{*pending.message});
}

void Clients::forgotten(const FilePtr& file) {
  if (file->opens != 0 || !file->waiting.empty() || !file->writers.empty() ||
      !file->openers.empty())
    return;
  const bool is_used = std::any_of(pending_.begin(), pending_.end(),
                                   [&](const auto& each) { return each.second.file == file->id; });
  if (is_used) return;
  send_(file->home, {.file = file->id, .words = wire::Detach{}, .tail = {}});
  files_.erase(file->id);
}

void Clients::detach_all() {
  for (const auto& [id, file] : files_)
    if (file->is_attached) send_(file->home, {.file = id, .words = wire::Detach{}, .tail = {}});
  files_.clear();
  pending_.clear();
}

// --- The home ---

void Clients::arrived(NodeId from, ClientMessage message) {
  const auto found = files_.find(message.file);
  if (found != files_.end() && found->second->home != from) return;  // it is its home no more
  if (found == files_.end()) {
    // It detached meanwhile; what is recalled it does not have.
    if (const auto* recall = std::get_if<coherence::Recall>(&message.words))
      send_(from, {.file = message.file,
                   .words = coherence::RecallAck{.page = recall->page, .version = recall->version},
                   .tail = {}});
    return;
  }
  const FilePtr file = found->second;
  if (const auto* words = std::get_if<wire::Attached>(&message.words))
    return attached(file, *words);
  if (!file->machine) return;
  std::visit(
      [&]<class T>(const T& words) {
        if constexpr (std::is_constructible_v<coherence::ToClient, T>) {
          if constexpr (std::is_same_v<T, coherence::Recall>) {
            ++counts_.recalled;
            // Not known: an earlier worker may have filled it.
            if (file->is_unsure)
              file->machine->state().pages.try_emplace(
                  words.page, coherence::ClientPage{.state = coherence::PageState::kOwned});
          }
          step(*file, event::Arrived{words}, &message.tail);
        }
      },
      message.words);
}

// --- What the machine wants ---

void Clients::step(File& file, const coherence::ClientEvent& what, const Bytes* tail) {
  const auto out = file.machine->on(what);
  for (const auto& each : out.actions)
    std::visit([&](const auto& one) { act(file, one, tail); }, each);
}

void Clients::act(File& file, const action::Send& one, const Bytes*) {
  HomeMessage message{.file = file.id, .words = widen<ToHome>(one.message)};
  const auto add = [&](Request request) {
    const auto found = pending_.find(request);
    if (found == pending_.end()) return;
    message.offset = found->second.offset;
    message.length = found->second.length;
    message.tail = found->second.bytes;
  };
  if (const auto* write = std::get_if<coherence::WriteBack>(&message.words)) add(write->request);
  if (const auto* read = std::get_if<coherence::DirectRead>(&message.words)) add(read->request);
  if (const auto* write = std::get_if<coherence::DirectWrite>(&message.words)) add(write->request);
  send_(file.home, std::move(message));
}

void Clients::act(File& file, const action::Answer& one, const Bytes* tail) {
  const auto found = pending_.find(one.request);
  if (one.error == 0 && found != pending_.end() && found->second.what == What::kOpen) {
    pending_.erase(found);
    return kernel_.opened(one.request, file.machine->state().bytes);
  }
  answer(one.request, one.error, tail != nullptr ? std::span(*tail) : std::span<const std::byte>{});
}

void Clients::answer(Request request, int error, std::span<const std::byte> contents) {
  if (request == 0) return;
  const auto found = pending_.find(request);
  if (found == pending_.end()) return;            // given up
  if (error == EBUSY && found->second.message) {  // home has too much to do
    ++counts_.retries;
    const InodeId id = found->second.file;
    const auto again = [this, id, request, is_ended = is_ended_] {
      if (*is_ended || !files_.contains(id)) return;
      const auto still = pending_.find(request);
      if (still == pending_.end()) return;
      const FilePtr file = files_.at(id);
      if (file->is_attached) act(*file, action::Send{*still->second.message}, nullptr);
    };
    engine_.at(engine_.now() + kRetry, again);
    return;
  }
  const Request whole = found->second.whole;
  pending_.erase(found);
  if (whole == 0) return kernel_.answer(request, error, contents);
  const auto all = pending_.find(whole);
  if (all == pending_.end()) return;
  if (error == 0 && --all->second.parts > 0) return;
  pending_.erase(all);
  kernel_.answer(whole, error, {});
}

void Clients::act(File& file, const action::Notify& one, const Bytes*) {
  if (is_redropped_) ++counts_.still_cached;
  kernel_.drop(file.id, one.page, one.notice, is_redropped_);
}

// Kernel::drop() has looked already.
void Clients::act(File&, const action::CheckCached&, const Bytes*) {}

void Clients::act(File& file, const action::RefreshSize& one, const Bytes*) {
  kernel_.resize(file.id, one.version);
}

void Clients::later(InodeId id, coherence::ClientEvent what) {
  ++counts_.retries;
  engine_.at(engine_.now() + kRetry, [this, id, what, is_ended = is_ended_] {
    if (*is_ended) return;
    const auto found = files_.find(id);
    if (found == files_.end() || !found->second->is_attached) return;  // it is said again then
    const FilePtr file = found->second;
    step(*file, what);
  });
}

void Clients::act(File& file, const action::RetryFill& one, const Bytes*) {
  later(file.id, event::RetryFill{one.page});
}

void Clients::act(File& file, const action::RetryWrite& one, const Bytes*) {
  later(file.id, event::RetryWrite{one.request});
}

void Clients::act(File& file, const action::Report& one, const Bytes*) {
  switch (one.what) {
    case action::Report::What::kWriteRefused:
    case action::Report::What::kWriteLost:
      spdlog::critical("file {}: what the kernel wrote back of page {} is lost", file.id, one.page);
      break;
    case action::Report::What::kOddRead:
    case action::Report::What::kOddRecall:
      spdlog::debug("file {}: page {} was asked for twice", file.id, one.page);
      break;
  }
}

// --- What waits too long ---

void Clients::watch() {
  if (std::exchange(is_watching_, true)) return;
  engine_.at(engine_.now() + kWatch, [this, is_ended = is_ended_] {
    if (*is_ended) return;
    is_watching_ = false;
    give_up_old();
    if (!pending_.empty()) watch();
  });
}

void Clients::give_up_old() {
  const net::Time now = engine_.now();
  std::vector<Request> old;
  for (const auto& [request, pending] : pending_)
    if (pending.what != What::kPageWrite && now - pending.since > kPatience) old.push_back(request);
  for (const Request request : old) {
    const Pending pending = std::move(pending_.extract(request).mapped());
    ++counts_.timeouts;
    give_up(request, pending);
    kernel_.answer(request, ETIMEDOUT, {});
  }
}

// A grant that comes later finds that nothing waits.
void Clients::give_up(Request request, const Pending& pending) {
  const auto found = files_.find(pending.file);
  if (found == files_.end() || !found->second->machine) return;
  File& file = *found->second;
  coherence::ClientState& state = file.machine->state();
  if (pending.what == What::kFill) {
    const Page page = pending.offset / kPageBytes;
    const auto at = state.pages.find(page);
    if (at != state.pages.end() && at->second.fill == request) state.pages.erase(at);
  } else if (pending.what == What::kOpen) {
    if (std::erase(state.opens, request) > 0) {
      if (state.writers > 0) --state.writers;
      if (file.opens > 0) --file.opens;
    }
  }
}

Clients::Counters Clients::counters() const {
  Counters now = counts_;
  now.files = files_.size();
  std::unordered_set<NodeId> unreached;
  for (const auto& [id, file] : files_) {
    if (file->machine) now.pages += file->machine->state().pages.size();
    if (!up_.contains(file->home)) unreached.insert(file->home);
  }
  now.unreached.assign(unreached.begin(), unreached.end());
  std::sort(now.unreached.begin(), now.unreached.end());
  for (const auto& [request, pending] : pending_) {
    now.waiting += pending.whole == 0 ? 1 : 0;
    now.oldest = std::max(now.oldest, engine_.now() - pending.since);
  }
  return now;
}

}  // namespace btd::coherent
