#include "fs/daemon/mover.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "fs/cluster/move.h"

namespace btd {

namespace {

constexpr std::size_t kPart = 1 << 20;  // read at once

// After these it may be unknown whether a copy is the file.
bool is_of_store(int code) {
  return code == EIO || code == EHOSTUNREACH || code == ETIMEDOUT || code == EBUSY;
}

Status write_all(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(n < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::size_t>(n);
  }
  return {};
}

}  // namespace

class Mover::Actions final : public cluster::MoveActions {
 public:
  Actions(Mover& mover, const cluster::Attempt& attempt, std::uint32_t flags)
      : mover_(mover), parts_(mover.parts_), attempt_(attempt), flags_(flags) {}
  ~Actions() override {
    if (is_open_) mover_.remote().close(attempt_.id);
  }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;

  [[nodiscard]] std::uint64_t bytes() const { return static_cast<std::uint64_t>(facts_.st_size); }

  Status reserve() override {
    remote::RemoteFiles& remote = mover_.remote();
    BTD_TRY(remote.open(attempt_.id, false));
    is_open_ = true;
    BTD_TRY(reserve_patiently(remote));
    BTD_ASSIGN(facts_, remote.attributes(attempt_.id));
    BTD_ASSIGN(const std::uint64_t room, parts_.backing.room());
    const std::uint64_t needed =
        is_sparse() ? static_cast<std::uint64_t>(facts_.st_blocks) * 512U : bytes();
    if (needed <= room) return {};
    return fail(ENOSPC,
                fmt::format("the file has {} bytes, and there is room for {}", needed, room));
  }

  Status note() override { return cluster::note_copy(parts_.store, attempt_); }

  Status copy() override {
    // The note was a commit: what was changed before it is reserved is here by now.
    BTD_ASSIGN(const Inode inode, parts_.names.get(attempt_.id));
    flags_ = inode.flags;
    BTD_ASSIGN(const UniqueFd fd, parts_.backing.create(attempt_.id));
    if (::ftruncate(fd.get(), facts_.st_size) != 0) return fail(errno);
    if (!is_sparse() && facts_.st_size > 0 && ::fallocate(fd.get(), 0, 0, facts_.st_size) != 0)
      return fail(errno);
    BTD_TRY(copy_data(fd.get()));
    const timespec times[2] = {facts_.st_atim, facts_.st_mtim};
    if (::futimens(fd.get(), times) != 0) return fail(errno);
    return parts_.backing.sync(attempt_.id, false);
  }

  Status yield() override {
    return mover_.remote().yield(attempt_.id, attempt_.number, parts_.own);
  }
  Result<bool> settle() override {
    return cluster::settle_copy(parts_.store, attempt_.id, parts_.own);
  }
  Status drop() override { return parts_.files.remove_copy(attempt_.id); }
  Status forget() override { return cluster::forget_copy(parts_.store, attempt_.id, parts_.own); }

 private:
  // A home that has just started learns first who has it open.
  Status reserve_patiently(remote::RemoteFiles& remote) {
    constexpr int kAttempts = 3;
    Status done;
    // Only where home took this node for dead does it not know that.
    if (parts_.files.is_open(attempt_.id)) return fail(ETXTBSY, "it is open at its new home");
    for (int i = 0; i < kAttempts && !mover_.stopping_.load(); ++i) {
      done = remote.reserve(attempt_.id, attempt_.number);
      if (done || done.error().code != ETIMEDOUT) break;
    }
    return done;
  }

  // Its holes are meant, else it has its space.
  [[nodiscard]] bool is_sparse() const { return (flags_ & (kInodeSparse | kInodePunched)) != 0; }

  Status copy_data(int fd) {
    remote::RemoteFiles& remote = mover_.remote();
    for (std::uint64_t at = 0; at < bytes();) {
      const auto data = remote.seek(attempt_.id, at, SEEK_DATA);
      if (!data && data.error().code == ENXIO) return {};
      BTD_TRY(data);
      BTD_ASSIGN(const std::uint64_t hole, remote.seek(attempt_.id, *data, SEEK_HOLE));
      BTD_TRY(copy_range(fd, *data, std::min(hole, bytes())));
      at = hole;
    }
    return {};
  }

  Status copy_range(int fd, std::uint64_t from, std::uint64_t to) {
    std::vector<std::byte> buffer(std::min<std::uint64_t>(kPart, to - from));
    while (from < to) {
      if (mover_.stopping_.load()) return fail(ECONNABORTED, "the node it was moved to stops");
      const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), to - from));
      BTD_ASSIGN(const std::size_t n, mover_.remote().read(attempt_.id, from, part));
      if (n == 0) return fail(ECONNABORTED, "somebody made it shorter while it was moved");
      BTD_TRY(write_all(fd, part.first(n), from));
      from += n;
    }
    return {};
  }

  Mover& mover_;
  const Parts& parts_;
  const cluster::Attempt attempt_;
  std::uint32_t flags_;
  struct stat facts_{};
  bool is_open_ = false;
};

Mover::Mover(Parts parts) : parts_(std::move(parts)), thread_([this] { run(); }) {}

void Mover::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool Mover::bring(InodeId id, Told told) {
  return run_later([this, id, told = std::move(told)] {
    const auto brought = bring_now(id);
    told(brought);
    if (!brought && is_of_store(brought.error().code)) clean_later(id);
  });
}

bool Mover::run_later(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (asked_ >= kMost) return false;
  ++asked_;
  tasks_.push_back({std::move(task), true});
  changed_.notify_one();
  return true;
}

void Mover::clean(InodeId id) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back({[this, id] { clean_now(id); }});
  changed_.notify_one();
}

void Mover::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (asked_ == 0) remote_.reset();
    const auto has_task = [this] { return stopping_.load() || !tasks_.empty(); };
    if (to_clean_.empty()) {
      changed_.wait(lock, has_task);
    } else if (!changed_.wait_until(lock, to_clean_.front().when, has_task)) {
      tasks_.push_back({[this, id = to_clean_.front().id] { clean_now(id); }});
      to_clean_.pop_front();
    }
    if (stopping_.load()) break;
    const Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task.run();
    lock.lock();
    if (task.is_asked) --asked_;
  }
  remote_.reset();
}

remote::RemoteFiles& Mover::remote() {
  if (!remote_) remote_ = parts_.connect();
  remote_->set_epoch(parts_.epoch());
  return *remote_;
}

Result<cluster::BringResponse> Mover::bring_now(InodeId id) {
  BTD_TRY(cluster::catch_up(parts_.store, id));
  const auto inode = parts_.names.get(id);
  if (!inode) return fail(inode.error().code, "the file is gone");
  if (!inode->is_file()) return fail(EINVAL, "only regular files have a home");
  BTD_ASSIGN(const NodeId from, parts_.names.home(id));
  std::uint64_t bytes = 0;
  if (from != parts_.own) {
    const cluster::Attempt attempt{
        .id = id, .from = from, .to = parts_.own, .number = remote::random_number()};
    Actions actions(*this, attempt, inode->flags);
    BTD_TRY(cluster::run_move(cluster::Move::begin(), actions));
    bytes = actions.bytes();
  }
  BTD_ASSIGN(const std::uint64_t room, parts_.backing.room());
  return cluster::BringResponse{.bytes = bytes, .available = room};
}

void Mover::clean_later(InodeId id) { to_clean_.push_back({Clock::now() + kPause, id}); }

void Mover::clean_now(InodeId id) {
  Actions actions(*this, {.id = id, .to = parts_.own}, 0);
  const Status done = cluster::run_move(cluster::Move::after_crash(), actions);
  if (done) return;
  spdlog::warn("what a move left of file {} stays for now: {}", id, done.error().message);
  clean_later(id);
}

}  // namespace btd
