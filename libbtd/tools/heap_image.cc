#include "libbtd/tools/heap_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "alloc/crc.h"
#include "alloc/segment_table.h"
#include "libbtd/heap_files.h"

namespace btd {
namespace {

// The arenas there are, and what they take on the file system.
std::uint32_t count_arenas(int dirfd, std::uint64_t& disk_bytes) {
  std::uint32_t count = 0;
  struct stat info{};
  while (count < SegmentTable::kMaxArenas &&
         fstatat(dirfd, arena_name(count).c_str(), &info, 0) == 0) {
    disk_bytes += static_cast<std::uint64_t>(info.st_blocks) * 512;
    ++count;
  }
  return count;
}

}  // namespace

Settings place_of(const std::string& path) {
  std::filesystem::path own(path);
  if (!own.has_filename()) own = own.parent_path();  // it ended in slashes
  Settings settings;
  settings.heap = own.filename();
  settings.directory = own.has_parent_path() ? own.parent_path().string() : ".";
  return settings;
}

Result<std::unique_ptr<HeapImage>> HeapImage::open(const std::string& path) {
  std::unique_ptr<HeapImage> image(new HeapImage);
  image->path_ = path;
  image->name_ = place_of(path).heap;
  image->dir_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!image->dir_) {
    const int code = errno;
    return fail(code, "The heap " + path + " cannot be opened (" + strerrordesc_np(code) +
                          "); `btd heap ls` lists those there are.");
  }
  BTD_ASSIGN(const HeapFiles::Identity identity,
             HeapFiles::identify(image->dir_.get(), image->name_));
  image->look_at_lock();
  const std::uint32_t files = count_arenas(image->dir_.get(), image->disk_bytes_);
  BTD_ASSIGN(image->source_, FileArenas::open(image->dir_.get(), std::max(files, 1U),
                                              FileArenas::Mode::kPrivate, identity.arena_bytes));
  const ArenaHeader& first = image->header();
  if (const auto state = checked_value(first.state)) image->state_ = HeapState::unpack(*state);
  const std::uint64_t arenas = checked_value(first.arena_count).value_or(0);
  image->arenas_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(arenas, image->files()));
  return image;
}

const ArenaHeader& HeapImage::header(std::uint32_t arena) const {
  return *reinterpret_cast<const ArenaHeader*>(base() + arena * arena_bytes());
}

std::uint32_t HeapImage::grown(std::uint32_t arena, const SegmentTable::Geometry& plan) const {
  const std::uint64_t bytes = source_->used_bytes(arena);
  if (bytes < sizeof(ArenaHeader)) return 0;
  const std::uint64_t there = bytes - std::min(bytes, plan.segments_offset);
  const std::uint64_t said = checked_value(header(arena).grown).value_or(0);
  return static_cast<std::uint32_t>(
      std::min({said, there / kSegmentBytes, std::uint64_t{plan.segment_count}}));
}

bool HeapImage::bits_hold() const {
  return state_ && (state_->clean || state_->boot == Heap::this_boot());
}

// A heap that was copied without its lock, or that we may not read, has no user we could know of.
void HeapImage::look_at_lock() {
  lock_ = UniqueFd(openat(dir_.get(), "lock", O_RDONLY | O_CLOEXEC));
  if (!lock_) return;
  struct flock whole{};
  whole.l_type = F_RDLCK;
  whole.l_whence = SEEK_SET;
  if (fcntl(lock_.get(), F_OFD_SETLK, &whole) == 0) return;
  in_use_ = errno == EAGAIN || errno == EACCES;
  user_ = std::max(HeapUsers::somebody(lock_.get()), 0);
  lock_.reset();
}

Status HeapImage::idle() const {
  if (!in_use_) return {};
  const std::string who =
      user_ > 0 ? "process " + std::to_string(user_) : std::string("another process");
  return fail(EBUSY, "Heap " + name_ + " is open in " + who +
                         "; end that, or copy the directory and look at the copy.");
}

Status HeapImage::replay() {
  BTD_TRY(idle());
  BTD_ASSIGN(heap_, Heap::open(*source_));
  heap_->set_pointer_bias(address());
  BTD_ASSIGN(names_, Names::open(*heap_));
  return {};
}

}  // namespace btd
