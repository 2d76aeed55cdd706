#include "fs/remote/file_calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <optional>
#include <string>

#include "fs/remote/wire_time.h"

namespace btd::remote {

namespace {

constexpr std::uint64_t kMostOffset = std::numeric_limits<off_t>::max();

timespec chosen(std::uint32_t set, std::uint32_t given, std::uint32_t now, std::int64_t ns) {
  if ((set & now) != 0) return {0, UTIME_NOW};
  if ((set & given) != 0) return wire::timespec_of(ns);
  return {0, UTIME_OMIT};
}

wire::Attributes attributes_of(const struct stat& facts) {
  return {.size = static_cast<std::uint64_t>(facts.st_size),
          .blocks = static_cast<std::uint64_t>(facts.st_blocks),
          .atime_ns = wire::nanoseconds_of(facts.st_atim),
          .mtime_ns = wire::nanoseconds_of(facts.st_mtim),
          .ctime_ns = wire::nanoseconds_of(facts.st_ctim),
          .block_size = static_cast<std::uint32_t>(facts.st_blksize)};
}

Result<struct stat> facts_of(int fd) {
  struct stat facts{};
  if (::fstat(fd, &facts) != 0) return fail(errno);
  return facts;
}

Result<wire::Attributes> attributes_of(int fd) {
  BTD_ASSIGN(const struct stat facts, facts_of(fd));
  return attributes_of(facts);
}

Status judge_range(std::uint64_t offset, std::uint64_t length) {
  if (offset <= kMostOffset && length <= kMostOffset - offset) return {};
  return fail(EINVAL, "The offset and length of a peer's call are beyond what a file can have.");
}

Status set_times(int fd, const wire::ChangeRequest& request) {
  const timespec times[2] = {
      chosen(request.set, wire::kSetAtime, wire::kSetAtimeNow, request.atime_ns),
      chosen(request.set, wire::kSetMtime, wire::kSetMtimeNow, request.mtime_ns)};
  if (times[0].tv_nsec == UTIME_OMIT && times[1].tv_nsec == UTIME_OMIT) return {};
  if (::futimens(fd, times) == 0) return {};
  return fail(errno);
}

}  // namespace

Status FileCalls::judge(InodeId id) const {
  const NodeId home = home_of_(id);
  if (home == own_ && id < kFirstVirtualId) return {};
  return fail(wire::kNotHome, "File " + std::to_string(id) + " is not of this node (" +
                                  std::to_string(own_) + "); ask its home, node " +
                                  std::to_string(home) + ".");
}

Result<wire::AttachResponse> FileCalls::attach(InodeId id, bool must_prepare) {
  BTD_ASSIGN(const UniqueFd fd, files_.open(id));
  if (must_prepare) BTD_TRY(files_.prepare(id, fd.get()));
  auto attached = regions_.attach(id, fd.get());
  if (!attached && attached.error().code == ETIMEDOUT)
    return fail(EBUSY, std::move(attached).error().message);  // the peer may ask again
  BTD_TRY(attached);
  return wire::AttachResponse{.region = attached->region,
                              .attributes = attributes_of(attached->facts),
                              .flags = attached->is_for_now ? wire::kAttachedForNow : 0U};
}

Result<wire::Attributes> FileCalls::attributes(InodeId id) {
  BTD_ASSIGN(const UniqueFd fd, files_.open(id));
  return attributes_of(fd.get());
}

// What lies behind the new end must not be reached any more, or touching it would be a fault. Also
// where the size seems to grow: somebody else may make the file longer just now.
Result<wire::Attributes> FileCalls::change(const wire::ChangeRequest& request) {
  const bool is_resized = (request.set & wire::kSetSize) != 0;
  if (is_resized && request.size > kMostOffset) return fail(EFBIG, "No file can be so large.");
  BTD_ASSIGN(const UniqueFd fd, files_.open(request.id));
  if (is_resized) {
    BTD_ASSIGN(const RegionCache::Unmapped unmapped, regions_.unmap(request.id));
    BTD_TRY(files_.resize(request.id, fd.get(), request.size));
    files_.changed(request.id);
    BTD_TRY(files_.wrote(request.id));
  }
  BTD_TRY(set_times(fd.get(), request));
  files_.changed(request.id);
  return attributes_of(fd.get());
}

Result<wire::Attributes> FileCalls::flush(const wire::ChangeRequest& request) {
  BTD_ASSIGN(const UniqueFd fd, files_.open(request.id));
  BTD_TRY(files_.wrote(request.id));
  BTD_TRY(set_times(fd.get(), request));
  files_.changed(request.id);
  BTD_TRY(files_.sync(request.id, fd.get(), false));
  return attributes_of(fd.get());
}

Result<wire::Attributes> FileCalls::allocate(const wire::AllocateRequest& request) {
  BTD_TRY(judge_range(request.offset, request.length));
  if (request.length == 0 || request.mode > std::numeric_limits<int>::max())
    return fail(EINVAL, "Space is allocated in a mode that exists, and for at least one byte.");
  BTD_ASSIGN(const UniqueFd fd, files_.open(request.id));
  // A file with holes has no region: a store to one might find no room.
  std::optional<RegionCache::Unmapped> unmapped;
  if ((request.mode & ~static_cast<std::uint32_t>(FALLOC_FL_KEEP_SIZE)) != 0) {
    BTD_ASSIGN(auto held, regions_.unmap(request.id));
    unmapped.emplace(std::move(held));
  }
  BTD_TRY(files_.allocate(request.id, fd.get(), static_cast<int>(request.mode), request.offset,
                          request.length));
  files_.changed(request.id);
  BTD_TRY(files_.wrote(request.id));
  BTD_TRY(files_.sync(request.id, fd.get(), false));
  return attributes_of(fd.get());
}

Result<wire::WriteResponse> FileCalls::write(const wire::WriteRequest& request,
                                             std::span<const std::byte> bytes) {
  BTD_TRY(judge_range(request.offset, bytes.size()));
  BTD_ASSIGN(const UniqueFd fd, files_.open(request.id));
  std::size_t done = 0;
  int error = 0;
  while (done < bytes.size() && error == 0) {
    const ssize_t n = ::pwrite(fd.get(), bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(request.offset + done));
    if (n > 0) {
      done += static_cast<std::size_t>(n);
    } else if (n == 0 || errno != EINTR) {
      error = n < 0 ? errno : EIO;
    }
  }
  if (done != 0) {
    files_.changed(request.id);
    BTD_TRY(files_.wrote(request.id));
  }
  if (error != 0) return fail(error);
  if ((request.flags & wire::kWriteDurable) != 0) BTD_TRY(files_.sync(request.id, fd.get(), true));
  BTD_ASSIGN(const struct stat facts, facts_of(fd.get()));
  return wire::WriteResponse{.size = static_cast<std::uint64_t>(facts.st_size)};
}

namespace {

// Where there is no room for all, nothing is left of it.
Status append_all(int fd, std::span<const std::byte> bytes) {
  const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  ssize_t n = 0;
  do {
    n = ::pwritev2(fd, &part, 1, -1, RWF_APPEND);
  } while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(bytes.size())) return {};
  if (n < 0) return fail(errno);
  const off_t end = ::lseek(fd, 0, SEEK_CUR);
  struct stat facts{};
  if (::fstat(fd, &facts) == 0 && facts.st_size == end) static_cast<void>(::ftruncate(fd, end - n));
  return fail(ENOSPC);
}

}  // namespace

Result<wire::WriteResponse> FileCalls::append(NodeId peer, const wire::AppendRequest& request,
                                              std::span<const std::byte> bytes) {
  if (bytes.empty()) return fail(EINVAL, "An append has at least one byte.");
  BTD_ASSIGN(const UniqueFd fd, files_.open(request.id));
  BTD_ASSIGN(const bool is_ours, appends_.begin(peer, request));
  if (is_ours) {
    const Status done = append_all(fd.get(), bytes);
    appends_.end(peer, request, done.has_value());
    BTD_TRY(done);
    files_.changed(request.id);
    BTD_TRY(files_.wrote(request.id));
  }
  if ((request.flags & wire::kAppendDurable) != 0) BTD_TRY(files_.sync(request.id, fd.get(), true));
  BTD_ASSIGN(const struct stat facts, facts_of(fd.get()));
  return wire::WriteResponse{.size = static_cast<std::uint64_t>(facts.st_size)};
}

Result<wire::ReadResponse> FileCalls::read(const wire::ReadRequest& request,
                                           std::vector<std::byte>& into) {
  BTD_TRY(judge_range(request.offset, request.length));
  BTD_ASSIGN(const UniqueFd fd, files_.open(request.id));
  into.resize(std::min<std::size_t>(request.length, wire::kMostCallBytes));
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t n = ::pread(fd.get(), into.data() + done, into.size() - done,
                              static_cast<off_t>(request.offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(errno);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  into.resize(done);
  BTD_ASSIGN(const struct stat facts, facts_of(fd.get()));
  return wire::ReadResponse{.size = static_cast<std::uint64_t>(facts.st_size)};
}

Result<wire::SeekResponse> FileCalls::seek(const wire::SeekRequest& request) {
  if (request.whence != SEEK_DATA && request.whence != SEEK_HOLE)
    return fail(EINVAL, "A home looks for data and for holes only.");
  if (request.offset > kMostOffset) return fail(ENXIO);
  BTD_ASSIGN(const UniqueFd fd, files_.open(request.id));
  const off_t found =
      ::lseek(fd.get(), static_cast<off_t>(request.offset), static_cast<int>(request.whence));
  if (found < 0) return fail(errno);
  return wire::SeekResponse{.offset = static_cast<std::uint64_t>(found)};
}

Status FileCalls::reserve(const wire::MoveRequest& request) {
  BTD_ASSIGN(const RegionCache::Unmapped unmapped, regions_.unmap(request.id));
  BTD_TRY(files_.reserve(request.id, request.number));
  const std::scoped_lock lock(reserved_mutex_);
  if (reserved_.size() >= kMostReserved) reserved_.clear();  // those are moved anew
  reserved_[request.id] = regions_.broken();
  return {};
}

Status FileCalls::yield(const wire::MoveRequest& request) {
  if (request.to > std::numeric_limits<NodeId>::max() || request.to == own_)
    return fail(EINVAL, "A file is moved to another node.");
  BTD_ASSIGN(const RegionCache::Unmapped unmapped, regions_.unmap(request.id));
  {
    const std::scoped_lock lock(reserved_mutex_);
    const auto reserved = reserved_.find(request.id);
    if (reserved == reserved_.end() || reserved->second != regions_.broken())
      return fail(ECONNABORTED, "Bytes of a file could not be read at its home meanwhile.");
  }
  return files_.yield(request.id, request.number, static_cast<NodeId>(request.to));
}

Result<wire::SpaceResponse> FileCalls::space() {
  BTD_ASSIGN(const std::uint64_t room, files_.room());
  return wire::SpaceResponse{.available = room};
}

void FileCalls::ended(InodeId id, bool has_written) {
  if (has_written) {
    static_cast<void>(files_.wrote(id));
    if (auto fd = files_.open(id)) {
      const timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
      static_cast<void>(::futimens(fd->get(), times));
    }
    files_.changed(id);
  }
  files_.unhold(id);
}

}  // namespace btd::remote
