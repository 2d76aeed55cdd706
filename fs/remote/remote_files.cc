#include "fs/remote/remote_files.h"

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "fs/remote/remote_file.h"
#include "fs/remote/wire_time.h"

namespace btd::remote {

namespace {

constexpr net::Time kFirstPause = std::chrono::milliseconds(1);
constexpr net::Time kLastPause = std::chrono::milliseconds(100);
// With the attributes of files whose home has failed: longer than any home that is well takes.
constexpr net::Time kSuspectPatience = std::chrono::milliseconds(100);
// Who looks for the emptiest pool asks the others then.
constexpr net::Time kSpacePatience = std::chrono::seconds(1);
// A close has nobody who could do something about its failure.
constexpr net::Time kClosePatience = std::chrono::seconds(2);

struct stat stat_of(InodeId id, const wire::Attributes& attributes) {
  struct stat facts{};
  facts.st_ino = id;
  facts.st_mode = S_IFREG;
  facts.st_nlink = 1;
  facts.st_size = static_cast<off_t>(attributes.size);
  facts.st_blocks = static_cast<blkcnt_t>(attributes.blocks);
  facts.st_blksize = static_cast<blksize_t>(attributes.block_size);
  facts.st_atim = wire::timespec_of(attributes.atime_ns);
  facts.st_mtim = wire::timespec_of(attributes.mtime_ns);
  facts.st_ctim = wire::timespec_of(attributes.ctime_ns);
  return facts;
}

// Adds what is to be set of one time.
std::int64_t set_time(const timespec& time, std::uint32_t given, std::uint32_t now,
                      std::uint32_t& set) {
  if (time.tv_nsec == UTIME_OMIT) return 0;
  set |= time.tv_nsec == UTIME_NOW ? now : given;
  return time.tv_nsec == UTIME_NOW ? 0 : wire::nanoseconds_of(time);
}

}  // namespace

RemoteFiles::RemoteFiles(EngineFactory engines, Locate locate, net::Time deadline,
                         RemoteLimits limits, Homes homes)
    : deadline_(deadline),
      limits_(limits),
      homes_(std::move(homes)),
      client_(random_number()),
      callers_(engines, locate),
      keeper_(engines, locate, client_, *this) {}

RemoteFiles::~RemoteFiles() = default;

// --- Attempts ---

void RemoteFiles::note_answer(NodeId home, bool is_answer) {
  if (is_answer && !has_suspects_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(suspects_mutex_);
  if (is_answer) {
    suspects_.erase(home);
  } else {
    suspects_.insert(home);
  }
  has_suspects_.store(!suspects_.empty(), std::memory_order_relaxed);
}

bool RemoteFiles::is_suspect(NodeId home) const {
  if (!has_suspects_.load(std::memory_order_relaxed)) return false;
  const std::lock_guard lock(suspects_mutex_);
  return suspects_.contains(home);
}

Status RemoteFiles::persist(NodeId home, net::Time patience, const Attempt& attempt) {
  BTD_ASSIGN(Caller* const caller, callers_.mine());
  const Caller::Waiting waiting(*caller, home);
  const net::Time until = net::after(caller->now(), patience);
  net::Time pause{};
  for (;;) {
    const Status done = attempt(*caller, until);
    if (done) note_answer(home, true);
    if (done || !caller->is_alive()) return done;
    const Error& error = done.error();
    const bool is_passing_error = is_passing(error.code);
    if (!is_passing_error && error.code != ETIMEDOUT) return done;
    if (!is_passing_error || caller->now() + pause >= until) {
      note_answer(home, false);
      return std::unexpected(unreached(*caller, home, error));
    }
    counts_.retries.fetch_add(1, std::memory_order_relaxed);
    // A region that went is asked for anew at once, the first time.
    if (pause > net::Time{} || error.code != kRegionGone)
      caller->pause(std::max(pause, kFirstPause));
    pause = std::clamp(2 * pause, kFirstPause, kLastPause);
    if (!caller->is_alive()) return fail(EIO, "This node's engine broke.");
  }
}

Status RemoteFiles::persist(File& file, const Attempt& attempt) {
  Status done = persist(file.home(), deadline_, attempt);
  if (!done && done.error().code == wire::kNotHome) done.error().code = ESTALE;
  return done;
}

Status RemoteFiles::follow(InodeId id, net::Time patience,
                           const std::function<Status(NodeId)>& ask) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + patience;
  for (net::Time pause = kFirstPause;; pause = std::min(2 * pause, kLastPause)) {
    const NodeId home = homes_.home_of(id);
    if (home == homes_.own) return fail(ESTALE, "The file was moved to this node.");
    Status done = ask(home);
    if (done || done.error().code != wire::kNotHome) return done;
    if (Clock::now() + pause >= until) {
      done.error().code = ETIMEDOUT;
      return done;
    }
    counts_.retries.fetch_add(1, std::memory_order_relaxed);
    std::this_thread::sleep_for(pause);  // until this node hears of the move too
  }
}

Error RemoteFiles::unreached(const Caller& caller, NodeId home, const Error& last) const {
  const std::string node = "Node " + std::to_string(home);
  if (const std::string why = caller.why_unreached(home); !why.empty())
    return {EHOSTUNREACH, node + ", the home of the file, can't be reached: " + why};
  return {ETIMEDOUT, node + ", the home of the file, did not answer in time: " + last.message};
}

template <class Request, class Response>
Result<Response> RemoteFiles::ask_once(Caller& caller, NodeId home, Caller::Lane lane,
                                       net::Time deadline,
                                       const net::Method<Request, Response>& method,
                                       const Request& request) {
  Response got;
  counts_.calls.fetch_add(1, std::memory_order_relaxed);
  BTD_TRY(caller.call(home, lane, deadline, [&](Caller::Calls& calls) {
    return calls.ask<Request, Response>(
        method, request, {}, [&got](const Response& response, net::Rpc::Bytes) { got = response; });
  }));
  return got;
}

template <class Request, class Response>
Result<Response> RemoteFiles::ask(const net::Method<Request, Response>& method,
                                  const Request& request, net::Time patience) {
  Response got;
  BTD_TRY(follow(request.id, patience, [&](NodeId home) {
    return persist(home, patience, [&](Caller& caller, net::Time deadline) -> Status {
      BTD_ASSIGN(got, ask_once(caller, home, Caller::Lane::kFirst, deadline, method, request));
      return {};
    });
  }));
  return got;
}

// --- Open files ---

std::vector<wire::AttachRequest> RemoteFiles::open_files(NodeId home) {
  std::vector<wire::AttachRequest> open;
  const std::lock_guard lock(files_mutex_);
  for (const auto& [id, file] : files_) {
    if (file->home() != home) continue;
    const std::lock_guard file_lock(file->mutex);
    if (!file->is_attached) continue;  // whose open is under way, and may fail
    const std::uint32_t writable = file->is_writable ? wire::kAttachWritable : 0U;
    open.push_back({.id = id,
                    .client = client_,
                    .generation = file->generation,
                    .flags = writable | wire::kAttachHolding});
  }
  return open;
}

bool RemoteFiles::is_open(const wire::AttachRequest& said) {
  const FilePtr file = find(said.id);
  return file != nullptr && file->generation == said.generation;
}

RemoteFiles::FilePtr RemoteFiles::find(InodeId id) const {
  const std::lock_guard lock(files_mutex_);
  const auto found = files_.find(id);
  return found == files_.end() ? nullptr : found->second;
}

Result<RemoteFiles::FilePtr> RemoteFiles::find_open(InodeId id) const {
  if (FilePtr file = find(id)) return file;
  return fail(EBADF, "The file of another node is not open here.");
}

Status RemoteFiles::attach(File& file, Caller& caller, Caller::Lane lane, net::Time deadline,
                           bool is_opening) {
  wire::AttachRequest request{.id = file.id, .client = client_, .generation = file.generation};
  std::uint64_t order = 0;
  {
    const std::lock_guard lock(file.mutex);
    request.flags =
        (file.is_writable ? wire::kAttachWritable : 0U) | (is_opening ? wire::kAttachOpening : 0U);
    order = ++file.asked;
  }
  counts_.attaches.fetch_add(1, std::memory_order_relaxed);
  BTD_ASSIGN(const wire::AttachResponse got,
             ask_once(caller, file.home(), lane, deadline, wire::kAttach, request));
  const std::lock_guard lock(file.mutex);
  if (order < file.answered) return {};
  file.answered = order;
  file.attachment = std::make_shared<Attachment>(
      Attachment{.region = got.region,
                 .size = got.attributes.size,
                 .is_for_now = (got.flags & wire::kAttachedForNow) != 0});
  file.known_size = got.attributes.size;
  file.is_fresh = is_opening;
  file.is_attached = true;
  return {};
}

Status RemoteFiles::open(InodeId id, bool writable) {
  FilePtr file;
  bool is_new = false, must_attach = false;
  {
    const std::lock_guard lock(files_mutex_);
    FilePtr& place = files_[id];
    is_new = place == nullptr;
    if (is_new)
      place = std::make_shared<File>(id, next_generation_.fetch_add(1), homes_.home_of(id));
    file = place;
    const std::lock_guard file_lock(file->mutex);
    ++file->opens;
    // One that had holes may have none any more.
    const bool is_by_call = file->attachment != nullptr && file->attachment->region.key == 0;
    must_attach = !file->is_attached || is_by_call || (writable && !file->is_writable);
    file->is_writable = file->is_writable || writable;
    file->is_fresh = false;  // what an earlier open learned is not what this one must see
  }
  if (is_new) keeper_.opened(file->home());
  if (!must_attach) return {};
  const Status attached = follow(id, deadline_, [&](NodeId home) {
    go_to(*file, home);
    return persist(home, deadline_, [&](Caller& caller, net::Time deadline) {
      return attach(*file, caller, Caller::Lane::kFirst, deadline, true);
    });
  });
  if (!attached) static_cast<void>(end_open(file));
  return attached;
}

void RemoteFiles::go_to(File& file, NodeId home) {
  const NodeId before = file.set_home(home);
  if (before == home) return;
  keeper_.opened(home);
  keeper_.closed(before);
}

// True: it was the last one.
bool RemoteFiles::end_open(const FilePtr& file) {
  {
    const std::lock_guard lock(files_mutex_);
    const std::lock_guard file_lock(file->mutex);
    if (--file->opens > 0) return false;
    files_.erase(file->id);
  }
  keeper_.closed(file->home());
  return true;
}

void RemoteFiles::close(InodeId id) {
  const FilePtr file = find(id);
  if (!file || !end_open(file)) return;
  wire::DetachRequest request{.id = id, .client = client_, .generation = file->generation};
  {
    const std::lock_guard lock(file->mutex);
    request.flags = file->is_dirty ? wire::kDetachWrote : 0U;
  }
  static_cast<void>(persist(file->home(), std::min(deadline_, kClosePatience),
                            [&](Caller& caller, net::Time deadline) -> Status {
                              BTD_TRY(ask_once(caller, file->home(), Caller::Lane::kFirst, deadline,
                                               wire::kDetach, request));
                              return {};
                            }));
}

void RemoteFiles::locked(InodeId id) {
  if (const FilePtr file = find(id)) static_cast<void>(file->take_fresh());
}

// --- Attributes and space ---

Result<struct stat> RemoteFiles::attributes(InodeId id) {
  const net::Time patience =
      is_suspect(homes_.home_of(id)) ? std::min(deadline_, kSuspectPatience) : deadline_;
  BTD_ASSIGN(const wire::Attributes got,
             ask(wire::kAttributes, wire::FileRequest{.id = id}, patience));
  return stat_of(id, got);
}

Result<struct stat> RemoteFiles::change(InodeId id, const RemoteChange& change) {
  wire::ChangeRequest request{.id = id, .size = change.size.value_or(0)};
  if (change.size) request.set |= wire::kSetSize;
  request.atime_ns = set_time(change.atime, wire::kSetAtime, wire::kSetAtimeNow, request.set);
  request.mtime_ns = set_time(change.mtime, wire::kSetMtime, wire::kSetMtimeNow, request.set);
  auto got = ask(wire::kChange, request);
  // Also after an error: whether it was done is unknown.
  if (change.size)
    if (const FilePtr file = find(id)) file->drop_for(got ? got->size : *change.size);
  BTD_TRY(got);
  return stat_of(id, *got);
}

Status RemoteFiles::allocate(InodeId id, int mode, std::uint64_t offset, std::uint64_t length) {
  auto got = ask(
      wire::kAllocate,
      wire::AllocateRequest{
          .id = id, .offset = offset, .length = length, .mode = static_cast<std::uint32_t>(mode)});
  if (got)
    if (const FilePtr file = find(id)) file->drop_for(got->size);
  BTD_TRY(got);
  return {};
}

Status RemoteFiles::flush(InodeId id) {
  BTD_ASSIGN(const FilePtr file, find_open(id));
  {
    const std::lock_guard lock(file->mutex);
    if (!std::exchange(file->is_dirty, false)) return {};
  }
  const auto got = ask(wire::kFlush, wire::ChangeRequest{.id = id, .set = wire::kSetMtimeNow});
  if (got) return {};
  const std::lock_guard lock(file->mutex);
  file->is_dirty = true;
  return std::unexpected(got.error());
}

Result<std::uint64_t> RemoteFiles::seek(InodeId id, std::uint64_t offset, int whence) {
  BTD_ASSIGN(const wire::SeekResponse got,
             ask(wire::kSeek,
                 wire::SeekRequest{
                     .id = id, .offset = offset, .whence = static_cast<std::uint32_t>(whence)}));
  return got.offset;
}

Status RemoteFiles::reserve(InodeId id, std::uint64_t number) {
  BTD_TRY(ask(wire::kReserve, wire::MoveRequest{.id = id, .client = client_, .number = number}));
  return {};
}

Status RemoteFiles::yield(InodeId id, std::uint64_t number, NodeId to) {
  BTD_TRY(ask(wire::kYield,
              wire::MoveRequest{.id = id, .client = client_, .number = number, .to = to}));
  return {};
}

Result<std::uint64_t> RemoteFiles::room_at(NodeId node) {
  wire::SpaceResponse got;
  BTD_TRY(persist(node, std::min(deadline_, kSpacePatience),
                  [&](Caller& caller, net::Time deadline) -> Status {
                    BTD_ASSIGN(got, ask_once(caller, node, Caller::Lane::kFirst, deadline,
                                             wire::kSpace, wire::SpaceRequest{}));
                    return {};
                  }));
  return got.available;
}

RemoteFiles::Counters RemoteFiles::counters() const {
  const auto of = [](const std::atomic<std::uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  const std::lock_guard lock(files_mutex_);
  return {.calls = of(counts_.calls),
          .reads = of(counts_.reads),
          .writes = of(counts_.writes),
          .attaches = of(counts_.attaches),
          .retries = of(counts_.retries),
          .open = files_.size()};
}

}  // namespace btd::remote
