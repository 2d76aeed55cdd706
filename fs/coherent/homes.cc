#include "fs/coherent/homes.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

namespace btd::coherent {

namespace {

using coherence::kPageBytes;
using coherence::NodeSlot;
using coherence::Page;
using coherence::Rights;
namespace action = coherence::home_action;
namespace event = coherence::home_event;

constexpr coherence::HomeLimits kLimits{};
constexpr coherence::Rules kRules{};
constexpr std::uint64_t kMostDirect = 1 << 20;

bool is_offset(std::uint64_t value) {
  return value <= static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
}

// As much as there is; what is beyond the end of the file stays as it is.
Result<std::size_t> read_at(int fd, std::uint64_t offset, std::span<std::byte> into) {
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t n =
        ::pread(fd, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(errno);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

Status write_at(int fd, std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const ssize_t n = ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(errno);
    from = from.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

}  // namespace

Homes::File::File(std::uint64_t bytes, UniqueFd descriptor)
    : fd(std::move(descriptor)), home(kLimits, kRules, bytes) {}

Homes::Homes(net::Engine& engine, remote::HomeFiles& files, remote::Workers& workers, Send send,
             Post post, NodeId own, HomeOf home_of, const std::vector<NodeId>& former,
             net::Time grace)
    : engine_(engine),
      files_(files),
      workers_(workers),
      send_(std::move(send)),
      post_(std::move(post)),
      own_(own),
      home_of_(std::move(home_of)),
      expected_(former.begin(), former.end()),
      is_recovering_(!former.empty()) {
  if (!is_recovering_) return;
  engine_.at(engine_.now() + grace, [this, is_ended = is_ended_] {
    if (*is_ended || !is_recovering_) return;
    for (const NodeId node : expected_)
      spdlog::info(
          "node {} did not say what it holds of coherent files; what it stored last may be lost",
          node);
    open_for_business();
  });
}

Homes::~Homes() {
  *is_ended_ = true;
  for (const auto& [id, file] : open_)
    for ([[maybe_unused]] const auto& user : file->users) files_.unhold(id);
}

std::optional<NodeSlot> Homes::slot_of(const File& file, NodeId node) {
  for (const auto& [slot, user] : file.users)
    if (user.node == node) return slot;
  return std::nullopt;
}

void Homes::say(InodeId id, NodeId node, const ToClient& words, Bytes tail) {
  send_(node, {.file = id, .words = words, .tail = std::move(tail)});
}

// --- Users come and go ---

void Homes::told(NodeId node) {
  expected_.erase(node);
  if (is_recovering_ && expected_.empty()) open_for_business();
}

void Homes::open_for_business() {
  is_recovering_ = false;
  for (auto& [id, arrival] : std::exchange(early_, {})) {
    arrival.is_early = true;
    attach(id, std::move(arrival));
  }
}

void Homes::attach(InodeId id, Arrival arrival) {
  const auto found = open_.find(id);
  if (found != open_.end()) return enter(id, *found->second, arrival);
  open(id, std::move(arrival));
}

void Homes::open(InodeId id, Arrival arrival) {
  auto& waiting = opening_[id];
  waiting.push_back(std::move(arrival));
  if (waiting.size() > 1) return;
  workers_.post_always([this, id, is_ended = is_ended_] {
    auto fd = std::make_shared<Result<UniqueFd>>(files_.open(id));
    post_([this, id, fd, is_ended] {
      if (*is_ended) return;
      auto arrivals = std::move(opening_[id]);
      opening_.erase(id);
      for (const Arrival& each : arrivals) opened(id, each, *fd);
      suppose_rest(id, arrivals);
      close_unused(id);  // all may have been refused
    });
  });
}

// The descriptor is taken by the first whose file it becomes.
void Homes::opened(InodeId id, const Arrival& arrival, Result<UniqueFd>& fd) {
  auto found = open_.find(id);
  if (found == open_.end()) {
    if (!fd) return refuse(id, arrival.node, fd.error());
    if (!*fd) return open(id, arrival);  // who came first had it, and left
    struct stat facts{};
    if (::fstat(fd->get(), &facts) != 0) return refuse(id, arrival.node, Error{errno, {}});
    const auto bytes = static_cast<std::uint64_t>(facts.st_size);
    found = open_.emplace(id, std::make_shared<File>(bytes, *std::move(fd))).first;
  }
  const FilePtr file = found->second;
  enter(id, *file, arrival);
}

void Homes::refuse(InodeId id, NodeId node, const Error& error) {
  say(id, node, wire::Attached{.error = static_cast<std::uint64_t>(error.code)});
}

void Homes::enter(InodeId id, File& file, const Arrival& arrival) {
  // What that mount held is nobody's; its word has been under way, or has waited here, for too
  // long. Nobody waits for the answer, and the node's next mount would take it for its own.
  if (const auto ended = ended_.find(arrival.node);
      ended != ended_.end() && arrival.words.mount <= ended->second)
    return;
  auto slot = slot_of(file, arrival.node);
  if (slot && file.users.at(*slot).mount > arrival.words.mount) return;
  if (slot && file.users.at(*slot).mount < arrival.words.mount) {
    leave(id, *slot, true);  // that mount is gone, and its kernel's pages are nobody's
    if (!open_.contains(id)) return open(id, arrival);
    slot.reset();
  }
  if (slot) {
    // First: a new worker has nothing yet that takes what is said again.
    answer_attached(id, file, arrival.node);
    return resume(id, file, *slot);
  }
  // A slot whose last change is still being applied is answered for the node that had it.
  const auto is_taken = [&](NodeSlot at) {
    const auto& running = file.home.state().transactions;
    return file.users.contains(at) ||
           std::ranges::any_of(running, [&](const auto& one) { return one.node == at; });
  };
  NodeSlot fresh = 0;
  while (is_taken(fresh)) ++fresh;
  if (fresh >= coherence::kMaxNodes) return refuse(id, arrival.node, Error{EUSERS, {}});
  if (auto held = files_.hold(id); !held) return refuse(id, arrival.node, held.error());
  files_.used(id);
  file.users.emplace(fresh, User{.node = arrival.node, .mount = arrival.words.mount});
  take_reports(file, fresh, arrival.reports);
  step(id, file, event::Attached{fresh});
  answer_attached(id, file, arrival.node);
}

void Homes::answer_attached(InodeId id, const File& file, NodeId node) {
  say(id, node, wire::Attached{.bytes = file.home.state().bytes});
}

// A user whom this home does not know says what it holds: an earlier worker granted it. Where its
// word is not the only one, an owner's counts.
void Homes::take_reports(File& file, NodeSlot slot, const Bytes& reports) {
  std::map<Page, coherence::Entry>& pages = file.home.state().pages;
  const Page end = coherence::pages_of(file.home.state().bytes);
  for (std::size_t at = 0; at + sizeof(wire::PageReport) <= reports.size();
       at += sizeof(wire::PageReport)) {
    wire::PageReport report;
    std::memcpy(&report, reports.data() + at, sizeof report);
    if (report.page >= end) continue;
    coherence::Entry& entry = pages[report.page];
    if (report.rights == static_cast<std::uint64_t>(Rights::kOwned)) {
      entry = coherence::owned_by(entry, slot);
    } else if (entry.state != Rights::kOwned) {
      entry = coherence::shared_with(entry, slot);
    }
  }
}

// Of what nobody said, an earlier worker may have granted all to who does not know. What others got
// since their workers died they said, so this node's own word comes first.
void Homes::suppose_rest(InodeId id, const std::vector<Arrival>& arrivals) {
  const auto found = open_.find(id);
  if (found == open_.end()) return;
  for (const bool is_ours : {true, false})
    for (const Arrival& each : arrivals) {
      if (!each.is_early || each.words.is_unsure == 0 || (each.node == own_) != is_ours) continue;
      if (const auto slot = slot_of(*found->second, each.node)) suppose(*found->second, *slot);
    }
}

// All that nobody owns it may own.
void Homes::suppose(File& file, NodeSlot slot) {
  std::map<Page, coherence::Entry>& pages = file.home.state().pages;
  const Page end = coherence::pages_of(file.home.state().bytes);
  for (Page page = 0; page < end; ++page) {
    coherence::Entry& entry = pages[page];
    if (entry.state == Rights::kNone) entry = coherence::owned_by(entry, slot);
    if (entry.state == Rights::kShared) entry = coherence::shared_with(entry, slot);
  }
}

// What it asked is asked again by it, and what it was told may not have reached it.
void Homes::resume(InodeId id, File& file, NodeSlot slot) {
  std::erase_if(file.directs, [&](const auto& each) { return each.first.first == slot; });
  step(id, file, event::Resumed{slot});
}

void Homes::leave(InodeId id, NodeSlot slot, bool is_fenced) {
  const FilePtr file = open_.at(id);
  if (is_fenced) {
    // As after a crash of one machine: what was not synced is gone, what is here is served.
    step(id, *file, event::Fenced{.node = slot, .is_loss_accepted = true});
  } else {
    step(id, *file, event::Detached{slot});
  }
  std::erase_if(file->directs, [&](const auto& each) { return each.first.first == slot; });
  file->users.erase(slot);
  files_.unhold(id);
  close_unused(id);
}

// One that changes are still applied to is looked at again when they are.
void Homes::close_unused(InodeId id) {
  const auto found = open_.find(id);
  if (found == open_.end()) return;
  const File& file = *found->second;
  if (file.users.empty() && file.home.state().transactions.empty()) open_.erase(found);
}

// The word may come late: what attached since is of a later mount.
void Homes::fence_up_to(NodeId node, std::uint64_t mount) {
  std::uint64_t& ended = ended_[node];
  ended = std::max(ended, mount);
  std::vector<std::pair<InodeId, NodeSlot>> left;
  for (const auto& [id, file] : open_)
    if (const auto slot = slot_of(*file, node); slot && file->users.at(*slot).mount <= mount)
      left.emplace_back(id, *slot);
  for (const auto& [id, slot] : left) leave(id, slot, true);
}

void Homes::gone(NodeId node, std::uint64_t mount) {
  fence_up_to(node, mount);
  told(node);
}

void Homes::mounted(NodeId node, std::uint64_t mount) {
  if (mount > 0) fence_up_to(node, mount - 1);
}

// --- Messages ---

void Homes::arrived(NodeId node, HomeMessage message) {
  const InodeId id = message.file;
  if (const auto* words = std::get_if<wire::Attach>(&message.words)) {
    Arrival arrival{.node = node, .words = *words, .reports = std::move(message.tail)};
    // It was moved, which one of both has not heard yet.
    if (home_of_(id) != own_) return refuse(id, node, Error{EXDEV, {}});
    if (is_recovering_) {
      early_.emplace_back(id, std::move(arrival));
      return;
    }
    return attach(id, std::move(arrival));
  }
  const auto found = open_.find(id);
  const auto slot = found == open_.end() ? std::nullopt : slot_of(*found->second, node);
  if (!slot) {
    ++counts_.refused;
    return;
  }
  const FilePtr file = found->second;
  if (std::holds_alternative<wire::Detach>(message.words)) return leave(id, *slot, false);
  if (const auto* words = std::get_if<wire::Sync>(&message.words))
    return sync(id, file, node, *words);
  std::visit(
      [&]<class T>(const T& words) {
        if constexpr (std::is_constructible_v<coherence::ToHome, T>) {
          if constexpr (std::is_same_v<T, coherence::DirectRead> ||
                        std::is_same_v<T, coherence::DirectWrite>) {
            if (message.length > kMostDirect || message.tail.size() > kMostDirect ||
                !is_offset(message.offset) || !is_offset(message.offset + message.length))
              return say(id, node, coherence::Done{.request = words.request, .error = EINVAL});
            file->directs[{*slot, words.request}] = {.offset = message.offset,
                                                     .length = message.length,
                                                     .tail = std::move(message.tail)};
          }
          tail_ = &message.tail;
          step(id, *file, event::Arrived{*slot, words});
          tail_ = nullptr;
        }
      },
      message.words);
}

void Homes::step(InodeId id, File& file, const coherence::HomeEvent& what) {
  const auto out = file.home.on(what, engine_.now());
  for (const auto& each : out.actions)
    std::visit([&](const auto& one) { act(id, file, one); }, each);
}

void Homes::act(InodeId id, File& file, const action::Send& one) {
  const auto user = file.users.find(one.node);
  if (user == file.users.end()) return;
  const NodeId node = user->second.node;
  Bytes tail;
  ToClient words = widen<ToClient>(one.message);
  if (auto* grant = std::get_if<coherence::Grant>(&words)) {
    if (grant->rights != Rights::kNone) {
      ++counts_.grants;
      tail.resize(kPageBytes);  // zeros beyond the end
      if (auto read = read_at(file.fd.get(), grant->page * kPageBytes, tail); !read) {
        words = coherence::Grant{.page = grant->page, .first = grant->page, .error = EIO};
        tail.clear();
      }
    }
  } else if (auto* done = std::get_if<coherence::Done>(&words)) {
    const auto direct = file.directs.find({one.node, done->request});
    if (direct != file.directs.end()) {
      if (one.contents.count != 0 && done->error == 0) {
        ++counts_.reads;
        tail.resize(direct->second.length);
        const auto read = read_at(file.fd.get(), direct->second.offset, tail);
        if (!read) done->error = static_cast<std::uint16_t>(read.error().code);
        tail.resize(read.value_or(0));
      }
      file.directs.erase(direct);
    }
  } else if (std::holds_alternative<coherence::Recall>(words)) {
    ++counts_.recalls;
  }
  say(id, node, words, std::move(tail));
}

// A launder that fails loses its contents, so the kernel never hears of an error: it is asked
// again.
void Homes::act(InodeId id, File& file, const action::StoreBack& one) {
  const auto user = file.users.find(one.node);
  if (user == file.users.end() || tail_ == nullptr) return;
  ++counts_.write_backs;
  const auto bytes =
      std::span(*tail_).first(std::min<std::uint64_t>(tail_->size(), one.message.bytes));
  const Status stored = write_at(file.fd.get(), one.message.first * kPageBytes, bytes);
  if (!stored)
    spdlog::error("file {}: what node {} wrote can't be stored, and is kept there: {}", id,
                  user->second.node, strerrordesc_np(stored.error().code));
  say(id, user->second.node,
      coherence::Done{.request = one.message.request,
                      .error = static_cast<std::uint16_t>(stored ? 0 : EAGAIN)});
}

// Space is reserved as for a local program; that may take long.
void Homes::act(InodeId id, File& file, const action::Apply& one) {
  static const Direct kNothing;
  const auto found = file.directs.find({one.node, one.request});
  const Direct& direct = found != file.directs.end() ? found->second : kNothing;
  ++(one.is_resize ? counts_.resizes : counts_.writes);
  const std::uint64_t old = file.home.state().bytes;
  const bool must_resize = one.is_resize || (one.bytes > old && direct.tail.empty());
  const auto finish = [this, id, node = one.node, request = one.request,
                       is_ended = is_ended_](const Status& done) {
    if (*is_ended) return;
    const auto at = open_.find(id);
    if (at == open_.end()) return;
    const FilePtr open_file = at->second;
    step(id, *open_file,
         event::Applied{.node = node,
                        .request = request,
                        .error = static_cast<std::uint16_t>(done ? 0 : done.error().code)});
    close_unused(id);
  };
  if (!must_resize) {
    const Status stored = write_at(file.fd.get(), direct.offset, direct.tail);
    engine_.at(engine_.now(), [finish, stored] { finish(stored); });
    return;
  }
  const FilePtr kept = open_.at(id);
  workers_.post_always([this, id, kept, finish, bytes = one.bytes] {
    const Status done = files_.resize(id, kept->fd.get(), bytes);
    post_([finish, done] { finish(done); });
  });
}

// As many as there are transactions at most.
void Homes::act(InodeId id, File&, const action::SetTimer& one) {
  engine_.at(one.at, [this, id, is_ended = is_ended_] {
    if (*is_ended) return;
    const auto found = open_.find(id);
    if (found == open_.end()) return;
    const FilePtr kept = found->second;
    step(id, *kept, event::Timer{});
  });
}

void Homes::act(InodeId id, File& file, const action::Report& one) {
  const auto user = file.users.find(one.node);
  const NodeId node = user == file.users.end() ? 0 : user->second.node;
  switch (one.what) {
    case action::Report::What::kPageLost:
      ++counts_.lost;
      spdlog::error("file {}: node {} is gone with what it stored last into page {}", id, node,
                    one.page);
      break;
    case action::Report::What::kForeignWriteBack:
      ++counts_.refused;
      spdlog::critical("file {}: node {} wrote page {} back without owning it", id, node, one.page);
      break;
    case action::Report::What::kUnexpectedAck:
    case action::Report::What::kNotAUser:
      spdlog::debug("file {}: an unexpected word of node {} about page {}", id, node, one.page);
      break;
  }
}

void Homes::sync(InodeId id, const FilePtr& file, NodeId node, const wire::Sync& words) {
  workers_.post_always([this, id, file, node, words, is_ended = is_ended_] {
    const Status synced = files_.sync(id, file->fd.get(), false);
    const int error = synced ? 0 : synced.error().code;
    post_([this, id, node, words, error, is_ended] {
      if (*is_ended) return;
      say(id, node,
          coherence::Done{.request = words.request, .error = static_cast<std::uint16_t>(error)});
    });
  });
}

Homes::Counters Homes::counters() const {
  Counters now = counts_;
  now.files = open_.size();
  std::unordered_set<NodeId> awaited;
  for (const auto& [id, file] : open_) {
    now.users += file->users.size();
    now.pages += file->home.state().pages.size();
    now.waiting += file->home.state().transactions.size();
    if (file->home.state().transactions.empty()) continue;
    const auto note = [&](NodeSlot slot) {
      if (const auto user = file->users.find(slot); user != file->users.end())
        awaited.insert(user->second.node);
    };
    for (const auto& [page, entry] : file->home.state().pages) entry.awaited.for_each(note);
    for (const auto& each : file->home.state().transactions) each.unsized.for_each(note);
  }
  now.waits_for.assign(awaited.begin(), awaited.end());
  std::sort(now.waits_for.begin(), now.waits_for.end());
  return now;
}

}  // namespace btd::coherent
