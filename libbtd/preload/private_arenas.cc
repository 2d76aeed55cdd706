#include "libbtd/preload/private_arenas.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "alloc/layout.h"
#include "alloc/nvram.h"
#include "alloc/segment_table.h"
#include "libbtd/windows.h"

namespace btd::preload {
namespace {

constexpr std::uint64_t kSteps = kWindowBytes / PrivateArenas::kStepBytes;
// Out of the way of programs that expect the lowest numbers, or close them in a loop.
constexpr rlim_t kHighFd = 512;

UniqueFd moved_up(UniqueFd fd) {
  struct rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return fd;
  const int high = static_cast<int>(std::min(kHighFd, limit.rlim_cur / 2));
  const int up = fcntl(fd.get(), F_DUPFD_CLOEXEC, high);
  return up >= 0 ? UniqueFd(up) : std::move(fd);
}

// A file that is gone when nobody has it: no crash can leave one.
Result<UniqueFd> unnamed_file(int dirfd, const std::string& directory) {
  UniqueFd file(openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    static std::atomic<unsigned> made{0};
    const std::string name =
        ".malloc." + std::to_string(getpid()) + "." + std::to_string(made.fetch_add(1));
    file = UniqueFd(openat(dirfd, name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
    if (file) unlinkat(dirfd, name.c_str(), 0);
  }
  if (file) return moved_up(std::move(file));
  const int code = errno == ENOSPC ? EDQUOT : errno;  // no inode is another thing than no memory
  return fail(code, "No file can be made in " + directory + " (" + strerrordesc_np(code) +
                        "); check its permissions and the limits on files.");
}

}  // namespace

PrivateArenas::PrivateArenas(Settings place, std::uint64_t journal_bytes, std::byte* base)
    : place_(std::move(place)), journal_bytes_(journal_bytes), base_(base), reserved_(kSteps) {}

PrivateArenas::~PrivateArenas() { release_window(kPrivateWindow); }

Result<std::unique_ptr<PrivateArenas>> PrivateArenas::create(Settings place,
                                                             std::uint64_t journal_bytes) {
  BTD_TRY(reserve_window(kPrivateWindow));
  std::byte* const base = window_base(kPrivateWindow);
  madvise(base, kWindowBytes, MADV_DOFORK);
  return std::unique_ptr<PrivateArenas>(new PrivateArenas(std::move(place), journal_bytes, base));
}

Status PrivateArenas::extend() {
  const std::uint32_t index = count_;
  if (index >= SegmentTable::kMaxArenas || (index + std::uint64_t{1}) * kArenaBytes > kWindowBytes)
    return fail(ENOSPC, "The heap is as large as its address window.");
  const SegmentTable::Geometry parts =
      SegmentTable::plan(kArenaBytes, sizeof(ArenaHeader) + (index == 0 ? journal_bytes_ : 0));
  BTD_TRY(reserve_space(index * kArenaBytes, parts.segments_offset));
  // All of it is read at once; so a few hundred page faults become a call.
  madvise(base_ + index * kArenaBytes, parts.segments_offset, MADV_POPULATE_WRITE);
  ++count_;
  return {};
}

// How many steps from `step` on are not reserved, up to `most` and the window's end.
std::uint64_t PrivateArenas::unreserved_from(std::uint64_t step, std::uint64_t most) const {
  std::uint64_t n = 0;
  while (n < most && step + n < kSteps && !reserved_.has(step + n)) ++n;
  return n;
}

Status PrivateArenas::reserve_space(std::uint64_t off, std::uint64_t len) {
  if (len == 0) return {};
  const std::uint64_t end = (off + len - 1) / kStepBytes + 1;
  std::uint64_t step = off / kStepBytes;
  while (step < end && reserved_.has(step)) ++step;
  if (step == end) return {};
  const std::lock_guard lock(mutex_);
  while (step < end) {
    const std::uint64_t needed = unreserved_from(step, end - step);
    if (needed == 0) {
      ++step;
      continue;
    }
    const std::uint64_t ahead = std::min(reserved_bytes_ / 8, kMaxAheadBytes) / kStepBytes;
    const std::uint64_t steps = unreserved_from(step, std::max(needed, ahead));
    Status done = add(step, steps);
    if (!done && done.error().code == ENOSPC && steps > needed) done = add(step, needed);
    BTD_TRY(std::move(done));
    step += needed;
  }
  return {};
}

Status PrivateArenas::add(std::uint64_t step, std::uint64_t steps) {
  if (!file_is_ours()) BTD_TRY(make_file());
  const Run run{
      .off = step * kStepBytes, .len = steps * kStepBytes, .at = file_.end, .lost = false};
  BTD_TRY(grow_file(run.len));
  if (mmap(base_ + run.off, run.len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_.fd.get(),
           static_cast<off_t>(run.at)) == MAP_FAILED) {
    const int code = errno;
    if (ftruncate(file_.fd.get(), static_cast<off_t>(run.at)) == 0) file_.end = run.at;
    return fail(code == ENOMEM ? ENOSPC : code, "Memory cannot be mapped.");
  }
  note(run);
  return {};
}

void PrivateArenas::note(const Run& run) {
  Run* const last = runs_.empty() ? nullptr : &runs_.back();
  if (last != nullptr && !last->lost && last->off + last->len == run.off &&
      last->at + last->len == run.at) {
    last->len += run.len;
  } else {
    runs_.push_back(run);
  }
  reserved_bytes_ += run.len;
  reserved_.add(run.off / kStepBytes, run.len / kStepBytes);
}

bool PrivateArenas::file_is_ours() const {
  struct stat status{};
  return file_.fd && fstat(file_.fd.get(), &status) == 0 && status.st_dev == file_.device &&
         status.st_ino == file_.inode;
}

// Its number may be another file's by now. Mapped memory of it stays, but freeze() must copy it.
void PrivateArenas::forget_file() {
  for (Run& run : runs_) run.lost = true;
  static_cast<void>(file_.fd.release());
  file_ = {};
}

Status PrivateArenas::make_file() {
  forget_file();
  BTD_ASSIGN(const UniqueFd dir, open_directory(place_));
  BTD_ASSIGN(UniqueFd fd, unnamed_file(dir.get(), place_.directory));
  struct stat status{};
  if (fstat(fd.get(), &status) != 0) return fail(errno, "fstat failed.");
  file_ = {.fd = std::move(fd), .device = status.st_dev, .inode = status.st_ino};
  return {};
}

Status PrivateArenas::grow_file(std::uint64_t len) {
  const std::uint64_t end = file_.end + len;
  struct rlimit limit{};
  // Beyond it a signal would end the program.
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < end) {
    return fail(EFBIG, "A file of " + std::to_string(end) +
                           " bytes is larger than this process may have; raise ulimit -f.");
  }
  const int error = reserve_in_file(file_.fd.get(), file_.end, len);
  if (error == ENOSPC || error == EDQUOT) {
    return fail(ENOSPC, "The file system of " + place_.directory + " is full; free space there.");
  }
  if (error != 0) {
    return fail(error, "Space cannot be reserved in " + place_.directory + " (" +
                           strerrordesc_np(error) + "); use tmpfs, ext4, xfs or a mount of ours.");
  }
  file_.end = end;
  return {};
}

Status PrivateArenas::freeze() {
  if (!file_is_ours()) forget_file();
  Status done;
  for (const Run& run : runs_) {
    std::byte* const at = base_ + run.off;
    const int flags = MAP_PRIVATE | MAP_NORESERVE;
    const int protection = PROT_READ | PROT_WRITE;
    if (!run.lost && mmap(at, run.len, protection, flags | MAP_FIXED, file_.fd.get(),
                          static_cast<off_t>(run.at)) != MAP_FAILED)
      continue;
    // Without the file only a copy is left; it is exact where no other thread runs.
    void* const copy = mmap(nullptr, run.len, protection, flags | MAP_ANONYMOUS, -1, 0);
    if (copy != MAP_FAILED) {
      std::memcpy(copy, at, run.len);
      if (mremap(copy, run.len, run.len, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED) continue;
      munmap(copy, run.len);
    }
    done = fail(ENOMEM, "There is no memory for a private view of the heap.");
  }
  runs_.clear();
  file_ = {};
  return done;
}

}  // namespace btd::preload
